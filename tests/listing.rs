//! `list`, `ps`, `stats` and bare `bookend`: which tasks are selected, in which columns, and how many.

use serde_json::{Value, json};

use crate::harness::{End, Pty, World, bookend, eventually, parsed, stdout_of};

fn ids(world: &World, words: &[&str]) -> Vec<String> {
    let listed = parsed(world, &[words, &["--json"]].concat());
    let tasks = listed["tasks"].as_array().expect("tasks");
    tasks.iter().map(|t| t["id"].as_str().expect("an id").to_owned()).collect()
}

/// Ended tasks `t1`, `t2`, … with the times `2026-03-05T00:00:00Z` and one minute later each, and these
/// statuses in turn.
fn history(world: &World, tasks: u32, statuses: &[&str]) {
    world.run(["true"]).options(["--id", "first"]).run().ended(End::Code(0));
    let words = statuses.iter().map(|s| format!("'{s}'")).collect::<Vec<_>>().join(", ");
    world.write(&format!(
        "DELETE FROM task_history;
         WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {tasks})
         INSERT INTO task_history
             (id, agent, model, status, started_at, finished_at, duration_ms, cost_usd, user_argv)
         SELECT 't' || i, iif(i % 2, 'dev', 'ops'), iif(i % 3, 'opus', 'haiku'),
             (SELECT value FROM json_each(json_array({words})) WHERE key = (i - 1) % {count}),
             strftime('%Y-%m-%dT%H:%M:%fZ', 1772668740 + i * 60, 'unixepoch'),
             strftime('%Y-%m-%dT%H:%M:%fZ', 1772668750 + i * 60, 'unixepoch'),
             i * 1000, i * 0.5, json_array('claude', '-p', 'fix issue ' || i || ' for good')
         FROM n",
        count = statuses.len()
    ));
}

/// What a command prints on a terminal of this width.
fn on_terminal(world: &World, columns: u16, command: &str) -> String {
    let mut pty = Pty::bash(world);
    pty.resize(columns, 40);
    pty.line(command);
    let (output, code) = pty.output();
    assert_eq!(code, 0, "{command}: {output}");
    output.split_once("\r\n").expect("the echo").1.replace("\r\n", "\n")
}

#[test]
fn json_has_no_default_limit_and_a_table_says_what_it_leaves_out() {
    let test = "json_has_no_default_limit_and_a_table_says_what_it_leaves_out";
    let Some(world) = World::of_bookend(test) else { return };
    history(&world, 33, &["success"]);
    assert_eq!(ids(&world, &["list"]).len(), 33);
    assert_eq!(stdout_of(&world, &["list", "--jsonl"]).lines().count(), 33);
    assert_eq!(ids(&world, &["list", "--limit", "2"]), ["t33", "t32"]);
    assert_eq!(stdout_of(&world, &["list", "--jsonl", "--limit", "2"]).lines().count(), 2);
    let last = |words: &[&str]| {
        let table = stdout_of(&world, words);
        (table.lines().count(), table.lines().last().unwrap_or_default().to_owned())
    };
    assert_eq!(last(&["list"]), (22, "20 of 33 (--limit N)".to_owned()));
    assert_eq!(last(&["list", "--limit", "5", "--agent", "dev"]), (7, "5 of 17 (--limit N)".to_owned()));
    for complete in
        [&["list", "--limit", "33"][..], &["list", "--limit", "40"], &["list", "--model", "haiku"]]
    {
        assert!(!last(complete).1.contains("--limit"), "{complete:?}");
    }
    history(&world, 1500, &["success"]);
    assert_eq!(last(&["list"]).1, "20 of more than 1000 (--limit N)");
    assert_eq!(ids(&world, &["list"]).len(), 1500);
}

#[test]
fn json_of_a_long_history_needs_little_memory() {
    let Some(world) = World::of_bookend("json_of_a_long_history_needs_little_memory") else { return };
    history(&world, 1000, &["success", "failure"]);
    world.write("UPDATE task_history SET error = hex(zeroblob(12500))");
    // The errors are 25 MB in all. The limit is in KiB.
    let script = "ulimit -d 16000; bookend list --json >listed";
    world.bare(["bash", "-c", script]).run().ended(End::Code(0)).silent();
    let listed = std::fs::read_to_string(world.path("home/listed")).expect("the output");
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    assert_eq!(listed["tasks"].as_array().map(Vec::len), Some(1000));
}

