//! Tests of the reader of declared agents, with captured output.

use super::*;
use crate::agent::adapter::{ReportCovers, RunResult};
use crate::agent::declared::schema::Declaration;
use crate::agent::declared::tally::REMEMBERED_CALLS;
use crate::agent::outcome_of;
use crate::task::{AgentOutcome, UsageCounts};
use proptest::prelude::*;

macro_rules! sample {
    ($name:literal) => {
        include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/samples/", $name))
    };
}

macro_rules! rules {
    ($agent:literal) => {
        rules_of(include_str!(concat!("../../declarations/", $agent, ".toml")))
    };
}

fn rules_of(declaration: &str) -> &'static [EventRule] {
    toml::from_str::<Declaration>(declaration).expect("a declaration").event.leak()
}

/// The rules of an agent that has only these.
fn only(events: &str) -> &'static [EventRule] {
    rules_of(&format!("schema = 1\nname = 'a'\n{events}"))
}

fn read(rules: &'static [EventRule], mode: OutputMode, bytes: &[u8]) -> ObservedOutput {
    let mut reader = DeclaredReader::new(rules, mode);
    reader.feed(bytes);
    reader.finish();
    reader.observed().clone()
}

fn stream(rules: &'static [EventRule], bytes: impl AsRef<[u8]>) -> ObservedOutput {
    read(rules, OutputMode::StreamJson, bytes.as_ref())
}

const OK: Option<RunResult> = Some(RunResult { error: None });

fn error(text: &str) -> Option<RunResult> {
    Some(RunResult { error: Some(text.to_owned()) })
}

/// Turns, and the tokens: input, output, read from the cache, written to the cache.
fn counts(turns: impl Into<Option<i64>>, tokens: [Option<i64>; 4]) -> UsageCounts {
    let [input_tokens, output_tokens, cache_read_tokens, cache_creation_tokens] = tokens;
    let turns = turns.into();
    UsageCounts {
        cost_usd: None,
        turns,
        input_tokens,
        output_tokens,
        cache_read_tokens,
        cache_creation_tokens,
    }
}

const NONE: [Option<i64>; 4] = [None; 4];

/// What was observed, without the values that are the default.
fn observed(
    session: &str,
    model: Option<&str>,
    counts: UsageCounts,
    result: Option<RunResult>,
) -> ObservedOutput {
    ObservedOutput {
        session_id: (!session.is_empty()).then(|| session.into()),
        model: model.map(str::to_owned),
        counts,
        results: result.iter().count() as u32,
        result,
        ..ObservedOutput::default()
    }
}

#[test]
fn codex_reports_the_tokens_of_the_session() {
    let codex = rules!("codex");
    let ended = |session: &str, tokens| ObservedOutput {
        tokens_cover: ReportCovers::Session,
        ..observed(session, None, counts(1, tokens), OK)
    };
    let session = "01a22958-ee29-7402-973f-d1a60f4479a8";
    let first = ended(session, [Some(90), Some(20), Some(10), Some(0)]);
    assert_eq!(stream(codex, sample!("352-codex-1.stdout.jsonl")), first);
    let resumed = ended(session, [Some(180), Some(40), Some(20), Some(0)]);
    assert_eq!(stream(codex, sample!("353-codex-resume.stdout.jsonl")), resumed);
    let fork = ended("01a22958-fc68-75c1-ae01-1092d425129b", [Some(450), Some(100), Some(50), Some(0)]);
    assert_eq!(stream(codex, sample!("357-codex-fork.stdout.jsonl")), fork);
}

#[test]
fn a_failed_turn_of_codex_is_an_error_and_a_warning_is_not() {
    let codex = rules!("codex");
    let o = stream(codex, sample!("303-codex-err500.stdout.jsonl"));
    let busy = "We’re currently experiencing high demand, which may cause temporary errors.";
    assert_eq!(o, observed("01a2294f-9837-7cc2-87ae-e18052b002b3", None, counts(None, NONE), error(busy)));
    assert_eq!(outcome_of(OutputMode::StreamJson, &o), AgentOutcome::Error);
    let until_the_turn_fails: Vec<&[u8]> =
        sample!("303-codex-err500.stdout.jsonl").split_inclusive(|b| *b == b'\n').take(5).collect();
    let o = stream(codex, until_the_turn_fails.concat());
    assert_eq!((o.result, o.results), (None, 0));
}

