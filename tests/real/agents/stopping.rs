//! An end in the middle of a tool call: the row has it, the session is invalidated, and no process is left.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{AgentWorld, NpmAgent, for_each_agent};
use crate::harness::{End, Output, Row};

for_each_agent! {
    sigterm_in_a_tool_call_interrupts_the_run_and_leaves_no_process
    sigint_in_a_tool_call_cancels_the_run_and_leaves_no_process
    a_kill_of_the_agent_in_a_tool_call_leaves_no_process
    recover_settles_a_run_killed_in_a_tool_call_and_leaves_no_process
}

/// Between the steps of a stop. An agent that ends only by SIGKILL takes longer.
const GRACE: Duration = Duration::from_secs(30);

/// The run ended like this in the tool call, so its session is invalidated and nothing runs any more.
#[track_caller]
fn assert_ended(against: &AgentWorld<'_>, ending: &str) -> Row {
    let row = against.last();
    assert_eq!(row.ending(), ending);
    assert_eq!(row.text("agent_type"), against.agent.name);
    assert!(against.world.sql("SELECT * FROM claude_sdk_sessions").is_empty());
    let invalidated = against.world.sql("SELECT * FROM session_invalidation");
    let invalidated: Vec<String> = invalidated.iter().map(|row| row.text("session_id")).collect();
    assert_eq!(invalidated, [row.text("session_id")], "{row:?}");
    against.assert_nothing_runs();
    row
}

/// Stops the run in the tool call, which must take less than the grace.
fn stopped(against: &mut AgentWorld<'_>, signal: Signal, ending: &str) -> Output {
    let run = against.start_in_a_tool_call(GRACE);
    let asked = Instant::now();
    run.signal(signal);
    let output = run.wait();
    let took = asked.elapsed();
    assert!(took < GRACE, "{took:?}: {output:?}");
    let row = assert_ended(against, ending);
    assert_eq!(row.number("stop_signal"), Some(signal.as_raw().into()));
    assert_ne!(row.number("term_signal"), Some(9), "{row:?}");
    output
}

fn sigterm_in_a_tool_call_interrupts_the_run_and_leaves_no_process(agent: &NpmAgent) {
    let Some(mut against) = AgentWorld::new(agent, "tool:{tool};text:never") else { return };
    let output = stopped(&mut against, Signal::TERM, "interrupted/signal");
    assert_eq!(output.end, agent.stopped, "{output:?}");
}

fn sigint_in_a_tool_call_cancels_the_run_and_leaves_no_process(agent: &NpmAgent) {
    let Some(mut against) = AgentWorld::new(agent, "tool:{tool};text:never") else { return };
    stopped(&mut against, Signal::INT, "cancelled/operator");
}

fn a_kill_of_the_agent_in_a_tool_call_leaves_no_process(agent: &NpmAgent) {
    let Some(mut against) = AgentWorld::new(agent, "tool:{tool};text:never") else { return };
    let run = against.start_in_a_tool_call(GRACE);
    against.kill_agent();
    let output = run.wait();
    assert_eq!(output.end, End::Signal(9), "{output:?}");
    let row = assert_ended(&against, "failure/signal");
    assert_eq!(row.number("term_signal"), Some(9));
}

fn recover_settles_a_run_killed_in_a_tool_call_and_leaves_no_process(agent: &NpmAgent) {
    let Some(mut against) = AgentWorld::new(agent, "tool:{tool};text:never") else { return };
    let run = against.start_in_a_tool_call(GRACE);
    run.signal(Signal::KILL);
    against.world.bare(["bookend", "recover", "--grace", "1s"]).run().ended(End::Code(0));
    let row = assert_ended(&against, "interrupted/supervisor_lost");
    assert_eq!(row.text("tool_in_flight"), agent.tool.unwrap_or_default());
}
