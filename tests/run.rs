//! The steps of a run: the row, the gate, preparation, exec and the hook, each with its failures.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{End, Proc, Row, World, eventually, state};

fn object(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text:?}"))
}

fn has_exited(pid: i32) -> bool {
    matches!(state(pid), None | Some('Z'))
}

#[test]
fn the_row_is_running_with_the_agents_pid_before_the_agent_executes() {
    let Some(world) = World::of_bookend("the_row_is_running_with_the_agents_pid_before_the_agent_executes")
    else {
        return;
    };
    let script =
        "bookend list --json >../list; bookend show \"$BOOKEND_TASK_ID\" --json >../show; echo $$ >../pid";
    let process = world.run_sh(script).options(["--key", "k"]).start();
    let supervisor = process.pid();
    process.wait().ended(End::Code(0)).silent();

    let pid: i64 = fs::read_to_string(world.path("pid")).expect("a pid").trim().parse().expect("a number");
    let listed = object(&world.path("list"));
    assert_eq!(listed["tasks"].as_array().map(Vec::len), Some(1), "{listed:#}");
    assert_eq!(listed["tasks"][0]["status"], "running");
    assert_eq!(listed["tasks"][0]["agent_pid"], pid);
    let shown = &object(&world.path("show"))["task"];
    assert_eq!((&shown["status"], &shown["agent_pid"]), (&"running".into(), &pid.into()));
    assert_eq!(shown["supervisor_pid"], supervisor);
    assert_eq!(shown["key"], "k");

    let row = world.row();
    assert_eq!(shown["id"], row.text("id").as_str());
    assert_eq!(row.ending(), "success/");
    assert_eq!(row.number("agent_pid"), Some(pid), "the row keeps the agent's pid");
}

/// A run whose child waits at the gate while the prepare command runs.
fn at_the_gate(world: &World, agent: &[&str]) -> (Proc, Row) {
    let (mut begun, go) = (world.fifo("begun"), world.name("never"));
    world.fifo("never");
    let prepare = format!("echo begun $$ >{}; read x <{go}", begun.path());
    let process = world.run(agent.iter().copied()).options(["--prepare", &prepare]).own_group().start();
    begun.pid("begun");
    let row = world.row();
    assert_eq!(row.text("status"), "running", "the row precedes the agent");
    (process, row)
}

#[test]
fn killing_the_supervisor_at_the_gate_ends_the_child_before_exec() {
    let Some(world) = World::of_bookend("killing_the_supervisor_at_the_gate_ends_the_child_before_exec")
    else {
        return;
    };
    let effect = world.name("effect");
    let (process, row) = at_the_gate(&world, &["touch", &effect]);
    let agent = row.pid("agent_pid");
    assert!(!has_exited(agent), "the child waits at the gate");
    process.signal(Signal::KILL);
    process.wait().ended(End::Signal(9));
    eventually(world.deadline(), "the exit of the child at the gate", || has_exited(agent));
    assert!(!world.path("effect").exists(), "the agent ran");
}

/// The child also exits when the gate closes, without any signal.
#[test]
fn a_child_that_ignores_the_parent_death_signal_exits_when_the_gate_closes() {
    let Some(world) =
        World::of_bookend("a_child_that_ignores_the_parent_death_signal_exits_when_the_gate_closes")
    else {
        return;
    };
    let effect = world.name("effect");
    let (mut begun, go) = (world.fifo("begun"), world.fifo("go"));
    let prepare = format!("echo begun $$ >{}; read x <{}", begun.path(), go.path());
    let process = world
        .run(["touch", &effect])
        .options(["--prepare", &prepare])
        .with(["ignore=15"])
        .own_group()
        .start();
    begun.pid("begun");
    let agent = world.row().pid("agent_pid");
    process.signal(Signal::KILL);
    process.wait().ended(End::Signal(9));
    eventually(world.deadline(), "the exit of the child at the gate", || has_exited(agent));
    assert!(!world.path("effect").exists(), "the agent ran");
}

