//! Untrusted text: terminal escapes, line breaks that forge messages, quotes of SQL and shells, characters
//! that change the reading direction, and invisible ones. It stays data in every input and every output.

use std::fs;
use std::sync::OnceLock;

use regex_syntax::hir::{Class, HirKind};
use serde_json::Value;

use crate::harness::{End, Output, Pty, World};
use crate::standins::{Busy, gone, json};

/// Every line but the first would look like output of bookend or a field of journald.
pub const HOSTILE: &str = "\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m\u{7f}\r\nPRIORITY=0\nMESSAGE=forged\n\
    bookend: error: forged\nhint: forged\n<0>forged\n'); DROP TABLE task_history; --\"$(touch owned)`touch \
    owned`\t=HYPERLINK(0),;|\u{202e}\u{2066}\u{200b}\u{200d}\u{2060}\u{feff}\u{ad}\u{3164}\u{e0041}end";

/// Every format character, line or paragraph separator and default-ignorable character of Unicode.
fn invisible() -> &'static [char] {
    static INVISIBLE: OnceLock<Vec<char>> = OnceLock::new();
    INVISIBLE.get_or_init(|| {
        let classes = r"[\p{Cf}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}]";
        let parsed = regex_syntax::parse(classes).expect("a class");
        let HirKind::Class(Class::Unicode(class)) = parsed.kind() else { panic!("{parsed:?}") };
        class.ranges().iter().flat_map(|r| r.start()..=r.end()).collect()
    })
}

/// Asserts that a text has no terminal escape, no invisible character and no line that looks forged.
pub fn assert_harmless(text: &str, what: &str) {
    let is_harmful = |c: char| c != '\n' && (c.is_control() || invisible().binary_search(&c).is_ok());
    assert!(!text.contains(is_harmful), "{what}: {text:?}");
    let forged = ["PRIORITY=", "MESSAGE=", "bookend: error: forged", "hint: forged", "<0>", "')"];
    let line = text.lines().find(|l| forged.iter().any(|f| l.starts_with(f)));
    assert_eq!(line, None, "{what}: {text}");
}

fn bookend(world: &World, words: &[&str]) -> Output {
    let output = world.bare(["bookend"].iter().chain(words).copied()).run();
    assert_harmless(&output.stdout, &format!("{words:?}"));
    assert_harmless(&output.stderr, &format!("{words:?}"));
    for line in output.stderr.lines() {
        let is_ours = ["bookend: ", "hint: ", "  "].iter().any(|b| line.starts_with(b));
        assert!(is_ours || output.end == End::Code(2), "{words:?}: {:?}", output.stderr);
    }
    output
}

/// Installs a `claude` that prints these bytes and exits with `code`.
fn claude(world: &World, output: &[u8], code: i32) {
    fs::write(world.path("printed"), output).expect("a file");
    world.program("claude", &format!("#!/bin/sh\ncat {}\nexit {code}\n", world.name("printed")));
}

const STREAM: [&str; 6] = ["claude", "-p", "--output-format", "stream-json", "--verbose", "x"];

/// Events that an agent may print: invalid ids, a model, a tool and an error.
fn events() -> Vec<u8> {
    let nul = format!("{HOSTILE}\0");
    let events = [
        serde_json::json!({ "type": "system", "subtype": "init", "session_id": HOSTILE, "model": nul }),
        serde_json::json!({ "type": "system", "subtype": "init", "session_id": "0e6ae530-ok" }),
        serde_json::json!({ "type": "assistant", "message": { "id": HOSTILE, "model": HOSTILE, "content": [
            { "type": "tool_use", "id": HOSTILE, "name": nul }] } }),
    ];
    let mut bytes: Vec<u8> = events.iter().flat_map(|e| format!("{e}\n").into_bytes()).collect();
    bytes.extend(b"{\"type\":\"assistant\",\"message\":{\"model\":\"\xff\xc3\x28\",\"content\":[]}}\n");
    bytes.extend(b"\x1b]0;not json\x07\n\xff\xfe\n");
    bytes
}

fn failed() -> Vec<u8> {
    let result = serde_json::json!({ "type": "result", "subtype": HOSTILE, "is_error": true,
        "result": format!("{HOSTILE}\0"), "session_id": HOSTILE, "num_turns": 1 });
    [events(), format!("{result}\n").into_bytes()].concat()
}

