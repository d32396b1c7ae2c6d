//! The operator's commands: list, show, artifact, stats, timeline, doctor, help, man pages and completions.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::harness::{End, Pty, World, bookend, on_path, parsed, possible, stdout_of};

fn run(world: &World, options: &[&str], script: &str) {
    world.run_sh(script).options(options.iter().copied()).run();
}

fn listed(world: &World, options: &[&str]) -> Vec<String> {
    let list = parsed(world, &[&["list", "--json"], options].concat());
    let tasks = list["tasks"].as_array().expect("tasks");
    tasks.iter().map(|t| t["id"].as_str().expect("an id").to_owned()).collect()
}

#[test]
fn list_filters_can_be_combined() {
    let Some(world) = World::of_bookend("list_filters_can_be_combined") else { return };
    let of = |id, repo, agent, script| {
        let options = ["--id", id, "--repo", repo, "--agent", agent, "--issue", "1"];
        run(&world, &options, script);
    };
    of("a1", "a/b", "dev", "true");
    of("a2", "a/b", "ops", "exit 3");
    of("c1", "c/d", "dev", "exit 3");
    world.write("UPDATE task_history SET started_at = '2020-01-01T00:00:00.000Z' WHERE id = 'a1'");
    assert_eq!(listed(&world, &["--repo", "a/b"]), ["a2", "a1"]);
    assert_eq!(listed(&world, &["--agent", "dev"]), ["c1", "a1"]);
    assert_eq!(listed(&world, &["--agent", "dev", "--status", "failure"]), ["c1"]);
    assert_eq!(listed(&world, &["--repo", "a/b", "--agent", "dev"]), ["a1"]);
    assert_eq!(listed(&world, &["--key", "forgejo:ops:a/b:1"]), ["a2"]);
    assert_eq!(listed(&world, &["--since", "1h"]), ["c1", "a2"]);
    assert_eq!(listed(&world, &["--since", "2019-12-31", "--repo", "a/b"]), ["a2", "a1"]);
    assert_eq!(listed(&world, &["--since", "2020-01-02", "--repo", "a/b"]), ["a2"]);
    bookend(&world, &["list", "--since", "soon"]).ended(End::Code(2));
    bookend(&world, &["list", "--limit", "0"]).ended(End::Code(2));
}

#[test]
fn list_watch_shows_tasks_that_start_and_end() {
    let Some(world) = World::of_bookend("list_watch_shows_tasks_that_start_and_end") else { return };
    let mut pty = Pty::bash(&world);
    pty.resize(80, 24);
    pty.line("bookend list --watch");
    pty.expect("there is no ledger yet");
    let (mut up, mut end) = (world.fifo("up"), world.fifo("end"));
    let script = format!("echo up >{}; read line <{}", up.path(), end.path());
    let running = world.run_sh(&script).options(["--id", "watched"]).start();
    up.line();
    pty.expect("watched");
    pty.expect("running");
    end.write_line("now");
    running.wait();
    pty.expect("success");
    pty.send("\x03");
    assert_eq!(pty.prompt(), 130);
}

#[test]
fn list_and_show_report_a_lost_task() {
    let Some(world) = World::of_bookend("list_and_show_report_a_lost_task") else { return };
    let mut up = world.fifo("up");
    let script = format!("echo up >{}; exec sleep 1000", up.path());
    let mut lost = world.run_sh(&script).options(["--id", "gone"]).start();
    up.line();
    let alive = |page: String| page.lines().any(|l| l.starts_with("alive") && l.ends_with("yes"));
    assert!(alive(stdout_of(&world, &["show", "gone"])));
    lost.signal(rustix::process::Signal::KILL);
    lost.wait_here();
    assert!(stdout_of(&world, &["list"]).contains("lost"));
    assert!(stdout_of(&world, &["show", "gone"]).contains("bookend recover --ledger "));
}

