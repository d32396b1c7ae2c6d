//! The agent's command line: which agent it starts, under which key, and how its output is read.

use std::path::{Path, PathBuf};

use crate::agent::{self, Adapter, AgentArgs, OutputMode, SessionPlace, SessionRequest, UntrackedReason};
use crate::error::Error;
use crate::ledger::{LiveLock, Location};
use crate::process::spawn::caller;
use crate::run::options::RunOptions;
use crate::sys;
use crate::task::{Key, Provider};

/// What every step of a run refers to.
pub(super) struct RunContext<'a> {
    pub(super) options: &'a RunOptions,
    pub(super) command: &'a AgentCommand,
    /// Where the ledger is.
    pub(super) location: &'a Location,
    /// Held from before the claim until the end of the run.
    pub(super) live: &'a LiveLock,
}

/// The agent's command line, resolved from the options and from its own words, before anything is changed.
pub(super) struct AgentCommand {
    pub(super) adapter: &'static dyn Adapter,
    /// The index in the command line at which the agent's own arguments begin.
    pub(super) own_args: usize,
    pub(super) place: SessionPlace,
    pub(super) asked: AgentArgs,
    pub(super) key: Option<Key>,
    pub(super) persona: String,
    pub(super) provider: Option<Provider>,
    /// The agent's working directory, absolute.
    pub(super) cwd: PathBuf,
    /// Whether bookend reads the agent's stdout and passes it on.
    pub(super) captured: bool,
    /// What the user may expect and does not get: a session that is tracked, a key.
    pub(super) warnings: Vec<String>,
}

impl AgentCommand {
    /// Resolves the command line of `options`.
    ///
    /// # Errors
    /// When `--agent-type` names an unknown agent, `--idle-timeout` is given for an agent whose output
    /// arrives only at its end, or `--budget` without a key.
    pub(super) fn resolve(options: &RunOptions) -> Result<AgentCommand, Error> {
        let recognised = agent::recognise(&options.argv, options.agent_type.as_deref()).map_err(|e| {
            let advice = e.advice();
            Error::usage(e).hint(format!("{advice}; nothing was executed"))
        })?;
        let agent::RecognisedAgent { adapter, args_start: own_args, place } = recognised;
        let terminal = std::io::IsTerminal::is_terminal(&sys::stdio(1));
        let asked = asked(adapter.parse(&options.argv[own_args..], terminal), &place, own_args, options);
        // An agent whose stdout is closed must find it closed.
        let captured = matches!(asked.mode, OutputMode::Json | OutputMode::StreamJson)
            && !terminal
            && caller::was_open(1);
        if options.idle_timeout.is_some() && !(captured && asked.mode == OutputMode::StreamJson) {
            return Err(silent(adapter, terminal));
        }
        let persona = options.agent.clone().unwrap_or_else(|| base_name(options));
        let key = options.key.clone().or_else(|| derived_key(options, &persona));
        if options.budget.is_some() && key.is_none() {
            return Err(Error::usage("--budget needs a key: it limits what the runs under one key cost")
                .hint("add --key, or --repo and --issue"));
        }
        let untracked = match &place {
            SessionPlace::Untracked(why) => untracked_warning(options, key.as_ref(), why),
            _ => None,
        };
        let warnings = keyless_warning(options, key.as_ref()).into_iter().chain(untracked).collect();
        let cwd = options.cwd.clone().unwrap_or_else(current_dir);
        let cwd = asked.cwd.as_ref().map_or(cwd.clone(), |own| cwd.join(own));
        let cwd = std::path::absolute(&cwd).unwrap_or(cwd);
        let provider = options.provider.clone().or_else(|| adapter.provider().map(Provider::recorded));
        Ok(AgentCommand { adapter, own_args, place, asked, key, persona, provider, cwd, captured, warnings })
    }

    /// Whether the agent continues in the background after its process has exited.
    pub(super) fn is_background(&self) -> bool {
        matches!(self.asked.session, SessionRequest::Background(_))
    }

    /// Why the key keeps no session of this run. `None`: the session is tracked, or there is no key.
    pub(super) fn untracked(&self) -> Option<String> {
        self.key.as_ref()?;
        match (&self.place, &self.asked.session) {
            (SessionPlace::Untracked(why), _) => Some(why.to_string()),
            (_, SessionRequest::Background(_)) => Some("backgrounded".to_owned()),
            (_, SessionRequest::NoConversation) => Some("no conversation".to_owned()),
            (_, SessionRequest::NotKept) => Some("not kept by the agent".to_owned()),
            _ => None,
        }
    }

