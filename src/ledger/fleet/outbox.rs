//! The outbox: which tasks the hub has yet to publish, and what it publishes of each.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension};

use super::super::error::{LedgerError, Result};
use super::super::handle::Ledger;
use super::super::published::PublishedChanges;
use super::super::{sessions, tasks};
use crate::task::{Key, Session, SessionInvalidation, StatusTransition, Task, TaskId};

/// How many tasks one look finds at most.
const MOST: i64 = 10_000;

const SELECT_DIRTY: &str = "
    SELECT d.rev, d.task_id, t.status = 'running'
    FROM fleet_dirty d LEFT JOIN task_history t ON t.id = d.task_id
    ORDER BY d.rev LIMIT ?1";
const SELECT_REV: &str = "SELECT rev FROM fleet_dirty WHERE task_id = ?1";
const COUNT_DIRTY: &str = "SELECT count(*) FROM fleet_dirty";
const SELECT_MAX_REV: &str = "SELECT max(seq) FROM sqlite_sequence WHERE name = 'fleet_dirty'";
const IS_OPEN: &str = "
    SELECT EXISTS (SELECT 1 FROM task_history WHERE id = ?1 AND status = 'running')
        OR EXISTS (SELECT 1 FROM fleet_dirty WHERE task_id = ?1)";
const SELECT_SESSIONS_OF_TASK: &str = "
    SELECT key, session_id, provider, last_used_at, task_id, trusted
    FROM claude_sdk_sessions WHERE task_id = ?1";
const DELETE_DIRTY: &str = "DELETE FROM fleet_dirty WHERE rev = ?1";
pub(super) const SELECT_SETTING: &str = "SELECT value FROM bookend_setting WHERE name = 'fleet'";
/// In the order in which they were inserted.
pub(super) const MARK_ALL: &str = "
    INSERT OR IGNORE INTO fleet_dirty (task_id)
    SELECT id FROM task_history WHERE id IS NOT NULL ORDER BY rowid";
pub(super) const DELETE_ACKNOWLEDGED: &str = "DELETE FROM bookend_setting WHERE name = 'fleet_acknowledged'";
pub(super) const DELETE_ALL_DIRTY: &str = "DELETE FROM fleet_dirty";
const SELECT_ACKNOWLEDGED: &str = "
    SELECT CAST(value AS INTEGER) FROM bookend_setting WHERE name = 'fleet_acknowledged'";
const UPSERT_ACKNOWLEDGED: &str = "
    INSERT INTO bookend_setting (name, value) VALUES ('fleet_acknowledged', ?1)
    ON CONFLICT (name) DO UPDATE SET value = excluded.value
    WHERE CAST(value AS INTEGER) < CAST(excluded.value AS INTEGER)";

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
    /// Those of the tasks that run, or have a change that is not published: its publication tells their end.
    pub open: Vec<TaskId>,
    /// The number of the last change. A ledger that was restored from a backup has a lower one.
    pub max_rev: i64,
}

impl Ledger {
    /// The tasks to publish, in the order of their last changes.
    pub fn unpublished(&self) -> Result<Vec<DirtyTask>> {
        if self.fleet().is_none() {
            return Ok(Vec::new());
        }
        self.check_files("looking for tasks to publish")?;
        let dirty = dirty(self.conn(), &self.published);
        dirty.map_err(self.failed("looking for tasks to publish"))
    }

    /// How many tasks are to be published.
    pub fn count_unpublished(&self) -> Result<u64> {
        let count = |_| self.conn().query_row(COUNT_DIRTY, [], |row| row.get::<_, u32>(0));
        let count = self.fleet().map_or(Ok(0), count);
        count.map(u64::from).map_err(self.failed("counting the tasks to publish"))
    }

    /// Whether a task is to be published.
    pub fn is_unpublished(&self, id: &TaskId) -> Result<bool> {
        let find = |_| {
            let mut select = self.conn().prepare_cached(SELECT_REV)?;
            let rev: Option<i64> = select.query_row([id], |row| row.get(0)).optional()?;
            Ok(rev.is_some_and(|rev| !self.published.revs.contains(&rev)))
        };
        self.fleet().map_or(Ok(false), find).map_err(self.failed("looking for a task to publish"))
    }

    /// What is published of these tasks. A task that was deleted meanwhile is left out.
    ///
    /// It is durable: a power failure that undid a change would let another one have its number.
    pub fn publication(&self, dirty: &[DirtyTask]) -> Result<Vec<UnpublishedTask>> {
        const DOING: &str = "reading the tasks to publish";
        let read = || {
            // One moment, so that a row agrees with its transitions.
            let tx = self.conn().unchecked_transaction()?;
            let found = dirty.iter().map(|d| unpublished(&tx, d)).collect::<rusqlite::Result<Vec<_>>>()?;
            Ok(found.into_iter().flatten().collect())
        };
        let found = read().map_err(self.failed(DOING))?;
        let synced = self.log.sync();
        let path = self.path().to_owned();
        synced.map_err(|source| LedgerError::Unsynced { doing: DOING, path, source })?;
        Ok(found)
    }

