//! How a process exits, and the exit codes of bookend itself.

use crate::task::signal::Signal;

/// How a process ended, as wait(2) reports it, and how bookend itself exits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Code(i32),
    Signal(Signal),
}

/// The exit codes of bookend itself. Otherwise it leaves as the agent left.
pub mod exit_code {
    /// Nothing matched, or findings with `--fail-on`.
    pub const NOTHING: i32 = 1;
    /// `run --strict`: the agent exited with 0, and its task did not end as success.
    pub const NOT_SUCCESS: i32 = 1;
    /// A recovery could not settle everything.
    pub const UNSETTLED: i32 = 1;
    /// The command line was wrong.
    pub const USAGE: i32 = 2;
    /// The agent's output could not be written to stdout. `EX_IOERR` of sysexits(3).
    pub const OUTPUT: i32 = 74;
    /// The key is held by a live task. `EX_TEMPFAIL` of sysexits(3).
    pub const BUSY: i32 = 75;
    /// Resuming that session is unsafe. `EX_CONFIG` of sysexits(3).
    pub const UNSAFE_RESUME: i32 = 78;
    /// A time-out of ours ended the agent; as timeout(1).
    pub const TIMED_OUT: i32 = 124;
    /// bookend failed before the agent ran; as env(1).
    pub const FAILED: i32 = 125;
    /// The program is not executable; as the shell's.
    pub const NOT_EXECUTABLE: i32 = 126;
    /// The program was not found; as the shell's.
    pub const NOT_FOUND: i32 = 127;
}
