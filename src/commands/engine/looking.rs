//! What the engine does about what the lookout has seen: it looks at rows, and adds the tasks in doubt.

use super::core::RecoveryEngine;
use super::lookout::{Lookout, live_supervisor};
use super::scope::{SelectedTasks, running};
use crate::error::Error;
use crate::failpoint;
use crate::ledger::{DeliveryStatus, LiveEvidence, TaskLookup};
use crate::recovery;
use crate::task::{Status, Task, TaskId};

impl RecoveryEngine<'_> {
    /// Acts on the events that have arrived, and on what is due.
    pub(super) fn look_around(&mut self) -> Result<(), Error> {
        let Some(lookout) = &mut self.lookout else { return Ok(()) };
        let seen = lookout.read();
        failpoint::hit("monitor.seen").map_err(|e| Error::failed("reading events").caused_by(e))?;
        if seen.is_blind {
            lookout.lose_slots();
        }
        let watches = !(seen.is_blind || seen.watch_again) || lookout.watch(&self.ledger);
        // Opening the ledger again creates the spool that is missing.
        self.is_replaced |= seen.is_replaced || (seen.is_blind && !watches);
        if self.is_replaced {
            return Ok(());
        }
        if seen.has_records {
            self.merge_spool()?;
        }
        let mut unknown = Vec::new();
        for (id, is_released) in seen.tasks {
            if !self.look(&id, is_released)? {
                unknown.push(id);
            }
            failpoint::reached("monitor.looked");
        }
        if !unknown.is_empty() {
            self.clean_slots_of(&SelectedTasks(unknown));
        }
        if seen.all || seen.is_blind || (seen.watch_again && watches) {
            self.lookout.iter_mut().for_each(Lookout::all_ended);
            self.add_all(&SelectedTasks(Vec::new()))?;
        } else if seen.rows {
            self.look_at_rows()?;
        }
        Ok(())
    }

    /// Looks at a task whose supervisor may have exited. It is a hint: the kernel reports that a slot was
    /// closed before it releases the live lock. `false`: there is no such row.
    fn look(&mut self, id: &TaskId, is_released: bool) -> Result<bool, Error> {
        if self.settling.contains(id) {
            return Ok(true);
        }
        let task = match self.ledger.task(id.as_str())? {
            TaskLookup::One(task) if task.id == *id => task,
            _ => {
                self.lookout.iter_mut().for_each(|lookout| lookout.forget(id));
                return Ok(false);
            }
        };
        let Some(lookout) = &mut self.lookout else { return Ok(true) };
        let is_released = is_released && !lookout.was_closed(id);
        if !task.status.is_terminal() || (recovery::ends_leftovers(&task) && !is_released) {
            lookout.hint(id, is_released);
            self.add(*task);
        } else if !is_pending(&task) && !self.ledger.has_slot(id) {
            lookout.forget(id);
        } else {
            lookout.hint(id, is_released);
            if !self.is_supervised(&task)? {
                self.lookout.iter_mut().for_each(|lookout| lookout.ended(id));
            }
        }
        Ok(true)
    }

    /// Whether the supervisor of an ended task may still run its hook. `monitor` looks at the task again when
    /// it has exited.
    pub(super) fn is_supervised(&mut self, task: &Task) -> Result<bool, Error> {
        let Some(lookout) = &mut self.lookout else {
            return Ok(recovery::evidence(&self.ledger, task)? == LiveEvidence::Held);
        };
        let runs = self.ledger.evidence(task)? == LiveEvidence::Held || live_supervisor(task).is_some();
        if runs {
            lookout.hint_first(&task.id);
            lookout.keep(task, &self.ledger);
        }
        Ok(runs)
    }

    /// Adds the running tasks whose ends the files of the ledger do not show.
    fn look_at_rows(&mut self) -> Result<(), Error> {
        for task in running(&self.ledger, &SelectedTasks(Vec::new()))? {
            let Some(lookout) = &mut self.lookout else { return Ok(()) };
            let is_shown = task.live_slot.is_some() && lookout.sees_files();
            if is_shown || lookout.watches(&task.id) {
                continue;
            }
            match task.live_slot {
                Some(_) => lookout.hint(&task.id, false),
                None => lookout.expect_no_proof(&task.id),
            }
            self.add(task);
        }
        if self.lookout.as_ref().is_some_and(|lookout| !lookout.sees_files()) {
            self.look_at_follow_ups()?;
        }
        Ok(())
    }

    /// Looks at the ended tasks with a hook or report that is due: one that was never seen running too.
    fn look_at_follow_ups(&mut self) -> Result<(), Error> {
        let mut due = self.ledger.undelivered()?;
        due.extend(self.ledger.unhinted()?);
        for Task { id, .. } in due {
            if self.lookout.as_ref().is_some_and(|lookout| !lookout.watches(&id)) {
                self.look(&id, false)?;
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