    /// Whether the output arrives while the agent works, so that silence means something.
    pub(super) fn streams(&self) -> bool {
        self.captured && self.asked.mode == OutputMode::StreamJson
    }

    /// The agent's directory without symbolic links, along which git looks for a worktree. getcwd(3) returns
    /// the current directory without links.
    pub(super) fn physical_cwd(&self, options: &RunOptions) -> PathBuf {
        let is_given = options.cwd.is_some() || self.asked.cwd.is_some();
        let given = is_given.then(|| self.cwd.canonicalize().ok()).flatten();
        given.unwrap_or_else(|| self.cwd.clone())
    }
}

/// Why `--idle-timeout` is refused: the output arrives only at the end, or bookend does not see it.
fn silent(adapter: &dyn Adapter, terminal: bool) -> Error {
    let needs = "--idle-timeout needs output that arrives while the agent works";
    let why = match adapter.stream_option() {
        Some(_) if terminal => "stdout must not be a terminal".to_owned(),
        Some(option) => format!("add `{option}` to its command line, with stdout not a terminal"),
        None => "bookend reads no events from this program".to_owned(),
    };
    Error::usage(format!("{needs}: {why}")).hint("--timeout limits the whole run in every mode")
}

/// What the agent's own arguments ask for, as far as bookend can read them at this place.
fn asked(asked: AgentArgs, place: &SessionPlace, own_args: usize, options: &RunOptions) -> AgentArgs {
    // Another user or machine may have another directory of this name.
    let asked = match place {
        SessionPlace::Here => asked,
        SessionPlace::Elsewhere(_) | SessionPlace::Untracked(_) => AgentArgs { cwd: None, ..asked },
    };
    match (place, own_args < options.argv.len()) {
        (SessionPlace::Untracked(_), true) => AgentArgs { session: SessionRequest::NoConversation, ..asked },
        // None of its arguments is known.
        (SessionPlace::Untracked(_), false) => {
            AgentArgs { mode: OutputMode::Interactive, session: SessionRequest::NoConversation, ..asked }
        }
        _ => asked,
    }
}

/// The name of the program, without its directory.
fn base_name(options: &RunOptions) -> String {
    let program = &options.argv[0];
    Path::new(program).file_name().unwrap_or(program).to_string_lossy().into_owned()
}

/// The key of `--repo` and `--issue`. With only one of them there is none: unrelated runs would share it.
fn derived_key(options: &RunOptions, persona: &str) -> Option<Key> {
    let (repo, issue) = (options.repo.as_ref()?, options.issue?);
    Some(Key::recorded(format!("{}:{persona}:{repo}:{issue}", options.forge)))
}

/// The warning about an issue number that no key is made from. A repository alone is only a label.
fn keyless_warning(options: &RunOptions, key: Option<&Key>) -> Option<String> {
    let issue = options.issue.filter(|_| key.is_none())?;
    Some(format!(
        "--issue {issue} without --repo makes no key: a second run is not refused, and no session is \
         resumed; add --repo or --key"
    ))
}

/// The warning about a command line that names an agent whose session is not tracked.
fn untracked_warning(options: &RunOptions, key: Option<&Key>, why: &UntrackedReason) -> Option<String> {
    let is_asked_for = matches!(why, UntrackedReason::Ambiguous(_)) || key.is_some();
    let agent = is_asked_for.then(|| agent::mentioned(&options.argv, why)).flatten()?;
    let session = key.map_or("its session".to_owned(), |key| format!("the session of key {key}"));
    let is_named = options.agent_type.is_some();
    let because = match why {
        UntrackedReason::Elsewhere(by) if !is_named => format!(
            "{by} runs {agent} as another user or on another machine; add --agent-type {agent}, or run \
             bookend there"
        ),
        UntrackedReason::Elsewhere(by) => {
            format!("the arguments of {by} do not show where those of {agent} begin; run bookend there")
        }
        UntrackedReason::Hidden(by) => {
            format!("{by} may start {agent} among others; give bookend the command line of {agent} itself")
        }
        UntrackedReason::Unclear(by) => format!(
            "bookend does not know all options of {by}; give bookend the command line of {agent} itself"
        ),
        UntrackedReason::Ambiguous(by) | UntrackedReason::NoAdapter(by) => format!(
            "bookend does not know how {by} starts {agent}; give bookend the command line of {agent} itself"
        ),
    };
    Some(format!("{session} is not tracked: {because}"))
}

pub(super) fn current_dir() -> PathBuf {
    std::env::current_dir().unwrap_or_default()
}
