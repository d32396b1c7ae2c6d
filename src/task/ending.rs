//! The statuses of a task, its ending, and which moves are legal.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

/// The status of a task. `Running` is the only one that is not final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Running,
    Success,
    Failure,
    Cancelled,
    Interrupted,
    AbortedNoSkill,
}

impl Status {
    pub const ALL: [Status; 6] = [
        Status::Running,
        Status::Success,
        Status::Failure,
        Status::Cancelled,
        Status::Interrupted,
        Status::AbortedNoSkill,
    ];

    /// The word in the ledger.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Running => "running",
            Status::Success => "success",
            Status::Failure => "failure",
            Status::Cancelled => "cancelled",
            Status::Interrupted => "interrupted",
            Status::AbortedNoSkill => "aborted_no_skill",
        }
    }

    pub fn parse(word: &str) -> Option<Status> {
        Status::ALL.into_iter().find(|s| s.as_str() == word)
    }

    pub fn is_terminal(self) -> bool {
        self != Status::Running
    }

    /// The legal status changes. [`Ending`] has no other targets, and the ledger's triggers enforce the same
    /// table for other programs.
    pub fn may_become(self, next: Status) -> bool {
        match (self, next) {
            (Status::Running, Status::Running) => false,
            (
                Status::Running,
                Status::Success
                | Status::Failure
                | Status::Cancelled
                | Status::Interrupted
                | Status::AbortedNoSkill,
            ) => true,
            (
                Status::Success
                | Status::Failure
                | Status::Cancelled
                | Status::Interrupted
                | Status::AbortedNoSkill,
                _,
            ) => false,
        }
    }
}

/// An unknown word of another program counts as a failure, so that no session is resumed because of it.
impl<'de> Deserialize<'de> for Status {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Status, D::Error> {
        let word = String::deserialize(deserializer)?;
        Ok(Status::parse(&word).unwrap_or(Status::Failure))
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Why a failure is a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureReason {
    /// The agent's last result event reports an error.
    AgentError,
    /// The agent exited with a code other than 0.
    Exit,
    /// A signal that bookend did not forward killed the agent.
    Signal,
    /// The agent exited with code 0 without printing the result that its output mode promises.
    NoResult,
    /// bookend could not write the agent's output to stdout.
    Output,
    /// The `--prepare` command failed.
    Prepare,
    /// The agent could not be started: not found, not executable, fork failed, no such directory.
    Spawn,
}

/// Why a task was cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelReason {
    Operator,
    Timeout,
    IdleTimeout,
}

/// Why a task was interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InterruptReason {
    /// The supervisor received SIGTERM or SIGHUP.
    Signal,
    /// Recovery found that the supervisor had died unexpectedly.
    SupervisorLost,
    /// Recovery found that the kernel's OOM killer had killed a process in the task's cgroup.
    Oom,
    /// Recovery found that the machine had rebooted during the run.
    Rebooted,
    /// Its state could not be verified, and it was older than `--ttl`.
    Ttl,
}

impl InterruptReason {
    pub fn as_str(self) -> &'static str {
        match self {
            InterruptReason::Signal => "signal",
            InterruptReason::SupervisorLost => "supervisor_lost",
            InterruptReason::Oom => "oom",
            InterruptReason::Rebooted => "rebooted",
            InterruptReason::Ttl => "ttl",
        }
    }
}

/// How a task ended. There is no `running` ending, so an ending always closes the task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    Success,
    /// The agent exited successfully, and its conversation continues in an unsupervised process.
    Backgrounded,
    Failure(FailureReason),
    Cancelled(CancelReason),
    Interrupted(InterruptReason),
    /// The agent lacks this skill, which `--require-skill` names.
    AbortedNoSkill(String),
}

/// The reason of a success whose conversation continues in the background.
const BACKGROUNDED: &str = "backgrounded";

impl Ending {
    pub fn status(&self) -> Status {
        match self {
            Ending::Success | Ending::Backgrounded => Status::Success,
            Ending::Failure(_) => Status::Failure,
            Ending::Cancelled(_) => Status::Cancelled,
            Ending::Interrupted(_) => Status::Interrupted,
            Ending::AbortedNoSkill(_) => Status::AbortedNoSkill,
        }
    }

    /// The word for the `reason` column; `None` for a plain success.
    pub fn reason(&self) -> Option<&str> {
        Some(match self {
            Ending::Success => return None,
            Ending::Backgrounded => BACKGROUNDED,
            Ending::Failure(FailureReason::AgentError) => "agent_error",
            Ending::Failure(FailureReason::Exit) => "exit",
            Ending::Failure(FailureReason::Signal) => "signal",
            Ending::Failure(FailureReason::NoResult) => "no_result",
            Ending::Failure(FailureReason::Output) => "output",
            Ending::Failure(FailureReason::Prepare) => "prepare",
            Ending::Failure(FailureReason::Spawn) => "spawn",
            Ending::Cancelled(CancelReason::Operator) => "operator",
            Ending::Cancelled(CancelReason::Timeout) => "timeout",
            Ending::Cancelled(CancelReason::IdleTimeout) => "idle_timeout",
            Ending::Interrupted(why) => why.as_str(),
            Ending::AbortedNoSkill(name) => name,
        })
    }

    /// Parses the status and reason of a stored record. `None`: no ending has them.
    pub fn from_words(status: Status, reason: Option<&str>) -> Option<Ending> {
        Some(match (status, reason) {
            (Status::Success, None) => Ending::Success,
            (Status::Success, Some(BACKGROUNDED)) => Ending::Backgrounded,
            (Status::Failure, Some(word)) => Ending::Failure(match word {
                "agent_error" => FailureReason::AgentError,
                "exit" => FailureReason::Exit,
                "signal" => FailureReason::Signal,
                "no_result" => FailureReason::NoResult,
                "output" => FailureReason::Output,
                "prepare" => FailureReason::Prepare,
                "spawn" => FailureReason::Spawn,
                _ => return None,
            }),
            (Status::Cancelled, Some(word)) => Ending::Cancelled(match word {
                "operator" => CancelReason::Operator,
                "timeout" => CancelReason::Timeout,
                "idle_timeout" => CancelReason::IdleTimeout,
                _ => return None,
            }),
            (Status::Interrupted, Some(word)) => Ending::Interrupted(match word {
                "signal" => InterruptReason::Signal,
                "supervisor_lost" => InterruptReason::SupervisorLost,
                "oom" => InterruptReason::Oom,
                "rebooted" => InterruptReason::Rebooted,
                "ttl" => InterruptReason::Ttl,
                _ => return None,
            }),
            (Status::AbortedNoSkill, Some(name)) => Ending::AbortedNoSkill(name.to_owned()),
            _ => return None,
        })
    }
}

/// How the end of a task became known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndSource {
    /// bookend waited for the agent and recorded its exit in the ledger.
    Wait,
    /// bookend waited for the agent, and the record reached the ledger through the spool.
    Spool,
    /// Recovery inferred it after the supervisor had died.
    Recovery,
}

impl EndSource {
    pub fn as_str(self) -> &'static str {
        match self {
            EndSource::Wait => "wait",
            EndSource::Spool => "spool",
            EndSource::Recovery => "recovery",
        }
    }
}
