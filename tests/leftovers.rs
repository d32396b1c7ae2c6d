//! What the agent leaves behind: found across setsid and double fork, ended by TERM, grace, KILL, or left.

use serde_json::Value;

use crate::harness::{Cmd, End, Fifo, Proc, Row, World, eventually, on_path, possible, state};
use crate::standins::{Busy, bookend, json, recover};

/// An agent that lets a daemon go and waits for a word before it ends with `code`.
struct Leaver<'w> {
    world: &'w World,
    out: Fifo,
    go: Fifo,
    script: String,
}

impl<'w> Leaver<'w> {
    /// `daemon` is a command line in which `OUT` is the pipe that it says `stay PID` on.
    fn new(world: &'w World, daemon: &str, code: i32) -> Leaver<'w> {
        let n = if world.ledger().exists() { world.rows().len() } else { 0 };
        let (out, go) = (world.fifo(&format!("out{n}")), world.fifo(&format!("go{n}")));
        let daemon = daemon.replace("OUT", &out.path());
        let script = format!("probe daemon -- {daemon}; read x <{}; exit {code}", go.path());
        Leaver { world, out, go, script }
    }

    fn command(&self) -> Cmd<'w> {
        self.world.run(["sh", "-c", &self.script])
    }

    /// Runs it, and gives the daemon's pid and the row.
    fn run(mut self, options: &[&str], code: i32) -> (i32, Fifo, Row) {
        let process: Proc = self.command().options(options.iter().copied()).own_group().start();
        let daemon = self.out.pid("stay");
        self.go.write_line("now");
        process.wait().ended(End::Code(code));
        (daemon, self.out, self.world.rows().pop().expect("a row"))
    }
}

fn count(row: &Row, what: &str) -> i64 {
    row.json("leftovers").get(what).and_then(Value::as_i64).unwrap_or(0)
}

const STAY: &str = "probe with setsid -- probe stay OUT";

#[test]
fn after_a_failure_they_are_ended() {
    let Some(world) = World::of_bookend("after_a_failure_they_are_ended") else {
        return;
    };
    let (_, mut out, row) = Leaver::new(&world, STAY, 1).run(&[], 1);
    assert!(out.rest().is_empty(), "it is gone");
    assert_eq!(row.ending(), "failure/exit");
    assert_eq!((count(&row, "found"), count(&row, "ended")), (1, 1), "{row:?}");
}

#[test]
fn after_a_success_they_are_counted_and_left() {
    let Some(world) = World::of_bookend("after_a_success_they_are_counted") else {
        return;
    };
    let (daemon, _out, row) = Leaver::new(&world, STAY, 0).run(&[], 0);
    assert_eq!((count(&row, "found"), count(&row, "ended")), (1, 0), "{row:?}");
    assert_eq!(state(daemon), Some('S'));
}

#[test]
fn leftovers_end_ends_them_after_a_success_too() {
    let Some(world) = World::of_bookend("leftovers_end_ends_them") else {
        return;
    };
    let (_, mut out, row) = Leaver::new(&world, STAY, 0).run(&["--leftovers", "end"], 0);
    assert!(out.rest().is_empty(), "it is gone");
    assert_eq!(row.ending(), "success/");
    assert_eq!((count(&row, "found"), count(&row, "ended")), (1, 1), "{row:?}");
}

#[test]
fn leftovers_leave_leaves_them_after_a_failure_too() {
    let Some(world) = World::of_bookend("leftovers_leave_leaves_them") else {
        return;
    };
    let (daemon, _out, row) = Leaver::new(&world, STAY, 1).run(&["--leftovers", "leave"], 1);
    assert_eq!((count(&row, "found"), count(&row, "ended")), (1, 0), "{row:?}");
    assert_eq!(state(daemon), Some('S'));
}

#[test]
fn no_leftovers_is_said_by_nothing() {
    let Some(world) = World::of_bookend("no_leftovers") else {
        return;
    };
    world.run(["false"]).run().ended(End::Code(1)).silent();
    assert_eq!(world.row().text("leftovers"), "");
}

#[test]
fn one_without_the_mark_is_found_as_a_descendant() {
    let Some(world) = World::of_bookend("one_without_the_mark") else {
        return;
    };
    let daemon = "probe with setsid unset=BOOKEND_TASK_ID -- probe stay OUT";
    let (_, mut out, row) = Leaver::new(&world, daemon, 1).run(&[], 1);
    assert!(out.rest().is_empty(), "it is gone");
    assert_eq!(count(&row, "ended"), 1, "{row:?}");
}