/// Rows as another program might write them.
fn foreign_rows(world: &World) {
    let insert = "INSERT INTO task_history (id, key, repo, agent, agent_type, user, model, provider, status,
            reason, error, started_at, finished_at, host, cgroup, argv, user_argv, cwd, session_id, leftovers,
            artifacts, on_finish, delivery_status, parent_id, tool_in_flight, end_source)
        VALUES (?1, ?2, ?2, ?2, ?2, ?2, ?2, ?2, 'failure', ?2, ?2, ?3, ?2, ?2, ?2, ?2, ?2, ?2, ?2, ?2, ?2, ?2,
            'failed', ?2, ?2, 'wait')";
    let lost = "INSERT INTO task_history (id, key, agent, status, started_at, supervisor_pid,
            supervisor_start, tool_in_flight, user_argv, run_options)
        VALUES (?1, ?2, ?2, 'running', ?3, 4000000, 1, ?2, '[\"true\"]',
            (SELECT run_options FROM task_history WHERE id = 'one'))";
    let bare = "INSERT INTO task_history (id, status, started_at, finished_at, cleanup_after)
        VALUES (?1, 'success', ?2, ?2, ?2)";
    let session = "INSERT INTO claude_sdk_sessions (key, session_id, provider, last_used_at, task_id)
        VALUES (?1, ?1, ?1, ?1, ?1)";
    let invalidated = "INSERT INTO session_invalidation (key, session_id, provider, task_id, reason, at)
        VALUES (?1, ?1, ?1, ?1, ?1, ?1)";
    let now = "2026-01-01T00:00:00.000Z";
    let ledger = rusqlite::Connection::open(world.ledger()).expect("the ledger");
    let id = format!("foreign{HOSTILE}");
    ledger.execute(insert, (&id, HOSTILE, now)).expect("a row");
    ledger.execute(lost, ("--all", format!("lost{HOSTILE}"), now)).expect("a row");
    ledger.execute(bare, ("\u{1b}[2Jx\nbookend: error: forged", now)).expect("a row");
    ledger.execute(session, [format!("session{HOSTILE}")]).expect("a session");
    ledger.execute(invalidated, [HOSTILE]).expect("an invalidation");
}

/// Tasks of every kind with the hostile text in every field.
fn tasks(world: &World) {
    let named = ["--repo", HOSTILE, "--key", HOSTILE, "--agent", HOSTILE, "--user", HOSTILE];
    let more = ["--model", HOSTILE, "--provider", HOSTILE, "--id", "one", "-v", "-v"];
    let argv = ["sh", "-c", "exit 3", HOSTILE];
    let hook = ["--on-finish", "cat >../finished"];
    let run = world.run(argv).options(named.iter().chain(&more).chain(&hook).copied()).run();
    assert_harmless(&run.ended(End::Code(3)).stderr, "run");

    claude(world, &failed(), 1);
    let options = ["--id", "two", "--key", "two", "-v", "-v"];
    let run = world.run(STREAM).options(options).run().ended(End::Code(1));
    assert_eq!(run.bytes, failed(), "the output of the agent is passed on unchanged");
    assert_harmless(&run.stderr, "run");
    let row = world.sql("SELECT * FROM task_history WHERE id = 'two'").remove(0);
    assert_eq!(row.ending(), "failure/agent_error");
    assert!(row.text("error").starts_with(HOSTILE) && row.text("model").starts_with(HOSTILE));
    assert_eq!(row.text("session_id"), "0e6ae530-ok", "an invalid id is ignored");

    // A task that is killed during a tool call.
    fs::write(world.path("printed"), events()).expect("a file");
    let script = format!("#!/bin/sh\ncat {}\necho ready $$ >$SAY\nexec sleep 1000\n", world.name("printed"));
    world.program("claude", &script);
    let busy = Busy::start(world, "say", |_| {
        world.run(STREAM).options(["--id", "three", "--key", HOSTILE, "--agent", HOSTILE])
    });
    let held = world.run(["true"]).options(["--key", HOSTILE]).run().ended(End::Code(75));
    assert_harmless(&held.stderr, "a key that is held");
    assert!(held.stderr.contains("\nhint: --wait") && held.stderr.contains("\n  MESSAGE=forged"), "{held:?}");
    let tool = || world.sql("SELECT * FROM task_history WHERE id = 'three'").remove(0).text("tool_in_flight");
    crate::harness::eventually(world.deadline(), "the tool", || tool().starts_with(HOSTILE));
    let agent = busy.agent;
    busy.kill_all();
    gone(world, agent);
    foreign_rows(world);
}

