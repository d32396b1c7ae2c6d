//! Recovery: whether a task that the ledger calls running is, and the settling of one that is not.

use std::time::Duration;

use crate::error::Error;
use crate::ledger::{Claim, Ledger, LiveEvidence};
use crate::process::identity::{self, Stat};
use crate::process::leftovers::{self, Hunt, Seat, Summary};
use crate::task::{Ended, Ending, Identity, Interrupt, Place, Task, Verdict};

/// Judges a running row: the live lock where it can be asked, else the identity. DESIGN section 6.
///
/// # Errors
/// When the ledger's `live` file cannot be asked.
pub fn judge(ledger: &Ledger, task: &Task) -> Result<Verdict, Error> {
    let here = identity::place();
    let by_identity =
        || task.supervisor().map_or(Verdict::Unverifiable, |s| identity::judge(s, &place_of(task), &here));
    Ok(verdict(ledger.evidence(task)?, by_identity, same_host(task, &here)))
}

/// The table behind `judge`.
fn verdict(lock: LiveEvidence, identity: impl Fn() -> Verdict, same_host: bool) -> Verdict {
    match lock {
        LiveEvidence::Held => Verdict::Alive,
        LiveEvidence::OtherFile | LiveEvidence::Unreadable => Verdict::Unverifiable,
        LiveEvidence::NoSlot => identity(),
        // The file may be shared with another machine, whose locks are not seen here.
        LiveEvidence::Free if !same_host => Verdict::Unverifiable,
        LiveEvidence::Free => match identity() {
            // It lives, and does not hold its lock: something is not as we think.
            Verdict::Alive => Verdict::Unverifiable,
            Verdict::Recycled => Verdict::Recycled,
            Verdict::Gone | Verdict::Unverifiable => Verdict::Gone,
        },
    }
}

fn place_of(task: &Task) -> Place {
    Place {
        host: task.host.clone().unwrap_or_default(),
        boot_id: task.boot_id.clone().unwrap_or_default(),
        pid_ns: task.pid_ns.unwrap_or_default(),
        cgroup: task.cgroup.clone(),
    }
}

/// The same machine: the same boot, or the same name.
fn same_host(task: &Task, here: &Place) -> bool {
    let at = place_of(task);
    at.boot_id == here.boot_id || at.host.is_empty() || at.host == here.host
}

/// A task that died without a word, its processes ended.
pub struct Dead {
    task: Task,
    leftovers: Option<Summary>,
}

/// Ends what a dead task left running. No transaction is open meanwhile: it may take the whole grace.
///
/// # Errors
/// When /proc cannot be read.
pub fn end_leftovers(ledger: &Ledger, task: Task, grace: Duration) -> Result<Dead, Error> {
    let here = identity::place();
    let agent = task.agent_process();
    // Of another boot, or of a pid namespace that we do not see, nothing can be left here.
    let reachable = task.boot_id.as_deref() == Some(here.boot_id.as_str());
    let (true, Some(agent)) = (reachable, agent) else { return Ok(Dead { task, leftovers: None }) };
    let whose = leftovers::Task { id: task.id.clone(), agent, agent_tty: 0, seat: Seat::Stranger };
    let mut hunt = Hunt::new(whose, true, grace);
    let is_supervisor = |stat: &Stat| holds_live_lock(ledger, stat.identity());
    let summary = leftovers::end_blocking(&mut hunt, &is_supervisor)
        .map_err(|e| Error::failed(format!("ending what task {} left running: {e}", task.id)))?;
    Ok(Dead { task, leftovers: Some(summary) })
}

/// Whether this process supervises a task of this ledger.
pub fn holds_live_lock(ledger: &Ledger, process: Identity) -> bool {
    ledger.supervised_by(process).unwrap_or_default()
}

impl Dead {
    pub fn id(&self) -> &str {
        &self.task.id
    }

    /// Processes of it that could not be ended.
    pub fn survivors(&self) -> &[i32] {
        self.leftovers.as_ref().map_or(&[], |l| &l.survivors)
    }

    pub fn survivors_text(&self) -> String {
        self.survivors().iter().map(|p| format!("pid {p}")).collect::<Vec<_>>().join(", ")
    }

    /// `task 019…, running since …, which died without a word (2 processes of it ended)`.
    pub fn describe(&self) -> String {
        let ended = self.leftovers.as_ref().map_or(0, |l| l.ended);
        let also = match ended {
            0 => String::new(),
            n => format!("; of what it left running, {n} ended"),
        };
        format!(
            "task {}, running since {}, which died without a word{also}",
            self.task.id, self.task.started_at
        )
    }

    fn reason(&self) -> Interrupt {
        let here = identity::boot_id();
        if self.task.boot_id.is_some() && here.is_some() && self.task.boot_id != here {
            Interrupt::Rebooted
        } else {
            Interrupt::SupervisorLost
        }
    }

    /// Marks it `interrupted` inside the transaction of whoever found it.
    ///
    /// # Errors
    /// When the ledger does not take it.
    pub fn mark(self, claim: &Claim<'_>) -> Result<(), Error> {
        let leftovers = self.leftovers.as_ref().filter(|l| l.found > 0);
        // An ending that waits in the spool was seen, and wins over what is inferred here. Otherwise
        // nobody saw it: `last_seen_at` says until when it surely lived.
        let ended = claim.spooled(&self.task.id)?.unwrap_or_else(|| Ended {
            leftovers: leftovers.and_then(|l| serde_json::to_string(l).ok()),
            executed: true,
            ..Ended::unknown(Ending::Interrupted(self.reason()))
        });
        claim.end(&self.task.id, &ended, "run")?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_decides_and_a_contradiction_is_never_a_death() {
        let all = [Verdict::Alive, Verdict::Gone, Verdict::Recycled, Verdict::Unverifiable];
        for identity in all {
            assert_eq!(verdict(LiveEvidence::Held, || identity, true), Verdict::Alive);
            assert_eq!(verdict(LiveEvidence::OtherFile, || identity, true), Verdict::Unverifiable);
            assert_eq!(verdict(LiveEvidence::NoSlot, || identity, true), identity);
            assert_eq!(verdict(LiveEvidence::Free, || identity, false), Verdict::Unverifiable);
        }
        assert_eq!(verdict(LiveEvidence::Free, || Verdict::Alive, true), Verdict::Unverifiable);
        assert_eq!(verdict(LiveEvidence::Free, || Verdict::Gone, true), Verdict::Gone);
        assert_eq!(verdict(LiveEvidence::Free, || Verdict::Recycled, true), Verdict::Recycled);
        assert_eq!(verdict(LiveEvidence::Free, || Verdict::Unverifiable, true), Verdict::Gone);
    }
}
