//! Replays captured agent output through the real binary and compares the row with the sample.

use std::fs;
use std::path::Path;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{End, Row, STREAM, World, eventually};

const ID: &str = "0197a6a0-0000-4000-8000-00000000abcd";

/// The events of a sample, of any output mode.
fn events(file: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples").join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::Deserializer::from_str(&text)
        .into_iter::<Value>()
        .map(|v| v.unwrap_or_else(|e| panic!("{file}: {e}")))
        .flat_map(|v| match v {
            Value::Array(all) => all,
            one => vec![one],
        })
        .collect()
}

/// Replays a sample through a stand-in and returns the row.
fn replay(world: &World, program: &str, words: &str, file: &str, end: &str) -> Row {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples").join(file);
    world.stand_in(program, &format!("cat '{}'; {end}", sample.display()));
    let argv = [program].into_iter().chain(words.split(' '));
    let output = world.run(argv).run();
    assert!(output.bytes == fs::read(&sample).expect("the sample"), "{file} passes through");
    let wanted = match end.split_once(' ') {
        Some(("exit", code)) => End::Code(code.parse().expect("a code")),
        _ => End::Signal(9),
    };
    assert_eq!(output.end, wanted, "{file}: {output:?}");
    world.rows().pop().expect("a row")
}

/// The sum of a number over the results of a sample; `None`: no result has it.
fn sum(results: &[&Value], path: &str) -> Option<i64> {
    results.iter().filter_map(|r| r.pointer(path)?.as_i64()).reduce(|a, b| a + b)
}

#[test]
fn each_sample_of_claude_gives_its_own_numbers() {
    let Some(world) = World::of_bookend("each_sample_of_claude") else { return };
    const JSON: &str = "-p hi --output-format json";
    const VERBOSE: &str = "-p hi --output-format json --verbose";
    const STREAMED: &str = "-p hi --output-format stream-json --verbose";
    const PARTIAL: &str = "-p hi --output-format stream-json --verbose --include-partial-messages";
    const TALK: &str = "-p --input-format stream-json --output-format stream-json --verbose";
    for (file, words, end, ending) in [
        ("02-json.stdout.json", JSON, "exit 0", "success/"),
        ("05-json-verbose.stdout.json", VERBOSE, "exit 0", "success/"),
        ("06-stream-json-partial.stdout.jsonl", PARTIAL, "exit 0", "success/"),
        ("101-hook-events-sj.stdout.jsonl", STREAMED, "exit 0", "success/"),
        ("110-bg-task-8s-sj.stdout.jsonl", STREAMED, "exit 0", "success/"),
        ("111-stream-json-input.jsonl", TALK, "exit 0", "success/"),
        ("12-resume.stdout.json", JSON, "exit 0", "success/"),
        ("30-error-500-json.stdout.json", JSON, "exit 1", "failure/agent_error"),
        ("45-maxturns-sj.stdout.jsonl", STREAMED, "exit 1", "failure/agent_error"),
        ("62-tool-ok-sj.stdout.jsonl", STREAMED, "exit 0", "success/"),
        ("64-sj-badresume-garbage.stdout.jsonl", STREAMED, "exit 1", "failure/agent_error"),
    ] {
        let row = replay(&world, "claude", words, file, end);
        let events = events(file);
        let results: Vec<&Value> = events.iter().filter(|e| e["type"] == "result").collect();
        let last = results.last().expect("a result");
        assert_eq!(row.ending(), ending, "{file}");
        for (column, path) in [
            ("turns", "/num_turns"),
            ("input_tokens", "/usage/input_tokens"),
            ("output_tokens", "/usage/output_tokens"),
            ("cache_read_tokens", "/usage/cache_read_input_tokens"),
            ("cache_creation_tokens", "/usage/cache_creation_input_tokens"),
        ] {
            assert_eq!(row.number(column), sum(&results, path), "{file}: {column}");
        }
        let (cost, reported_cost) = (row.real("cost_usd"), last["total_cost_usd"].as_f64());
        let off = cost.expect("a cost") - reported_cost.expect("a cost in the file");
        assert!(off.abs() < 1e-12, "{file}: {cost:?} is not {reported_cost:?}");
        assert_eq!(row.text("session_id"), last["session_id"], "{file}: session");
        let model = events.iter().filter(|e| e["subtype"] == "init").find_map(|e| e["model"].as_str());
        let dearest = last["modelUsage"].as_object().and_then(|m| m.keys().next()).map(String::as_str);
        assert_eq!(row.text("model"), model.or(dearest).unwrap_or_default(), "{file}: model");
        let is_error = last["is_error"] == true;
        let reported = last["result"].as_str().or_else(|| last["errors"][0].as_str()).unwrap_or_default();
        assert!(
            !is_error || row.text("error").contains(reported),
            "{file}: {reported:?} in {:?}",
            row.text("error")
        );
        assert!(is_error || row.text("error").is_empty(), "{file}: {:?}", row.text("error"));
        assert_eq!((row.text("agent_type"), row.text("provider")), ("claude".into(), "anthropic".into()));
    }
}

