//! The tasks of this host that the database of the fleet may not have yet, or not as they are now.

use crate::error::Error;
use crate::ledger::{Ledger, TaskLookup};
use crate::log;
use crate::task::{Task, TaskId};

/// What replaces the rows of the database in counts and figures.
#[derive(Debug, Default)]
pub(super) struct FreshTasks {
    pub ids: Vec<TaskId>,
    pub tasks: Vec<Task>,
    /// If not, there are too many to send them with each question.
    pub are_all: bool,
    unpublished: u64,
}

impl FreshTasks {
    pub fn of(ledger: Option<&Ledger>) -> Result<FreshTasks, Error> {
        let Some(ledger) = ledger else { return Ok(FreshTasks { are_all: true, ..FreshTasks::default() }) };
        let unpublished = ledger.count_unpublished()?;
        let ids: Vec<TaskId> = ledger.unpublished()?.into_iter().map(|task| task.id).collect();
        let mut tasks = Vec::new();
        for id in &ids {
            if let TaskLookup::One(task) = ledger.task(id.as_str())? {
                tasks.push(*task);
            }
        }
        let are_all = u64::try_from(ids.len()).is_ok_and(|n| n >= unpublished);
        Ok(FreshTasks { ids, tasks, are_all, unpublished })
    }

    /// Says that figures lack tasks, as they do while a long history is published for the first time.
    pub fn warn_of_the_rest(&self) {
        if !self.are_all {
            let n = self.unpublished;
            log::warn(
                &format!("{n} tasks of this host are not published to the fleet yet; the figures lack some"),
                "--here counts the tasks of this host",
            );
        }
    }
}
