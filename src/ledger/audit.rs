//! The rows for the audit: those that contradict themselves or are incomplete, found by indexes that hold
//! only such rows.

use std::path::PathBuf;

use super::error::Result;
use super::handle::Ledger;
use super::row::{select, unsettled};
use super::{spool, tasks};
use crate::task::{Task, TaskId};

const SELECT_ALL_RUNNING: &str = select!("WHERE status = 'running' ORDER BY started_at");
const SELECT_DELIVERY_FAILED: &str =
    select!("WHERE ", unsettled!(), " AND delivery_status = 'failed' ORDER BY started_at");
const SELECT_ILL_TIMED: &str = select!(
    "WHERE ",
    unsettled!(),
    " AND (finished_at < started_at
       OR (finished_at IS NULL AND +status NOT IN ('running', 'interrupted'))
       OR (finished_at IS NOT NULL AND +status = 'running'))
     ORDER BY started_at"
);
const SELECT_UNCLEANED: &str = select!(
    "WHERE ",
    unsettled!(),
    " AND +status <> 'running' AND cleanup_after IS NULL AND live_slot IS NOT NULL ORDER BY started_at"
);
impl Ledger {
    /// All running tasks, oldest first.
    pub fn running(&self) -> Result<Vec<Task>> {
        self.all_of(SELECT_ALL_RUNNING, "reading the running tasks")
    }

    /// The tasks whose `--on-finish` command failed.
    pub fn delivery_failed(&self) -> Result<Vec<Task>> {
        self.all_of(SELECT_DELIVERY_FAILED, "reading failed deliveries")
    }

    /// The tasks whose times and status contradict each other.
    pub fn ill_timed(&self) -> Result<Vec<Task>> {
        self.all_of(SELECT_ILL_TIMED, "reading contradictory times")
    }

    /// The ended tasks of bookend that no prune would ever remove.
    pub fn uncleaned(&self) -> Result<Vec<Task>> {
        self.all_of(SELECT_UNCLEANED, "reading tasks that never expire")
    }

    /// The tasks whose records are in the spool; `None` for a record that cannot be read.
    pub fn spooled_tasks(&self) -> Result<Vec<(PathBuf, Option<TaskId>)>> {
        Ok(spool::read_all(self.spooled()?)
            .into_iter()
            .map(|waiting| match waiting.content {
                spool::WaitingContent::Record(record) => (waiting.path, Some(record.task)),
                spool::WaitingContent::Unreadable(_) | spool::WaitingContent::Failed(_) => {
                    (waiting.path, None)
                }
            })
            .collect())
    }

    fn all_of(&self, sql: &str, doing: &'static str) -> Result<Vec<Task>> {
        tasks::all(self.conn(), sql, []).map_err(self.failed(doing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_audit_query_uses_an_index() {
        super::super::tests::each_uses_an_index(&[
            SELECT_ALL_RUNNING,
            SELECT_DELIVERY_FAILED,
            SELECT_ILL_TIMED,
            SELECT_UNCLEANED,
        ]);
    }
}
