//! Hooks: the commands `--on-finish` and `--on-interrupted`, which get the task's row on their stdin.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tracing::warn;

use crate::error::{Error, chain};
use crate::exit::Exit;
use crate::failpoint;
use crate::helper::{self, Attendant, Helper, Wait, Waited, dev_null, shell};
use crate::ledger::{DeliveryStatus, Ledger};
use crate::process::group::{self, GroupMembers};
use crate::process::spawn::caller::Caller;
use crate::process::spawn::environment;
use crate::process::spawn::environment::{FINISHED_FACTS, OPTION_VARIABLES};
use crate::process::spawn::gate::Gated;
use crate::sys;
use crate::task::{Key, SessionId, Signal, Task, Time};
use crate::view;

/// How long a hook may take without `--hook-timeout`.
pub const TIMEOUT: Duration = Duration::from_secs(60);
/// Time between SIGTERM and SIGKILL for the process group of a hook that timed out.
const GRACE: Duration = Duration::from_secs(2);
/// How long bookend waits, after a hook died of a signal, for a signal of its own: systemd signals the
/// processes of a unit one after the other.
const ECHO: Duration = Duration::from_millis(100);

/// The longest value of a variable that a hook gets. execve(2) limits each string to 128 KiB, and all of them
/// together to a quarter of the stack.
const LONGEST_FACT: usize = 32 << 10;

/// A hook to run for one task.
pub struct Hook<'a> {
    pub command: &'a OsStr,
    pub cwd: &'a Path,
    /// How often the hook has been started for its task; `None`: it is not a delivery.
    pub attempt: Option<i64>,
    /// `None`: there is no limit.
    pub limit: Option<Duration>,
}

/// How a hook ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HookEnd {
    Done,
    /// Why, in words.
    Failed(String),
    /// It failed after a stop signal to bookend, which bookend passed on.
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
    let facts = facts(task);
    let mut add = vec![
        (environment::FINISHED, OsStr::new(task.id.as_str())),
        (environment::LEDGER, ledger.as_os_str()),
    ];
    add.extend(attempt.iter().map(|n| (environment::ATTEMPT, n.as_os_str())));
    add.extend(facts.iter().map(|(name, value)| (*name, OsStr::new(value))));
    let env = environment::inherited(&OPTION_VARIABLES, &add);
    // The hook must run even if the worktree has been removed.
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
            HookEnd::Failed(format!("did not exit within {limit} (--hook-timeout) and was killed"))
        }
        (None, _, Some(signal)) => HookEnd::Interrupted(signal),
        (None, Some(exit), None) => outcome(exit).map_or_else(HookEnd::Failed, |()| HookEnd::Done),
        (None, None, None) => HookEnd::Failed("ended with an unknown exit status".to_owned()),
    })
}

/// The known facts about a task, for the environment of its hooks. A value that is too long for a variable
/// counts as unknown: with it the kernel would refuse to execute the hook.
fn facts(task: &Task) -> Vec<(&'static str, String)> {
    let text = |value: Option<&str>| value.map(str::to_owned);
    let values = [
        Some(task.status.as_str().to_owned()),
        text(task.reason.as_deref()),
        text(task.key.as_ref().map(Key::as_str)),
        text(task.repo.as_deref()),
        task.issue_number.map(|number| number.to_string()),
        text(task.agent.as_deref()),
        task.cost_usd.filter(|cost| cost.is_finite()).map(|cost| cost.to_string()),
        task.duration_ms.map(|ms| ms.to_string()),
        text(task.session_id.as_ref().map(SessionId::as_str)),
    ];
    let known = FINISHED_FACTS.into_iter().zip(values).filter_map(|(name, value)| Some((name, value?)));
    known.filter(|(_, value)| value.len() <= LONGEST_FACT).collect()
}

/// Waits for a hook to exit. Passes a stop signal on to its process group; at the limit sends the group
/// SIGTERM, then SIGKILL. Also returns the first stop signal, and whether the hook timed out.
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

/// Whether a shell or its command exits like this after a stop signal.
fn is_stopped(exit: Exit) -> bool {
    let signal = match exit {
        Exit::Signal(signal) => signal,
        Exit::Code(code) => Signal::from_number(code - 128),
    };
    Signal::STOPS.contains(&signal)
}

/// How a command failed, in words, if it did.
pub fn outcome(exit: Exit) -> Result<(), String> {
    match exit {
        Exit::Code(0) => Ok(()),
        Exit::Code(code) => Err(format!("failed with exit code {code}")),
        Exit::Signal(signal) => Err(format!("was killed by {signal}")),
    }
}

/// `--on-finish` as the task's row stores it.
pub fn on_finish(command: &OsStr, cwd: PathBuf, timeout: Option<Duration>) -> String {
    let (command, cwd) = (command.to_string_lossy(), cwd.to_string_lossy());
    let timeout_ms = timeout.map(|t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX));
    serde_json::json!({ "command": command, "cwd": cwd, "timeout_ms": timeout_ms }).to_string()
}

/// The limit of a hook, from its option or its row. `None`: there is none.
pub fn limit(given: Option<Duration>) -> Option<Duration> {
    Some(given.unwrap_or(TIMEOUT)).filter(|limit| !limit.is_zero())
}

/// Runs the task's `--on-finish` command, unless another process is running it or has. The ending of the task
/// does not change. `given`: the command in bytes, of which the row stores only text. `timeout`: replaces the
/// one of the row.
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
    // A run does not trust the row for its own command: other processes may write there.
    let (cwd, timeout) = match given {
        Some(_) => (std::env::current_dir().unwrap_or_default(), timeout),
        None => {
            let asked = || kept("timeout_ms")?.as_u64().map(Duration::from_millis);
            (PathBuf::from(text("cwd").unwrap_or_default()), timeout.or_else(asked))
        }
    };
    let hook = Hook { command, cwd: &cwd, attempt: Some(attempt), limit: limit(timeout) };
    let (state, failed) = match run(&hook, task, caller, attendant)? {
        HookEnd::Done => (DeliveryStatus::Delivered, None),
        HookEnd::Failed(how) => {
            warn!("the --on-finish command of task {} {how}; the task's ending does not change", task.id);
            (DeliveryStatus::Failed, Some(how))
        }
        HookEnd::Interrupted(signal) => {
            let next = next(attendant.ledger());
            warn!("the --on-finish command of task {} was interrupted by {signal}: {next}", task.id);
            (DeliveryStatus::Pending, Some(format!("was interrupted by {signal}")))
        }
    };
    failpoint::reached("delivery.ended");
    if let Err(e) = attendant.ledger().delivery(&task.id, state, failed.as_deref(), Time::now()) {
        warn!(hint = e.hint(), "recording how --on-finish ended: {}", chain(&e));
    }
    Ok(Some(state))
}

/// What happens to a delivery that a stop signal interrupted.
fn next(ledger: &Ledger) -> String {
    format!("bookend received a stop signal; `{}` runs it", view::suggestion(ledger.option(), "recover"))
}

/// The row as JSON, in an unnamed file positioned at its start.
fn row_as_file(task: &Task) -> std::io::Result<OwnedFd> {
    Ok(sys::memory_file("row", view::json_line(task).as_bytes())?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_may_take_a_minute_by_default_and_zero_means_no_limit() {
        assert_eq!(limit(None), Some(Duration::from_secs(60)));
        assert_eq!(limit(Some(Duration::from_secs(5))), Some(Duration::from_secs(5)));
        assert_eq!(limit(Some(Duration::ZERO)), None);
    }
}
