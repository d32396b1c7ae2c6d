//! The environment of the processes that bookend starts: the caller's, without the variables that configure
//! bookend.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;

use crate::process::cgroup;
use crate::sys;

/// The mark: the processes of a task carry its id in their environment under this name.
pub const MARK: &str = "BOOKEND_TASK_ID";
/// A hook carries the id of its task under this name, so that it is not a leftover of the task.
pub const FINISHED: &str = "BOOKEND_FINISHED_TASK";
/// What a hook learns about the task that has ended, besides its id. None of them sets an option: a run that
/// a hook starts does not take over the task's key.
pub const FINISHED_FACTS: [&str; 9] = [
    "BOOKEND_FINISHED_STATUS",
    "BOOKEND_FINISHED_REASON",
    "BOOKEND_FINISHED_KEY",
    "BOOKEND_FINISHED_REPO",
    "BOOKEND_FINISHED_ISSUE",
    "BOOKEND_FINISHED_AGENT",
    "BOOKEND_FINISHED_COST_USD",
    "BOOKEND_FINISHED_DURATION_MS",
    "BOOKEND_FINISHED_SESSION_ID",
];
pub const LEDGER: &str = "BOOKEND_LEDGER";
/// The sweep spares a process that has this in its environment with the value 1, true or yes: a daemon that
/// serves more than the task. bookend does not pass its own on, or it would spare every process.
pub const DETACHED: &str = "BOOKEND_DETACHED";
/// The number of the attempt to run a hook for its task: more than 1 if an earlier one was interrupted.
pub const ATTEMPT: &str = "BOOKEND_DELIVERY_ATTEMPT";

/// The variables that set options of bookend. Agents and hooks do not inherit them, or a nested run would use
/// the outer run's key.
pub const OPTION_VARIABLES: [&str; 37] = [
    "BOOKEND_KEY",
    "BOOKEND_REPO",
    "BOOKEND_ISSUE",
    "BOOKEND_USER",
    "BOOKEND_AGENT",
    "BOOKEND_AGENT_TYPE",
    "BOOKEND_MODEL",
    "BOOKEND_PROVIDER",
    "BOOKEND_CWD",
    "BOOKEND_PREPARE",
    "BOOKEND_FLEET_TIMEOUT",
    "BOOKEND_FORGE",
    "BOOKEND_REQUIRE_SKILL",
    "BOOKEND_TIMEOUT",
    "BOOKEND_IDLE_TIMEOUT",
    "BOOKEND_GRACE",
    "BOOKEND_WAIT",
    "BOOKEND_REPLACE",
    "BOOKEND_BUDGET",
    "BOOKEND_ON_TERM",
    "BOOKEND_FRESH",
    "BOOKEND_ALLOW_UNSAFE_RESUME",
    "BOOKEND_KEEP_SESSION",
    "BOOKEND_LEFTOVERS",
    "BOOKEND_STRICT",
    "BOOKEND_BACKLOG",
    "BOOKEND_ON_FINISH",
    "BOOKEND_HOOK_TIMEOUT",
    "BOOKEND_RETENTION",
    "BOOKEND_QUIET",
    "BOOKEND_VERBOSE",
    "BOOKEND_LOG_TO",
    "BOOKEND_LOG",
    "BOOKEND_BUSY_TIMEOUT",
    "BOOKEND_ON_INTERRUPTED",
    "BOOKEND_TTL",
    cgroup::DELEGATED_VARIABLE,
];

/// The caller's environment without the variables in `but` and those that bookend sets itself, followed by
/// `add`. Order, repeated and malformed entries are kept.
pub fn inherited(but: &[&str], add: &[(&str, &OsStr)]) -> Vec<CString> {
    let mut entries = sys::environment();
    entries.retain(|entry| {
        let Some(name) = name_of(entry.as_bytes()) else { return true };
        let own = [MARK, FINISHED, LEDGER, ATTEMPT, DETACHED];
        !(but.iter().chain(&own).chain(&FINISHED_FACTS).any(|b| b.as_bytes() == name)
            // Contains the id of *our* pidfd; without it LISTEN_PID alone decides (sd_listen_fds(3)).
            || name == b"LISTEN_PIDFDID")
    });
    for (name, value) in add {
        let entry = [name.as_bytes(), b"=", value.as_bytes()].concat();
        // Arguments and the environment cannot contain NUL bytes.
        entries.extend(CString::new(entry));
    }
    entries
}

fn name_of(entry: &[u8]) -> Option<&[u8]> {
    entry.iter().position(|&b| b == b'=').map(|at| &entry[..at])
}
