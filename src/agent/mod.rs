//! Adapters: what bookend puts into an agent's argv, and what it reads from the agent's output.
//!
//! An adapter is data and two small functions, so that the next agent is a declaration. It knows neither
//! processes nor the ledger.

mod argv;
mod claude;
mod command;
mod cursor;
#[cfg(any(test, fuzzing))]
#[path = "../../tests/fuzz/properties/text.rs"]
pub mod fuzz;
mod launcher;
mod output;

use std::ffi::{OsStr, OsString};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::task::{Counts, KeepSession, Outcome, SessionId, TokensScope};

use claude::Claude;
use command::Command;
use cursor::Cursor;
pub use launcher::{Names, Place, Recognised, Untracked, mentioned, recognise};

/// What kind of output the user's argv asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
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
pub enum AskedSession {
    /// Nothing: bookend may inject.
    Unsaid,
    /// It names one to be resumed (an id, a chat id, or a name).
    Resume(SessionId),
    /// A resume flag without a value: the agent asks the person which.
    ResumePicker,
    /// The most recent conversation of this folder.
    Continue,
    /// A new conversation under this id; an empty one: the agent makes one up.
    Assign(SessionId),
    /// Resume the first (`None`: the most recent, or one that is picked), as a branch of its own under a
    /// new id (which the second names, if given).
    Fork(Option<SessionId>, Option<SessionId>),
    /// Nothing of this conversation is kept: it can never be resumed.
    NotKept,
    /// The conversation goes on in the background after the agent has exited. Inside: what the argv says
    /// otherwise.
    Background(Box<AskedSession>),
    /// No conversation is held by this process (a subcommand, `--version`, a cloud session): there is
    /// nothing to inject into and nothing to resume.
    NoConversation,
}

/// What an adapter reads from the user's argv before anything is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub mode: Mode,
    pub session: AskedSession,
    pub model: Option<String>,
    /// Folders beside the cwd whose skills count (`--add-dir`).
    pub extra_dirs: Vec<PathBuf>,
    /// Further prompts come on stdin (`--input-format stream-json`), each with a result of its own: the
    /// agent does not linger when it stays after one.
    pub conversing: bool,
}

/// What bookend decided about the session, to be put into the argv.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// The argv stays as the user gave it.
    AsGiven,
    /// A fresh conversation under this id (agents that can be told it).
    Assign(SessionId),
    /// The conversation of this id goes on.
    Resume(SessionId),
}

/// What has been read from the agent's output so far.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observed {
    /// The session id named last.
    pub session_id: Option<SessionId>,
    pub model: Option<String>,
    /// Of this run alone but for `cost_usd`, which is `reported_cost_usd`. Tokens and turns are counted
    /// while the agent works; its results then set them right.
    pub counts: Counts,
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
pub trait Reader {
    /// The next bytes. What is not understood changes nothing.
    fn feed(&mut self, bytes: &[u8]);
    /// No more will come: a last line without a newline counts too.
    fn finish(&mut self);
    fn observed(&self) -> &Observed;
}

/// One agent program.
pub trait Adapter: Sync {
    /// By what it is known on a command line.
    fn names(&self) -> &'static Names;
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
    fn asked(&self, args: &[OsString], terminal: bool) -> Asked;
    /// The agent's own arguments with the plan put in where the agent looks for it.
    fn argv(&self, args: &[OsString], plan: &Plan) -> Vec<OsString>;
    /// The option with which the user gives a new conversation its id.
    fn id_option(&self) -> Option<&'static str> {
        None
    }
    /// A reader for a captured mode (`Json`, `StreamJson`).
    fn reader(&self, mode: Mode) -> Box<dyn Reader>;
    /// Where the agent keeps the conversation `id` when run in `cwd`, or would; `None`: it cannot be told.
    fn transcript(&self, cwd: &Path, id: &SessionId) -> Option<PathBuf>;
    /// The id that "the most recent conversation of this folder" means now, where it can be told.
    fn most_recent(&self, cwd: &Path) -> Option<SessionId>;
    /// The id of the one conversation that was sent to the background from `cwd` since then (RFC 3339, UTC,
    /// milliseconds), where it can be told.
    fn backgrounded(&self, _cwd: &Path, _since: &str) -> Option<SessionId> {
        None
    }
    /// The folders in which a skill may lie, in the order the agent looks.
    fn skill_folders(&self, cwd: &Path, asked: &Asked) -> Vec<PathBuf>;
}

