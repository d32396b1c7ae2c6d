//! How a process exits, and the exit codes of bookend itself.

use crate::task::signal::Signal;

/// How a process ended, as wait(2) reports it, and how bookend itself exits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Code(i32),
    Signal(Signal),
}

/// The exit codes of bookend itself. Otherwise it exits with the agent's code, or dies by the same signal.
pub mod exit_code {
    /// Nothing matched, or findings with `--fail-on`.
    pub const NOTHING: i32 = 1;
    /// `run --strict`: the agent exited with 0, and its task did not end as success. `wait`: a task did not.
    pub const NOT_SUCCESS: i32 = 1;
    /// A recovery could not settle everything.
    pub const UNSETTLED: i32 = 1;
    /// The command line was wrong.
    pub const USAGE: i32 = 2;
    /// The agent's output could not be written to stdout. `EX_IOERR` of sysexits(3).
    pub const OUTPUT: i32 = 74;
    /// The key is held by a live task. `EX_TEMPFAIL` of sysexits(3).
    pub const BUSY: i32 = 75;
    /// The budget of the key is spent. `EX_NOPERM` of sysexits(3).
    pub const OVER_BUDGET: i32 = 77;
    /// Resuming that session is unsafe. `EX_CONFIG` of sysexits(3).
    pub const UNSAFE_RESUME: i32 = 78;
    /// A timeout ended the agent, or `wait`; as timeout(1).
    pub const TIMED_OUT: i32 = 124;
    /// bookend failed before the agent ran; as env(1).
    pub const FAILED: i32 = 125;
    /// The program is not executable; as the shell's.
    pub const NOT_EXECUTABLE: i32 = 126;
    /// The program was not found; as the shell's.
    pub const NOT_FOUND: i32 = 127;
}

/// The exit codes of a command, by its full name, as its man page lists them.
pub fn codes_of(command: &str) -> Vec<(&'static str, &'static str)> {
    if matches!(command, "bookend run" | "bookend redispatch" | "bookend resume") {
        return RUN.to_vec();
    }
    let nothing = match command {
        "bookend audit" => Some("Findings of the severity that --fail-on names."),
        "bookend recover" => {
            Some("A task is not settled, a report or its hook failed, or --dry-run found a task to settle.")
        }
        "bookend deliver" => Some("A command failed or was not run."),
        "bookend wait" => Some("A task did not end as success, or no id or key matched."),
        "bookend cancel" => Some("No id or key matched, or a task did not end."),
        "bookend doctor" => Some("Something does not work: a line begins with FAIL."),
        "bookend"
        | "bookend list"
        | "bookend man"
        | "bookend completions"
        | "bookend units"
        | "bookend fleet"
        | "bookend fleet init"
        | "bookend fleet join"
        | "bookend monitor" => None,
        "bookend fleet declare-lost" => {
            Some("The fleet has no such host, you did not say yes, or the ledger is in no fleet.")
        }
        _ if command.starts_with("bookend fleet ") => Some("The ledger is in no fleet."),
        _ => Some("Nothing matched, or the ledger does not exist."),
    };
    let nothing = nothing.map(|text| ("1", text));
    let busy = match command {
        "bookend monitor" => Some(("75", "Another monitor watches the ledger.")),
        "bookend fleet leave" => Some(("75", "Tasks run, hold keys, or are not published yet.")),
        "bookend fleet declare-lost" => Some(("75", "The host is reachable.")),
        _ => None,
    };
    let timeout = (command == "bookend wait").then_some(("124", "--timeout has passed."));
    let usage = ("2", "The command line is wrong.");
    let failed = match command.starts_with("bookend fleet") {
        true => ("125", "bookend failed, for example at the ledger or at PostgreSQL."),
        false => ("125", "bookend failed, for example at the ledger."),
    };
    let rest = [Some(usage), busy, timeout, Some(failed)].into_iter().flatten();
    [("0", "Success.")].into_iter().chain(nothing).chain(rest).collect()
}

const RUN: [(&str, &str); 11] = [
    ("the agent's", "The agent ran. If a signal killed it, bookend dies by the same signal."),
    ("1", "With --strict: the agent exited with 0, and its task did not end as success."),
    ("2", "The command line is wrong."),
    ("74", "The agent's output could not be written to stdout."),
    ("75", "The key is held by a running task, here or on another host of the fleet; nothing was executed."),
    ("77", "The budget of the key is spent; nothing was executed."),
    ("78", "Resuming that session is unsafe; nothing was executed."),
    ("124", "--timeout or --idle-timeout ended the agent."),
    ("125", "bookend failed before the agent ran; in a fleet also: the key cannot be claimed there."),
    ("126", "The agent's program is not executable."),
    ("127", "The agent's program was not found."),
];
