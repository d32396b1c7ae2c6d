//! Recovery: whether a task that the ledger calls running is, and the settling of one that is not.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use tracing::{info, warn};

use crate::clock;
use crate::error::Error;
use crate::ledger::{Claim, Finished, Ledger, LiveEvidence, MergeOutcome, Merged};
use crate::log;
use crate::process::cgroup::Cgroup;
use crate::process::identity::{self, Stat};
use crate::process::leftovers::summary::Summary;
use crate::process::leftovers::{self, Hunt, Policy, Seat, Why};
use crate::process::oom;
use crate::task::{Ended, Ending, Identity, Interrupt, Place, Status, Task, Verdict};

/// How long the children of a dead supervisor may take to notice.
const LAST_BREATH: Duration = Duration::from_secs(1);

/// Judges a running row by what the kernel says of its live lock, else by its identity. DESIGN section 6.
pub fn judge(lock: LiveEvidence, task: &Task) -> Verdict {
    let here = identity::place();
    let lock = match lock {
        // Of another boot nobody can hold it any more.
        LiveEvidence::Renumbered if task.boot_id.as_ref() != Some(&here.boot_id) => LiveEvidence::NoSlot,
        lock => lock,
    };
    let by_identity =
        || task.supervisor().map_or(Verdict::Unverifiable, |s| identity::judge(s, &place_of(task), &here));
    verdict(lock, by_identity, same_host(task, &here))
}

