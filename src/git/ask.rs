//! Asking git, without a shell, so that it executes nothing that the repository names.
//!
//! The agent can write the repository's settings, and it may have been confined where git is not. Hooks, the
//! monitor of the file system, fetching, pagers and external diffs are switched off by variables that git
//! prefers to every file. Filters have names of the repository's choice: git is asked for those first. Its
//! answer also shows whether it knows such variables (since 2.31); if not, it is not asked to look at files.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tracing::debug;

use crate::error::Error;
use crate::exit::Exit;
use crate::helper::{self, Attendant, Wait, Waited, dev_null};
use crate::process::group;
use crate::process::spawn::caller::Caller;
use crate::process::spawn::environment::{self, OPTION_VARIABLES};
use crate::process::spawn::gate::{Gated, Launch};
use crate::sys;
use crate::task::{Signal, TaskId};

/// How long all that one run or one recovery asks of git may take.
const LIMIT: Duration = Duration::from_secs(2);
/// After this time a git that does nothing is taken to hang: it waits for a named pipe, or is stopped.
const QUIET: Duration = Duration::from_millis(150);
/// How long it must have done nothing by then.
const STEP: Duration = Duration::from_millis(50);
/// A longer answer is not read.
const LONGEST_ANSWER: u64 = 64 << 20;

/// Variables that are set for every git. `GIT_NO_LAZY_FETCH` is new in 2.45; an empty list of allowed
/// protocols keeps older ones from fetching objects that a partial clone lacks.
const VARIABLES: [(&str, &str); 5] = [
    ("LC_ALL", "C"),
    ("GIT_OPTIONAL_LOCKS", "0"),
    ("GIT_TERMINAL_PROMPT", "0"),
    ("GIT_NO_LAZY_FETCH", "1"),
    ("GIT_ALLOW_PROTOCOL", ""),
];
const SETTINGS: [(&str, &str); 2] = [("core.hooksPath", "/dev/null"), ("core.fsmonitor", "false")];
/// Where the operator keeps settings; every other variable of git's describes some other repository
/// (`git rev-parse --local-env-vars`), or makes git start programs or write files.
const KEPT: [&str; 4] = ["GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM", "GIT_EXEC_PATH"];

/// Why git did not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Silence {
    /// It failed, or cannot be started.
    Refused,
    /// It did not end in time and was killed, or there is no time left to ask it.
    Hung,
}

pub(super) type Answer<T = Vec<u8>> = Result<T, Silence>;

/// A question: git's arguments, what it reads, and settings besides those that are always made.
pub(super) struct Question<'q> {
    pub args: &'q [&'q str],
    pub input: Option<&'q [u8]>,
    pub emptied: &'q [Vec<u8>],
}

/// Git, as one run or one recovery may ask it.
pub struct Git<'a> {
    /// From an absolute entry of `PATH`: a relative one would be in the agent's directory.
    program: Option<PathBuf>,
    env: Vec<CString>,
    caller: &'a Caller,
    left: Duration,
    /// A question for settings that was put ahead of time.
    ahead: Option<Started>,
}

type Started = std::io::Result<(Gated, File)>;

/// The settings that matter here: those of filters, and two by which the answer itself is judged.
const SETTINGS_ASKED: Question<'_> = Question {
    args: &["config", "-z", "--show-scope", "--get-regexp", r"^(filter\..*|core\.(fsmonitor|worktree))$"],
    input: None,
    emptied: &[],
};

