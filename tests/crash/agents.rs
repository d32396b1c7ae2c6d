//! The stand-in agents of the crash tests. Each records that it executed and what the ledger contained at
//! that moment. The last word of its command line selects its behaviour.

use crate::harness::{Proc, World};

/// `id pid resumed` for each agent that executed.
pub const MARKS: &str = "marks";
/// What `bookend show` printed about the agent's own task, by task.
pub const SEEN: &str = "seen";
/// The ids of tasks whose `--on-finish` command has run.
pub const DELIVERED: &str = "delivered";

/// An agent that prints rounds of events exits when this file exists.
pub const OVER: &str = "over";

/// The last word is `HOW`, or `HOW,N`: sleep for N seconds first, or print N rounds of events.
const SCRIPT: &str = r#"#!/bin/sh
unset BOOKEND_FAILPOINT BOOKEND_FAILPOINT_TRACE
resumed=- session=s-$BOOKEND_TASK_ID
while [ $# -gt 1 ]; do
  case $1 in
    --resume) resumed=$2 session=$2; shift ;;
    --resume=*) resumed=${1#--resume=} session=$resumed ;;
    --session-id) session=$2; shift ;;
  esac
  shift
done
name=${0##*/} how=${1%,*} n=${1#*,}
[ "$how" != stubborn ] || trap '' TERM
echo "$BOOKEND_TASK_ID $$ $resumed" >>"$HOME/../marks"
if [ "$name" = claude ]; then
  mkdir -p "$HOME/.claude/projects/all"
  echo '{}' >"$HOME/.claude/projects/all/$session.jsonl"
fi
if [ "$name" != agent ]; then
  echo '{"type":"system","subtype":"init","session_id":"'$session'","model":"m"}'
fi
bookend show "$BOOKEND_TASK_ID" --json >"$HOME/../seen/$BOOKEND_TASK_ID" 2>&1 ||
  echo missing >>"$HOME/../seen/$BOOKEND_TASK_ID"
case $1 in
  talk,*) probe talk "$HOME/../talk" "$session" 10 "$n" "$HOME/../over" ;;
  bulk,*) probe talk "$HOME/../bulk" "$session" 100 "$n" "$HOME/../over" ;;
  nest,*)
    # An agent whose output bookend captures does not print the output of its tools.
    [ "$name" = agent ] || exec 3>&1 >/dev/null
    bookend run --id "$BOOKEND_TASK_ID.in" -- claude -p --output-format stream-json "talk,$n" 3>&- || exit
    [ "$name" = agent ] || exec >&3 3>&-
    ;;
  *,*) sleep "$n" ;;
esac
case $how in
  hang | stubborn) sleep 1000 ;;
  fail) setsid sleep 1000 >/dev/null 2>&1 & exit 3 ;;
  die) ulimit -c 0; exec probe die 11 ;;
  nap) sleep 0.1 ;;
esac
if [ "$name" != agent ]; then
  echo '{"type":"result","subtype":"success","is_error":false,"session_id":"'$session'","result":"done"}'
fi
"#;

/// One round of events: a tool's call and result as Claude Code prints them, then as Cursor does.
const ROUND: [&str; 4] = [
    concat!(
        r#"{"type":"assistant","message":{"id":"msg_@","role":"assistant","model":"m","content":[{"#,
        r#""type":"tool_use","id":"call_@","name":"Bash","input":{}}],"#,
        r#""usage":{"input_tokens":3,"output_tokens":2}},"session_id":"$"}"#,
    ),
    concat!(
        r#"{"type":"user","message":{"role":"user","content":[{"type":"tool_result","#,
        r#""tool_use_id":"call_@","content":"BULK"}]},"session_id":"$"}"#,
    ),
    concat!(
        r#"{"type":"tool_call","subtype":"started","call_id":"@","#,
        r#""tool_call":{"shellToolCall":{}},"session_id":"$"}"#,
    ),
    concat!(
        r#"{"type":"tool_call","subtype":"completed","call_id":"@","#,
        r#""tool_call":{"shellToolCall":{"result":"BULK"}},"session_id":"$"}"#,
    ),
];

/// The `--on-finish` command, which records the id of its task.
pub const ON_FINISH: &str = "cat >/dev/null; echo \"$BOOKEND_FINISHED_TASK\" >>\"$HOME/../delivered\"";

/// The file to which the `--on-interrupted` command appends the id of each task.
pub const HANDED_ON: &str = "handed";
pub const ON_INTERRUPTED: &str = "cat >/dev/null; echo \"$BOOKEND_FINISHED_TASK\" >>\"$HOME/../handed\"";

/// A world with the agents `agent`, `cursor-agent` and `claude`.
pub fn world(test: &str) -> Option<World> {
    let world = World::of_bookend(test)?;
    for name in ["agent", "cursor-agent", "claude"] {
        world.program(name, SCRIPT);
    }
    for (name, bytes) in [("talk", 4_000), ("bulk", 400_000)] {
        let text = ROUND.join("\n").replace("BULK", &"x".repeat(bytes));
        std::fs::write(world.path(name), text).expect("the events to print");
    }
    std::fs::create_dir(world.path(SEEN)).expect("a directory");
    Some(world)
}

/// A process with a task mark that belongs to no task, so bookend must leave it alone.
pub fn bystander(world: &World) -> Proc {
    world.bare(["sleep", "100000"]).env("BOOKEND_TASK_ID", "0").start()
}

/// The command line of `cursor-agent`, whose output bookend captures.
pub fn cursor(how: &str) -> [&str; 5] {
    ["cursor-agent", "-p", "--output-format", "stream-json", how]
}

/// The command line of `claude`, whose output bookend captures.
pub fn claude(how: &str) -> [&str; 6] {
    ["claude", "-p", "--output-format", "stream-json", "--verbose", how]
}

/// The lines of a file of the world. Empty if the file does not exist.
pub fn lines(world: &World, name: &str) -> Vec<String> {
    let text = std::fs::read_to_string(world.path(name)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}
