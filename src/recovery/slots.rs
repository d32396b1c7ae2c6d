//! Removes slots that no supervisor will give back from the spool.

use super::verdict::evidence;
use crate::error::Error;
use crate::ledger::{Ledger, LiveEvidence, TaskLookup};
use crate::task::TaskId;

/// Removes the slots of tasks that were never committed, or have ended: their supervisors died before they
/// could. One that ends leftovers or runs a hook keeps its slot.
///
/// # Errors
/// When the ledger, its spool or its live locks cannot be read, or a slot cannot be removed.
pub fn sweep_spool(ledger: &mut Ledger) -> Result<(), Error> {
    let ids = ledger.slots()?;
    sweep_slots(ledger, ids)
}

/// As [`sweep_spool`], for these tasks.
///
/// # Errors
/// As [`sweep_spool`].
pub fn sweep_slots(ledger: &mut Ledger, ids: Vec<TaskId>) -> Result<(), Error> {
    let mut stray = Vec::new();
    for id in ids {
        if ledger.has_slot(&id) && is_stray(ledger, &id)? {
            stray.push(id);
        }
    }
    // Usually there is none: then other writers do not have to wait.
    if stray.is_empty() { Ok(()) } else { Ok(ledger.remove_slots(&stray)?) }
}

fn is_stray(ledger: &Ledger, id: &TaskId) -> Result<bool, Error> {
    match ledger.task(id.as_str())? {
        TaskLookup::One(task) if task.id == *id => {
            Ok(task.status.is_terminal() && evidence(ledger, &task)? != LiveEvidence::Held)
        }
        _ => Ok(true),
    }
}
