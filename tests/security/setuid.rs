//! An agent that executes a set-user-ID program: the kernel clears its parent-death signal, its environment
//! is no longer readable, and bookend may not signal it once it has fully become the other user.

use rustix::process::Signal;

use super::{NOBODY, copy_program, set_mode};
use crate::harness::{
    Cmd, End, Fifo, Output, Proc, Row, World, eventually, is_root, possible, proc_is_hidden, state,
};
use crate::standins::gone;

/// `RAISED` keeps the real user id, so its caller may signal it. `ROOT` becomes root completely, as sudo
/// does.
const RAISED: &str = "raised stay OUT";
const ROOT: &str = "raised with uid=0 -- probe stay OUT";

/// Whether set-user-ID programs work here. They do not with `nosuid` or `no_new_privs`.
pub fn works(world: &World) -> bool {
    copy_program(world, "probe", "raised");
    set_mode(world, "bin/raised", 0o4755);
    let argv = ["raised", "with", "uid=0", "--", "true"];
    let nobody = [format!("uid={NOBODY}")];
    world.bare(argv).with(nobody).run().end == End::Code(0)
}

/// A world of an unprivileged user with a set-user-ID program.
fn world(test: &str) -> Option<(World, Vec<String>)> {
    if !possible(test, is_root(), "root, to create a set-user-ID program") {
        return None;
    }
    let (world, specs) = World::unprivileged(test)?;
    copy_program(&world, "probe", "probe");
    possible(test, works(&world), "set-user-ID programs").then_some((world, specs))
}

/// A run of that user with its agent.
struct Raised<'w> {
    world: &'w World,
    specs: Vec<String>,
    run: Proc,
    agent: i32,
    _out: Fifo,
}

impl<'w> Raised<'w> {
    fn start(world: &'w World, specs: &[String], agent: &str, options: &[&str]) -> Raised<'w> {
        let mut out = world.fifo("out");
        let line = agent.replace("OUT", &out.path());
        let words: Vec<&str> = line.split(' ').collect();
        let run = world.run(words).options(options.iter().copied()).with(specs).own_group().start();
        let agent = out.pid("stay");
        Raised { world, specs: specs.to_vec(), run, agent, _out: out }
    }

    /// Runs a bookend command as the same user.
    fn bookend(&self, words: &[&str]) -> Output {
        self.command(words).run()
    }

    fn command(&self, words: &[&str]) -> Cmd<'w> {
        self.world.bare(["bookend"].iter().chain(words).copied()).with(&self.specs)
    }

    fn is_running(&self) -> bool {
        state(self.agent) == Some('S')
    }

    fn row(&self) -> Row {
        self.world.row()
    }

    /// Kills the agent as root.
    fn end(&self) {
        self.world.send(self.agent, [9]);
        gone(self.world, self.agent);
    }

    /// Asserts that the row does not claim the end of the agent and names the process that still runs.
    fn assert_honest(&self, ending: &str) {
        let row = self.row();
        assert_eq!(row.ending(), ending);
        let error = row.text("error");
        for part in [&format!("pid {}", self.agent), "may not signal", "not ended, and is still running"] {
            assert!(error.contains(part), "{part} in {error}");
        }
        assert_eq!((row.number("exit_code"), row.number("term_signal")), (None, None));
        let left = row.json("leftovers");
        assert_eq!((&left["found"], &left["ended"]), (&1.into(), &0.into()), "{left}");
        assert_eq!(left["spared"][0]["pid"], self.agent, "{left}");
        let (name, why) = if proc_is_hidden() { ("agent", "hidden") } else { ("probe", "unreadable") };
        assert_eq!(left["spared"][0]["why"], why, "{left}");
        let shown = self.bookend(&["show", &row.text("id")]).ended(End::Code(0)).stdout;
        let line = format!("1 found, 0 ended, 1 left ({name}, pid {}: {why})\n", self.agent);
        assert!(shown.contains(&line), "{shown}");
        assert!(self.is_running());
    }
}

