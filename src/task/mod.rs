//! A task's words: its status, how it ended and why, and which moves are legal. Imports nothing of ours.

mod ids;
mod record;
pub mod resume;
pub mod signal;
mod time;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::exit::Exit;
use serde::{Deserialize, Serialize};

pub use ids::{Key, Provider, SessionId, TaskId};
pub use record::{Group, Invalidation, Session, Task, Transition, Trust};
pub use signal::Signal;
pub use time::{RecordedTime, Time};

/// Where a task stands. `Running` is the only status that is not terminal.
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

    /// The word that stands in the ledger.
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

    /// Every legal move of a task. The one place that owns them: `Ending` can name no other target, and
    /// the ledger's triggers repeat this table for whoever else writes.
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

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Why a failure is a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The agent's last result event says error.
    AgentError,
    /// It left with a code other than 0.
    Exit,
    /// It was killed by a signal that nobody sent through us.
    Signal,
    /// It left with 0 although the result that was due never came.
    NoResult,
    /// Its output could not be written to stdout.
    Output,
    /// The prepare command failed.
    Prepare,
    /// It could not be started: not found, not executable, fork failed, no such cwd.
    Spawn,
}

/// Why a task was cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancel {
    Operator,
    Timeout,
    IdleTimeout,
}

/// Why a task was interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interrupt {
    /// The supervisor was told to stop by SIGTERM or SIGHUP.
    Signal,
    /// Found dead: the supervisor went without a word.
    SupervisorLost,
    /// Found dead: the kernel's OOM killer struck in its cgroup.
    Oom,
    /// Found dead: the machine was booted since.
    Rebooted,
    /// Could not be judged, and too old to be believed in.
    Ttl,
}

impl Interrupt {
    pub fn as_str(self) -> &'static str {
        match self {
            Interrupt::Signal => "signal",
            Interrupt::SupervisorLost => "supervisor_lost",
            Interrupt::Oom => "oom",
            Interrupt::Rebooted => "rebooted",
            Interrupt::Ttl => "ttl",
        }
    }
}

/// How a task ends. It cannot say `running`, so no ending can leave a task open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    Success,
    /// The agent ended well and works on in the background, out of bookend's sight.
    Backgrounded,
    Failure(Failure),
    Cancelled(Cancel),
    Interrupted(Interrupt),
    /// The skill that was required and is not there.
    AbortedNoSkill(String),
}

/// The reason of a success that goes on in the background.
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

    /// The word for the `reason` column; a plain success needs none.
    pub fn reason(&self) -> Option<&str> {
        Some(match self {
            Ending::Success => return None,
            Ending::Backgrounded => BACKGROUNDED,
            Ending::Failure(Failure::AgentError) => "agent_error",
            Ending::Failure(Failure::Exit) => "exit",
            Ending::Failure(Failure::Signal) => "signal",
            Ending::Failure(Failure::NoResult) => "no_result",
            Ending::Failure(Failure::Output) => "output",
            Ending::Failure(Failure::Prepare) => "prepare",
            Ending::Failure(Failure::Spawn) => "spawn",
            Ending::Cancelled(Cancel::Operator) => "operator",
            Ending::Cancelled(Cancel::Timeout) => "timeout",
            Ending::Cancelled(Cancel::IdleTimeout) => "idle_timeout",
            Ending::Interrupted(why) => why.as_str(),
            Ending::AbortedNoSkill(name) => name,
        })
    }

    /// The ending that has these words, for what reads a kept record back. `None`: no ending has them.
    pub fn from_words(status: Status, reason: Option<&str>) -> Option<Ending> {
        Some(match (status, reason) {
            (Status::Success, None) => Ending::Success,
            (Status::Success, Some(BACKGROUNDED)) => Ending::Backgrounded,
            (Status::Failure, Some(word)) => Ending::Failure(match word {
                "agent_error" => Failure::AgentError,
                "exit" => Failure::Exit,
                "signal" => Failure::Signal,
                "no_result" => Failure::NoResult,
                "output" => Failure::Output,
                "prepare" => Failure::Prepare,
                "spawn" => Failure::Spawn,
                _ => return None,
            }),
            (Status::Cancelled, Some(word)) => Ending::Cancelled(match word {
                "operator" => Cancel::Operator,
                "timeout" => Cancel::Timeout,
                "idle_timeout" => Cancel::IdleTimeout,
                _ => return None,
            }),
            (Status::Interrupted, Some(word)) => Ending::Interrupted(match word {
                "signal" => Interrupt::Signal,
                "supervisor_lost" => Interrupt::SupervisorLost,
                "oom" => Interrupt::Oom,
                "rebooted" => Interrupt::Rebooted,
                "ttl" => Interrupt::Ttl,
                _ => return None,
            }),
            (Status::AbortedNoSkill, Some(name)) => Ending::AbortedNoSkill(name.to_owned()),
            _ => return None,
        })
    }
}

