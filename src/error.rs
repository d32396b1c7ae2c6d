//! What can go wrong with bookend itself, and the exit code that each thing leaves with.

use std::fmt;

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

/// An error of bookend, with what the user can do about it.
#[derive(Debug)]
pub struct Error {
    pub kind: Kind,
    message: String,
    hint: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Usage,
    Nothing,
    Busy,
    UnsafeResume,
    /// bookend could not do its work; before the agent ran, nothing was executed.
    Failed,
    /// Nobody reads our stdout any more.
    ReaderGone,
}

impl Error {
    pub fn new(kind: Kind, message: impl fmt::Display) -> Error {
        Error { kind, message: message.to_string(), hint: None }
    }

    pub fn usage(message: impl fmt::Display) -> Error {
        Error::new(Kind::Usage, message)
    }

    pub fn failed(message: impl fmt::Display) -> Error {
        Error::new(Kind::Failed, message)
    }

    /// Adds what the user can do.
    pub fn hint(mut self, hint: impl fmt::Display) -> Error {
        self.hint = Some(hint.to_string());
        self
    }

    /// The one place that maps an error to its exit code.
    pub fn code(&self) -> i32 {
        match self.kind {
            Kind::Usage => exit_code::USAGE,
            Kind::Nothing => exit_code::NOTHING,
            Kind::Busy => exit_code::BUSY,
            Kind::UnsafeResume => exit_code::UNSAFE_RESUME,
            Kind::Failed | Kind::ReaderGone => exit_code::FAILED,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Both may hold data: what is in them begins no line of its own.
        let indented = |text: &str| text.replace('\n', "\n  ");
        f.write_str(&indented(&self.message))?;
        if let Some(hint) = &self.hint {
            write!(f, "\nhint: {}", indented(hint))?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}
