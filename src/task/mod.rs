//! The vocabulary of a task: what is known when it starts and when it ends, and the types for both.

mod ending;
mod fleet;
mod identity;
mod ids;
mod outcome;
mod record;
pub mod resume;
mod selection;
pub mod signal;
mod signal_scope;
mod time;
mod usage;

use std::path::PathBuf;

use crate::exit::Exit;

pub use ending::{CancelReason, EndSource, Ending, FailureReason, InterruptReason, Status};
pub use fleet::{FleetFacts, FleetTask};
pub use identity::{ProcessIdentity, ProcessRecord, ProcessScope, RecordedProcesses, Verdict};
pub use ids::{Key, Provider, SessionId, TaskId};
pub use outcome::{
    AgentOutcome, ExitMeaning, KeepSession, OnTerm, RunEvidence, SignalSender, StopCause, StopRequest,
    TokensScope, judge,
};
pub use record::{Session, SessionInvalidation, SessionTrust, StatsGroup, StatusTransition, Task};
pub use selection::{GroupBy, TaskCount, TaskFilter, TaskStats};
pub use signal::Signal;
pub use signal_scope::SignalScope;
pub use time::{RecordedTime, Time};
pub use usage::{SessionTotals, TokenUsage, UsageCounts};

/// The ledger of the system units in `contrib/systemd`.
pub const SYSTEM_LEDGER: &str = "/var/lib/bookend/bookend.db";

/// What is known about a task before its agent starts: the `running` row.
#[derive(Debug, Clone)]
pub struct NewTask {
    pub id: TaskId,
    pub key: Option<Key>,
    pub repo: Option<String>,
    pub issue_number: Option<i64>,
    pub user: Option<String>,
    /// The persona, e.g. `dev`.
    pub agent: String,
    /// The adapter: `claude`, `cursor`, `command`.
    pub agent_type: &'static str,
    pub model: Option<String>,
    pub provider: Option<Provider>,
    pub started_at: Time,
    pub session_id: Option<SessionId>,
    pub resumed_from: Option<SessionId>,
    /// The command that is executed, including the session options that bookend inserted.
    pub argv: Vec<String>,
    /// The command as the user gave it.
    pub user_argv: Vec<String>,
    /// JSON of the options of `run` that `redispatch` repeats.
    pub run_options: String,
    pub cwd: PathBuf,
    pub place: ProcessScope,
    pub supervisor: ProcessRecord,
    /// `None`: the agent's process could not be created (fork failed).
    pub agent_process: Option<ProcessRecord>,
    /// JSON of the `--on-finish` command: `{argv, cwd}`.
    pub on_finish: Option<String>,
    /// Retention of the row after the end of the task, in seconds.
    pub retention_secs: i64,
    pub parent_id: Option<TaskId>,
    /// `oom_kill` of the cgroup's memory.events, cgroups(7), at the start.
    pub oom_kills_before: Option<u64>,
    /// Why the key's session is not tracked; `None`: it is tracked, or there is no key.
    pub session_untracked: Option<String>,
    pub tokens_scope: Option<TokensScope>,
    /// The task that `--replace` cancelled for this one.
    pub replaces: Option<TaskId>,
}

/// What is known when a task ends.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskEnd {
    pub ending: Ending,
    pub error: Option<String>,
    pub source: EndSource,
    /// `None`: end time unknown.
    pub finished_at: Option<Time>,
    /// CLOCK_MONOTONIC, milliseconds.
    pub duration_ms: Option<i64>,
    pub exit: Option<Exit>,
    pub stop_signal: Option<Signal>,
    pub stop_sender: Option<SignalSender>,
    pub counts: UsageCounts,
    pub session_totals: SessionTotals,
    pub model: Option<String>,
    pub session_id: Option<SessionId>,
    /// The tool that was called last and had not returned.
    pub tool_in_flight: Option<String>,
    /// The agent started a new conversation instead of resuming the requested one.
    pub context_lost: bool,
    /// Whether bookend found the transcript where it looks for it; `None`: it did not look.
    pub transcript_seen: Option<bool>,
    /// The `--keep-session` value that kept the session after a failed run.
    pub session_kept: Option<KeepSession>,
    /// When the usage limit that ended the run resets.
    pub limit_resets_at: Option<Time>,
    pub oom_killed: Option<bool>,
    pub cpu_ms: Option<i64>,
    pub max_rss_kib: Option<i64>,
    /// JSON: `{"found":N,"ended":N,"pids":[…]}`.
    pub leftovers: Option<String>,
    /// Whether the run used its session: the agent was executed and did not reject its arguments.
    pub executed: bool,
}

impl TaskEnd {
    /// An end of which only the ending is known.
    pub fn unknown(ending: Ending) -> TaskEnd {
        TaskEnd {
            ending,
            error: None,
            source: EndSource::Recovery,
            finished_at: None,
            duration_ms: None,
            exit: None,
            stop_signal: None,
            stop_sender: None,
            counts: UsageCounts::default(),
            session_totals: SessionTotals::default(),
            model: None,
            session_id: None,
            tool_in_flight: None,
            context_lost: false,
            transcript_seen: None,
            session_kept: None,
            limit_resets_at: None,
            oom_killed: None,
            cpu_ms: None,
            max_rss_kib: None,
            leftovers: None,
            executed: false,
        }
    }
}

#[cfg(test)]
mod tests;
