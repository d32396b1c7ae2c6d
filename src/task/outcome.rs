//! How a run is judged: what stopped it, what its output said, and how the agent exited.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ending::{Cancel, Ending, Failure, Interrupt};
use super::signal::Signal;
use crate::exit::Exit;

/// Who sent a stop signal, as far as the kernel tells (0: the kernel itself, or another pid namespace).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sender {
    pub pid: i32,
    pub uid: u32,
}

/// What asked the run to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// A stop signal to the supervisor.
    Signal {
        signal: Signal,
        sender: Sender,
    },
    /// `bookend cancel`, or `--replace` by another run.
    Cancel {
        sender: Sender,
    },
    Timeout,
    IdleTimeout,
}

/// The first stop that was asked for, with what is needed to judge it later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cause {
    pub stop: Stop,
    /// Whether a result had already come when it was asked for, and none after it.
    pub after_result: bool,
    /// How long the agent still ran after it.
    pub ran_on: Duration,
}

/// What the agent's output said of its success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// This mode has no result event.
    NotDue,
    /// One was due and never came.
    Missing,
    Ok,
    Error,
}

/// How SIGTERM and SIGHUP end a task (`--on-term`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnTerm {
    Interrupted,
    Cancelled,
}

/// After which failures the key keeps its session (`--keep-session`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeepSession {
    /// The account's usage limit was reached, or the API refused a request as one too many (429).
    Limit,
    /// The API refused a request.
    ApiError,
}

impl KeepSession {
    /// The word on the command line and in the ledger.
    pub fn as_str(self) -> &'static str {
        match self {
            KeepSession::Limit => "limit",
            KeepSession::ApiError => "api-error",
        }
    }
}

/// Whose tokens a run's counts include.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokensScope {
    /// Those of the main conversation alone.
    Main,
}

impl TokensScope {
    /// The word in the ledger.
    pub fn as_str(self) -> &'static str {
        match self {
            TokensScope::Main => "main",
        }
    }
}

/// All that decides how a run ended.
#[derive(Debug, Clone, Copy)]
pub struct Evidence {
    /// `None`: it could not be ended, and nobody waits for it any more.
    pub exit: Option<Exit>,
    pub outcome: Outcome,
    pub cause: Option<Cause>,
    /// bookend itself ended the agent because it stayed after its result.
    pub lingered: bool,
    /// Not all of its output could be written to stdout.
    pub output_lost: bool,
    pub grace: Duration,
    pub on_term: OnTerm,
}

/// Judges a run. Success needs exit 0, a last result without error where one was
/// due, and no stop asked for before that result.
pub fn judge(e: &Evidence) -> Ending {
    let cause = e.cause.filter(|c| counts_as_cause(c, e));
    if let Some(c) = cause {
        return match c.stop {
            Stop::Timeout => Ending::Cancelled(Cancel::Timeout),
            Stop::IdleTimeout => Ending::Cancelled(Cancel::IdleTimeout),
            Stop::Cancel { .. } => Ending::Cancelled(Cancel::Operator),
            Stop::Signal { signal, .. } => match signal {
                Signal::INT | Signal::QUIT => Ending::Cancelled(Cancel::Operator),
                _ if e.on_term == OnTerm::Cancelled => Ending::Cancelled(Cancel::Operator),
                _ => Ending::Interrupted(Interrupt::Signal),
            },
        };
    }
    if e.output_lost {
        return Ending::Failure(Failure::Output);
    }
    match (e.outcome, e.exit) {
        (Outcome::Error, _) => Ending::Failure(Failure::AgentError),
        (Outcome::Ok, _) if e.lingered => Ending::Success,
        (_, Some(Exit::Signal(_)) | None) => Ending::Failure(Failure::Signal),
        (Outcome::Ok | Outcome::NotDue, Some(Exit::Code(0))) => Ending::Success,
        (Outcome::Missing, Some(Exit::Code(0))) => Ending::Failure(Failure::NoResult),
        (_, Some(Exit::Code(_))) => Ending::Failure(Failure::Exit),
    }
}

/// Whether the stop that was asked for is what ended the run.
fn counts_as_cause(c: &Cause, e: &Evidence) -> bool {
    let ended_well = e.exit == Some(Exit::Code(0)) || e.lingered;
    match e.outcome {
        // The result came first, and the run then ended well: the stop changed nothing.
        Outcome::Ok if c.after_result => !ended_well,
        Outcome::Error if c.after_result => false,
        Outcome::Ok | Outcome::Error | Outcome::Missing => true,
        Outcome::NotDue => match c.stop {
            // A program may use Ctrl-C for itself, and go on.
            Stop::Signal { signal: Signal::INT | Signal::QUIT, .. } => !ended_well || c.ran_on <= e.grace,
            Stop::Signal { .. } | Stop::Cancel { .. } | Stop::Timeout | Stop::IdleTimeout => true,
        },
    }
}
