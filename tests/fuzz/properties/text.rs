//! The splitters and the JSON reader of the adapters. Their module is private to the adapters, so this is a
//! child module of them.

use std::borrow::Cow;

use super::output::event::{EventMessage, OutputEvent, StreamedEvent, ToolBlock};
use super::output::json::{JsonCursor, JsonResult};
use super::output::lines::{LineSplitter, ObjectSplitter};
use crate::fuzz::json::Json;
use crate::fuzz::{Chance, cuts};
use crate::task::TokenUsage;

/// In chunks of any size, the lines come out complete and in order. Of lines over the limit come the same
/// objects each time, within the limit.
pub fn lines(bytes: &[u8]) {
    for limit in [3, 100, 16 << 20] {
        let mut plain: Vec<&[u8]> = bytes.split(|b| *b == b'\n').collect();
        if plain.last().is_some_and(|l| l.is_empty()) {
            plain.pop();
        }
        let cut = |parts: Vec<&[u8]>| {
            let mut got = Vec::new();
            let mut splitter = LineSplitter::limited(limit);
            parts.into_iter().for_each(|part| splitter.push(part, |l| got.push(l.to_vec())));
            splitter.finish(|l| got.push(l.to_vec()));
            got
        };
        let found = cut(vec![bytes]);
        for parts in cuts(bytes) {
            assert_eq!(cut(parts), found, "limit {limit}");
        }
        let expected = plain.into_iter().flat_map(|line| match line.len() <= limit {
            true => vec![line.to_vec()],
            false => cut(vec![line]),
        });
        assert!(expected.eq(found.iter().cloned()), "limit {limit}: {found:?}");
        assert!(found.iter().all(|l| l.len() <= limit), "limit {limit}: {found:?}");
    }
}

/// In chunks of any size, the same objects come out in order, each a part of the input. Of a JSON text they
/// are its outermost objects.
pub fn objects(bytes: &[u8]) {
    let mut ways = cuts(bytes).into_iter().map(|parts| {
        let mut got = Vec::new();
        let mut splitter = ObjectSplitter::new();
        parts.into_iter().for_each(|part| splitter.push(part, |o| got.push(o.to_vec())));
        splitter.finish(|o| got.push(o.to_vec()));
        got
    });
    let found = ways.next().expect("a way");
    for other in ways {
        assert_eq!(other, found);
    }
    let mut rest = bytes;
    for object in &found {
        assert!(object.starts_with(b"{") && object.ends_with(b"}"));
        let at = rest.windows(object.len()).position(|w| w == object).expect("a part of the input");
        rest = &rest[at + object.len()..];
    }
    let stream = serde_json::Deserializer::from_slice(bytes).into_iter::<Json>();
    if let Ok(values) = stream.collect::<Result<Vec<_>, _>>() {
        let mut outermost = Vec::new();
        // The splitter does not recognise strings between objects: a brace in one begins an object.
        if values.iter().all(|v| gather(v, &mut outermost)) {
            let found = found.iter().map(|o| Json::read(o).expect("an object of JSON"));
            assert_eq!(found.collect::<Vec<_>>(), outermost);
        }
    }
}

/// Collects the outermost objects; `false`: a string between them has a brace.
fn gather(value: &Json, into: &mut Vec<Json>) -> bool {
    match value {
        Json::Object(_) => into.push(value.clone()),
        Json::Array(elements) => return elements.iter().all(|e| gather(e, into)),
        Json::Text(text) => return !text.contains('{'),
        Json::Null | Json::Bool(_) | Json::Number(_) => {}
    }
    true
}

/// Where serde_json reads an object, bookend's reader reads the same; where it reports an incomplete text,
/// bookend's reader rejects it, as it does each prefix of a complete text.
pub fn json(text: &[u8]) {
    let event = OutputEvent::read(text);
    let read = match Json::read(text) {
        Ok(read) => read,
        Err(e) => return assert!(!e.is_eof() || event.is_err(), "an incomplete text is accepted"),
    };
    let mut cursor = JsonCursor::new(text);
    assert_eq!(again(&mut cursor), Ok(read.clone()));
    assert!(cursor.at_end());
    if read.members().is_empty() {
        assert!(event.is_err(), "an empty object and other values are not events");
        return;
    }
    same_event(&event.expect("an event"), &read);
    let end = text.trim_ascii_end().len();
    let mut chance = Chance::of(text);
    for _ in 0..32 {
        let at = chance.below(end - 1);
        assert!(OutputEvent::read(&text[..at]).is_err(), "cut after {at} bytes, it is accepted");
    }
}

/// The value here, read with bookend's reader.
fn again(c: &mut JsonCursor<'_>) -> JsonResult<Json> {
    if c.begins_with(b'{')? {
        let mut members = Vec::new();
        c.object(|c, key| {
            let key = String::from_utf8(key.to_vec()).expect("UTF-8");
            members.push((key, again(c)?));
            Ok(())
        })?;
        return Ok(Json::Object(members));
    }
    if c.begins_with(b'[')? {
        let mut elements = Vec::new();
        c.array(|c| {
            elements.push(again(c)?);
            Ok(())
        })?;
        return Ok(Json::Array(elements));
    }
    let raw = c.raw()?;
    let of = || JsonCursor::new(raw);
    let count = of().count()?;
    let value = match (of().string()?, of().number()?, of().boolean()?) {
        (Some(text), None, None) => Json::Text(text.into_owned()),
        (None, Some(n), None) => Json::Number(n),
        (None, None, Some(truth)) => Json::Bool(truth),
        (None, None, None) => Json::Null,
        other => panic!("{other:?} of one value"),
    };
    assert_eq!(count, count_of(Some(&value)));
    Ok(value)
}

