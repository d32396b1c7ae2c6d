//! A stop in the middle of a tool call: the row has the sender, the session is invalidated, and no process
//! is left.

use rustix::process::Signal;

use crate::harness::{End, state};
use crate::{Real, STREAM_JSON};

#[test]
fn sigterm_in_a_tool_call_interrupts_the_run_and_leaves_no_process() {
    let test = "sigterm_in_a_tool_call_interrupts_the_run_and_leaves_no_process";
    let Some(real) = Real::new(test, "tool:slow-tool;text:never") else { return };
    let world = &real.world;
    let mut started = world.fifo("started");
    // A tool that does not end, with two processes that Claude Code does not stop, one of them in its own
    // session.
    let script = format!(
        "#!/bin/sh\nsetsid sleep 1000 & a=$!\nsleep 1000 & b=$!\necho $$ $a $b >{}\nwait\n",
        started.path()
    );
    world.program("slow-tool", &script);
    let run = real.claude(STREAM_JSON).options(["--key", "k"]).start();
    let pids = started.line();
    assert_eq!(world.row().text("status"), "running");
    assert_eq!(world.sql("SELECT * FROM claude_sdk_sessions").len(), 1);

    let supervisor = run.pid();
    run.signal(Signal::TERM);
    let output = run.wait();
    assert_eq!(output.end, End::Code(143), "{output:?}");

    let row = world.row();
    assert_eq!(row.ending(), "interrupted/signal");
    assert_eq!(row.pid("supervisor_pid"), supervisor);
    assert_eq!(row.number("stop_signal"), Some(15));
    assert_eq!(row.number("stop_sender_pid"), Some(std::process::id().into()));
    assert_eq!(row.number("stop_sender_uid"), Some(rustix::process::getuid().as_raw().into()));
    assert!(world.sql("SELECT * FROM claude_sdk_sessions").is_empty());
    let invalidated = world.sql("SELECT * FROM session_invalidation");
    assert_eq!(invalidated.len(), 1);
    assert_eq!(invalidated[0].text("session_id"), row.text("session_id"));

    let agent = row.pid("agent_pid");
    let tools = pids.split_whitespace().map(|pid| pid.parse().expect("a pid"));
    for pid in [agent].into_iter().chain(tools) {
        assert_eq!(state(pid), None, "process {pid} of the agent {agent}, tools {pids}");
    }
}
