//! The row of a run has what the agent reports.

use super::{AgentWorld, NpmAgent, for_each_agent};
use crate::harness::Row;

for_each_agent! {
    a_success_has_its_session_model_and_figures
    the_figures_of_a_run_with_a_tool_cover_its_steps
    an_error_of_the_api_is_a_failure_with_its_text
}

/// The row has the tokens and the cost of `requests` answers.
#[track_caller]
pub fn assert_figures(agent: &NpmAgent, row: &Row, requests: i64) {
    let each = agent.tokens.then_some(requests);
    assert_eq!(row.number("input_tokens"), each.map(|n| 90 * n), "{row:?}");
    assert_eq!(row.number("cache_read_tokens"), each.map(|n| 10 * n), "{row:?}");
    assert_eq!(row.number("output_tokens"), each.map(|n| 20 * n), "{row:?}");
    let cost = agent.cost.map(|cost| cost * requests as f64);
    let difference = row.real("cost_usd").unwrap_or_default() - cost.unwrap_or_default();
    assert!(row.real("cost_usd").is_some() == cost.is_some() && difference.abs() < 1e-9, "{cost:?}: {row:?}");
}

fn a_success_has_its_session_model_and_figures(agent: &NpmAgent) {
    let Some(mut against) = AgentWorld::new(agent, "text:pong") else { return };
    let output = against.run(0);
    assert!(output.stdout.contains("pong"), "{output:?}");
    let row = against.last();
    assert_eq!(row.ending(), "success/");
    assert_eq!(row.number("exit_code"), Some(0));
    assert_eq!(row.text("agent_type"), agent.name);
    assert_eq!(row.text("model"), agent.model);
    let session = row.text("session_id");
    assert!(!session.is_empty() && output.stdout.contains(&session), "{session:?} in {output:?}");
    assert_figures(agent, &row, 1);
    against.assert_nothing_runs();
}

fn the_figures_of_a_run_with_a_tool_cover_its_steps(agent: &NpmAgent) {
    let Some(mut against) = AgentWorld::new(agent, "tool:echo from-the-tool;text:done") else { return };
    let output = against.run(0);
    assert!(against.latest_request().contains("from-the-tool"), "{output:?}");
    let row = against.last();
    assert_eq!(row.ending(), "success/");
    assert_eq!(row.text("tool_in_flight"), "");
    assert_figures(agent, &row, 2);
}

fn an_error_of_the_api_is_a_failure_with_its_text(agent: &NpmAgent) {
    let Some(mut against) = AgentWorld::new(agent, "error:400") else { return };
    against.run(agent.codes[0]);
    let row = against.last();
    assert_eq!(row.ending(), "failure/agent_error");
    assert!(row.text("error").contains("fake error (400)"), "{row:?}");
    assert_eq!(row.number("exit_code"), Some(agent.codes[0].into()));
    assert_eq!(row.text("agent_type"), agent.name);
    assert!(!row.text("session_id").is_empty(), "{row:?}");
    assert!(against.world.sql("SELECT * FROM claude_sdk_sessions").is_empty());
    against.assert_nothing_runs();
}
