//! The conversations that `logs` prints: the part of each task, as it grows, and what cannot be read.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use rustix::process::Signal;

use crate::harness::{End, Pty, World, bookend};
use crate::security::untrusted_text::{HOSTILE, assert_harmless};

const CLAUDE: [&str; 3] = ["claude", "-p", "do it"];

/// A `claude` that stores conversations as Claude Code does. `say TYPE TEXT` appends an entry.
fn claude(world: &World, script: &str) {
    let say = r#"
log=$HOME/.claude/projects/$(pwd -P | sed 's/[^A-Za-z0-9]/-/g')/$id.jsonl
mkdir -p "${log%/*}"
say() {
  printf '{"type":"%s","timestamp":"%s",' "$1" "$(date -u +%Y-%m-%dT%H:%M:%S.%3NZ)" >>"$log"
  printf '"message":{"content":[{"type":"text","text":"%s"}]}}\n' "$2" >>"$log"
}
"#;
    world.stand_in("claude", &format!("{say}{script}"));
}

fn printed(world: &World, words: &[&str]) -> String {
    bookend(world, words).ended(End::Code(0)).silent().stdout
}

/// The text without the times, which begin the lines that are not indented.
fn without_times(text: &str) -> Vec<String> {
    let line = |line: &str| match line.split_once("Z  ") {
        Some((time, rest)) if !line.starts_with(' ') => {
            assert_eq!(time.len(), "2026-11-30T06:25:45.358".len(), "{line}");
            rest.to_owned()
        }
        _ => line.to_owned(),
    };
    text.lines().map(line).collect()
}

fn only_transcript(world: &World) -> std::path::PathBuf {
    let project = fs::read_dir(world.path("home/.claude/projects")).expect("projects").next();
    let project = project.expect("a project").expect("a folder").path();
    project.join(format!("{}.jsonl", world.rows()[0].text("session_id")))
}

#[test]
fn logs_prints_the_part_of_a_task_and_with_all_the_whole_conversation() {
    let test = "logs_prints_the_part_of_a_task_and_with_all_the_whole_conversation";
    let Some(world) = World::of_bookend(test) else { return };
    claude(&world, "say user \"ask $(wc -l <../home/argv)\"\nsay assistant ok");
    for id in ["one", "two"] {
        world.run(CLAUDE).options(["--id", id, "--key", "k"]).run().ended(End::Code(0));
    }
    let part = |n: u32| {
        vec!["prompt".to_owned(), format!("  ask {n}"), String::new(), "answer".to_owned(), "  ok".to_owned()]
    };
    let both = [part(1), vec![String::new()], part(2)].concat();
    for (words, lines) in [
        (&["logs"][..], part(2)),
        (&["logs", "one"], part(1)),
        (&["logs", "tw"], part(2)),
        (&["logs", "--key", "k"], part(2)),
        (&["logs", "one", "--all"], both.clone()),
        (&["logs", "--follow"], part(2)),
    ] {
        assert_eq!(without_times(&printed(&world, words)), lines, "{words:?}");
    }
    let file = fs::read_to_string(only_transcript(&world)).expect("the transcript");
    assert_eq!(printed(&world, &["logs", "--raw", "--all"]), file);
    let second: String = file.lines().skip(2).map(|line| format!("{line}\n")).collect();
    assert_eq!(printed(&world, &["logs", "--raw"]), second);

    // Another run of the session begins where the end of this one is not known.
    world.write("UPDATE task_history SET finished_at = NULL WHERE id = 'one'");
    assert_eq!(without_times(&printed(&world, &["logs", "one"])), part(1));
}

#[test]
fn logs_follow_waits_for_the_transcript_and_ends_with_the_task() {
    let test = "logs_follow_waits_for_the_transcript_and_ends_with_the_task";
    let Some(world) = World::of_bookend(test) else { return };
    let (mut up, mut go) = (world.fifo("up"), world.fifo("go"));
    let next = format!("echo up >{}; read line <{}", up.path(), go.path());
    claude(
        &world,
        &format!(
            "{next}\nsay user first\n{next}\nsay assistant second\n{next}\nmv $log $log.1\nsay assistant \
             second\nsay assistant third\n{next}\nprintf '%s' '{{\"type\":\"user\",\"message\":{{\"content\":\
             \"no newline\"}}}}' >>$log"
        ),
    );
    let run = world.run(CLAUDE).options(["--id", "one"]).start();
    up.line();
    let missing = bookend(&world, &["logs"]).ended(End::Code(1)).stderr;
    assert!(missing.contains("hint: the agent may not have written it yet: --follow waits"), "{missing}");
    let mut logs = world.bare(["bookend", "logs", "--follow"]).start();
    for text in ["  first\n", "  second\n"] {
        go.write_line("go");
        logs.wait_for_output(text.as_bytes());
        up.line();
    }
    go.write_line("go");
    logs.wait_for_output(b"  third\n");
    up.line();
    go.write_line("go");
    run.wait().ended(End::Code(0));
    let output = logs.wait().ended(End::Code(0));
    assert!(output.stdout.ends_with("  no newline\n"), "{output:?}");
    assert!(output.stderr.contains("was replaced: it is read from its beginning"), "{output:?}");
    assert_eq!(output.stdout.matches("  first\n").count(), 1, "{output:?}");
}

