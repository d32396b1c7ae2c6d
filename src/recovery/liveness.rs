//! Whether a task that was read as running is alive, although rows and processes change while one looks.

use crate::error::Error;
use crate::ledger::{Ledger, TaskLookup};
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
    fn a_task_that_ends_while_one_looks_is_not_taken_for_dead() {
        let world = World::new();
        let mut ledger = world.open();
        let nobody = ProcessIdentity { pid: i32::MAX, start: 1 };
        let task = NewTask { place: identity::place(), supervisor: nobody.into(), ..new_task("t", None) };
        let live = start(&mut ledger, &task);
        let mut seen = row(&ledger);
        assert_eq!(verdict(&ledger, &mut seen).unwrap(), Some(Verdict::Alive));
        drop(live);
        assert_eq!(verdict(&ledger, &mut seen).unwrap(), Some(Verdict::Gone));
        assert_eq!(seen.status, Status::Running);
        ledger.finish(&TaskId::recorded("t"), &ended(Ending::Success), "run").unwrap();
        assert_eq!(verdict(&ledger, &mut seen).unwrap(), None, "it has ended since it was read");
        assert_eq!(seen, row(&ledger), "and is known as it is now");
        assert_eq!(verdict(&ledger, &mut seen).unwrap(), None);
    }

    #[test]
    fn a_supervisor_that_has_let_go_of_its_lock_and_is_still_leaving_is_waited_for() {
        let world = World::new();
        let mut ledger = world.open();
        let mut leaving = Command::new("sleep").arg("0.2").spawn().unwrap();
        let supervisor = identity::of(leaving.id().cast_signed()).unwrap().unwrap();
        let task = NewTask { place: identity::place(), supervisor: supervisor.into(), ..new_task("t", None) };
        drop(start(&mut ledger, &task));
        assert_eq!(verdict(&ledger, &mut row(&ledger)).unwrap(), Some(Verdict::Gone));
        leaving.wait().unwrap();
    }
}
