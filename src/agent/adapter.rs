//! The interface of an adapter: what it reads from a command line and from its agent's output.

use std::borrow::Cow;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::transcript::TranscriptReader;
use crate::task::{
    ExitMeaning, KeepSession, SessionId, SessionTotals, SignalScope, Time, TokenUsage, TokensScope,
    UsageCounts,
};

/// The output format that the agent's arguments select.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputMode {
    /// An interactive session, an agent without an adapter, or no conversation at all.
    Interactive,
    /// Print mode with the final text only: bookend reads nothing from it.
    Text,
    /// One JSON object at the end, or with `--verbose` one array.
    Json,
    /// One JSON event per line, as they happen.
    StreamJson,
}

/// The session that the agent's arguments select.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionRequest {
    /// None: bookend may add session options.
    Unspecified,
    /// Resume this one (an id, a chat id or a name).
    Resume(SessionId),
    /// A resume option without a value: the agent shows a list to choose from.
    ResumePicker,
    /// Resume the most recent conversation of this folder.
    Continue,
    /// A new conversation with this id; `None`: the agent chooses the id.
    Assign(Option<SessionId>),
    /// Copy the first session (`None`: the most recent one, or one chosen from a list) to a new one with
    /// the second id (`None`: the agent chooses it).
    Fork(Option<SessionId>, Option<SessionId>),
    /// The agent does not save this conversation: it cannot be resumed.
    NotKept,
    /// The conversation continues in the background after the agent has exited. Holds the session that the
    /// other arguments select.
    Background(Box<SessionRequest>),
    /// The process holds no conversation (a subcommand, `--version`, a cloud session): there is nothing to
    /// add and nothing to resume.
    NoConversation,
}

/// What an adapter reads from the agent's arguments before the agent starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentArgs {
    pub mode: OutputMode,
    pub session: SessionRequest,
    pub model: Option<String>,
    /// The directory in which the agent works, if not the one in which it starts (`codex -C`).
    pub cwd: Option<PathBuf>,
    /// Folders besides the working directory whose skills the agent loads (`--add-dir`).
    pub extra_dirs: Vec<PathBuf>,
    /// Further prompts come on stdin (`--input-format stream-json`), each with its own result: an agent
    /// that keeps running after a result does not linger.
    pub conversing: bool,
}

/// The session that bookend chose, to be added to the agent's arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionPlan {
    /// Keep the arguments as the user gave them.
    AsGiven,
    /// Start a new conversation with this id (agents that accept one).
    Assign(SessionId),
    /// Resume the conversation with this id.
    Resume(SessionId),
}

/// What has been read from the agent's output so far.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ObservedOutput {
    /// The session id in the last event that has one.
    pub session_id: Option<SessionId>,
    pub model: Option<String>,
    /// As the agent reported them: for this run only, except what covers the session. Tokens and turns are
    /// counted while the agent works and then replaced by the figures of its results.
    pub counts: UsageCounts,
    pub tokens_cover: ReportCovers,
    /// The cost in the last result, as the agent reported it, US dollars.
    pub reported_cost_usd: Option<f64>,
    pub cost_covers: ReportCovers,
    /// The last result reports that the API rejected a request.
    pub api_failure: Option<ApiFailure>,
    pub result: Option<RunResult>,
    /// The number of results so far.
    pub results: u32,
    /// Background tasks of the agent still run. When one ends, the agent may start another turn.
    pub background: bool,
    /// A turn began after the last result: another result is due.
    pub open_turn: bool,
    /// The name of the tool that was called last and has not returned.
    pub tool_in_flight: Option<String>,
}

impl ObservedOutput {
    /// The totals of the session that the agent reported. Claude Code 2.1.330 does not count what a version
    /// that reports per run spent on the session.
    pub fn reported_totals(&self) -> SessionTotals {
        let of_session = |covers| covers == ReportCovers::Session;
        SessionTotals {
            cost_usd: self.reported_cost_usd.filter(|_| of_session(self.cost_covers)),
            tokens: of_session(self.tokens_cover).then(|| TokenUsage::of(&self.counts)),
        }
    }
}

/// Which runs a reported cost or token count covers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ReportCovers {
    /// This run.
    #[default]
    Run,
    /// This run, until the agent reports the total of the session.
    RunOfSession,
    /// All runs of the session so far.
    Session,
}

/// How the API ended a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApiFailure {
    pub kind: ApiFailureKind,
    /// When the limit resets, Unix time in seconds, if the agent printed it.
    pub resets_at: Option<i64>,
    /// The events show that no tool call was open and no background task ran.
    pub was_idle: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApiFailureKind {
    /// The account's usage limit was reached.
    UsageLimit,
    /// HTTP status 429.
    TooManyRequests,
    Other,
}

impl ApiFailure {
    /// The first of the requested `--keep-session` values that keeps the session after this failure.
    pub fn kept_by(self, requested: &[KeepSession]) -> Option<KeepSession> {
        let covers: &[KeepSession] = match self.kind {
            ApiFailureKind::UsageLimit => &[KeepSession::Limit],
            ApiFailureKind::TooManyRequests => &[KeepSession::Limit, KeepSession::ApiError],
            ApiFailureKind::Other => &[KeepSession::ApiError],
        };
        covers.iter().copied().find(|k| self.was_idle && requested.contains(k))
    }
}

