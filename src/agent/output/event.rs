//! One event of an agent's JSON output, with the keys that bookend reads, for all agents.
//!
//! Keys are read by name, in any order. A text that is incomplete or not JSON is not an event.

use std::borrow::Cow;

use super::json::{JsonCursor, JsonResult, MalformedJson, lossy};
use super::kept::error_text;
use crate::agent::adapter::RunResult;
use crate::task::TokenUsage;

/// The greatest cost that is accepted, in US dollars: a greater one would make every sum useless.
pub const MOST_COST_USD: f64 = 1e9;

type EventText<'a> = Option<Cow<'a, str>>;

/// Token counts, and the JSON text that they were read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CountedUsage<T> {
    pub usage: TokenUsage,
    pub text: T,
}

/// A block of a message's content that is about a tool.
#[derive(Debug, PartialEq, Eq)]
pub enum ToolBlock<T> {
    Call { id: T, name: T },
    Answer { id: T },
}

#[derive(Debug, PartialEq)]
pub struct EventMessage<T> {
    pub id: Option<T>,
    pub model: Option<T>,
    pub usage: Option<CountedUsage<T>>,
    pub blocks: Vec<ToolBlock<T>>,
}

/// The API's event inside a `stream_event`.
#[derive(Debug, PartialEq)]
pub struct StreamedEvent<T> {
    pub kind: Option<T>,
    pub message: Option<EventMessage<T>>,
    pub usage: Option<CountedUsage<T>>,
}

/// The account's usage limit, from a `rate_limit_event`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RateLimit {
    pub rejected: bool,
    /// Unix time, seconds.
    pub resets_at: Option<i64>,
}

/// An event with its texts, or with their positions.
#[derive(Debug, Default, PartialEq)]
pub struct OutputEvent<'a, T = Cow<'a, str>> {
    pub kind: Option<T>,
    pub subtype: Option<T>,
    pub session_id: Option<T>,
    pub model: Option<T>,
    pub usage: Option<CountedUsage<T>>,
    pub message: Option<EventMessage<T>>,
    pub stream: Option<StreamedEvent<T>>,
    /// The message that a `stream_event` belongs to.
    pub message_id: Option<T>,
    /// The tool call of the subagent that wrote the event.
    pub parent: Option<T>,
    /// The number of running background tasks, if the event lists them.
    pub tasks: Option<usize>,
    pub task_id: Option<T>,
    pub backgrounded: Option<bool>,
    pub turns: Option<i64>,
    /// US dollars.
    pub cost: Option<f64>,
    /// The agent's version, from its first event.
    pub version: Option<T>,
    /// The index of a result among those of one process; older versions of Claude Code do not print it.
    pub result_index: Option<i64>,
    /// The HTTP status with which the API rejected the last request.
    pub api_status: Option<i64>,
    pub rate_limit: Option<RateLimit>,
    /// The model with the greatest cost in `modelUsage`.
    pub costliest: Option<T>,
    is_error: Option<bool>,
    result: Option<&'a [u8]>,
    errors: Option<&'a [u8]>,
}

/// Gives the texts of an event, stored in it or by position.
pub trait EventTexts<T> {
    fn text<'s>(&'s self, text: &'s T) -> Cow<'s, str>;
    /// Whether `text` is this `word`.
    fn is(&self, text: &T, word: &str) -> bool;
    fn usage(&self, counted: &CountedUsage<T>) -> Option<TokenUsage>;
}

/// The texts are stored in the event itself.
pub struct InlineTexts;

impl<'a> EventTexts<Cow<'a, str>> for InlineTexts {
    fn text<'s>(&'s self, text: &'s Cow<'a, str>) -> Cow<'s, str> {
        Cow::Borrowed(text)
    }

    fn is(&self, text: &Cow<'a, str>, word: &str) -> bool {
        text == word
    }

    fn usage(&self, counted: &CountedUsage<Cow<'a, str>>) -> Option<TokenUsage> {
        Some(counted.usage)
    }
}

