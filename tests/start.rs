//! From the first moment on: what comes before there is an agent is not lost, and a run that is to stop, or
//! whose supervisor dies, executes nothing.

use crate::harness::{End, Proc, World, eventually, open_files, possible};
use crate::signals::{STOPS, stopped_before_its_agent_ran};

/// Somebody else writes to the ledger, so that the start of a run waits for it.
struct BusyLedger(rusqlite::Connection);

impl BusyLedger {
    fn new(world: &World) -> BusyLedger {
        world.run(["true"]).run().ended(End::Code(0));
        let ledger = rusqlite::Connection::open(world.ledger()).expect("the ledger");
        ledger.execute_batch("BEGIN IMMEDIATE").expect("the one place of a writer");
        BusyLedger(ledger)
    }

    /// Waits until `process` is past its own start and wants to write.
    fn wanted_by(&self, world: &World, process: &Proc) {
        eventually(world.deadline(), "it has opened the file of live locks", || {
            open_files(process.pid()).iter().any(|f| f.ends_with("/live"))
        });
    }

    fn give_way(self) {
        self.0.execute_batch("COMMIT").expect("the end of a transaction");
    }
}

#[test]
fn a_signal_before_the_agent_exists_reaches_it() {
    let Some(world) = World::of_bookend("a_signal_before_the_agent_exists_reaches_it") else {
        return;
    };
    let ledger = BusyLedger::new(&world);
    let mut out = world.fifo("count");
    // Blocked in the agent too, so that it has them when it begins to listen.
    let process = world.run(["probe", "count", &out.path()]).with(["mask=10,12,32,40"]).own_group().start();
    ledger.wanted_by(&world, &process);
    world.send(process.pid(), ["10", "12:5", "32", "40:1", "40:2"]);
    ledger.give_way();
    let agent = out.pid("ready");
    // When this has arrived, so has everything that was sent before.
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
        let ledger = BusyLedger::new(&world);
        let effect = world.name("effect");
        let process = world.run(["touch", &effect]).own_group().start();
        ledger.wanted_by(&world, &process);
        world.send(process.pid(), [signal]);
        ledger.give_way();
        let row = stopped_before_its_agent_ran(&world, process, signal, ending);
        assert_eq!(row.number("exit_code"), None, "nothing was executed that could leave");
    }
}

/// The supervisor dies after it opened the gate, and before its child, which was held at its birth, could
/// ask for the parent-death signal: nothing would ever tell it.
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
            let said = holder.wait_here().stderr;
            assert!(!possible(test, false, &format!("ptrace ({said})")));
            return;
        }
    };
    eventually(world.deadline(), "the gate is open: of its two pipes only the report is left", || {
        let pipes = open_files(supervisor).iter().filter(|f| f.starts_with("pipe:")).count();
        pipes == 1 && world.row().text("status") == "running"
    });
    world.send(supervisor, [9]);
    holder.wait().ended(End::Code(125));
    assert!(!world.path("effect").exists(), "the agent ran");
}
