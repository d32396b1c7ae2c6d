//! The reader for Cursor's CLI (`cursor-agent`, also `agent`), from its documentation and captured output of
//! 2026. Cursor accepts no id for a new chat, and starts a new chat when asked to resume an unknown one.

use std::borrow::Cow;

use super::adapter::{ObservedOutput, OutputMode, OutputReader};
use super::output::event::OutputEvent;
use super::output::kept::{brief, hash};
use super::output::lines::{LineSplitter, ObjectSplitter, objects};

/// The most open tool calls that are remembered.
const REMEMBERED: usize = 64;

#[derive(Debug)]
pub struct CursorReader {
    /// `None`: the output is one object.
    lines: Option<LineSplitter>,
    objects: ObjectSplitter,
    tally: Tally,
}

impl CursorReader {
    pub fn new(mode: OutputMode) -> CursorReader {
        CursorReader {
            lines: (mode != OutputMode::Json).then(LineSplitter::new),
            objects: ObjectSplitter::new(),
            tally: Tally::default(),
        }
    }
}

impl OutputReader for CursorReader {
    fn feed(&mut self, bytes: &[u8]) {
        let tally = &mut self.tally;
        match &mut self.lines {
            Some(lines) => lines.push(bytes, |l| tally.line(l)),
            None => self.objects.push(bytes, |o| tally.line(o)),
        }
    }

    fn finish(&mut self) {
        let tally = &mut self.tally;
        match &mut self.lines {
            Some(lines) => lines.finish(|l| tally.line(l)),
            None => self.objects.finish(|o| tally.line(o)),
        }
    }

    fn observed(&self) -> &ObservedOutput {
        &self.tally.observed
    }
}

#[derive(Debug, Default)]
struct Tally {
    observed: ObservedOutput,
    /// Open tool calls: the hash of the id, and the tool.
    calls: Vec<(u64, String)>,
}

impl Tally {
    fn line(&mut self, line: &[u8]) {
        match OutputEvent::read(line) {
            Ok(event) => self.event(event),
            // The line has other text besides the event.
            Err(_) => drop(objects(line, |o| OutputEvent::read(o).into_iter().for_each(|e| self.event(e)))),
        }
    }

    fn event(&mut self, e: OutputEvent<'_>) {
        if e.kind.is_none() {
            return;
        }
        if let Some(id) = e.session_id.as_deref()
            && self.observed.session_id.as_ref().is_none_or(|known| known.as_str() != id)
            && let Ok(id) = id.parse()
        {
            self.observed.session_id = Some(id);
        }
        match (e.kind.as_deref(), e.subtype.as_deref()) {
            (Some("system"), Some("init")) => {
                if let Some(model) = e.model {
                    self.observed.model = Some(brief(&model).to_owned());
                }
            }
            (Some("tool_call"), Some(step)) => self.tool(step, e.call_id, e.tool),
            (Some("result"), _) => self.result(&e),
            _ => {}
        }
    }

    fn tool(&mut self, step: &str, call: Option<Cow<'_, str>>, tool: Option<Cow<'_, str>>) {
        let Some(call) = call.as_deref().map(hash) else { return };
        self.calls.retain(|(known, _)| *known != call);
        if step == "started" && self.calls.len() < REMEMBERED {
            let tool = tool.as_deref().map_or("a tool", brief).to_owned();
            self.calls.push((call, tool));
        }
        self.observed.tool_in_flight = self.calls.last().map(|(_, tool)| tool.clone());
    }

    fn result(&mut self, e: &OutputEvent<'_>) {
        if let Some(usage) = e.usage.as_ref().map(|c| c.usage) {
            let counts = &mut self.observed.counts;
            counts.input_tokens = usage.input;
            counts.output_tokens = usage.output;
            counts.cache_read_tokens = usage.cache_read;
            counts.cache_creation_tokens = usage.cache_creation;
        }
        self.calls.clear();
        self.observed.tool_in_flight = None;
        self.observed.result = Some(e.verdict());
        self.observed.results += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::outcome_of;
    use crate::task::{AgentOutcome, UsageCounts};

    const STREAM: &[u8] =
        include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/samples/cursor-stream-json.jsonl"));
    const OBJECT: &[u8] =
        include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/samples/cursor-json.json"));
    const CHAT: &str = "6ce4a1f2-0b3d-4c5e-9f60-718293a4b5c6";

    fn read(mode: OutputMode, bytes: &[u8]) -> ObservedOutput {
        let mut reader = CursorReader::new(mode);
        reader.feed(bytes);
        reader.finish();
        reader.observed().clone()
    }

    #[test]
    fn a_stream_is_read_to_its_result() {
        let o = read(OutputMode::StreamJson, STREAM);
        assert_eq!(o.session_id, Some(CHAT.into()));
        assert_eq!(o.model.as_deref(), Some("Composer 2"));
        assert_eq!(
            o.counts,
            UsageCounts {
                cost_usd: None,
                turns: None,
                input_tokens: Some(1523),
                output_tokens: Some(87),
                cache_read_tokens: Some(4096),
                cache_creation_tokens: Some(12),
            }
        );
        assert_eq!(o.tool_in_flight, None);
        assert_eq!(outcome_of(OutputMode::StreamJson, &o), AgentOutcome::Ok);
    }

    #[test]
    fn the_tool_in_flight_is_one_that_has_not_answered() {
        let lines: Vec<&[u8]> = STREAM.split_inclusive(|b| *b == b'\n').collect();
        let until = |n: usize| read(OutputMode::StreamJson, &lines[..n].concat());
        let tool = |n: usize| until(n).tool_in_flight;
        assert_eq!(tool(4), None);
        assert_eq!(tool(5).as_deref(), Some("read"));
        assert_eq!(tool(6).as_deref(), Some("shell"));
        assert_eq!(tool(7).as_deref(), Some("shell"));
        assert_eq!(tool(8), None);
        assert_eq!(outcome_of(OutputMode::StreamJson, &until(9)), AgentOutcome::Missing);
    }

    #[test]
    fn one_object_says_it_all() {
        let o = read(OutputMode::Json, OBJECT);
        assert_eq!(o.session_id, Some(CHAT.into()));
        assert_eq!((o.counts.input_tokens, o.counts.output_tokens), (Some(1523), Some(87)));
        assert_eq!(o.counts.cache_read_tokens, None);
        assert_eq!(outcome_of(OutputMode::Json, &o), AgentOutcome::Ok);
    }
}
