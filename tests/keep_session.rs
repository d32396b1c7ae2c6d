//! `--keep-session`: after which failures a key keeps its session. Also refused command lines.

use std::path::Path;

use crate::harness::{End, Output, Row, STREAM, World};
use crate::standins::{bookend, change, json, recover};

const JSON: [&str; 5] = ["claude", "-p", "--output-format", "json", "do it"];
const KEY: [&str; 2] = ["--key", "k"];

/// The fields of the result after each kind of refused request.
const USAGE_LIMIT: &str = r#""result":"Claude AI usage limit reached|1767225600""#;
const PLAN_LIMIT: &str =
    r#""api_error_status":429,"result":"You've hit your session limit · resets 3pm (UTC)""#;
const RATE_LIMIT: &str = r#""api_error_status":429,"result":"API Error: Request rejected (429) · slow down""#;
const REFUSED: &str = r#""api_error_status":400,"result":"API Error: 400 bad request""#;
const REFUSED_BEFORE_2_1: &str = r#""result":"API Error: 400 {\"type\":\"error\"}""#;

const CALL: &str = concat!(
    r#"{"type":"assistant","message":{"id":"m1","#,
    r#""content":[{"type":"tool_use","id":"t1","name":"Bash"}]}}"#
);
const ANSWER: &str = r#"{"type":"user","message":{"content":[{"type":"tool_result","tool_use_id":"t1"}]}}"#;
const BACKGROUND: &str = r#"{"type":"system","subtype":"background_tasks_changed","tasks":[{"id":"b1"}]}"#;
const NO_BACKGROUND: &str = r#"{"type":"system","subtype":"background_tasks_changed","tasks":[]}"#;

/// A script that prints these events and a failed result with these fields.
fn fails(events: &[&str], turns: u32, fields: &str) -> String {
    let events: String = events.iter().map(|e| format!("{e}\n")).collect();
    format!(
        "cat <<END\n{events}{{\"type\":\"result\",\
         \"subtype\":\"success\",\"is_error\":true,\"session_id\":\"$id\",\
         \"num_turns\":{turns},{}}}\nEND\nexit 1",
        fields.replace('\\', "\\\\")
    )
}

fn run(world: &World, argv: &[&str], script: &str, options: &[&str], code: i32) -> (Output, Row) {
    world.claude(script);
    let command = world.run(argv.iter().copied()).options(KEY).options(options.iter().copied());
    let output = command.run().ended(End::Code(code));
    (output, world.rows().pop().expect("a row"))
}

/// Asserts after a success and a failed run that every command agrees on whether the session is kept.
#[track_caller]
fn assert_kept(argv: &[&str], script: &str, options: &[&str], kept: Option<&str>) {
    let Some(world) = World::of_bookend("keep_session") else { return };
    let (_, first) = run(&world, argv, "init $id; result $id 0.5", &[], 0);
    let session = first.text("session_id");
    let (output, failed) = run(&world, argv, script, options, 1);
    assert_eq!(
        (failed.ending().as_str(), failed.text("resumed_from")),
        ("failure/agent_error", session.clone())
    );
    assert_eq!(failed.text("session_kept"), kept.unwrap_or_default(), "{script} {options:?}");
    assert_eq!(output.stderr.contains("starts a fresh conversation"), kept.is_none(), "{output:?}");

    // As if another program had written the link: the task decides.
    change(&world, "UPDATE claude_sdk_sessions SET trusted = 0");
    let findings = json(&world, &["audit", "--json"])["findings"].to_string();
    assert!(!findings.contains("unsafe_session"), "{findings}");
    recover(&world, &[]);
    let resumable = bookend(&world, &["session", "resume-id", "k"]);
    let (_, next) = run(&world, argv, "init $id; result $id 0.5", &[], 0);
    match kept {
        Some(after) => {
            assert_eq!(resumable.stdout.trim(), session, "{resumable:?}");
            assert_eq!(next.text("resumed_from"), session);
            let shown = bookend(&world, &["show", &failed.text("id")]);
            assert!(shown.stdout.contains(&format!("although the run failed ({after})")), "{shown:?}");
        }
        None => {
            assert_eq!((resumable.end, next.text("resumed_from")), (End::Code(1), String::new()), "{script}");
        }
    }
}

