//! What the ledger says of the keys that its tasks hold in the fleet.

use std::time::Duration;

use super::super::error::Result;
use super::super::handle::Ledger;
use super::super::tasks;
use crate::task::{Key, Task, TaskId};

const SELECT_RUNNING_KEYS: &str = "
    SELECT key, id, live_slot FROM task_history WHERE status = 'running' AND key IS NOT NULL";
const SELECT_UNPUBLISHED_OF_KEY: &str = "
    SELECT d.rev FROM task_history t JOIN fleet_dirty d ON d.task_id = t.id WHERE t.key = ?1";

/// A running task with a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningKey {
    pub key: Key,
    pub task: TaskId,
    pub slot: Option<i64>,
}

impl Ledger {
    /// The last task that has ended under a key.
    pub fn last_of_key(&self, key: &Key) -> Result<Option<Task>> {
        tasks::last_of_key(self.conn(), key).map_err(self.failed("looking for the last task of the key"))
    }

    /// The keys of all running tasks.
    pub fn running_keys(&self) -> Result<Vec<RunningKey>> {
        let read = |row: &rusqlite::Row<'_>| {
            Ok(RunningKey { key: row.get(0)?, task: row.get(1)?, slot: row.get(2)? })
        };
        let found = || -> rusqlite::Result<Vec<_>> {
            self.conn().prepare_cached(SELECT_RUNNING_KEYS)?.query_map([], read)?.collect()
        };
        found().map_err(self.failed("looking for running tasks with a key"))
    }

    /// Whether a task of the key is to be published.
    pub fn has_unpublished(&self, key: &Key) -> Result<bool> {
        if self.fleet().is_none() {
            return Ok(false);
        }
        let find = || {
            let mut select = self.conn().prepare_cached(SELECT_UNPUBLISHED_OF_KEY)?;
            let revs: rusqlite::Result<Vec<i64>> = select.query_map([key], |row| row.get(0))?.collect();
            Ok(revs?.iter().any(|rev| !self.published.revs.contains(rev)))
        };
        find().map_err(self.failed("looking for tasks of the key to publish"))
    }

    /// Waits until no claim is in progress: each that had begun before is in the ledger then.
    ///
    /// # Errors
    /// [`LedgerError::Busy`](super::super::error::LedgerError::Busy) when another process writes to the
    /// ledger for longer than this.
    pub fn await_claims(&mut self, longest: Duration) -> Result<()> {
        self.briefly(longest, |ledger| ledger.claim().map(drop))
    }
}