#[test]
fn codex_is_killed_during_a_tool_call() {
    let codex = rules!("codex");
    let o = stream(codex, sample!("304-codex-tool-TERM.stdout.jsonl"));
    assert_eq!(o.tool_in_flight.as_deref(), Some("command_execution"));
    assert_eq!((o.results, outcome_of(OutputMode::StreamJson, &o)), (0, AgentOutcome::Missing));
    let o = stream(codex, sample!("208-codex-tool-kill.stdout.jsonl"));
    assert_eq!(o.tool_in_flight, None, "a killed tool does not answer, and the turn is over");
    let o = stream(codex, sample!("301-codex-tool-ok.stdout.jsonl"));
    assert_eq!((o.tool_in_flight, o.result), (None, OK));
}

#[test]
fn gemini_reports_the_tokens_of_the_run() {
    let gemini = rules!("gemini");
    let model = Some("gemini-2.5-flash");
    let tokens = [Some(180), Some(40), Some(20), None];
    let session = "7dc0437b-b4e2-4779-8a83-80878e754bdd";
    let tool = observed(session, model, counts(None, tokens), OK);
    assert_eq!(stream(gemini, sample!("309-gemini-tool-ok.stdout.jsonl")), tool);
    let o = stream(gemini, sample!("310-gemini-err400.stdout.jsonl"));
    assert!(o.result.and_then(|r| r.error).is_some_and(|e| e.starts_with("[API Error: {\"error\":")));
    let o = stream(gemini, sample!("216-gemini-tool-term.stdout.jsonl"));
    assert_eq!((o.tool_in_flight.as_deref(), o.result), (Some("run_shell_command"), None));
    let tokens = [Some(95), Some(20), Some(5), None];
    let object = observed("1bd484b4-3414-46b8-90e1-958f29d4b853", None, counts(None, tokens), OK);
    assert_eq!(read(gemini, OutputMode::Json, sample!("210-gemini-json.stdout.json")), object);
}

#[test]
fn opencode_reports_tokens_and_cost_of_each_step() {
    let opencode = rules!("opencode");
    let usage = counts(2, [Some(180), Some(40), Some(20), Some(0)]);
    let ended = ObservedOutput {
        reported_cost_usd: Some(0.00026),
        ..observed(
            "ses_dd6ac2ca4ffeNvN8udwdOo9N9s",
            None,
            UsageCounts { cost_usd: Some(0.00026), ..usage },
            OK,
        )
    };
    let tool_ok = sample!("315-opencode-tool-ok.stdout.jsonl");
    assert_eq!(stream(opencode, tool_ok), ended);
    let lines: Vec<&[u8]> = tool_ok.split_inclusive(|b| *b == b'\n').collect();
    let first_step = stream(opencode, lines[..3].concat());
    assert_eq!(
        (first_step.results, first_step.counts.turns),
        (0, Some(1)),
        "a step that calls a tool is no result"
    );
    let failed = sample!("317-opencode-err400.stdout.jsonl");
    assert_eq!(stream(opencode, failed).result, error("fake error (400)"));
    let o = stream(opencode, [failed, lines[0]].concat());
    assert!(o.open_turn, "it works on after an error");
    let o = stream(opencode, [failed, &lines.concat()[..]].concat());
    assert_eq!((o.result, o.results, o.open_turn), (error("fake error (400)"), 2, false));
}