/// Who says how a task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndSource {
    /// bookend waited for the agent and saw its end.
    Wait,
    /// bookend saw its end, and it came to the ledger through the spool.
    Spool,
    /// Nobody saw it: recovery inferred it.
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

/// What makes a pid mean one process: the pid and its start, in clock ticks since boot
/// (`/proc/PID/stat` field 22, proc(5)). The boot id is kept once a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    pub pid: i32,
    pub start: u64,
}

/// A process as a row records it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessRecord {
    pub identity: Identity,
    /// The inode of its pidfd, unique for a boot (pidfs, Linux 6.9). `None`: not recorded.
    pub pidfd_inode: Option<u64>,
}

impl From<Identity> for ProcessRecord {
    fn from(identity: Identity) -> ProcessRecord {
        ProcessRecord { identity, pidfd_inode: None }
    }
}

/// Where a process stands in the world: what its pid is relative to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub host: String,
    /// `/proc/sys/kernel/random/boot_id`, random(4).
    pub boot_id: String,
    /// Inode of `/proc/self/ns/pid`, namespaces(7).
    pub pid_ns: u64,
    /// Path inside the cgroup2 hierarchy, cgroups(7), where there is one.
    pub cgroup: Option<String>,
}

/// What the kernel says of the live lock and the identity of a task that the ledger calls running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Alive,
    Gone,
    /// The pid is somebody else now.
    Recycled,
    /// Cannot be judged from here.
    Unverifiable,
}

/// What a run has used so far. `None` is "not known", which is never the same as 0.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Counts {
    /// US dollars of this run alone.
    pub cost_usd: Option<f64>,
    pub turns: Option<i64>,
    pub input_tokens: Option<i64>,
    pub output_tokens: Option<i64>,
    pub cache_read_tokens: Option<i64>,
    pub cache_creation_tokens: Option<i64>,
}

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

/// What is known of a task before its agent executes: the `running` row.
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
    /// What is executed, after session flags were put in.
    pub argv: Vec<String>,
    /// What the user typed.
    pub user_argv: Vec<String>,
    /// JSON of the options that `redispatch` repeats.
    pub run_options: String,
    pub cwd: PathBuf,
    pub place: Place,
    pub supervisor: ProcessRecord,
    /// `None`: there was no room for a process.
    pub agent_process: Option<ProcessRecord>,
    /// JSON of `{argv, cwd}` of `--on-finish`.
    pub on_finish: Option<String>,
    /// How long after its end the row is kept, in seconds.
    pub retention_secs: i64,
    pub parent_id: Option<TaskId>,
    /// `oom_kill` of the cgroup's memory.events, cgroups(7), at the start.
    pub oom_kills_before: Option<u64>,
    /// Why the key's session is not tracked; `None`: it is, or there is no key.
    pub session_untracked: Option<String>,
    pub tokens_scope: Option<TokensScope>,
}

/// All that is known when a task ends.
#[derive(Debug, Clone, PartialEq)]
pub struct Ended {
    pub ending: Ending,
    pub error: Option<String>,
    pub source: EndSource,
    /// `None`: nobody saw the end.
    pub finished_at: Option<Time>,
    /// CLOCK_MONOTONIC, milliseconds.
    pub duration_ms: Option<i64>,
    pub exit: Option<Exit>,
    pub stop_signal: Option<Signal>,
    pub stop_sender: Option<Sender>,
    pub counts: Counts,
    /// The agent's own cumulative figure for its session, US dollars.
    pub session_cost_usd: Option<f64>,
    pub model: Option<String>,
    pub session_id: Option<SessionId>,
    /// The tool that was called and had not answered.
    pub tool_in_flight: Option<String>,
    /// The agent began another conversation than the one it was told to go on with.
    pub context_lost: bool,
    /// Whether the transcript lay where bookend looks for it; `None`: bookend did not look.
    pub transcript_seen: Option<bool>,
    /// What the session is kept after although the run failed.
    pub session_kept: Option<KeepSession>,
    /// When the usage limit that ended the run is lifted.
    pub limit_resets_at: Option<Time>,
    pub oom_killed: Option<bool>,
    pub cpu_ms: Option<i64>,
    pub max_rss_kib: Option<i64>,
    /// JSON: `{"found":N,"ended":N,"pids":[…]}`.
    pub leftovers: Option<String>,
    /// Whether the run used its session: exec happened, and the agent did not refuse its arguments.
    pub executed: bool,
}

impl Ended {
    /// An ending of which nothing else is known.
    pub fn unknown(ending: Ending) -> Ended {
        Ended {
            ending,
            error: None,
            source: EndSource::Recovery,
            finished_at: None,
            duration_ms: None,
            exit: None,
            stop_signal: None,
            stop_sender: None,
            counts: Counts::default(),
            session_cost_usd: None,
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