/// Runs `touch effect` with options that prevent its execution, and returns the row.
fn assert_agent_does_not_run(world: &World, options: &[&str], end: End, message: &str) -> Row {
    let effect = world.name("effect");
    let output = world.run(["touch", &effect]).options(options.iter().copied()).run().ended(end);
    assert!(output.stderr.contains(message), "{message:?} in {}", output.stderr);
    assert_eq!(output.stdout, "", "stdout belongs to the agent");
    assert!(!world.path("effect").exists(), "the agent ran");
    let row = world.row();
    assert!(row.text("error").contains(message), "{message:?} in {}", row.text("error"));
    assert_ne!(row.text("finished_at"), "");
    assert_eq!(row.text("end_source"), "wait");
    assert_eq!(row.number("exit_code"), None, "the agent never had an exit code");
    row
}

#[test]
fn a_failing_prepare_command_ends_the_task() {
    let Some(world) = World::of_bookend("a_failing_prepare_command_ends_the_task") else { return };
    let prepare = ["--prepare", "echo output; echo no such branch >&2; exit 3"];
    let row = assert_agent_does_not_run(&world, &prepare, End::Code(125), "exit code 3");
    assert_eq!(row.ending(), "failure/prepare");
    assert!(row.text("error").contains("output\nno such branch"), "{}", row.text("error"));
}

#[test]
fn a_killed_prepare_command_ends_the_task() {
    let Some(world) = World::of_bookend("a_killed_prepare_command_ends_the_task") else { return };
    let row = assert_agent_does_not_run(
        &world,
        &["--prepare", "kill -9 $$"],
        End::Code(125),
        "was killed by SIGKILL",
    );
    assert_eq!(row.ending(), "failure/prepare");
}

#[test]
fn a_missing_cwd_ends_the_task() {
    let Some(world) = World::of_bookend("a_missing_cwd_ends_the_task") else { return };
    let missing = world.name("no such folder");
    let row = assert_agent_does_not_run(&world, &["--cwd", &missing], End::Code(125), &missing);
    assert_eq!(row.ending(), "failure/spawn");
}

#[test]
fn a_missing_required_skill_ends_the_task() {
    let Some(world) = World::of_bookend("a_missing_required_skill_ends_the_task") else { return };
    world.claude("touch ../effect");
    let options = ["--require-skill", "deploy"];
    world.run(["claude", "-p", "hi"]).options(options).run().ended(End::Code(125));
    assert_eq!(world.row().ending(), "aborted_no_skill/deploy");
    assert!(!world.path("effect").exists(), "the agent ran");

    let prepare = "mkdir -p .claude/skills/deploy; echo x >.claude/skills/deploy/SKILL.md";
    let options = ["--require-skill", "deploy", "--prepare", prepare];
    world.run(["claude", "-p", "hi"]).options(options).run().ended(End::Code(0));
    assert_eq!(world.rows()[1].ending(), "success/");
}

#[test]
fn the_task_ends_if_no_process_can_be_created() {
    const PROCESSES: i32 = 6;
    let Some((world, mut specs)) = World::unprivileged("the_task_ends_if_no_process_can_be_created") else {
        return;
    };
    specs.push(format!("rlimit={PROCESSES}:0:0"));
    let effect = world.name("home/effect");
    let output = world.run(["touch", &effect]).with(specs).run().ended(End::Code(125));
    assert!(output.stderr.contains("creating a process for the agent"), "{}", output.stderr);
    assert!(!world.path("home/effect").exists(), "the agent ran");
    let row = world.row();
    assert_eq!(row.ending(), "failure/spawn");
    assert!(row.text("error").contains("creating a process for the agent"), "{}", row.text("error"));
    assert_eq!(row.number("agent_pid"), None);
}

