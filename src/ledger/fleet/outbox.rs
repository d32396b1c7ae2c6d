//! The outbox: which tasks the hub has yet to publish, and what it publishes of each.

use rusqlite::Connection;

use super::super::busy;
use super::super::error::Result;
use super::super::handle::Ledger;
use super::super::{sessions, tasks};
use crate::task::{Key, Session, SessionInvalidation, StatusTransition, Task, TaskId};

/// How many tasks one look finds at most.
const MOST: i64 = 10_000;

const SELECT_DIRTY: &str = "
    SELECT d.rev, d.task_id, t.status = 'running'
    FROM fleet_dirty d LEFT JOIN task_history t ON t.id = d.task_id
    ORDER BY d.rev LIMIT ?1";
const SELECT_IS_DIRTY: &str = "SELECT EXISTS (SELECT 1 FROM fleet_dirty WHERE task_id = ?1)";
const COUNT_DIRTY: &str = "SELECT count(*) FROM fleet_dirty";
const SELECT_MAX_REV: &str = "SELECT max(seq) FROM sqlite_sequence WHERE name = 'fleet_dirty'";
const SELECT_OPEN: &str = "
    SELECT id FROM task_history WHERE status = 'running' UNION SELECT task_id FROM fleet_dirty";
const SELECT_SESSIONS_OF_TASK: &str = "
    SELECT key, session_id, provider, last_used_at, task_id, trusted
    FROM claude_sdk_sessions WHERE task_id = ?1";
const DELETE_DIRTY: &str = "DELETE FROM fleet_dirty WHERE rev = ?1";

/// A task that has changed since it was last published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirtyTask {
    /// The number of its last change. It only grows.
    pub rev: i64,
    pub id: TaskId,
    pub is_running: bool,
}

/// What is published of a task, all of one moment.
#[derive(Debug)]
pub struct UnpublishedTask {
    pub rev: i64,
    pub task: Task,
    pub transitions: Vec<StatusTransition>,
    /// The sessions of which it is the last user: that of its key, or none.
    pub sessions: Vec<Session>,
    pub invalidations: Vec<SessionInvalidation>,
}

/// What another copy of the rows is compared with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OutboxState {
    /// The tasks that run, and those with a change that is not published: its publication tells their end.
    pub open: Vec<TaskId>,
    /// The number of the last change. A ledger that was restored from a backup has a lower one.
    pub max_rev: i64,
}

impl Ledger {
    /// The tasks to publish, in the order of their last changes.
    pub fn unpublished(&self) -> Result<Vec<DirtyTask>> {
        if self.fleet.is_none() {
            return Ok(Vec::new());
        }
        self.check_files("looking for tasks to publish")?;
        dirty(self.conn()).map_err(self.failed("looking for tasks to publish"))
    }

    /// How many tasks are to be published.
    pub fn count_unpublished(&self) -> Result<u64> {
        let count = |_| self.conn().query_row(COUNT_DIRTY, [], |row| row.get::<_, u32>(0));
        let count = self.fleet.as_ref().map_or(Ok(0), count);
        count.map(u64::from).map_err(self.failed("counting the tasks to publish"))
    }

    /// Whether a task is to be published.
    pub fn is_unpublished(&self, id: &TaskId) -> Result<bool> {
        let find = |_| self.conn().prepare_cached(SELECT_IS_DIRTY)?.query_row([id], |row| row.get(0));
        self.fleet.as_ref().map_or(Ok(false), find).map_err(self.failed("looking for a task to publish"))
    }

    /// What is published of these tasks. A task that was deleted meanwhile is left out.
    pub fn publication(&self, dirty: &[DirtyTask]) -> Result<Vec<UnpublishedTask>> {
        let read = || {
            // One moment, so that a row agrees with its transitions.
            let tx = self.conn().unchecked_transaction()?;
            let found = dirty.iter().map(|d| unpublished(&tx, d)).collect::<rusqlite::Result<Vec<_>>>()?;
            Ok(found.into_iter().flatten().collect())
        };
        read().map_err(self.failed("reading the tasks to publish"))
    }

    /// Notes that these changes are published. A task that has changed since then stays.
    ///
    /// It waits for other writers only briefly, and is not durable at once: losing it only publishes the
    /// tasks again.
    pub fn published(&mut self, revs: &[i64]) -> Result<()> {
        self.log.set_lax(true);
        let noted = self.briefly(busy::BRIEF, |ledger| {
            ledger.in_transaction("noting what was published", |conn| {
                let mut delete = conn.prepare_cached(DELETE_DIRTY)?;
                revs.iter().try_for_each(|rev| delete.execute([rev]).map(drop))
            })
        });
        self.log.set_lax(false);
        noted
    }

    /// The tasks whose end is not published, and the number of the last change.
    pub fn outbox_state(&self) -> Result<OutboxState> {
        let read = || {
            let tx = self.conn().unchecked_transaction()?;
            let max_rev = tx.query_row(SELECT_MAX_REV, [], |row| row.get::<_, Option<i64>>(0))?;
            let open: rusqlite::Result<Vec<_>> =
                tx.prepare_cached(SELECT_OPEN)?.query_map([], |row| row.get(0))?.collect();
            open.map(|open| OutboxState { open, max_rev: max_rev.unwrap_or_default() })
        };
        read().map_err(self.failed("reading the state of the outbox"))
    }

    /// The task that the row of the key names as running.
    pub fn running_holder(&self, key: &Key) -> Result<Option<Task>> {
        tasks::holder(self.conn(), key).map_err(self.failed("looking for the holder of the key"))
    }
}

fn dirty(conn: &Connection) -> rusqlite::Result<Vec<DirtyTask>> {
    let read = |row: &rusqlite::Row<'_>| {
        let is_running = row.get::<_, Option<bool>>(2)?.unwrap_or_default();
        Ok(DirtyTask { rev: row.get(0)?, id: row.get(1)?, is_running })
    };
    conn.prepare_cached(SELECT_DIRTY)?.query_map([MOST], read)?.collect()
}

fn unpublished(conn: &Connection, dirty: &DirtyTask) -> rusqlite::Result<Option<UnpublishedTask>> {
    let Some(task) = tasks::by_id(conn, &dirty.id)? else { return Ok(None) };
    let mut select = conn.prepare_cached(SELECT_SESSIONS_OF_TASK)?;
    let sessions =
        select.query_map([&dirty.id], sessions::session_of_row)?.collect::<rusqlite::Result<_>>()?;
    Ok(Some(UnpublishedTask {
        rev: dirty.rev,
        transitions: tasks::transitions(conn, &dirty.id)?,
        sessions,
        invalidations: sessions::invalidations_of_task(conn, &dirty.id)?,
        task,
    }))
}
