//! The start of a run: signals before the agent exists are not lost, and a run that is stopped, or whose
//! supervisor dies, does not execute the agent.

use crate::harness::{End, Proc, World, eventually, open_files, possible};
use crate::signals::{STOPS, stopped_before_its_agent_ran};

/// An open write transaction of another connection, for which the start of a run waits.
struct LockedLedger(rusqlite::Connection);

impl LockedLedger {
    fn new(world: &World) -> LockedLedger {
        world.run(["true"]).run().ended(End::Code(0));
        let ledger = rusqlite::Connection::open(world.ledger()).expect("the ledger");
        ledger.execute_batch("BEGIN IMMEDIATE").expect("the write lock");
        LockedLedger(ledger)
    }

    /// Waits until `process` has opened the live file, which is just before it writes to the ledger.
    fn wait_for_writer(&self, world: &World, process: &Proc) {
        eventually(world.deadline(), "the run to open the live file", || {
            open_files(process.pid()).iter().any(|f| f.ends_with("/live"))
        });
    }

    fn release(self) {
        self.0.execute_batch("COMMIT").expect("the commit");
    }
}

#[test]
fn a_signal_before_the_agent_exists_reaches_it() {
    let Some(world) = World::of_bookend("a_signal_before_the_agent_exists_reaches_it") else {
        return;
    };
    let ledger = LockedLedger::new(&world);
    let mut out = world.fifo("count");
    // The agent inherits the mask, so the signals stay pending until the probe reads them.
    let process = world.run(["probe", "count", &out.path()]).with(["mask=10,12,32,40"]).own_group().start();
    ledger.wait_for_writer(&world, &process);
    world.send(process.pid(), ["10", "12:5", "32", "40:1", "40:2"]);
    ledger.release();
    let agent = out.pid("ready");
    // Signal 64 arrives last.
    world.send(process.pid(), ["64:77"]);
    for expected in ["10 0", "12 5", "32 0", "40 1", "40 2", "64 77"] {
        let line = out.line();
        assert!(line.starts_with(&format!("{expected} ")), "{expected}: {line}");
    }
    world.send(agent, ["64:1000"]);
    process.wait().ended(End::Code(0)).silent();
}

#[test]
fn a_stop_signal_before_the_commit_ends_the_task_without_running_the_agent() {
    let Some(world) =
        World::of_bookend("a_stop_signal_before_the_commit_ends_the_task_without_running_the_agent")
    else {
        return;
    };
    for (signal, ending) in STOPS {
        let ledger = LockedLedger::new(&world);
        let effect = world.name("effect");
        let process = world.run(["touch", &effect]).own_group().start();
        ledger.wait_for_writer(&world, &process);
        world.send(process.pid(), [signal]);
        ledger.release();
        let row = stopped_before_its_agent_ran(&world, process, signal, ending);
        assert_eq!(row.number("exit_code"), None, "the agent never had an exit code");
    }
}

/// ptrace holds the child at its first instruction. The supervisor opens the gate and dies before the child
/// sets its parent-death signal, so no signal reaches the child.
#[test]
fn a_child_does_not_execute_if_its_supervisor_died_before_pdeathsig_was_set() {
    let test = "a_child_does_not_execute_if_its_supervisor_died_before_pdeathsig_was_set";
    let Some(world) = World::of_bookend(test) else {
        return;
    };
    let mut out = world.fifo("newborn");
    let effect = world.name("effect");
    let agent = ["bookend", "run", "--", "touch", &effect];
    let mut holder = world.bare(["probe", "newborn", &out.path()].into_iter().chain(agent)).start();
    let supervisor = match out.line().split_once(' ') {
        Some(("held", pid)) => pid.parse().expect("a pid"),
        _ => {
            let stderr = holder.wait_here().stderr;
            assert!(!possible(test, false, &format!("ptrace ({stderr})")));
            return;
        }
    };
    eventually(world.deadline(), "the gate to open, so that only the report pipe is left", || {
        let pipes = open_files(supervisor).iter().filter(|f| f.starts_with("pipe:")).count();
        pipes == 1 && world.row().text("status") == "running"
    });
    world.send(supervisor, [9]);
    holder.wait().ended(End::Code(125));
    assert!(!world.path("effect").exists(), "the agent ran");
}
