//! Runs git so that it executes nothing that the repository names.
//!
//! The agent can write the repository's settings, and may be sandboxed where git is not. Variables, which git
//! prefers to every file, disable hooks, the file system monitor, fetching, pagers and external diffs.
//! Filters have names that the repository chooses, so git lists those first. Its answer also shows whether it
//! knows these variables (since 2.31); an older git is not used on files.

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

/// Time for all questions to git of one run or one recovery.
const LIMIT: Duration = Duration::from_secs(2);
/// A git that is idle for this long is considered hung: it reads a named pipe, or is stopped.
const QUIET: Duration = Duration::from_millis(150);
/// Time between two checks whether git is idle.
const STEP: Duration = Duration::from_millis(50);
/// Longer answers are not read.
const LONGEST_ANSWER: u64 = 64 << 20;

/// Variables set for every git. `GIT_NO_LAZY_FETCH` exists since 2.45; an empty list of allowed protocols
/// stops an older git from fetching the objects that a partial clone lacks.
const VARIABLES: [(&str, &str); 5] = [
    ("LC_ALL", "C"),
    ("GIT_OPTIONAL_LOCKS", "0"),
    ("GIT_TERMINAL_PROMPT", "0"),
    ("GIT_NO_LAZY_FETCH", "1"),
    ("GIT_ALLOW_PROTOCOL", ""),
];
const SETTINGS: [(&str, &str); 2] = [("core.hooksPath", "/dev/null"), ("core.fsmonitor", "false")];
/// Variables that name the operator's settings. All others of git's describe another repository
/// (`git rev-parse --local-env-vars`), or make git start programs or write files.
const KEPT: [&str; 4] = ["GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM", "GIT_EXEC_PATH"];

/// Why git did not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoAnswer {
    /// It failed, or cannot be started.
    Refused,
    /// It did not exit in time and was killed, or no time is left.
    Hung,
}

pub(super) type Answer<T = Vec<u8>> = Result<T, NoAnswer>;

/// A question: git's arguments, its stdin, and the settings to empty besides the usual ones.
pub(super) struct Question<'q> {
    pub args: &'q [&'q str],
    pub input: Option<&'q [u8]>,
    pub emptied: &'q [Vec<u8>],
}

/// Git, for the questions of one run or one recovery.
pub struct Git<'a> {
    /// From an absolute entry of `PATH`: a relative one would lead into the agent's directory.
    program: Option<PathBuf>,
    env: Vec<CString>,
    caller: &'a Caller,
    left: Duration,
    /// The question for settings, asked ahead of time.
    ahead: Option<Started>,
}

type Started = std::io::Result<(Gated, File)>;

/// The settings that matter here: those of filters, and two that show whether the answer can be used.
const SETTINGS_ASKED: Question<'_> = Question {
    args: &["config", "-z", "--show-scope", "--get-regexp", r"^(filter\..*|core\.(fsmonitor|worktree))$"],
    input: None,
    emptied: &[],
};

impl<'a> Git<'a> {
    /// `env`: what git inherits, without the variables that control git itself.
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

    /// Asks for the settings ahead of [`Git::settings`]. Until then the attendant must not wait for another
    /// helper: it would miss the exit of this one.
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

    /// The answer of git in `top`, the top directory of a worktree.
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
            return Ok(Err(NoAnswer::Hung));
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
                return Ok(Err(NoAnswer::Refused));
            }
        };
        let ended = self.await_end(child, attendant)?;
        Ok(match ended {
            Some(Exit::Code(0)) => read(answer).ok_or(NoAnswer::Refused),
            Some(_) => Err(NoAnswer::Refused),
            None => Err(NoAnswer::Hung),
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
        // If the repository has been damaged, git must not find the one around it.
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

    /// Waits for the child while it works, within the limit. `None`: it was killed.
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
            debug!("git did not exit in time and is killed");
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
    // Neither a path nor a setting can contain a NUL byte.
    CString::new([name, b"=", value].concat()).unwrap_or_default()
}

/// The answer from its beginning: git has moved the shared file offset.
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

/// The activity of a process.
#[derive(Debug, Clone, Copy)]
struct Effort {
    /// It is running, runnable, or waiting for a disk.
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