#[test]
fn qwen_counts_messages_until_it_reports_the_tokens_of_the_session() {
    let qwen = rules!("qwen");
    let session = "b15f55f8-7985-42dd-b913-ed8d8bef48c9";
    let tool_ok = sample!("321-qwen-tool-ok.stdout.jsonl");
    let ended = ObservedOutput {
        tokens_cover: ReportCovers::Session,
        ..observed(session, Some("m"), counts(2, [Some(180), Some(40), Some(20), None]), OK)
    };
    assert_eq!(stream(qwen, tool_ok), ended);
    let lines: Vec<&[u8]> = tool_ok.split_inclusive(|b| *b == b'\n').collect();
    let tool = stream(qwen, lines[..3].concat());
    assert_eq!(tool.tool_in_flight.as_deref(), Some("run_shell_command"));
    assert_eq!(tool.counts, counts(1, [Some(90), Some(20), Some(10), None]));
    assert_eq!(tool.tokens_cover, ReportCovers::RunOfSession);
    let array = format!("[{}]", String::from_utf8(tool_ok.to_vec()).unwrap().trim().replace('\n', ","));
    assert_eq!(read(qwen, OutputMode::Json, array.as_bytes()), ended);
    let resumed = stream(qwen, sample!("361-qwen-resume.stdout.jsonl"));
    assert_eq!(resumed.counts, counts(1, [Some(360), Some(80), Some(40), None]));
    let fork = stream(qwen, sample!("363-qwen-fork.stdout.jsonl"));
    assert_eq!(fork.counts, counts(1, [Some(540), Some(120), Some(60), None]));
    let of_subagent =
        br#"{"type":"assistant","parent_tool_use_id":"t1","message":{"usage":{"input_tokens":9}}}"#;
    assert_eq!(stream(qwen, of_subagent).counts, UsageCounts::default());
    let failed = br#"{"type":"result","is_error":true,"error":{"message":"400 no"},"num_turns":1}"#;
    assert_eq!(stream(qwen, failed).result, error("400 no"));
}

#[test]
fn copilot_names_its_session_in_the_last_line_only() {
    let copilot = rules!("copilot");
    let ended = observed("8b6d07b2-9c07-4d1f-a01d-136ec181c4dc", Some("m"), counts(2, NONE), OK);
    let tool_ok = sample!("329-copilot-tool-ok.stdout.jsonl");
    assert_eq!(stream(copilot, tool_ok), ended);
    let killed = &tool_ok[..tool_ok.windows(23).position(|w| w == b"tool.execution_complete").unwrap()];
    let o = stream(copilot, killed);
    assert_eq!((o.tool_in_flight.as_deref(), o.session_id, o.result), (Some("bash"), None, None));
    let warned = br#"{"type":"session.error","data":{"message":"400 no"}}"#;
    assert_eq!(stream(copilot, warned).result, None);
    let failed = [warned, &b"\n{\"type\":\"result\",\"exitCode\":1}"[..]].concat();
    assert_eq!(stream(copilot, failed).result, error("400 no"));
    let untold = stream(copilot, b"{\"type\":\"result\",\"exitCode\":-1}");
    assert_eq!(untold.result, error("the agent reported an error without a message"));
}