#[test]
fn a_key_keeps_its_session_after_the_named_failures() {
    for (fields, options, kept) in [
        (USAGE_LIMIT, &["--keep-session", "limit"][..], Some("limit")),
        (PLAN_LIMIT, &["--keep-session", "limit"], Some("limit")),
        (RATE_LIMIT, &["--keep-session", "limit"], Some("limit")),
        (RATE_LIMIT, &["--keep-session", "api-error"], Some("api-error")),
        (REFUSED, &["--keep-session", "api-error"], Some("api-error")),
        (REFUSED_BEFORE_2_1, &["--keep-session", "limit,api-error"], Some("api-error")),
        (USAGE_LIMIT, &["--keep-session", "limit", "--keep-session", "api-error"], Some("limit")),
        (USAGE_LIMIT, &["--keep-session", "api-error"], None),
        (REFUSED, &["--keep-session", "limit"], None),
        (REFUSED, &[], None),
        (USAGE_LIMIT, &[], None),
        (r#""result":"no luck""#, &["--keep-session", "limit,api-error"], None),
    ] {
        let script = format!("init $id; {}", fails(&[], 1, fields));
        assert_kept(&STREAM, &script, options, kept);
    }
}

#[test]
fn a_session_with_a_tool_in_flight_or_a_background_task_is_not_kept() {
    let options = ["--keep-session", "limit,api-error"];
    for (events, kept) in [
        (&[CALL][..], None),
        (&[CALL, ANSWER], Some("api-error")),
        (&[BACKGROUND], None),
        (&[BACKGROUND, NO_BACKGROUND], Some("api-error")),
    ] {
        assert_kept(&STREAM, &format!("init $id; {}", fails(events, 2, REFUSED)), &options, kept);
    }
}

/// A result without events does not show pending tools. After one turn there are none.
#[test]
fn a_session_is_kept_without_events_only_after_one_turn() {
    let options = ["--keep-session", "api-error"];
    assert_kept(&JSON, &fails(&[], 1, REFUSED), &options, Some("api-error"));
    assert_kept(&JSON, &fails(&[], 2, REFUSED), &options, None);
}

#[test]
fn the_row_records_when_a_usage_limit_resets() {
    let event =
        r#"{"type":"rate_limit_event","rate_limit_info":{"status":"rejected","resetsAt":1767229200}}"#;
    let allowed = event.replace("rejected", "allowed");
    for (events, fields, at) in [
        (&[][..], USAGE_LIMIT, "2026-01-01T00:00:00.000Z"),
        (&[event], PLAN_LIMIT, "2026-01-01T01:00:00.000Z"),
        (&[&allowed], PLAN_LIMIT, ""),
        (&[event], REFUSED, ""),
    ] {
        let Some(world) = World::of_bookend("the_row_records_when_a_usage_limit_resets") else { return };
        let (_, row) = run(&world, &STREAM, &format!("init $id; {}", fails(events, 1, fields)), &[], 1);
        assert_eq!(row.text("limit_resets_at"), at, "{events:?} {fields}");
        let shown = json(&world, &["show", "--json", &row.text("id")]);
        assert_eq!(shown["task"]["limit_resets_at"].as_str().unwrap_or_default(), at, "{shown}");
    }
}

#[test]
fn refused_requests_of_each_claude_version_are_recognised() {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples");
    for (file, argv, option) in [
        ("337-cc1128-err400.stdout.jsonl", &STREAM[..], "api-error"),
        ("342-cc2077-err400.stdout.jsonl", &STREAM, "api-error"),
        ("349-cc2332-err400.stdout.jsonl", &STREAM, "api-error"),
        ("38-error-429-sj.stdout.jsonl", &STREAM, "limit"),
        ("39-error-429-long-json.stdout.json", &JSON, "limit"),
    ] {
        let Some(world) = World::of_bookend("refused_requests_of_each_claude_version_are_recognised") else {
            return;
        };
        let script = format!("cat '{}'; exit 1", samples.join(file).display());
        let (_, failed) = run(&world, argv, &script, &["--keep-session", option], 1);
        assert_eq!(failed.text("session_kept"), option, "{file}");
        let (_, next) = run(&world, &STREAM, "init $id; result $id 0.5", &[], 0);
        assert_eq!(next.text("resumed_from"), failed.text("session_id"), "{file}");
    }
}

#[test]
fn a_kept_session_survives_the_spool() {
    let Some(world) = World::of_bookend("a_kept_session_survives_the_spool") else { return };
    let (_, first) = run(&world, &STREAM, "init $id; result $id 0.5", &[], 0);
    let ledger = rusqlite::Connection::open(world.ledger()).expect("the ledger");
    let (mut up, mut go) = (world.fifo("up"), world.fifo("go"));
    world.claude(&format!("init $id; echo up $$ >../up; read x <../go; {}", fails(&[], 1, USAGE_LIMIT)));
    let options = ["--keep-session", "limit", "--key", "k"];
    let process = world.run(STREAM).options(options).env("BOOKEND_BUSY_TIMEOUT", "100ms").start();
    up.pid("up");
    ledger.execute_batch("BEGIN IMMEDIATE").expect("the write lock");
    go.write_line("on");
    let output = process.wait().ended(End::Code(1));
    assert!(output.stderr.contains("the next command"), "{output:?}");
    ledger.execute_batch("ROLLBACK").expect("the rollback");
    recover(&world, &[]);
    let row = world.rows().pop().expect("a row");
    assert_eq!((row.ending().as_str(), row.text("end_source")), ("failure/agent_error", "spool".into()));
    assert_eq!(row.text("limit_resets_at"), "2026-01-01T00:00:00.000Z");
    let resumable = bookend(&world, &["session", "resume-id", "k"]).ended(End::Code(0));
    assert_eq!(resumable.stdout.trim(), first.text("session_id"));
}

#[test]
fn a_refused_command_line_leaves_the_session_as_it_was() {
    const TEXT: [&str; 3] = ["claude", "-p", "do it"];
    let refuse = "echo \"error: unknown option '--bogus'\" >&2; exit 1";
    for argv in [&STREAM[..], &JSON, &TEXT] {
        let Some(world) = World::of_bookend("a_refused_command_line_leaves_the_session_as_it_was") else {
            return;
        };
        let end = if argv == TEXT { "echo done" } else { "result $id 0.5" };
        let (_, first) = run(&world, argv, end, &[], 0);
        let session = first.text("session_id");
        for _ in 0..2 {
            world.stand_in("claude", refuse);
            let output = world.run(argv.iter().copied()).options(KEY).run().ended(End::Code(1));
            assert!(!output.stderr.contains("starts a fresh conversation"), "{output:?}");
            let row = world.rows().pop().expect("a row");
            let used = (row.text("resumed_from"), row.text("session_id"));
            assert_eq!((row.ending().as_str(), used), ("failure/exit", (session.clone(), String::new())));
            let linked = world.sql("SELECT session_id, task_id FROM claude_sdk_sessions");
            assert_eq!(linked[0].text("task_id"), first.text("id"), "the former link is restored");
        }
        let (_, next) = run(&world, argv, end, &[], 0);
        assert_eq!(next.text("resumed_from"), session, "{argv:?}");
    }
}

/// The agent cannot read the transcript, or has added to it.
#[test]
fn a_failure_that_changed_or_cannot_read_the_transcript_invalidates_the_session() {
    const TEXT: [&str; 3] = ["claude", "-p", "do it"];
    let write = |text: &str| format!("echo '{text}' >\"$HOME/.claude/projects/all/$id.jsonl\"; ");
    for (success, failure) in [
        ("true".to_owned(), write("{} {}") + "exit 1"),
        (write("damaged"), "exit 1".to_owned()),
        ("true".to_owned(), "kill -9 $$".to_owned()),
    ] {
        let Some(world) =
            World::of_bookend("a_failure_that_changed_or_cannot_read_the_transcript_invalidates_the_session")
        else {
            return;
        };
        run(&world, &TEXT, &success, &[], 0);
        world.stand_in("claude", &failure);
        world.run(TEXT).options(KEY).run();
        assert!(world.sql("SELECT * FROM claude_sdk_sessions").is_empty(), "{failure}");
        let (_, next) = run(&world, &TEXT, "true", &[], 0);
        assert_eq!(next.text("resumed_from"), "", "{failure}");
    }
}

#[test]
fn redispatch_repeats_keep_session() {
    let Some(world) = World::of_bookend("redispatch_repeats_keep_session") else { return };
    let script = format!("init $id; {}", fails(&[], 1, REFUSED));
    let null = || std::fs::File::open("/dev/null").expect("/dev/null");
    world.claude(&script);
    let options = ["--keep-session", "api-error"].into_iter().chain(KEY);
    world.run(STREAM).options(options).input(null()).run().ended(End::Code(1));
    let id = world.row().text("id");
    world.bare(["bookend", "redispatch", &id]).input(null()).run().ended(End::Code(1));
    let rows = world.rows();
    assert_eq!(rows[1].text("session_kept"), "api-error");
    assert_eq!(rows[1].text("resumed_from"), rows[0].text("session_id"));

    let by_variable = world.run(STREAM).options(KEY).env("BOOKEND_KEEP_SESSION", "limit,api-error");
    by_variable.input(null()).run().ended(End::Code(1));
    assert_eq!(world.rows()[2].text("session_kept"), "api-error");
}