#[test]
fn they_are_asked_by_sigterm_first() {
    let Some(world) = World::of_bookend("they_are_asked_by_sigterm_first") else {
        return;
    };
    world.program(
        "polite",
        "#!/bin/sh\ntrap 'echo term >$1; exit' TERM; echo stay $$ >$1\n\
         probe stay $2 & while :; do wait; done\n",
    );
    let unused = world.fifo("unused");
    let daemon = format!("polite OUT {}", unused.path());
    let (_, mut out, _row) = Leaver::new(&world, &daemon, 1).run(&[], 1);
    assert_eq!(out.line(), "term");
}

#[test]
fn one_that_ignores_sigterm_is_killed_after_the_grace() {
    let Some(world) = World::of_bookend("one_that_ignores_sigterm") else {
        return;
    };
    let daemon = "probe with setsid ignore=15,1,2 -- probe stay OUT";
    let (_, mut out, row) = Leaver::new(&world, daemon, 1).run(&["--grace", "100ms"], 1);
    assert!(out.rest().is_empty(), "it is gone");
    assert_eq!(count(&row, "ended"), 1, "{row:?}");
}

#[test]
fn the_ending_is_committed_before_the_grace() {
    let Some(world) = World::of_bookend("the_ending_is_committed") else {
        return;
    };
    let mut leaver = Leaver::new(&world, "probe with setsid ignore=15 -- probe stay OUT", 1);
    let process = leaver.command().options(["--grace", "20s"]).own_group().start();
    let daemon = leaver.out.pid("stay");
    leaver.go.write_line("now");
    eventually(world.deadline(), "the row's end", || world.row().text("status") == "failure");
    assert_eq!(state(daemon), Some('S'), "its grace runs");
    assert_ne!(state(process.pid()), Some('Z'), "bookend waits for it");
}

#[test]
fn a_stopped_one_is_ended_too() {
    let Some(world) = World::of_bookend("a_stopped_one_is_ended_too") else {
        return;
    };
    let mut leaver = Leaver::new(&world, STAY, 1);
    let process = leaver.command().options(["--grace", "100ms"]).own_group().start();
    let daemon = leaver.out.pid("stay");
    world.send(daemon, [19]);
    eventually(world.deadline(), "its stop", || state(daemon) == Some('T'));
    leaver.go.write_line("now");
    process.wait().ended(End::Code(1));
    assert!(leaver.out.rest().is_empty(), "it is gone");
}

/// A stopped process would sleep on its SIGTERM until it is killed.
#[test]
fn a_stopped_one_is_continued_so_that_it_can_end_as_it_is_asked() {
    let Some(world) = World::of_bookend("a_stopped_one_is_continued") else {
        return;
    };
    let mut leaver = Leaver::new(&world, "probe with setsid -- probe count OUT", 1);
    let process = leaver.command().own_group().start();
    let daemon = leaver.out.pid("ready");
    world.send(daemon, [19]);
    eventually(world.deadline(), "its stop", || state(daemon) == Some('T'));
    leaver.go.write_line("now");
    assert!(leaver.out.line().starts_with("15 "), "SIGTERM");
    world.send(daemon, ["64:1000"]);
    process.wait().ended(End::Code(1));
}

/// Not bookend's own child, and without the mark: nothing proves at the last moment that it is still the
/// same.
#[test]
fn one_without_the_mark_is_told_only_once_it_is_bookends_own_child() {
    let Some(world) = World::of_bookend("one_without_the_mark_is_told_only_once") else {
        return;
    };
    let mut end = world.fifo("end");
    world.program(
        "parent",
        &format!(
            "#!/bin/sh\ntrap 'echo asked >$1; read x <{}; echo gone >$1; exit' TERM\n\
             probe with unset=BOOKEND_TASK_ID -- probe count $1 & while :; do wait; done\n",
            end.path()
        ),
    );
    let mut leaver = Leaver::new(&world, "probe with setsid -- parent OUT", 1);
    let process = leaver.command().own_group().start();
    let child = leaver.out.pid("ready");
    leaver.go.write_line("now");
    assert_eq!(leaver.out.line(), "asked");
    eventually(world.deadline(), "bookend has told all that it may", || state(process.pid()) == Some('S'));
    end.write_line("now");
    assert_eq!(leaver.out.line(), "gone", "its child was left alone until then");
    assert!(leaver.out.line().starts_with("15 "));
    world.send(child, ["64:1000"]);
    process.wait().ended(End::Code(1));
}