#[test]
fn prepare_creates_the_cwd_and_the_program_and_sees_the_task_id() {
    let Some(world) = World::of_bookend("prepare_creates_the_cwd_and_the_program_and_sees_the_task_id")
    else {
        return;
    };
    let tree = world.name("tree");
    let prepare = format!(
        "echo noise; mkdir {tree} && printf '#!/bin/sh\\npwd\\n' >{tree}/made && chmod +x {tree}/made; \
         echo $BOOKEND_TASK_ID >{tree}/task"
    );
    let output = world.run(["./made"]).options(["--cwd", &tree, "--prepare", &prepare]).run();
    let output = output.ended(End::Code(0)).silent();
    let real = fs::canonicalize(&tree).expect("the tree");
    assert_eq!(
        output.stdout,
        format!("{}\n", real.display()),
        "only the agent's output, from that directory"
    );
    let row = world.row();
    assert_eq!(row.ending(), "success/");
    let task = fs::read_to_string(world.path("tree/task")).expect("the task's id");
    assert_eq!(task.trim(), row.text("id"));
}

/// Starts ten orphaned processes that exit with 7.
const ORPHANS: &str = "for n in 1 2 3 4 5 6 7 8 9 10; do probe daemon -- probe exit 7; done";

/// Starts the orphans when `start` receives a line, then writes a line to `made`.
fn orphans(start: &str, made: &str) -> String {
    format!("read x <{start}; {ORPHANS}; echo made >{made}")
}

#[test]
fn orphans_do_not_change_the_exit_code_of_prepare() {
    let Some(world) = World::of_bookend("orphans_do_not_change_the_exit_code_of_prepare") else { return };
    let prepare = format!("{ORPHANS}; exit 3");
    let row = assert_agent_does_not_run(&world, &["--prepare", &prepare], End::Code(125), "exit code 3");
    assert_eq!(row.ending(), "failure/prepare");

    let prepare = format!("{ORPHANS}; exit 0");
    world.run(["probe", "exit", "5"]).options(["--prepare", &prepare]).run().ended(End::Code(5)).silent();
    assert_eq!(world.rows()[1].ending(), "failure/exit");
}

#[test]
fn orphans_do_not_change_the_exit_code_of_a_hook() {
    let Some(world) = World::of_bookend("orphans_do_not_change_the_exit_code_of_a_hook") else { return };
    let names = ["start", "made", "begun", "go"].map(|n| world.name(n));
    let [mut start, mut made, mut begun, mut go] = ["start", "made", "begun", "go"].map(|n| world.fifo(n));
    for code in [3, 0] {
        let agent = format!("{{ {}; }} </dev/null >/dev/null 2>&1 &", orphans(&names[0], &names[1]));
        let hook = format!("echo begun $$ >{}; read x <{}; exit {code}", names[2], names[3]);
        let process = world.run_sh(&agent).options(["--on-finish", &hook]).start();
        begun.pid("begun");
        start.write_line("now");
        assert_eq!(made.line(), "made");
        go.write_line("now");
        let output = process.wait().ended(End::Code(0));
        let row = world.rows().pop().expect("a row");
        assert_eq!(row.ending(), "success/");
        assert_eq!(row.number("delivery_attempts"), Some(1));
        if code == 3 {
            assert!(output.stderr.contains("exit code 3"), "{}", output.stderr);
            assert_eq!(row.text("delivery_status"), "failed");
        } else {
            assert_eq!((output.stderr.as_str(), row.text("delivery_status").as_str()), ("", "delivered"));
            assert_ne!(row.text("delivered_at"), "");
        }
    }
}

#[test]
fn the_hook_reads_the_completed_row() {
    let Some(world) = World::of_bookend("the_hook_reads_the_completed_row") else { return };
    let hook = "cat >../row; echo \"${BOOKEND_TASK_ID-none} $BOOKEND_FINISHED_TASK\" >../ids; echo output";
    let output = world.run(["probe", "exit", "7"]).options(["--on-finish", hook]).run();
    let output = output.ended(End::Code(7));
    assert_eq!(output.stdout, "", "the hook does not write to the agent's stdout");
    let row = world.row();
    let read = object(&world.path("row"));
    assert_eq!((&read["status"], &read["exit_code"]), (&"failure".into(), &7.into()));
    assert_eq!(read["id"], row.text("id").as_str());
    let ids = fs::read_to_string(world.path("ids")).expect("the ids");
    assert_eq!(ids, format!("none {}\n", row.text("id")));
    assert_eq!(row.text("delivery_status"), "delivered");
}