#[test]
fn statuses_are_combined_and_failed_is_what_went_wrong() {
    let Some(world) = World::of_bookend("statuses_are_combined_and_failed_is_what_went_wrong") else {
        return;
    };
    history(&world, 10, &["failure", "success", "cancelled", "interrupted", "aborted_no_skill"]);
    let failed = ["t10", "t9", "t6", "t5", "t4", "t1"];
    assert_eq!(ids(&world, &["list", "--failed"]), failed);
    assert_eq!(ids(&world, &["list", "--status", "failure,interrupted,aborted_no_skill"]), failed);
    assert_eq!(ids(&world, &["list", "--failed", "--limit", "2"]), ["t10", "t9"]);
    assert_eq!(ids(&world, &["list", "--failed", "--agent", "ops"]), ["t10", "t6", "t4"]);
    assert_eq!(
        ids(&world, &["list", "--status", "failure", "--status", "cancelled"]),
        ["t8", "t6", "t3", "t1"]
    );
    assert_eq!(ids(&world, &["list", "--status", "success,failure"]), ["t7", "t6", "t2", "t1"]);
    assert_eq!(ids(&world, &["list", "--model", "haiku", "--failed"]), ["t9", "t6"]);
    assert_eq!(parsed(&world, &["stats", "--by", "all", "--failed", "--json"])["total"]["runs"], 6);
    assert_eq!(parsed(&world, &["stats", "--status", "failure", "--json"])["total"]["runs"], 2);
    assert_eq!(parsed(&world, &["stats", "--model", "haiku", "--json"])["total"]["runs"], 3);
    let timeline = stdout_of(&world, &["timeline", "--since", "2026-03-05", "--status", "cancelled"]);
    assert!(timeline.lines().any(|line| line == "⊘ 2 cancelled   times are UTC"), "{timeline}");
    bookend(&world, &["list", "--failed", "--status", "success"]).ended(End::Code(2));
    let unknown = bookend(&world, &["list", "--status", "failure,done"]).ended(End::Code(2)).stderr;
    assert!(unknown.contains("'done'") && unknown.contains("aborted_no_skill"), "{unknown}");
}

#[test]
fn ps_lists_what_runs() {
    let Some(world) = World::of_bookend("ps_lists_what_runs") else { return };
    assert!(stdout_of(&world, &["ps"]).contains("there is no ledger yet"));
    let (mut up, mut end) = (world.fifo("up"), world.fifo("end"));
    let script = format!("echo up >{}; read line <{}", up.path(), end.path());
    let running = world.run_sh(&script).options(["--id", "now"]).start();
    up.line();
    world.run(["true"]).options(["--id", "ended"]).run().ended(End::Code(0));
    assert_eq!(ids(&world, &["ps"]), ["now"]);
    assert_eq!(ids(&world, &["list", "--status", "running,success"]), ["now", "ended"]);
    assert_eq!(stdout_of(&world, &["ps"]).lines().count(), 2);
    end.write_line("now");
    running.wait().ended(End::Code(0));
    assert!(stdout_of(&world, &["ps"]).starts_with("no such tasks"));
}

#[test]
fn dates_are_local_and_until_ends_before_them() {
    let Some(world) = World::of_bookend("dates_are_local_and_until_ends_before_them") else { return };
    // The first is at midnight UTC, and the last is 599 minutes later.
    history(&world, 600, &["success"]);
    let count = |zone: &str, words: &[&str]| {
        let words = ["bookend", "list", "--jsonl"].iter().chain(words).copied();
        let listed = world.bare(words).env("TZ", zone).run().ended(End::Code(0)).silent().stdout;
        listed.lines().count()
    };
    assert_eq!(count("UTC", &["--since", "2026-03-05"]), 600);
    assert_eq!(count("UTC", &["--until", "2026-03-05"]), 0);
    assert_eq!(count("UTC", &["--since", "2026-03-05T01:00", "--until", "2026-03-05T02:00"]), 60);
    // In a zone that is five hours behind, the day begins at 05:00 UTC.
    assert_eq!(count("XXX5", &["--since", "2026-03-05"]), 300);
    assert_eq!(count("XXX5", &["--until", "2026-03-05"]), 300);
    assert_eq!(count("XXX5", &["--since", "2026-03-05T00:00:00Z"]), 600);
    let moved = "UPDATE task_history SET started_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-1 day')";
    world.write(&format!("{moved} WHERE id = 't1'"));
    assert_eq!(count("UTC", &["--since", "yesterday", "--until", "today"]), 1);
    assert_eq!(count("UTC", &["--since", "today"]), 0);
    let wrong = bookend(&world, &["list", "--until", "soon"]).ended(End::Code(2)).stderr;
    assert!(wrong.contains("yesterday"), "{wrong}");
}