#[test]
fn logs_follow_ends_at_ctrl_c_at_a_closed_pipe_and_if_the_task_is_lost() {
    let test = "logs_follow_ends_at_ctrl_c_at_a_closed_pipe_and_if_the_task_is_lost";
    let Some(world) = World::of_bookend(test) else { return };
    let mut up = world.fifo("up");
    claude(&world, &format!("say user first\necho up >{}\nexec sleep 1000", up.path()));
    let mut run = world.run(CLAUDE).options(["--id", "one"]).start();
    up.line();
    let mut pty = Pty::bash(&world);
    pty.line("bookend logs --follow");
    pty.expect("  first");
    pty.send("\x03");
    assert_eq!(pty.prompt(), 130);

    let mut logs = world.bare(["bookend", "logs", "-f"]).start();
    logs.wait_for_output(b"  first\n");
    logs.close_stdout();
    logs.wait().ended(End::Signal(Signal::PIPE.as_raw())).silent();

    let mut logs = world.bare(["bookend", "logs", "-f"]).start();
    logs.wait_for_output(b"  first\n");
    run.signal(Signal::KILL);
    run.wait_here();
    let lost = logs.wait().ended(End::Code(0)).stderr;
    assert!(
        lost.contains("task one: its supervisor was killed; settle the task with: bookend recover --ledger "),
        "{lost}"
    );
}

#[test]
fn a_reader_that_closes_the_pipe_ends_logs_quietly() {
    let test = "a_reader_that_closes_the_pipe_ends_logs_quietly";
    let Some(world) = World::of_bookend(test) else { return };
    claude(
        &world,
        "for i in $(seq 2000); do echo; done | sed \"s|.*|$(say user x; cat $log)|\" >$log.1; mv $log.1 $log",
    );
    world.run(CLAUDE).run().ended(End::Code(0));
    let script = "bookend logs | head -1 >../first; echo ${PIPESTATUS[0]}";
    let output = world.bare(["bash", "-c", script]).run().ended(End::Code(0)).silent();
    assert!(["0\n", "141\n"].contains(&output.stdout.as_str()), "{output:?}");
    assert!(fs::read_to_string(world.path("first")).expect("a line").ends_with("Z  prompt\n"));
}

