//! Commands of the user's beside a task: `--prepare` before it, `--on-finish` and `--on-interrupted` after
//! it. The latter are given the task's row; `run` and `recover` start them through here alike.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tracing::warn;

use crate::clock;
use crate::error::{Error, chain};
use crate::exit::Exit;
use crate::failpoint;
use crate::helper::{self, Attendant, Helper, Wait, Waited, dev_null, shell};
use crate::ledger::{DeliveryStatus, Ledger};
use crate::process::group::{self, GroupMembers};
use crate::process::spawn::caller::Caller;
use crate::process::spawn::environment;
use crate::process::spawn::environment::OPTION_VARIABLES;
use crate::process::spawn::gate::Gated;
use crate::sys;
use crate::task::{Signal, Task};
use crate::view;

/// How long a hook may take where nothing else was said (`--hook-timeout`).
pub const TIMEOUT: Duration = Duration::from_secs(60);
/// Time between SIGTERM and SIGKILL for the group of a hook whose time is over.
const GRACE: Duration = Duration::from_secs(2);
/// How long after the end of a hook a stop signal may still come that both were sent: systemd signals the
/// processes of a unit one after the other.
const ECHO: Duration = Duration::from_millis(100);

/// A hook that is to be run for one task.
pub struct Hook<'a> {
    pub command: &'a OsStr,
    pub cwd: &'a Path,
    /// `None`: it is not a delivery.
    pub attempt: Option<i64>,
    /// `None`: it may take as long as it likes.
    pub limit: Option<Duration>,
}

/// How a hook ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HookEnd {
    Done,
    /// In words.
    Failed(String),
    /// It did not succeed, after a signal that told bookend to stop and that was passed on to it.
    Interrupted(Signal),
}

/// Runs a hook with the row as JSON on its stdin.
///
/// # Errors
/// As [`Attendant::wait`].
pub fn run(
    hook: &Hook<'_>,
    task: &Task,
    caller: &Caller,
    attendant: &mut dyn Attendant,
) -> Result<HookEnd, Error> {
    let ledger = attendant.ledger().path().to_owned();
    let attempt = hook.attempt.map(|n| OsString::from(n.to_string()));
    let mut add = vec![
        (environment::FINISHED, OsStr::new(task.id.as_str())),
        (environment::LEDGER, ledger.as_os_str()),
    ];
    add.extend(attempt.iter().map(|n| (environment::ATTEMPT, n.as_os_str())));
    let env = environment::inherited(&OPTION_VARIABLES, &add);
    // A worktree that is gone by now is no reason to tell nobody.
    let cwd = if hook.cwd.is_dir() { hook.cwd } else { Path::new("/") };
    let started = row_as_file(task).and_then(|row| {
        let errors = sys::stdio(2).try_clone_to_owned().or_else(|_| dev_null())?;
        let launch = shell(hook.command, env)?
            .cwd(Some(cwd.as_os_str()))?
            .own_group()
            .stdio(0, row)
            .stdio(1, errors.try_clone()?)
            .stdio(2, errors);
        Gated::start(launch, caller)
    });
    let child = match started {
        Ok(child) => child,
        Err(e) => return Ok(HookEnd::Failed(format!("could not be started: {e}"))),
    };
    let (helper, stop, timed_out) = attend(child, hook.limit, attendant)?;
    let started = helper.as_ref().and_then(|h| h.start_error);
    Ok(match (started, helper.and_then(|h| h.ended), stop) {
        (Some(e), ..) => {
            HookEnd::Failed(format!("could not be started: {}", std::io::Error::from_raw_os_error(e.errno)))
        }
        (None, Some(Exit::Code(0)), _) if !timed_out => HookEnd::Done,
        (None, ..) if timed_out => {
            let limit = humantime::format_duration(hook.limit.unwrap_or_default());
            HookEnd::Failed(format!("did not end within {limit} (--hook-timeout) and was ended"))
        }
        (None, _, Some(signal)) => HookEnd::Interrupted(signal),
        (None, Some(exit), None) => outcome(exit).map_or_else(HookEnd::Failed, |()| HookEnd::Done),
        (None, None, None) => HookEnd::Failed("ended with an unknown exit status".to_owned()),
    })
}

/// Waits for the end of a hook. A stop signal is passed on to its whole group; when its time is over the
/// group is sent SIGTERM, then SIGKILL. Also gives the first stop signal, and whether the time was over.
fn attend(
    child: Gated,
    limit: Option<Duration>,
    attendant: &mut dyn Attendant,
) -> Result<(Option<Helper>, Option<Signal>, bool), Error> {
    let after = |grace: Duration| Wait::Until(Some(Instant::now() + grace));
    let first = limit.map_or(Wait::Until(None), after);
    let mut wait = first;
    let mut members: Option<GroupMembers> = None;
    let (mut killed, mut stop) = (false, None);
    let mut next = |child: &Gated, waited| {
        match waited {
            Waited::Ended => {}
            Waited::Stop(signal) => {
                stop.get_or_insert(signal);
                group::signal(child, signal);
            }
            Waited::Deadline if members.is_none() => {
                members = Some(GroupMembers::of(child));
                group::signal(child, Signal::TERM);
                // A stopped process acts on nothing but SIGKILL until it is continued.
                group::signal(child, Signal::CONT);
                wait = after(GRACE);
            }
            // SIGKILL does not end a process that the kernel cannot interrupt.
            Waited::Deadline if killed => wait = Wait::GiveUp,
            Waited::Deadline => {
                group::signal(child, Signal::KILL);
                killed = true;
                wait = after(GRACE);
            }
        }
        wait
    };
    let helper = helper::attend(child, None, first, attendant, &mut next)?;
    let timed_out = members.is_some();
    if let Some(members) = members {
        members.end(match wait {
            Wait::Until(Some(until)) => until,
            Wait::Until(None) | Wait::GiveUp => Instant::now(),
        });
    }
    let ended = helper.as_ref().and_then(|h| h.ended);
    if stop.is_none()
        && ended.is_some_and(is_stopped)
        && let Waited::Stop(signal) = attendant.wait(&mut None, Some(Instant::now() + ECHO))?
    {
        stop = Some(signal);
    }
    Ok((helper, stop, timed_out))
}