#[test]
fn bookend_itself_and_those_above_it_are_never_ended() {
    let Some(world) = World::of_bookend("bookend_itself_and_those_above_it") else {
        return;
    };
    let id = "0197a6a0-0000-7000-8000-00000000abcd";
    let script = format!("export BOOKEND_TASK_ID={id}; bookend run --id {id} -- false; echo alive $?");
    let output = world.bare(["sh", "-c", &script]).own_group().run().ended(End::Code(0));
    assert_eq!(output.stdout, "alive 1\n");
}

/// Runs an agent that fails, and beside it a stranger whose environment carries the agent's mark; gives the
/// pipe that the stranger holds.
fn stranger(world: &World, specs: &str, command: &str) -> (Proc, Fifo) {
    // Tests run side by side, and a mark is seen by all of them: each has its own.
    let id = world.name("").trim_end_matches('/').rsplit('/').next().expect("a name").to_owned();
    let (mut out, mut begun, mut go) = (world.fifo("out"), world.fifo("begun"), world.fifo("go"));
    let agent = format!("echo begun 1 >{}; read x <{}; exit 1", begun.path(), go.path());
    let process = world.run_sh(&agent).options(["--id", &id]).own_group().start();
    begun.pid("begun");
    let command = command.replace("OUT", &out.path());
    let line = format!("exec probe with env=BOOKEND_TASK_ID={} {command}", specs.replace("ID", &id));
    let stranger = world.bare(["sh", "-c", &line]).env("BOOKEND_LEDGER", world.ledger()).start();
    out.pid("stay");
    go.write_line("now");
    process.wait().ended(End::Code(1));
    (stranger, out)
}

#[test]
fn one_found_by_its_mark_alone_is_ended() {
    let Some(world) = World::of_bookend("one_found_by_its_mark_alone") else {
        return;
    };
    let (stranger, _out) = stranger(&world, "ID setsid", "-- probe stay OUT");
    stranger.wait().ended(End::Signal(15));
    assert_eq!(count(&world.row(), "ended"), 1);
}

#[test]
fn another_tasks_mark_is_not_taken_for_it() {
    for mark in ["IDx", "0ID", "x"] {
        let Some(world) = World::of_bookend("another_tasks_mark") else {
            return;
        };
        let (stranger, _out) = stranger(&world, &format!("{mark} setsid"), "-- probe stay OUT");
        assert_eq!(state(stranger.pid()), Some('S'));
    }
}

#[test]
fn one_with_a_terminal_of_its_own_is_spared() {
    let Some(world) = World::of_bookend("one_with_a_terminal_of_its_own") else {
        return;
    };
    let (stranger, _out) = stranger(&world, "ID own-pty", "-- probe stay OUT");
    assert_eq!(state(stranger.pid()), Some('S'));
}

#[test]
fn one_that_serves_a_terminal_is_spared_with_what_is_below_it() {
    let Some(world) = World::of_bookend("one_that_serves_a_terminal") else {
        return;
    };
    world.program("server", "#!/bin/sh\nprobe with own-pty -- probe stay $1 & wait\n");
    let (stranger, mut out) = stranger(&world, "ID setsid", "-- server OUT");
    assert_eq!(state(stranger.pid()), Some('S'));
    drop(stranger);
    assert!(out.lines_so_far().is_empty());
}

#[test]
fn a_tmux_server_begun_within_the_task_survives() {
    let test = "a_tmux_server_begun_within_the_task";
    if !possible(test, on_path("tmux"), "tmux") {
        return;
    }
    let Some(world) = World::of_bookend(test) else {
        return;
    };
    let mut out = world.fifo("out");
    let mut go = world.fifo("go");
    let session = format!("tmux -L own -f /dev/null new-session -d 'probe stay {}'", out.path());
    let script = format!("{session}; read x <{}; exit 1", go.path());
    let process = world.run_sh(&script).options(["--grace", "100ms"]).own_group().start();
    let inside = out.pid("stay");
    go.write_line("now");
    process.wait().ended(End::Code(1));
    world.bare(["tmux", "-L", "own", "has-session"]).run().ended(End::Code(0));
    assert_eq!(state(inside), Some('S'), "and what runs in it");
}

