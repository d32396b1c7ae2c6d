//! What an adapter is: what it reads from a command line and from the output of its agent.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::task::{KeepSession, SessionId, Time, TokensScope, UsageCounts};

/// What kind of output the user's argv asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputMode {
    /// A person at a terminal, an agent without an adapter, or no conversation at all.
    Interactive,
    /// Print mode, the final text only: nothing to read, silent until its end.
    Text,
    /// One JSON object, or with `--verbose` one array, at the end: silent until then.
    Json,
    /// One JSON event a line, as they happen.
    StreamJson,
}

/// What the user's argv says of sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionRequest {
    /// Nothing: bookend may inject.
    Unspecified,
    /// It names one to be resumed (an id, a chat id, or a name).
    Resume(SessionId),
    /// A resume flag without a value: the agent asks the person which.
    ResumePicker,
    /// The most recent conversation of this folder.
    Continue,
    /// A new conversation under this id; an empty one: the agent makes one up.
    Assign(Option<SessionId>),
    /// Resume the first (`None`: the most recent, or one that is picked), as a branch of its own under a
    /// new id (which the second names, if given).
    Fork(Option<SessionId>, Option<SessionId>),
    /// Nothing of this conversation is kept: it can never be resumed.
    NotKept,
    /// The conversation goes on in the background after the agent has exited. Inside: what the argv says
    /// otherwise.
    Background(Box<SessionRequest>),
    /// No conversation is held by this process (a subcommand, `--version`, a cloud session): there is
    /// nothing to inject into and nothing to resume.
    NoConversation,
}

/// What an adapter reads from the user's argv before anything is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentArgs {
    pub mode: OutputMode,
    pub session: SessionRequest,
    pub model: Option<String>,
    /// Folders beside the cwd whose skills count (`--add-dir`).
    pub extra_dirs: Vec<PathBuf>,
    /// Further prompts come on stdin (`--input-format stream-json`), each with a result of its own: the
    /// agent does not linger when it stays after one.
    pub conversing: bool,
}

/// What bookend decided about the session, to be put into the argv.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionPlan {
    /// The argv stays as the user gave it.
    AsGiven,
    /// A fresh conversation under this id (agents that can be told it).
    Assign(SessionId),
    /// The conversation of this id goes on.
    Resume(SessionId),
}

/// What has been read from the agent's output so far.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ObservedOutput {
    /// The session id named last.
    pub session_id: Option<SessionId>,
    pub model: Option<String>,
    /// Of this run alone but for `cost_usd`, which is `reported_cost_usd`. Tokens and turns are counted
    /// while the agent works; its results then set them right.
    pub counts: UsageCounts,
    /// The cost figure of the last result as the agent reported it, US dollars.
    pub reported_cost_usd: Option<f64>,
    pub cost_covers: CostCovers,
    /// The last result says that the API refused a request.
    pub api_failure: Option<ApiFailure>,
    pub result: Option<RunResult>,
    /// How many results have come.
    pub results: u32,
    /// Background tasks of the agent still run, and may begin a further turn when they end.
    pub background: bool,
    /// A turn began after the last result: a further one is due.
    pub open_turn: bool,
    /// The name of the tool that was called and has not answered.
    pub tool_in_flight: Option<String>,
}

/// What a reported cost covers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CostCovers {
    #[default]
    Run,
    /// All runs of the session so far.
    Session,
}

/// A run that the API ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApiFailure {
    pub kind: ApiFailureKind,
    /// When the limit is lifted, Unix time in seconds, where the agent printed it.
    pub resets_at: Option<i64>,
    /// The events show that no tool was in flight and no background task ran.
    pub left_nothing: bool,
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
    /// Which of these values of `--keep-session` keeps the session after it.
    pub fn kept_by(self, asked: &[KeepSession]) -> Option<KeepSession> {
        let covers: &[KeepSession] = match self.kind {
            ApiFailureKind::UsageLimit => &[KeepSession::Limit],
            ApiFailureKind::TooManyRequests => &[KeepSession::Limit, KeepSession::ApiError],
            ApiFailureKind::Other => &[KeepSession::ApiError],
        };
        covers.iter().copied().find(|k| self.left_nothing && asked.contains(k))
    }
}

/// The last result event.
#[derive(Debug, Clone, PartialEq)]
pub struct RunResult {
    /// The error's text where the event says error.
    pub error: Option<String>,
}

/// Reads an agent's output along, cut anywhere.
pub trait OutputReader {
    /// The next bytes. What is not understood changes nothing.
    fn feed(&mut self, bytes: &[u8]);
    /// No more will come: a last line without a newline counts too.
    fn finish(&mut self);
    fn observed(&self) -> &ObservedOutput;
}

/// By what an agent is known. Lists are parted by white space.
#[derive(Debug)]
pub struct AgentNames {
    /// Base names of its program.
    pub programs: &'static str,
    /// Base names that are also other programs': they count only where the agent's type is given.
    pub common: &'static str,
    /// Packages that hold it, as npx and the like name them: there a common name is its program too.
    pub packages: &'static str,
    /// Its releases are programs that are named by their version, in a folder `versions`.
    pub by_version: bool,
}

/// One agent program.
pub trait Adapter: Sync {
    /// By what it is known on a command line.
    fn names(&self) -> &'static AgentNames;
    /// The word for `agent_type`: `claude`, `cursor`, `command`.
    fn agent_type(&self) -> &'static str;
    /// Who serves the model, where the adapter knows it.
    fn provider(&self) -> Option<&'static str>;
    /// Whether bookend follows this agent's sessions at all.
    fn tracks_sessions(&self) -> bool;
    /// Whether the id of a new session can be chosen (`claude --session-id`).
    fn can_assign(&self) -> bool;
    /// Whether it notices that nobody reads its stdout any more, and ends by it.
    fn notices_closed_stdout(&self) -> bool;
    /// Whose tokens the counts of its output include, where that is known.
    fn tokens_scope(&self) -> Option<TokensScope> {
        None
    }
    /// `args` are the agent's own arguments. Whether stdout is a `terminal` decides if an agent that is
    /// not told to print will do so.
    fn parse(&self, args: &[OsString], terminal: bool) -> AgentArgs;
    /// The agent's own arguments with the plan put in where the agent looks for it.
    fn argv(&self, args: &[OsString], plan: &SessionPlan) -> Vec<OsString>;
    /// The option with which the user gives a new conversation its id.
    fn id_option(&self) -> Option<&'static str> {
        None
    }
    /// A reader for a captured mode (`Json`, `StreamJson`).
    fn reader(&self, mode: OutputMode) -> Box<dyn OutputReader>;
    /// Where the agent keeps the conversation `id` when run in `cwd`, or would; `None`: it cannot be told.
    fn transcript(&self, cwd: &Path, id: &SessionId) -> Option<PathBuf>;
    /// The id that "the most recent conversation of this folder" means now, where it can be told.
    fn most_recent(&self, cwd: &Path) -> Option<SessionId>;
    /// The id of the one conversation that was sent to the background from `cwd` since then, where it can be
    /// told.
    fn backgrounded(&self, _cwd: &Path, _since: Time) -> Option<SessionId> {
        None
    }
    /// The folders in which a skill may lie, in the order the agent looks.
    fn skill_folders(&self, cwd: &Path, asked: &AgentArgs) -> Vec<PathBuf>;
}