#[test]
fn views_print_one_line_per_row_and_escape_all_text() {
    let Some(world) = World::of_bookend("views_print_one_line_per_row_and_escape_all_text") else { return };
    tasks(&world);
    let lines = |words: &[&str]| bookend(&world, words).ended(End::Code(0)).silent().stdout.lines().count();
    assert_eq!(lines(&["list"]), 1 + 6, "two running and four ended tasks");
    assert_eq!(lines(&["session", "list"]), 1 + 2);
    assert_eq!(
        lines(&["timeline", "--since", "2020-01-01"]),
        1 + 4 + 2,
        "four lanes, the total and a legend"
    );
    assert_eq!(lines(&["stats", "--by", "all"]), 1 + 1);
    for (by, groups) in [("agent", 4), ("repo", 2), ("key", 4), ("model", 3), ("day", 2), ("agent,key", 4)] {
        assert_eq!(lines(&["stats", "--by", by]), 1 + groups + 1, "{by}, and the total");
    }
    assert_eq!(lines(&["list", "--jsonl"]), 6);
    let foreign = format!("foreign{HOSTILE}");
    for id in ["one", "two", "three", "--all", &foreign] {
        let page = bookend(&world, &["show", "--", id]).ended(End::Code(0)).silent();
        let names = page.stdout.lines().filter(|l| !l.is_empty() && !l.starts_with("  "));
        let is_name = |l: &str| l.starts_with(|c: char| c.is_ascii_lowercase()) || l.starts_with("CPU time ");
        assert!(names.clone().all(is_name), "{page:?}");
    }
    let audit = bookend(&world, &["audit"]).ended(End::Code(0)).stdout;
    assert!(!audit.contains("cancel --all"), "{audit}");
    bookend(&world, &["session", "show", HOSTILE]).ended(End::Code(0));
    bookend(&world, &["session", "resume-id", HOSTILE]).ended(End::Code(1));
    bookend(&world, &["session", "restore", HOSTILE]);
    bookend(&world, &["session", "resume-id", HOSTILE]);
    for words in [
        &[][..],
        &["doctor"],
        &["doctor", "--json"],
        &["prune", "--dry-run"],
        &["list", "--key", HOSTILE],
        &["list", "--key", "none", "--ledger", "a\u{1b}[2J\nb"],
        &["show", HOSTILE],
        &["show", ""],
        &["cancel", HOSTILE],
        &["cancel", "--key", HOSTILE],
        &["redispatch", "one", "--stdin"],
        &["redispatch", HOSTILE],
        &["artifact", "add", "--task", HOSTILE, "a://b"],
        &["artifact", "add", "--task", "one", HOSTILE],
        &["adopt", HOSTILE],
        &["run", "--issue", HOSTILE, "--", "true"],
        &["run", "--timeout", HOSTILE, "--", "true"],
        &["list", "--status", HOSTILE],
        &["list", "--since", HOSTILE],
        &[HOSTILE],
        &["recover", "--dry-run"],
    ] {
        bookend(&world, words);
    }
    let by_variable = world.bare(["bookend", "run", "--", "true"]).env("BOOKEND_ISSUE", HOSTILE).run();
    assert_harmless(&by_variable.ended(End::Code(2)).stderr, "BOOKEND_ISSUE");
    bookend(&world, &["timeline", "--since", "2020-01-01", "--html", &world.name("page.html")]);
    let page = fs::read_to_string(world.path("page.html")).expect("a page");
    assert_harmless(&page, "the page");
    assert!(!page.contains("HYPERLINK(0),;|<") && !page.contains("'); DROP"), "quotes are escaped");
    assert!(!world.path("home/owned").exists());
    let all = world.sql("SELECT * FROM task_history").len();
    assert_eq!(all, 7, "no table was dropped, and one task was redispatched");
}

