//! bookend reaps orphans of the agent and does not take their exit status for the agent's, also as PID 1.

use std::fs;

use crate::harness::{End, World, children, eventually, is_root, on_path, possible, state};

fn zombies(pid: i32) -> Vec<i32> {
    children(pid).into_iter().filter(|c| state(*c) == Some('Z')).collect()
}

#[test]
fn orphans_are_reaped_while_the_agent_runs_and_not_taken_for_it() {
    let world = World::new();
    let mut go = world.fifo("go");
    let script = format!("probe orphans 20 {}; exit $?", go.path());
    let agent = world.run_sh(&script).start();
    go.write_line("now");
    agent.wait().ended(End::Code(3)).silent();

    let mut go = world.fifo("go again");
    let agent = world.run(["probe", "orphans", "20", &go.path()]).start();
    let pid = agent.pid();
    if agent.supervised() {
        eventually(world.deadline(), "orphans are reaped", || zombies(pid).is_empty());
    }
    go.write_line("now");
    agent.wait().ended(End::Code(3)).silent();
}

/// `exec` keeps the children of the shell, so bookend has a child that it did not fork.
#[test]
fn a_child_that_bookend_did_not_fork_is_not_taken_for_the_agent() {
    let world = World::new();
    let mut go = world.fifo("go");
    let script = format!("probe exit 7 & exec $W sh -c 'read x <{}; exit 3'", go.path());
    let agent = world.bare(["sh", "-c", &script]).start();
    let pid = agent.pid();
    if agent.supervised() {
        eventually(world.deadline(), "the child is reaped", || zombies(pid).is_empty());
    }
    go.write_line("now");
    agent.wait().ended(End::Code(3)).silent();
}

#[test]
fn an_ignored_sigchld_does_not_hide_the_agents_status() {
    let world = World::new();
    world.run(["probe", "exit", "5"]).with(["ignore=17"]).run().ended(End::Code(5)).silent();
    world.run(["probe", "die", "15"]).with(["ignore=17"]).run().ended(End::Signal(15)).silent();
}

#[test]
fn bookend_does_not_wait_for_a_running_orphan() {
    let world = World::new();
    let mut out = world.fifo("out");
    let mut go = world.fifo("go");
    let script = format!("probe daemon -- probe stay {}; read x <{}", out.path(), go.path());
    let agent = world.run_sh(&script).start();
    let orphan = out.pid("stay");
    go.write_line("now");
    agent.wait().ended(End::Code(0)).silent();
    assert_ne!(state(orphan), None, "it still runs after a success");
}

/// A world for tests with `unshare`; `None` if it cannot be used here.
fn namespace(test: &str) -> Option<World> {
    let here = is_root() && on_path("unshare") && fs::metadata("/proc/self/ns/pid").is_ok();
    if !possible(test, here, "root and unshare, for a pid namespace") {
        return None;
    }
    World::of_bookend(test)
}

fn in_namespace(line: &str) -> [String; 3] {
    let line = format!("exec unshare --pid --fork --mount-proc --kill-child {line}");
    ["sh".into(), "-c".into(), line]
}

#[test]
fn pid_1_exits_with_the_agents_code() {
    let Some(world) = namespace("pid_1_exits_with_the_agents_code") else {
        return;
    };
    world.bare(in_namespace("$W probe exit 7")).run().ended(End::Code(7)).silent();
    assert_eq!(world.row().ending(), "failure/exit");
    assert_eq!(world.row().number("supervisor_pid"), Some(1));
}

#[test]
fn pid_1_exits_with_128_plus_the_signal_that_killed_the_agent() {
    let Some(world) = namespace("pid_1_exits_with_128_plus_the_signal_that_killed_the_agent") else {
        return;
    };
    for signal in [2, 9, 11, 15, 40] {
        let line = format!("$W probe die {signal}");
        world.bare(in_namespace(&line)).run().ended(End::Code(128 + signal)).silent();
    }
}

#[test]
fn pid_1_forwards_signals() {
    let Some(world) = namespace("pid_1_forwards_signals") else {
        return;
    };
    let mut out = world.fifo("count");
    let line = format!("$W probe count {}", out.path());
    let process = world.bare(in_namespace(&line)).own_group().start();
    out.pid("ready");
    let supervisor = children(process.pid())[0];
    for signal in (1..=64).filter(|s| ![9, 17, 18, 19].contains(s)) {
        world.send(supervisor, [signal]);
        assert!(out.line().starts_with(&format!("{signal} ")), "{signal}");
    }
    world.send(supervisor, ["64:77"]);
    assert!(out.line().starts_with("64 77"));
    world.send(supervisor, ["64:1005"]);
    process.wait().ended(End::Code(5)).silent();
}

#[test]
fn pid_1_reaps_orphans() {
    let Some(world) = namespace("pid_1_reaps_orphans") else {
        return;
    };
    let mut go = world.fifo("go");
    let line = format!("$W probe orphans 20 {}", go.path());
    let process = world.bare(in_namespace(&line)).start();
    eventually(world.deadline(), "PID 1", || !children(process.pid()).is_empty());
    let supervisor = children(process.pid())[0];
    eventually(world.deadline(), "orphans are reaped", || zombies(supervisor).is_empty());
    go.write_line("now");
    process.wait().ended(End::Code(3)).silent();
}

#[test]
fn pid_1_on_sigterm_ends_the_agent_and_records_it() {
    let Some(world) = namespace("pid_1_on_sigterm_ends_the_agent_and_records_it") else {
        return;
    };
    let mut out = world.fifo("stay");
    let line = format!("$W probe stay {}", out.path());
    let process = world.bare(in_namespace(&line)).own_group().start();
    out.pid("stay");
    world.send(children(process.pid())[0], [15]);
    process.wait().ended(End::Code(143));
    assert_eq!(world.row().ending(), "interrupted/signal");
}

#[test]
fn an_agent_that_is_pid_1_of_its_own_namespace_runs_and_exits_as_without_bookend() {
    let Some(world) =
        namespace("an_agent_that_is_pid_1_of_its_own_namespace_runs_and_exits_as_without_bookend")
    else {
        return;
    };
    let line = "exec unshare --pid $W probe exit 4";
    world.bare(["sh", "-c", line]).run().ended(End::Code(4)).silent();
    assert_eq!(world.row().ending(), "failure/exit");
}