impl<'a> OutputEvent<'a> {
    /// Reads one whole event.
    #[inline]
    pub fn read(text: &'a [u8]) -> JsonResult<OutputEvent<'a>> {
        let mut c = JsonCursor::new(text);
        let mut e = OutputEvent::default();
        let mut any = false;
        c.object(|c, key| {
            any = true;
            match key {
                b"type" => e.kind = c.string()?,
                b"subtype" => e.subtype = c.string()?,
                b"session_id" => e.session_id = c.string()?,
                b"model" => e.model = c.string()?,
                b"usage" => e.usage = usage(c)?,
                b"message" => e.message = message(c)?,
                b"event" => e.stream = stream(c)?,
                b"api_message_id" => e.message_id = c.string()?,
                b"parent_tool_use_id" => e.parent = c.string()?,
                b"tasks" => e.tasks = length(c)?,
                b"task_id" => e.task_id = c.string()?,
                b"is_backgrounded" => e.backgrounded = c.boolean()?,
                b"num_turns" => e.turns = c.count()?,
                b"total_cost_usd" => e.cost = c.number()?.filter(|n| (0.0..=MOST_COST_USD).contains(n)),
                b"claude_code_version" => e.version = c.string()?,
                b"result_index" => e.result_index = c.count()?,
                b"api_error_status" => e.api_status = c.count()?,
                b"rate_limit_info" => e.rate_limit = Some(rate_limit(c)?),
                b"modelUsage" => e.costliest = costliest(c)?,
                b"is_error" => e.is_error = c.boolean()?,
                b"result" => e.result = Some(c.raw()?),
                b"errors" => e.errors = Some(c.raw()?),
                _ => c.skip()?,
            }
            Ok(())
        })?;
        if any && c.at_end() { Ok(e) } else { Err(MalformedJson) }
    }

    /// Whether it is the result of a run. Results are always read in full.
    pub fn is_result(&self) -> bool {
        self.kind.as_deref() == Some("result")
    }

    /// The outcome that a `result` event reports. A failed API call has the subtype `success`, and reaching
    /// the turn limit may have `is_error` false, so either of the two makes it an error.
    pub fn verdict(&self) -> RunResult {
        let subtype = self.subtype.as_deref().unwrap_or("");
        if self.is_error != Some(true) && !subtype.starts_with("error") {
            return RunResult { error: None };
        }
        let mut text = self
            .result
            .and_then(|raw| JsonCursor::new(raw).string().ok().flatten())
            .unwrap_or_default()
            .into_owned();
        if text.trim().is_empty() {
            text = self.errors.map(joined).unwrap_or_default();
        }
        if text.trim().is_empty() {
            text = format!("the agent reported an error without a message ({subtype})");
        }
        text.truncate(error_text(&text).len());
        RunResult { error: Some(text) }
    }
}

impl<T> OutputEvent<'_, T> {
    /// The same event with the position of each text instead of the text. `None`: a text has no position,
    /// or the event has a value that is not a text and may differ in the next event of its kind.
    pub fn placed<U>(&self, place: &impl Fn(&T) -> Option<U>) -> Option<OutputEvent<'static, U>> {
        let counted_once = [self.turns, self.result_index, self.api_status].iter().any(Option::is_some);
        let is_sum = self.cost.is_some() || self.result.is_some() || self.errors.is_some();
        if counted_once || is_sum || self.rate_limit.is_some() {
            return None;
        }
        Some(OutputEvent {
            kind: placed(&self.kind, place)?,
            subtype: placed(&self.subtype, place)?,
            session_id: placed(&self.session_id, place)?,
            model: placed(&self.model, place)?,
            usage: counted(&self.usage, place)?,
            message: message_placed(&self.message, place)?,
            stream: match &self.stream {
                None => None,
                Some(s) => Some(StreamedEvent {
                    kind: placed(&s.kind, place)?,
                    message: message_placed(&s.message, place)?,
                    usage: counted(&s.usage, place)?,
                }),
            },
            message_id: placed(&self.message_id, place)?,
            parent: placed(&self.parent, place)?,
            tasks: self.tasks,
            task_id: placed(&self.task_id, place)?,
            backgrounded: self.backgrounded,
            turns: None,
            cost: None,
            version: placed(&self.version, place)?,
            result_index: None,
            api_status: None,
            rate_limit: None,
            costliest: placed(&self.costliest, place)?,
            is_error: self.is_error,
            result: None,
            errors: None,
        })
    }
}

