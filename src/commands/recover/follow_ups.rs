//! The hooks and reports of a recovery: `--on-finish` commands, and a report of each interrupted task.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::PathBuf;

use tracing::{debug, warn};

use super::options::RecoverOptions;
use super::post_mortem::{post_mortem, uncommitted};
use super::report::{DeliveredHook, UnsettledTask};
use super::work::Recovery;
use crate::commands::deliver::{self, Delivered};
use crate::error::Error;
use crate::failpoint;
use crate::helper::Idle;
use crate::hook::{self, Hook, HookEnd};
use crate::ledger::{DeliveryStatus, FollowUp, LiveEvidence, TaskLookup};
use crate::recovery;
use crate::task::{Signal, Task, TaskId, Time};

/// How often an interrupted hook is tried before it counts as failed: the hook itself may crash the machine.
const ATTEMPTS: i64 = 3;

impl Recovery<'_> {
    /// Runs the `--on-finish` commands without a recorded result, including those of tasks that end
    /// meanwhile.
    pub(super) fn deliver(&mut self) -> Result<(), Error> {
        let mut tried = BTreeSet::new();
        loop {
            let mut due = self.selected.only(self.ledger.undelivered()?);
            due.retain(|task| tried.insert(task.id.clone()));
            if due.is_empty() {
                return Ok(());
            }
            for task in due {
                self.deliver_one(&task)?;
                if self.stopped.is_some() {
                    return Ok(());
                }
            }
        }
    }

    fn deliver_one(&mut self, task: &Task) -> Result<(), Error> {
        let id = &task.id;
        let evidence = recovery::evidence(&self.ledger, task)?;
        let was_cut_off = task.delivery_status.as_deref() == Some(DeliveryStatus::Delivering.as_str());
        let (delivered, stopped) =
            if evidence != LiveEvidence::Held && was_cut_off && task.delivery_attempts >= ATTEMPTS {
                self.give_up(task)?
            } else {
                let RecoverOptions { ttl, hook_timeout, .. } = *self.options;
                let (ledger, watch) = (&mut self.ledger, &mut self.watch);
                deliver::deliver_one(ledger, watch, task, ttl, hook_timeout, self.caller)?
            };
        self.stopped = stopped;
        match delivered {
            Delivered::ByAnother => {}
            Delivered::Unverifiable(why) => {
                self.reporter.line(&format!("the --on-finish command of task {id}: {why}"));
                self.report.unverifiable.push(UnsettledTask { id: id.clone(), key: task.key.clone(), why });
            }
            Delivered::Refused(why) => {
                self.ledger.delivery(
                    id,
                    DeliveryStatus::Failed,
                    Some(&format!("is not run: {why}")),
                    Time::now(),
                )?;
                self.problem(format!("the --on-finish command of task {id} is not run: {why}"));
            }
            Delivered::As(state) => {
                self.reporter.line(&format!("the --on-finish command of task {id}: {}", state.as_str()));
                self.report.deliveries.push(DeliveredHook { id: id.clone(), status: state.as_str() });
            }
        }
        Ok(())
    }

    /// Marks a hook that was interrupted too often as failed, unless another process is running it.
    fn give_up(&mut self, task: &Task) -> Result<(Delivered, Option<Signal>), Error> {
        let (_lock, taken) = self.ledger.lock_follow_ups(FollowUp::Delivery, &[&task.id])?;
        // Another process may have delivered it since the row was read.
        let is_unchanged = |now: &Task| {
            (&now.delivery_status, now.delivery_attempts) == (&task.delivery_status, task.delivery_attempts)
        };
        match self.ledger.task(task.id.as_str())? {
            TaskLookup::One(now) if taken == [true] && is_unchanged(&now) => {}
            _ => return Ok((Delivered::ByAnother, None)),
        }
        let failed = format!("did not end in {ATTEMPTS} attempts");
        self.ledger.delivery(&task.id, DeliveryStatus::Failed, Some(&failed), Time::now())?;
        Ok((Delivered::As(DeliveryStatus::Failed), None))
    }

    /// Reports each interrupted task that was not reported yet, also one that ended itself on a clean
    /// restart. [`Recovery::record_reports`] records those that were only printed.
    pub(super) fn report_interrupted(&mut self) -> Result<(), Error> {
        let mut due = self.unreported()?;
        let ids: Vec<&TaskId> = due.iter().map(|task| &task.id).collect();
        let (lock, taken) = self.ledger.lock_follow_ups(FollowUp::Report, &ids)?;
        let ours: BTreeSet<TaskId> =
            due.iter().zip(taken).filter(|(_, taken)| *taken).map(|(t, _)| t.id.clone()).collect();
        // Without those that another process reported before it released its lock.
        due = self.unreported()?;
        due.retain(|task| ours.contains(&task.id));
        for task in due {
            let mut idle = Idle::new(&mut self.ledger, &mut self.watch);
            let uncommitted = uncommitted(&task, &mut self.survey, &mut idle)?;
            self.stopped = idle.stopped;
            drop(idle);
            let hint = post_mortem(&self.ledger, task, uncommitted)?;
            self.reporter.post_mortem(&hint);
            failpoint::reached("recover.hinting");
            match &self.options.on_interrupted {
                // The stop signal arrived while git ran: the next recovery passes the report on.
                Some(_) if self.stopped.is_some() => {}
                Some(command) => self.pass_on(command, &hint.task)?,
                None => self.printed.push(hint.task.id.clone()),
            }
            self.report.hints.push(hint);
            if self.stopped.is_some() {
                break;
            }
        }
        self.report_lock = Some(lock);
        Ok(())
    }

    /// The tasks to report. One whose supervisor is still alive is reported by a later recovery.
    fn unreported(&self) -> Result<Vec<Task>, Error> {
        let mut due = Vec::new();
        for task in self.selected.only(self.ledger.unhinted()?) {
            if recovery::evidence(&self.ledger, &task)? != LiveEvidence::Held {
                due.push(task);
            }
        }
        Ok(due)
    }

    /// Passes one report to the `--on-interrupted` command: three times at most, whether it fails or is
    /// interrupted.
    fn pass_on(&mut self, command: &OsStr, task: &Task) -> Result<(), Error> {
        let id = &task.id;
        let Some(attempt) = self.ledger.begin_hint(id)? else { return Ok(()) };
        failpoint::reached("recover.handing");
        let done = if attempt > ATTEMPTS {
            HookEnd::Failed(format!("was interrupted {ATTEMPTS} times"))
        } else {
            let cwd = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
            let limit = hook::limit(self.options.hook_timeout);
            let hook = Hook { command, cwd: &cwd, attempt: None, limit };
            let mut idle = Idle::new(&mut self.ledger, &mut self.watch);
            let done = hook::run(&hook, task, self.caller, &mut idle)?;
            self.stopped = idle.stopped;
            done
        };
        failpoint::reached("recover.handed");
        let how = match done {
            HookEnd::Done => return Ok(self.ledger.hinted(std::slice::from_ref(id), Time::now())?),
            HookEnd::Interrupted(signal) => {
                self.ledger.take_back_hint(id)?;
                format!("was interrupted by {signal}")
            }
            HookEnd::Failed(how) => how,
        };
        let next = match attempt >= ATTEMPTS && self.stopped.is_none() {
            true => "it is not run again",
            false => "the next recovery tries again",
        };
        if attempt >= ATTEMPTS && self.stopped.is_none() {
            self.ledger.hinted(std::slice::from_ref(id), Time::now())?;
        }
        self.problem(format!("the --on-interrupted command {how} for task {id}; {next}"));
        Ok(())
    }

    /// Records the printed tasks as reported, in one commit. A crash before this repeats reports and loses
    /// none.
    pub(super) fn record_reports(&mut self) -> Result<(), Error> {
        failpoint::reached("recover.reported");
        match self.reporter.failed.take() {
            None => self.ledger.hinted(&self.printed, Time::now())?,
            Some(e) if self.printed.is_empty() => {
                debug!("standard output does not take the report: {e}");
            }
            Some(e) => {
                let tasks = match self.printed.len() {
                    1 => "1 interrupted task".to_owned(),
                    n => format!("{n} interrupted tasks"),
                };
                let problem = format!(
                    "the report of {tasks} could not be printed: {e}; the next recovery prints it again"
                );
                warn!("{problem}");
                self.report.problems.push(problem);
            }
        }
        Ok(())
    }
}
