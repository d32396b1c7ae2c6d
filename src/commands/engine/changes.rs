//! How the engine handles what the supervisor watch reports: it reads the rows of these tasks, and settles
//! those that may be lost.

use super::recovery_engine::RecoveryEngine;
use super::scope::{SelectedTasks, running};
use super::supervisor_watch::{SupervisorWatch, live_supervisor};
use crate::error::Error;
use crate::failpoint;
use crate::ledger::{DeliveryStatus, LiveEvidence, TaskLookup};
use crate::recovery;
use crate::task::{Status, Task, TaskId};

impl RecoveryEngine<'_> {
    /// Acts on the events that have arrived, and on what is due.
    pub(super) fn handle_changes(&mut self) -> Result<(), Error> {
        let Some(supervisor_watch) = &mut self.supervisor_watch else { return Ok(()) };
        let changes = supervisor_watch.read();
        failpoint::hit("monitor.seen").map_err(|e| Error::failed("reading events").caused_by(e))?;
        if changes.spool_is_replaced {
            supervisor_watch.note_replaced_spool();
        }
        self.membership_changed |= changes.membership;
        let watches = !(changes.spool_is_replaced || changes.watch_again)
            || supervisor_watch.watch(&self.ledger).is_ok();
        // Opening the ledger again creates the spool that is missing.
        self.is_replaced |= changes.is_replaced || (changes.spool_is_replaced && !watches);
        if self.is_replaced {
            return Ok(());
        }
        if changes.has_records {
            self.merge_spool()?;
        }
        let mut unknown = Vec::new();
        for (id, is_released) in changes.tasks {
            if !self.check_task(&id, is_released)? {
                unknown.push(id);
            }
            failpoint::reached("monitor.looked");
        }
        if !unknown.is_empty() {
            self.clean_slots_of(&SelectedTasks(unknown));
        }
        if changes.all || changes.spool_is_replaced || (changes.watch_again && watches) {
            self.supervisor_watch.iter_mut().for_each(SupervisorWatch::all_ended);
            self.add_all(&SelectedTasks(Vec::new()))?;
        } else if changes.rows {
            self.check_rows()?;
        }
        Ok(())
    }

    /// Looks at a task whose supervisor may have exited. It is a hint: the kernel reports that a slot was
    /// closed before it releases the live lock. `false`: there is no such row.
    fn check_task(&mut self, id: &TaskId, is_released: bool) -> Result<bool, Error> {
        if self.settling.contains(id) {
            return Ok(true);
        }
        let task = match self.ledger.task(id.as_str())? {
            TaskLookup::One(task) if task.id == *id => task,
            _ => {
                self.supervisor_watch.iter_mut().for_each(|supervisor_watch| supervisor_watch.forget(id));
                return Ok(false);
            }
        };
        let Some(supervisor_watch) = &mut self.supervisor_watch else { return Ok(true) };
        let is_released = is_released && !supervisor_watch.was_closed(id);
        if !task.status.is_terminal() || (recovery::ends_leftovers(&task) && !is_released) {
            supervisor_watch.hint(id, is_released);
            self.add(*task);
        } else if !is_pending(&task) && !self.ledger.has_slot(id) {
            supervisor_watch.forget(id);
        } else {
            supervisor_watch.hint(id, is_released);
            if !self.is_supervised(&task)? {
                self.supervisor_watch.iter_mut().for_each(|supervisor_watch| supervisor_watch.ended(id));
            }
        }
        Ok(true)
    }

    /// Whether the supervisor of an ended task may still run its hook. `monitor` looks at the task again when
    /// it has exited.
    pub(super) fn is_supervised(&mut self, task: &Task) -> Result<bool, Error> {
        let Some(supervisor_watch) = &mut self.supervisor_watch else {
            return Ok(recovery::evidence(&self.ledger, task)? == LiveEvidence::Held);
        };
        let runs = self.ledger.evidence(task)? == LiveEvidence::Held || live_supervisor(task).is_some();
        if runs {
            supervisor_watch.hint_first(&task.id);
            supervisor_watch.keep(task, &self.ledger);
        }
        Ok(runs)
    }

    /// Adds the running tasks whose ends the files of the ledger do not show.
    fn check_rows(&mut self) -> Result<(), Error> {
        for task in running(&self.ledger, &SelectedTasks(Vec::new()))? {
            let Some(supervisor_watch) = &mut self.supervisor_watch else { return Ok(()) };
            let is_shown = task.live_slot.is_some() && supervisor_watch.sees_files();
            if is_shown || supervisor_watch.watches(&task.id) {
                continue;
            }
            match task.live_slot {
                Some(_) => supervisor_watch.hint(&task.id, false),
                None => supervisor_watch.expect_no_proof(&task.id),
            }
            self.add(task);
        }
        if self.supervisor_watch.as_ref().is_some_and(|supervisor_watch| !supervisor_watch.sees_files()) {
            self.check_follow_ups()?;
        }
        Ok(())
    }

    /// Looks at the ended tasks with a hook or report that is due: one that was never seen running too.
    fn check_follow_ups(&mut self) -> Result<(), Error> {
        let mut due = self.ledger.undelivered()?;
        due.extend(self.ledger.unhinted()?);
        for Task { id, .. } in due {
            if self.supervisor_watch.as_ref().is_some_and(|supervisor_watch| !supervisor_watch.watches(&id)) {
                self.check_task(&id, false)?;
            }
        }
        Ok(())
    }
}

/// Whether a task that has ended is still to be delivered or reported.
fn is_pending(task: &Task) -> bool {
    let delivery = task.delivery_status.as_deref();
    let is_due = |status: DeliveryStatus| delivery == Some(status.as_str());
    is_due(DeliveryStatus::Pending)
        || is_due(DeliveryStatus::Delivering)
        || (task.status == Status::Interrupted && task.hinted_at.is_none())
}