#[test]
fn json_is_valid_and_keeps_the_original_text() {
    let Some(world) = World::of_bookend("json_is_valid_and_keeps_the_original_text") else { return };
    tasks(&world);
    let parsed = |words: &[&str]| -> Value {
        let output = bookend(&world, words);
        serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{words:?}: {e}: {output:?}"))
    };
    let one = &parsed(&["show", "one", "--json"])["task"];
    for field in ["key", "repo", "agent", "user", "model", "provider"] {
        assert_eq!(one[field], HOSTILE, "{field}");
    }
    assert_eq!(one["argv"][3], HOSTILE);
    let two = &parsed(&["show", "two", "--json"])["task"];
    assert!(two["error"].as_str().is_some_and(|e| e.starts_with(HOSTILE)), "{two:#}");
    assert!(two["model"].as_str().is_some_and(|m| m.starts_with(HOSTILE)), "{two:#}");
    let listed = parsed(&["list", "--json"]);
    assert_eq!(listed["tasks"].as_array().map(Vec::len), Some(6));
    for words in [
        &["audit", "--json"][..],
        &["session", "list", "--json"],
        &["session", "show", HOSTILE, "--json"],
        &["stats", "--by", "key", "--json"],
        &["recover", "--dry-run", "--json"],
    ] {
        assert!(parsed(words).to_string().contains("forged"), "{words:?}");
    }
    for line in bookend(&world, &["list", "--jsonl"]).stdout.lines() {
        serde_json::from_str::<Value>(line).expect("JSON");
    }

    // The hooks receive the same.
    let finished = fs::read_to_string(world.path("finished")).expect("the input of the hook");
    assert_harmless(&finished, "--on-finish");
    let row: Value = serde_json::from_str(&finished).expect("JSON");
    assert_eq!((&row["key"], &row["status"]), (&HOSTILE.into(), &"failure".into()));
    let hook = format!("cat >{}/$BOOKEND_FINISHED_TASK", world.name("tmp"));
    let report = parsed(&["recover", "--json", "--on-interrupted", &hook]);
    assert_eq!(report["interrupted"].as_array().map(Vec::len), Some(2), "{report:#}");
    let handed_on = fs::read_to_string(world.path("tmp/three")).expect("the input of the hook");
    assert_harmless(&handed_on, "--on-interrupted");
    let row: Value = serde_json::from_str(&handed_on).expect("JSON");
    assert_eq!((&row["key"], &row["status"]), (&HOSTILE.into(), &"interrupted".into()));
    assert!(!world.path("home/owned").exists());
}

#[test]
fn the_recovery_report_in_a_pipe_has_one_line_per_task() {
    let Some(world) = World::of_bookend("the_recovery_report_in_a_pipe_has_one_line_per_task") else {
        return;
    };
    tasks(&world);
    let report = bookend(&world, &["recover", "-v", "-v"]).ended(End::Code(0)).stdout;
    assert!(report.lines().all(|l| l.starts_with("[recovery] ")), "{report}");
    assert_eq!(report.matches(" interrupted (supervisor_lost)").count(), 2, "{report}");
    let again = format!("to run it again: bookend redispatch --ledger {} -- --all", world.ledger().display());
    assert!(report.contains(&again), "the suggested command affects only this task: {report}");
}

#[test]
fn text_is_escaped_on_a_terminal() {
    let Some(world) = World::of_bookend("text_is_escaped_on_a_terminal") else { return };
    tasks(&world);
    let mut pty = Pty::bash(&world);
    pty.resize(100, 40);
    pty.line("export TERM=xterm-256color PS1='$ '; printf 'done-%s\\n' now");
    pty.expect("done-now\r\n");
    let foreign = "\"$(printf 'foreign\\033')\"";
    for command in [
        "list",
        "show one",
        "show two",
        "show three",
        &format!("show {foreign}"),
        "audit",
        "timeline",
        "stats --by key",
        "session list",
        "list --json",
        "recover",
        "run --issue \"$(printf 'a\\033[2Jb')\" -- true",
    ] {
        // Waits for a marker instead of the prompt, which the output could imitate.
        pty.line(&format!("bookend {command}; printf 'done-%s\\n' now"));
        let printed = pty.expect("done-now\r\n");
        let (_, printed) = printed.split_once("\r\n").expect("the echo");
        assert!(!printed.is_empty(), "{command}");
        assert_harmless(&without_colours(printed).replace("\r\n", "\n"), command);
    }
}

/// Removes the colours that bookend adds.
fn without_colours(text: &str) -> String {
    let mut parts = text.split("\u{1b}[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |plain, part| {
        let digits = part.find(|c: char| !c.is_ascii_digit() && c != ';').unwrap_or(part.len());
        match part[digits..].strip_prefix('m') {
            Some(rest) => plain + rest,
            None => plain + "\u{1b}[" + part,
        }
    })
}

