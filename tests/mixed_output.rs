//! Results on lines with other text: before the result, after it, and with very long lines.

use std::fs;

use crate::harness::{End, World};

const ID: &str = "0197a6a0-0000-4000-8000-00000000abcd";

/// Both adapters in both output formats.
const AGENTS: [(&str, &str); 4] = [
    ("claude", "stream-json"),
    ("claude", "json"),
    ("cursor-agent", "stream-json"),
    ("cursor-agent", "json"),
];

/// Runs a stand-in with `script` and asserts that its result was read.
#[track_caller]
fn assert_read(world: &World, (program, format): (&str, &str), script: &str) {
    world.stand_in(program, script);
    world.run([program, "-p", "--output-format", format]).run().ended(End::Code(0));
    let row = world.rows().pop().expect("a row");
    let what = format!("{program} {format}: {script}");
    assert_eq!((row.ending().as_str(), row.text("session_id").as_str()), ("success/", ID), "{what}");
    assert_eq!(row.number("input_tokens"), Some(30), "{what}");
    if program == "claude" {
        assert_eq!(row.real("cost_usd"), Some(0.5), "{what}");
    }
}

#[test]
fn a_result_is_read_with_other_text_before_and_after_it() {
    let Some(world) = World::of_bookend("a_result_is_read_with_other_text_before_and_after_it") else {
        return;
    };
    for agent in AGENTS {
        for (before, after) in [
            (r"\033[1m", r"\033[0m\033[K"),
            (r"\000", r"\000\000"),
            (r"Working...\r", r"\r"),
            ("the answer: ", " (done)"),
            ("note: { oops ", ""),
            ("uses {a,b} and { ", " } {"),
            (r"note: { oops\n", r"\n}}}"),
            (r#"{"cut\n"#, ""),
            (r#"{"type":"system","subtype":"init","session_id":"x"}"#, r#"{"type":"rest"}"#),
            (r#"{"type":"user","session_id":"x"} "#, ""),
        ] {
            assert_read(&world, agent, &format!("printf '{before}%s{after}\\n' \"$(result {ID} 0.5)\""));
        }
    }
}

/// The second of two objects on a line is read although the first is irrelevant.
#[test]
fn a_result_after_an_irrelevant_event_on_its_line_is_read() {
    let Some(world) = World::of_bookend("a_result_after_an_irrelevant_event_on_its_line_is_read") else {
        return;
    };
    for between in ["", " ", r"\033[0m"] {
        let echo = format!(r#"{{"type":"user","message":{{}},"session_id":"{ID}"}}{between}"#);
        let script = format!("init {ID}; printf '{echo}%s\\n' \"$(result {ID} 0.5)\"");
        assert_read(&world, AGENTS[0], &script);
    }
}

/// This holds with any text between the two objects.
#[test]
fn an_answer_after_an_irrelevant_event_on_its_line_is_counted() {
    let Some(world) = World::of_bookend("an_answer_after_an_irrelevant_event_on_its_line_is_counted") else {
        return;
    };
    let answer = format!(
        r#"{{"type":"assistant","message":{{"id":"m","usage":{{"input_tokens":30}}}},"session_id":"{ID}"}}"#
    );
    let result = format!(
        r#"{{"type":"result","subtype":"success","is_error":false,"session_id":"{ID}","total_cost_usd":0.5}}"#
    );
    let echo = r#"{"type":"user","message":{"content":[{"type":"tool_result","content":"x"}]}"#;
    let delta = r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"x"}}"#;
    let piece = format!(r#"{{"type":"stream_event","event":{delta}"#);
    for event in [echo, &piece, r#"{"type":"system","subtype":"status""#] {
        for between in ["", " ", "\x1b[0m", "text, \"quoted\" ", "]", "{ oops "] {
            let printed = format!("{event},\"session_id\":\"{ID}\"}}{between}{answer}\n{result}\n");
            fs::write(world.path("home/printed"), printed).expect("the output of the agent");
            assert_read(&world, AGENTS[0], &format!("init {ID}; cat printed"));
        }
    }
}

#[test]
fn a_result_line_of_more_than_16_mib_is_read() {
    let Some(world) = World::of_bookend("a_result_line_of_more_than_16_mib_is_read") else { return };
    let text = format!("{}\\n", "0123456789".repeat(8)).repeat((17 << 20) / 82);
    let line = format!(
        r#"{{"type":"result","subtype":"success","is_error":false,"result":"{text}","session_id":"{ID}","#
    ) + r#""total_cost_usd":0.5,"usage":{"input_tokens":30,"output_tokens":4,"#
        + r#""inputTokens":30,"outputTokens":4}}"#;
    assert!(line.len() > 16 << 20);
    fs::write(world.path("home/line"), line).expect("the line");
    for agent in AGENTS {
        assert_read(&world, agent, "cat line; echo");
    }
}

#[test]
fn a_nested_or_truncated_event_is_not_read() {
    let Some(world) = World::of_bookend("a_nested_or_truncated_event_is_not_read") else { return };
    let result = r#"{"type":"result","is_error":false}"#;
    let quoted = result.replace('"', "\\\"");
    for agent in AGENTS {
        let (program, format) = agent;
        for printed in [
            // A truncated line, a member of another object, a string, and an object without a type.
            format!(r#"{{"message":{result}"#),
            format!(r#"{{"type":"user","message":{result}}}"#),
            format!(r#"text: ["{quoted}"]"#),
            r#"{"is_error":false,"result":"done"}"#.to_owned(),
        ] {
            fs::write(world.path("home/printed"), &printed).expect("the output of the agent");
            world.stand_in(program, "cat printed; echo");
            world.run([program, "-p", "--output-format", format]).run().ended(End::Code(0));
            let ending = world.rows().pop().expect("a row").ending();
            assert_eq!(ending, "failure/no_result", "{program} {format}: {printed}");
        }
    }
}

#[test]
fn an_error_subtype_is_an_error_despite_other_fields() {
    let Some(world) = World::of_bookend("an_error_subtype_is_an_error_despite_other_fields") else { return };
    let result =
        r#"{"type":"result","subtype":"error_max_turns","is_error":false,"errors":["no more turns"]}"#;
    for (program, format) in AGENTS {
        world.stand_in(program, &format!("echo '{result}'"));
        world.run([program, "-p", "--output-format", format]).run().ended(End::Code(0));
        let row = world.rows().pop().expect("a row");
        assert_eq!(row.ending(), "failure/agent_error", "{program} {format}");
        let says = if program == "claude" { "no more turns" } else { "the agent reported an error" };
        assert!(row.text("error").contains(says), "{}", row.text("error"));
    }
}