#[test]
fn suggested_commands_name_a_ledger_that_is_not_the_default() {
    let Some(world) = World::of_bookend("suggested_commands_name_a_ledger_that_is_not_the_default") else {
        return;
    };
    let ledger = world.path("else where/l.db");
    fs::create_dir(world.path("else where")).expect("a directory");
    fs::set_permissions(world.path("else where"), fs::Permissions::from_mode(0o700)).expect("its mode");
    let with = |args: &[&str]| {
        let ledger = ledger.to_str().expect("UTF-8");
        world.bare(["bookend", "--ledger", ledger].iter().chain(args).copied()).run()
    };
    let lost = with(&["run", "--id", "one", "--", "sh", "-c", "kill -9 $PPID"]);
    assert_eq!(lost.end, End::Signal(libc::SIGKILL), "{lost:?}");
    let pasted = |command: &str| world.bare(["sh", "-c", &format!("exec {command}")]).run();
    let audit: Value = serde_json::from_str(&with(&["audit", "--json"]).stdout).expect("JSON");
    let report = pasted(audit["findings"][0]["fix"].as_str().expect("a command")).ended(End::Code(0)).stdout;
    assert!(report.contains("task one interrupted"), "{report}");
    let again =
        report.split("to run it again: ").nth(1).and_then(|rest| rest.lines().next()).expect("a command");
    assert_eq!(pasted(again).end, End::Signal(libc::SIGKILL), "{again}");
    let unknown = with(&["show", "nosuch"]).ended(End::Code(1)).stderr;
    let list = unknown.split_once("hint: run `").and_then(|(_, hint)| hint.split('`').next());
    let listed = pasted(list.expect("a command")).ended(End::Code(0)).stdout;
    assert_eq!(listed.matches("\none ").count(), 1, "{listed}");
    let default = pasted("sh -c 'unset XDG_STATE_HOME; bookend run -- true; exec bookend show nosuch'");
    assert!(default.ended(End::Code(1)).stderr.contains("hint: run `bookend list` to see the ids"));
}

#[test]
fn show_names_the_end_source_leftovers_transcript_and_journal() {
    let test = "show_names_the_end_source_leftovers_transcript_and_journal";
    let Some(world) = World::of_bookend(test) else { return };
    let claude = "#!/bin/sh\n\
        while [ $# -gt 0 ]; do case $1 in --session-id) id=$2;; esac; shift; done\n\
        dir=$HOME/.claude/projects/$(pwd -P | sed 's/[^A-Za-z0-9]/-/g'); mkdir -p $dir\n\
        echo {} >$dir/$id.jsonl\n\
        setsid sleep 1000 >/dev/null 2>&1 &\nexit 3\n";
    world.program("claude", claude);
    world.run(["claude", "-p", "x"]).options(["--id", "one", "--key", "a key", "--grace", "1s"]).run();
    let page = stdout_of(&world, &["show", "one"]);
    let row = world.row();
    let session = row.text("session_id");
    for part in [
        "the supervisor".to_owned(),
        "1 found, 1 ended, 0 left".to_owned(),
        format!("/{session}.jsonl\n"),
        format!(
            "bookend resume --ledger {} one  # invalidated: check its state first\n",
            world.ledger().display()
        ),
        format!("bookend logs --ledger {} one\n", world.ledger().display()),
        format!("bookend redispatch --ledger {} one\n", world.ledger().display()),
        format!("bookend session --ledger {} restore 'a key'\n", world.ledger().display()),
        format!("_PID={} + _PID={}", row.pid("supervisor_pid"), row.pid("agent_pid")),
    ] {
        assert!(page.contains(&part), "{part}: {page}");
    }
    world.write("UPDATE task_history SET end_source = 'recovery'");
    assert!(stdout_of(&world, &["show", "one"]).contains("recovery, which inferred it"));
}

#[test]
fn artifact_add_records_files_directories_and_urls() {
    let Some(world) = World::of_bookend("artifact_add_records_files_directories_and_urls") else { return };
    let script = "echo hello >report; bookend artifact add report . https://example.org/7";
    world.run_sh(script).options(["--id", "one"]).run().ended(End::Code(0)).silent();
    let artifacts = parsed(&world, &["show", "one", "--json"])["task"]["artifacts"].clone();
    let home = fs::canonicalize(world.path("home")).expect("home");
    let word = |n: usize, name: &str| artifacts[n][name].as_str().expect("a word").to_owned();
    assert_eq!(
        (word(0, "kind"), word(0, "path")),
        ("file".into(), home.join("report").display().to_string())
    );
    assert_eq!((word(1, "kind"), word(1, "path")), ("directory".into(), home.display().to_string()));
    assert_eq!((word(2, "kind"), word(2, "url")), ("url".into(), "https://example.org/7".into()));
    assert_eq!(artifacts[0]["bytes"], 6);
    assert!(stdout_of(&world, &["show", "one"]).contains("https://example.org/7"));

    bookend(&world, &["artifact", "add", "https://example.org"]).ended(End::Code(2));
    bookend(&world, &["artifact", "add", "--task", "one", "nonesuch"]).ended(End::Code(1));
    bookend(&world, &["artifact", "add", "--task", "one", "https://example.org"]).ended(End::Code(0));
}