#[test]
fn the_command_is_the_program_and_the_first_words_of_the_prompt() {
    let test = "the_command_is_the_program_and_the_first_words_of_the_prompt";
    let Some(world) = World::of_bookend(test) else { return };
    let prompt = "fix\nthe \u{1b}[2Jbug: \u{202e}".to_owned() + &"a very long prompt ".repeat(40);
    world.program("claude", "#!/bin/sh\nexit 0\n");
    world.run(["env", "A=b", "claude", "-p", &prompt, "--model", "opus"]).options(["--id", "agent"]).run();
    world.run(["sh", "-c", "exit 3"]).options(["--id", "shell", "--key", "forgejo:dev:a/b:7"]).run();
    let narrow = on_terminal(&world, 80, "bookend list");
    assert!(narrow.lines().all(|l| l.chars().count() <= 80), "{narrow}");
    assert!(narrow.contains("COMMAND") && narrow.contains("sh -c exit 3"), "{narrow}");
    assert!(narrow.contains("claude fix the") && narrow.contains('…'), "{narrow}");
    let wide = on_terminal(&world, 200, "bookend list");
    assert!(wide.lines().all(|l| l.chars().count() <= 200), "{wide}");
    let command = r"claude fix the \u{1b}[2Jbug: \u{202e}a very long prompt a very long prompt";
    assert!(wide.contains(command) && !wide.contains("--model"), "{wide}");
    let piped = stdout_of(&world, &["list"]);
    assert!(piped.contains("claude fix the") && piped.lines().all(|l| l.chars().count() < 200), "{piped}");
}

#[test]
fn columns_are_those_that_were_asked_for() {
    let Some(world) = World::of_bookend("columns_are_those_that_were_asked_for") else { return };
    history(&world, 2, &["success"]);
    let table = stdout_of(&world, &["list", "--columns", "cost,id,key,command"]);
    let expected = [
        " COST  ID  KEY  COMMAND",
        "$1.00  t2  -    claude fix issue 2 for good",
        "$0.50  t1  -    claude fix issue 1 for good",
    ];
    assert_eq!(table.lines().collect::<Vec<_>>(), expected);
    let narrow = on_terminal(&world, 20, "bookend list --columns cost,id,key,command");
    assert!(narrow.starts_with(" COST  ID") && narrow.lines().all(|l| l.chars().count() <= 20), "{narrow}");
    let all = "id,status,why,agent,key,repo,issue,user,model,started,time,turns,tokens,cost,tool,session,cwd,\
               command";
    let header = stdout_of(&world, &["list", "--columns", all]);
    let titles = header.lines().next().unwrap_or_default().split_whitespace().map(str::to_lowercase);
    assert_eq!(titles.collect::<Vec<_>>().join(","), all);
    bookend(&world, &["list", "--columns", "id,colour"]).ended(End::Code(2));
    bookend(&world, &["list", "--columns", "id", "--json"]).ended(End::Code(2));
}

#[test]
fn watch_shows_the_progress_of_what_runs_and_leaves_the_last_table() {
    let test = "watch_shows_the_progress_of_what_runs_and_leaves_the_last_table";
    let Some(world) = World::of_bookend(test) else { return };
    let (mut up, mut end) = (world.fifo("up"), world.fifo("end"));
    let script = format!("echo up >{}; read line <{}", up.path(), end.path());
    let running = world.run_sh(&script).options(["--id", "watched"]).start();
    up.line();
    let mut pty = Pty::bash(&world);
    pty.resize(200, 24);
    pty.line("TERM=xterm bookend ps --watch");
    pty.expect("\u{1b}[?1049h");
    pty.expect("watched");
    world.write(
        "UPDATE task_history SET input_tokens = 1200, output_tokens = 34, cost_usd = 0.25,
             tool_in_flight = 'Bash' WHERE id = 'watched'",
    );
    for shown in ["TOKENS", "TOOL", "1,234", "$0.25", "Bash", "sh -c echo up"] {
        pty.shows(shown);
    }
    // The elapsed time changes although the ledger does not.
    pty.expect("watched");
    end.write_line("now");
    running.wait().ended(End::Code(0));
    pty.expect("no such tasks");
    pty.send("\x03");
    pty.expect("\u{1b}[?1049l");
    let (left, code) = pty.output();
    assert!(left.contains("no such tasks") && code == 130, "{code}: {left:?}");
}

#[test]
fn a_watch_in_a_pipe_prints_the_table_when_the_ledger_has_changed() {
    let test = "a_watch_in_a_pipe_prints_the_table_when_the_ledger_has_changed";
    let Some(world) = World::of_bookend(test) else { return };
    world.run(["true"]).options(["--id", "one"]).run().ended(End::Code(0));
    let script = format!("exec bookend list --watch >{}", world.name("printed"));
    let watch = world.bare(["sh", "-c", &script]).start();
    let printed = || std::fs::read_to_string(world.path("printed")).unwrap_or_default();
    eventually(world.deadline(), "the first table", || printed().ends_with("\n\n"));
    let first = printed();
    assert!(first.contains("one") && !first.contains('\u{1b}'), "{first:?}");
    world.run(["true"]).options(["--id", "two"]).run().ended(End::Code(0));
    eventually(world.deadline(), "the second task", || printed().contains("two"));
    assert!(printed().starts_with(&first));
    watch.signal(rustix::process::Signal::INT);
    watch.wait().ended(End::Signal(2));
}