#[test]
fn cursor_names_the_tool_of_a_call_by_a_key() {
    let cursor = rules!("cursor");
    let session = "6ce4a1f2-0b3d-4c5e-9f60-718293a4b5c6";
    let all = sample!("cursor-stream-json.jsonl");
    let tokens = [Some(1523), Some(87), Some(4096), Some(12)];
    assert_eq!(stream(cursor, all), observed(session, Some("Composer 2"), counts(None, tokens), OK));
    let lines: Vec<&[u8]> = all.split_inclusive(|b| *b == b'\n').collect();
    let until = |n: usize| stream(cursor, lines[..n].concat());
    let tools: Vec<Option<String>> = (4..=8).map(|n| until(n).tool_in_flight).collect();
    let tools: Vec<Option<&str>> = tools.iter().map(Option::as_deref).collect();
    assert_eq!(tools, [None, Some("read"), Some("shell"), Some("shell"), None]);
    assert_eq!(outcome_of(OutputMode::StreamJson, &until(9)), AgentOutcome::Missing);
    let object = observed(session, None, counts(None, [Some(1523), Some(87), None, None]), OK);
    assert_eq!(read(cursor, OutputMode::Json, sample!("cursor-json.json")), object);
    let other_names = br#"{"type":"result","usage":{"cacheReadInputTokens":3,"cacheCreationInputTokens":4}}"#;
    assert_eq!(stream(cursor, other_names).counts, counts(None, [None, None, Some(3), Some(4)]));
    for failed in [r#""is_error":true"#, r#""subtype":"error""#] {
        let failed = format!("{{\"type\":\"result\",{failed},\"result\":\"no\"}}");
        assert_eq!(stream(cursor, &failed).result, error("no"), "{failed}");
    }
    assert_eq!(stream(cursor, r#"{"session_id":"s"}"#).session_id, None, "an event has a type");
}

/// Cut at each byte, and in chunks of each size, the output is read as a whole.
#[test]
fn chunks_make_no_difference() {
    let samples: [(&'static [EventRule], OutputMode, &[u8]); 6] = [
        (rules!("codex"), OutputMode::StreamJson, sample!("301-codex-tool-ok.stdout.jsonl")),
        (rules!("gemini"), OutputMode::StreamJson, sample!("309-gemini-tool-ok.stdout.jsonl")),
        (rules!("gemini"), OutputMode::Json, sample!("210-gemini-json.stdout.json")),
        (rules!("opencode"), OutputMode::StreamJson, sample!("315-opencode-tool-ok.stdout.jsonl")),
        (rules!("qwen"), OutputMode::StreamJson, sample!("321-qwen-tool-ok.stdout.jsonl")),
        (rules!("cursor"), OutputMode::StreamJson, sample!("cursor-stream-json.jsonl")),
    ];
    for (rules, mode, all) in samples {
        let whole = read(rules, mode, all);
        let fed = |parts: &mut dyn Iterator<Item = &[u8]>| {
            let mut reader = DeclaredReader::new(rules, mode);
            parts.for_each(|part| reader.feed(part));
            reader.finish();
            reader.observed().clone()
        };
        for at in 0..all.len() {
            assert_eq!(fed(&mut [&all[..at], &all[at..]].into_iter()), whole, "cut at {at}");
        }
        for size in 1..=all.len() {
            assert_eq!(fed(&mut all.chunks(size)), whole, "chunks of {size}");
        }
    }
}

#[test]
fn other_text_in_a_line_is_skipped() {
    let codex = rules!("codex");
    let all = sample!("301-codex-tool-ok.stdout.jsonl");
    let mut noisy = Vec::new();
    for line in all.split_inclusive(|b| *b == b'\n') {
        noisy.extend_from_slice(b"Warning: {\"type\":\"turn.failed\",\n\x1b[1m");
        noisy.extend_from_slice(line);
    }
    assert_eq!(stream(codex, noisy), stream(codex, all));
}

#[test]
fn values_of_the_wrong_type_and_absurd_numbers_count_as_missing() {
    let rules = only(
        "event = [{ session = 's', model = 'm', error = 'e', turns_so_far = 't' },
        { tool_opens = { id = 'i', name = 'n' }, cost = { scope = 'session', usd = 'd' },
        usage = { scope = 'session', input = 'u', output = 'o', cache_read = 'c',
        input_includes_cache = true } }, { on = { r = [1] }, result = 'error' }]",
    );
    let wrong = br#"{"s":7,"m":{},"e":[],"t":-1,"i":null,"n":1,"u":-5,"o":"3","c":1e300,"d":-0.5,"r":"1"}"#;
    assert_eq!(stream(rules, wrong), ObservedOutput::default());
    for absurd in ["1e10", "1e999", "nan", "[1]", "null"] {
        assert_eq!(stream(rules, format!("{{\"d\":{absurd}}}")).reported_cost_usd, None, "{absurd}");
    }
    let o = stream(rules, br#"{"s":"../x","t":9e18,"u":3,"c":5,"o":2.0,"d":1e9}"#);
    assert_eq!(o.session_id, None, "a path is no id");
    assert_eq!(o.counts.turns, None);
    assert_eq!(
        (o.counts.input_tokens, o.counts.output_tokens, o.counts.cache_read_tokens),
        (Some(0), Some(2), Some(5))
    );
    assert_eq!((o.reported_cost_usd, o.cost_covers), (Some(1e9), ReportCovers::Session));
    let blank = stream(rules, b"{\"e\":\" \",\"r\":1}");
    assert_eq!(blank.result, error("the agent reported an error without a message"));
}

#[test]
fn names_and_errors_are_kept_in_part_and_calls_up_to_a_number() {
    let rules = only(
        "event = [{ model = 'm', error = 'm' }, { tool_opens = { id = 'i', name = 'm' } },
        { on = { r = [true] }, result = 'error' }, { tool_closes = { id = 'c' } }]",
    );
    let long = "é".repeat(10_000);
    let call = |id: usize| format!("{{\"i\":{id},\"m\":\"{long}\"}}\n");
    let open: String = (0..REMEMBERED_CALLS + 3).map(call).collect();
    let o = stream(rules, format!("{open}{{\"c\":1}}"));
    let length = |text: Option<&String>| text.map(|text| text.chars().count());
    assert_eq!((length(o.model.as_ref()), length(o.tool_in_flight.as_ref())), (Some(200), Some(200)));
    let closed: String = (0..REMEMBERED_CALLS).map(|id| format!("{{\"c\":{id}}}\n")).collect();
    assert_eq!(stream(rules, format!("{open}{closed}")).tool_in_flight, None);
    let failed = stream(rules, format!("{open}{{\"r\":true}}"));
    assert_eq!(length(failed.result.and_then(|r| r.error).as_ref()), Some(8192));
    assert_eq!(failed.tool_in_flight, None);
}

#[test]
fn figures_of_steps_are_added_and_totals_replace_them() {
    let rules = only(
        "event = [{ usage = { scope = 'step', input = 'step' }, cost = { scope = 'step', usd = 'cost' } },
        { usage = { scope = 'run', input = 'run', output = 'out' } },
        { usage = { scope = 'session', input = 'all' }, cost = { scope = 'session', usd = 'paid' } }]",
    );
    let read = |text: &str| {
        let o = stream(rules, text);
        (o.counts.input_tokens, o.counts.output_tokens, o.tokens_cover, o.reported_cost_usd, o.cost_covers)
    };
    use ReportCovers::{Run, RunOfSession, Session};
    assert_eq!(
        read("{\"step\":3,\"cost\":0.1}\n{\"step\":4,\"cost\":0.2}"),
        (Some(7), None, RunOfSession, Some(0.3), Run)
    );
    assert_eq!(read("{\"step\":3}\n{\"run\":5,\"out\":1}\n{\"run\":6}"), (Some(6), Some(1), Run, None, Run));
    assert_eq!(
        read("{\"step\":3,\"cost\":9}\n{\"all\":8,\"paid\":2}"),
        (Some(8), None, Session, Some(2.0), Session)
    );
    let most = "{\"step\":8999999999999999,\"cost\":1e9}\n".repeat(2000);
    assert_eq!(read(&most), (Some(i64::MAX), None, RunOfSession, Some(1e9), Run));
}

proptest! {
    #[test]
    fn a_truncated_or_damaged_stream_is_read_without_a_panic(at in any::<prop::sample::Index>(), byte: u8) {
        for (rules, all) in [
            (rules!("opencode"), &sample!("315-opencode-tool-ok.stdout.jsonl")[..]),
            (rules!("qwen"), sample!("321-qwen-tool-ok.stdout.jsonl")),
        ] {
            let mut all = all.to_vec();
            let at = at.index(all.len());
            all[at] = byte;
            stream(rules, &all);
            read(rules, OutputMode::Json, &all[..at]);
        }
    }
}