#[test]
fn a_run_records_the_changes_in_its_git_worktree() {
    let test = "a_run_records_the_changes_in_its_git_worktree";
    let Some(world) = World::of_bookend(test) else { return };
    if !possible(test, on_path("git"), "git") {
        return;
    }
    let shell = |script: &str| world.bare(["sh", "-euc", script]).run().ended(End::Code(0));
    shell(
        "git init -q -b main repo; cd repo; git config user.name x; git config user.email x@y
         echo a >a; git add a; git commit -qm a; mkdir below",
    );
    let in_repo = |id: &str, script: &str| {
        let script = format!("cd repo; {script}");
        let options = ["--id", id, "--cwd", "repo/below"];
        world.run_sh(&script.replace("cd repo; ", "")).options(options).run();
        parsed(&world, &["show", id, "--json"])["task"]["artifacts"][0].clone()
    };
    let git = in_repo("idle", "true");
    assert_eq!((&git["kind"], &git["branch"]), (&json!("git"), &json!("main")));
    assert_eq!((&git["commits"], &git["changed"], &git["uncommitted"]), (&json!(0), &json!(0), &json!(0)));
    assert!(stdout_of(&world, &["list"]).contains("no changes"), "list marks the task");

    let git =
        in_repo("busy", "cd ..; git checkout -qb side; echo b >b; git add b; git commit -qm b; echo c >c");
    assert_eq!((&git["commits"], &git["changed_files"]), (&json!(1), &json!(["b"])));
    assert_eq!((&git["branch"], &git["uncommitted_files"]), (&json!("side"), &json!(["c"])));
    assert_ne!(git["head"], git["head_before"]);

    let git = in_repo("failed", "git -C .. commit -qm empty --allow-empty; exit 3");
    assert_eq!(git["commits"], 1, "after a failure too");

    // --prepare creates the repository, without a commit.
    let options = ["--id", "new", "--prepare", "git init -q -b main new", "--cwd", "new"];
    world.run_sh("git -c user.name=x -c user.email=x@y commit -qm a --allow-empty").options(options).run();
    let git = parsed(&world, &["show", "new", "--json"])["task"]["artifacts"][0].clone();
    assert_eq!((&git["commits"], &git["head_before"]), (&json!(1), &Value::Null));

    run(&world, &["--id", "outside"], "true");
    assert_eq!(parsed(&world, &["show", "outside", "--json"])["task"]["artifacts"], Value::Null);
}

#[test]
fn a_hanging_git_does_not_change_the_status() {
    let test = "a_hanging_git_does_not_change_the_status";
    let Some(world) = World::of_bookend(test) else { return };
    world.program("git", "#!/bin/sh\nexec sleep 1000\n");
    fs::create_dir_all(world.path("home/.git")).expect(".git");
    fs::write(world.path("home/.git/HEAD"), "ref: refs/heads/main\n").expect("HEAD");
    run(&world, &["--id", "one"], "true");
    assert_eq!(world.row().ending(), "success/");
    let git = parsed(&world, &["show", "one", "--json"])["task"]["artifacts"][0].clone();
    assert_eq!((&git["branch"], &git["uncommitted"]), (&json!("main"), &Value::Null));
}

