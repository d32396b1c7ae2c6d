//! Removing old tasks, a few at a time: nobody else waits long for the ledger meanwhile.

use std::time::{Duration, Instant};

use rusqlite::{Row, TransactionBehavior};

use super::dialect::AnyText;
use super::{Ledger, LedgerError, Result, ending};

/// How long a batch may hold the ledger before its commit begins.
const HOLD: Duration = Duration::from_millis(20);
/// How many tasks are looked at in one read.
const PAGE: i64 = 500;

/// A page of what ran here and has ended, by the time from which on it is due.
macro_rules! page {
    ($due:literal) => {
        concat!(
            "SELECT t.rowid, t.id, ",
            $due,
            ",
               t.delivery_status IN ('pending', 'delivering')
                 OR (t.status = 'interrupted' AND t.hinted_at IS NULL),
               EXISTS (SELECT 1 FROM claude_sdk_sessions s WHERE s.session_id = t.session_id)
                 AND NOT EXISTS (SELECT 1 FROM task_history n
                                 WHERE n.session_id = t.session_id AND n.started_at > t.started_at)
                 OR EXISTS (SELECT 1 FROM claude_sdk_sessions s WHERE s.task_id = t.id)
             FROM task_history t
             WHERE t.status <> 'running' AND t.live_slot IS NOT NULL AND ",
            $due,
            " IS NOT NULL AND ",
            $due,
            " <= ?1 AND (",
            $due,
            ", t.rowid) > (?2, ?3)
             ORDER BY ",
            $due,
            ", t.rowid LIMIT ?4"
        )
    };
}

const SELECT_PAST_CLEANUP: &str = page!("t.cleanup_after");
/// A task was seen last at its end.
const SELECT_PAST_RETENTION: &str = page!("t.last_seen_at");
const DELETE_TRANSITIONS: &str = "DELETE FROM task_transition WHERE task_id = ?1";
const DELETE_INVALIDATIONS: &str = "DELETE FROM session_invalidation WHERE task_id = ?1";
const UPDATE_CLEANUP: &str = "
    UPDATE task_history SET cleanup_after = ?2
    WHERE id = ?1 AND status <> 'running' AND cleanup_after IS NULL AND live_slot IS NOT NULL";
/// Asked again: the task may have become needed since it was looked at.
const DELETE_TASK: &str = "
    DELETE FROM task_history
    WHERE id = ?1 AND status <> 'running'
      AND (delivery_status IS NULL OR delivery_status NOT IN ('pending', 'delivering'))
      AND NOT EXISTS (SELECT 1 FROM claude_sdk_sessions s WHERE s.task_id = task_history.id)";

/// Which tasks are due.
#[derive(Debug, Clone)]
pub enum Due {
    /// Past the time in their rows, at this moment: RFC 3339, UTC, milliseconds.
    Cleanup(String),
    /// Ended at this time or before, whatever their rows say.
    EndedBy(String),
}

/// Why a task that is due is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// It is the last one that used the session of a key.
    Session,
    /// Its `--on-finish` command is still to be run, or its hint to be given.
    Undelivered,
}

/// What a prune did, or would do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    pub removed: u64,
    pub kept_for_session: u64,
    pub kept_undelivered: u64,
    /// The longest time for which a batch held the ledger.
    pub longest_hold: Duration,
}

/// A task that is due.
struct Candidate {
    rowid: i64,
    id: String,
    due: String,
    kept: Option<Kept>,
}