/// The table behind `judge`.
fn verdict(lock: LiveEvidence, identity: impl Fn() -> Verdict, same_host: bool) -> Verdict {
    match lock {
        LiveEvidence::Held => Verdict::Alive,
        LiveEvidence::OtherFile | LiveEvidence::Renumbered | LiveEvidence::Unreadable => {
            Verdict::Unverifiable
        }
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

/// What the live lock says of a task whose supervisor may just be dying. Its lock and its process go one
/// after the other: a child that it had forked holds the lock until it executes, or notices and leaves, and
/// the kernel closes a dying process's files before it makes it a zombie. That takes no time, but it is
/// waited for.
///
/// # Errors
/// When the ledger's `live` file cannot be asked.
pub fn evidence(ledger: &Ledger, task: &Task) -> Result<LiveEvidence, Error> {
    let until = Instant::now() + LAST_BREATH;
    loop {
        let evidence = ledger.evidence(task)?;
        let is_dying = match evidence {
            LiveEvidence::Held => is_gone_by_identity(task),
            LiveEvidence::Free => judge(LiveEvidence::NoSlot, task) == Verdict::Alive,
            _ => false,
        };
        if !is_dying || Instant::now() >= until {
            return Ok(evidence);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether the identity alone says that the supervisor is gone for good.
pub fn is_gone_by_identity(task: &Task) -> bool {
    matches!(judge(LiveEvidence::NoSlot, task), Verdict::Gone | Verdict::Recycled)
}

/// Whether a task's agent is there still, as its identity tells.
pub fn agent_lives(task: &Task) -> bool {
    let judge = |agent| identity::judge(agent, &place_of(task), &identity::place());
    task.agent_process().map(judge) == Some(Verdict::Alive)
}

/// Whether a task that cannot be judged from here has given no sign of life for longer than `ttl`, by the
/// wall clock.
pub fn has_expired(task: &Task, ttl: Duration) -> bool {
    let last = task.last_seen_at.as_deref().unwrap_or(&task.started_at);
    let Ok(last) = last.parse::<Timestamp>() else { return false };
    let ttl = SignedDuration::try_from(ttl).unwrap_or(SignedDuration::MAX);
    clock::timestamp().duration_since(last) > ttl
}

/// A task that died without a word, its processes ended; or one that is no longer believed in.
pub struct Dead {
    task: Task,
    leftovers: Option<Summary>,
    expired: bool,
}

/// What came of marking a dead task.
pub enum Marked {
    Interrupted(Interrupt),
    /// Its supervisor had seen its end, which waited in the spool.
    Seen(Status),
    /// Somebody else has ended it meanwhile, or it is not dead.
    Untouched,
}

/// Ends what dead tasks left running, side by side. No transaction is open meanwhile: it may take the whole
/// grace.
///
/// # Errors
/// When /proc cannot be read.
pub fn end_leftovers(ledger: &Ledger, tasks: Vec<Task>, grace: Duration) -> Result<Vec<Dead>, Error> {
    let here = identity::place();
    let whose = |task: &Task| {
        // Of another boot nothing can be left.
        let agent = task.agent_process().filter(|_| task.boot_id.as_ref() == Some(&here.boot_id))?;
        let cgroup = Cgroup::of(&task.id, task.live_slot, task.cgroup.as_deref());
        let (id, ledger) = (task.id.clone(), ledger.path().to_owned());
        Some(leftovers::Task { id, ledger, agent, agent_tty: 0, seat: Seat::Stranger, cgroup })
    };
    let (reachable, hunted): (Vec<bool>, Vec<Option<Hunt>>) = tasks
        .iter()
        .map(|task| whose(task).map(|w| Hunt::new(w, true, grace)))
        .map(|hunt| (hunt.is_some(), hunt))
        .unzip();
    let mut hunts: Vec<Hunt> = hunted.into_iter().flatten().collect();
    leftovers::end_all(&mut hunts, &|stat: &Stat| holds_live_lock(ledger, stat.identity()))
        .map_err(|e| Error::failed(format!("ending what dead tasks left running: {e}")))?;
    hunts.iter().filter_map(Hunt::cgroup).for_each(Cgroup::remove);
    let mut summaries = hunts.iter().map(Hunt::summary);
    Ok(tasks
        .into_iter()
        .zip(reachable)
        .map(|(task, reached)| {
            let leftovers = if reached { summaries.next() } else { None };
            Dead { task, leftovers, expired: false }
        })
        .collect())
}

/// Whether what a task left running is to be ended: it has ended, and its `--leftovers` says so.
pub fn leaves_no_process(task: &Task) -> bool {
    let option = task.run_options.as_ref().and_then(|o| o.get("leftovers"));
    let policy = option.and_then(|o| Policy::deserialize(o).ok()).unwrap_or(Policy::Auto);
    task.status.is_terminal() && policy.ends(task.status == Status::Success)
}

/// Whether this process supervises a task of this ledger.
pub fn holds_live_lock(ledger: &Ledger, process: Identity) -> bool {
    ledger.supervised_by(process).unwrap_or_default()
}

impl Dead {
    /// A task that cannot be judged and is too old to be believed in. Nothing of it is touched but its row:
    /// what runs there may be somebody's.
    pub fn expired(task: Task) -> Dead {
        Dead { task, leftovers: None, expired: true }
    }

    /// A dead task of which nothing has been touched.
    pub fn found(task: Task) -> Dead {
        Dead { task, leftovers: None, expired: false }
    }

    pub fn task(&self) -> &Task {
        &self.task
    }

    pub fn id(&self) -> &str {
        &self.task.id
    }

    /// What was found of it and what became of that; `None`: nothing was looked for.
    pub fn leftovers(&self) -> Option<&Summary> {
        self.leftovers.as_ref()
    }

    /// Processes of it that could not be ended.
    pub fn survivors(&self) -> &[i32] {
        self.leftovers.as_ref().map_or(&[], |l| &l.survivors)
    }

    /// Why it cannot be settled: `its supervisor is gone, but …`.
    pub fn stuck(&self) -> Option<String> {
        let spared = self.leftovers.as_ref().map_or(&[][..], |l| &l.spared);
        let named = |pid: &i32| match spared.iter().find(|s| s.pid == *pid).map(|s| s.why) {
            Some(Why::Unreadable) => {
                format!("pid {pid}, whose environment cannot be read (it may run as another user)")
            }
            Some(Why::UnknownLedger) => {
                format!("pid {pid}, which names a ledger that is not there (this one may have been moved)")
            }
            Some(Why::Terminal | Why::Unmarked | Why::Supervisor) | None => format!("pid {pid}"),
        };
        let survivors: Vec<String> = self.survivors().iter().map(named).collect();
        (!survivors.is_empty()).then(|| {
            let survivors = survivors.join("; ");
            format!("its supervisor is gone, but processes of it could not be ended: {survivors}")
        })
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

    /// As far as the kernel tells.
    pub fn reason(&self) -> Interrupt {
        if self.expired {
            Interrupt::Ttl
        } else if self.is_of_another_boot() {
            Interrupt::Rebooted
        } else if self.oom_killed() == Some(true) {
            Interrupt::Oom
        } else {
            Interrupt::SupervisorLost
        }
    }

    /// Whether the OOM killer struck in its cgroup while it ran; `None`: the kernel does not tell.
    fn oom_killed(&self) -> Option<bool> {
        if self.expired || self.is_of_another_boot() {
            return None;
        }
        oom::struck_since(self.task.cgroup.as_deref(), self.task.oom_kills_before)
    }

    fn is_of_another_boot(&self) -> bool {
        let here = identity::boot_id();
        self.task.boot_id.is_some() && here.is_some() && self.task.boot_id != here
    }

    /// How it died, in words.
    fn how(&self, reason: Interrupt) -> String {
        let pid = |pid: Option<i32>| pid.map_or_else(String::new, |p| format!(" (pid {p})"));
        let (supervisor, agent) = (pid(self.task.supervisor_pid), pid(self.task.agent_pid));
        let still_ran = |l: &Summary| self.task.agent_pid.is_some_and(|p| l.pids.contains(&p));
        let agents = match &self.leftovers {
            Some(l) if still_ran(l) => format!("its agent{agent} still ran and was ended"),
            Some(_) => format!("its agent{agent} was gone too"),
            None => String::new(),
        };
        match reason {
            Interrupt::Rebooted => "the machine was booted anew while it ran".to_owned(),
            Interrupt::Oom => {
                format!(
                    "its supervisor{supervisor} was gone after the OOM killer struck in its cgroup; {agents}"
                )
            }
            Interrupt::Ttl => {
                let last = self.task.last_seen_at.as_deref().unwrap_or(&self.task.started_at);
                format!("it cannot be judged from here, and gave no sign of life since {last}")
            }
            Interrupt::SupervisorLost | Interrupt::Signal if agents.is_empty() => {
                format!("its supervisor{supervisor} was gone without a word")
            }
            Interrupt::SupervisorLost | Interrupt::Signal => {
                format!("its supervisor{supervisor} was gone without a word; {agents}")
            }
        }
    }

    /// Judges once more and marks, inside the transaction of whoever found it; `by` is its command.
    ///
    /// # Errors
    /// When the ledger does not take it.
    pub fn mark(&self, claim: &Claim<'_>, by: &str) -> Result<Marked, Error> {
        let id = &self.task.id;
        let Some(task) = claim.task(id)?.filter(|t| t.status == Status::Running) else {
            return Ok(Marked::Untouched);
        };
        // An ending that waits in the spool was seen, and wins over what is inferred here. Its supervisor
        // wrote it before it let go of the live lock, so it is there by now or will never be.
        if let Some(seen) = claim.spooled(id)? {
            claim.end(id, &seen, by)?;
            return Ok(Marked::Seen(seen.ending.status()));
        }
        let now = judge(claim.evidence(&task)?, &task);
        let may_be_marked = match now {
            Verdict::Gone | Verdict::Recycled => true,
            Verdict::Unverifiable => self.expired,
            Verdict::Alive => false,
        };
        if !may_be_marked {
            return Ok(Marked::Untouched);
        }
        let reason = self.reason();
        let leftovers = self.leftovers.as_ref().filter(|l| l.found > 0);
        // Nobody saw the end: `last_seen_at` says until when it surely lived.
        let ended = Ended {
            error: Some(self.how(reason)),
            oom_killed: self.oom_killed(),
            leftovers: leftovers.and_then(|l| serde_json::to_string(l).ok()),
            executed: true,
            ..Ended::unknown(Ending::Interrupted(reason))
        };
        match claim.end(id, &ended, by)? {
            Finished::Done { invalidated } => {
                info!(
                    MESSAGE_ID = log::id::INTERRUPTED,
                    TASK_ID = id,
                    KEY = task.key,
                    STATUS = Status::Interrupted.as_str(),
                    REASON = reason.as_str(),
                    SESSION_ID = task.session_id,
                    "task {id} is interrupted: {}",
                    self.how(reason)
                );
                if let Some(session) = invalidated {
                    info!(
                        MESSAGE_ID = log::id::SESSION_INVALIDATED,
                        TASK_ID = id,
                        KEY = task.key,
                        SESSION_ID = session,
                        "session {session} is not to be resumed: task {id} was interrupted"
                    );
                }
                Ok(Marked::Interrupted(reason))
            }
            Finished::AlreadyTerminal(_) | Finished::NoRow => Ok(Marked::Untouched),
        }
    }

    /// Removes what the task had in the spool, once its mark is durable.
    pub fn tidy(&self, ledger: &Ledger, marked: &Marked) {
        let merged = match marked {
            Marked::Interrupted(_) if !self.expired => false,
            Marked::Seen(_) => true,
            // Its supervisor may live, and need its room.
            Marked::Interrupted(_) | Marked::Untouched => return,
        };
        if let Err(e) = ledger.clear_spool(&self.task.id, merged) {
            warn!("{e}");
        }
    }
}

/// What became of one spooled record, and whether that is as it should be.
pub fn describe_merged(merged: &Merged) -> (String, bool) {
    let task = merged.task.as_deref().unwrap_or("of unknown name");
    match &merged.outcome {
        MergeOutcome::Applied { status, invalidated } => {
            let session = invalidated.as_ref().map(|s| format!("; session {s} is not to be resumed"));
            let session = session.unwrap_or_default();
            (
                format!("the end of task {task} ({status}), which waited in the spool, is recorded{session}"),
                true,
            )
        }
        MergeOutcome::AlreadyTerminal { status, kept } => {
            let kept = kept.display();
            (format!("task {task} had ended as {status} already; its spooled end is kept in {kept}"), false)
        }
        MergeOutcome::NoRow { kept } => {
            let kept = kept.display();
            (
                format!(
                    "a spooled end belongs to task {task}, which the ledger does not have; kept in {kept}"
                ),
                false,
            )
        }
        MergeOutcome::Unreadable { why, kept } => {
            (format!("a spooled end cannot be read ({why}); it is kept in {}", kept.display()), false)
        }
        MergeOutcome::Waits(e) => {
            (format!("the end of task {task} goes on waiting in the spool: {e}"), false)
        }
    }
}

/// Logs what became of the records that waited in the spool when the ledger was opened.
pub fn report_merged(ledger: &Ledger) {
    for merged in ledger.merged() {
        match describe_merged(merged) {
            (text, true) => info!("{text}"),
            (text, false) => warn!("{text}"),
        }
    }
}

#[cfg(test)]
mod tests;
