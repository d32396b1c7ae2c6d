//! Stop signals stop and SIGCONT continues both bookend and its agent, as job control does with one process.

use rustix::process::Signal;

use crate::harness::{End, World, eventually, state};

/// The test process is in the same session and outside the group, so the group is not orphaned.
#[test]
fn a_stop_signal_stops_both_and_sigcont_continues_both_with_or_without_a_terminal() {
    let world = World::new();
    let mut out = world.fifo("stay");
    let process = world.run(["probe", "stay", &out.path()]).own_group().start();
    let (agent, job) = (out.pid("stay"), process.pid());
    let await_state = |wanted| {
        for pid in [agent, job] {
            eventually(world.deadline(), &format!("{wanted} of {pid}"), || state(pid) == Some(wanted));
        }
    };
    for signal in [20, 21, 22] {
        for to in [job, -job] {
            world.send(to, [signal]);
            await_state('T');
            world.send(to, [18]);
            await_state('S');
        }
    }
    process.signal(Signal::TERM);
    process.wait().ended(End::Signal(15)).silent();
}

#[test]
fn a_stopped_run_ends_after_sigterm_and_sigcont() {
    let world = World::new();
    let mut out = world.fifo("stay");
    let process = world.run(["probe", "stay", &out.path()]).own_group().start();
    let (agent, job) = (out.pid("stay"), process.pid());
    world.send(job, [20]);
    for pid in [agent, job] {
        eventually(world.deadline(), &format!("a stop of {pid}"), || state(pid) == Some('T'));
    }
    world.send(job, [15, 18]);
    process.wait().ended(End::Signal(15)).silent();
}

#[test]
fn a_stop_signal_in_an_orphaned_group_stops_neither_process() {
    let world = World::new();
    let mut out = world.fifo("stay");
    let process = world.run(["probe", "stay", &out.path()]).with(["setsid"]).start();
    let (agent, job) = (out.pid("stay"), process.pid());
    for signal in [20, 21, 22] {
        world.send(job, [signal]);
    }
    world.send(job, [15]);
    process.wait().ended(End::Signal(15)).silent();
    assert_eq!(state(agent), None);
}