impl<'a> Git<'a> {
    /// `env`: what git inherits, but for the variables that steer git itself.
    pub fn new(mut env: Vec<CString>, caller: &'a Caller) -> Git<'a> {
        let path = absolute(std::env::var_os("PATH").as_deref());
        let program = which::which_in("git", Some(&path), "/").ok();
        env.retain(|entry| !steers_git(entry.to_bytes()));
        env.push(entry(b"PATH", path.as_bytes()));
        env.extend(VARIABLES.map(|(name, value)| entry(name.as_bytes(), value.as_bytes())));
        Git { program, env, caller, left: LIMIT, ahead: None }
    }

    /// Git, with the environment of bookend itself for the task `id`.
    pub fn for_task(id: &TaskId, caller: &'a Caller) -> Git<'a> {
        let add = [(environment::FINISHED, OsStr::new(id.as_str()))];
        Git::new(environment::inherited(&OPTION_VARIABLES, &add), caller)
    }

    /// Asks for the settings already, to have them when [`Git::settings`] is called. No other child of the
    /// attendant's may be waited for in between: it would take note of its own only.
    pub(super) fn begin(&mut self, top: &Path) {
        self.ahead = Some(self.start(top, &SETTINGS_ASKED));
    }

    /// The settings of filters and of git itself, as `git config --show-scope -z` writes them.
    ///
    /// # Errors
    /// As [`Attendant::wait`].
    pub(super) fn settings(&mut self, top: &Path, attendant: &mut dyn Attendant) -> Result<Answer, Error> {
        match self.ahead.take() {
            Some(started) => self.answer(started, &SETTINGS_ASKED, attendant),
            None => self.ask(top, &SETTINGS_ASKED, attendant),
        }
    }

    /// What git says in the directory `top`, which is the top of a worktree.
    ///
    /// # Errors
    /// As [`Attendant::wait`].
    pub(super) fn ask(
        &mut self,
        top: &Path,
        question: &Question<'_>,
        attendant: &mut dyn Attendant,
    ) -> Result<Answer, Error> {
        if self.left.is_zero() {
            return Ok(Err(Silence::Hung));
        }
        let started = self.start(top, question);
        self.answer(started, question, attendant)
    }

    fn answer(
        &mut self,
        started: Started,
        question: &Question<'_>,
        attendant: &mut dyn Attendant,
    ) -> Result<Answer, Error> {
        let (child, answer) = match started {
            Ok(started) => started,
            Err(e) => {
                debug!("asking git {}: {e}", question.args.join(" "));
                return Ok(Err(Silence::Refused));
            }
        };
        let ended = self.await_end(child, attendant)?;
        Ok(match ended {
            Some(Exit::Code(0)) => read(answer).ok_or(Silence::Refused),
            Some(_) => Err(Silence::Refused),
            None => Err(Silence::Hung),
        })
    }

    fn start(&self, top: &Path, question: &Question<'_>) -> Started {
        let program = self.program.as_deref().ok_or(std::io::ErrorKind::NotFound)?;
        let words: Vec<&OsStr> = [program.as_os_str()]
            .into_iter()
            .chain(["--no-pager", "--no-optional-locks"].iter().chain(question.args).map(OsStr::new))
            .collect();
        let answer = sys::memory_file("git", b"")?;
        let input = question.input.map(|bytes| sys::memory_file("git", bytes)).transpose()?;
        let launch = Launch::new(&words, self.environment(top, question.emptied))?
            .cwd(Some(top.as_os_str()))?
            .own_group()
            .stdio(0, input.map_or_else(dev_null, |file| Ok(file.into()))?)
            .stdio(1, answer.try_clone()?.into())
            .stdio(2, dev_null()?);
        let mut child = Gated::start(launch, self.caller)?;
        child.open();
        Ok((child, answer))
    }

    fn environment(&self, top: &Path, emptied: &[Vec<u8>]) -> Vec<CString> {
        let mut env = self.env.clone();
        // A repository that was broken meanwhile must not make git look at the one around it.
        let above = top.parent().unwrap_or(top).as_os_str().as_bytes();
        env.push(entry(b"GIT_CEILING_DIRECTORIES", above));
        let made = SETTINGS.map(|(key, value)| (key.as_bytes(), value.as_bytes()));
        let settings = made.into_iter().chain(emptied.iter().map(|key| (key.as_slice(), &b""[..])));
        let mut count = 0;
        for (key, value) in settings {
            env.push(entry(format!("GIT_CONFIG_KEY_{count}").as_bytes(), key));
            env.push(entry(format!("GIT_CONFIG_VALUE_{count}").as_bytes(), value));
            count += 1;
        }
        env.push(entry(b"GIT_CONFIG_COUNT", count.to_string().as_bytes()));
        env
    }

    /// Waits for the child for as long as it works, within the limit; `None`: it was killed.
    fn await_end(&mut self, child: Gated, attendant: &mut dyn Attendant) -> Result<Option<Exit>, Error> {
        let begun = Instant::now();
        let left = self.left;
        let until = move |bound: Duration| {
            Wait::Until(Some(Instant::now() + bound.min(left.saturating_sub(begun.elapsed()))))
        };
        let is_stopping = attendant.is_stopping();
        let mut effort = None;
        let helper = helper::attend(child, None, until(QUIET), attendant, &mut |child, waited| {
            let is_hurried = is_stopping || matches!(waited, Waited::Stop(_));
            if is_hurried || begun.elapsed() >= left {
                return Wait::GiveUp;
            }
            let now = Effort::of(child.pid);
            match effort.replace(now) {
                Some(before) if !now.is_more_than(before) => Wait::GiveUp,
                _ => until(STEP),
            }
        })?;
        self.left = left.saturating_sub(begun.elapsed());
        let Some(helper) = helper else { return Ok(None) };
        if helper.ended.is_none() {
            debug!("git did not end in time and is killed");
            group::signal(&helper.child, Signal::KILL);
        }
        Ok(helper.ended)
    }
}

/// The absolute entries of a `PATH`.
fn absolute(path: Option<&OsStr>) -> std::ffi::OsString {
    let path = path.unwrap_or(OsStr::new("/usr/bin:/bin"));
    std::env::join_paths(std::env::split_paths(path).filter(|p| p.is_absolute())).unwrap_or_default()
}

fn steers_git(entry: &[u8]) -> bool {
    let name = entry.split(|&b| b == b'=').next().unwrap_or_default();
    let is_kept = KEPT.iter().any(|kept| kept.as_bytes() == name);
    (name.starts_with(b"GIT_") && !is_kept) || name == b"PATH" || name == b"LC_ALL"
}

fn entry(name: &[u8], value: &[u8]) -> CString {
    // Neither a path nor a setting can hold a NUL byte.
    CString::new([name, b"=", value].concat()).unwrap_or_default()
}

/// The answer, from its beginning: git moved the offset that both share.
fn read(mut answer: File) -> Option<Vec<u8>> {
    use std::io::Seek;
    if answer.metadata().ok()?.len() > LONGEST_ANSWER {
        return None;
    }
    let mut bytes = Vec::new();
    answer.rewind().ok()?;
    answer.read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// What a process was seen to do.
#[derive(Debug, Clone, Copy)]
struct Effort {
    /// It runs, wants to, or waits for a disk.
    is_busy: bool,
    /// CPU time of all its threads, in clock ticks.
    ticks: u64,
}

impl Effort {
    fn of(pid: i32) -> Effort {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields: Vec<&str> =
            stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
        let number = |n: usize| fields.get(n).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
        // Fields 14 and 15 of proc_pid_stat(5); the state is field 3.
        let is_busy = matches!(fields.first(), Some(&("R" | "D")));
        Effort { is_busy, ticks: number(11) + number(12) }
    }

    fn is_more_than(self, before: Effort) -> bool {
        self.is_busy || self.ticks > before.ticks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_settings_of_the_operator_reach_git() {
        let dropped = ["GIT_DIR=x", "GIT_CONFIG_COUNT=1", "GIT_EXTERNAL_DIFF=x", "GIT_TRACE=1", "PATH=x"];
        assert!(dropped.iter().all(|entry| steers_git(entry.as_bytes())));
        let kept = ["GIT_CONFIG_GLOBAL=x", "GITHUB_TOKEN=x", "HOME=x", "XGIT_DIR=x", "GIT_EXEC_PATH=/x"];
        assert!(!kept.iter().any(|entry| steers_git(entry.as_bytes())));
    }

    #[test]
    fn only_absolute_entries_of_the_path_are_searched() {
        assert_eq!(absolute(Some(OsStr::new(".:/x::y/z:/y"))), "/x:/y");
        assert_eq!(absolute(None), "/usr/bin:/bin");
    }
}