#[test]
fn the_hook_runs_if_the_agent_was_not_started() {
    let Some(world) = World::of_bookend("the_hook_runs_if_the_agent_was_not_started") else { return };
    for (n, options) in [&["--prepare", "exit 1"][..], &["--cwd", "/no/such/folder"]].into_iter().enumerate()
    {
        let words = options.iter().copied().chain(["--on-finish", "cat >../row"]);
        world.run(["true"]).options(words).run().ended(End::Code(125));
        assert_eq!(object(&world.path("row"))["status"], "failure");
        assert_eq!(world.rows()[n].text("delivery_status"), "delivered");
    }
}

/// Regression: the end of a task once inserted a second row.
#[test]
fn a_success_updates_its_row_and_inserts_no_second_row() {
    let Some(world) = World::of_bookend("a_success_updates_its_row_and_inserts_no_second_row") else {
        return;
    };
    world.run(["false"]).run().ended(End::Code(1));
    world
        .change(
            "CREATE TABLE seen (what TEXT, task TEXT, was INTEGER);
             CREATE TRIGGER seen_insert AFTER INSERT ON task_history
             BEGIN INSERT INTO seen VALUES ('insert', NEW.id, NEW.rowid); END;
             CREATE TRIGGER seen_delete AFTER DELETE ON task_history
             BEGIN INSERT INTO seen VALUES ('delete', OLD.id, OLD.rowid); END;
             CREATE TRIGGER seen_update AFTER UPDATE OF status ON task_history
             BEGIN INSERT INTO seen VALUES (OLD.status || '>' || NEW.status, NEW.id, NEW.rowid); END;",
        )
        .expect("triggers");
    world.run(["true"]).options(["--id", "one", "--key", "k"]).run().ended(End::Code(0)).silent();
    let seen: Vec<(String, String, Option<i64>)> = world
        .sql("SELECT * FROM seen ORDER BY rowid")
        .iter()
        .map(|r| (r.text("what"), r.text("task"), r.number("was")))
        .collect();
    let expected = ["insert", "running>success"].map(|what| (what.to_owned(), "one".to_owned(), Some(2)));
    assert_eq!(seen, expected);
    assert_eq!(world.rows().len(), 2);

    let moves = world.sql("SELECT * FROM task_transition WHERE task_id = 'one' ORDER BY n");
    let moves: Vec<_> = moves.iter().map(|m| (m.text("from_status"), m.text("to_status"))).collect();
    assert_eq!(moves, [("", "running"), ("running", "success")].map(|(a, b)| (a.into(), b.into())));
}

#[cfg(feature = "failpoints")]
#[test]
fn a_panic_before_the_gate_opens_ends_the_task_without_exec() {
    let Some(world) = World::of_bookend("a_panic_before_the_gate_opens_ends_the_task_without_exec") else {
        return;
    };
    let effect = world.name("effect");
    let panics = world.run(["touch", &effect]).env("BOOKEND_FAILPOINT", "run.ready:panic").run();
    panics.ended(End::Code(125));
    assert!(!world.path("effect").exists(), "the agent ran");
    let row = world.row();
    assert_eq!(row.ending(), "failure/spawn");
    assert!(row.text("error").contains("bookend failed"), "{}", row.text("error"));
}

#[test]
fn a_used_id_is_refused() {
    let Some(world) = World::of_bookend("a_used_id_is_refused") else { return };
    world.run(["true"]).options(["--id", "mine"]).run().ended(End::Code(0));
    let output = world.run_sh("touch ../effect").options(["--id", "mine"]).run().ended(End::Code(2));
    assert!(output.stderr.contains("mine"), "{}", output.stderr);
    assert!(!world.path("effect").exists(), "the agent ran");
    assert_eq!(world.row().ending(), "success/");
}

