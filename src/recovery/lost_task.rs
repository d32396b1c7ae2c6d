//! A lost task: why it was lost, what keeps it from being settled, and marking it as interrupted.

use std::path::Path;
use std::rc::Rc;

use tracing::{info, warn};

use super::host::{is_of_another_boot, place_of};
use super::verdict::judge_from;
use crate::error::{Error, chain};
use crate::ledger::{Claim, FinishOutcome, Ledger, LedgerError};
use crate::log;
use crate::process::cgroup::oom;
use crate::process::leftovers::{LeftoverSummary, SparedReason};
use crate::process::procfs::identity;
use crate::sys;
use crate::task::{
    Ending, InterruptReason, Key, ProcessScope, SessionId, Status, Task, TaskEnd, TaskId, Verdict,
};

/// A task whose supervisor and processes have ended, or one that cannot be verified and has expired.
pub struct LostTask {
    pub(super) task: Task,
    here: Rc<ProcessScope>,
    pub(super) leftovers: Option<LeftoverSummary>,
    is_expired: bool,
    /// That its agent may still run, and what to do.
    pub(super) agent_may_run: Option<String>,
}

/// The result of settling a lost task.
#[derive(Debug)]
pub enum SettleOutcome {
    Interrupted {
        reason: InterruptReason,
        /// The session that is not to be resumed.
        invalidated: Option<SessionId>,
    },
    /// Its supervisor had recorded its ending in the spool.
    FromSpool(Status),
    /// Its ending is in the spool and cannot be read now, so none is inferred.
    UnreadableSpool(LedgerError),
    /// Another command has settled it meanwhile, or it is not lost.
    Unchanged,
}

impl LostTask {
    /// A task that cannot be verified and has expired. Only its row is changed: its pids may
    /// have been reused.
    pub fn expired(task: Task, here: Rc<ProcessScope>) -> LostTask {
        LostTask { is_expired: true, ..LostTask::unswept(task, here) }
    }

    /// A lost task whose processes were not swept.
    pub fn unswept(task: Task, here: Rc<ProcessScope>) -> LostTask {
        LostTask { task, here, leftovers: None, is_expired: false, agent_may_run: None }
    }

    pub fn task(&self) -> &Task {
        &self.task
    }

    pub fn id(&self) -> &TaskId {
        &self.task.id
    }

    /// Whether its ending was recorded before.
    pub fn has_ended(&self) -> bool {
        self.task.status.is_terminal()
    }

    /// Its leftovers; `None`: none were searched for.
    pub fn leftovers(&self) -> Option<&LeftoverSummary> {
        self.leftovers.as_ref()
    }

    /// Its processes that could not be ended.
    pub fn survivors(&self) -> &[i32] {
        self.leftovers.as_ref().map_or(&[], |l| &l.survivors)
    }

    /// That its agent may still run although its task is settled, and what to do.
    pub fn agent_may_run(&self) -> Option<&str> {
        self.agent_may_run.as_deref()
    }

    /// Why it cannot be settled: `its supervisor has ended, but …`.
    pub fn stuck(&self) -> Option<String> {
        let spared = self.leftovers.as_ref().map_or(&[][..], |l| &l.spared);
        if let Some(kept) = spared.iter().find(|s| s.why == SparedReason::Supervised) {
            return Some(format!(
                "its row names no live supervisor, but one is running above its process {}: others may have \
                 written to the ledger",
                kept.pid
            ));
        }
        let named = |pid: &i32| match spared.iter().find(|s| s.pid == *pid).map(|s| s.why) {
            Some(SparedReason::Unreadable) => {
                format!("pid {pid}, whose environment cannot be read (it may run as another user)")
            }
            Some(SparedReason::UnknownLedger) => {
                format!("pid {pid}, which names a ledger that does not exist (this one may have been moved)")
            }
            Some(SparedReason::Dying) => {
                let state = spared.iter().find(|s| s.pid == *pid).and_then(|s| s.state).unwrap_or('?');
                format!("pid {pid}, which was killed but has not ended (state {state})")
            }
            Some(
                SparedReason::Terminal
                | SparedReason::Unmarked
                | SparedReason::Supervisor
                | SparedReason::Supervised
                | SparedReason::Detached
                | SparedReason::Hidden,
            )
            | None => {
                format!("pid {pid}")
            }
        };
        let survivors: Vec<String> = self.survivors().iter().map(named).collect();
        (!survivors.is_empty()).then(|| {
            let survivors = survivors.join("; ");
            let why = match sys::pidfd_signals_work() {
                true => String::new(),
                false => format!(" ({}; end them yourself)", sys::NO_PIDFD_SIGNALS),
            };
            format!(
                "its supervisor has ended, but some of its processes could not be ended: {survivors}{why}"
            )
        })
    }

