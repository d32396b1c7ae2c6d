//! What the README's comparison says of a wrapper script and of tini. tests/systemd checks `systemd-run`.

use rustix::process::Signal;

use crate::harness::{End, World, eventually, on_path, possible, state};

/// Writes a row before and after the agent, as many do. It cannot pass a signal on, or see its own SIGKILL.
const WRAPPER: &str = r#"#!/bin/sh
echo running >>rows
"$@"
code=$?
echo "ended with $code" >>rows
exit $code
"#;

const TERMINATES_ITSELF: [&str; 3] = ["sh", "-c", "kill -TERM $$"];

/// A zombie has ended.
fn runs(pid: i32) -> bool {
    state(pid).is_some_and(|state| state != 'Z')
}

/// What the wrapper script wrote, and whether the agent still runs, after this signal to the script.
fn wrapper_that_gets(signal: Signal) -> (String, bool) {
    let world = World::new();
    world.program("wrapper", WRAPPER);
    let mut up = world.fifo("up");
    let script = format!("echo $$ >{}; exec sleep 1000", up.path());
    let wrapper = world.bare(["wrapper", "sh", "-c", &script]).start();
    let agent = up.line().parse().expect("a pid");
    wrapper.signal(signal);
    wrapper.wait().ended(End::Signal(signal.as_raw()));
    (std::fs::read_to_string(world.path("home/rows")).expect("rows"), runs(agent))
}

#[test]
fn a_wrapper_script_loses_the_end_and_the_agent_runs_on() {
    assert_eq!(wrapper_that_gets(Signal::KILL), ("running\n".to_owned(), true));
}

#[test]
fn a_wrapper_script_does_not_pass_a_signal_on() {
    assert_eq!(wrapper_that_gets(Signal::TERM), ("running\n".to_owned(), true));
}

#[test]
fn bookend_ends_by_the_agents_signal_and_others_exit_with_143() {
    let world = World::new();
    world.program("wrapper", WRAPPER);
    world.bare(["bookend", "run", "--"].into_iter().chain(TERMINATES_ITSELF)).run().ended(End::Signal(15));
    world.bare(["wrapper"].into_iter().chain(TERMINATES_ITSELF)).run().ended(End::Code(143));
    if possible("the comparison with tini", on_path("tini"), "tini") {
        world.bare(["tini", "-s", "--"].into_iter().chain(TERMINATES_ITSELF)).run().ended(End::Code(143));
    }
}

#[test]
fn after_kill_9_of_the_supervisor_bookend_records_the_end() {
    let world = World::new();
    let mut up = world.fifo("up");
    let script = format!("echo $$ >{}; exec sleep 1000", up.path());
    let run = world.bare(["bookend", "run", "--", "sh", "-c", &script]).start();
    let agent: i32 = up.line().parse().expect("a pid");
    run.signal(Signal::KILL);
    run.wait().ended(End::Signal(9));
    world.bare(["bookend", "recover"]).run().ended(End::Code(0));
    assert_eq!(world.row().text("status"), "interrupted");
    eventually(world.deadline(), "the agent has ended", || !runs(agent));
}
