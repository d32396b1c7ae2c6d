//! The agents of crash and storm: each leaves a mark of having been executed, and what the ledger said of it
//! at that moment; the last word of its command line says how it behaves.

use crate::harness::{Proc, World};

/// `id pid resumed` for each agent that executed.
pub const MARKS: &str = "marks";
/// What `bookend show` told the agent of itself, by task.
pub const SEEN: &str = "seen";
/// The ids of tasks whose `--on-finish` command has run.
pub const DELIVERED: &str = "delivered";

const SCRIPT: &str = r#"#!/bin/sh
unset BOOKEND_FAILPOINT BOOKEND_FAILPOINT_TRACE
resumed=-
while [ $# -gt 1 ]; do
  case $1 in
    --resume) resumed=$2; shift ;;
    --resume=*) resumed=${1#--resume=} ;;
  esac
  shift
done
[ "$1" != stubborn ] || trap '' TERM
echo "$BOOKEND_TASK_ID $$ $resumed" >>"$HOME/../marks"
session=$resumed
[ "$session" != - ] || session=s-$BOOKEND_TASK_ID
if [ "${0##*/}" = cursor-agent ]; then
  echo '{"type":"system","subtype":"init","session_id":"'$session'","model":"m"}'
fi
bookend show "$BOOKEND_TASK_ID" --json >"$HOME/../seen/$BOOKEND_TASK_ID" 2>&1 ||
  echo missing >>"$HOME/../seen/$BOOKEND_TASK_ID"
case $1 in
  hang | stubborn) sleep 1000 ;;
  fail) setsid sleep 1000 >/dev/null 2>&1 & exit 3 ;;
  nap) sleep 0.1 ;;
esac
if [ "${0##*/}" = cursor-agent ]; then
  echo '{"type":"result","subtype":"success","is_error":false,"session_id":"'$session'","result":"done"}'
fi
"#;

/// The `--on-finish` command that notes for whom it ran.
pub const ON_FINISH: &str = "cat >/dev/null; echo \"$BOOKEND_FINISHED_TASK\" >>\"$HOME/../delivered\"";

/// A world with the agents `agent` and `cursor-agent` in it.
pub fn world(test: &str) -> Option<World> {
    let world = World::of_bookend(test)?;
    world.program("agent", SCRIPT);
    world.program("cursor-agent", SCRIPT);
    std::fs::create_dir(world.path(SEEN)).expect("a directory");
    Some(world)
}

/// A process beside, which has a mark of its own and is nobody's left-over.
pub fn bystander(world: &World) -> Proc {
    world.bare(["sleep", "100000"]).env("BOOKEND_TASK_ID", "0").start()
}

/// The command line of `cursor-agent`, whose output is read along.
pub fn cursor(how: &str) -> [&str; 5] {
    ["cursor-agent", "-p", "--output-format", "stream-json", how]
}

/// The lines of a file of the world; none if there is no such file.
pub fn lines(world: &World, name: &str) -> Vec<String> {
    let text = std::fs::read_to_string(world.path(name)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}
