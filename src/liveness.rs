//! Whether a task that was read as running is alive, although rows and processes change while one looks.

use crate::error::Error;
use crate::ledger::{Found, Ledger};
use crate::recovery;
use crate::task::{Status, Task, Verdict};

/// Judges a running task; `None`: it has ended. It may end between the look at its row and the look at its
/// supervisor, so the row of one that is not alive is read again.
///
/// # Errors
/// When the ledger cannot be read, or its live locks not be asked.
pub fn verdict(ledger: &Ledger, task: &mut Task) -> Result<Option<Verdict>, Error> {
    if task.status != Status::Running {
        return Ok(None);
    }
    let verdict = recovery::judge(recovery::evidence(ledger, task)?, task);
    if verdict != Verdict::Alive
        && let Found::One(now) = ledger.task(&task.id)?
        && now.status != Status::Running
    {
        *task = *now;
        return Ok(None);
    }
    Ok(Some(verdict))
}
