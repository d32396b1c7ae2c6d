//! Commands of the user's beside a task: `--prepare` before it, `--on-finish` and `--on-interrupted` after
//! it. The latter are given the task's row; `run` and `recover` start them through here alike.

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tracing::warn;

use crate::clock;
use crate::error::Error;
use crate::failpoint;
use crate::ledger::{Delivery, Ledger};
use crate::process::caller::Caller;
use crate::process::environment;
use crate::process::gate::{Gated, Launch, StartError};
use crate::process::watch::{Event, Interest, Source, Watch};
use crate::run::OPTION_VARIABLES;
use crate::supervise;
use crate::sys::{self, Change};
use crate::task::{Exit, Task};
use crate::view;

/// How long a hook may take.
const LIMIT: Duration = Duration::from_secs(60);

/// Who waits for a hook while it runs.
pub trait Attendant {
    fn ledger(&mut self) -> &mut Ledger;

    /// Waits until the child has ended: for `bound` at most, or until there is a hurry.
    ///
    /// # Errors
    /// When the kernel has no memory left to watch with.
    fn attend(&mut self, child: Gated, bound: Duration) -> Result<Attended, Error>;
}

/// A child that was waited for.
pub struct Attended {
    pub child: Gated,
    pub start_error: Option<StartError>,
    /// `None`: it still runs.
    pub ended: Option<Exit>,
}

/// A hook that is to be run for one task.
pub struct Hook<'a> {
    pub command: &'a OsStr,
    pub cwd: &'a Path,
    /// `None`: it is not a delivery.
    pub attempt: Option<i64>,
}

/// Runs a hook with the row as JSON on its stdin; in words how it failed, if it did.
///
/// # Errors
/// As [`Attendant::attend`].
pub fn run(
    hook: &Hook<'_>,
    task: &Task,
    caller: &Caller,
    attendant: &mut dyn Attendant,
) -> Result<Result<(), String>, Error> {
    let ledger = attendant.ledger().path().to_owned();
    let attempt = hook.attempt.map(|n| OsString::from(n.to_string()));
    let mut add =
        vec![(environment::FINISHED, OsStr::new(&task.id)), (environment::LEDGER, ledger.as_os_str())];
    add.extend(attempt.iter().map(|n| (environment::ATTEMPT, n.as_os_str())));
    let env = environment::inherited(&OPTION_VARIABLES, &add);
    // A worktree that is gone by now is no reason to tell nobody.
    let cwd = if hook.cwd.is_dir() { hook.cwd } else { Path::new("/") };
    let started = row_as_file(task).and_then(|row| {
        let errors = sys::stdio(2).try_clone_to_owned().or_else(|_| dev_null())?;
        let launch = shell(hook.command, env)?
            .cwd(Some(cwd.as_os_str()))?
            .stdio(0, row)
            .stdio(1, errors.try_clone()?)
            .stdio(2, errors);
        Gated::start(launch, caller)
    });
    let mut child = match started {
        Ok(child) => child,
        Err(e) => return Ok(Err(format!("could not be started: {e}"))),
    };
    child.open();
    let attended = attendant.attend(child, LIMIT)?;
    if attended.ended.is_none() {
        // It is our child and not reaped: the pidfd means it.
        let _ = attended.child.signal(libc::SIGKILL, None);
    }
    Ok(match (attended.start_error, attended.ended) {
        (Some(e), _) => Err(format!("could not be started: {}", std::io::Error::from_raw_os_error(e.errno))),
        (None, Some(exit)) => outcome(exit),
        (None, None) => Err("did not end in time and was killed".to_owned()),
    })
}

/// In words how a command failed, if it did.
pub fn outcome(exit: Exit) -> Result<(), String> {
    match exit {
        Exit::Code(0) => Ok(()),
        Exit::Code(code) => Err(format!("left with exit code {code}")),
        Exit::Signal(signal) => Err(format!("was killed by signal {signal}")),
    }
}