#[test]
fn bookend_without_arguments_gives_an_example_or_an_overview() {
    let Some(world) = World::of_bookend("bookend_without_arguments_gives_an_example_or_an_overview") else {
        return;
    };
    let first_steps = stdout_of(&world, &[]);
    let first_run = format!("bookend run --ledger {} -- claude -p 'say hello'", world.ledger().display());
    assert!(first_steps.contains(&first_run), "{first_steps}");
    let default = world.bare(["sh", "-c", "unset XDG_STATE_HOME; exec bookend"]).run().stdout;
    assert!(default.contains("\n  bookend run -- claude -p 'say hello'    run an agent\n"), "{default}");
    run(&world, &["--id", "one"], "exit 3");
    let text = stdout_of(&world, &[]);
    for part in ["Running\nnothing\n", "Ended last\n", "exit 3", "Task audit: 0 findings"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn doctor_names_the_ledger_its_source_and_its_problems() {
    let Some(world) = World::of_bookend("doctor_names_the_ledger_its_source_and_its_problems") else {
        return;
    };
    world.program("claude", "#!/bin/sh\n");
    let point = |name: &str| {
        // The caller's PATH may contain other agents.
        let doctor = world.bare(["bookend", "doctor", "--json"]).env("PATH", world.name("bin")).run();
        let report: Value = serde_json::from_str(&doctor.stdout).expect("JSON");
        let points = report["points"].as_array().expect("points").clone();
        let found =
            points.into_iter().find(|p| p["name"] == name).unwrap_or_else(|| panic!("{name}: {report}"));
        (
            found["health"].as_str().expect("a word").to_owned(),
            found["text"].as_str().expect("text").to_owned(),
        )
    };
    assert!(point("ledger").1.contains("$XDG_STATE_HOME"));
    assert!(point("opening it").1.contains("it does not exist yet"));
    assert_eq!(point("claude"), ("fine".to_owned(), world.name("bin/claude")));
    assert!(point("agents").1.contains("not in PATH: codex, copilot, cursor, "));
    run(&world, &[], "true");
    assert_eq!(point("modes").0, "fine");
    let (health, text) = point("monitor");
    assert_eq!(health, "absent");
    assert!(
        text.starts_with("it does not run: a lost task waits") && text.contains("`bookend monitor --ledger "),
        "{text}"
    );
    let file = world.ledger();
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644)).expect("a mode");
    assert!(point("modes").1.contains("chmod go="));

    fs::write(world.path("broken"), "no database at all").expect("a file");
    let broken = world.name("broken");
    let output = bookend(&world, &["doctor", "--ledger", &broken]).ended(End::Code(1));
    assert!(output.stdout.contains("FAIL") && output.stdout.contains("not an SQLite database"), "{output:?}");
}

#[test]
fn stats_groups_runs_by_the_given_column() {
    let Some(world) = World::of_bookend("stats_groups_runs_by_the_given_column") else { return };
    for (agent, script) in [("dev", "true"), ("dev", "exit 3"), ("ops", "true")] {
        run(&world, &["--agent", agent], script);
    }
    world.write("UPDATE task_history SET cost_usd = 0.25, input_tokens = 1000 WHERE agent = 'dev'");
    let stats = parsed(&world, &["stats", "--by", "agent", "--json"]);
    let (dev, ops) = (&stats["groups"][0], &stats["groups"][1]);
    assert_eq!((&dev["name"], &dev["runs"], &dev["success_rate"]), (&json!("dev"), &json!(2), &json!(0.5)));
    assert_eq!((&dev["cost_usd"], &dev["input_tokens"]), (&json!(0.5), &json!(2000)));
    assert_eq!((&ops["name"], &ops["cost_usd"]), (&json!("ops"), &Value::Null));
    let table = stdout_of(&world, &["stats"]);
    assert!(table.contains("50 %") && table.contains("$0.50") && table.contains("2,000"), "{table}");
    assert_eq!(parsed(&world, &["stats", "--by", "all", "--json"])["groups"][0]["runs"], 3);
    assert_eq!(
        parsed(&world, &["stats", "--by", "day", "--json"])["groups"].as_array().map(Vec::len),
        Some(1)
    );
    assert_eq!(parsed(&world, &["stats", "--since", "2100-01-01", "--json"])["groups"], json!([]));
    bookend(&world, &["stats", "--by", "weather"]).ended(End::Code(2));
}

#[test]
fn timeline_shows_the_tasks_of_its_period() {
    let Some(world) = World::of_bookend("timeline_shows_the_tasks_of_its_period") else { return };
    run(&world, &["--id", "seen", "--key", "<script>alert(1)</script>"], "true");
    run(&world, &["--id", "unseen"], "true");
    run(&world, &["--id", "long-ago"], "true");
    world.write(
        "UPDATE task_history SET finished_at = NULL WHERE id = 'unseen';
         UPDATE task_history SET started_at = '2020-01-01T00:00:00.000Z',
             finished_at = '2020-01-01T00:00:01.000Z', last_seen_at = '2020-01-01T00:00:01.000Z'
         WHERE id = 'long-ago'",
    );
    let text = stdout_of(&world, &["timeline"]);
    assert!(text.lines().any(|l| l.starts_with("<script>alert(1)</script>  sh")), "{text}");
    assert!(text.contains("\n✓ 2 success   ╍ end time unknown   times are UTC\n"), "{text}");
    assert!(stdout_of(&world, &["timeline", "--since", "2019-01-01"]).contains("\n✓ 3 success"));

    stdout_of(&world, &["timeline", "--html", &world.name("page.html")]);
    let page = fs::read_to_string(world.path("page.html")).expect("the page");
    assert!(page.contains("&lt;script&gt;") && !page.contains("<script"), "values are escaped");
    assert!(
        !page.contains("http:") && !page.contains("https:") && page.contains("prefers-color-scheme: dark"),
        "the page loads nothing and has a dark mode"
    );
    assert_eq!(page.matches("class=\"row\"").count(), 2);
}

