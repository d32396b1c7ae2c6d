//! Adapters: they recognise an agent, add session options to its command line and read its output.
//!
//! An adapter is mostly data, so that a new agent needs a table and few functions. Adapters know neither
//! processes nor the ledger.

mod adapter;
mod argv;
mod claude;
mod command;
mod declared;
#[cfg(any(test, fuzzing))]
#[path = "../../tests/fuzz/properties/text.rs"]
pub mod fuzz;
mod home;
mod launcher;
mod output;
mod registry;
mod transcript;

use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::io::Read;
use std::path::Path;
use std::time::SystemTime;

use crate::task::{AgentOutcome, SessionId};

pub use adapter::{
    Adapter, AgentArgs, ObservedOutput, OutputMode, OutputReader, ReportCovers, RunResult, SessionPlan,
    SessionRequest,
};
pub use declared::DeclarationError;
pub use launcher::{RecognisedAgent, SessionPlace, UntrackedReason, mentioned, recognise};
use registry::no_adapter;
pub use registry::{DeclarationSource, KnownAgent, by_type, declared_in, known_agent, known_agents};
pub use transcript::{TranscriptEntry, TranscriptPart, TranscriptReader};

/// Whether `program` is the name of an agent (not of a launcher that starts one).
pub fn is_agent(program: &OsStr) -> bool {
    let adapter = recognise(&[program.to_owned()], None).map(|recognised| recognised.adapter);
    adapter.is_ok_and(|adapter| adapter.agent_type() != no_adapter().agent_type())
}

/// The command line `argv` (program first), with `new` as the id of its new conversation if it sets one.
pub fn with_new_id(argv: Vec<String>, agent_type: Option<&str>, new: &SessionId) -> Vec<String> {
    let words: Vec<OsString> = argv.iter().map(OsString::from).collect();
    let Ok(RecognisedAgent { adapter, args_start, place }) = recognise(&words, agent_type) else {
        return argv;
    };
    if matches!(place, SessionPlace::Untracked(_)) {
        return argv;
    }
    let given = match adapter.parse(&words[args_start..], false).session {
        SessionRequest::Assign(Some(id)) | SessionRequest::Fork(_, Some(id)) => id,
        _ => return argv,
    };
    let options = adapter.id_options();
    let mut renamed = argv.clone();
    for (at, word) in renamed.iter_mut().enumerate().skip(args_start) {
        if let Some(option) = options.iter().find(|option| *word == format!("{option}={given}")) {
            *word = format!("{option}={new}");
        } else if *word == given.as_str() && options.contains(&argv[at - 1].as_str()) {
            new.as_str().clone_into(word);
        }
    }
    renamed
}

/// What the output reports about success, once the agent has exited.
pub fn outcome_of(mode: OutputMode, observed: &ObservedOutput) -> AgentOutcome {
    match (mode, &observed.result) {
        (OutputMode::Interactive | OutputMode::Text, _) => AgentOutcome::NotDue,
        (OutputMode::Json | OutputMode::StreamJson, None) => AgentOutcome::Missing,
        (OutputMode::Json | OutputMode::StreamJson, Some(_)) if observed.open_turn => AgentOutcome::Missing,
        (OutputMode::Json | OutputMode::StreamJson, Some(RunResult { error: None })) => AgentOutcome::Ok,
        (OutputMode::Json | OutputMode::StreamJson, Some(RunResult { error: Some(_) })) => {
            AgentOutcome::Error
        }
    }
}

/// Whether the agent has a conversation `id` that can be resumed, with a transcript; `None`: not known.
pub fn has_conversation(adapter: &dyn Adapter, cwd: &Path, id: &SessionId) -> Option<bool> {
    let transcript = adapter.transcript(cwd, id)?;
    Some(stamp(&transcript).is_some())
}