/// `--agent-type` names no adapter.
#[derive(Debug, thiserror::Error)]
#[error(
    "choosing the adapter for {}: there is no agent type `{named}`; use claude, cursor or command, \
     or leave --agent-type out to go by the program's name",
    program.display()
)]
pub struct UnknownAgentType {
    pub program: PathBuf,
    pub named: String,
}

/// The agents whose conversations are tracked.
static ADAPTERS: [&dyn Adapter; 2] = [&Claude, &Cursor];

/// The adapter of that `agent_type`.
pub fn by_type(agent_type: &str) -> Option<&'static dyn Adapter> {
    let all = ADAPTERS.iter().copied().chain([no_adapter()]);
    all.into_iter().find(|a| a.agent_type() == agent_type)
}

/// The adapter of every program that is no known agent.
fn no_adapter() -> &'static dyn Adapter {
    &Command
}

/// Whether `program` is the name of an agent, and not of something that starts one.
pub fn is_agent(program: &OsStr) -> bool {
    let adapter = recognise(&[program.to_owned()], None).map(|recognised| recognised.adapter);
    adapter.is_ok_and(|adapter| adapter.agent_type() != no_adapter().agent_type())
}

/// A command line, the program first, that gives its new conversation the id `new` if it gave it one.
pub fn with_new_id(argv: Vec<String>, agent_type: Option<&str>, new: &SessionId) -> Vec<String> {
    let words: Vec<OsString> = argv.iter().map(OsString::from).collect();
    let Ok(Recognised { adapter, own, place }) = recognise(&words, agent_type) else { return argv };
    let (false, Some(option)) = (matches!(place, Place::Untracked(_)), adapter.id_option()) else {
        return argv;
    };
    let given = match adapter.asked(&words[own..], false).session {
        AskedSession::Assign(id) | AskedSession::Fork(_, Some(id)) if !id.as_str().is_empty() => id,
        _ => return argv,
    };
    let glued = format!("{option}={given}");
    let mut renamed = argv.clone();
    for (at, word) in renamed.iter_mut().enumerate().skip(own) {
        if *word == glued {
            *word = format!("{option}={new}");
        } else if *word == given.as_str() && argv[at - 1] == option {
            new.as_str().clone_into(word);
        }
    }
    renamed
}

/// What the output says of success, once the agent has ended.
pub fn outcome_of(mode: Mode, observed: &Observed) -> Outcome {
    match (mode, &observed.result) {
        (Mode::Interactive | Mode::Text, _) => Outcome::NotDue,
        (Mode::Json | Mode::StreamJson, None) => Outcome::Missing,
        (Mode::Json | Mode::StreamJson, Some(_)) if observed.open_turn => Outcome::Missing,
        (Mode::Json | Mode::StreamJson, Some(RunResult { error: None })) => Outcome::Ok,
        (Mode::Json | Mode::StreamJson, Some(RunResult { error: Some(_) })) => Outcome::Error,
    }
}

/// Whether the agent still has the conversation `id`; `None`: it cannot be told. An empty transcript
/// cannot be resumed.
pub fn has_conversation(adapter: &dyn Adapter, cwd: &Path, id: &SessionId) -> Option<bool> {
    let transcript = adapter.transcript(cwd, id)?;
    Some(std::fs::metadata(transcript).is_ok_and(|m| m.is_file() && m.len() > 0))
}

/// Length and time of change of the agent's record of the conversation `id`; `None`: it is not found.
pub fn transcript_stamp(adapter: &dyn Adapter, cwd: &Path, id: &SessionId) -> Option<(u64, SystemTime)> {
    let metadata = std::fs::metadata(adapter.transcript(cwd, id)?).ok()?;
    Some((metadata.len(), metadata.modified().ok()?)).filter(|(length, _)| *length > 0)
}

/// Whether the agent's record of the conversation `id` begins as one: Claude Code exits without an event on a
/// damaged one, as it does on wrong arguments.
pub fn has_sound_transcript(adapter: &dyn Adapter, cwd: &Path, id: &SessionId) -> bool {
    let file = adapter.transcript(cwd, id).and_then(|path| std::fs::File::open(path).ok());
    let mut first = [0];
    file.is_some_and(|mut file| file.read_exact(&mut first).is_ok() && first == *b"{")
}