#[test]
fn names_of_programs_are_escaped() {
    let Some(world) = World::of_bookend("names_of_programs_are_escaped") else { return };
    let name = "x\u{1b}[2J\nPRIORITY=0\nMESSAGE=forged\u{202e}";
    world.program(name, "#!/bin/sh\nexit 3\n");
    let options = ["--id", "one", "--key", "k", "-v", "-v"];
    let run = world.run([name]).options(options).run().ended(End::Code(3));
    assert_harmless(&run.stderr, "run");
    assert_eq!(json(&world, &["show", "one", "--json"])["task"]["agent"], name);
    let missing = world.run([format!("no-such-{name}")]).options(["--id", "two"]).run().ended(End::Code(127));
    assert_harmless(&missing.stderr, "run");
    assert!(missing.stderr.contains("not found"), "{missing:?}");
    let fails =
        ["--id", "three", "--prepare", "printf '\\033[2J\\nbookend: error: forged\\n<0>x\\n'; exit 3"];
    let prepare = world.run(["true"]).options(fails).run().ended(End::Code(125));
    assert_harmless(&prepare.stderr, "the output of --prepare");
    let nowhere = ["--id", "four", "--cwd", HOSTILE];
    let nowhere = world.run(["true"]).options(nowhere).run().ended(End::Code(125));
    assert_harmless(&nowhere.stderr, "--cwd");
    for words in [&["list"][..], &["show", "one"], &["show", "two"], &["show", "three"], &["show", "four"]] {
        bookend(&world, words).ended(End::Code(0));
    }
}

#[test]
fn invalid_utf8_is_refused_or_shown_escaped() {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;
    let Some(world) = World::of_bookend("invalid_utf8_is_refused_or_shown_escaped") else { return };
    let invalid = || OsString::from_vec(b"a\xff\x9b\x1b[2Jz".to_vec());
    let words = |option: &str| {
        let words = ["bookend", "run", option].map(OsString::from).into_iter().chain([invalid()]);
        words.chain(["--", "touch", "../effect"].map(OsString::from)).collect::<Vec<_>>()
    };
    for option in ["--key", "--repo", "--agent", "--issue", "--id"] {
        let refused = world.bare(words(option)).run().ended(End::Code(2));
        assert_harmless(&refused.stderr, option);
    }
    let refused = world.run(["touch", "../effect"]).env("BOOKEND_KEY", invalid()).run().ended(End::Code(2));
    assert_harmless(&refused.stderr, "BOOKEND_KEY");
    assert!(!world.path("effect").exists(), "the agent ran");
    let argv = ["printf".into(), "%s".into(), invalid()];
    let run = world.run::<OsString>(argv).options(["--id", "one"]).run().ended(End::Code(0));
    assert_eq!(run.bytes, invalid().into_vec(), "the agent gets the argument unchanged");
    let shown = bookend(&world, &["show", "one"]).ended(End::Code(0)).stdout;
    assert!(shown.contains("a\u{fffd}\u{fffd}\\u{1b}[2Jz"), "{shown}");
}

#[test]
fn every_invisible_character_is_shown_by_its_code_point() {
    let Some(world) = World::of_bookend("every_invisible_character_is_shown_by_its_code_point") else {
        return;
    };
    let text: String = invisible().iter().collect();
    let named = ["--repo", &text, "--key", &text, "--agent", &text, "--id", "one", "-v", "-v"];
    let run = world.run(["sh", "-c", "exit 3", &text]).options(named).run().ended(End::Code(3));
    assert_harmless(&run.stderr, "run");
    let busy = Busy::start(&world, "say", |say| {
        let script = format!("echo ready $$ >{}; exec sleep 1000", say.path());
        world.run_sh(&script).options(["--id", "two", "--key", &text, "--agent", &text])
    });
    let held = world.run(["true"]).options(["--key", &text]).run().ended(End::Code(75));
    assert_harmless(&held.stderr, "a key that is held");
    let agent = busy.agent;
    busy.kill_all();
    gone(&world, agent);
    for words in [
        &["list"][..],
        &["list", "--json"],
        &["show", "one"],
        &["show", "one", "--json"],
        &["show", &text],
        &["audit"],
        &["timeline"],
        &["stats", "--by", "key"],
        &["session", "list"],
        &["session", "show", &text],
        &["run", "--issue", &text, "--", "true"],
        &["adopt", &text],
        &["doctor", "--ledger", &text],
        &["recover"],
        &[&text],
    ] {
        let output = bookend(&world, words);
        let expected = invisible().iter().map(|c| format!("{:x}", u32::from(*c)));
        if words == ["show", "one"] {
            for number in expected {
                assert!(output.stdout.contains(&format!("\\u{{{number}}}")), "{number}: {output:?}");
            }
        }
    }
    bookend(&world, &["timeline", "--html", &world.name("page.html")]).ended(End::Code(0));
    assert_harmless(&fs::read_to_string(world.path("page.html")).expect("a page"), "the page");
    // The longest possible file name.
    let missing: String = invisible().iter().take(60).collect();
    let missing = world.run([format!("none{missing}")]).run().ended(End::Code(127));
    assert_harmless(&missing.stderr, "a missing program");
}
