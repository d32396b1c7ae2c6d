//! Whether a task that was read as running is alive, although rows and processes change meanwhile.

use crate::error::Error;
use crate::ledger::{Ledger, TaskLookup};
use crate::recovery::verdict::{evidence, judge};
use crate::task::{Status, Task, Verdict};

/// Judges a running task; `None`: it has ended. It may end after its row was read and before its supervisor
/// is checked, so the row of a task that is not alive is read again.
///
/// # Errors
/// When the ledger or its live locks cannot be read.
pub fn verdict(ledger: &Ledger, task: &mut Task) -> Result<Option<Verdict>, Error> {
    if task.status != Status::Running {
        return Ok(None);
    }
    let verdict = judge(evidence(ledger, task)?, task);
    if verdict != Verdict::Alive
        && let TaskLookup::One(now) = ledger.task(task.id.as_str())?
        && now.status != Status::Running
    {
        *task = *now;
        return Ok(None);
    }
    Ok(Some(verdict))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::ledger::tests::{World, ended, new_task, start};
    use crate::process::procfs::identity;
    use crate::task::{Ending, NewTask, ProcessIdentity, TaskId};

    fn row(ledger: &Ledger) -> Task {
        let TaskLookup::One(task) = ledger.task("t").unwrap() else { panic!("no row") };
        *task
    }

    #[test]
    fn a_task_that_ends_during_the_check_is_not_lost() {
        let world = World::new();
        let mut ledger = world.open();
        let nobody = ProcessIdentity { pid: i32::MAX, start: 1 };
        let task = NewTask { place: identity::place(), supervisor: nobody.into(), ..new_task("t", None) };
        let live = start(&mut ledger, &task);
        let mut task_row = row(&ledger);
        assert_eq!(verdict(&ledger, &mut task_row).unwrap(), Some(Verdict::Alive));
        drop(live);
        assert_eq!(verdict(&ledger, &mut task_row).unwrap(), Some(Verdict::Gone));
        assert_eq!(task_row.status, Status::Running);
        ledger.finish(&TaskId::recorded("t"), &ended(Ending::Success), "run").unwrap();
        assert_eq!(verdict(&ledger, &mut task_row).unwrap(), None, "it has ended since it was read");
        assert_eq!(task_row, row(&ledger), "and its present row is returned");
        assert_eq!(verdict(&ledger, &mut task_row).unwrap(), None);
    }

    #[test]
    fn waits_for_a_supervisor_that_has_released_its_lock_and_is_exiting() {
        let world = World::new();
        let mut ledger = world.open();
        let mut exiting = Command::new("sleep").arg("0.2").spawn().unwrap();
        let supervisor = identity::of(exiting.id().cast_signed()).unwrap().unwrap();
        let task = NewTask { place: identity::place(), supervisor: supervisor.into(), ..new_task("t", None) };
        drop(start(&mut ledger, &task));
        assert_eq!(verdict(&ledger, &mut row(&ledger)).unwrap(), Some(Verdict::Gone));
        exiting.wait().unwrap();
    }
}
