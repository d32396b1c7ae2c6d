//! The output of `list` and `show`: tables on a terminal and in a pipe, and JSON.

use serde_json::Value;

use crate::harness::{End, Pty, World, bookend};

fn json(world: &World, words: &[&str]) -> Value {
    let output = bookend(world, words).ended(End::Code(0)).silent();
    serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", output.stdout))
}

fn run(world: &World, id: &str, script: &str) {
    world.run_sh(script).options(["--id", id]).run();
}

#[test]
fn an_empty_list_names_the_ledger() {
    let Some(world) = World::of_bookend("an_empty_list_names_the_ledger") else { return };
    let ledger = world.ledger().display().to_string();
    let output = bookend(&world, &["list"]).ended(End::Code(0)).silent();
    assert!(output.stdout.contains(&ledger), "{output:?}");
    assert_eq!(json(&world, &["list", "--json"]), serde_json::json!({ "ledger": ledger, "tasks": [] }));
    assert_eq!(bookend(&world, &["list", "--jsonl"]).ended(End::Code(0)).stdout, "");
    assert!(!world.ledger().exists(), "list creates no ledger");

    run(&world, "one", "true");
    let output = bookend(&world, &["list", "--status", "failure"]).ended(End::Code(0));
    assert!(output.stdout.contains(&ledger), "{output:?}");
}

#[test]
fn tables_name_signals_and_json_gives_their_number() {
    let test = "tables_name_signals_and_json_gives_their_number";
    let Some(world) = World::of_bookend(test) else { return };
    // In glibc, SIGRTMIN is 34.
    for (number, name) in [(15, "SIGTERM"), (40, "SIGRTMIN+6")] {
        let id = format!("killed-by-{number}");
        world.run(["probe", "die", &number.to_string()]).options(["--id", &id]).run();
        let detail = bookend(&world, &["show", &id]).ended(End::Code(0)).stdout;
        assert!(detail.lines().any(|l| l.starts_with("killed by") && l.ends_with(name)), "{detail}");
        let table = bookend(&world, &["list"]).ended(End::Code(0)).stdout;
        assert!(table.lines().any(|l| l.contains(&id) && l.contains(name)), "{table}");
        assert_eq!(json(&world, &["show", &id, "--json"])["task"]["term_signal"], number);
    }
}

#[test]
fn list_shows_running_tasks_first_then_the_newest() {
    let Some(world) = World::of_bookend("list_shows_running_tasks_first_then_the_newest") else { return };
    let (started, mut end) = (world.fifo("started"), world.fifo("end"));
    let script = format!("echo up >{}; read line <{}", started.path(), end.path());
    let running = world.run_sh(&script).options(["--id", "running"]).start();
    let mut started = started;
    started.line();
    run(&world, "older", "true");
    run(&world, "newer", "exit 3");

    let ids = |words: &[&str]| -> Vec<String> {
        let listed = json(&world, words);
        let tasks = listed["tasks"].as_array().expect("tasks");
        tasks.iter().map(|t| t["id"].as_str().expect("an id").to_owned()).collect()
    };
    assert_eq!(ids(&["list", "--json"]), ["running", "newer", "older"]);
    assert_eq!(ids(&["ls", "--json", "--limit", "2"]), ["running", "newer"]);
    assert_eq!(ids(&["list", "--json", "--status", "success"]), ["older"]);
    let table = bookend(&world, &["list"]).ended(End::Code(0)).silent().stdout;
    let rows: Vec<&str> = table.lines().collect();
    assert!(rows[1].starts_with("running") && rows[1].contains("pid "), "{table}");
    assert!(rows[2].starts_with("newer") && rows[2].contains("exit 3"), "{table}");
    let lines = bookend(&world, &["list", "--jsonl"]).ended(End::Code(0)).stdout;
    assert_eq!(lines.lines().filter(|l| serde_json::from_str::<Value>(l).is_ok()).count(), 3);

    end.write_line("now");
    running.wait().ended(End::Code(0));
}

