//! The errors of bookend itself: what failed, why, what to do about it, and the exit code.

use std::error::Error as StdError;
use std::fmt::{self, Write as _};

use crate::exit::exit_code;

type BoxedCause = Box<dyn StdError + Send + Sync>;

/// An error of bookend. `Display` shows what failed, `source` says why, [`Error::report`] shows all of it.
#[derive(Debug)]
pub struct Error {
    pub kind: Kind,
    failed: BoxedCause,
    cause: Option<BoxedCause>,
    hint: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Usage,
    Nothing,
    Busy,
    UnsafeResume,
    OverBudget,
    /// bookend could not do its work; before the agent ran, nothing was executed.
    Failed,
    /// The process reading stdout has exited.
    ReaderGone,
}

impl Error {
    /// `failed` is a text or another error, whose place this one takes.
    pub fn new(kind: Kind, failed: impl Into<BoxedCause>) -> Error {
        Error { kind, failed: failed.into(), cause: None, hint: None }
    }

    pub fn usage(failed: impl Into<BoxedCause>) -> Error {
        Error::new(Kind::Usage, failed)
    }

    pub fn failed(failed: impl Into<BoxedCause>) -> Error {
        Error::new(Kind::Failed, failed)
    }

    /// Adds why it failed.
    pub fn caused_by(mut self, cause: impl Into<BoxedCause>) -> Error {
        self.cause = Some(cause.into());
        self
    }

    /// Adds what the user can do.
    pub fn hint(mut self, hint: impl fmt::Display) -> Error {
        self.hint = Some(hint.to_string());
        self
    }

    /// What the user can do.
    pub fn advice(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The one place that maps an error to its exit code.
    pub fn code(&self) -> i32 {
        match self.kind {
            Kind::Usage => exit_code::USAGE,
            Kind::Nothing => exit_code::NOTHING,
            Kind::Busy => exit_code::BUSY,
            Kind::UnsafeResume => exit_code::UNSAFE_RESUME,
            Kind::OverBudget => exit_code::OVER_BUDGET,
            Kind::Failed | Kind::ReaderGone => exit_code::FAILED,
        }
    }

    /// What follows `bookend: error: `: the error with its causes, and the hint on a line of its own.
    pub fn report(&self) -> String {
        // Both may hold data: no line break in it begins a line that looks like one of bookend's.
        let indented = |text: &str| text.replace('\n', "\n  ");
        let mut report = indented(&chain(self));
        if let Some(hint) = &self.hint {
            let _ = write!(report, "\nhint: {}", indented(hint));
        }
        report
    }

    /// The same within a line: what failed and why, then the hint.
    pub fn in_line(&self) -> String {
        let hint = self.hint.as_ref().map(|hint| format!("; {hint}"));
        format!("{}{}", chain(self), hint.unwrap_or_default())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.failed.fmt(f)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match &self.cause {
            Some(cause) => Some(cause.as_ref()),
            None => self.failed.source(),
        }
    }
}

/// An error and each of its causes, with `: ` between them.
pub fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_report_shows_every_cause_and_ends_with_the_hint() {
        let refused = io::Error::from(io::ErrorKind::PermissionDenied);
        let error = Error::failed("creating x").caused_by(refused).hint("check its mode");
        assert_eq!(error.to_string(), "creating x");
        assert_eq!(error.source().map(ToString::to_string).as_deref(), Some("permission denied"));
        assert_eq!(error.report(), "creating x: permission denied\nhint: check its mode");
        assert_eq!(error.in_line(), "creating x: permission denied; check its mode");
    }

    #[test]
    fn an_error_that_stands_for_another_keeps_its_causes() {
        let inner = Error::failed("reading").caused_by(io::Error::other("broken"));
        assert_eq!(Error::usage(inner).report(), "reading: broken");
    }

    #[test]
    fn data_begins_no_line_of_its_own() {
        let forged = "x\nhint: forged";
        let error = Error::failed(forged).hint(forged);
        assert_eq!(error.report(), "x\n  hint: forged\nhint: x\n  hint: forged");
    }
}