/// The headings under which `--help` lists commands.
const COMMAND_HEADINGS: [&str; 5] = ["Commands:", "Run:", "Inspect:", "Maintain:", "Set up:"];

/// The commands that a help text lists.
fn commands_in(help: &str) -> impl Iterator<Item = &str> {
    let blocks = help.split("\n\n").filter_map(|block| block.split_once('\n'));
    let lists = blocks.filter(|(heading, _)| COMMAND_HEADINGS.contains(heading));
    let lines = lists.flat_map(|(_, list)| list.lines()).filter(|l| !l.starts_with("   "));
    lines.filter_map(|l| l.split_whitespace().next()).filter(|name| *name != "help")
}

/// Every command as the words after `bookend`, which itself is the first.
fn commands(world: &World) -> Vec<Vec<String>> {
    let mut all = vec![vec![]];
    let mut next = 0;
    while next < all.len() {
        let words: Vec<&str> = all[next].iter().map(String::as_str).chain(["--help"]).collect();
        let help = stdout_of(world, &words);
        let nested: Vec<Vec<String>> =
            commands_in(&help).map(|name| [&all[next][..], &[name.to_owned()]].concat()).collect();
        all.extend(nested);
        next += 1;
    }
    assert!(all.len() > 20, "{all:?}");
    all
}

#[test]
fn every_help_fits_80_columns_and_has_examples() {
    let Some(world) = World::of_bookend("every_help_fits_80_columns_and_has_examples") else {
        return;
    };
    for command in commands(&world) {
        let words = command.iter().map(String::as_str).chain(["--help"]);
        let help = world.bare(["bookend"].into_iter().chain(words)).env("COLUMNS", "80").run();
        let help = help.ended(End::Code(0)).stdout;
        let wide: Vec<&str> = help.lines().filter(|l| l.chars().count() > 80).collect();
        assert!(wide.is_empty(), "{command:?}: {wide:#?}");
        let shows = ["run", "list", "show", "audit", "cancel", "prune", "stats", "timeline"];
        if command.len() == 1 && shows.contains(&command[0].as_str()) {
            assert!(help.contains("\nExamples:\n"), "{command:?}: {help}");
        }
    }
}

#[test]
fn completions_and_man_pages_name_every_command() {
    let Some(world) = World::of_bookend("completions_and_man_pages_name_every_command") else { return };
    let commands = commands(&world);
    for shell in ["bash", "zsh", "fish"] {
        let script = stdout_of(&world, &["completions", shell]);
        assert!(script.contains("__complete"), "{shell}: {script}");
        fs::write(world.path("script"), script).expect("the script");
        if on_path(shell) {
            world.bare([shell, "-n", &world.name("script")]).run().ended(End::Code(0)).silent();
        }
    }
    for command in &commands[1..] {
        let (name, parents) = command.split_last().expect("the name of a command");
        let index = command.len().to_string();
        let line = ["__complete", &index, "bookend"].into_iter();
        let words: Vec<&str> = line.chain(parents.iter().map(String::as_str)).chain([""]).collect();
        let candidates = stdout_of(&world, &words);
        assert!(candidates.lines().any(|l| l.split('\t').next() == Some(name)), "{name}: {candidates}");
    }
    stdout_of(&world, &["man", "--dir", &world.name("man")]);
    for command in &commands {
        let name = std::iter::once("bookend").chain(command.iter().map(String::as_str)).collect::<Vec<_>>();
        let page = fs::read_to_string(world.path("man").join(format!("{}.1", name.join("-"))));
        assert!(page.is_ok_and(|p| p.contains(".SH SYNOPSIS")), "{name:?}");
    }
    assert_eq!(
        stdout_of(&world, &["man", "run"]),
        fs::read_to_string(world.path("man/bookend-run.1")).expect("run")
    );
    bookend(&world, &["man", "nonesuch"]).ended(End::Code(2));
}