/// `--on-finish` as the task's row keeps it.
pub fn on_finish(command: &OsStr, cwd: PathBuf) -> String {
    serde_json::json!({ "command": command.to_string_lossy(), "cwd": cwd.to_string_lossy() }).to_string()
}

/// Runs the task's `--on-finish` command, unless somebody else does or has. Whatever it does, the task's end
/// stays what it is. `given`: the command as it came, of which the row keeps the text only.
///
/// # Errors
/// As [`Attendant::attend`].
pub fn deliver(
    task: &Task,
    given: Option<&OsStr>,
    caller: &Caller,
    attendant: &mut dyn Attendant,
) -> Result<Option<Delivery>, Error> {
    let kept = |name: &str| task.on_finish.as_ref()?.get(name)?.as_str().map(str::to_owned);
    let kept_command = kept("command").map(OsString::from);
    let Some(command) = given.or(kept_command.as_deref()) else { return Ok(None) };
    let attempt = match attendant.ledger().begin_delivery(task) {
        Ok(Some(attempt)) => attempt,
        Ok(None) => return Ok(None),
        Err(e) => {
            warn!("the --on-finish command of task {} waits for `bookend recover`: {e}", task.id);
            return Ok(None);
        }
    };
    failpoint::reached("delivery.begun");
    // A run does not read back from the row where its own command is to be run: others may write there.
    let cwd = match given {
        Some(_) => std::env::current_dir().unwrap_or_default(),
        None => PathBuf::from(kept("cwd").unwrap_or_default()),
    };
    let hook = Hook { command, cwd: &cwd, attempt: Some(attempt) };
    let state = match run(&hook, task, caller, attendant)? {
        Ok(()) => Delivery::Delivered,
        Err(how) => {
            warn!("the --on-finish command of task {} {how}; the task's own end stands", task.id);
            Delivery::Failed
        }
    };
    failpoint::reached("delivery.ended");
    if let Err(e) = attendant.ledger().delivery(&task.id, state, &clock::now()) {
        warn!("recording how --on-finish ended: {e}");
    }
    Ok(Some(state))
}

/// A command that has nothing else to do while a hook runs.
pub struct Idle<'a> {
    pub ledger: &'a mut Ledger,
    pub watch: &'a mut Watch,
}

impl Attendant for Idle<'_> {
    fn ledger(&mut self) -> &mut Ledger {
        self.ledger
    }

    fn attend(&mut self, child: Gated, bound: Duration) -> Result<Attended, Error> {
        let mut attended = Attended { child, start_error: None, ended: None };
        let until = Instant::now() + bound;
        while attended.ended.is_none() {
            let report = attended.child.report();
            let interests: Vec<_> =
                report.into_iter().map(|fd| Interest { source: Source::HelperReport, fd }).collect();
            match self.watch.next(&interests, Some(until)).map_err(supervise::watching)? {
                Event::Child { pid, change: Change::Ended(exit), .. } if pid == attended.child.pid => {
                    attended.ended = Some(exit);
                }
                Event::Ready(_) => attended.start_error = attended.child.read_report().err(),
                Event::Deadline => break,
                Event::Child { .. } | Event::Signal(_) => {}
            }
        }
        Ok(attended)
    }
}

/// A command line of the user's, as the shell reads it.
pub fn shell(command: &OsStr, env: Vec<CString>) -> std::io::Result<Launch> {
    Launch::new(&[OsStr::new("/bin/sh"), OsStr::new("-c"), command], env)
}

pub fn dev_null() -> std::io::Result<OwnedFd> {
    Ok(std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?.into())
}

/// The row as JSON in an unnamed file, ready to be read.
fn row_as_file(task: &Task) -> std::io::Result<OwnedFd> {
    Ok(sys::memory_file("row", view::json_line(task).as_bytes())?.into())
}