#[test]
fn a_nested_run_settles_its_own_row_when_the_outer_is_stopped() {
    let Some(world) = World::of_bookend("a_nested_run_settles_its_own_row") else {
        return;
    };
    let mut out = world.fifo("stay");
    let inner = ["bookend", "run", "--", "probe", "stay", &out.path()];
    let outer = world.run(inner).own_group().start();
    out.pid("stay");
    world.send(outer.pid(), [15]);
    outer.wait().ended(End::Signal(15));
    nested_rows(&world, "interrupted/signal", "interrupted/signal");
}

#[test]
fn a_nested_run_that_was_let_go_settles_its_own_row_when_the_outer_ends() {
    let Some(world) = World::of_bookend("a_nested_run_that_was_let_go") else {
        return;
    };
    let inner = "probe with setsid -- bookend run -- probe stay OUT";
    let mut leaver = Leaver::new(&world, inner, 1);
    let process = leaver.command().own_group().start();
    leaver.out.pid("stay");
    leaver.go.write_line("now");
    process.wait().ended(End::Code(1));
    assert!(leaver.out.rest().is_empty(), "its agent is gone");
    eventually(world.deadline(), "the inner row's end", || world.rows()[1].text("status") != "running");
    nested_rows(&world, "failure/exit", "interrupted/signal");
}

/// The inner one is given the time that its own grace takes: it is never killed by the outer.
#[test]
fn a_nested_run_is_never_killed_nor_what_is_below_it() {
    let Some(world) = World::of_bookend("a_nested_run_is_never_killed") else {
        return;
    };
    let inner = "probe with setsid -- bookend run --grace 700ms -- \
                 probe with ignore=15 -- probe stay OUT";
    let mut leaver = Leaver::new(&world, inner, 1);
    let process = leaver.command().options(["--grace", "50ms"]).own_group().start();
    leaver.out.pid("stay");
    leaver.go.write_line("now");
    process.wait().ended(End::Code(1));
    assert!(leaver.out.rest().is_empty(), "its agent is gone in the end");
    eventually(world.deadline(), "the inner row's end", || world.rows()[1].text("status") != "running");
    nested_rows(&world, "failure/exit", "interrupted/signal");
    assert_eq!(world.rows()[1].number("term_signal"), Some(9), "by its own escalation");
}

/// The outer one asks the inner to end, and nobody below it; its own grace is long over meanwhile.
#[test]
fn what_is_below_a_nested_run_is_left_to_it() {
    let Some(world) = World::of_bookend("what_is_below_a_nested_run") else {
        return;
    };
    let inner = "probe with setsid -- bookend run -- probe count OUT";
    let mut leaver = Leaver::new(&world, inner, 1);
    let process = leaver.command().options(["--grace", "50ms"]).own_group().start();
    let agent = leaver.out.pid("ready");
    leaver.go.write_line("now");
    assert!(leaver.out.line().starts_with("15 "), "forwarded by the inner one");
    process.wait().ended(End::Code(1));
    world.send(agent, ["64:1003"]);
    assert!(leaver.out.rest().iter().all(|l| !l.starts_with("15 ")), "and sent by nobody else");
    eventually(world.deadline(), "the inner row's end", || world.rows()[1].text("status") != "running");
    nested_rows(&world, "failure/exit", "interrupted/signal");
    assert_eq!(world.rows()[1].number("exit_code"), Some(3), "it was not killed");
}

fn nested_rows(world: &World, outer: &str, inner: &str) {
    let rows = world.rows();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0].ending(), outer);
    assert_eq!(rows[1].ending(), inner);
    assert_eq!(rows[1].text("end_source"), "wait", "it saw its end itself");
    assert_eq!(rows[1].text("parent_id"), rows[0].text("id"));
}

const DETACHED: &str = "probe with setsid env=BOOKEND_DETACHED=1 -- probe stay OUT";

#[test]
fn a_detached_process_is_left_and_counted_after_a_failure() {
    let Some(world) = World::of_bookend("a_detached_process_is_left_and_counted") else { return };
    let (daemon, _out, row) = Leaver::new(&world, DETACHED, 1).run(&[], 1);
    assert_eq!((count(&row, "found"), count(&row, "ended"), count(&row, "left")), (1, 0, 1), "{row:?}");
    let spared = &row.json("leftovers")["spared"][0];
    assert_eq!((&spared["why"], &spared["pid"]), (&"detached".into(), &daemon.into()), "{row:?}");
    assert_eq!(state(daemon), Some('S'));
    let shown = bookend(&world, &["show", &row.text("id")]).stdout;
    assert!(shown.contains(&format!("1 found, 0 ended, 1 left (probe, pid {daemon}: detached)")), "{shown}");
    let audit = json(&world, &["audit", "--json"]);
    assert_eq!(audit["summary"]["total"], 0, "{audit:#}");
    recover(&world, &["--grace", "0s"]);
    assert_eq!(state(daemon), Some('S'));
}

