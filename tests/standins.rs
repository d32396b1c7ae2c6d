//! Stand-ins for agents with conversations, and the steps of recovery tests that use them.

use rusqlite::Connection;
use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Cmd, End, Fifo, Output, Proc, World, eventually, state};

pub const KEY: &str = "forgejo:dev:charles/claude-hooks:1104";

/// `$DO` selects how both end: `stay` writes the pid to `$SAY` in the middle of a tool call and keeps
/// running; `fail` ends with an error; anything else ends with success. They read `$GO` before they end.
const CLAUDE: &str = r#"#!/bin/sh
while [ $# -gt 0 ]; do
    case $1 in --session-id | --resume) id=$2; shift ;; esac
    shift
done
folder=$HOME/.claude/projects/$(pwd -P | sed 's/[^A-Za-z0-9]/-/g')
mkdir -p "$folder" && echo '{}' >>"$folder/$id.jsonl"
say() { echo "{\"session_id\":\"$id\",$1}"; }
say '"type":"system","subtype":"init","model":"opus"'
if [ "$DO" = stay ]; then
    say '"type":"assistant","message":{"id":"m1","model":"opus","content":[{"type":"tool_use","id":"t1",
"name":"Bash","input":{}}],"usage":{"input_tokens":100,"output_tokens":20}}' | tr -d '\n'; echo
    echo "ready $$" >"$SAY"
    exec sleep 1000
fi
[ -z "$GO" ] || read line <"$GO"
if [ "$DO" = fail ]; then
    say '"type":"result","subtype":"error_during_execution","is_error":true,"errors":["no"],"num_turns":1'
    exit 1
fi
say '"type":"result","subtype":"success","is_error":false,"result":"done","num_turns":1,"total_cost_usd":0.5'
"#;

/// It accepts no id for a new conversation. With `$FORGET` it does not know the one to resume.
const CURSOR: &str = r#"#!/bin/sh
while [ $# -gt 0 ]; do
    case $1 in --resume) id=$2; shift ;; esac
    shift
done
[ -n "$id" ] && [ -z "$FORGET" ] || id=$(cat /proc/sys/kernel/random/uuid)
say() { echo "{\"session_id\":\"$id\",$1}"; }
say '"type":"system","subtype":"init","model":"Composer 2"'
if [ "$DO" = stay ]; then
    say '"type":"tool_call","subtype":"started","call_id":"t1","tool_call":{"shellToolCall":{"args":{}}}'
    echo "ready $$" >"$SAY"
    exec sleep 1000
fi
[ -z "$GO" ] || read line <"$GO"
[ "$DO" != fail ] || { echo broken >&2; exit 1; }
say '"type":"result","subtype":"success","is_error":false,"result":"done"'
"#;

pub fn install(world: &World) {
    world.program("claude", CLAUDE);
    world.program("cursor-agent", CURSOR);
}

/// `bookend run --key KEY -- PROGRAM -p go …` with captured events.
pub fn dispatch<'w>(world: &'w World, program: &str) -> Cmd<'w> {
    let mut argv = vec![program, "-p", "go", "--output-format", "stream-json"];
    if program == "claude" {
        argv.push("--verbose");
    }
    world.run(argv).options(["--key", KEY])
}

/// A run that is in the middle of a tool call.
pub struct Busy<'w> {
    pub world: &'w World,
    pub supervisor: Proc,
    pub agent: i32,
}

impl<'w> Busy<'w> {
    /// `command` starts an agent that writes `ready PID` to the pipe `$SAY`.
    pub fn start(world: &'w World, name: &str, command: impl FnOnce(&Fifo) -> Cmd<'w>) -> Busy<'w> {
        let mut say = world.fifo(name);
        let supervisor = command(&say).env("DO", "stay").env("SAY", say.path()).start();
        let agent = say.pid("ready");
        Busy { world, supervisor, agent }
    }

    pub fn of(world: &'w World, program: &str) -> Busy<'w> {
        Busy::start(world, "say", |_| dispatch(world, program))
    }

    /// Runs `sleep` with an id, without a key.
    pub fn sleep(world: &'w World, id: &str) -> Busy<'w> {
        let script = "echo ready $$ >$SAY; exec sleep 1000";
        Busy::start(world, &format!("say.{id}"), |_| world.run_sh(script).options(["--id", id]))
    }

    /// Runs an agent that ignores SIGTERM, with an id that is its key too.
    pub fn stubborn(world: &'w World, id: &str) -> Busy<'w> {
        let script = "trap '' TERM; echo ready $$ >$SAY; while :; do sleep 1000; done";
        let options = ["--id", id, "--key", id];
        Busy::start(world, &format!("say.{id}"), |_| world.run_sh(script).options(options))
    }

    /// Kills the supervisor and its agent, and waits until both are gone.
    pub fn kill_all(self) {
        let (world, agent) = (self.world, self.agent);
        self.supervisor.signal(Signal::KILL);
        self.supervisor.wait();
        // It may have exited by then: its parent-death signal is SIGTERM.
        world.bare(["probe", "send", &agent.to_string(), "9"]).run();
        gone(world, agent);
    }

    /// Kills the supervisor only.
    pub fn kill_supervisor(self) {
        self.supervisor.signal(Signal::KILL);
        self.supervisor.wait();
    }
}

/// A run that has failed, and the pid of a process that its agent left. It ignores SIGTERM, and the grace of
/// the supervisor is long.
pub fn in_its_grace(world: &World, id: &str) -> (Proc, i32) {
    let (mut out, mut go) = (world.fifo("out"), world.fifo("go"));
    let daemon = format!("probe daemon -- probe with setsid ignore=15 -- probe stay {}", out.path());
    let script = format!("{daemon}; read x <{}; exit 3", go.path());
    let run = world.run_sh(&script).options(["--id", id, "--grace", "1000s"]).start();
    let leftover = out.pid("stay");
    go.write_line("now");
    let has_ended = || world.rows().first().is_some_and(|row| row.ending() == "failure/exit");
    eventually(world.deadline(), "the end in the ledger", has_ended);
    (run, leftover)
}

pub fn gone(world: &World, pid: i32) {
    eventually(world.deadline(), &format!("the end of {pid}"), || matches!(state(pid), None | Some('Z')));
}

pub fn bookend(world: &World, words: &[&str]) -> Output {
    world.bare(["bookend"].iter().chain(words).copied()).run()
}

/// Runs `bookend recover`, which must settle every task.
pub fn recover(world: &World, options: &[&str]) -> String {
    let words: Vec<&str> = ["recover"].iter().chain(options).copied().collect();
    bookend(world, &words).ended(End::Code(0)).silent().stdout
}

/// The output of `bookend … --json`.
pub fn json(world: &World, words: &[&str]) -> Value {
    let output = bookend(world, words);
    serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
}

/// Changes the ledger as another program would.
pub fn change(world: &World, sql: &str) {
    let ledger = Connection::open(world.ledger()).expect("the ledger");
    ledger.busy_timeout(std::time::Duration::from_secs(10)).expect("a busy timeout");
    ledger.execute_batch(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
}

/// The session that the key resumes, and the last task that used it.
pub fn linked(world: &World) -> Option<(String, String)> {
    let rows = world.sql("SELECT session_id, task_id FROM claude_sdk_sessions");
    rows.first().map(|r| (r.text("session_id"), r.text("task_id")))
}