fn count_of(value: Option<&Json>) -> Option<i64> {
    value?.number().filter(|n| (0.0..9e15).contains(n)).map(|n| n as i64)
}

fn text_of<'a>(object: &'a Json, key: &str) -> Option<&'a str> {
    object.last(&[key]).and_then(Json::text)
}

fn same_event(event: &OutputEvent<'_>, json: &Json) {
    let text = |key| text_of(json, key);
    assert_eq!(event.kind.as_deref(), text("type"));
    assert_eq!(event.subtype.as_deref(), text("subtype"));
    assert_eq!(event.session_id.as_deref(), text("session_id"));
    assert_eq!(event.model.as_deref(), text("model"));
    assert_eq!(event.message_id.as_deref(), text("api_message_id"));
    assert_eq!(event.parent.as_deref(), text("parent_tool_use_id"));
    assert_eq!(event.task_id.as_deref(), text("task_id"));
    assert_eq!(event.turns, count_of(json.last(&["num_turns"])));
    let cost = json.last(&["total_cost_usd"]).and_then(Json::number);
    assert_eq!(event.cost, cost.filter(|n| *n >= 0.0));
    assert_eq!(event.usage.as_ref().map(|c| c.usage), json.last(&["usage"]).and_then(usage));
    let length = |value: &Json| if let Json::Array(elements) = value { Some(elements.len()) } else { None };
    assert_eq!(event.tasks, json.last(&["tasks"]).and_then(length));
    let backgrounded = json.last(&["is_backgrounded"]);
    let truth = |value: Option<&Json>| if let Some(Json::Bool(truth)) = value { Some(*truth) } else { None };
    assert_eq!(event.backgrounded, truth(backgrounded));
    same_message(event.message.as_ref(), json.last(&["message"]));
    same_stream(event.stream.as_ref(), json.last(&["event"]));
    assert_eq!(event.costliest.as_deref(), json.last(&["modelUsage"]).and_then(costliest));
    let error = truth(json.last(&["is_error"]));
    let by_word = || text("subtype").unwrap_or_default().starts_with("error");
    assert_eq!(event.verdict().error.is_some(), error.unwrap_or_else(by_word));
}

fn usage(json: &Json) -> Option<TokenUsage> {
    let count = |key: &str| count_of(json.last(&[key]));
    let usage = TokenUsage {
        input: count("input_tokens"),
        output: count("output_tokens"),
        cache_read: count("cache_read_input_tokens"),
        cache_creation: count("cache_creation_input_tokens"),
    };
    (usage != TokenUsage::default()).then_some(usage)
}

fn same_message(message: Option<&EventMessage<Cow<'_, str>>>, json: Option<&Json>) {
    let (Some(message), Some(json)) = (message, json) else {
        return assert!(message.is_none() && json.is_none());
    };
    assert_eq!(message.id.as_deref(), text_of(json, "id"));
    assert_eq!(message.model.as_deref(), text_of(json, "model"));
    assert_eq!(message.usage.as_ref().map(|c| c.usage), json.last(&["usage"]).and_then(usage));
    let content = json.last(&["content"]);
    let blocks = if let Some(Json::Array(blocks)) = content { blocks.as_slice() } else { &[] };
    let blocks: Vec<ToolBlock<Cow<'_, str>>> = blocks.iter().filter_map(block).collect();
    assert_eq!(message.blocks, blocks);
}

fn block(json: &Json) -> Option<ToolBlock<Cow<'_, str>>> {
    let text = |key| text_of(json, key);
    match text("type")? {
        "tool_use" => Some(ToolBlock::Call { id: text("id")?.into(), name: text("name")?.into() }),
        "tool_result" => Some(ToolBlock::Answer { id: text("tool_use_id")?.into() }),
        _ => None,
    }
}

fn same_stream(stream: Option<&StreamedEvent<Cow<'_, str>>>, json: Option<&Json>) {
    let (Some(stream), Some(json)) = (stream, json) else {
        return assert!(stream.is_none() && json.is_none());
    };
    assert_eq!(stream.kind.as_deref(), text_of(json, "type"));
    assert_eq!(stream.usage.as_ref().map(|c| c.usage), json.last(&["usage"]).and_then(usage));
    same_message(stream.message.as_ref(), json.last(&["message"]));
}

/// The first of the models with the greatest cost.
fn costliest(models: &Json) -> Option<&str> {
    let cost = |model: &Json| model.last(&["costUSD"]).and_then(Json::number).unwrap_or(0.0);
    let mut best: Option<(&str, f64)> = None;
    for (name, model) in models.members() {
        if best.is_none_or(|(_, most)| cost(model) > most) {
            best = Some((name, cost(model)));
        }
    }
    best.map(|(name, _)| name)
}