#[test]
fn recover_settles_a_task_whose_agent_it_may_not_signal_and_keeps_the_key_busy() {
    let test = "recover_settles_a_task_whose_agent_it_may_not_signal_and_keeps_the_key_busy";
    let Some((world, specs)) = world(test) else { return };
    for proc in ["", "proc=hidepid=0", "proc=hidepid=1", "proc=hidepid=2", "proc=subset=pid"] {
        let specs: Vec<String> =
            [proc].iter().filter(|p| !p.is_empty()).map(|p| (*p).to_owned()).chain(specs.clone()).collect();
        let mut raised = Raised::start(&world, &specs, ROOT, &["--id", "one", "--key", "k"]);
        raised.run.signal(Signal::KILL);
        raised.run.wait_here().ended(End::Signal(9));
        // A parent-death signal would have arrived by now.
        let listed = raised.bookend(&["list"]).ended(End::Code(0));
        assert!(listed.stdout.contains("lost"), "{proc}: {listed:?}");
        let printed = raised.bookend(&["recover", "--grace", "100ms"]).ended(End::Code(0)).silent();
        let pid = format!("its agent (pid {}) runs as ", raised.agent);
        for part in ["task one interrupted", &pid, "may still run", "key k stays busy", "kill"] {
            assert!(printed.stdout.contains(part), "{proc}: {part} in {printed:?}");
        }
        assert!(raised.is_running(), "{proc}: the agent was signalled");
        let row = raised.row();
        assert_eq!((row.ending().as_str(), row.text("end_source").as_str()), LOST, "{proc}");
        assert_eq!((row.number("exit_code"), row.text("finished_at")), (None, String::new()));
        let left = row.json("leftovers");
        assert_eq!((&left["left"], &left["spared"][0]["pid"]), (&1.into(), &raised.agent.into()), "{left}");
        raised.bookend(&["cancel", "one"]).ended(End::Code(1));
        let again = || world.run(["true"]).options(["--key", "k", "--grace", "0s"]).with(&specs).run();
        let refused = again().ended(End::Code(75));
        assert!(refused.stderr.contains(&pid) && refused.stderr.contains("kill"), "{proc}: {refused:?}");
        assert!(raised.is_running(), "{proc}: the agent was signalled");
        raised.end();
        again().ended(End::Code(0)).silent();
        world.write("DELETE FROM task_history");
        std::fs::remove_file(world.path("out")).expect("the pipe");
    }
}

#[test]
fn recover_ends_an_agent_whose_environment_it_cannot_read() {
    let test = "recover_ends_an_agent_whose_environment_it_cannot_read";
    let Some((world, specs)) = world(test) else { return };
    for proc in ["proc=hidepid=0", "proc=hidepid=2", "proc=subset=pid"] {
        let specs: Vec<String> = [proc.to_owned()].into_iter().chain(specs.clone()).collect();
        let mut raised = Raised::start(&world, &specs, RAISED, &["--id", "one"]);
        raised.run.signal(Signal::KILL);
        raised.run.wait_here().ended(End::Signal(9));
        raised.bookend(&["recover", "--grace", "10s"]).ended(End::Code(0)).silent();
        gone(&world, raised.agent);
        assert_eq!((raised.row().ending().as_str(), raised.row().text("end_source").as_str()), LOST);
        world.write("DELETE FROM task_history");
        std::fs::remove_file(world.path("out")).expect("the pipe");
    }
}

/// As on a kernel before 6.9, where a pidfd has no unique inode.
#[test]
fn an_agent_that_cannot_be_verified_keeps_its_key_until_it_is_released() {
    let Some((world, specs)) = world("an_agent_that_cannot_be_verified_keeps_its_key_until_it_is_released")
    else {
        return;
    };
    let specs: Vec<String> = ["proc=hidepid=2".to_owned()].into_iter().chain(specs).collect();
    let mut raised = Raised::start(&world, &specs, ROOT, &["--id", "one", "--key", "k"]);
    world.write("UPDATE task_history SET supervisor_pidfd = NULL, agent_pidfd = NULL");
    raised.run.signal(Signal::KILL);
    raised.run.wait_here().ended(End::Signal(9));
    let printed = raised.bookend(&["recover", "--grace", "0s"]).ended(End::Code(0)).silent();
    let command = "bookend recover --ledger";
    for part in [&format!("(pid {}) may still run", raised.agent), command, "--ttl 0 one"] {
        assert!(printed.stdout.contains(part), "{part} in {printed:?}");
    }
    let again = || world.run(["true"]).options(["--key", "k"]).with(&specs).run();
    let refused = again().ended(End::Code(75));
    assert!(refused.stderr.contains(command) && refused.stderr.contains("--ttl 0 one"), "{refused:?}");
    let from = refused.stderr.find(command).expect("the command");
    let suggested = refused.stderr[from..].lines().next().expect("a line");
    let words: Vec<&str> = suggested.split(' ').collect();
    let released = world.bare(words).with(&specs).run().ended(End::Code(0)).silent();
    assert!(released.stdout.contains("task one"), "{released:?}");
    again().ended(End::Code(0)).silent();
    assert!(raised.is_running(), "the agent was signalled");
    raised.end();
}

const LOST: (&str, &str) = ("interrupted/supervisor_lost", "recovery");

#[test]
fn a_set_user_id_agent_that_may_be_signalled_is_ended() {
    let Some((world, specs)) = world("a_set_user_id_agent_that_may_be_signalled_is_ended") else { return };
    let raised = Raised::start(&world, &specs, RAISED, &["--timeout", "100ms"]);
    let Raised { run, agent, .. } = raised;
    run.wait().ended(End::Code(124));
    gone(&world, agent);
    assert_eq!(world.row().ending(), "cancelled/timeout");
    assert_eq!(world.row().number("term_signal"), Some(15));
}