#[test]
fn a_unique_id_prefix_is_accepted() {
    let Some(world) = World::of_bookend("a_unique_id_prefix_is_accepted") else { return };
    let output = bookend(&world, &["show", "tw"]);
    assert_eq!(output.end, End::Code(1), "no ledger: {output:?}");
    for id in ["one", "two", "twelve"] {
        run(&world, id, "true");
    }
    assert_eq!(json(&world, &["show", "o", "--json"])["task"]["id"], "one");
    assert_eq!(json(&world, &["show", "two", "--json"])["task"]["id"], "two");
    let output = bookend(&world, &["show", "tw"]).ended(End::Code(2));
    assert!(output.stderr.contains("twelve") && output.stderr.contains("two"), "{output:?}");
    let output = bookend(&world, &["show", "x"]).ended(End::Code(1));
    assert!(output.stderr.contains(&world.ledger().display().to_string()), "{output:?}");
}

#[test]
fn show_prints_everything_about_a_task() {
    let Some(world) = World::of_bookend("show_prints_everything_about_a_task") else { return };
    run(&world, "one", "exit 3");
    let shown = json(&world, &["show", "one", "--json"]);
    let keys: Vec<&str> = shown.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(keys.len(), 5, "{keys:?}");
    assert_eq!(shown["task"]["argv"], serde_json::json!(["sh", "-c", "exit 3"]));
    assert_eq!(shown["task"]["exit_code"], 3);
    assert_eq!(shown["session"], Value::Null);
    let moves = shown["transitions"].as_array().expect("transitions");
    assert_eq!(moves.len(), 2);
    assert_eq!((&moves[1]["from_status"], &moves[1]["to_status"]), (&"running".into(), &"failure".into()));

    let page = bookend(&world, &["show", "one"]).ended(End::Code(0)).silent().stdout;
    for part in ["failure (exit 3)", "sh -c 'exit 3'", "history"] {
        assert!(page.contains(part), "{part}: {page}");
    }
}

#[test]
fn control_characters_in_data_are_escaped() {
    let Some(world) = World::of_bookend("control_characters_in_data_are_escaped") else { return };
    let hostile = "\u{1b}]0;owned\u{7}\u{1b}[2J\nx\u{202e}";
    let options = ["--id", "one", "--agent", hostile, "--key", hostile, "--user", hostile];
    world.run(["sh", "-c", "exit 3", hostile]).options(options).run();
    for words in [&["list"][..], &["list", "--jsonl"], &["show", "one"], &["show", "one", "--json"]] {
        let output = bookend(&world, words).ended(End::Code(0));
        let is_harmful = |c: char| c.is_control() && c != '\n';
        assert!(!output.stdout.contains(is_harmful), "{words:?}: {:?}", output.stdout);
    }
    assert_eq!(json(&world, &["show", "one", "--json"])["task"]["key"], hostile);
}

#[test]
fn the_table_fits_the_terminal_and_is_coloured_only_there() {
    let Some(world) = World::of_bookend("the_table_fits_the_terminal_and_is_coloured_only_there") else {
        return;
    };
    let key = "forgejo:dev:charles/claude-hooks-that-are-long-in-name:1104";
    world.run(["true"]).options(["--key", key]).run();
    let piped = bookend(&world, &["list"]).ended(End::Code(0)).stdout;
    assert!(piped.contains(key) && !piped.contains('\u{1b}'), "{piped:?}");

    let on_terminal = |setting: &str| {
        let mut pty = Pty::bash(&world);
        pty.resize(60, 20);
        pty.line(&format!("export TERM=xterm {setting}"));
        pty.prompt();
        pty.line("bookend list");
        let (output, code) = pty.output();
        assert_eq!(code, 0);
        output.split_once("\r\n").expect("the echo").1.to_owned()
    };
    let plain = on_terminal("NO_COLOR=1");
    assert!(!plain.contains('\u{1b}'), "{plain:?}");
    assert!(plain.lines().all(|l| l.chars().count() <= 60), "{plain}");
    assert!(plain.contains("1104") && plain.contains('…'), "keys are shortened at the start: {plain}");
    assert!(on_terminal("").contains("\u{1b}[32msuccess\u{1b}[0m"));
}