/// The last result event.
#[derive(Debug, Clone, PartialEq)]
pub struct RunResult {
    /// The error's text, if the result reports an error.
    pub error: Option<String>,
}

/// The figures that an agent reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReportedFigures {
    pub cost: bool,
    pub tokens: bool,
}

/// Reads an agent's output while it is written, in chunks of any size.
pub trait OutputReader {
    /// Takes the next bytes. Unknown text changes nothing.
    fn feed(&mut self, bytes: &[u8]);
    /// Takes the end of the output: a last line without a newline counts too.
    fn finish(&mut self);
    fn observed(&self) -> &ObservedOutput;
}

/// The names by which an agent is recognised. Lists are separated by white space.
#[derive(Debug, PartialEq, Eq)]
pub struct AgentNames {
    /// Base names of its program.
    pub programs: Cow<'static, str>,
    /// Base names that other programs have too: they count only with `--agent-type`.
    pub common: Cow<'static, str>,
    /// npm packages that contain it. In their folders, and as an argument of npx and similar programs, the
    /// common names count too.
    pub packages: Cow<'static, str>,
    /// Its releases are programs named by version in a folder `versions`.
    pub by_version: bool,
}

/// One agent program.
pub trait Adapter: Sync {
    /// The names by which it is recognised on a command line.
    fn names(&self) -> &AgentNames;
    /// The value of `agent_type`: `claude`, `codex`, `command`.
    fn agent_type(&self) -> &'static str;
    /// The version of the agent against which this was checked.
    fn checked(&self) -> Option<&'static str> {
        None
    }
    /// The service that runs the model; `None`: not known.
    fn provider(&self) -> Option<&'static str>;
    /// Whether bookend tracks this agent's sessions.
    fn tracks_sessions(&self) -> bool;
    /// Whether the id of a new session can be set (`claude --session-id`).
    fn can_assign(&self) -> bool;
    /// Whether the agent exits when its stdout is closed (`EPIPE`).
    fn notices_closed_stdout(&self) -> bool;
    /// Which of its processes get the signals that stop it.
    fn signals(&self) -> SignalScope {
        SignalScope::Main
    }
    /// Which conversations the token counts of its output include; `None`: not known.
    fn tokens_scope(&self) -> Option<TokensScope> {
        None
    }
    /// Parses the agent's own arguments. `terminal`: stdout is a terminal; without one, an agent uses print
    /// mode even if its arguments do not select it.
    fn parse(&self, args: &[OsString], terminal: bool) -> AgentArgs;
    /// The agent's own arguments with the session options of `plan` added.
    fn argv(&self, args: &[OsString], plan: &SessionPlan) -> Vec<OsString>;
    /// The arguments with which a person resumes the conversation `id`.
    fn resume_by_hand(&self, id: &SessionId) -> Vec<OsString> {
        self.argv(&[], &SessionPlan::Resume(id.clone()))
    }
    /// Those of `_args` that a person keeps who resumes a conversation: what the agent may do, and with what.
    fn kept_by_hand(&self, _args: &[OsString]) -> Vec<OsString> {
        Vec::new()
    }
    /// The figures that the agent reports in its JSON.
    fn reports(&self) -> ReportedFigures {
        ReportedFigures { cost: true, tokens: true }
    }
    /// The arguments that select output with figures; `None`: it has none.
    fn json_option(&self) -> Option<String> {
        self.stream_option()
    }
    /// The options that set the id of a new conversation.
    fn id_options(&self) -> Vec<&str> {
        Vec::new()
    }
    /// The arguments that select one event per line; `None`: it has none.
    fn stream_option(&self) -> Option<String> {
        None
    }
    /// What an exit code of the agent says.
    fn exit_meaning(&self, code: u8) -> ExitMeaning {
        if code == 0 { ExitMeaning::Ok } else { ExitMeaning::Unknown }
    }
    /// A reader for the output of a captured mode (`Json`, `StreamJson`).
    fn reader(&self, mode: OutputMode) -> Box<dyn OutputReader>;
    /// The file of the conversation `id` of an agent run in `cwd`. It may not exist. `None`: not known.
    fn transcript(&self, cwd: &Path, id: &SessionId) -> Option<PathBuf>;
    /// Reads a line of such a file; `None`: bookend does not know its form.
    fn transcript_reader(&self) -> Option<TranscriptReader> {
        None
    }
    /// The id of the most recent conversation in `cwd`; `None`: not known.
    fn most_recent(&self, cwd: &Path) -> Option<SessionId>;
    /// The id of the only conversation that was sent to the background from `cwd` since `_since`; `None`:
    /// not known.
    fn backgrounded(&self, _cwd: &Path, _since: Time) -> Option<SessionId> {
        None
    }
    /// The folders in which the agent looks for skills, in its order.
    fn skill_folders(&self, cwd: &Path, args: &AgentArgs) -> Vec<PathBuf>;
}
