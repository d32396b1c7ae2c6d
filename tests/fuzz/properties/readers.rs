//! The readers of agents' output, with any input in chunks of any size.

use super::json::Json;
use super::{Chance, cuts};
use crate::agent::{Adapter, ObservedOutput, OutputMode, OutputReader, by_type};
use crate::task::SessionId;

fn named(agent_type: &str) -> &'static dyn Adapter {
    by_type(agent_type).expect("a sound declaration").expect("every type has an adapter")
}

pub fn claude(stream: &[u8]) {
    follows("claude", stream);
    shortcuts_change_nothing(stream);
}

pub fn cursor(stream: &[u8]) {
    follows("cursor", stream);
}

pub fn declared(stream: &[u8]) {
    for agent in ["codex", "copilot", "gemini", "opencode", "qwen"] {
        follows(agent, stream);
    }
}

pub fn command(stream: &[u8]) {
    for mode in [OutputMode::StreamJson, OutputMode::Json] {
        assert_eq!(read("command", mode, stream), ObservedOutput::default());
    }
}

fn read(program: &str, mode: OutputMode, stream: &[u8]) -> ObservedOutput {
    let mut reader = named(program).reader(mode);
    reader.feed(stream);
    reader.finish();
    reader.observed().clone()
}

/// The size of the chunks, a final newline and lines of other text make no difference, and the values are
/// valid at any time.
fn follows(program: &str, stream: &[u8]) {
    for mode in [OutputMode::StreamJson, OutputMode::Json] {
        let fed = |parts: &[&[u8]]| -> Box<dyn OutputReader> {
            let mut reader = named(program).reader(mode);
            parts.iter().for_each(|part| reader.feed(part));
            reader
        };
        let mut whole = fed(&[stream]);
        assert_valid(whole.observed());
        let before_the_end = whole.observed().clone();
        whole.finish();
        assert_valid(whole.observed());
        for parts in cuts(stream) {
            let mut reader = fed(&parts);
            assert_eq!(*reader.observed(), before_the_end, "{program} {mode:?}");
            reader.finish();
            assert_eq!(reader.observed(), whole.observed(), "{program} {mode:?}");
        }
        let at = Chance::of(stream).below(stream.len());
        let half = fed(&[&stream[..at]]);
        assert_valid(half.observed());
        assert_eq!(half.observed(), fed(&stream[..at].chunks(1).collect::<Vec<_>>()).observed());
    }
    let whole = read(program, OutputMode::StreamJson, stream);
    assert_eq!(read(program, OutputMode::StreamJson, &[stream, b"\n"].concat()), whole);
    let mut noisy = Vec::new();
    for line in stream.split_inclusive(|b| *b == b'\n') {
        noisy.extend_from_slice(b"Warning: {\"type\":\"result\",\n");
        noisy.extend_from_slice(line);
    }
    assert_eq!(read(program, OutputMode::StreamJson, &noisy), whole);
    let is_object = |line: &&[u8]| Json::read(line).is_ok_and(|json| matches!(json, Json::Object(_)));
    let is_blank = |line: &&[u8]| line.trim_ascii().is_empty();
    if stream.split(|b| *b == b'\n').all(|line| is_blank(&line) || is_object(&line)) {
        assert_eq!(
            read(program, OutputMode::Json, stream),
            whole,
            "objects are read in the same way as lines"
        );
    }
}

fn assert_valid(o: &ObservedOutput) {
    if let Some(id) = o.session_id.as_ref().map(SessionId::as_str) {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        assert!(id.bytes().all(plain) && !id.is_empty() && !id.starts_with(['-', '.']), "{id}");
    }
    let c = &o.counts;
    let counts = [c.turns, c.input_tokens, c.output_tokens, c.cache_read_tokens, c.cache_creation_tokens];
    assert!(counts.into_iter().flatten().all(|n| n >= 0), "{c:?}");
    assert!([c.cost_usd, o.reported_cost_usd].into_iter().flatten().all(|n| n.is_finite() && n >= 0.0));
    assert_eq!(o.results > 0, o.result.is_some());
    assert!(!o.open_turn || o.result.is_some());
    let error = o.result.as_ref().and_then(|r| r.error.as_ref());
    assert!(error.is_none_or(|text| !text.trim().is_empty() && text.chars().count() <= 8192));
}

/// Claude's reader skips events that add nothing, recognised by their beginning. With another beginning
/// each event is read in full, and the result is the same.
fn shortcuts_change_nothing(stream: &[u8]) {
    let mut usual = Vec::new();
    let mut unusual = Vec::new();
    for line in stream.split(|b| *b == b'\n') {
        let plain = Json::read(line).is_ok_and(|json| json.names_each_key_once());
        let sessions = memchr::memmem::find_iter(line, b"session_id").count();
        let usable = plain && sessions <= 1 && !line.contains(&b'\\');
        let Some(rest) = line.strip_prefix(b"{\"").filter(|_| usable) else { continue };
        usual.extend_from_slice(&[line, b"\n"].concat());
        unusual.extend_from_slice(&[b"{\"\":0,\"", rest, b"\n"].concat());
    }
    assert_eq!(
        read("claude", OutputMode::StreamJson, &usual),
        read("claude", OutputMode::StreamJson, &unusual)
    );
}
