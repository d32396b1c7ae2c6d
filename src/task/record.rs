//! A task as the ledger stores it, with its status changes and its session.
//!
//! Fields have the names of the ledger's columns, which are also the stable names in the JSON output.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ending::Status;
use super::identity::{ProcessIdentity, ProcessRecord};
use super::ids::{Key, Provider, SessionId, TaskId};
use super::signal::Signal;
use super::time::RecordedTime;

/// One row of `task_history`. `None` means "not known" or "not yet".
///
/// `*_ms` are milliseconds; `*_kib` KiB; `cost_usd` US dollars.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Task {
    pub id: TaskId,
    pub key: Option<Key>,
    pub repo: Option<String>,
    pub issue_number: Option<i64>,
    pub user: Option<String>,
    pub agent: Option<String>,
    pub agent_type: Option<String>,
    pub model: Option<String>,
    pub provider: Option<Provider>,
    pub status: Status,
    pub reason: Option<String>,
    pub error: Option<String>,
    pub started_at: RecordedTime,
    pub finished_at: Option<RecordedTime>,
    pub duration_ms: Option<i64>,
    pub cost_usd: Option<f64>,
    /// The cumulative cost of the session as the agent reports it, US dollars.
    pub session_cost_usd: Option<f64>,
    /// The four token counts of the whole session, if the agent reports those.
    pub session_tokens: Option<Value>,
    pub turns: Option<i64>,
    pub input_tokens: Option<i64>,
    pub output_tokens: Option<i64>,
    pub cache_read_tokens: Option<i64>,
    pub cache_creation_tokens: Option<i64>,
    pub artifacts: Option<Value>,
    pub session_id: Option<SessionId>,
    pub resumed_from: Option<SessionId>,
    pub argv: Option<Vec<String>>,
    pub cwd: Option<String>,
    pub live_slot: Option<i64>,
    /// Device and inode of the lock file in which the supervisor locked byte `live_slot`.
    pub live_dev: Option<u64>,
    pub live_ino: Option<u64>,
    pub host: Option<String>,
    pub boot_id: Option<String>,
    pub pid_ns: Option<u64>,
    pub supervisor_pid: Option<i32>,
    pub supervisor_start: Option<u64>,
    /// Inode of the supervisor's pidfd.
    pub supervisor_pidfd: Option<u64>,
    pub agent_pid: Option<i32>,
    pub agent_start: Option<u64>,
    /// Inode of the agent's pidfd.
    pub agent_pidfd: Option<u64>,
    /// When `recover` gave up on an agent that may still run: from then on it does not hold the key.
    pub agent_released_at: Option<RecordedTime>,
    pub cgroup: Option<String>,
    pub exit_code: Option<i32>,
    pub term_signal: Option<Signal>,
    pub stop_signal: Option<Signal>,
    pub stop_sender_pid: Option<i32>,
    pub stop_sender_uid: Option<u32>,
    pub end_source: Option<String>,
    pub last_seen_at: Option<RecordedTime>,
    pub oom_killed: Option<bool>,
    /// `oom_kill` of the cgroup's memory.events when the task began.
    pub oom_kills_before: Option<u64>,
    pub cpu_ms: Option<i64>,
    pub max_rss_kib: Option<i64>,
    pub on_finish: Option<Value>,
    pub delivery_status: Option<String>,
    #[serde(default)]
    pub delivery_attempts: i64,
    pub delivered_at: Option<RecordedTime>,
    pub retention_secs: Option<i64>,
    pub cleanup_after: Option<RecordedTime>,
    pub hinted_at: Option<RecordedTime>,
    /// How often `recover` has started its `--on-interrupted` command for the task.
    #[serde(default)]
    pub hint_attempts: i64,
    pub user_argv: Option<Vec<String>>,
    pub run_options: Option<Value>,
    pub leftovers: Option<Value>,
    pub parent_id: Option<TaskId>,
    /// The tool that was called last and has not returned.
    pub tool_in_flight: Option<String>,
    /// The agent started a new conversation instead of resuming `resumed_from`.
    pub context_lost: Option<bool>,
    /// Why the key's session was not tracked.
    pub session_untracked: Option<String>,
    /// Whether bookend found the transcript where it looks for it when the task ended successfully.
    pub transcript_seen: Option<bool>,
    /// Whether the token counts include those of subagents: `main` (no) or `all`. `None`: not known.
    pub tokens_scope: Option<String>,
    /// What `--keep-session` kept the session after: `limit` or `api-error`.
    pub session_kept: Option<String>,
    /// When the usage limit that ended the run resets, as the agent printed it.
    pub limit_resets_at: Option<RecordedTime>,
    /// The task that `--replace` cancelled for this one.
    pub replaces: Option<TaskId>,
    /// How the `--on-finish` command last failed, in words.
    pub delivery_error: Option<String>,
}

