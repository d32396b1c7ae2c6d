//! Whether a task that the ledger calls running is alive: what its live lock and its identity prove.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::host::{comparable, place_of, same_host};
use crate::error::Error;
use crate::ledger::{Ledger, LiveEvidence};
use crate::process::leftovers;
use crate::process::procfs::dying;
use crate::process::procfs::identity::{self, ProcessHandle};
use crate::task::{ProcessScope, Task, Verdict};

/// How long the children of a dead supervisor may take to exit, and a supervisor that has released its lock.
pub(super) const EXIT_DELAY: Duration = Duration::from_secs(1);

/// How often a lock is checked again whose holder has no descriptor to wait for.
pub(super) const RECHECK_INTERVAL: Duration = Duration::from_millis(10);

/// Judges a running row by the kernel's view of its live lock, otherwise by the identity of its supervisor.
pub fn judge(lock: LiveEvidence, task: &Task) -> Verdict {
    judge_from(lock, task, &identity::place())
}

/// As [`judge`], for this process's own place.
pub(super) fn judge_from(lock: LiveEvidence, task: &Task, here: &ProcessScope) -> Verdict {
    let lock = match lock {
        // An anonymous number does not identify a device, and after a reboot no process can hold the lock.
        LiveEvidence::Renumbered { anonymous }
            if anonymous || task.boot_id.as_ref() != Some(&here.boot_id) =>
        {
            LiveEvidence::NoSlot
        }
        lock => lock,
    };
    let by_identity =
        || task.supervisor().map_or(Verdict::Unverifiable, |s| identity::judge(s, &place_of(task), here));
    verdict(lock, by_identity, same_host(task, here))
}

/// The table of [`judge`].
pub(super) fn verdict(lock: LiveEvidence, identity: impl Fn() -> Verdict, same_host: bool) -> Verdict {
    match lock {
        LiveEvidence::Held => Verdict::Alive,
        LiveEvidence::OtherFile | LiveEvidence::Renumbered { .. } | LiveEvidence::Unreadable => {
            Verdict::Unverifiable
        }
        LiveEvidence::NoSlot => identity(),
        // The file may be shared with another machine, whose locks are not visible here.
        LiveEvidence::Free if !same_host => Verdict::Unverifiable,
        LiveEvidence::Free => match identity() {
            // A live supervisor that does not hold its lock: one of the two is not what it seems.
            Verdict::Alive => Verdict::Unverifiable,
            Verdict::Recycled => Verdict::Recycled,
            Verdict::Gone | Verdict::Unverifiable => Verdict::Gone,
        },
    }
}

/// What is known of a supervisor.
pub(super) enum SupervisorState {
    Judged(Verdict),
    Exiting(ExitingSupervisor),
}

/// A supervisor that is exiting. Its lock and its process do not disappear together: the kernel releases the
/// memory of an exiting process, then closes its files, and then makes it a zombie; a child that it has
/// forked holds the lock until it executes or exits.
pub(super) struct ExitingSupervisor {
    /// `None`: only a child is left.
    pub(super) supervisor: Option<ProcessHandle>,
    /// It exits, or was sent SIGKILL.
    pub(super) is_dying: bool,
}

impl ExitingSupervisor {
    /// How long to wait for its end.
    pub(super) fn patience(&self, grace: Duration) -> Duration {
        if self.is_dying { grace.saturating_add(leftovers::DYING) } else { EXIT_DELAY }
    }
}

pub(super) fn supervisor_state(
    ledger: &Ledger,
    task: &Task,
    here: &ProcessScope,
) -> Result<SupervisorState, Error> {
    let lock = ledger.evidence(task)?;
    let judged = || Ok(SupervisorState::Judged(judge_from(lock, task, here)));
    if !matches!(lock, LiveEvidence::Held | LiveEvidence::Free | LiveEvidence::NoSlot) {
        return judged();
    }
    let exiting = match judge_from(LiveEvidence::NoSlot, task, here) {
        Verdict::Alive => exiting(task, lock, here),
        Verdict::Gone | Verdict::Recycled if lock == LiveEvidence::Held => {
            Some(ExitingSupervisor { supervisor: None, is_dying: false })
        }
        _ => None,
    };
    exiting.map_or_else(judged, |exiting| Ok(SupervisorState::Exiting(exiting)))
}

/// A live supervisor that is exiting; `None`: it is not, or it has ended and its lock was free.
fn exiting(task: &Task, lock: LiveEvidence, here: &ProcessScope) -> Option<ExitingSupervisor> {
    let recorded = comparable(task.supervisor()?, task, here);
    let supervisor = identity::open_recorded(recorded).ok()?;
    let is_dying = is_dying(task);
    // It may have ended after its lock was read.
    let has_ended = lock == LiveEvidence::Held && identity::presence(recorded) == Verdict::Gone;
    let is_exiting = is_dying || has_ended || (lock == LiveEvidence::Free && supervisor.is_some());
    is_exiting.then_some(ExitingSupervisor { supervisor, is_dying })
}

/// Whether the supervisor of a task exits or was sent SIGKILL.
pub fn is_dying(task: &Task) -> bool {
    let supervisor = task.supervisor().map(|s| s.identity);
    let stat =
        supervisor.and_then(|s| identity::stat(s.pid).ok().flatten().filter(|now| now.identity() == s));
    stat.is_some_and(|stat| !stat.is_dead() && dying::is_dying(&stat))
}

/// What the live lock of a task shows. Waits a moment for a supervisor that is exiting.
///
/// # Errors
/// When the locks of the ledger's `live` file cannot be read.
pub fn evidence(ledger: &Ledger, task: &Task) -> Result<LiveEvidence, Error> {
    // Usually no process has its pid any more, so there is nothing to wait for.
    let has_ended = || task.supervisor().is_some_and(|s| identity::presence(s) == Verdict::Gone);
    if ledger.evidence(task)? == LiveEvidence::Free && has_ended() {
        return Ok(LiveEvidence::Free);
    }
    let here = identity::place();
    let until = Instant::now() + EXIT_DELAY;
    while let SupervisorState::Exiting(exiting) = supervisor_state(ledger, task, &here)? {
        let now = Instant::now();
        if now >= until {
            break;
        }
        let fds = exiting.supervisor.iter().map(AsFd::as_fd);
        let until = if exiting.supervisor.is_some() { until } else { until.min(now + RECHECK_INTERVAL) };
        leftovers::wait(fds, until).map_err(Error::from)?;
    }
    Ok(ledger.evidence(task)?)
}
