//! A sandbox or an old kernel refuses pidfd_send_signal(2): bookend signals its children by kill(2), and no
//! other process at all.

use rustix::process::Signal;

use crate::harness::{End, Proc, World, state};
use crate::standins::gone;

/// The errors with which a kernel before 5.1 and a sandbox refuse the call.
const REFUSALS: [i32; 2] = [libc::ENOSYS, libc::EPERM];

fn refusing(errno: i32) -> String {
    format!("seccomp={}:{errno}", libc::SYS_pidfd_send_signal)
}

/// Starts a run outside the sandbox. Returns its supervisor and its agent.
fn start(world: &World, id: &str) -> (Proc, i32) {
    let mut say = world.fifo(&format!("say-{id}"));
    // The agent ignores the parent-death signal, SIGTERM, so it outlives its supervisor.
    let script = format!("trap '' TERM; echo ready $$ >{}; exec sleep 1000", say.path());
    let run = world.run_sh(&script).options(["--id", id, "--key", id]).start();
    let agent = say.pid("ready");
    (run, agent)
}

#[test]
fn kill_2_ends_the_agent_and_forwards_signals() {
    let Some(world) = World::of_bookend("kill_2_ends_the_agent_and_forwards_signals") else { return };
    for errno in REFUSALS {
        let timed_out = world.run(["sleep", "1000"]).options(["--timeout", "100ms"]).with([refusing(errno)]);
        timed_out.run().ended(End::Code(124));
        let row = world.rows().pop().expect("a row");
        assert_eq!((row.ending().as_str(), row.number("term_signal")), ("cancelled/timeout", Some(15)));

        let mut out = world.fifo(&format!("out{errno}"));
        let counting = world.run(["probe", "count", &out.path()]).with([refusing(errno)]).start();
        out.pid("ready");
        world.send(counting.pid(), ["10", "40:7"]);
        world.send(counting.pid(), ["64:1000"]);
        let counted = out.rest();
        assert_eq!(counted, ["10 0 0", "40 7 -1"], "{errno}");
        counting.wait().ended(End::Code(0));
    }
}

#[test]
fn cancel_does_not_signal_the_supervisor_and_names_its_pid() {
    let Some(world) = World::of_bookend("cancel_does_not_signal_the_supervisor_and_names_its_pid") else {
        return;
    };
    let (run, agent) = start(&world, "one");
    for errno in REFUSALS {
        let cancelling = world.bare(["bookend", "cancel", "one"]).with([refusing(errno)]);
        let output = cancelling.run().ended(End::Code(1));
        let pid = format!("(pid {}) was not signalled: pidfd_send_signal(2)", run.pid());
        assert!(output.stderr.contains(&pid), "{output:?}");
        assert!(output.stderr.contains(&format!("kill {}", run.pid())), "{output:?}");
        assert!(!output.stderr.contains("user"), "{output:?}");
        assert_eq!((state(agent), world.row().text("status").as_str()), (Some('S'), "running"));
    }
}

#[test]
fn recover_does_not_signal_the_agent_and_names_its_pid() {
    let Some(world) = World::of_bookend("recover_does_not_signal_the_agent_and_names_its_pid") else {
        return;
    };
    let (mut run, agent) = start(&world, "one");
    run.signal(Signal::KILL);
    run.wait_here().ended(End::Signal(9));
    for errno in REFUSALS {
        let recovering = world.bare(["bookend", "recover", "--grace", "0s"]).with([refusing(errno)]);
        let output = recovering.run().ended(End::Code(1));
        for part in [&format!("pid {agent}"), "pidfd_send_signal(2)", "task one stays running"] {
            assert!(output.stdout.contains(part), "{part} in {output:?}");
        }
        assert!(!output.stdout.contains("another user"), "{output:?}");
        assert_eq!(state(agent), Some('S'), "the agent was not signalled");
        let again = world.run(["true"]).options(["--key", "one", "--grace", "0s"]).with([refusing(errno)]);
        let refused = again.run().ended(End::Code(75));
        assert!(refused.stderr.contains(&format!("pid {agent}")), "{refused:?}");
    }
    world.bare(["bookend", "recover", "--grace", "0s"]).run().ended(End::Code(0));
    gone(&world, agent);
}

#[test]
fn an_agent_that_a_sandbox_protects_is_not_attributed_to_another_user() {
    let Some(world) = World::of_bookend("an_agent_that_a_sandbox_protects_is_not_attributed_to_another_user")
    else {
        return;
    };
    let no_kill = format!("seccomp={}:{}", libc::SYS_kill, libc::EPERM);
    let options = ["--timeout", "100ms", "--grace", "50ms"];
    let run = world.run(["sleep", "1000"]).options(options).with([refusing(libc::EPERM), no_kill]);
    let output = run.run().ended(End::Code(124));
    assert!(output.stderr.contains("a sandbox forbids"), "{output:?}");
    let row = world.row();
    assert!(row.text("error").contains(&format!("pid {}", row.pid("agent_pid"))), "{row:?}");
    assert!(!row.text("error").contains("another user"), "{row:?}");
}

#[test]
fn doctor_reports_a_blocked_pidfd_send_signal() {
    let Some(world) = World::of_bookend("doctor_reports_a_blocked_pidfd_send_signal") else { return };
    for errno in REFUSALS {
        let output = world.bare(["bookend", "doctor"]).with([refusing(errno)]).run().ended(End::Code(1));
        assert!(output.stdout.contains("pidfd_send_signal(2) does not work here"), "{output:?}");
    }
    let output = world.bare(["bookend", "doctor"]).run();
    assert!(!output.stdout.contains("pidfd_send_signal"), "{output:?}");
}
