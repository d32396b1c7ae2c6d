//! More than there is room for: lines without an end, names of megabytes, rows that no screen holds.

use std::fs;

use crate::harness::{End, Pty, World};
use crate::standins::{bookend, change, json};

/// The most memory that the process had so far, in KiB.
fn peak(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn a_line_of_hundreds_of_megabytes_is_passed_on_in_little_memory() {
    let Some(mut world) = World::of_bookend("a_line_of_hundreds_of_megabytes") else { return };
    for mode in ["stream-json", "json"] {
        world.renew_deadline();
        let (mut up, mut go) = (world.fifo("up"), world.fifo("go"));
        let id = "0197a6a0-0000-4000-8000-00000000abcd";
        let result = format!(r#"{{"type":"result","is_error":false,"result":"x","session_id":"{id}"}}"#);
        // One text that goes on and on, which is no line, and no object; then what counts.
        let script = format!(
            "#!/bin/sh\nprintf '{{\"type\":\"assistant\",\"message\":{{\"model\":\"'\n\
             head -c 200000000 /dev/zero | tr '\\0' x\nprintf '\"}}}}\\n'\necho '{result}'\n\
             echo up $$ >{}\nread x <{}\n",
            up.path(),
            go.path()
        );
        world.program("claude", &script);
        let line = format!("exec bookend run -- claude -p --output-format {mode} --verbose x >/dev/null");
        let run = world.bare(["sh", "-c", &line]).start();
        up.pid("up");
        let most = peak(run.pid());
        go.tell("now");
        run.wait().ended(End::Code(0)).silent();
        assert!(most < 64 * 1024, "{mode}: {most} KiB");
        let row = world.rows().pop().expect("a row");
        assert_eq!((row.ending().as_str(), row.text("session_id").as_str()), ("success/", id), "{mode}");
        assert_eq!(row.text("model"), "x".repeat(200), "what is too long is cut");
        fs::remove_file(up.path()).and_then(|()| fs::remove_file(go.path())).expect("the pipes");
    }
}

#[test]
fn names_of_megabytes_are_cut() {
    let Some(world) = World::of_bookend("names_of_megabytes_are_cut") else { return };
    let long = "x".repeat(1 << 20);
    let events = [
        serde_json::json!({ "type": "system", "subtype": "init", "session_id": long, "model": long }),
        serde_json::json!({ "type": "assistant", "message": { "id": long, "content": [
            { "type": "tool_use", "id": long, "name": long }] } }),
        serde_json::json!({ "type": "result", "subtype": long, "is_error": true, "result": long }),
    ];
    let said: String = events.iter().map(|e| format!("{e}\n")).collect();
    fs::write(world.path("said"), said).expect("a file");
    world.program("claude", &format!("#!/bin/sh\ncat {}\nexit 1\n", world.name("said")));
    let argv = ["claude", "-p", "--output-format", "stream-json", "--verbose", "x"];
    let hook = format!("cat >{}", world.name("row"));
    world.run(argv).options(["--id", "one", "--on-finish", &hook]).run().ended(End::Code(1));
    let row = json(&world, &["show", "one", "--json"])["task"].clone();
    let length = |field: &str| row[field].as_str().map_or(0, str::len);
    assert_eq!(length("model"), 200);
    assert_eq!(length("error"), 8 << 10);
    assert_eq!(length("session_id"), 36, "bookend's own");
    assert!(fs::metadata(world.path("row")).expect("a row").len() < 64 << 10);
}

#[test]
fn a_hook_is_given_a_row_of_a_megabyte_whether_it_reads_it_or_not() {
    let Some(world) = World::of_bookend("a_hook_is_given_a_row_of_a_megabyte") else { return };
    // Each is six characters of JSON.
    let long = "\u{1b}".repeat(96_000);
    let hook = format!("cat >{}", world.name("row"));
    for (id, hook) in [("one", hook.as_str()), ("two", "true")] {
        let options = ["--id", id, "--on-finish", hook];
        world.run(["sh", "-c", "exit 3", &long]).options(options).run().ended(End::Code(3));
        let row = world.sql(&format!("SELECT * FROM task_history WHERE id = '{id}'")).remove(0);
        assert_eq!(row.text("delivery_status"), "delivered");
    }
    let text = fs::read_to_string(world.path("row")).expect("the row");
    let row: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((&row["argv"][3], &row["user_argv"][3]), (&long.as_str().into(), &long.as_str().into()));
    assert!(text.len() > 1 << 20 && !text.contains('\u{1b}'));
}

#[test]
fn texts_that_no_screen_holds_are_shown_at_once() {
    let Some(mut world) = World::of_bookend("texts_that_no_screen_holds") else { return };
    world.run(["true"]).options(["--id", "one", "--key", "k"]).run().ended(End::Code(0));
    // Ones that take room, ones that take none, and ones that are made visible.
    for pattern in ["x", "\u{301}", "\u{200d}"] {
        world.renew_deadline();
        let long = format!("e{}", pattern.repeat((1 << 18) / pattern.len()));
        change(&world, &format!("UPDATE task_history SET key = '{long}', agent = '{long}', repo = '{long}'"));
        let mut pty = Pty::bash(&world);
        pty.resize(80, 24);
        for command in ["list", "timeline", "stats --by key"] {
            pty.line(&format!("bookend {command}"));
            let (said, code) = pty.output();
            assert_eq!(code, 0, "{command}");
            assert!(said.len() < 20_000, "{command}: {} bytes", said.len());
        }
        for words in [&["list"][..], &["show", "one"], &["list", "--json"]] {
            let said = bookend(&world, words).ended(End::Code(0)).silent();
            assert!(said.stdout.len() > long.len(), "in a pipe nothing is cut");
        }
    }
}