#[test]
fn a_truncated_sample_gives_the_counts_so_far() {
    let Some(world) = World::of_bookend("a_sample_that_was_cut_off") else { return };
    let words = "-p hi --output-format stream-json --verbose";
    let file = "72-tool-SIGKILL-sj.stdout.txt";
    let row = replay(&world, "claude", words, file, "kill -9 $$");
    assert_eq!(row.ending(), "failure/signal");
    let events = events(file);
    let message = events.iter().find(|e| e["type"] == "assistant").expect("a message");
    let usage = &message["message"]["usage"];
    assert_eq!(row.number("input_tokens"), usage["input_tokens"].as_i64());
    assert_eq!(row.number("output_tokens"), usage["output_tokens"].as_i64());
    assert_eq!((row.number("turns"), row.real("cost_usd")), (Some(1), None));
    assert_eq!(row.text("session_id"), message["session_id"].as_str().expect("an id"));
    assert_eq!(row.text("model"), events[0]["model"].as_str().expect("a model"));
}

#[test]
fn each_sample_of_cursor_gives_its_own_numbers() {
    let Some(world) = World::of_bookend("each_sample_of_cursor") else { return };
    for (program, file, format) in [
        ("cursor-agent", "cursor-stream-json.jsonl", "stream-json"),
        ("cursor-agent", "cursor-json.json", "json"),
    ] {
        let row = replay(&world, program, &format!("-p hi --output-format {format}"), file, "exit 0");
        let events = events(file);
        let result = events.last().expect("a result");
        assert_eq!(row.ending(), "success/");
        for (column, path) in [
            ("input_tokens", "/usage/inputTokens"),
            ("output_tokens", "/usage/outputTokens"),
            ("cache_read_tokens", "/usage/cacheReadTokens"),
            ("cache_creation_tokens", "/usage/cacheWriteTokens"),
        ] {
            assert_eq!(row.number(column), sum(&[result], path), "{file}: {column}");
        }
        assert_eq!((row.text("turns"), row.text("cost_usd")), Default::default(), "{file} has neither");
        assert_eq!(row.text("session_id"), result["session_id"], "{file}");
        assert_eq!(row.text("model"), events[0]["model"].as_str().unwrap_or_default(), "{file}");
        assert_eq!((row.text("agent_type"), row.text("provider")), ("cursor".into(), "cursor".into()));
    }
}

#[test]
fn cursor_under_another_name_is_read_with_an_agent_type() {
    let Some(world) = World::of_bookend("cursor_under_another_name") else { return };
    world.stand_in("agent", &format!("init {ID}; result {ID} 1"));
    let argv = ["agent", "-p", "hi", "--output-format", "stream-json"];
    world.run(argv).options(["--agent-type", "cursor"]).run().ended(End::Code(0)).silent();
    let row = world.row();
    assert_eq!((row.text("agent_type"), row.text("session_id")), ("cursor".into(), ID.into()));
    world.run(argv).run().ended(End::Code(0)).silent();
    let row = &world.rows()[1];
    assert_eq!((row.text("agent_type"), row.text("session_id")), ("command".into(), String::new()));
}

