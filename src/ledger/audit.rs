//! What the audit asks the ledger: rows that contradict themselves or were left half done, by indexes that
//! hold nothing else.

use rusqlite::Row;

use super::tasks::{self, select};
use super::{Ledger, Result, spool};
use crate::task::{Session, Status, Task};

const SELECT_ALL_RUNNING: &str = select!("WHERE status = 'running' ORDER BY started_at");
const SELECT_DELIVERY_FAILED: &str = select!("WHERE delivery_status = 'failed' ORDER BY started_at");
const SELECT_UNDELIVERED: &str =
    select!("WHERE delivery_status = 'pending' AND status <> 'running' ORDER BY started_at");
const SELECT_ILL_TIMED: &str = select!(
    "WHERE finished_at < started_at
       OR (finished_at IS NULL AND status NOT IN ('running', 'interrupted'))
       OR (finished_at IS NOT NULL AND status = 'running')
     ORDER BY started_at"
);
const SELECT_UNCLEANED: &str = select!(
    "WHERE status <> 'running' AND cleanup_after IS NULL AND live_slot IS NOT NULL ORDER BY started_at"
);
const SELECT_UNSAFE_SESSIONS: &str = "
    SELECT s.key, s.session_id, s.provider, s.last_used_at, s.task_id, t.status
    FROM claude_sdk_sessions s LEFT JOIN task_history t ON t.id = s.task_id
    WHERE t.id IS NULL OR t.status <> 'success'
    ORDER BY s.key";

/// A session that a key would continue although its last task did not succeed.
#[derive(Debug)]
pub struct Unsafe {
    pub session: Session,
    /// `None`: no task is known to have used it.
    pub last: Option<Status>,
}

impl Ledger {
    /// All running tasks, oldest first.
    pub fn running(&self) -> Result<Vec<Task>> {
        self.all_of(SELECT_ALL_RUNNING, "reading the running tasks")
    }

    /// The tasks whose `--on-finish` command failed.
    pub fn delivery_failed(&self) -> Result<Vec<Task>> {
        self.all_of(SELECT_DELIVERY_FAILED, "reading failed deliveries")
    }

    /// The ended tasks whose `--on-finish` command was not seen to end.
    pub fn delivery_pending(&self) -> Result<Vec<Task>> {
        self.all_of(SELECT_UNDELIVERED, "reading pending deliveries")
    }

    /// The tasks whose times and status contradict each other.
    pub fn ill_timed(&self) -> Result<Vec<Task>> {
        self.all_of(SELECT_ILL_TIMED, "reading times that cannot be")
    }

    /// The ended tasks of bookend's own that no prune would ever remove.
    pub fn uncleaned(&self) -> Result<Vec<Task>> {
        self.all_of(SELECT_UNCLEANED, "reading tasks that are kept for ever")
    }

    /// The sessions whose last task is missing or did not succeed, running ones included.
    pub fn doubtful_sessions(&self) -> Result<Vec<Unsafe>> {
        let read = |row: &Row<'_>| {
            Ok(Unsafe {
                session: Session {
                    key: row.get(0)?,
                    session_id: row.get(1)?,
                    provider: row.get(2)?,
                    last_used_at: row.get(3)?,
                    task_id: row.get(4)?,
                },
                last: row.get::<_, Option<String>>(5)?.map(|w| tasks::status_of(5, &w)).transpose()?,
            })
        };
        let all = || -> rusqlite::Result<Vec<Unsafe>> {
            self.conn.prepare(SELECT_UNSAFE_SESSIONS)?.query_map([], read)?.collect()
        };
        all().map_err(self.failed("reading unsafe sessions"))
    }

    /// The tasks whose terminal records wait in the spool; `None` for a record that cannot be read.
    pub fn spooled_tasks(&self) -> Result<Vec<(std::path::PathBuf, Option<String>)>> {
        Ok(spool::read_all(self.spooled()?)
            .into_iter()
            .map(|waiting| match waiting.content {
                spool::Content::Record(record) => (waiting.path, Some(record.task)),
                spool::Content::Unreadable(_) => (waiting.path, None),
            })
            .collect())
    }

    fn all_of(&self, sql: &str, doing: &'static str) -> Result<Vec<Task>> {
        tasks::all(&self.conn, sql, []).map_err(self.failed(doing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cost_of_an_audit_grows_with_what_is_wrong_and_not_with_history() {
        super::super::tests::each_uses_an_index(&[
            SELECT_ALL_RUNNING,
            SELECT_DELIVERY_FAILED,
            SELECT_UNDELIVERED,
            SELECT_ILL_TIMED,
            SELECT_UNCLEANED,
        ]);
    }
}
