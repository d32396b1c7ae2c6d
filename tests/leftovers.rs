//! Leftover processes: bookend finds them across setsid(2) and double fork, and ends or keeps them.

use serde_json::Value;

use crate::harness::{Cmd, End, Fifo, Proc, Row, World, eventually, on_path, possible, state};
use crate::standins::{Busy, bookend, json, recover};

/// An agent that starts a daemon and exits with `code` when the test writes to its pipe.
struct DaemonStarter<'w> {
    world: &'w World,
    out: Fifo,
    go: Fifo,
    script: String,
}

impl<'w> DaemonStarter<'w> {
    /// `daemon` is a command line in which `OUT` is the pipe to which it writes `stay PID`.
    fn new(world: &'w World, daemon: &str, code: i32) -> DaemonStarter<'w> {
        let n = if world.ledger().exists() { world.rows().len() } else { 0 };
        let (out, go) = (world.fifo(&format!("out{n}")), world.fifo(&format!("go{n}")));
        let daemon = daemon.replace("OUT", &out.path());
        let script = format!("probe daemon -- {daemon}; read x <{}; exit {code}", go.path());
        DaemonStarter { world, out, go, script }
    }

    fn command(&self) -> Cmd<'w> {
        self.world.run(["sh", "-c", &self.script])
    }