impl Task {
    pub fn supervisor(&self) -> Option<ProcessRecord> {
        process(self.supervisor_pid, self.supervisor_start, self.supervisor_pidfd)
    }

    pub fn agent_process(&self) -> Option<ProcessRecord> {
        process(self.agent_pid, self.agent_start, self.agent_pidfd)
    }
}

fn process(pid: Option<i32>, start: Option<u64>, pidfd_inode: Option<u64>) -> Option<ProcessRecord> {
    Some(ProcessRecord { identity: ProcessIdentity { pid: pid?, start: start? }, pidfd_inode })
}

/// Figures of a group of tasks. `None`: known for none of them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StatsGroup {
    /// One for each column that the tasks are grouped by; `None`: the tasks without one.
    pub names: Vec<Option<String>>,
    pub runs: i64,
    pub running: i64,
    pub success: i64,
    pub failure: i64,
    pub cancelled: i64,
    pub interrupted: i64,
    pub aborted_no_skill: i64,
    pub cost_usd: Option<f64>,
    pub duration_ms: Option<i64>,
    pub input_tokens: Option<i64>,
    pub output_tokens: Option<i64>,
    pub cache_read_tokens: Option<i64>,
    pub cache_creation_tokens: Option<i64>,
    pub turns: Option<i64>,
    pub cost_usd_median: Option<f64>,
    pub cost_usd_p95: Option<f64>,
    pub duration_ms_median: Option<i64>,
    pub duration_ms_p95: Option<i64>,
}

impl StatsGroup {
    /// Adds the counts and sums of another group. Percentiles cannot be added.
    pub fn add(&mut self, other: &StatsGroup) {
        let add = |sum: &mut Option<i64>, n: Option<i64>| {
            *sum = n.map(|n| sum.unwrap_or_default().saturating_add(n)).or(*sum);
        };
        self.runs += other.runs;
        self.running += other.running;
        self.success += other.success;
        self.failure += other.failure;
        self.cancelled += other.cancelled;
        self.interrupted += other.interrupted;
        self.aborted_no_skill += other.aborted_no_skill;
        self.cost_usd = other.cost_usd.map(|usd| self.cost_usd.unwrap_or_default() + usd).or(self.cost_usd);
        add(&mut self.duration_ms, other.duration_ms);
        add(&mut self.input_tokens, other.input_tokens);
        add(&mut self.output_tokens, other.output_tokens);
        add(&mut self.cache_read_tokens, other.cache_read_tokens);
        add(&mut self.cache_creation_tokens, other.cache_creation_tokens);
        add(&mut self.turns, other.turns);
    }
}

/// One line of `task_transition`: a change of a task's status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusTransition {
    pub task_id: TaskId,
    pub at: RecordedTime,
    /// `None`: the task was created.
    pub from_status: Option<Status>,
    pub to_status: Status,
    pub reason: Option<String>,
    pub by_pid: Option<i64>,
    pub by_command: Option<String>,
}

/// One row of `claude_sdk_sessions`: the conversation that the next run under a key resumes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Session {
    pub key: Key,
    pub session_id: SessionId,
    pub provider: Option<Provider>,
    pub last_used_at: Option<RecordedTime>,
    /// The last task that used it.
    pub task_id: Option<TaskId>,
    pub trust: SessionTrust,
}

/// What vouches that a session may be resumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionTrust {
    /// Nothing: its last task still runs, or another program wrote the row.
    None,
    /// Its last task succeeded.
    Task,
    /// An operator restored it although its last task did not succeed.
    Operator,
}

impl SessionTrust {
    /// The number in the ledger.
    pub fn as_number(self) -> i64 {
        match self {
            SessionTrust::None => 0,
            SessionTrust::Task => 1,
            SessionTrust::Operator => 2,
        }
    }

    pub fn from_number(number: i64) -> SessionTrust {
        match number {
            1 => SessionTrust::Task,
            2 => SessionTrust::Operator,
            _ => SessionTrust::None,
        }
    }
}

/// One row of `session_invalidation`: a conversation that must not be resumed, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionInvalidation {
    pub id: i64,
    pub key: Option<Key>,
    pub session_id: SessionId,
    pub provider: Option<Provider>,
    pub task_id: Option<TaskId>,
    pub reason: String,
    pub at: RecordedTime,
    pub restored_at: Option<RecordedTime>,
    pub last_used_at: Option<RecordedTime>,
}