/// Whether this is how a shell or its command ends when it is told to stop.
fn is_stopped(exit: Exit) -> bool {
    let signal = match exit {
        Exit::Signal(signal) => signal,
        Exit::Code(code) => Signal::from_number(code - 128),
    };
    Signal::STOPS.contains(&signal)
}

/// In words how a command failed, if it did.
pub fn outcome(exit: Exit) -> Result<(), String> {
    match exit {
        Exit::Code(0) => Ok(()),
        Exit::Code(code) => Err(format!("failed with exit code {code}")),
        Exit::Signal(signal) => Err(format!("was killed by {signal}")),
    }
}

/// `--on-finish` as the task's row keeps it.
pub fn on_finish(command: &OsStr, cwd: PathBuf, timeout: Option<Duration>) -> String {
    let (command, cwd) = (command.to_string_lossy(), cwd.to_string_lossy());
    let timeout_ms = timeout.map(|t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX));
    serde_json::json!({ "command": command, "cwd": cwd, "timeout_ms": timeout_ms }).to_string()
}

/// How long a hook may take, as an option or a row says it. `None`: for ever.
pub fn limit(said: Option<Duration>) -> Option<Duration> {
    Some(said.unwrap_or(TIMEOUT)).filter(|limit| !limit.is_zero())
}

/// Runs the task's `--on-finish` command, unless somebody else does or has. Whatever it does, the task's end
/// stays what it is. `given`: the command as it came, of which the row keeps the text only. `timeout`:
/// instead of the one that the row keeps.
///
/// # Errors
/// As [`Attendant::wait`].
pub fn deliver(
    task: &Task,
    given: Option<&OsStr>,
    timeout: Option<Duration>,
    caller: &Caller,
    attendant: &mut dyn Attendant,
) -> Result<Option<DeliveryStatus>, Error> {
    let kept = |name: &str| task.on_finish.as_ref()?.get(name);
    let text = |name: &str| kept(name)?.as_str().map(OsString::from);
    let kept_command = text("command");
    let Some(command) = given.or(kept_command.as_deref()) else { return Ok(None) };
    if attendant.is_stopping() {
        let next = next(attendant.ledger());
        warn!("the --on-finish command of task {} was not run: {next}", task.id);
        return Ok(None);
    }
    let attempt = match attendant.ledger().begin_delivery(task) {
        Ok(Some(attempt)) => attempt,
        Ok(None) => return Ok(None),
        Err(e) => {
            let command = view::suggestion(attendant.ledger().option(), "recover");
            warn!(
                hint = e.hint(),
                "the --on-finish command of task {} waits for `{command}`: {}",
                task.id,
                chain(&e)
            );
            return Ok(None);
        }
    };
    failpoint::reached("delivery.begun");
    // A run does not read back from the row how its own command is to be run: others may write there.
    let (cwd, timeout) = match given {
        Some(_) => (std::env::current_dir().unwrap_or_default(), timeout),
        None => {
            let asked = || kept("timeout_ms")?.as_u64().map(Duration::from_millis);
            (PathBuf::from(text("cwd").unwrap_or_default()), timeout.or_else(asked))
        }
    };
    let hook = Hook { command, cwd: &cwd, attempt: Some(attempt), limit: limit(timeout) };
    let state = match run(&hook, task, caller, attendant)? {
        HookEnd::Done => DeliveryStatus::Delivered,
        HookEnd::Failed(how) => {
            warn!("the --on-finish command of task {} {how}; the task's own end stands", task.id);
            DeliveryStatus::Failed
        }
        HookEnd::Interrupted(signal) => {
            let next = next(attendant.ledger());
            warn!("the --on-finish command of task {} was interrupted by {signal}: {next}", task.id);
            DeliveryStatus::Pending
        }
    };
    failpoint::reached("delivery.ended");
    if let Err(e) = attendant.ledger().delivery(&task.id, state, &clock::now()) {
        warn!(hint = e.hint(), "recording how --on-finish ended: {}", chain(&e));
    }
    Ok(Some(state))
}

/// What becomes of a delivery that a stop signal cut off.
fn next(ledger: &Ledger) -> String {
    format!("bookend received a stop signal; `{}` runs it", view::suggestion(ledger.option(), "recover"))
}

/// The row as JSON in an unnamed file, ready to be read.
fn row_as_file(task: &Task) -> std::io::Result<OwnedFd> {
    Ok(sys::memory_file("row", view::json_line(task).as_bytes())?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_may_take_a_minute_unless_something_else_is_said() {
        assert_eq!(limit(None), Some(Duration::from_secs(60)));
        assert_eq!(limit(Some(Duration::from_secs(5))), Some(Duration::from_secs(5)));
        assert_eq!(limit(Some(Duration::ZERO)), None);
    }
}