#[test]
fn text_output_is_not_counted() {
    let Some(world) = World::of_bookend("text_is_not_read") else { return };
    for program in ["claude", "cursor-agent"] {
        for (end, ending) in [("exit 0", "success/"), ("exit 1", "failure/exit")] {
            let row = replay(&world, program, "-p hi", "62-tool-ok-sj.stdout.jsonl", end);
            assert_eq!(row.ending(), ending);
            for column in ["turns", "cost_usd", "input_tokens", "output_tokens", "model"] {
                assert_eq!(row.text(column), "", "{program}: {column}");
            }
        }
    }
}

#[test]
fn a_session_id_is_committed_as_soon_as_the_agent_prints_it() {
    let Some(world) = World::of_bookend("a_session_that_the_agent_names") else { return };
    let mut go = world.fifo("go");
    world.stand_in("cursor-agent", &format!("init {ID}; read x <../go; result {ID} 1"));
    let argv = ["cursor-agent", "-p", "hi", "--output-format", "stream-json"];
    let mut process = world.run(argv).options(["--key", "k"]).start();
    process.line();
    eventually(world.deadline(), "the session in the running row", || world.row().text("session_id") == ID);
    assert_eq!(world.row().text("status"), "running");
    let session = world.sql("SELECT * FROM claude_sdk_sessions").remove(0);
    assert_eq!((session.text("key"), session.text("session_id")), ("k".into(), ID.into()));
    assert_eq!(
        (session.text("task_id"), session.text("provider")),
        (world.row().text("id"), "cursor".into())
    );
    go.write_line("on");
    process.wait().ended(End::Code(0)).silent();
    assert_eq!(world.row().ending(), "success/");
}

#[test]
fn counts_are_committed_during_the_run_and_survive_a_killed_supervisor() {
    let Some(world) = World::of_bookend("counts_are_kept_while_it_runs") else { return };
    let mut go = world.fifo("go");
    let script = format!("init {ID}; turn {ID} m1 100 7; turn {ID} m2 50 8; read x <../go; result {ID} 1");
    world.stand_in("claude", &script);
    let mut process = world.run(STREAM).own_group().start();
    process.line();
    eventually(world.deadline(), "the counts in the running row", || {
        world.rows().first().is_some_and(|r| r.number("input_tokens") == Some(150))
    });
    process.signal(Signal::KILL);
    process.wait().ended(End::Signal(9));
    go.write_line("a line after the end");
    let row = world.row();
    assert_eq!(row.text("status"), "running", "no process is left to end it");
    assert_eq!((row.number("output_tokens"), row.number("turns")), (Some(15), Some(2)));
    assert_eq!((row.text("model"), row.text("cost_usd")), ("model-1".into(), String::new()));
    assert_ne!(row.text("last_seen_at"), "");
}

#[test]
fn the_row_has_claudes_session_id_before_claude_prints_anything() {
    let Some(world) = World::of_bookend("claude_is_told_its_session") else { return };
    let (mut up, mut go) = (world.fifo("up"), world.fifo("go"));
    world.stand_in("claude", "echo up $$ >../up; read x <../go");
    let process = world.run(["claude", "-p", "hi"]).options(["--key", "k"]).start();
    up.pid("up");
    let argv = world.argvs().remove(0);
    let id =
        argv.strip_prefix("--session-id ").and_then(|r| r.strip_suffix(" -p hi")).expect("an id in front");
    assert_eq!(uuid::Uuid::parse_str(id).map(|u| u.get_version_num()).ok(), Some(4), "{id}");
    assert_eq!(world.row().text("session_id"), id);
    let sessions = world.sql("SELECT * FROM claude_sdk_sessions WHERE key = 'k'");
    assert_eq!(sessions[0].text("session_id"), id);
    go.write_line("on");
    process.wait().ended(End::Code(0)).silent();
    assert_eq!(world.row().json("argv"), serde_json::json!(["claude", "--session-id", id, "-p", "hi"]));
    assert_eq!(world.row().json("user_argv"), serde_json::json!(["claude", "-p", "hi"]));
}