    /// The fleet has acknowledged these changes. A task that has changed since then is still to be published.
    /// [`Ledger::note_published`] writes it.
    pub fn published(&mut self, revs: &[i64]) {
        let highest = revs.iter().copied().max().unwrap_or_default();
        self.published.acknowledged = self.published.acknowledged.max(highest);
        self.published.revs.extend(revs);
    }

    /// These changes are of tasks that no longer exist: there is nothing to send.
    pub fn not_published(&mut self, revs: &[i64]) {
        self.published.revs.extend(revs);
    }

    /// How many changes are to be noted as published.
    pub fn count_unnoted(&self) -> usize {
        self.published.revs.len()
    }

    /// Notes what was published, in one transaction.
    ///
    /// It waits for other writers only so long, and is not durable at once: losing it only publishes the
    /// tasks again.
    pub fn note_published(&mut self, longest: Duration) -> Result<()> {
        let PublishedChanges { revs, acknowledged } = std::mem::take(&mut self.published);
        let fleet = self.fleet().map(str::to_owned);
        self.log.set_lax(true);
        let noted = self.briefly(longest, |ledger| {
            ledger.in_transaction("noting what was published", |conn| {
                // In another fleet the numbers may have begun again.
                let now: Option<Option<String>> =
                    conn.query_row(SELECT_SETTING, [], |row| row.get(0)).optional()?;
                if now.flatten() != fleet {
                    return Ok(());
                }
                let mut delete = conn.prepare_cached(DELETE_DIRTY)?;
                revs.iter().try_for_each(|rev| delete.execute([rev]).map(drop))?;
                if acknowledged > 0 {
                    conn.execute(UPSERT_ACKNOWLEDGED, [acknowledged.to_string()])?;
                }
                Ok(())
            })
        });
        self.log.set_lax(false);
        if noted.is_err() {
            self.published = PublishedChanges { revs, acknowledged };
        }
        noted
    }

    /// The highest number of a change that the fleet has acknowledged. 0: none.
    pub fn acknowledged(&self) -> Result<i64> {
        let select = || self.conn().prepare_cached(SELECT_ACKNOWLEDGED)?.query_row([], |row| row.get(0));
        let noted: Option<i64> = select().optional().map_err(self.failed("reading what was published"))?;
        Ok(noted.unwrap_or_default().max(self.published.acknowledged))
    }

    /// All tasks are to be published again, with higher numbers: the fleet has lost some of them. It waits
    /// for other writers only so long.
    pub fn publish_again(&mut self, longest: Duration) -> Result<()> {
        self.briefly(longest, |ledger| {
            ledger.in_transaction("noting that all is to be published again", |conn| {
                conn.execute(DELETE_ALL_DIRTY, [])?;
                conn.execute(MARK_ALL, [])?;
                conn.execute(DELETE_ACKNOWLEDGED, []).map(drop)
            })
        })?;
        self.published = PublishedChanges::default();
        Ok(())
    }

    /// Which of these tasks run, or have a change that is not published, and the number of the last change.
    pub fn outbox_state(&self, mut tasks: Vec<TaskId>) -> Result<OutboxState> {
        let read = || {
            let tx = self.conn().unchecked_transaction()?;
            let max_rev = tx.query_row(SELECT_MAX_REV, [], |row| row.get::<_, Option<i64>>(0))?;
            let mut is_open = tx.prepare_cached(IS_OPEN)?;
            let open: rusqlite::Result<Vec<bool>> =
                tasks.iter().map(|id| is_open.query_row([id], |row| row.get(0))).collect();
            let mut open = open?.into_iter();
            tasks.retain(|_| open.next().unwrap_or_default());
            Ok(OutboxState { open: tasks, max_rev: max_rev.unwrap_or_default() })
        };
        read().map_err(self.failed("reading the state of the outbox"))
    }

    /// The task that the row of the key names as running.
    pub fn running_holder(&self, key: &Key) -> Result<Option<Task>> {
        tasks::holder(self.conn(), key).map_err(self.failed("looking for the holder of the key"))
    }
}

fn dirty(conn: &Connection, published: &PublishedChanges) -> rusqlite::Result<Vec<DirtyTask>> {
    let read = |row: &rusqlite::Row<'_>| {
        let is_running = row.get::<_, Option<bool>>(2)?.unwrap_or_default();
        Ok(DirtyTask { rev: row.get(0)?, id: row.get(1)?, is_running })
    };
    let most = MOST.saturating_add_unsigned(published.revs.len() as u64);
    let mut select = conn.prepare_cached(SELECT_DIRTY)?;
    let is_new = |d: &DirtyTask| !published.revs.contains(&d.rev);
    select.query_map([most], read)?.filter(|found| found.as_ref().map_or(true, is_new)).collect()
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
