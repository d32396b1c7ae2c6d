//! An orchestrator with its own task table starts agents through bookend and survives a restart.

use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Cmd, End, Fifo, World, eventually, on_path, possible};
use crate::standins::{self, gone};

const KEY: &str = "forgejo:dev:charles/claude-hooks:1104";

/// The stand-in dispatcher with its database, which bookend has adopted.
struct Dispatcher {
    world: World,
    file: PathBuf,
}

impl Dispatcher {
    /// `None` where there is no Python to run it.
    fn adopted(test: &str) -> Option<Dispatcher> {
        if !possible(test, on_path("python3"), "python3") {
            return None;
        }
        let world = World::of_bookend(test)?;
        standins::install(&world);
        // Each stand-in first records its argv for the test.
        let claude = std::fs::read_to_string(world.path("bin/claude")).expect("the stand-in");
        let recording = claude.replacen("#!/bin/sh\n", "#!/bin/sh\necho \"$*\" >>\"$HOME/argv\"\n", 1);
        world.program("claude", &recording);
        let file = world.path("dispatcher.db");
        let dispatcher = Dispatcher { world, file };
        dispatcher.succeeds(&["init"]);
        let adopt = ["bookend", "adopt", &dispatcher.name()];
        dispatcher.world.bare(adopt).run().ended(End::Code(0)).silent();
        Some(dispatcher)
    }

    fn name(&self) -> String {
        self.file.to_str().expect("UTF-8").to_owned()
    }

    fn command(&self, words: &[&str]) -> Cmd<'_> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/agents/dispatcher.py");
        let script = script.to_str().expect("UTF-8").to_owned();
        let head = ["python3".to_owned(), script, self.name()];
        self.world.bare(head.into_iter().chain(words.iter().map(|w| (*w).to_owned())))
    }

    /// Runs the dispatcher and returns its stdout, which is that of its bookend commands.
    fn succeeds(&self, words: &[&str]) -> String {
        let output = self.command(words).run();
        assert_eq!(output.end, End::Code(0), "{words:?}: {output:?}");
        output.stdout
    }

    fn strings(&self, sql: &str) -> Vec<String> {
        let ledger = Connection::open(&self.file).expect("the database");
        let mut statement = ledger.prepare(sql).expect("a query");
        let rows = statement.query_map([], |row| row.get(0)).expect("rows");
        rows.collect::<rusqlite::Result<_>>().expect("texts")
    }

    fn queue(&self) -> Vec<String> {
        self.strings("SELECT state FROM queue ORDER BY n")
    }

    /// The argv of each agent in the order of the starts.
    fn started(&self) -> Vec<String> {
        let argv = std::fs::read_to_string(self.world.path("home/argv")).expect("the argv of the agents");
        argv.lines().map(str::to_owned).collect()
    }
}

/// Kills the dispatcher, the supervisor and the agent with SIGKILL during a tool call.
fn restart(dispatcher: &Dispatcher) {
    let world = &dispatcher.world;
    let mut say: Fifo = world.fifo("say");
    let running = dispatcher.command(&["work"]).env("DO", "stay").env("SAY", say.path()).start();
    let agent = say.pid("ready");
    let running_with = |condition: &str| {
        let select = "SELECT CAST(supervisor_pid AS TEXT) FROM task_history WHERE status = 'running'";
        dispatcher.strings(&format!("{select} AND {condition}"))
    };
    // The supervisor commits an event shortly after it has read it.
    eventually(world.deadline(), "the tool call in the row", || {
        !running_with("tool_in_flight = 'Bash'").is_empty()
    });
    let supervisor = running_with("TRUE");
    let supervisor: i32 = supervisor[0].parse().expect("a pid");
    running.signal(Signal::KILL);
    running.wait();
    for pid in [supervisor, agent] {
        world.bare(["probe", "send", &pid.to_string(), "9"]).run();
        gone(world, pid);
    }
}

#[test]
fn a_dispatcher_survives_a_restart_and_resumes_no_interrupted_conversation() {
    let test = "a_dispatcher_survives_a_restart_and_resumes_no_interrupted_conversation";
    let Some(dispatcher) = Dispatcher::adopted(test) else { return };

    // Two runs that succeed: the second resumes the conversation of the first.
    dispatcher.succeeds(&["add", "1104", "look at the logs"]);
    dispatcher.succeeds(&["add", "1104", "fix what you found"]);
    dispatcher.succeeds(&["work"]);
    assert_eq!(dispatcher.queue(), ["success", "success"]);
    let session = &dispatcher.strings("SELECT session_id FROM claude_sdk_sessions")[0];
    assert!(dispatcher.started()[1].contains(&format!("--resume {session}")), "{:?}", dispatcher.started());

    // The restart interrupts the third run, which resumes the conversation, too.
    dispatcher.succeeds(&["add", "1104", "write a test"]);
    restart(&dispatcher);
    assert_eq!(dispatcher.queue(), ["success", "success", "dispatched"]);
    assert_eq!(
        dispatcher.strings("SELECT status FROM task_history ORDER BY rowid DESC LIMIT 1"),
        ["running"]
    );

    // The dispatcher starts again.
    let printed = dispatcher.succeeds(&["work"]);
    assert_eq!(dispatcher.queue(), ["success", "success", "success"]);
    let started = dispatcher.started();
    assert!(started[2].contains(&format!("--resume {session}")), "{started:?}");
    assert!(!started[3].contains("--resume") && !started[3].contains(session), "{started:?}");
    assert!(printed.lines().any(|l| l.starts_with("[recovery]") && l.contains(KEY)), "{printed}");
    nothing_is_lost(&dispatcher, session);
}

