//! What can go wrong with bookend itself, and the exit code that each thing leaves with.

use std::fmt;

use crate::exit::exit_code;

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
