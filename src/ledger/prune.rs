//! Removing old tasks, a few at a time: nobody else waits long for the ledger meanwhile.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::{Duration, Instant};

use jiff::SignedDuration;
use rusqlite::{Row, TransactionBehavior};

use super::diagnosis::database_error;
use super::error::Result;
use super::handle::Ledger;
use crate::task::{TaskId, Time};

/// How long a task without a retention of its own is kept.
const RETENTION_SECS: i64 = 365 * 24 * 3600;
/// How far beyond the newest sign of life ages count.
const ONE_DAY: SignedDuration = SignedDuration::from_hours(24);

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
                 OR EXISTS (SELECT 1 FROM claude_sdk_sessions s WHERE s.task_id = t.id),
               t.retention_secs
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

/// Before this no bookend ran: a row of an earlier time was written while the clock stood wrong.
const FIRST_CREDIBLE: &str = "2000-01-01T00:00:00.000Z";

/// The newest sign of life there is.
const SELECT_NEWEST_ENDED: &str = "
    SELECT max(last_seen_at) FROM task_history WHERE status <> 'running' AND last_seen_at IS NOT NULL";
const SELECT_NEWEST_RUNNING: &str = "SELECT max(last_seen_at) FROM task_history WHERE status = 'running'";
/// The first row, in the order of insertion, of those that were started within a time.
const SELECT_FIRST_SINCE: &str =
    "SELECT min(rowid) FROM task_history WHERE started_at > ?1 AND started_at <= ?2";
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
#[derive(Debug, Clone, Copy)]
pub enum PruneScope {
    /// Past the time in their rows.
    Cleanup,
    /// Ended so long ago, whatever their rows say.
    Older(SignedDuration),
}

/// Why a task that is due is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeptReason {
    /// It is the last one that used the session of a key.
    Session,
    /// Its `--on-finish` command is still to be run, or its hint to be given.
    Undelivered,
}

/// What a prune did, or would do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PruneSummary {
    pub removed: u64,
    pub kept_for_session: u64,
    pub kept_undelivered: u64,
    /// The longest time for which a batch held the ledger.
    pub longest_hold: Duration,
}

/// A task that is due.
struct Candidate {
    rowid: i64,
    id: TaskId,
    due: String,
    /// How long it is to be kept, where its row says so.
    retention_secs: Option<i64>,
    kept: Option<KeptReason>,
}

/// The ages of rows, by clocks that may have been set meanwhile.
struct TaskAges {
    now: Time,
    /// The first row that was started since a time, for each time that was asked for.
    first_since: HashMap<Time, Option<i64>>,
}

impl TaskAges {
    fn since(&self, secs: i64) -> Time {
        self.now.minus(SignedDuration::from_secs(secs))
    }

    fn first_since(&mut self, ledger: &Ledger, since: Time) -> Result<Option<i64>> {
        Ok(match self.first_since.entry(since) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(unknown) => *unknown.insert(ledger.first_since(since, self.now)?),
        })
    }

    /// Whether a row is younger than `secs`, whatever its own times say: the clock stood wrong.
    fn is_young(&mut self, ledger: &Ledger, candidate: &Candidate, secs: i64) -> Result<bool> {
        let young = self.first_since(ledger, self.since(secs))?;
        // It is no older than a row that was inserted before it.
        if young.is_some_and(|first| first < candidate.rowid) {
            return Ok(true);
        }
        if candidate.due.as_str() >= FIRST_CREDIBLE {
            return Ok(false);
        }
        // Before it there is none of a credible time: it counts as old as the first one after it.
        let credible = FIRST_CREDIBLE.parse().unwrap_or(Time::UNIX_EPOCH);
        let credible = self.first_since(ledger, credible)?;
        Ok(credible.is_none_or(|first| candidate.rowid < first && young == Some(first)))
    }
}