#[test]
fn a_watch_shows_the_ledger_that_replaces_the_first_one() {
    let test = "a_watch_shows_the_ledger_that_replaces_the_first_one";
    let Some(world) = World::of_bookend(test) else { return };
    world.run(["true"]).options(["--id", "one"]).run().ended(End::Code(0));
    let script = format!("exec bookend list --watch >{}", world.name("printed"));
    let watch = world.bare(["sh", "-c", &script]).start();
    let printed = || std::fs::read_to_string(world.path("printed")).unwrap_or_default();
    eventually(world.deadline(), "the first table", || printed().contains("one"));
    let ledger = world.ledger();
    for suffix in ["", "-wal", "-shm", ".d"] {
        let name = |old: &str| format!("{}{old}{suffix}", ledger.display());
        let _ = std::fs::rename(name(""), name(".old"));
    }
    eventually(world.deadline(), "the missing ledger", || printed().contains("there is no ledger yet"));
    world.run(["true"]).options(["--id", "two"]).run().ended(End::Code(0));
    eventually(world.deadline(), "the new ledger", || printed().contains("two"));
    watch.signal(rustix::process::Signal::INT);
    watch.wait().ended(End::Signal(2));
}

#[test]
fn the_overview_says_what_happened_today() {
    let Some(world) = World::of_bookend("the_overview_says_what_happened_today") else { return };
    world.run(["true"]).options(["--id", "one"]).run().ended(End::Code(0));
    assert!(stdout_of(&world, &[]).contains("\ntoday: 1 run, 0 failed\n"));
    for _ in 0..2 {
        world.run(["false"]).run().ended(End::Code(1));
    }
    world.write(
        "UPDATE task_history SET cost_usd = 1.6 WHERE status = 'failure';
         UPDATE task_history SET started_at = '2026-01-01T00:00:00.000Z' WHERE id = 'one'",
    );
    assert!(stdout_of(&world, &[]).contains("\ntoday: 2 runs, 2 failed, $3.20\n"));
}

#[test]
fn stats_groups_by_several_columns_and_adds_a_total_with_percentiles() {
    let test = "stats_groups_by_several_columns_and_adds_a_total_with_percentiles";
    let Some(world) = World::of_bookend(test) else { return };
    history(&world, 100, &["success", "failure"]);
    let stats = parsed(&world, &["stats", "--by", "agent,model", "--json"]);
    assert_eq!(stats["by"], "agent,model");
    let groups = stats["groups"].as_array().expect("groups");
    let names: Vec<&Value> = groups.iter().map(|group| &group["names"]).collect();
    assert_eq!(
        names,
        [
            &json!(["ops", "opus"]),
            &json!(["dev", "opus"]),
            &json!(["dev", "haiku"]),
            &json!(["ops", "haiku"])
        ]
    );
    assert_eq!((&groups[0]["name"], &groups[0]["runs"]), (&json!("ops, opus"), &json!(34)));
    let total = &stats["total"];
    assert_eq!(
        (&total["runs"], &total["success"], &total["cost_usd"]),
        (&json!(100), &json!(50), &json!(2525.0))
    );
    // Costs of 0.5 to 50 dollars, and times of 1 to 100 seconds.
    assert_eq!((&total["cost_usd_median"], &total["duration_ms_median"]), (&json!(25.25), &json!(50_500)));
    assert_eq!((&total["cost_usd_p95"], &total["duration_ms_p95"]), (&json!(47.525), &json!(95_050)));
    let limited = stdout_of(&world, &["stats", "--by", "agent,model", "--limit", "1"]);
    assert!(limited.ends_with("there are more groups (--limit N)\n"), "{limited}");
    assert_eq!(parsed(&world, &["stats", "--by", "key", "--json"])["groups"][0]["names"], json!([null]));

    for (columns, least) in [(80, "MEDIAN COST"), (200, "P95 TIME")] {
        let table = on_terminal(&world, columns, "bookend stats --by agent,model");
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines.iter().all(|l| l.chars().count() <= usize::from(columns)), "{table}");
        assert!(lines[0].starts_with("AGENT  MODEL") && lines[0].contains(least), "{table}");
        assert!(lines[5].starts_with("total") && lines[5].contains("$25.25"), "{table}");
        assert_eq!(lines.len(), 6, "{table}");
    }
}