fn message_placed<T, U>(
    message: &Option<EventMessage<T>>,
    place: &impl Fn(&T) -> Option<U>,
) -> Option<Option<EventMessage<U>>> {
    let Some(m) = message else { return Some(None) };
    let block = |block: &ToolBlock<T>| {
        Some(match block {
            ToolBlock::Call { id, name } => ToolBlock::Call { id: place(id)?, name: place(name)? },
            ToolBlock::Answer { id } => ToolBlock::Answer { id: place(id)? },
        })
    };
    Some(Some(EventMessage {
        id: placed(&m.id, place)?,
        model: placed(&m.model, place)?,
        usage: counted(&m.usage, place)?,
        blocks: m.blocks.iter().map(block).collect::<Option<_>>()?,
    }))
}

fn counted<T, U>(
    counted: &Option<CountedUsage<T>>,
    place: &impl Fn(&T) -> Option<U>,
) -> Option<Option<CountedUsage<U>>> {
    let Some(c) = counted else { return Some(None) };
    Some(Some(CountedUsage { usage: c.usage, text: place(&c.text)? }))
}

fn placed<T, U>(text: &Option<T>, place: &impl Fn(&T) -> Option<U>) -> Option<Option<U>> {
    text.as_ref().map_or(Some(None), |text| place(text).map(Some))
}

fn joined(errors: &[u8]) -> String {
    let mut all = Vec::new();
    let read = JsonCursor::new(errors).array(|c| {
        all.extend(c.string()?);
        Ok(())
    });
    if read.is_ok() { all.join("; ") } else { String::new() }
}

/// The token counts in the JSON text of a usage object.
pub fn usage_of(text: &[u8]) -> Option<TokenUsage> {
    Some(usage(&mut JsonCursor::new(text)).ok()??.usage)
}

fn usage<'a>(c: &mut JsonCursor<'a>) -> JsonResult<Option<CountedUsage<Cow<'a, str>>>> {
    let mut u = TokenUsage::default();
    let text = c.read(|c| {
        c.object(|c, key| {
            match key {
                b"input_tokens" => u.input = c.count()?,
                b"output_tokens" => u.output = c.count()?,
                b"cache_read_input_tokens" => u.cache_read = c.count()?,
                b"cache_creation_input_tokens" => u.cache_creation = c.count()?,
                _ => c.skip()?,
            }
            Ok(())
        })
    })?;
    let counted = || CountedUsage { usage: u, text: lossy(text) };
    Ok((u != TokenUsage::default()).then(counted))
}

fn message<'a>(c: &mut JsonCursor<'a>) -> JsonResult<Option<EventMessage<Cow<'a, str>>>> {
    let mut m = EventMessage { id: None, model: None, usage: None, blocks: Vec::new() };
    c.object(|c, key| {
        match key {
            b"id" => m.id = c.string()?,
            b"model" => m.model = c.string()?,
            b"usage" => m.usage = usage(c)?,
            b"content" => {
                m.blocks.clear();
                c.array(|c| {
                    m.blocks.extend(block(c)?);
                    Ok(())
                })?;
            }
            _ => c.skip()?,
        }
        Ok(())
    })?;
    Ok(Some(m))
}

fn block<'a>(c: &mut JsonCursor<'a>) -> JsonResult<Option<ToolBlock<Cow<'a, str>>>> {
    let (mut kind, mut id, mut name, mut call) = (None, None, None, None);
    c.object(|c, key| {
        match key {
            b"type" => kind = c.string()?,
            b"id" => id = c.string()?,
            b"name" => name = c.string()?,
            b"tool_use_id" => call = c.string()?,
            _ => c.skip()?,
        }
        Ok(())
    })?;
    Ok(match (kind.as_deref(), id, name, call) {
        (Some("tool_use"), Some(id), Some(name), _) => Some(ToolBlock::Call { id, name }),
        (Some("tool_result"), _, _, Some(id)) => Some(ToolBlock::Answer { id }),
        _ => None,
    })
}