    /// Runs the agent to its end. Returns the pid and the pipe of the daemon, and the row.
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
fn leftovers_are_ended_after_a_failure() {
    let Some(world) = World::of_bookend("leftovers_are_ended_after_a_failure") else {
        return;
    };
    let (_, mut out, row) = DaemonStarter::new(&world, STAY, 1).run(&[], 1);
    assert!(out.rest().is_empty(), "the daemon has ended");
    assert_eq!(row.ending(), "failure/exit");
    assert_eq!((count(&row, "found"), count(&row, "ended")), (1, 1), "{row:?}");
}

#[test]
fn leftovers_are_counted_and_kept_after_a_success() {
    let Some(world) = World::of_bookend("leftovers_are_counted_and_kept_after_a_success") else {
        return;
    };
    let (daemon, _out, row) = DaemonStarter::new(&world, STAY, 0).run(&[], 0);
    assert_eq!((count(&row, "found"), count(&row, "ended")), (1, 0), "{row:?}");
    assert_eq!(state(daemon), Some('S'));
}

#[test]
fn leftovers_end_also_ends_leftovers_of_a_success() {
    let Some(world) = World::of_bookend("leftovers_end_also_ends_leftovers_of_a_success") else {
        return;
    };
    let (_, mut out, row) = DaemonStarter::new(&world, STAY, 0).run(&["--leftovers", "end"], 0);
    assert!(out.rest().is_empty(), "the daemon has ended");
    assert_eq!(row.ending(), "success/");
    assert_eq!((count(&row, "found"), count(&row, "ended")), (1, 1), "{row:?}");
}

#[test]
fn leftovers_leave_also_keeps_leftovers_of_a_failure() {
    let Some(world) = World::of_bookend("leftovers_leave_also_keeps_leftovers_of_a_failure") else {
        return;
    };
    let (daemon, _out, row) = DaemonStarter::new(&world, STAY, 1).run(&["--leftovers", "leave"], 1);
    assert_eq!((count(&row, "found"), count(&row, "ended")), (1, 0), "{row:?}");
    assert_eq!(state(daemon), Some('S'));
}

#[test]
fn a_run_without_leftovers_prints_and_records_none() {
    let Some(world) = World::of_bookend("a_run_without_leftovers_prints_and_records_none") else {
        return;
    };
    world.run(["false"]).run().ended(End::Code(1)).silent();
    assert_eq!(world.row().text("leftovers"), "");
}

#[test]
fn a_leftover_without_the_mark_is_found_as_a_descendant() {
    let Some(world) = World::of_bookend("a_leftover_without_the_mark_is_found_as_a_descendant") else {
        return;
    };
    let daemon = "probe with setsid unset=BOOKEND_TASK_ID -- probe stay OUT";
    let (_, mut out, row) = DaemonStarter::new(&world, daemon, 1).run(&[], 1);
    assert!(out.rest().is_empty(), "the daemon has ended");
    assert_eq!(count(&row, "ended"), 1, "{row:?}");
}

#[test]
fn leftovers_receive_sigterm_first() {
    let Some(world) = World::of_bookend("leftovers_receive_sigterm_first") else {
        return;
    };
    world.program(
        "traps-term",
        "#!/bin/sh\ntrap 'echo term >$1; exit' TERM; echo stay $$ >$1\n\
         probe stay $2 & while :; do wait; done\n",
    );
    let unused = world.fifo("unused");
    let daemon = format!("traps-term OUT {}", unused.path());
    let (_, mut out, _row) = DaemonStarter::new(&world, &daemon, 1).run(&[], 1);
    assert_eq!(out.line(), "term");
}

#[test]
fn a_leftover_that_ignores_sigterm_is_killed_after_the_grace_period() {
    let Some(world) = World::of_bookend("a_leftover_that_ignores_sigterm_is_killed_after_the_grace_period")
    else {
        return;
    };
    let daemon = "probe with setsid ignore=15,1,2 -- probe stay OUT";
    let (_, mut out, row) = DaemonStarter::new(&world, daemon, 1).run(&["--grace", "100ms"], 1);
    assert!(out.rest().is_empty(), "the daemon has ended");
    assert_eq!(count(&row, "ended"), 1, "{row:?}");
}

#[test]
fn the_end_is_committed_before_the_grace_period() {
    let Some(world) = World::of_bookend("the_end_is_committed_before_the_grace_period") else {
        return;
    };
    let mut starter = DaemonStarter::new(&world, "probe with setsid ignore=15 -- probe stay OUT", 1);
    let process = starter.command().options(["--grace", "20s"]).own_group().start();
    let daemon = starter.out.pid("stay");
    starter.go.write_line("now");
    eventually(world.deadline(), "the end in the row", || world.row().text("status") == "failure");
    assert_eq!(state(daemon), Some('S'), "the grace period is not over");
    assert_ne!(state(process.pid()), Some('Z'), "bookend waits for the daemon");
}

#[test]
fn a_stopped_leftover_is_ended() {
    let Some(world) = World::of_bookend("a_stopped_leftover_is_ended") else {
        return;
    };
    let mut starter = DaemonStarter::new(&world, STAY, 1);
    let process = starter.command().options(["--grace", "100ms"]).own_group().start();
    let daemon = starter.out.pid("stay");
    world.send(daemon, [19]);
    eventually(world.deadline(), "the stopped state", || state(daemon) == Some('T'));
    starter.go.write_line("now");
    process.wait().ended(End::Code(1));
    assert!(starter.out.rest().is_empty(), "the daemon has ended");
}

/// Without SIGCONT, a stopped process acts on SIGTERM only when it is too late: SIGKILL ends it.
#[test]
fn a_stopped_leftover_is_continued_to_act_on_sigterm() {
    let Some(world) = World::of_bookend("a_stopped_leftover_is_continued_to_act_on_sigterm") else {
        return;
    };
    let mut starter = DaemonStarter::new(&world, "probe with setsid -- probe count OUT", 1);
    let process = starter.command().own_group().start();
    let daemon = starter.out.pid("ready");
    world.send(daemon, [19]);
    eventually(world.deadline(), "the stopped state", || state(daemon) == Some('T'));
    starter.go.write_line("now");
    assert!(starter.out.line().starts_with("15 "), "SIGTERM");
    world.send(daemon, ["64:1000"]);
    process.wait().ended(End::Code(1));
}

/// Before the signal, nothing proves that a process without the mark is still the same one, unless it is a
/// child of bookend.
#[test]
fn a_descendant_without_the_mark_is_signalled_only_as_a_child_of_bookend() {
    let Some(world) =
        World::of_bookend("a_descendant_without_the_mark_is_signalled_only_as_a_child_of_bookend")
    else {
        return;
    };
    let mut end = world.fifo("end");
    world.program(
        "parent",
        &format!(
            "#!/bin/sh\ntrap 'echo term >$1; read x <{}; echo exits >$1; exit' TERM\n\
             probe with unset=BOOKEND_TASK_ID -- probe count $1 & while :; do wait; done\n",
            end.path()
        ),
    );
    let mut starter = DaemonStarter::new(&world, "probe with setsid -- parent OUT", 1);
    let process = starter.command().own_group().start();
    let child = starter.out.pid("ready");
    starter.go.write_line("now");
    assert_eq!(starter.out.line(), "term");
    eventually(world.deadline(), "bookend has signalled all that it may signal", || {
        state(process.pid()) == Some('S')
    });
    end.write_line("now");
    assert_eq!(starter.out.line(), "exits", "no signal reached its child before");
    assert!(starter.out.line().starts_with("15 "));
    world.send(child, ["64:1000"]);
    process.wait().ended(End::Code(1));
}

#[test]
fn bookend_and_its_ancestors_are_never_ended() {
    let Some(world) = World::of_bookend("bookend_and_its_ancestors_are_never_ended") else {
        return;
    };
    let id = "0197a6a0-0000-7000-8000-00000000abcd";
    let script = format!("export BOOKEND_TASK_ID={id}; bookend run --id {id} -- false; echo alive $?");
    let output = world.bare(["sh", "-c", &script]).own_group().run().ended(End::Code(0));
    assert_eq!(output.stdout, "alive 1\n");
}

/// Runs an agent that fails and an unrelated process whose environment contains a mark made from `specs`.
/// Returns that process and the pipe that it holds open.
fn marked_process(world: &World, specs: &str, command: &str) -> (Proc, Fifo) {
    // Tests run in parallel and see each other's marks, so each uses its own.
    let id = world.name("").trim_end_matches('/').rsplit('/').next().expect("a name").to_owned();
    let (mut out, mut begun, mut go) = (world.fifo("out"), world.fifo("begun"), world.fifo("go"));
    let agent = format!("echo begun 1 >{}; read x <{}; exit 1", begun.path(), go.path());
    let process = world.run_sh(&agent).options(["--id", &id]).own_group().start();
    begun.pid("begun");
    let command = command.replace("OUT", &out.path());
    let line = format!("exec probe with env=BOOKEND_TASK_ID={} {command}", specs.replace("ID", &id));
    let unrelated = world.bare(["sh", "-c", &line]).env("BOOKEND_LEDGER", world.ledger()).start();
    out.pid("stay");
    go.write_line("now");
    process.wait().ended(End::Code(1));
    (unrelated, out)
}

#[test]
fn a_process_found_only_by_its_mark_is_ended() {
    let Some(world) = World::of_bookend("a_process_found_only_by_its_mark_is_ended") else {
        return;
    };
    let (unrelated, _out) = marked_process(&world, "ID setsid", "-- probe stay OUT");
    unrelated.wait().ended(End::Signal(15));
    assert_eq!(count(&world.row(), "ended"), 1);
}

#[test]
fn a_process_with_the_mark_of_another_task_is_kept() {
    for mark in ["IDx", "0ID", "x"] {
        let Some(world) = World::of_bookend("a_process_with_the_mark_of_another_task_is_kept") else {
            return;
        };
        let (unrelated, _out) = marked_process(&world, &format!("{mark} setsid"), "-- probe stay OUT");
        assert_eq!(state(unrelated.pid()), Some('S'));
    }
}

#[test]
fn a_process_with_its_own_terminal_is_spared() {
    let Some(world) = World::of_bookend("a_process_with_its_own_terminal_is_spared") else {
        return;
    };
    let (unrelated, _out) = marked_process(&world, "ID own-pty", "-- probe stay OUT");
    assert_eq!(state(unrelated.pid()), Some('S'));
}

#[test]
fn a_terminal_server_is_spared_with_its_descendants() {
    let Some(world) = World::of_bookend("a_terminal_server_is_spared_with_its_descendants") else {
        return;
    };
    world.program("server", "#!/bin/sh\nprobe with own-pty -- probe stay $1 & wait\n");
    let (unrelated, mut out) = marked_process(&world, "ID setsid", "-- server OUT");
    assert_eq!(state(unrelated.pid()), Some('S'));
    drop(unrelated);
    assert!(out.lines_so_far().is_empty());
}

#[test]
fn a_tmux_server_started_in_the_task_survives() {
    let test = "a_tmux_server_started_in_the_task_survives";
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
    assert_eq!(state(inside), Some('S'), "the program in the session runs");
}

#[test]
fn a_nested_run_settles_its_own_row_when_the_outer_is_stopped() {
    let Some(world) = World::of_bookend("a_nested_run_settles_its_own_row_when_the_outer_is_stopped") else {
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
fn a_nested_daemon_run_settles_its_own_row_when_the_outer_ends() {
    let Some(world) = World::of_bookend("a_nested_daemon_run_settles_its_own_row_when_the_outer_ends") else {
        return;
    };
    let inner = "probe with setsid -- bookend run -- probe stay OUT";
    let mut starter = DaemonStarter::new(&world, inner, 1);
    let process = starter.command().own_group().start();
    starter.out.pid("stay");
    starter.go.write_line("now");
    process.wait().ended(End::Code(1));
    assert!(starter.out.rest().is_empty(), "its agent has ended");
    eventually(world.deadline(), "the end in the inner row", || world.rows()[1].text("status") != "running");
    nested_rows(&world, "failure/exit", "interrupted/signal");
}

/// The outer run waits for the grace period of the inner one and does not send it SIGKILL.
#[test]
fn a_nested_run_and_its_descendants_are_never_killed_by_the_outer() {
    let Some(world) = World::of_bookend("a_nested_run_and_its_descendants_are_never_killed_by_the_outer")
    else {
        return;
    };
    let inner = "probe with setsid -- bookend run --grace 700ms -- \
                 probe with ignore=15 -- probe stay OUT";
    let mut starter = DaemonStarter::new(&world, inner, 1);
    let process = starter.command().options(["--grace", "50ms"]).own_group().start();
    starter.out.pid("stay");
    starter.go.write_line("now");
    process.wait().ended(End::Code(1));
    assert!(starter.out.rest().is_empty(), "its agent has ended");
    eventually(world.deadline(), "the end in the inner row", || world.rows()[1].text("status") != "running");
    nested_rows(&world, "failure/exit", "interrupted/signal");
    assert_eq!(world.rows()[1].number("term_signal"), Some(9), "by its own escalation");
}

/// The outer run sends SIGTERM only to the inner one, although its own grace period is over.
#[test]
fn only_the_nested_run_signals_its_agent() {
    let Some(world) = World::of_bookend("only_the_nested_run_signals_its_agent") else {
        return;
    };
    let inner = "probe with setsid -- bookend run -- probe count OUT";
    let mut starter = DaemonStarter::new(&world, inner, 1);
    let process = starter.command().options(["--grace", "50ms"]).own_group().start();
    let agent = starter.out.pid("ready");
    starter.go.write_line("now");
    assert!(starter.out.line().starts_with("15 "), "forwarded by the inner run");
    process.wait().ended(End::Code(1));
    world.send(agent, ["64:1003"]);
    assert!(starter.out.rest().iter().all(|l| !l.starts_with("15 ")), "the outer run sent no SIGTERM");
    eventually(world.deadline(), "the end in the inner row", || world.rows()[1].text("status") != "running");
    nested_rows(&world, "failure/exit", "interrupted/signal");
    assert_eq!(world.rows()[1].number("exit_code"), Some(3), "it exited by itself");
}

fn nested_rows(world: &World, outer: &str, inner: &str) {
    let rows = world.rows();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0].ending(), outer);
    assert_eq!(rows[1].ending(), inner);
    assert_eq!(rows[1].text("end_source"), "wait", "the inner run recorded its own end");
    assert_eq!(rows[1].text("parent_id"), rows[0].text("id"));
}

const DETACHED: &str = "probe with setsid env=BOOKEND_DETACHED=1 -- probe stay OUT";

#[test]
fn a_detached_process_is_kept_and_counted_after_a_failure() {
    let Some(world) = World::of_bookend("a_detached_process_is_kept_and_counted_after_a_failure") else {
        return;
    };
    let (daemon, _out, row) = DaemonStarter::new(&world, DETACHED, 1).run(&[], 1);
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
fn only_its_own_environment_detaches_a_process() {
    let Some(world) = World::of_bookend("only_its_own_environment_detaches_a_process") else { return };
    for value in ["0", "", "no", "11"] {
        let daemon = DETACHED.replace("=1 ", &format!("={value} "));
        let (_, mut out, row) = DaemonStarter::new(&world, &daemon, 1).run(&[], 1);
        assert!(out.rest().is_empty(), "{value}: the daemon has ended");
        assert_eq!(count(&row, "ended"), 1, "{value}: {row:?}");
    }
    // A child of a detached process is not detached without the variable.
    let child = "probe with setsid unset=BOOKEND_DETACHED -- probe stay OUT";
    let daemon = format!("env BOOKEND_DETACHED=yes probe daemon -- {child}");
    let (_, mut out, _row) = DaemonStarter::new(&world, &daemon, 1).run(&[], 1);
    assert!(out.rest().is_empty(), "the daemon has ended");
}

#[test]
fn leftovers_end_also_ends_a_detached_process() {
    let Some(world) = World::of_bookend("leftovers_end_also_ends_a_detached_process") else { return };
    for code in [0, 1] {
        let starter = DaemonStarter::new(&world, DETACHED, code);
        let (_, mut out, row) = starter.run(&["--leftovers", "end"], code);
        assert!(out.rest().is_empty(), "the daemon has ended");
        assert_eq!((count(&row, "found"), count(&row, "ended")), (1, 1), "{row:?}");
    }
}

#[test]
fn recovery_keeps_a_detached_process_unless_the_run_had_leftovers_end() {
    let Some(world) = World::of_bookend("recovery_keeps_a_detached_process_unless_the_run_had_leftovers_end")
    else {
        return;
    };
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

/// Otherwise a detached run would keep every leftover of its agent.
#[test]
fn bookend_removes_its_own_detached_variable() {
    let Some(world) = World::of_bookend("bookend_removes_its_own_detached_variable") else { return };
    let script = "echo ${BOOKEND_DETACHED-unset}; BOOKEND_DETACHED=1 sh -c 'echo $BOOKEND_DETACHED'";
    let output = world.run_sh(script).env("BOOKEND_DETACHED", "1").run().ended(End::Code(0)).silent();
    assert_eq!(output.stdout, "unset\n1\n");
}

#[test]
fn the_agent_cannot_detach_itself() {
    let Some(world) = World::of_bookend("the_agent_cannot_detach_itself") else { return };
    let script = "trap '' TERM; echo ready $$ >$SAY; while :; do sleep 1000; done";
    let agent = ["env", "BOOKEND_DETACHED=1", "sh", "-c", script];
    let busy = Busy::start(&world, "say", |_| world.run(agent).options(["--id", "one"]));
    let agent = busy.agent;
    busy.kill_supervisor();
    recover(&world, &["--grace", "0s"]);
    crate::standins::gone(&world, agent);
    assert_eq!(world.row().ending(), "interrupted/supervisor_lost");
}