    /// `task 019…, running since …, whose supervisor died unexpectedly; 2 leftover processes ended`.
    pub fn describe(&self) -> String {
        let ended = self.leftovers.as_ref().map_or(0, |l| l.ended);
        let also = match ended {
            0 => String::new(),
            1 => "; 1 leftover process ended".to_owned(),
            n => format!("; {n} leftover processes ended"),
        };
        format!(
            "task {}, running since {}, whose supervisor died unexpectedly{also}",
            self.task.id, self.task.started_at
        )
    }

    /// Why it was interrupted, as far as the kernel shows.
    pub fn reason(&self) -> InterruptReason {
        if self.is_expired {
            InterruptReason::Ttl
        } else if is_of_another_boot(&self.task, &self.here) {
            InterruptReason::Rebooted
        } else if self.oom_killed() == Some(true) {
            InterruptReason::Oom
        } else {
            InterruptReason::SupervisorLost
        }
    }

    /// Whether the OOM killer killed a process in its cgroup while it ran; `None`: unknown.
    fn oom_killed(&self) -> Option<bool> {
        if self.is_expired || is_of_another_boot(&self.task, &self.here) {
            return None;
        }
        oom::struck_since(self.task.cgroup.as_deref(), self.task.oom_kills_before)
    }

    /// What happened to it, in words.
    pub(super) fn explanation(&self, reason: InterruptReason) -> String {
        let pid = |pid: Option<i32>| pid.map_or_else(String::new, |p| format!(" (pid {p})"));
        let (supervisor, agent) = (pid(self.task.supervisor_pid), pid(self.task.agent_pid));
        let still_ran = |l: &LeftoverSummary| self.task.agent_pid.is_some_and(|p| l.pids.contains(&p));
        let agents = match &self.leftovers {
            _ if self.agent_may_run.is_some() => self.agent_may_run.clone().unwrap_or_default(),
            Some(l) if still_ran(l) => format!("its agent{agent} was still running and was ended"),
            Some(_) if !identity::may_be_here(&place_of(&self.task), &self.here) => {
                format!(
                    "its agent{agent} is in another pid namespace: whether it has ended is not known here"
                )
            }
            Some(_) => format!("its agent{agent} had ended too"),
            None => String::new(),
        };
        match reason {
            InterruptReason::Rebooted => "the machine rebooted during the run".to_owned(),
            InterruptReason::Oom => {
                format!(
                    "its supervisor{supervisor} died after the OOM killer had killed a process in its \
                     cgroup; {agents}"
                )
            }
            InterruptReason::Ttl => {
                let last = self.task.last_seen_at.as_ref().unwrap_or(&self.task.started_at);
                format!("it cannot be checked from here, and was last known to run at {last}")
            }
            InterruptReason::SupervisorLost | InterruptReason::Signal if agents.is_empty() => {
                format!("its supervisor{supervisor} died unexpectedly")
            }
            InterruptReason::SupervisorLost | InterruptReason::Signal => {
                format!("its supervisor{supervisor} died unexpectedly; {agents}")
            }
        }
    }