#[test]
fn logs_says_why_a_transcript_cannot_be_read() {
    let Some(world) = World::of_bookend("logs_says_why_a_transcript_cannot_be_read") else { return };
    claude(&world, "say user x");
    world.run(CLAUDE).options(["--id", "one"]).run().ended(End::Code(0));
    let log = only_transcript(&world);
    let at = log.display().to_string();
    let refused = |code: i32, why: &str| {
        let stderr = bookend(&world, &["logs", "one"]).ended(End::Code(code)).stderr;
        assert!(stderr.contains(why), "{why}: {stderr}");
        assert!(stderr.contains(&at), "{stderr}");
    };
    fs::rename(&log, world.path("kept")).expect("moved");
    refused(1, "task one: claude has no transcript at ");
    symlink(world.path("kept"), &log).expect("a link");
    assert!(printed(&world, &["logs"]).ends_with("  x\n"), "a link to a file is followed");
    fs::remove_file(&log).expect("removed");
    for (content, code, why) in [
        (&b""[..], 1, "is empty"),
        (b"\x7fELF\0\x01\x02", 125, "is not a transcript of claude: it has no line of JSON"),
        (b"[]\n7\n", 125, "is not a transcript of claude"),
        (
            b"{\"type\":\"user\",\"timestamp\":\"2001-01-01T00:00:00Z\",\"message\":{\"content\":\"x\"}}\n",
            1,
            "--all",
        ),
    ] {
        fs::write(&log, content).expect("written");
        refused(code, why);
    }
    let damaged = "{\"type\":\"user\",\"message\":{\"content\":\"x\"}}\nnot json\n";
    fs::write(&log, damaged).expect("written");
    let output = bookend(&world, &["logs", "one"]).ended(End::Code(0));
    assert_eq!(output.stdout, "prompt\n  x\n");
    assert!(output.stderr.contains("1 line is not an entry and was left out"), "{output:?}");

    fs::remove_file(&log).expect("removed");
    rustix::fs::mknodat(rustix::fs::CWD, &log, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("a pipe");
    refused(125, "it is not a regular file");
    fs::remove_file(&log).expect("removed");
    fs::create_dir(&log).expect("a directory");
    refused(125, "it is not a regular file");
}

#[test]
fn a_transcript_of_another_user_is_refused() {
    let Some((world, specs)) = World::unprivileged("a_transcript_of_another_user_is_refused") else { return };
    if specs.is_empty() {
        return;
    }
    claude(&world, "say user x");
    fs::set_permissions(world.path("bin/claude"), fs::Permissions::from_mode(0o755)).expect("its mode");
    world.run(CLAUDE).options(["--id", "one"]).with(specs.clone()).run().ended(End::Code(0));
    let log = only_transcript(&world);
    fs::set_permissions(&log, fs::Permissions::from_mode(0o600)).expect("its mode");
    std::os::unix::fs::chown(&log, Some(0), Some(0)).expect("its owner");
    let refused = world.bare(["bookend", "logs"]).with(specs).run().ended(End::Code(125)).stderr;
    let said = format!("bookend: error: reading the transcript {}: Permission denied", log.display());
    assert!(refused.starts_with(&said), "{refused}");
}

#[test]
fn for_other_agents_logs_says_where_to_look() {
    let Some(world) = World::of_bookend("for_other_agents_logs_says_where_to_look") else { return };
    let none = bookend(&world, &["logs"]).ended(End::Code(1)).stderr;
    assert!(none.contains("no task: there is no ledger yet at "), "{none}");
    world.stand_in("cursor-agent", "init C1; result C1 0");
    world
        .run(["cursor-agent", "-p", "--output-format", "stream-json", "x"])
        .options(["--id", "cursor"])
        .run();
    world.run(["true"]).options(["--id", "plain"]).run();
    world.run(["claude", "--version"]).options(["--id", "no-session"]).run();
    for (id, why) in [
        ("cursor", "task cursor: bookend does not know where cursor stores session C1"),
        ("plain", "task plain: bookend does not know where true stores conversations"),
        ("no-session", "task no-session has no transcript: its agent reported no session"),
    ] {
        let stderr = bookend(&world, &["logs", id]).ended(End::Code(1)).stderr;
        assert!(stderr.contains(why), "{stderr}");
    }
    bookend(&world, &["logs", "nosuch"]).ended(End::Code(1));
    bookend(&world, &["logs", "--key", "nosuch"]).ended(End::Code(1));
    bookend(&world, &["logs", "one", "--key", "k"]).ended(End::Code(2));
}

#[test]
fn a_conversation_is_readable_and_harmless_at_every_width() {
    let test = "a_conversation_is_readable_and_harmless_at_every_width";
    let Some(world) = World::of_bookend(test) else { return };
    claude(&world, "cat ../transcript >$log");
    let message = |kind: &str, content: serde_json::Value| {
        let entry = serde_json::json!({ "type": kind, "message": { "content": content } });
        format!("{entry}\n")
    };
    let x = "x".repeat(1 << 20);
    let lines: String = (1..=300).map(|n| format!("{n}\n")).collect();
    let transcript = [
        message("user", HOSTILE.into()),
        message(
            "assistant",
            serde_json::json!([
                { "type": "text", "text": HOSTILE },
                { "type": "tool_use", "id": "a", "name": HOSTILE, "input": { "command": HOSTILE } },
                { "type": "tool_use", "id": "b", "name": "Bash", "input": { "command": x } },
            ]),
        ),
        message(
            "user",
            serde_json::json!([
                { "type": "tool_result", "tool_use_id": "a", "content": HOSTILE, "is_error": true },
                { "type": "tool_result", "tool_use_id": "b", "content": "y".repeat(4 << 20) },
                { "type": "tool_result", "tool_use_id": "c", "content": lines },
            ]),
        ),
    ];
    fs::write(world.path("transcript"), transcript.concat()).expect("written");
    world.run(CLAUDE).run().ended(End::Code(0));
    let text = printed(&world, &["logs"]);
    assert_harmless(&text, "logs");
    assert!(text.contains("\nBash result\n  yyyy") && text.contains("\n  … 297 more lines\n"), "{text}");
    assert!(text.len() < 10_000, "{} bytes", text.len());
    assert_eq!(printed(&world, &["logs", "--raw"]), transcript.concat());

    let mut pty = Pty::bash(&world);
    for columns in [80, 200] {
        pty.resize(columns, 24);
        pty.line("NO_COLOR=1 bookend logs; echo do''ne");
        let screen = pty.expect("done");
        let cut = |of: char| {
            let line =
                screen.lines().find(|l| l.trim_end().ends_with(&format!("{of}…"))).expect("a cut line");
            line.trim_end().chars().count()
        };
        assert_eq!((cut('x'), cut('y')), (usize::from(columns), usize::from(columns)), "{screen}");
    }
}
