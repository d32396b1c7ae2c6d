//! The `--on-finish` commands that no supervisor has run.

use std::collections::BTreeSet;

use super::recovery_engine::RecoveryEngine;
use super::report::{DeliveredHook, UnsettledTask};
use super::scope::SelectedTasks;
use crate::commands::deliver::{self, Delivered};
use crate::error::Error;
use crate::ledger::{DeliveryStatus, FollowUp, TaskLookup};
use crate::task::{Task, TaskId, Time};

/// How often an interrupted hook is tried before it counts as failed: the hook itself may crash the machine.
pub(super) const ATTEMPTS: i64 = 3;

impl RecoveryEngine<'_> {
    /// Runs the `--on-finish` commands without a recorded result, including those of tasks that end
    /// meanwhile.
    ///
    /// # Errors
    /// When the ledger cannot be read or written.
    pub fn deliver(&mut self, selected: &SelectedTasks) -> Result<(), Error> {
        let mut tried = BTreeSet::new();
        loop {
            let mut due = selected.only(self.ledger.undelivered()?);
            due.retain(|task| tried.insert(task.id.clone()));
            if due.is_empty() {
                return Ok(());
            }
            for task in due {
                self.deliver_one(&task)?;
                if self.is_interrupted() {
                    return Ok(());
                }
            }
        }
    }

    fn deliver_one(&mut self, task: &Task) -> Result<(), Error> {
        let id = &task.id;
        let is_supervised = self.is_supervised(task)?;
        let was_cut_off = task.delivery_status.as_deref() == Some(DeliveryStatus::Delivering.as_str());
        let delivered = if !is_supervised && was_cut_off && task.delivery_attempts >= ATTEMPTS {
            self.give_up(task)?
        } else {
            let (ttl, timeout, caller) = (self.policy.ttl, self.policy.hook_timeout, self.caller);
            self.attending(|engine| deliver::deliver_one(engine, task, ttl, timeout, caller))?
        };
        match delivered {
            // Its own supervisor is watched; another process may die in the middle.
            Delivered::ByAnother if is_supervised => {}
            Delivered::ByAnother => {
                self.supervisor_watch.iter_mut().for_each(|supervisor_watch| supervisor_watch.retry(id))
            }
            Delivered::Unverifiable(_)
                if self.supervisor_watch.as_mut().is_some_and(|l| !l.check_later(task)) => {}
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
                self.deliver_again_unless_recorded(id)?;
                self.reporter.line(&format!("the --on-finish command of task {id}: {}", state.as_str()));
                self.report.deliveries.push(DeliveredHook { id: id.clone(), status: state.as_str() });
            }
        }
        Ok(())
    }

    /// Delivers a task again in a minute if the ledger did not take the result. `recover` leaves that to the
    /// next recovery.
    fn deliver_again_unless_recorded(&mut self, id: &TaskId) -> Result<(), Error> {
        if let Some(supervisor_watch) = &mut self.supervisor_watch
            && let TaskLookup::One(now) = self.ledger.task(id.as_str())?
            && now.delivery_status.as_deref() == Some(DeliveryStatus::Delivering.as_str())
        {
            supervisor_watch.retry(id);
        }
        Ok(())
    }

    /// Marks a hook that was interrupted too often as failed, unless another process is running it.
    fn give_up(&mut self, task: &Task) -> Result<Delivered, Error> {
        let (_lock, taken) = self.ledger.lock_follow_ups(FollowUp::Delivery, &[&task.id])?;
        // Another process may have delivered it since the row was read.
        let is_unchanged = |now: &Task| {
            (&now.delivery_status, now.delivery_attempts) == (&task.delivery_status, task.delivery_attempts)
        };
        match self.ledger.task(task.id.as_str())? {
            TaskLookup::One(now) if taken == [true] && is_unchanged(&now) => {}
            _ => return Ok(Delivered::ByAnother),
        }
        let failed = format!("did not end in {ATTEMPTS} attempts");
        self.ledger.delivery(&task.id, DeliveryStatus::Failed, Some(&failed), Time::now())?;
        Ok(Delivered::As(DeliveryStatus::Failed))
    }
}
