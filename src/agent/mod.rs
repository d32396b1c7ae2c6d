//! Adapters: what bookend puts into an agent's argv, and what it reads from the agent's output.
//!
//! An adapter is data and two small functions, so that the next agent is a declaration. It knows neither
//! processes nor the ledger.

mod claude;
mod command;
mod cursor;
mod lines;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::task::{Counts, Outcome};

pub use lines::LineSplitter;

/// What kind of output the user's argv asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A person at a terminal, or an agent without an adapter.
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
    Resume(String),
    /// A resume flag without a value: the agent asks the person which.
    ResumePicker,
    /// The most recent conversation of this folder.
    Continue,
    /// A new conversation under this id.
    Assign(String),
    /// Resume the first, as a branch of its own under a new id (which the second names, if given).
    Fork(Option<String>, Option<String>),
    /// Nothing of this conversation is kept: it can never be resumed.
    NotKept,
}

/// What an adapter reads from the user's argv before anything is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub mode: Mode,
    pub session: AskedSession,
    pub model: Option<String>,
    /// Folders beside the cwd whose skills count (`--add-dir`).
    pub extra_dirs: Vec<PathBuf>,
}

/// What bookend decided about the session, to be put into the argv.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// The argv stays as the user gave it.
    AsGiven,
    /// A fresh conversation under this id (agents that can be told it).
    Assign(String),
    /// The conversation of this id goes on.
    Resume(String),
}

/// What has been read from the agent's output so far.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observed {
    /// The session id named last.
    pub session_id: Option<String>,
    pub model: Option<String>,
    /// Of this run alone but for `cost_usd`, which is as the agent reports it: see `session_cost_usd`.
    pub counts: Counts,
    /// The cost figure of the last result as the agent reported it: cumulative over the session for
    /// Claude after `--resume`, US dollars.
    pub reported_cost_usd: Option<f64>,
    pub result: Option<RunResult>,
    /// Background tasks of the agent that still run: a further result is due.
    pub background: bool,
    /// The name of the tool that was called and has not answered.
    pub tool_in_flight: Option<String>,
}

/// The last result event.
#[derive(Debug, Clone, PartialEq)]
pub struct RunResult {
    /// The error's text where the event says error.
    pub error: Option<String>,
}

/// Reads an agent's output, a line at a time.
pub trait Reader {
    /// One line without its newline. A line that is not understood changes nothing.
    fn line(&mut self, line: &[u8]);
    fn observed(&self) -> &Observed;
}

/// One agent program.
pub trait Adapter {
    /// The word for `agent_type`: `claude`, `cursor`, `command`.
    fn agent_type(&self) -> &'static str;
    /// Who serves the model, where the adapter knows it.
    fn provider(&self) -> Option<&'static str>;
    /// Whether bookend follows this agent's sessions at all.
    fn tracks_sessions(&self) -> bool;
    /// Whether the id of a new session can be chosen (`claude --session-id`).
    fn can_assign(&self) -> bool;
    /// Whether the cost figure goes on counting in a resumed session.
    fn cost_is_cumulative(&self) -> bool;
    /// `args` is the argv without the program.
    fn asked(&self, args: &[OsString]) -> Asked;
    /// The argv (without the program) with the plan put in where the agent looks for it.
    fn argv(&self, args: &[OsString], plan: &Plan) -> Vec<OsString>;
    /// A reader for a captured mode (`Json`, `StreamJson`).
    fn reader(&self, mode: Mode) -> Box<dyn Reader>;
    /// Where the agent keeps the conversation `id` when run in `cwd`; `None`: it cannot be told.
    fn transcript(&self, cwd: &Path, id: &str) -> Option<PathBuf>;
    /// The id that "the most recent conversation of this folder" means now, where it can be told.
    fn most_recent(&self, cwd: &Path) -> Option<String>;
    /// The folders in which a skill may lie, in the order the agent looks.
    fn skill_folders(&self, cwd: &Path, asked: &Asked) -> Vec<PathBuf>;
}

/// The adapters that can be named with `--agent-type`.
pub const AGENT_TYPES: [&str; 3] = ["claude", "cursor", "command"];