/// Every task has its row, and the row of the killed task contains everything known about it.
fn nothing_is_lost(dispatcher: &Dispatcher, session: &str) {
    assert_eq!(
        dispatcher.strings("SELECT status FROM task_history ORDER BY started_at, rowid"),
        ["success", "failure", "success", "success", "interrupted", "success"]
    );
    let lost = "
        SELECT json_array(key, session_id, tool_in_flight, reason, finished_at IS NULL)
        FROM task_history WHERE status = 'interrupted'";
    let lost: Value = serde_json::from_str(&dispatcher.strings(lost)[0]).expect("JSON");
    assert_eq!(lost, serde_json::json!([KEY, session, "Bash", "supervisor_lost", 1]));
    let invalid = dispatcher.strings("SELECT session_id FROM session_invalidation WHERE restored_at IS NULL");
    assert_eq!(invalid, [session]);
    assert_eq!(dispatcher.strings("PRAGMA integrity_check"), ["ok"]);
    let audit =
        standins::bookend(&dispatcher.world, &["--ledger", &dispatcher.name(), "audit", "--fail-on", "warn"]);
    assert_eq!(audit.end, End::Code(0), "{audit:?}");
}

#[test]
fn a_monitor_beside_the_dispatcher_puts_a_lost_task_back_into_the_queue() {
    let test = "a_monitor_beside_the_dispatcher_puts_a_lost_task_back_into_the_queue";
    let Some(dispatcher) = Dispatcher::adopted(test) else { return };
    let world = &dispatcher.world;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/agents/dispatcher.py");
    let put_back =
        format!("python3 '{}' '{}' queue_again_what_was_interrupted", script.display(), dispatcher.name());
    let monitor = ["bookend", "--ledger", &dispatcher.name(), "monitor", "--on-interrupted", &put_back];
    let monitor = world.bare(monitor).start();
    dispatcher.succeeds(&["add", "1104", "write a test"]);
    restart(&dispatcher);
    eventually(world.deadline(), "the task in the queue", || dispatcher.queue() == ["queued"]);
    monitor.signal(Signal::TERM);
    let output = monitor.wait().ended(End::Signal(15));
    assert!(output.stdout.lines().any(|l| l.starts_with("[recovery]") && l.contains(KEY)), "{output:?}");
}

#[test]
fn a_dispatcher_sees_by_exit_code_75_that_the_key_is_held() {
    let test = "a_dispatcher_sees_by_exit_code_75_that_the_key_is_held";
    let Some(dispatcher) = Dispatcher::adopted(test) else { return };
    let world = &dispatcher.world;
    let mut say = world.fifo("say");
    let name = dispatcher.name();
    let claude = ["claude", "-p", "go", "--output-format", "stream-json", "--verbose"];
    let words = [&["bookend", "--ledger", &name, "run", "--key", KEY, "--"][..], &claude].concat();
    let holder = world.bare(words).env("DO", "stay").env("SAY", say.path()).start();
    say.pid("ready");
    dispatcher.succeeds(&["add", "1104", "at the same time"]);
    dispatcher.succeeds(&["work"]);
    assert_eq!(dispatcher.queue(), ["busy"]);
    assert_eq!(dispatcher.started().len(), 1, "nothing was executed");
    holder.signal(Signal::TERM);
    holder.wait();
}

#[test]
fn a_dispatcher_may_change_its_own_rows_but_not_how_a_run_ended() {
    let test = "a_dispatcher_may_change_its_own_rows_but_not_how_a_run_ended";
    let Some(dispatcher) = Dispatcher::adopted(test) else { return };
    let name = dispatcher.name();
    let insert =
        "INSERT INTO task_history (id, repo, issue_number, agent, status, started_at, finished_at, turns)
        VALUES ('own', 'charles/claude-hooks', 7, 'dev', 'success', '2026-01-03T00:00:00+00:00',
                '2026-01-03T00:01:00+00:00', 2)";
    let theirs = Connection::open(&dispatcher.file).expect("the database");
    theirs.execute(insert, []).expect("their own INSERT");
    let shown = standins::json(&dispatcher.world, &["--ledger", &name, "show", "own", "--json"]);
    assert_eq!(shown["task"]["status"], "success");
    let changed = theirs.execute("UPDATE task_history SET status = 'failure' WHERE id = 'own'", []);
    assert_eq!(changed.expect("their own row"), 1);

    let run = ["bookend", "--ledger", &name, "run", "--id", "ours", "--", "true"];
    dispatcher.world.bare(run).run().ended(End::Code(0)).silent();
    let refused = theirs.execute("UPDATE task_history SET status = 'failure' WHERE id = 'ours'", []);
    assert!(refused.is_err(), "{refused:?}");
    assert_eq!(dispatcher.strings("SELECT status FROM task_history WHERE id = 'ours'"), ["success"]);
}