impl Ledger {
    /// From when on ages count: now, but a day after the newest sign of life at most. A clock that was set
    /// forward makes nothing old.
    fn ages(&self) -> Result<TaskAges> {
        let newest = |sql| self.conn.query_row(sql, [], |row| row.get::<_, Option<String>>(0));
        let newest = || Ok([newest(SELECT_NEWEST_ENDED)?, newest(SELECT_NEWEST_RUNNING)?]);
        let newest = newest().map_err(self.failed("looking for the newest task"))?;
        let limit = newest.into_iter().flatten().filter_map(|time| time.parse::<Time>().ok()).max();
        let limit = limit.map(|at| at.plus(ONE_DAY));
        let now = Time::now();
        Ok(TaskAges { now: limit.map_or(now, |limit| limit.min(now)), first_since: HashMap::new() })
    }

    fn first_since(&self, since: Time, until: Time) -> Result<Option<i64>> {
        let started = |at| self.dialect.time("task_history.started_at", at);
        self.conn
            .query_row(SELECT_FIRST_SINCE, (started(since), started(until)), |row| row.get(0))
            .map_err(self.failed("looking for the tasks before an old one"))
    }

    /// Removes the tasks that are due with their transitions, in batches. `dry`: only counts them.
    pub fn prune(&mut self, due: &PruneScope, dry: bool) -> Result<PruneSummary> {
        let mut pruned = PruneSummary::default();
        let mut ages = self.ages()?;
        let until = match due {
            PruneScope::Cleanup => ages.now,
            PruneScope::Older(age) => ages.now.minus(*age),
        };
        let until = until.to_string();
        let mut after = (String::new(), i64::MIN);
        loop {
            let page = self.page(due, &until, &after)?;
            let Some(last) = page.last() else { return Ok(pruned) };
            after = (last.due.clone(), last.rowid);
            let mut ids = Vec::new();
            for candidate in page {
                let secs = match due {
                    PruneScope::Cleanup => candidate.retention_secs.unwrap_or(RETENTION_SECS),
                    PruneScope::Older(age) => age.as_secs(),
                };
                if ages.is_young(self, &candidate, secs)? {
                    continue;
                }
                match candidate.kept {
                    Some(KeptReason::Session) => pruned.kept_for_session += 1,
                    Some(KeptReason::Undelivered) => pruned.kept_undelivered += 1,
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
    /// a year, after its end. How many there were.
    pub fn set_missing_cleanup(&mut self) -> Result<usize> {
        let mut set = 0;
        for task in self.uncleaned()? {
            let end = task.finished_at.as_ref().or(task.last_seen_at.as_ref()).unwrap_or(&task.started_at);
            let kept = SignedDuration::from_secs(task.retention_secs.unwrap_or(RETENTION_SECS));
            let until = end.time().unwrap_or_else(Time::now).plus(kept);
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

    fn page(&self, due: &PruneScope, until: &str, after: &(String, i64)) -> Result<Vec<Candidate>> {
        let sql = match due {
            PruneScope::Cleanup => SELECT_PAST_CLEANUP,
            PruneScope::Older(_) => SELECT_PAST_RETENTION,
        };
        let read = |row: &Row<'_>| {
            let kept = match (row.get::<_, Option<bool>>(3)?.unwrap_or_default(), row.get(4)?) {
                (true, _) => Some(KeptReason::Undelivered),
                (_, true) => Some(KeptReason::Session),
                (false, false) => None,
            };
            Ok(Candidate {
                rowid: row.get(0)?,
                id: row.get::<_, Option<TaskId>>(1)?.unwrap_or_else(|| TaskId::recorded("")),
                due: row.get(2)?,
                retention_secs: row.get(5)?,
                kept,
            })
        };
        let page = || -> rusqlite::Result<Vec<Candidate>> {
            self.conn().prepare_cached(sql)?.query_map((until, &after.0, after.1, PAGE), read)?.collect()
        };
        page().map_err(self.failed("looking for old tasks"))
    }

    /// How many of `ids` are dealt with, how many were removed, and how long that held the ledger.
    fn remove_some(&mut self, ids: &[TaskId]) -> Result<(usize, u64, Duration)> {
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
        let held = remove().map_err(|e| database_error("removing old tasks", &self.at.file, e))?;
        Ok((done, removed, held))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_tasks_are_found_by_indexes() {
        super::super::tests::each_uses_an_index(&[
            SELECT_PAST_CLEANUP,
            SELECT_PAST_RETENTION,
            SELECT_NEWEST_ENDED,
            SELECT_NEWEST_RUNNING,
            SELECT_FIRST_SINCE,
        ]);
    }
}
