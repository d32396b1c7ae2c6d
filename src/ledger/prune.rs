//! Deleting tasks past their retention period, in short transactions that other writers hardly notice.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::{Duration, Instant};

use jiff::SignedDuration;
use rusqlite::{Row, TransactionBehavior};

use super::diagnosis::database_error;
use super::error::Result;
use super::handle::Ledger;
use crate::log::Silence;
use crate::task::{Task, TaskId, Time};

/// The retention period of a task that has none of its own.
const RETENTION_SECS: i64 = 365 * 24 * 3600;
/// Ages are counted up to this long after the newest `last_seen_at`.
const ONE_DAY: SignedDuration = SignedDuration::from_hours(24);

/// How long a batch may hold the write lock before its commit.
const HOLD: Duration = Duration::from_millis(20);
/// How many tasks one query reads.
const PAGE: i64 = 500;

/// The columns of a [`PruneCandidate`]. `$due`: the time when it is due.
macro_rules! candidate {
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
               t.retention_secs, t.cleanup_after
             FROM task_history t "
        )
    };
}

/// A page of the ended tasks of bookend, by the time when they are due.
macro_rules! page {
    ($due:literal) => {
        concat!(
            candidate!($due),
            "WHERE t.status <> 'running' AND t.live_slot IS NOT NULL AND ",
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

/// bookend did not exist before: a row with an earlier time was written while the clock was wrong.
const FIRST_CREDIBLE: &str = "2000-01-01T00:00:00.000Z";

/// The newest `last_seen_at`.
const SELECT_NEWEST_ENDED: &str = "
    SELECT max(last_seen_at) FROM task_history WHERE status <> 'running' AND last_seen_at IS NOT NULL";
const SELECT_NEWEST_RUNNING: &str = "SELECT max(last_seen_at) FROM task_history WHERE status = 'running'";
/// The first inserted row among those that started in a time range.
const SELECT_FIRST_SINCE: &str =
    "SELECT min(rowid) FROM task_history WHERE started_at > ?1 AND started_at <= ?2";
const SELECT_PAST_CLEANUP: &str = page!("t.cleanup_after");
/// `last_seen_at` of an ended task is its end.
const SELECT_PAST_RETENTION: &str = page!("t.last_seen_at");
/// A task without an expiry, whose retention period ends at `?2`.
const SELECT_WITHOUT_CLEANUP: &str = concat!(
    candidate!("?2"),
    "WHERE t.id = ?1 AND t.status <> 'running' AND t.cleanup_after IS NULL AND t.live_slot IS NOT NULL"
);
const COUNT_BEFORE_CLEANUP: &str = "
    SELECT count(*) FROM task_history
    WHERE status <> 'running' AND cleanup_after IS NOT NULL AND cleanup_after > ?1";
const COUNT_WITHIN_RETENTION: &str = "
    SELECT count(*) FROM task_history
    WHERE status <> 'running' AND last_seen_at IS NOT NULL AND last_seen_at > ?1";
/// Those whose own retention period has passed, and that ended after `?2`.
const COUNT_PAST_CLEANUP_ONLY: &str = "
    SELECT count(*) FROM task_history
    WHERE status <> 'running' AND cleanup_after IS NOT NULL AND cleanup_after <= ?1
      AND +last_seen_at > ?2";
const DELETE_TRANSITIONS: &str = "DELETE FROM task_transition WHERE task_id = ?1";
const DELETE_INVALIDATIONS: &str = "DELETE FROM session_invalidation WHERE task_id = ?1";
const UPDATE_CLEANUP: &str = "
    UPDATE task_history SET cleanup_after = ?2
    WHERE id = ?1 AND status <> 'running' AND cleanup_after IS NULL AND live_slot IS NOT NULL";
/// Checked again: the task may be needed again since it was read.
const DELETE_TASK: &str = "
    DELETE FROM task_history
    WHERE id = ?1 AND status <> 'running'
      AND (delivery_status IS NULL OR delivery_status NOT IN ('pending', 'delivering'))
      AND NOT EXISTS (SELECT 1 FROM claude_sdk_sessions s WHERE s.task_id = task_history.id)";

/// Which tasks to delete.
#[derive(Debug, Clone, Copy)]
pub enum PruneScope {
    /// Those past the time in their rows.
    Cleanup,
    /// Those that ended this long ago.
    Older(SignedDuration),
}

/// Why a task that is due is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeptReason {
    /// It is the last task that used the session of a key.
    Session,
    /// Its `--on-finish` command has not run, or it was not reported.
    Undelivered,
    /// The fleet does not have its last state yet.
    Unpublished,
}

/// The result of a prune, or of a dry run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PruneSummary {
    pub removed: u64,
    /// Of these, the tasks within their own retention period, which another one replaced.
    pub removed_early: u64,
    /// The retention period has not passed.
    pub kept_for_retention: u64,
    /// Of these, the tasks past their own retention period, which another one replaced.
    pub kept_late: u64,
    pub kept_for_session: u64,
    pub kept_undelivered: u64,
    pub kept_unpublished: u64,
    /// The longest time that a batch held the write lock.
    pub longest_hold: Duration,
}

/// A task that is due.
struct PruneCandidate {
    rowid: i64,
    id: TaskId,
    due: String,
    /// The retention period in its row.
    retention_secs: Option<i64>,
    /// The end of that period.
    cleanup_after: Option<String>,
    kept: Option<KeptReason>,
}

/// A task to delete.
struct ExpiredTask {
    id: TaskId,
    /// Its own retention period has not passed.
    is_early: bool,
}

impl PruneSummary {
    fn count_removed(&mut self, task: &ExpiredTask) {
        self.removed += 1;
        self.removed_early += u64::from(task.is_early);
    }
}

impl PruneCandidate {
    /// Whether its own retention period has not passed.
    fn is_early(&self, now: Time) -> bool {
        let own = || {
            let kept = SignedDuration::from_secs(self.retention_secs.unwrap_or(RETENTION_SECS));
            Some(self.due.parse::<Time>().ok()?.plus(kept).to_string())
        };
        self.cleanup_after.clone().or_else(own).is_some_and(|own| own > now.to_string())
    }
}

fn candidate_of_row(row: &Row<'_>) -> rusqlite::Result<PruneCandidate> {
    let kept = match (row.get::<_, Option<bool>>(3)?.unwrap_or_default(), row.get(4)?) {
        (true, _) => Some(KeptReason::Undelivered),
        (_, true) => Some(KeptReason::Session),
        (false, false) => None,
    };
    Ok(PruneCandidate {
        rowid: row.get(0)?,
        id: row.get::<_, Option<TaskId>>(1)?.unwrap_or_else(|| TaskId::recorded("")),
        due: row.get(2)?,
        retention_secs: row.get(5)?,
        cleanup_after: row.get(6)?,
        kept,
    })
}

/// When the retention period of an ended task ends.
fn expiry(task: &Task) -> Time {
    let end = task.finished_at.as_ref().or(task.last_seen_at.as_ref()).unwrap_or(&task.started_at);
    let kept = SignedDuration::from_secs(task.retention_secs.unwrap_or(RETENTION_SECS));
    end.time().unwrap_or_else(Time::now).plus(kept)
}

/// The ages of rows; the clock may have been wrong when they were written.
struct TaskAges {
    now: Time,
    /// The first row that started since a time, for each time that was queried.
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

    /// Whether a row is younger than `secs`, even if its own times are wrong.
    fn is_young(&mut self, ledger: &Ledger, candidate: &PruneCandidate, secs: i64) -> Result<bool> {
        let young = self.first_since(ledger, self.since(secs))?;
        // It is not older than a row that was inserted before it.
        if young.is_some_and(|first| first < candidate.rowid) {
            return Ok(true);
        }
        if candidate.due.as_str() >= FIRST_CREDIBLE {
            return Ok(false);
        }
        // No row before it has a credible time: it counts as old as the first one after it.
        let credible = FIRST_CREDIBLE.parse().unwrap_or(Time::UNIX_EPOCH);
        let credible = self.first_since(ledger, credible)?;
        Ok(credible.is_none_or(|first| candidate.rowid < first && young == Some(first)))
    }
}

impl Ledger {
    /// The time from which ages are counted: now, but at most a day after the newest `last_seen_at`. So a
    /// clock that was set forward makes no task old.
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

    /// Deletes the tasks that are due with their transitions, in batches. `dry`: only counts them.
    pub fn prune(&mut self, due: &PruneScope, dry: bool) -> Result<PruneSummary> {
        let mut pruned = PruneSummary::default();
        let mut ages = self.ages()?;
        let until = match due {
            PruneScope::Cleanup => ages.now,
            PruneScope::Older(age) => ages.now.minus(*age),
        };
        let until = until.to_string();
        self.count_kept(&mut pruned, due, &until, ages.now)?;
        let mut after = (String::new(), i64::MIN);
        let mut page = self.without_cleanup(&mut pruned, due, &until, ages.now)?;
        loop {
            let mut expired = Vec::new();
            for candidate in self.without_unpublished(page)? {
                let secs = match due {
                    PruneScope::Cleanup => candidate.retention_secs.unwrap_or(RETENTION_SECS),
                    PruneScope::Older(age) => age.as_secs(),
                };
                if ages.is_young(self, &candidate, secs)? {
                    pruned.kept_for_retention += 1;
                    continue;
                }
                match candidate.kept {
                    Some(KeptReason::Session) => pruned.kept_for_session += 1,
                    Some(KeptReason::Undelivered) => pruned.kept_undelivered += 1,
                    Some(KeptReason::Unpublished) => pruned.kept_unpublished += 1,
                    None => {
                        let is_early = candidate.is_early(ages.now);
                        expired.push(ExpiredTask { id: candidate.id, is_early });
                    }
                }
            }
            match dry {
                true => expired.iter().for_each(|task| pruned.count_removed(task)),
                false => self.remove(&mut pruned, &expired)?,
            }
            page = self.page(due, &until, &after)?;
            let Some(last) = page.last() else { return Ok(pruned) };
            after = (last.due.clone(), last.rowid);
        }
    }

    /// Notes which of the tasks are kept because they are not published. Without a fleet it is none.
    fn without_unpublished(&self, mut page: Vec<PruneCandidate>) -> Result<Vec<PruneCandidate>> {
        for candidate in page.iter_mut().filter(|candidate| candidate.kept.is_none()) {
            let is_kept = self.is_unpublished(&candidate.id)?;
            candidate.kept = is_kept.then_some(KeptReason::Unpublished);
        }
        Ok(page)
    }

    /// Sets the expiry of each ended task that has none: its retention period, or a year, after its end.
    /// Returns how many there were.
    pub fn set_missing_cleanup(&mut self) -> Result<usize> {
        let mut set = 0;
        for task in self.uncleaned()? {
            set += self
                .conn
                .execute(UPDATE_CLEANUP, (&task.id, expiry(&task)))
                .map_err(self.failed("setting the expiry of old tasks"))?;
        }
        Ok(set)
    }

    /// Counts the tasks that the retention period keeps.
    fn count_kept(&self, pruned: &mut PruneSummary, due: &PruneScope, until: &str, now: Time) -> Result<()> {
        let count = || match due {
            PruneScope::Cleanup => {
                self.conn().query_row(COUNT_BEFORE_CLEANUP, [until], |row| Ok((row.get(0)?, 0)))
            }
            PruneScope::Older(_) => {
                let late = (now, until);
                let late = self.conn().query_row(COUNT_PAST_CLEANUP_ONLY, late, |row| row.get(0))?;
                self.conn().query_row(COUNT_WITHIN_RETENTION, [until], |row| Ok((row.get(0)?, late)))
            }
        };
        let (kept, late): (u32, u32) = count().map_err(self.failed("counting the tasks to keep"))?;
        (pruned.kept_for_retention, pruned.kept_late) = (kept.into(), late.into());
        Ok(())
    }

    /// The tasks without an expiry that are due by their retention period. Only a dry run finds any:
    /// otherwise [`Ledger::set_missing_cleanup`] comes first. The others are counted.
    fn without_cleanup(
        &self,
        pruned: &mut PruneSummary,
        due: &PruneScope,
        until: &str,
        now: Time,
    ) -> Result<Vec<PruneCandidate>> {
        let mut candidates = Vec::new();
        for task in self.uncleaned()? {
            let own = expiry(&task);
            match due {
                PruneScope::Cleanup if own <= now => {
                    let params = (&task.id, own);
                    let found = self.conn().query_row(SELECT_WITHOUT_CLEANUP, params, candidate_of_row);
                    let found = found.map_err(self.failed("looking for a task without an expiry"))?;
                    candidates.push(PruneCandidate { cleanup_after: Some(found.due.clone()), ..found });
                }
                PruneScope::Cleanup => pruned.kept_for_retention += 1,
                PruneScope::Older(_) => {
                    let is_kept = task.last_seen_at.is_some_and(|seen| seen.to_string().as_str() > until);
                    pruned.kept_late += u64::from(is_kept && own <= now);
                }
            }
        }
        Ok(candidates)
    }

    /// Returns the space of deleted rows to the file system. Other processes wait meanwhile.
    pub fn vacuum(&mut self) -> Result<()> {
        self.budget.lift();
        self.conn.execute_batch("VACUUM").map_err(self.failed("compacting the file"))
    }

    fn page(&self, due: &PruneScope, until: &str, after: &(String, i64)) -> Result<Vec<PruneCandidate>> {
        let sql = match due {
            PruneScope::Cleanup => SELECT_PAST_CLEANUP,
            PruneScope::Older(_) => SELECT_PAST_RETENTION,
        };
        let read = candidate_of_row;
        let page = || -> rusqlite::Result<Vec<PruneCandidate>> {
            self.conn().prepare_cached(sql)?.query_map((until, &after.0, after.1, PAGE), read)?.collect()
        };
        page().map_err(self.failed("looking for old tasks"))
    }

    /// Deletes the tasks in batches, and counts them.
    fn remove(&mut self, pruned: &mut PruneSummary, expired: &[ExpiredTask]) -> Result<()> {
        let mut rest = expired;
        while !rest.is_empty() {
            let (done, removed, held) = self.remove_some(rest)?;
            removed.into_iter().for_each(|at| pruned.count_removed(&rest[at]));
            rest = &rest[done..];
            pruned.longest_hold = pruned.longest_hold.max(held);
            // Lets waiting writers go first.
            std::thread::sleep(held.min(HOLD));
        }
        Ok(())
    }

    /// Returns how many of the tasks are done, which of them were deleted, and how long that held the write
    /// lock.
    fn remove_some(&mut self, expired: &[ExpiredTask]) -> Result<(usize, Vec<usize>, Duration)> {
        let mut done = 0;
        let mut removed = Vec::new();
        let mut remove = || {
            let tx = self.conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let _silence = Silence::begin();
            let began = Instant::now();
            for ExpiredTask { id, .. } in expired {
                if tx.prepare_cached(DELETE_TASK)?.execute([id])? == 1 {
                    tx.prepare_cached(DELETE_TRANSITIONS)?.execute([id])?;
                    tx.prepare_cached(DELETE_INVALIDATIONS)?.execute([id])?;
                    removed.push(done);
                }
                done += 1;
                if began.elapsed() > HOLD {
                    break;
                }
            }
            tx.commit()?;
            Ok(began.elapsed())
        };
        let held = remove().map_err(|e| database_error("deleting old tasks", &self.at.file, e))?;
        Ok((done, removed, held))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_prune_query_uses_an_index() {
        super::super::tests::each_uses_an_index(&[
            SELECT_PAST_CLEANUP,
            SELECT_PAST_RETENTION,
            SELECT_WITHOUT_CLEANUP,
            COUNT_BEFORE_CLEANUP,
            COUNT_WITHIN_RETENTION,
            COUNT_PAST_CLEANUP_ONLY,
            SELECT_NEWEST_ENDED,
            SELECT_NEWEST_RUNNING,
            SELECT_FIRST_SINCE,
        ]);
    }
}
