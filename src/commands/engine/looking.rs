//! What the engine does about what the lookout has seen: it looks at rows, and adds the tasks in doubt.

use super::core::RecoveryEngine;
use super::lookout::live_supervisor;
use super::scope::{SelectedTasks, running};
use crate::error::Error;
use crate::ledger::{DeliveryStatus, LiveEvidence, TaskLookup};
use crate::recovery;
use crate::task::{Status, Task, TaskId};

impl RecoveryEngine<'_> {
    /// Acts on the events that have arrived, and on what is due.
    pub(super) fn look_around(&mut self) -> Result<(), Error> {
        let Some(lookout) = &mut self.lookout else { return Ok(()) };
        let seen = lookout.read();
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
        for (id, is_released) in seen.tasks {
            self.look(&id, is_released)?;
        }
        if seen.all || seen.is_blind || (seen.watch_again && watches) {
            self.add_all(&SelectedTasks(Vec::new()))?;
        } else if seen.rows {
            self.look_at_rows()?;
        }
        Ok(())
    }

    /// Looks at a task whose supervisor may have exited. It is a hint: the kernel reports that a slot was
    /// closed before it releases the live lock.
    fn look(&mut self, id: &TaskId, is_released: bool) -> Result<(), Error> {
        if self.settling.contains(id) {
            return Ok(());
        }
        let task = match self.ledger.task(id.as_str())? {
            TaskLookup::One(task) if task.id == *id => task,
            _ => {
                self.lookout.iter_mut().for_each(|lookout| lookout.forget(id));
                self.clean_slots(std::slice::from_ref(id));
                return Ok(());
            }
        };
        let Some(lookout) = &mut self.lookout else { return Ok(()) };
        if !task.status.is_terminal() || (recovery::ends_leftovers(&task) && !is_released) {
            lookout.hint(id, is_released);
            self.add(*task);
        } else if !is_pending(&task) && !self.ledger.has_slot(id) {
            lookout.forget(id);
        } else if self.ledger.evidence(&task)? == LiveEvidence::Held || live_supervisor(&task).is_some() {
            lookout.hint(id, is_released);
            lookout.keep(&task, &self.ledger);
        } else {
            lookout.ended(id);
        }
        Ok(())
    }

    /// Adds the running tasks whose ends the files of the ledger do not show.
    fn look_at_rows(&mut self) -> Result<(), Error> {
        for task in running(&self.ledger, &SelectedTasks(Vec::new()))? {
            let Some(lookout) = &mut self.lookout else { return Ok(()) };
            let is_shown = task.live_slot.is_some() && lookout.sees_files();
            if !is_shown && !lookout.watches(&task.id) {
                lookout.hint(&task.id, false);
                self.add(task);
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