impl Ledger {
    /// Removes the tasks that are due with their transitions, in batches. `dry`: only counts them.
    pub fn prune(&mut self, due: &Due, dry: bool) -> Result<Pruned> {
        let mut pruned = Pruned::default();
        let mut after = (String::new(), i64::MIN);
        loop {
            let page = self.page(due, &after)?;
            let Some(last) = page.last() else { return Ok(pruned) };
            after = (last.due.clone(), last.rowid);
            let mut ids = Vec::new();
            for candidate in page {
                match candidate.kept {
                    Some(Kept::Session) => pruned.kept_for_session += 1,
                    Some(Kept::Undelivered) => pruned.kept_undelivered += 1,
                    None => ids.push(candidate.id),
                }
            }
            if dry {
                pruned.removed += ids.len() as u64;
                continue;
            }
            let mut rest = ids.as_slice();
            while !rest.is_empty() {
                let (done, removed, held) = self.remove_some(rest)?;
                rest = &rest[done..];
                pruned.removed += removed;
                pruned.longest_hold = pruned.longest_hold.max(held);
                // Whoever waits for the ledger gets it before the next batch does.
                std::thread::sleep(held.min(HOLD));
            }
        }
    }

    /// Sets the time after which it may be removed for each ended task that has none: its own retention, or
    /// this one, after its end. How many there were.
    pub fn set_missing_cleanup(&mut self, retention_secs: i64) -> Result<usize> {
        let mut set = 0;
        for task in self.uncleaned()? {
            let end = task.finished_at.as_ref().or(task.last_seen_at.as_ref()).unwrap_or(&task.started_at);
            let until = ending::later(end, task.retention_secs.unwrap_or(retention_secs));
            set += self
                .conn
                .execute(UPDATE_CLEANUP, (&task.id, until))
                .map_err(self.failed("setting when old tasks may be removed"))?;
        }
        Ok(set)
    }

    /// Gives the room of removed rows back to the file system. Others wait meanwhile.
    pub fn vacuum(&mut self) -> Result<()> {
        self.budget.lift();
        self.conn.execute_batch("VACUUM").map_err(self.failed("compacting the file"))
    }

    fn page(&self, due: &Due, after: &(String, i64)) -> Result<Vec<Candidate>> {
        let (sql, until) = match due {
            Due::Cleanup(now) => (SELECT_PAST_CLEANUP, now),
            Due::EndedBy(then) => (SELECT_PAST_RETENTION, then),
        };
        let read = |row: &Row<'_>| {
            let kept = match (row.get::<_, Option<bool>>(3)?.unwrap_or_default(), row.get(4)?) {
                (true, _) => Some(Kept::Undelivered),
                (_, true) => Some(Kept::Session),
                (false, false) => None,
            };
            Ok(Candidate {
                rowid: row.get(0)?,
                id: row.get::<_, AnyText>(1)?.0.unwrap_or_default(),
                due: row.get(2)?,
                kept,
            })
        };
        let page = || -> rusqlite::Result<Vec<Candidate>> {
            self.conn().prepare_cached(sql)?.query_map((until, &after.0, after.1, PAGE), read)?.collect()
        };
        page().map_err(self.failed("looking for old tasks"))
    }

    /// How many of `ids` are dealt with, how many were removed, and how long that held the ledger.
    fn remove_some(&mut self, ids: &[String]) -> Result<(usize, u64, Duration)> {
        let mut done = 0;
        let mut removed = 0;
        let mut remove = || {
            let tx = self.conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let began = Instant::now();
            for id in ids {
                if tx.prepare_cached(DELETE_TASK)?.execute([id])? == 1 {
                    tx.prepare_cached(DELETE_TRANSITIONS)?.execute([id])?;
                    tx.prepare_cached(DELETE_INVALIDATIONS)?.execute([id])?;
                    removed += 1;
                }
                done += 1;
                if began.elapsed() > HOLD {
                    break;
                }
            }
            tx.commit()?;
            Ok(began.elapsed())
        };
        let held = remove().map_err(|e| LedgerError::sql("removing old tasks", &self.at.file, e))?;
        Ok((done, removed, held))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_tasks_are_found_by_indexes() {
        super::super::tests::each_uses_an_index(&[SELECT_PAST_CLEANUP, SELECT_PAST_RETENTION]);
    }
}