/// Whether the skill `name` (or `plugin:name`) lies in one of the agent's skill folders.
pub fn has_skill(adapter: &dyn Adapter, name: &str, cwd: &Path, asked: &Asked) -> bool {
    let name = name.rsplit(':').next().unwrap_or_default();
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        return false;
    }
    let folders = adapter.skill_folders(cwd, asked);
    folders.iter().any(|f| f.join(name).join("SKILL.md").is_file())
}

/// Characters of a name (a model, a tool) that are kept: it is written again with every progress.
const NAME: usize = 200;

/// What is kept of a name that an agent's output gives.
fn brief(name: &str) -> &str {
    if name.len() <= NAME {
        return name;
    }
    name.char_indices().nth(NAME).map_or(name, |(end, _)| &name[..end])
}

/// What is kept of the id of a call or a message: it may be as long as a line.
fn hash(id: &str) -> u64 {
    // Nobody gains by making two ids alike but the agent whose own counts would be wrong.
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    hasher.finish()
}

/// `args` with an option and its value put in at `at`, glued where the value could be taken for an option.
fn injected(args: &[OsString], at: usize, option: &str, value: &str) -> Vec<OsString> {
    let mut argv = args[..at].to_vec();
    if value.starts_with('-') {
        argv.push(format!("{option}={value}").into());
    } else {
        argv.extend([option.into(), value.into()]);
    }
    argv.extend_from_slice(&args[at..]);
    argv
}

/// `places` in `cwd` and each of its parents, the nearest first.
fn skills_above(cwd: &Path, places: &[&str]) -> Vec<PathBuf> {
    let dirs = cwd.ancestors();
    dirs.flat_map(|dir| places.iter().map(|p| dir.join(p))).collect()
}

fn home() -> Option<PathBuf> {
    std::env::home_dir().filter(|h| !h.as_os_str().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_the_user_gave_is_replaced_where_it_names_a_new_conversation() {
        let renamed = |line: &str| {
            with_new_id(line.split(' ').map(str::to_owned).collect(), None, &"NEW".into()).join(" ")
        };
        for (line, again) in [
            ("claude --session-id U -p hi", "claude --session-id NEW -p hi"),
            ("env A=b claude -p --session-id=U U", "env A=b claude -p --session-id=NEW U"),
            (
                "claude --resume A --fork-session --session-id U",
                "claude --resume A --fork-session --session-id NEW",
            ),
            ("claude -p hi", "claude -p hi"),
            ("claude --resume U -p hi", "claude --resume U -p hi"),
            ("claude -p -- --session-id U", "claude -p -- --session-id U"),
            ("bash -c claude --session-id U", "bash -c claude --session-id U"),
        ] {
            assert_eq!(renamed(line), again);
        }
    }

    #[test]
    fn ids_that_differ_are_kept_apart() {
        let ids = (0..100_000).map(|n| format!("msg_{n:06}_0123456789"));
        let odd = ["", "\0", "\0\0", "a", "a\0", "12345678", "12345678\0", "1234567812345678"];
        let all: Vec<u64> = ids.map(|id| hash(&id)).chain(odd.map(hash)).collect();
        let different: std::collections::HashSet<&u64> = all.iter().collect();
        assert_eq!(different.len(), all.len());
    }

    #[test]
    fn a_skill_is_found_by_its_exact_name_and_nothing_else() {
        let tmp = tempfile::tempdir().unwrap();
        let below = tmp.path().join("a/b");
        let skill = tmp.path().join(".claude/skills/deploy");
        std::fs::create_dir_all(&skill).unwrap();
        std::fs::create_dir_all(&below).unwrap();
        std::fs::write(skill.join("SKILL.md"), "x").unwrap();
        let claude = by_type("claude").unwrap();
        let asked = claude.asked(&[], false);
        let has = |name: &str| has_skill(claude, name, &below, &asked);
        assert!(has("deploy"));
        for name in ["Deploy", "deploy/", "../skills/deploy", "", ".", "..", "other"] {
            assert!(!has(name), "{name}");
        }
    }

    #[test]
    fn an_outcome_is_due_only_where_a_result_is_printed() {
        let mut o = Observed::default();
        assert_eq!(outcome_of(Mode::Text, &o), Outcome::NotDue);
        assert_eq!(outcome_of(Mode::StreamJson, &o), Outcome::Missing);
        o.result = Some(RunResult { error: None });
        o.background = true;
        assert_eq!(outcome_of(Mode::StreamJson, &o), Outcome::Ok);
        o.open_turn = true;
        assert_eq!(outcome_of(Mode::StreamJson, &o), Outcome::Missing);
    }
}
