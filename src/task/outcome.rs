//! How a run is judged: what stopped it, what its output said, and how the agent exited.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ending::{CancelReason, Ending, FailureReason, InterruptReason};
use super::signal::Signal;
use crate::exit::Exit;

/// Who sent a stop signal, as far as the kernel tells (0: the kernel itself, or another pid namespace).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignalSender {
    pub pid: i32,
    pub uid: u32,
}

/// What asked the run to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopRequest {
    /// A stop signal to the supervisor.
    Signal {
        signal: Signal,
        sender: SignalSender,
    },
    /// `bookend cancel`, or `--replace` by another run.
    Cancel {
        sender: SignalSender,
    },
    Timeout,
    IdleTimeout,
}

/// The first stop that was asked for, with what is needed to judge it later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StopCause {
    pub stop: StopRequest,
    /// Whether a result had already come when it was asked for, and none after it.
    pub after_result: bool,
    /// How long the agent still ran after it.
    pub ran_on: Duration,
}

/// What the agent's output said of its success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentOutcome {
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
pub struct RunEvidence {
    /// `None`: it could not be ended, and nobody waits for it any more.
    pub exit: Option<Exit>,
    pub outcome: AgentOutcome,
    pub cause: Option<StopCause>,
    /// bookend itself ended the agent because it stayed after its result.
    pub lingered: bool,
    /// Not all of its output could be written to stdout.
    pub output_lost: bool,
    pub grace: Duration,
    pub on_term: OnTerm,
}

/// Judges a run. Success needs exit 0, a last result without error where one was
/// due, and no stop asked for before that result.
pub fn judge(e: &RunEvidence) -> Ending {
    let cause = e.cause.filter(|c| counts_as_cause(c, e));
    if let Some(c) = cause {
        return match c.stop {
            StopRequest::Timeout => Ending::Cancelled(CancelReason::Timeout),
            StopRequest::IdleTimeout => Ending::Cancelled(CancelReason::IdleTimeout),
            StopRequest::Cancel { .. } => Ending::Cancelled(CancelReason::Operator),
            StopRequest::Signal { signal, .. } => match signal {
                Signal::INT | Signal::QUIT => Ending::Cancelled(CancelReason::Operator),
                _ if e.on_term == OnTerm::Cancelled => Ending::Cancelled(CancelReason::Operator),
                _ => Ending::Interrupted(InterruptReason::Signal),
            },
        };
    }
    if e.output_lost {
        return Ending::Failure(FailureReason::Output);
    }
    match (e.outcome, e.exit) {
        (AgentOutcome::Error, _) => Ending::Failure(FailureReason::AgentError),
        (AgentOutcome::Ok, _) if e.lingered => Ending::Success,
        (_, Some(Exit::Signal(_)) | None) => Ending::Failure(FailureReason::Signal),
        (AgentOutcome::Ok | AgentOutcome::NotDue, Some(Exit::Code(0))) => Ending::Success,
        (AgentOutcome::Missing, Some(Exit::Code(0))) => Ending::Failure(FailureReason::NoResult),
        (_, Some(Exit::Code(_))) => Ending::Failure(FailureReason::Exit),
    }
}

/// Whether the stop that was asked for is what ended the run.
fn counts_as_cause(c: &StopCause, e: &RunEvidence) -> bool {
    let ended_well = e.exit == Some(Exit::Code(0)) || e.lingered;
    match e.outcome {
        // The result came first, and the run then ended well: the stop changed nothing.
        AgentOutcome::Ok if c.after_result => !ended_well,
        AgentOutcome::Error if c.after_result => false,
        AgentOutcome::Ok | AgentOutcome::Error | AgentOutcome::Missing => true,
        AgentOutcome::NotDue => match c.stop {
            // A program may use Ctrl-C for itself, and go on.
            StopRequest::Signal { signal: Signal::INT | Signal::QUIT, .. } => {
                !ended_well || c.ran_on <= e.grace
            }
            StopRequest::Signal { .. }
            | StopRequest::Cancel { .. }
            | StopRequest::Timeout
            | StopRequest::IdleTimeout => true,
        },
    }
}
