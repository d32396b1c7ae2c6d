//! Sizes beyond every limit: endless lines, names of megabytes, rows wider than any terminal.

use std::fs;

use crate::harness::{End, Pty, World};
use crate::standins::{bookend, change, json};

/// The peak resident memory of the process in KiB.
fn peak(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn a_line_of_hundreds_of_megabytes_is_passed_on_in_little_memory() {
    let Some(mut world) = World::of_bookend("a_line_of_hundreds_of_megabytes_is_passed_on_in_little_memory")
    else {
        return;
    };
    for mode in ["stream-json", "json"] {
        world.renew_deadline();
        let (mut up, mut go) = (world.fifo("up"), world.fifo("go"));
        let id = "0197a6a0-0000-4000-8000-00000000abcd";
        let result = format!(r#"{{"type":"result","is_error":false,"result":"x","session_id":"{id}"}}"#);
        // A string of 200 MB that completes neither a line nor an object, and then the result.
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
        go.write_line("now");
        run.wait().ended(End::Code(0)).silent();
        assert!(most < 64 * 1024, "{mode}: {most} KiB");
        let row = world.rows().pop().expect("a row");
        assert_eq!((row.ending().as_str(), row.text("session_id").as_str()), ("success/", id), "{mode}");
        assert_eq!(row.text("model"), "x".repeat(200), "a long value is cut");
        fs::remove_file(up.path()).and_then(|()| fs::remove_file(go.path())).expect("the pipes");
    }
}

#[test]
fn oversized_names_are_cut() {
    let Some(world) = World::of_bookend("oversized_names_are_cut") else { return };
    let long = "x".repeat(1 << 20);
    let events = [
        serde_json::json!({ "type": "system", "subtype": "init", "session_id": long, "model": long }),
        serde_json::json!({ "type": "assistant", "message": { "id": long, "content": [
            { "type": "tool_use", "id": long, "name": long }] } }),
        serde_json::json!({ "type": "result", "subtype": long, "is_error": true, "result": long }),
    ];
    let printed: String = events.iter().map(|e| format!("{e}\n")).collect();
    fs::write(world.path("printed"), printed).expect("a file");
    world.program("claude", &format!("#!/bin/sh\ncat {}\nexit 1\n", world.name("printed")));
    let argv = ["claude", "-p", "--output-format", "stream-json", "--verbose", "x"];
    let hook = format!("cat >{}", world.name("row"));
    world.run(argv).options(["--id", "one", "--on-finish", &hook]).run().ended(End::Code(1));
    let row = json(&world, &["show", "one", "--json"])["task"].clone();
    let length = |field: &str| row[field].as_str().map_or(0, str::len);
    assert_eq!(length("model"), 200);
    assert_eq!(length("error"), 8 << 10);
    assert_eq!(length("session_id"), 36, "the id that bookend chose");
    assert!(fs::metadata(world.path("row")).expect("a row").len() < 64 << 10);
}

#[test]
fn a_hook_gets_a_row_of_a_megabyte_even_if_it_does_not_read_it() {
    let Some(world) = World::of_bookend("a_hook_gets_a_row_of_a_megabyte_even_if_it_does_not_read_it") else {
        return;
    };
    // Each escape is six characters in JSON.
    let long = "\u{1b}".repeat(96_000);
    let hook = format!("cat >{}", world.name("row"));
    for (id, hook) in [("one", hook.as_str()), ("two", "true")] {
        let options = ["--id", id, "--on-finish", hook, "--user", &long, "--repo", &long];
        world.run(["sh", "-c", "exit 3"]).options(options).run().ended(End::Code(3));
        let row = world.sql(&format!("SELECT * FROM task_history WHERE id = '{id}'")).remove(0);
        assert_eq!(row.text("delivery_status"), "delivered");
    }
    let text = fs::read_to_string(world.path("row")).expect("the row");
    let row: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((&row["user"], &row["repo"]), (&long.as_str().into(), &long.as_str().into()));
    assert!(text.len() > 1 << 20 && !text.contains('\u{1b}'));
}

#[test]
fn long_texts_are_cut_on_a_terminal_and_complete_in_a_pipe() {
    let Some(mut world) = World::of_bookend("long_texts_are_cut_on_a_terminal_and_complete_in_a_pipe") else {
        return;
    };
    world.run(["true"]).options(["--id", "one", "--key", "k"]).run().ended(End::Code(0));
    // Characters of width one, of width zero, and invisible ones, which are escaped.
    for pattern in ["x", "\u{301}", "\u{200d}"] {
        world.renew_deadline();
        let long = format!("e{}", pattern.repeat((1 << 18) / pattern.len()));
        change(&world, &format!("UPDATE task_history SET key = '{long}', agent = '{long}', repo = '{long}'"));
        let mut pty = Pty::bash(&world);
        pty.resize(80, 24);
        for command in ["list", "timeline", "stats --by key"] {
            pty.line(&format!("bookend {command}"));
            let (printed, code) = pty.output();
            assert_eq!(code, 0, "{command}");
            assert!(printed.len() < 20_000, "{command}: {} bytes", printed.len());
        }
        for words in [&["list"][..], &["show", "one"], &["list", "--json"]] {
            let printed = bookend(&world, words).ended(End::Code(0)).silent();
            assert!(printed.stdout.len() > long.len(), "a pipe gets the complete text");
        }
    }
}

#[test]
fn an_oversized_argv_is_cut_and_cannot_be_redispatched() {
    let Some(world) = World::of_bookend("an_oversized_argv_is_cut_and_cannot_be_redispatched") else {
        return;
    };
    let long = "\u{1b}ü".repeat(30_000);
    let mut up = world.fifo("up");
    let script = format!("echo up $# $$ >{}; exec sleep 1000", up.path());
    let mut argv = vec!["sh", "-c", &script, "sh"];
    argv.extend([long.as_str(); 12]);
    let run = world.run(argv).options(["--id", "one", "--key", "k"]).start();
    let printed = up.line();
    assert!(printed.starts_with("up 12 "), "the agent gets all of it: {printed}");

    let row = world.row();
    let (kept, given) = (row.text("argv"), row.text("user_argv"));
    assert!(kept.len() <= 128 << 10 && given.len() <= 128 << 10, "{} {}", kept.len(), given.len());
    assert!(given.len() > 100 << 10, "the limit is used: {}", given.len());
    let whole = 12 * long.len() + script.len() + "sh-csh".len();
    let mark = format!("… (cut, {whole} bytes in all)");
    let words: Vec<String> = serde_json::from_str(&given).expect("JSON");
    assert!(words.len() > 4 && words.last().is_some_and(|w| w.ends_with(&mark)), "{words:?}");
    assert_eq!(row.json("run_options")["argv_cut"], whole);
    assert!(bookend(&world, &["show", "one"]).ended(End::Code(0)).stdout.contains(&mark));

    run.signal(rustix::process::Signal::KILL);
    run.wait();
    let report = bookend(&world, &["recover"]).ended(End::Code(0)).stdout;
    assert!(report.contains("the row holds only the beginning of its command line"), "{report}");
    assert!(!report.contains("bookend redispatch"), "{report}");
    let refused = bookend(&world, &["redispatch", "one"]).ended(End::Code(125));
    assert!(refused.stderr.contains("its row stores only the beginning"), "{refused:?}");
    assert_eq!(world.rows().len(), 1, "no run was started");
}

#[test]
fn extreme_costs_and_counts_do_not_corrupt_sums() {
    let Some(world) = World::of_bookend("extreme_costs_and_counts_do_not_corrupt_sums") else { return };
    for (id, cost) in [("one", "1e308"), ("two", "1e308"), ("three", "0.25")] {
        let result = format!(r#"{{"type":"result","is_error":false,"result":"x","total_cost_usd":{cost}}}"#);
        world.program("claude", &format!("#!/bin/sh\necho '{result}'\n"));
        let argv = ["claude", "-p", "--output-format", "stream-json", "--verbose", "x"];
        world.run(argv).options(["--id", id]).run().ended(End::Code(0));
    }
    let costs: Vec<Option<f64>> = world.rows().iter().map(|row| row.real("cost_usd")).collect();
    assert_eq!(costs, [None, None, Some(0.25)], "an implausible cost is ignored");
    // Another program may write any value.
    world.run(["true"]).options(["--id", "four"]).run().ended(End::Code(0));
    world.run(["true"]).options(["--id", "five"]).run().ended(End::Code(0));
    let huge = "cost_usd = 1e308, input_tokens = 9223372036854775807, turns = -9223372036854775808,
        duration_ms = 9223372036854775807";
    change(&world, &format!("UPDATE task_history SET {huge} WHERE id IN ('four', 'five')"));
    for by in ["all", "agent", "day"] {
        let printed = bookend(&world, &["stats", "--by", by]).ended(End::Code(0)).stdout;
        assert!(printed.contains("$0.25") || by == "agent", "{printed}");
        assert!(!printed.contains("inf") && !printed.contains("NaN"), "{printed}");
        json(&world, &["stats", "--by", by, "--json"]);
    }
    assert_eq!(json(&world, &["stats", "--json"])["groups"][0]["cost_usd"], 0.25);
    let shown = bookend(&world, &["show", "four"]).ended(End::Code(0)).stdout;
    assert!(shown.contains("$1.00e308") && shown.lines().all(|l| l.len() < 200), "{shown}");
}

#[test]
fn an_id_that_is_too_long_or_empty_is_refused_with_the_limit() {
    let Some(world) = World::of_bookend("an_id_that_is_too_long_or_empty_is_refused_with_the_limit") else {
        return;
    };
    let run = |id: &str| world.run(["touch", "../effect"]).options(["--id", id]).run();
    for id in ["a".repeat(201), "a".repeat(100_000), "a:".repeat(51)] {
        let refused = run(&id).ended(End::Code(2));
        assert!(refused.stderr.contains("at most 200 bytes"), "{refused:?}");
    }
    for id in ["", "a\u{1b}b", "a\u{200b}b", "a b", "a\nb"] {
        run(id).ended(End::Code(2));
    }
    assert!(!world.path("effect").exists(), "the agent ran");
    for id in ["a".repeat(200), "a:".repeat(50)] {
        run(&id).ended(End::Code(0)).silent();
        bookend(&world, &["show", &id]).ended(End::Code(0));
    }
}
