//! Tests of the reader of Claude Code's output, with captured output.

use super::*;
use crate::agent::outcome_of;
use crate::task::AgentOutcome;
use proptest::prelude::*;

macro_rules! sample {
    ($name:literal) => {
        include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/samples/", $name))
    };
}

fn read(mode: OutputMode, bytes: &[u8]) -> ObservedOutput {
    let mut reader = ClaudeReader::new(mode);
    reader.feed(bytes);
    reader.finish();
    reader.observed().clone()
}

/// Input tokens, output tokens, turns and cost.
fn numbers(o: &ObservedOutput) -> (Option<i64>, Option<i64>, Option<i64>, Option<f64>) {
    (o.counts.input_tokens, o.counts.output_tokens, o.counts.turns, o.reported_cost_usd)
}

fn error(o: &ObservedOutput) -> &str {
    o.result.as_ref().unwrap().error.as_deref().unwrap()
}

#[test]
fn one_json_object() {
    let o = read(OutputMode::Json, sample!("02-json.stdout.json"));
    assert_eq!(o.session_id, Some("70c58839-7df2-4fac-a8ca-566378ded2b5".into()));
    assert_eq!(o.model.as_deref(), Some("claude-opus-5-5"));
    assert_eq!(numbers(&o), (Some(100), Some(20), Some(1), Some(0.0008)));
    assert_eq!((o.counts.cache_read_tokens, o.counts.cache_creation_tokens), (Some(0), Some(0)));
    assert_eq!(outcome_of(OutputMode::Json, &o), AgentOutcome::Ok);
}

#[test]
fn an_array_of_events_on_one_line_or_many() {
    let line = sample!("05-json-verbose.stdout.json");
    let o = read(OutputMode::Json, line);
    assert_eq!(o.session_id, Some("11346155-51a7-40ee-8c65-8dec3f58e505".into()));
    assert_eq!(numbers(&o), (Some(100), Some(20), Some(1), Some(0.0008)));
    let value: serde_json::Value = serde_json::from_slice(line).unwrap();
    let pretty = serde_json::to_vec_pretty(&value).unwrap();
    assert_eq!(read(OutputMode::Json, &pretty), o);
}

#[test]
fn the_cost_of_a_resumed_session_includes_its_earlier_runs() {
    let o = read(OutputMode::Json, sample!("12-resume.stdout.json"));
    assert_eq!(numbers(&o), (Some(100), Some(20), Some(1), Some(0.0016)));
}

#[test]
fn a_failed_api_call_with_the_subtype_success_is_an_error() {
    let o = read(OutputMode::Json, sample!("30-error-500-json.stdout.json"));
    assert!(error(&o).starts_with("API Error: 500 fake api_error (500)."));
    assert_eq!(numbers(&o), (Some(0), Some(0), Some(1), Some(0.0)));
    assert_eq!(outcome_of(OutputMode::Json, &o), AgentOutcome::Error);
}

#[test]
fn errors_are_read_from_a_list_too() {
    let o = read(OutputMode::StreamJson, sample!("45-maxturns-sj.stdout.jsonl"));
    assert_eq!(error(&o), "Reached maximum number of turns (2)");
    assert_eq!(numbers(&o), (Some(200), Some(40), Some(3), Some(0.0016)));
    let o = read(OutputMode::StreamJson, sample!("64-sj-badresume-garbage.stdout.jsonl"));
    assert!(error(&o).contains("Provided value \"zzz\" is not a UUID"));
    assert_eq!(o.session_id, Some("1ea75816-e050-45e5-8033-85cc4c5005d8".into()));
}

#[test]
fn a_stream_with_a_tool_and_hooks() {
    let o = read(OutputMode::StreamJson, sample!("101-hook-events-sj.stdout.jsonl"));
    assert_eq!(numbers(&o), (Some(200), Some(40), Some(2), Some(0.0016)));
    assert_eq!((o.tool_in_flight.as_deref(), o.open_turn), (None, false));
    let first = sample!("101-hook-events-sj.stdout.jsonl").split(|b| *b == b'\n').next().unwrap();
    let id = read(OutputMode::StreamJson, first).session_id;
    assert!(id.unwrap().as_str().starts_with("1a9f8b69-"));
}

#[test]
fn a_streamed_message_is_counted_once_while_it_grows() {
    let all = sample!("06-stream-json-partial.stdout.jsonl");
    let o = read(OutputMode::StreamJson, all);
    assert_eq!(numbers(&o), (Some(100), Some(20), Some(1), Some(0.0008)));
    let lines: Vec<&[u8]> = all.split_inclusive(|b| *b == b'\n').collect();
    let until = |n: usize| numbers(&read(OutputMode::StreamJson, &lines[..n].concat()));
    assert_eq!(until(2), (None, None, None, None));
    assert_eq!(until(3), (Some(100), Some(1), Some(1), None));
    assert_eq!(until(6), (Some(100), Some(1), Some(1), None));
    assert_eq!(until(8), (Some(100), Some(20), Some(1), None));
}

#[test]
fn a_killed_run_has_its_usage_so_far_and_the_open_tool_call() {
    let o = read(OutputMode::StreamJson, sample!("72-tool-SIGKILL-sj.stdout.txt"));
    assert_eq!(numbers(&o), (Some(100), Some(1), Some(1), None));
    assert_eq!(o.tool_in_flight.as_deref(), Some("Bash"));
    assert_eq!(outcome_of(OutputMode::StreamJson, &o), AgentOutcome::Missing);
}