#[test]
fn a_timeout_reports_an_agent_that_it_may_not_signal_and_does_not_wait_for_it() {
    let Some((world, specs)) =
        world("a_timeout_reports_an_agent_that_it_may_not_signal_and_does_not_wait_for_it")
    else {
        return;
    };
    let options = ["--timeout", "100ms", "--grace", "100ms", "--key", "k", "--on-finish", "cat >../tmp/row"];
    let mut raised = Raised::start(&world, &specs, ROOT, &options);
    let printed = raised.run.wait_here().ended(End::Code(124));
    assert!(printed.stderr.contains("could not send SIGKILL"), "{printed:?}");
    assert!(printed.stderr.contains("was not ended, and is still running"), "{printed:?}");
    raised.assert_honest("cancelled/timeout");
    let row: serde_json::Value =
        serde_json::from_slice(&std::fs::read(world.path("tmp/row")).expect("a row")).expect("JSON");
    assert_eq!((&row["status"], &row["exit_code"]), (&"cancelled".into(), &serde_json::Value::Null));

    // No second run starts under the key while the first agent runs.
    let again = || world.run(["touch", &world.name("tmp/again")]).options(["--key", "k"]).with(&specs).run();
    let refused = again().ended(End::Code(75));
    assert!(refused.stderr.contains(&format!("pid {}", raised.agent)), "{refused:?}");
    assert!(!world.path("tmp/again").exists() && raised.is_running());
    raised.end();
    again().ended(End::Code(0));
    assert!(world.path("tmp/again").exists());
}

#[test]
fn cancel_does_not_claim_the_end_of_an_agent_that_it_may_not_signal() {
    let Some((world, specs)) = world("cancel_does_not_claim_the_end_of_an_agent_that_it_may_not_signal")
    else {
        return;
    };
    let mut raised = Raised::start(&world, &specs, ROOT, &["--id", "one", "--grace", "100ms"]);
    let printed = raised.bookend(&["cancel", "one"]).ended(End::Code(1));
    assert!(printed.stdout.contains("task one: cancelled (operator)"), "{printed:?}");
    assert!(printed.stdout.contains("was not ended, and is still running"), "{printed:?}");
    raised.run.wait_here().ended(End::Signal(15));
    raised.assert_honest("cancelled/operator");
    raised.end();
}

#[test]
fn a_stop_signal_ends_the_run_of_an_agent_that_may_not_be_signalled() {
    let Some((world, specs)) = world("a_stop_signal_ends_the_run_of_an_agent_that_may_not_be_signalled")
    else {
        return;
    };
    for signal in [libc::SIGHUP, libc::SIGTERM] {
        let mut raised = Raised::start(&world, &specs, ROOT, &["--grace", "50ms"]);
        world.send(raised.run.pid(), [signal]);
        raised.run.wait_here().ended(End::Signal(signal));
        raised.assert_honest("interrupted/signal");
        assert_eq!(raised.row().number("stop_signal"), Some(signal.into()));
        raised.end();
        world.write("DELETE FROM task_history");
        std::fs::remove_file(world.path("out")).expect("the pipe");
    }
}

#[test]
fn a_set_user_id_agent_that_exits_by_itself_is_recorded_normally() {
    let Some((world, specs)) = world("a_set_user_id_agent_that_exits_by_itself_is_recorded_normally") else {
        return;
    };
    let run = |words: &[&str]| world.run(words.iter().copied()).with(&specs).run();
    run(&["raised", "exit", "3"]).ended(End::Code(3)).silent();
    run(&["raised", "with", "uid=0", "--", "probe", "exit", "0"]).ended(End::Code(0)).silent();
    run(&["raised", "with", "uid=0", "--", "probe", "die", "11"]).ended(End::Signal(11)).silent();
    let endings: Vec<String> = world.rows().iter().map(Row::ending).collect();
    assert_eq!(endings, ["failure/exit", "success/", "failure/signal"]);
}

#[test]
fn a_leftover_that_may_not_be_signalled_is_counted_and_not_waited_for() {
    let Some((world, specs)) = world("a_leftover_that_may_not_be_signalled_is_counted_and_not_waited_for")
    else {
        return;
    };
    for (n, proc) in ["", "proc=hidepid=2"].into_iter().enumerate() {
        let specs: Vec<String> =
            [proc].iter().filter(|p| !p.is_empty()).map(|p| (*p).to_owned()).chain(specs.clone()).collect();
        let (mut out, mut go) = (world.fifo(&format!("out{n}")), world.fifo(&format!("go{n}")));
        let daemon = format!("probe daemon -- raised with uid=0 setsid -- probe stay {}", out.path());
        let script = format!("{daemon}; read x <{}; exit 1", go.path());
        let run = world.run_sh(&script).options(["--grace", "60s"]).with(&specs).start();
        let left = out.pid("stay");
        // The process has become another user by now.
        go.write_line("now");
        run.wait().ended(End::Code(1));
        let row = world.rows().remove(n).json("leftovers");
        let counts = (&row["found"], &row["ended"], &row["left"]);
        assert_eq!(counts, (&1.into(), &0.into(), &1.into()), "{proc}: {row}");
        let why = if proc_is_hidden() || !proc.is_empty() { "hidden" } else { "unreadable" };
        assert_eq!((&row["spared"][0]["pid"], &row["spared"][0]["why"]), (&left.into(), &why.into()));
        eventually(world.deadline(), "the leftover still runs", || state(left) == Some('S'));
    }
}