#[test]
fn each_process_is_detached_by_its_own_environment() {
    let Some(world) = World::of_bookend("each_process_is_detached_by_its_own") else { return };
    for value in ["0", "", "no", "11"] {
        let daemon = DETACHED.replace("=1 ", &format!("={value} "));
        let (_, mut out, row) = Leaver::new(&world, &daemon, 1).run(&[], 1);
        assert!(out.rest().is_empty(), "{value}: it is gone");
        assert_eq!(count(&row, "ended"), 1, "{value}: {row:?}");
    }
    // What a detached process starts without the variable is not.
    let child = "probe with setsid unset=BOOKEND_DETACHED -- probe stay OUT";
    let daemon = format!("env BOOKEND_DETACHED=yes probe daemon -- {child}");
    let (_, mut out, _row) = Leaver::new(&world, &daemon, 1).run(&[], 1);
    assert!(out.rest().is_empty(), "it is gone");
}

#[test]
fn leftovers_end_ends_a_detached_process_too() {
    let Some(world) = World::of_bookend("leftovers_end_ends_a_detached_process_too") else { return };
    for code in [0, 1] {
        let leaver = Leaver::new(&world, DETACHED, code);
        let (_, mut out, row) = leaver.run(&["--leftovers", "end"], code);
        assert!(out.rest().is_empty(), "it is gone");
        assert_eq!((count(&row, "found"), count(&row, "ended")), (1, 1), "{row:?}");
    }
}

#[test]
fn recovery_leaves_a_detached_process_unless_the_run_said_leftovers_end() {
    let Some(world) = World::of_bookend("recovery_leaves_a_detached_process") else { return };
    for (policy, is_left) in [("auto", true), ("end", false)] {
        let mut out = world.fifo(&format!("daemon.{policy}"));
        let daemon = DETACHED.replace("OUT", &out.path());
        let script = format!("probe daemon -- {daemon}; echo ready $$ >$SAY; exec sleep 1000");
        let options = ["--id", policy, "--leftovers", policy];
        let busy = Busy::start(&world, &format!("say.{policy}"), |_| world.run_sh(&script).options(options));
        let daemon = out.pid("stay");
        busy.kill_all();
        recover(&world, &["--grace", "0s"]);
        let row = world.sql(&format!("SELECT * FROM task_history WHERE id = '{policy}'")).remove(0);
        assert_eq!(row.ending(), "interrupted/supervisor_lost");
        assert_eq!(count(&row, "found"), 1, "{row:?}");
        assert_eq!(count(&row, "left"), i64::from(is_left), "{row:?}");
        assert_eq!(state(daemon).is_some_and(|s| s != 'Z'), is_left, "{policy}");
    }
}

/// Otherwise a detached run would leave all that its agent leaves.
#[test]
fn bookend_does_not_pass_on_that_it_is_detached() {
    let Some(world) = World::of_bookend("bookend_does_not_pass_on_that_it_is_detached") else { return };
    let script = "echo ${BOOKEND_DETACHED-unset}; BOOKEND_DETACHED=1 sh -c 'echo $BOOKEND_DETACHED'";
    let output = world.run_sh(script).env("BOOKEND_DETACHED", "1").run().ended(End::Code(0)).silent();
    assert_eq!(output.stdout, "unset\n1\n");
}

#[test]
fn the_agent_itself_is_never_detached() {
    let Some(world) = World::of_bookend("the_agent_itself_is_never_detached") else { return };
    let script = "trap '' TERM; echo ready $$ >$SAY; while :; do sleep 1000; done";
    let agent = ["env", "BOOKEND_DETACHED=1", "sh", "-c", script];
    let busy = Busy::start(&world, "say", |_| world.run(agent).options(["--id", "one"]));
    let agent = busy.agent;
    busy.kill_supervisor();
    recover(&world, &["--grace", "0s"]);
    crate::standins::gone(&world, agent);
    assert_eq!(world.row().ending(), "interrupted/supervisor_lost");
}