#[test]
fn both_results_of_a_run_with_a_background_task_count() {
    let all = sample!("110-bg-task-8s-sj.stdout.jsonl");
    let o = read(OutputMode::StreamJson, all);
    assert_eq!(numbers(&o), (Some(300), Some(60), Some(3), Some(0.0024000000000000002)));
    assert_eq!((o.background, o.open_turn), (false, false));
    let lines: Vec<&[u8]> = all.split_inclusive(|b| *b == b'\n').collect();
    let until = |n: usize| read(OutputMode::StreamJson, &lines[..n].concat());
    assert!(!until(2).background && until(3).background);
    let first = until(7);
    assert_eq!(numbers(&first), (Some(200), Some(40), Some(2), Some(0.0016)));
    assert!(first.background);
    assert_eq!(outcome_of(OutputMode::StreamJson, &first), AgentOutcome::Ok);
    let second_begun = until(11);
    assert!(!second_begun.background && second_begun.open_turn);
    assert_eq!(outcome_of(OutputMode::StreamJson, &second_begun), AgentOutcome::Missing);
    assert_eq!(numbers(&until(12)), (Some(300), Some(41), Some(3), Some(0.0016)));
}

#[test]
fn the_last_result_of_many_prompts_decides() {
    let o = read(OutputMode::StreamJson, sample!("111-stream-json-input.jsonl"));
    assert_eq!(numbers(&o), (Some(300), Some(60), Some(5), Some(0.0024000000000000002)));
    assert_eq!(outcome_of(OutputMode::StreamJson, &o), AgentOutcome::Ok);
}

#[test]
fn background_tasks_are_counted_if_they_are_not_listed() {
    let start = br#"{"type":"system","subtype":"task_started","task_id":"a","is_backgrounded":true}
"#;
    let stop = br#"{"type":"system","subtype":"task_notification","task_id":"a"}"#;
    assert!(read(OutputMode::StreamJson, start).background);
    assert!(!read(OutputMode::StreamJson, &[&start[..], stop].concat()).background);
}

#[test]
fn other_text_between_the_lines_is_ignored() {
    let all = sample!("62-tool-ok-sj.stdout.jsonl");
    let mut noisy = Vec::new();
    for line in all.split_inclusive(|b| *b == b'\n') {
        noisy.extend_from_slice(b"not json\n{\"type\":\"result\",\n\xff\xfe\n[[[[\n\n");
        noisy.extend_from_slice(line);
    }
    assert_eq!(read(OutputMode::StreamJson, &noisy), read(OutputMode::StreamJson, all));
}

#[test]
fn an_id_that_could_be_an_option_or_a_path_is_ignored() {
    for id in ["--dangerous", "../../x", "a b", "", "a/b", &"x".repeat(200)] {
        let line = format!(r#"{{"type":"system","session_id":"{id}"}}"#);
        assert_eq!(read(OutputMode::StreamJson, line.as_bytes()).session_id, None, "{id}");
    }
}

#[test]
fn many_messages_are_counted_in_bounded_memory() {
    let mut reader = ClaudeReader::new(OutputMode::StreamJson);
    for n in 0..1000 {
        for _ in 0..2 {
            let usage = r#"{"input_tokens":2,"output_tokens":1}"#;
            let line = format!(r#"{{"type":"assistant","message":{{"id":"m{n}","usage":{usage}}}}}"#);
            reader.feed(line.as_bytes());
            reader.feed(b"\n");
        }
    }
    assert_eq!(numbers(reader.observed()), (Some(2000), Some(1000), Some(1000), None));
    assert!(reader.tally.recent.len() <= RECENT);
}

#[test]
fn long_names_and_ids_are_shortened() {
    let long = "x".repeat(1 << 20);
    let block = |n: usize| format!(r#"{{"type":"tool_use","id":"{n}{long}","name":"{long}"}}"#);
    let blocks: Vec<String> = (0..3).map(block).collect();
    let line = format!(
        r#"{{"type":"system","subtype":"init","session_id":"s","model":"{long}"}}
            {{"type":"assistant","message":{{"id":"{long}","content":[{}]}}}}"#,
        blocks.join(",")
    );
    let mut reader = ClaudeReader::new(OutputMode::StreamJson);
    reader.feed(line.as_bytes());
    reader.finish();
    let o = reader.observed();
    assert_eq!(o.model.as_ref().map(String::len), Some(crate::agent::output::kept::NAME));
    assert_eq!(o.tool_in_flight.as_ref().map(String::len), Some(crate::agent::output::kept::NAME));
    let calls = &reader.tally.calls;
    assert!(calls.len() == 3 && calls.iter().all(|(_, name)| name.len() == crate::agent::output::kept::NAME));
}

proptest! {
    #[test]
    fn chunks_of_any_size_give_the_same_result(size in 1usize..5000) {
        let all = sample!("110-bg-task-8s-sj.stdout.jsonl");
        let mut reader = ClaudeReader::new(OutputMode::StreamJson);
        all.chunks(size).for_each(|c| reader.feed(c));
        reader.finish();
        prop_assert_eq!(reader.observed(), &read(OutputMode::StreamJson, all));
    }

    #[test]
    fn a_truncated_or_damaged_stream_is_read_without_a_panic(at in any::<prop::sample::Index>(), byte: u8) {
        let mut all = sample!("06-stream-json-partial.stdout.jsonl").to_vec();
        let at = at.index(all.len());
        all[at] = byte;
        read(OutputMode::StreamJson, &all);
        read(OutputMode::Json, &all[..at]);
    }
}