fn stream<'a>(c: &mut JsonCursor<'a>) -> JsonResult<Option<StreamedEvent<Cow<'a, str>>>> {
    let mut s = StreamedEvent { kind: None, message: None, usage: None };
    c.object(|c, key| {
        match key {
            b"type" => s.kind = c.string()?,
            b"message" => s.message = message(c)?,
            b"usage" => s.usage = usage(c)?,
            _ => c.skip()?,
        }
        Ok(())
    })?;
    Ok(Some(s))
}

fn rate_limit(c: &mut JsonCursor<'_>) -> JsonResult<RateLimit> {
    let mut limit = RateLimit::default();
    c.object(|c, key| {
        match key {
            b"status" => limit.rejected = c.string()?.as_deref() == Some("rejected"),
            b"resetsAt" => limit.resets_at = c.count()?,
            _ => c.skip()?,
        }
        Ok(())
    })?;
    Ok(limit)
}

fn length(c: &mut JsonCursor<'_>) -> JsonResult<Option<usize>> {
    if !c.begins_with(b'[')? {
        c.skip()?;
        return Ok(None);
    }
    let mut n = 0;
    c.array(|c| {
        n += 1;
        c.skip()
    })?;
    Ok(Some(n))
}

fn costliest<'a>(c: &mut JsonCursor<'a>) -> JsonResult<EventText<'a>> {
    let mut best: Option<(f64, Cow<'a, str>)> = None;
    c.object(|c, key| {
        let mut cost = 0.0;
        c.object(|c, key| {
            match key {
                b"costUSD" => cost = c.number()?.unwrap_or(0.0),
                _ => c.skip()?,
            }
            Ok(())
        })?;
        if best.as_ref().is_none_or(|(most, _)| cost > *most) {
            best = Some((cost, Cow::Owned(String::from_utf8_lossy(key).into_owned())));
        }
        Ok(())
    })?;
    Ok(best.map(|(_, model)| model))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_of_the_wrong_type_leaves_the_other_keys_readable() {
        let e = OutputEvent::read(
            br#"{"session_id":7,"num_turns":"x","usage":{"input_tokens":"9","output_tokens":3},
            "message":"hm","tasks":{},"total_cost_usd":[],"is_error":"yes",
            "type":"result","subtype":"error_x"}"#,
        )
        .unwrap();
        assert_eq!(e.kind.as_deref(), Some("result"));
        assert_eq!((e.session_id.as_deref(), e.turns, e.cost, e.tasks), (None, None, None, None));
        assert_eq!(e.usage.as_ref().unwrap().usage.output, Some(3));
        assert!(e.verdict().error.is_some());
    }

    #[test]
    fn the_last_of_two_equal_keys_counts() {
        let e = OutputEvent::read(br#"{"num_turns":1,"num_turns":2}"#).unwrap();
        assert_eq!(e.turns, Some(2));
    }

    #[test]
    fn only_a_whole_object_is_an_event() {
        for text in ["", "[]", "1", "\"type\"", "null", "{}", "{\"type\":\"result\"", "hello"] {
            assert!(OutputEvent::read(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn an_error_without_a_text_gets_one() {
        let e = OutputEvent::read(br#"{"type":"result","subtype":"odd","is_error":true,"result":""}"#);
        assert_eq!(
            e.unwrap().verdict().error.as_deref(),
            Some("the agent reported an error without a message (odd)")
        );
    }

    #[test]
    fn the_model_is_the_one_with_the_greatest_cost() {
        let e =
            OutputEvent::read(br#"{"modelUsage":{"small":{"costUSD":0.1},"large":{"costUSD":0.9},"odd":7}}"#);
        assert_eq!(e.unwrap().costliest.as_deref(), Some("large"));
    }
}