    /// Judges it again and marks it as interrupted, inside the transaction of the command `by`.
    ///
    /// # Errors
    /// When the ledger does not take it.
    pub fn settle(&self, claim: &Claim<'_>, by: &str) -> Result<SettleOutcome, Error> {
        let id = &self.task.id;
        let Some(task) = claim.task(id)?.filter(|t| t.status == Status::Running) else {
            return Ok(SettleOutcome::Unchanged);
        };
        // An ending in the spool is a fact, and takes precedence over what is inferred here. Its supervisor
        // wrote it before it released the live lock, so it is there by now or never will be.
        match claim.spooled(id) {
            Ok(None) => {}
            Ok(Some(recorded)) => {
                claim.end(id, &recorded, by)?;
                return Ok(SettleOutcome::FromSpool(recorded.ending.status()));
            }
            Err(e) => return Ok(SettleOutcome::UnreadableSpool(e)),
        }
        let now = judge_from(claim.evidence(&task)?, &task, &self.here);
        let may_be_marked = match now {
            Verdict::Gone | Verdict::Recycled => true,
            Verdict::Unverifiable => self.is_expired,
            Verdict::Alive => false,
        };
        if !may_be_marked {
            return Ok(SettleOutcome::Unchanged);
        }
        let reason = self.reason();
        let leftovers = self.leftovers.as_ref().filter(|l| l.found > 0);
        // The time of its end is unknown: `last_seen_at` says until when it certainly lived.
        let ended = TaskEnd {
            error: Some(self.explanation(reason)),
            oom_killed: self.oom_killed(),
            leftovers: leftovers.and_then(|l| serde_json::to_string(l).ok()),
            executed: true,
            ..TaskEnd::unknown(Ending::Interrupted(reason))
        };
        match claim.end(id, &ended, by)? {
            FinishOutcome::Done { invalidated } => Ok(SettleOutcome::Interrupted { reason, invalidated }),
            FinishOutcome::AlreadyTerminal(_) | FinishOutcome::NoRow => Ok(SettleOutcome::Unchanged),
        }
    }

    /// Logs the outcome and removes the task's files from the spool. Call it once the ending is durable:
    /// nothing is logged in a transaction.
    pub fn close(&self, ledger: &Ledger, outcome: &SettleOutcome) {
        let merged = match outcome {
            SettleOutcome::Interrupted { reason, invalidated } => {
                log::about_another(|| self.log_interrupted(*reason, invalidated.as_ref(), ledger.path()));
                // The supervisor of an expired task may be alive and need its slot.
                if self.is_expired {
                    return;
                }
                false
            }
            SettleOutcome::FromSpool(_) => true,
            SettleOutcome::UnreadableSpool(_) | SettleOutcome::Unchanged => return,
        };
        if let Err(e) = ledger.clear_spool(&self.task.id, merged) {
            warn!(hint = e.hint(), "{}", chain(&e));
        }
    }

    fn log_interrupted(&self, reason: InterruptReason, invalidated: Option<&SessionId>, ledger: &Path) {
        let task = &self.task;
        let ledger = ledger.to_string_lossy();
        info!(
            MESSAGE_ID = log::id::INTERRUPTED,
            TASK_ID = task.id.as_str(),
            KEY = task.key.as_ref().map(Key::as_str),
            LEDGER = &*ledger,
            STATUS = Status::Interrupted.as_str(),
            REASON = reason.as_str(),
            SESSION_ID = task.session_id.as_ref().map(SessionId::as_str),
            "task {} interrupted: {}",
            task.id,
            self.explanation(reason)
        );
        if let Some(session) = invalidated {
            info!(
                MESSAGE_ID = log::id::SESSION_INVALIDATED,
                TASK_ID = task.id.as_str(),
                KEY = task.key.as_ref().map(Key::as_str),
                LEDGER = &*ledger,
                SESSION_ID = session.as_str(),
                "session {session} invalidated: task {} was interrupted",
                task.id
            );
        }
    }
}