/// Length in bytes and modification time of the transcript of `id`; `None`: it is not found or empty.
pub fn transcript_stamp(adapter: &dyn Adapter, cwd: &Path, id: &SessionId) -> Option<(u64, SystemTime)> {
    stamp(&adapter.transcript(cwd, id)?)
}

/// Length and modification time of a file; of a folder, the length of its files and the last of the times.
fn stamp(transcript: &Path) -> Option<(u64, SystemTime)> {
    let whole = std::fs::metadata(transcript).ok()?;
    let of = |m: &Metadata| Some((if m.is_file() { m.len() } else { 0 }, m.modified().ok()?));
    let files = whole.is_dir().then(|| std::fs::read_dir(transcript).ok()).flatten();
    let files = files.into_iter().flatten().filter_map(|entry| of(&entry.ok()?.metadata().ok()?));
    let add = |(length, at): (u64, SystemTime), (more, later)| (length + more, at.max(later));
    Some(files.fold(of(&whole)?, add)).filter(|(length, _)| *length > 0)
}

/// Whether the transcript of the conversation `id` begins with a JSON object, or is a folder. On a damaged
/// transcript Claude Code exits without an event, just as on wrong arguments.
pub fn has_sound_transcript(adapter: &dyn Adapter, cwd: &Path, id: &SessionId) -> bool {
    let Some(path) = adapter.transcript(cwd, id) else { return false };
    let mut first = [0];
    path.is_dir()
        || std::fs::File::open(path).is_ok_and(|mut f| f.read_exact(&mut first).is_ok() && first == *b"{")
}

/// Whether one of the agent's skill folders has the skill `name` (or `plugin:name`).
pub fn has_skill(adapter: &dyn Adapter, name: &str, cwd: &Path, args: &AgentArgs) -> bool {
    let name = name.rsplit(':').next().unwrap_or_default();
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        return false;
    }
    let folders = adapter.skill_folders(cwd, args);
    folders.iter().any(|f| f.join(name).join("SKILL.md").is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_id_of_a_new_conversation_is_replaced() {
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
    fn a_folder_of_a_conversation_counts_with_its_files() {
        let tmp = tempfile::tempdir().unwrap();
        assert_eq!(stamp(tmp.path()), None, "it is empty");
        std::fs::write(tmp.path().join("events.jsonl"), "{}").unwrap();
        let before = stamp(tmp.path()).unwrap();
        assert_eq!(before.0, 2);
        std::fs::write(tmp.path().join("events.jsonl"), "{}\n{}").unwrap();
        assert_ne!(stamp(tmp.path()), Some(before));
    }

    #[test]
    fn a_skill_is_found_by_its_exact_name_only() {
        let tmp = tempfile::tempdir().unwrap();
        let below = tmp.path().join("a/b");
        let skill = tmp.path().join(".claude/skills/deploy");
        std::fs::create_dir_all(&skill).unwrap();
        std::fs::create_dir_all(&below).unwrap();
        std::fs::write(skill.join("SKILL.md"), "x").unwrap();
        let claude = by_type("claude").unwrap().unwrap();
        let args = claude.parse(&[], false);
        let has = |name: &str| has_skill(claude, name, &below, &args);
        assert!(has("deploy"));
        for name in ["Deploy", "deploy/", "../skills/deploy", "", ".", "..", "other"] {
            assert!(!has(name), "{name}");
        }
    }

    #[test]
    fn a_result_is_due_only_in_json_modes() {
        let mut o = ObservedOutput::default();
        assert_eq!(outcome_of(OutputMode::Text, &o), AgentOutcome::NotDue);
        assert_eq!(outcome_of(OutputMode::StreamJson, &o), AgentOutcome::Missing);
        o.result = Some(RunResult { error: None });
        o.background = true;
        assert_eq!(outcome_of(OutputMode::StreamJson, &o), AgentOutcome::Ok);
        o.open_turn = true;
        assert_eq!(outcome_of(OutputMode::StreamJson, &o), AgentOutcome::Missing);
    }
}