#[test]
fn the_row_records_the_options_and_the_command() {
    let Some(world) = World::of_bookend("the_row_records_the_options_and_the_command") else { return };
    let options = [
        "--repo",
        "charles/claude-hooks",
        "--issue",
        "#1104",
        "--user",
        "charles",
        "--agent",
        "dev",
        "--model",
        "m",
        "--provider",
        "p",
    ];
    world.run(["sh", "-c", "exit 0", "a b"]).options(options).run().ended(End::Code(0)).silent();
    let row = world.row();
    let recorded = ["key", "repo", "issue_number", "user", "agent", "agent_type", "model", "provider"];
    let recorded = recorded.map(|column| row.text(column));
    let expected = [
        "forgejo:dev:charles/claude-hooks:1104",
        "charles/claude-hooks",
        "1104",
        "charles",
        "dev",
        "command",
        "m",
        "p",
    ];
    assert_eq!(recorded, expected);
    assert_eq!(row.json("argv"), serde_json::json!(["sh", "-c", "exit 0", "a b"]));
    assert_eq!(row.json("user_argv"), row.json("argv"));
    assert_eq!(row.text("cwd"), world.name("home"));
    assert!(row.number("duration_ms").is_some_and(|ms| ms >= 0));
    assert!(row.number("max_rss_kib").is_some_and(|kib| kib > 0));
    for column in ["cost_usd", "turns", "input_tokens", "output_tokens"] {
        assert_eq!(row.text(column), "", "{column} is unknown, not 0");
    }
    for column in ["started_at", "finished_at"] {
        let at = row.text(column);
        assert!(at.len() == 24 && at.ends_with('Z') && at.contains('T'), "{column}: {at}");
    }
}

#[test]
fn a_nested_run_records_its_parent_and_ignores_the_parents_options() {
    let Some(world) = World::of_bookend("a_nested_run_records_its_parent_and_ignores_the_parents_options")
    else {
        return;
    };
    world
        .run_sh("bookend run -- true")
        .env("BOOKEND_KEY", "outer")
        .env("BOOKEND_AGENT", "dev")
        .run()
        .ended(End::Code(0))
        .silent();
    let rows = world.rows();
    assert_eq!(rows.len(), 2);
    assert_eq!((rows[0].text("key"), rows[0].text("parent_id")), ("outer".into(), String::new()));
    assert_eq!((rows[1].text("key"), rows[1].text("agent")), (String::new(), "true".into()));
    assert_eq!(rows[1].text("parent_id"), rows[0].text("id"));
}

#[test]
fn the_prompt_is_hidden_from_the_journal_under_any_program_name() {
    let Some(world) = World::of_bookend("the_prompt_is_hidden_from_the_journal_under_any_program_name")
    else {
        return;
    };
    // The kernel keeps 15 bytes of a process name, which splits the last character of this one.
    let name = "bookend-is-heré";
    symlink(world.path("bin/bookend"), world.path("bin").join(name)).expect("another name for bookend");
    let (mut up, mut go) = (world.fifo("up"), world.fifo("go"));
    let script = format!("echo up >{}; read x <{}", up.path(), go.path());
    let run = world.bare([name, "--log", "journald", "run", "--", "sh", "-c", &script, "the-prompt"]).start();
    up.line();
    let seen = fs::read(format!("/proc/{}/cmdline", run.pid())).expect("its command line");
    assert!(seen.starts_with(format!("{name}\0--log\0journald\0run\0--\0sh\0").as_bytes()));
    assert!(!seen.windows(10).any(|w| w == b"the-prompt"), "{}", seen.escape_ascii());
    go.write_line("on");
    run.wait().ended(End::Code(0));
    assert_eq!(world.row().json("argv")[3], "the-prompt");
}
