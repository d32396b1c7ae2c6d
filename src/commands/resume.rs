//! `bookend resume`: opens a task's conversation for a person, as a run under the same key.

use std::ffi::OsString;
use std::path::Path;

use tracing::level_filters::LevelFilter;

use crate::agent::{self, RecognisedAgent, SessionPlace, SessionRequest};
use crate::commands::find::{self, TaskChoice};
use crate::error::Error;
use crate::exit::Exit;
use crate::ledger::{self, Ledger};
use crate::process::spawn::caller::Caller;
use crate::recovery::trust;
use crate::run;
use crate::run::options::{RunOptions, WhenBusy, kept};
use crate::task::Task;
use crate::view;

/// The options of `bookend resume`.
#[derive(Debug)]
pub struct ResumeOptions {
    pub which: TaskChoice,
    pub allow_unsafe_resume: bool,
    pub when_busy: WhenBusy,
    pub level: LevelFilter,
}

/// Runs the task's agent on the task's conversation, where the task was started.
///
/// # Errors
/// When the row does not hold what is needed, or bookend does not know how the agent resumes a conversation;
/// then as [`run::run`].
pub fn resume(options: &ResumeOptions, ledger: Option<&Path>, caller: Caller) -> Result<Exit, Error> {
    let at = ledger::locate(ledger)?;
    if !at.file.exists() {
        return Err(find::no_ledger(&find::nothing(&options.which), &at));
    }
    let (opened, merged) = Ledger::open_for_run(&at)?;
    ledger::report_merged(&merged);
    let task = find::choose_in(&opened, &options.which)?;
    if let Some(distrust) = opened.distrust() {
        let id = view::operand(task.id.as_str());
        return Err(refused(&task, &distrust.why).hint(format!(
            "{}, look at its row ({}) and try again; nothing was executed",
            trust::remedy(&distrust),
            view::suggestion(at.option(), &format!("show {id}"))
        )));
    }
    let (argv, stored) = kept(&task).ok_or_else(|| no_command(&task))?;
    let line = by_hand(&task, &argv, stored.agent_type.as_deref())?;
    let cwd = task.cwd.as_deref().map_or(stored.cwd_at_start.as_path(), Path::new);
    for dir in [&stored.cwd_at_start, cwd] {
        if !dir.is_dir() {
            let why = format!("the directory {} does not exist", dir.display());
            return Err(refused(&task, &why).hint("create it; nothing was executed"));
        }
    }
    let from = &stored.cwd_at_start;
    std::env::set_current_dir(from)
        .map_err(|e| refused(&task, &format!("entering {}", from.display())).caused_by(e))?;
    let request = RunOptions {
        // An agent's own option may have chosen it, such as `-C` of codex.
        cwd: Some(cwd.to_owned()),
        allow_unsafe_resume: options.allow_unsafe_resume,
        ..for_a_person(stored.request(line, options.when_busy, options.level))
    };
    run::run_in(&request, &at, opened, caller)
}

/// The options of the task's run without those that were for a run without a person: its limits, its hooks
/// and what had to be true before it.
fn for_a_person(options: RunOptions) -> RunOptions {
    RunOptions {
        prepare: None,
        require_skill: None,
        timeout: None,
        idle_timeout: None,
        budget: None,
        on_finish: None,
        hook_timeout: None,
        strict: false,
        fresh: false,
        ..options
    }
}

/// The command line that opens the conversation of a task: its launchers and its program, the words that
/// resume, and the options that a person keeps.
///
/// # Errors
/// When bookend does not know that command line, with what to do instead.
pub fn by_hand(task: &Task, argv: &[String], agent_type: Option<&str>) -> Result<Vec<String>, Error> {
    let Some(session) = &task.session_id else {
        let why = match &task.session_untracked {
            Some(why) => format!("its session is not tracked ({why})"),
            None => "its agent reported no session".to_owned(),
        };
        return Err(refused(task, &why).hint("start the agent yourself; nothing was executed"));
    };
    let words: Vec<OsString> = argv.iter().map(OsString::from).collect();
    let RecognisedAgent { adapter, args_start, place } =
        agent::recognise(&words, agent_type).map_err(Error::failed)?;
    let by_hand = adapter.resume_by_hand(session);
    let shown: Vec<String> = by_hand.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let there = match &place {
        SessionPlace::Here => None,
        SessionPlace::Elsewhere(by) => Some(format!("{by} started its agent as another user or elsewhere")),
        SessionPlace::Untracked(why) => Some(format!("its session is not tracked ({why})")),
    };
    if let Some(why) = there {
        return Err(refused(task, &why).hint(format!(
            "open the conversation where the agent ran, with the agent's own option, such as `{}`; nothing \
             was executed",
            view::command_line(&shown)
        )));
    }
    let kind = adapter.agent_type();
    let (before, own) = words.split_at(args_start);
    let args = [by_hand, adapter.kept_by_hand(own)].concat();
    if adapter.parse(&args, true).session != SessionRequest::Resume(session.clone()) {
        let why = format!("bookend does not know how {kind} resumes session {session}");
        return Err(refused(task, &why).hint("start the agent yourself; nothing was executed"));
    }
    let line: Vec<String> =
        before.iter().chain(&args).map(|word| word.to_string_lossy().into_owned()).collect();
    if line.iter().any(|word| word.contains(char::REPLACEMENT_CHARACTER)) {
        return Err(refused(task, "its command line is not UTF-8, and its row stores only text"));
    }
    Ok(line)
}

fn no_command(task: &Task) -> Error {
    refused(task, "its row does not store its command line")
}

fn refused(task: &Task, why: &str) -> Error {
    Error::failed(format!("the conversation of task {} cannot be resumed: {why}", task.id))
}
