//! The row has the figures that Claude Code reports, in each output mode.

use crate::harness::{End, Row, all_processes, marked};
use crate::{JSON, Real, STREAM_JSON, result};

/// The row has the same usage as the result event.
#[track_caller]
fn assert_counts(row: &Row, event: &serde_json::Value) {
    assert_eq!(row.real("cost_usd"), event["total_cost_usd"].as_f64());
    assert_eq!(row.number("turns"), event["num_turns"].as_i64());
    assert_eq!(row.number("input_tokens"), event["usage"]["input_tokens"].as_i64());
    assert_eq!(row.number("output_tokens"), event["usage"]["output_tokens"].as_i64());
    assert_eq!(row.text("session_id"), event["session_id"].as_str().unwrap_or_default());
}

#[test]
fn a_success_in_text_mode_has_a_session() {
    let Some(real) = Real::new("a_success_in_text_mode_has_a_session", "text:pong") else { return };
    let output = real.claude([]).run().ended(End::Code(0)).silent();
    assert_eq!(output.stdout, "pong\n");
    let row = real.world.row();
    assert_eq!(row.ending(), "success/");
    assert_eq!(row.text("agent_type"), "claude");
    assert!(real.has_transcript(&row.text("session_id")), "{row:?}");
}

#[test]
fn a_success_in_json_modes_has_the_figures_of_the_result() {
    let test = "a_success_in_json_modes_has_the_figures_of_the_result";
    for mode in [&JSON[..], &STREAM_JSON[..]] {
        let Some(real) = Real::new(test, "text:pong") else { return };
        let output = real.claude(mode.iter().copied()).run().ended(End::Code(0)).silent();
        let event = result(&output.stdout);
        assert_eq!(event["result"], "pong");
        assert!(event["total_cost_usd"].as_f64() > Some(0.0), "{event}");
        let row = real.world.row();
        assert_eq!(row.ending(), "success/");
        assert_counts(&row, &event);
        assert!(event["modelUsage"].get(row.text("model")).is_some(), "{row:?}");
        assert!(real.has_transcript(&row.text("session_id")), "{row:?}");
    }
}

#[test]
fn an_error_of_the_api_is_a_failure_with_its_text() {
    let test = "an_error_of_the_api_is_a_failure_with_its_text";
    for mode in [&JSON[..], &STREAM_JSON[..]] {
        let Some(real) = Real::new(test, "error:400") else { return };
        let output = real.claude(mode.iter().copied()).run().ended(End::Code(1));
        let event = result(&output.stdout);
        assert_eq!(event["is_error"], true);
        let row = real.world.row();
        assert_eq!(row.ending(), "failure/agent_error");
        assert!(row.text("error").contains("fake invalid_request_error (400)"), "{row:?}");
        assert_eq!(row.number("exit_code"), Some(1));
        assert_counts(&row, &event);
    }
}

#[test]
fn an_error_of_the_api_in_text_mode_is_a_failure_by_its_exit_code() {
    let test = "an_error_of_the_api_in_text_mode_is_a_failure_by_its_exit_code";
    let Some(real) = Real::new(test, "error:400") else { return };
    let output = real.claude([]).run().ended(End::Code(1));
    assert!(output.stdout.contains("400"), "{output:?}");
    assert_eq!(real.world.row().ending(), "failure/exit");
}

#[test]
fn reaching_the_turn_limit_is_a_failure() {
    let Some(real) = Real::new("reaching_the_turn_limit_is_a_failure", "tool:true") else { return };
    let mode = STREAM_JSON.into_iter().chain(["--max-turns", "1"]);
    let output = real.claude(mode).run().ended(End::Code(1));
    let event = result(&output.stdout);
    assert_eq!(event["subtype"], "error_max_turns");
    let row = real.world.row();
    assert_eq!(row.ending(), "failure/agent_error");
    assert!(row.text("error").to_lowercase().contains("turns"), "{row:?}");
    assert_counts(&row, &event);
}

#[test]
fn a_backgrounded_session_keeps_running() {
    let Some(real) = Real::new("a_backgrounded_session_keeps_running", "text:pong") else { return };
    let world = &real.world;
    let run = real.against_the_api(world.run(["claude", "--bg", "hello"]).options(["--key", "k"]));
    let output = run.run().ended(End::Code(0));
    let row = world.row();
    assert_eq!(row.ending(), "success/backgrounded");
    let session = row.text("session_id");
    let short = session.split('-').next().expect("the beginning of an id");
    assert!(short.len() == 8 && output.stdout.contains(short), "{session:?} in {output:?}");
    assert!(world.sql("SELECT * FROM claude_sdk_sessions").is_empty());
    world.bare(["bookend", "recover"]).run().ended(End::Code(0));
    let daemon = all_processes(world).into_iter().find(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.windows(11).any(|words| words == b"daemon\0run\0")
    });
    assert!(daemon.is_some(), "the daemon still runs");
    assert!(marked(world).is_empty(), "it has no mark of the task");
}

/// Without bookend, Claude Code exits with 1 when stdout is full.
#[test]
fn a_full_stdout_is_a_failure() {
    let test = "a_full_stdout_is_a_failure";
    for mode in [&JSON[..], &STREAM_JSON[..]] {
        let Some(real) = Real::new(test, "text:pong") else { return };
        let bare = real.bare(mode.iter().copied()).with(["open=1:w:/dev/full"]).run();
        bare.ended(End::Code(1));
        let run = real.claude(mode.iter().copied()).options(["--grace", "1s"]);
        let output = run.with(["open=1:w:/dev/full"]).run().ended(End::Code(74));
        assert!(output.stderr.contains("could not be written to stdout: ENOSPC"), "{output:?}");
        let row = real.world.row();
        assert_eq!((row.ending().as_str(), row.number("exit_code")), ("failure/output", Some(0)));
        assert!(row.text("error").contains("bytes of the agent's output"), "{row:?}");
        assert!(row.real("cost_usd") > Some(0.0), "{row:?}");
    }
}

#[test]
fn the_tokens_of_subagents_are_not_counted() {
    let test = "the_tokens_of_subagents_are_not_counted";
    let call = concat!(
        r#"use:Agent:{"description":"d","prompt":"say hi","subagent_type":"general-purpose","#,
        r#""run_in_background":false}"#
    );
    let Some(real) = Real::new(test, &format!("{call};text:from the subagent;text:done")) else { return };
    let output = real.claude(STREAM_JSON).run().ended(End::Code(0));
    assert!(output.stdout.contains("from the subagent"), "{output:?}");
    let event = result(&output.stdout);
    let row = real.world.row();
    assert_eq!(row.text("tokens_scope"), "main");
    assert_counts(&row, &event);
    let used = event["modelUsage"].as_object().expect("its models").values();
    let all: i64 = used.filter_map(|model| model["inputTokens"].as_i64()).sum();
    assert!(row.number("input_tokens") < Some(all), "{all} with the subagent's: {row:?}");
}
