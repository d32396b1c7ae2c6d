//! Decides how a run ended, from the stop requests, the agent's output and its exit status.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ending::{CancelReason, Ending, FailureReason, InterruptReason};
use super::signal::Signal;
use crate::exit::Exit;

/// The sender of a stop signal, from `siginfo_t` (sigaction(2)). Pid 0 is the kernel or a process in
/// another pid namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignalSender {
    pub pid: i32,
    pub uid: u32,
}

/// A request to stop a run.
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

/// The first stop request, with what decides later whether it counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StopCause {
    pub stop: StopRequest,
    /// The last result of the agent came before the request.
    pub after_result: bool,
    /// How long the agent ran after the request.
    pub ran_on: Duration,
}

/// What the agent's output reports about its success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentOutcome {
    /// The output mode has no result event.
    NotDue,
    /// The output mode has a result event, but none came.
    Missing,
    Ok,
    Error,
}

/// What the agent's exit code says about its success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitMeaning {
    /// It finished.
    Ok,
    /// It reported an error.
    Error,
    /// It failed, or a program that started it did.
    Unknown,
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
    /// The account reached its usage limit, or the API rejected a request with HTTP status 429.
    Limit,
    /// The API rejected a request.
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

/// Which conversations a run's token counts include.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokensScope {
    /// The main conversation only, without subagents.
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

/// Everything that decides how a run ended.
#[derive(Debug, Clone, Copy)]
pub struct RunEvidence {
    /// `None`: the agent could not be stopped, and bookend no longer waits for it.
    pub exit: Option<Exit>,
    /// What `exit` says, if it is a code.
    pub exit_meaning: ExitMeaning,
    pub outcome: AgentOutcome,
    pub cause: Option<StopCause>,
    /// bookend stopped the agent because it did not exit after its result.
    pub lingered: bool,
    /// bookend could not write all of the agent's output to stdout.
    pub output_lost: bool,
    pub grace: Duration,
    pub on_term: OnTerm,
}

/// Decides how a run ended. Success requires exit code 0, a last result without an error where the output
/// mode has one, and no stop request before that result.
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
    match (e.outcome, e.exit, e.exit_meaning) {
        (AgentOutcome::Error, ..) => Ending::Failure(FailureReason::AgentError),
        (AgentOutcome::Ok, ..) if e.lingered => Ending::Success,
        (_, Some(Exit::Signal(_)) | None, _) => Ending::Failure(FailureReason::Signal),
        (AgentOutcome::Ok | AgentOutcome::NotDue, Some(Exit::Code(_)), ExitMeaning::Ok) => Ending::Success,
        (AgentOutcome::Missing, Some(Exit::Code(_)), ExitMeaning::Ok) => {
            Ending::Failure(FailureReason::NoResult)
        }
        (AgentOutcome::Missing | AgentOutcome::NotDue, Some(Exit::Code(_)), ExitMeaning::Error) => {
            Ending::Failure(FailureReason::AgentError)
        }
        (_, Some(Exit::Code(_)), _) => Ending::Failure(FailureReason::Exit),
    }
}

/// Whether the stop request ended the run.
fn counts_as_cause(c: &StopCause, e: &RunEvidence) -> bool {
    let finished = matches!(e.exit, Some(Exit::Code(_))) && e.exit_meaning == ExitMeaning::Ok;
    let ended_well = finished || e.lingered;
    match e.outcome {
        // The result came first and the agent then exited successfully: the request changed nothing.
        AgentOutcome::Ok if c.after_result => !ended_well,
        AgentOutcome::Error if c.after_result => false,
        AgentOutcome::Ok | AgentOutcome::Error | AgentOutcome::Missing => true,
        AgentOutcome::NotDue => match c.stop {
            // A program may handle Ctrl-C itself and continue.
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
