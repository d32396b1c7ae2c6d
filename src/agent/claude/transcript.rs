//! Reads Claude Code's transcripts, checked against version 2.1.330.

use serde::Deserialize;
use serde_json::Value;

use crate::agent::transcript::{TranscriptEntry, TranscriptPart};
use crate::task::Time;

/// The arguments of a tool that say most about a call, the best first.
const TELLING: [&str; 9] =
    ["command", "file_path", "notebook_path", "pattern", "url", "query", "skill", "description", "prompt"];

#[derive(Deserialize)]
struct Line {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    timestamp: Option<String>,
    #[serde(default)]
    message: Value,
    /// Text that Claude Code added for the model.
    #[serde(default, rename = "isMeta")]
    is_meta: Option<bool>,
    /// It takes the place of earlier entries.
    #[serde(default, rename = "isCompactSummary")]
    is_summary: Option<bool>,
    /// Who wrote a prompt, if it was not the user.
    #[serde(default)]
    origin: Value,
}

/// Reads one line.
pub fn read_line(line: &[u8]) -> Option<TranscriptEntry> {
    // serde would read an array as the fields in their order.
    let line = line.trim_ascii().starts_with(b"{").then_some(line)?;
    let line: Line = serde_json::from_slice(line).ok()?;
    let at = line.timestamp.as_deref().and_then(|at| at.parse::<Time>().ok());
    let parts = match line.kind.as_str() {
        _ if line.is_meta == Some(true) => Vec::new(),
        "user" => {
            let is_notice = line.is_summary == Some(true) || !matches!(&line.origin["kind"], Value::Null);
            let said = if is_notice { TranscriptPart::Notice } else { TranscriptPart::Prompt };
            parts(&line.message["content"], said)
        }
        "assistant" => parts(&line.message["content"], TranscriptPart::Answer),
        _ => Vec::new(),
    };
    Some(TranscriptEntry { at, parts })
}

/// The parts of a message. Consecutive texts are one part.
fn parts(content: &Value, said: fn(String) -> TranscriptPart) -> Vec<TranscriptPart> {
    let blocks = match content {
        Value::String(text) => return vec![said(text.clone())],
        Value::Array(blocks) => blocks,
        _ => return Vec::new(),
    };
    blocks.iter().filter_map(|block| part(block, said)).collect()
}

fn part(block: &Value, said: fn(String) -> TranscriptPart) -> Option<TranscriptPart> {
    let text = |name: &str| block[name].as_str().unwrap_or_default().to_owned();
    match block["type"].as_str()? {
        "text" => Some(said(text("text"))),
        "tool_use" | "server_tool_use" => Some(TranscriptPart::ToolCall {
            id: text("id"),
            name: text("name"),
            about: about(&block["input"]),
        }),
        "tool_result" => Some(TranscriptPart::ToolResult {
            id: text("tool_use_id"),
            text: result(&block["content"]),
            is_error: block["is_error"] == true,
        }),
        // What the model thought is for the model.
        "thinking" | "redacted_thinking" => None,
        kind => Some(said(format!("({kind})"))),
    }
}

fn about(input: &Value) -> String {
    let telling = TELLING.iter().find_map(|name| input[name].as_str());
    match (telling, input.as_object()) {
        (Some(text), _) => text.to_owned(),
        (None, Some(none)) if none.is_empty() => String::new(),
        (None, _) => input.to_string(),
    }
}

/// The text that a tool returned; something else is named by its kind.
fn result(content: &Value) -> String {
    let Some(blocks) = content.as_array() else {
        return content.as_str().unwrap_or_default().to_owned();
    };
    let texts = blocks.iter().filter_map(|block| match block["type"].as_str()? {
        "text" => block["text"].as_str().map(str::to_owned),
        kind => Some(format!("({kind})")),
    });
    texts.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Vec<TranscriptPart> {
        read_line(line.as_bytes()).expect("a line").parts
    }

    #[test]
    fn prompts_answers_and_tools_are_read() {
        use TranscriptPart::{Answer, Notice, Prompt, ToolCall, ToolResult};
        let call =
            |name: &str, about: &str| ToolCall { id: "t".into(), name: name.into(), about: about.into() };
        let result = |text: &str, is_error| ToolResult { id: "t".into(), text: text.into(), is_error };
        for (line, parts) in [
            (r#"{"type":"user","message":{"role":"user","content":"do it"}}"#, vec![Prompt("do it".into())]),
            (
                r#"{"type":"user","origin":{"kind":"task-notification"},"message":{"content":"done"}}"#,
                vec![Notice("done".into())],
            ),
            (
                r#"{"type":"user","isCompactSummary":true,"message":{"content":"s"}}"#,
                vec![Notice("s".into())],
            ),
            (r#"{"type":"user","isMeta":true,"message":{"content":"caveat"}}"#, vec![]),
            (
                r#"{"type":"assistant","message":{"content":[{"type":"thinking","thinking":"hm"},
                {"type":"text","text":"ok"},{"type":"tool_use","id":"t","name":"Bash",
                "input":{"command":"true","description":"d"}}]}}"#,
                vec![Answer("ok".into()), call("Bash", "true")],
            ),
            (
                r#"{"type":"assistant","message":{"content":[
                {"type":"tool_use","id":"t","name":"TodoWrite","input":{"todos":[]}},
                {"type":"tool_use","id":"t","name":"ExitPlanMode","input":{}}]}}"#,
                vec![call("TodoWrite", r#"{"todos":[]}"#), call("ExitPlanMode", "")],
            ),
            (
                r#"{"type":"user","message":{"content":[
                {"type":"tool_result","tool_use_id":"t","content":"a"},
                {"type":"tool_result","tool_use_id":"t","is_error":true,
                "content":[{"type":"text","text":"b"},{"type":"image","source":{}}]}]}}"#,
                vec![result("a", false), result("b\n(image)", true)],
            ),
            (r#"{"type":"last-prompt","lastPrompt":"do it"}"#, vec![]),
            (r#"{"type":"assistant"}"#, vec![]),
            ("{}", vec![]),
        ] {
            assert_eq!(read(line), parts, "{line}");
        }
    }

    #[test]
    fn a_line_that_is_not_an_object_is_not_an_entry() {
        for line in [&b""[..], b"\xff\xfe", b"text", b"[]", b"{\"type\":\"user\"", b"7"] {
            assert_eq!(read_line(line), None);
        }
        let at = |line: &str| read_line(line.as_bytes()).expect("a line").at.map(|at| at.to_string());
        assert_eq!(
            at(r#"{"timestamp":"2026-11-30T06:25:45.358Z"}"#).as_deref(),
            Some("2026-11-30T06:25:45.358Z")
        );
        assert_eq!(at(r#"{"timestamp":"soon"}"#), None);
    }
}