#[test]
fn a_command_line_with_session_options_is_not_changed() {
    let Some(world) = World::of_bookend("an_argv_that_speaks_of_sessions") else { return };
    world.claude("exit 0");
    world.run(["claude", "-p", "hi"]).options(["--key", "k"]).run().ended(End::Code(0));
    let first = world.row().text("session_id");
    world.run(["claude", "-p", "hi"]).options(["--key", "k"]).run().ended(End::Code(0));
    assert_eq!(world.argvs()[1], format!("--resume {first} -p hi"), "the key's session is resumed");

    let other = "0197a6a0-0000-4000-8000-00000000eeee";
    for words in [
        format!("--session-id {other} -p hi"),
        format!("-p hi --resume={other}"),
        format!("-p -r {other} hi"),
        "--continue -p hi".to_owned(),
        "-p hi --no-session-persistence".to_owned(),
        "mcp list".to_owned(),
        "--version".to_owned(),
    ] {
        let argv = ["claude"].into_iter().chain(words.split(' '));
        world.run(argv).options(["--key", "other", "--allow-unsafe-resume"]).run().ended(End::Code(0));
        assert_eq!(world.argvs().last(), Some(&words));
    }
    // The value of an option and an operand are not options.
    world.run(["claude", "-p", "--", "--resume", "x"]).options(["--key", "k"]).run().ended(End::Code(0));
    assert_eq!(world.argvs().last(), Some(&format!("--resume {first} -p -- --resume x")));
}

#[test]
fn cursor_resumes_the_chat_that_its_output_named_last() {
    let Some(world) = World::of_bookend("cursor_resumes") else { return };
    let other = "6ce4a1f2-0b3d-4c5e-9f60-718293a4b5c6";
    let run = |script: &str| {
        world.stand_in("cursor-agent", script);
        let argv = ["cursor-agent", "-p", "hi", "--output-format", "stream-json"];
        world.run(argv).options(["--key", "k"]).run().ended(End::Code(0));
        let linked = world.sql("SELECT * FROM claude_sdk_sessions WHERE key = 'k'");
        (world.argvs().pop().expect("an argv"), linked[0].text("session_id"))
    };
    let words = "-p hi --output-format stream-json";
    assert_eq!(run(&format!("init {ID}; result {ID} 1")), (words.into(), ID.into()));
    assert_eq!(run("init $id; result $id 1"), (format!("--resume {ID} {words}"), ID.into()));
    assert_eq!(world.rows()[1].text("resumed_from"), ID);
    // It no longer knows the chat and starts another one without an error.
    assert_eq!(
        run(&format!("init {other}; result {other} 1")),
        (format!("--resume {ID} {words}"), other.into())
    );
    let row = &world.rows()[2];
    assert_eq!((row.text("resumed_from"), row.text("session_id")), (ID.into(), other.into()));
    assert_eq!(run("init $id; result $id 1"), (format!("--resume {other} {words}"), other.into()));
}

#[test]
fn the_cost_of_a_resumed_run_is_the_increase() {
    let Some(world) = World::of_bookend("the_cost_of_a_resumed_run") else { return };
    // Two cumulative figures, then a smaller one: that agent reports each run separately.
    for (cost, own) in [("0.5", 0.5), ("0.8", 0.3), ("0.1", 0.1), ("0.35", 0.25), ("0.35", 0.0)] {
        world.claude(&format!("init $id; result $id {cost}"));
        world.run(STREAM).options(["--key", "k"]).run().ended(End::Code(0)).silent();
        let row = world.rows().pop().expect("a row");
        assert_eq!(row.real("cost_usd"), Some(own));
        assert_eq!(row.number("input_tokens"), Some(30), "tokens are the run's own");
    }
    let sessions: Vec<String> = world.rows().iter().map(|r| r.text("session_id")).collect();
    assert!(sessions.iter().all(|s| *s == sessions[0]), "one conversation: {sessions:?}");
}
