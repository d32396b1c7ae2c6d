//! Lists tasks: the running ones first, then the ended ones, each newest first.

use rusqlite::{Connection, named_params};

use super::error::Result;
use super::handle::Ledger;
use super::row::select;
use super::tasks;
use crate::task::{Key, Status, Task, Time};

/// Which tasks to read. `None` does not filter.
#[derive(Debug, Clone, Default)]
pub struct TaskFilter {
    pub status: Option<Status>,
    pub key: Option<Key>,
    pub repo: Option<String>,
    /// The persona.
    pub agent: Option<String>,
    /// Started then or later.
    pub since: Option<Time>,
    /// `None`: no limit.
    pub limit: Option<usize>,
}

impl TaskFilter {
    /// Whether it excludes any tasks.
    pub fn selects(&self) -> bool {
        self.status.is_some()
            || self.key.is_some()
            || self.repo.is_some()
            || self.agent.is_some()
            || self.since.is_some()
    }
}

/// Without `:since` the bound is below every time, whether the column holds text or numbers.
/// A column behind `+` is only compared: SQLite uses the index of the column before it.
macro_rules! listed {
    ($by:literal) => {
        select!(
            "WHERE ",
            $by,
            " AND (:status IS NULL OR +status = :status)
             AND (:key IS NULL OR +key = :key)
             AND (:repo IS NULL OR +repo = :repo)
             AND (:agent IS NULL OR +agent = :agent)
             AND started_at >= coalesce(kept_time('task_history.started_at', :since), -9e999)
             ORDER BY started_at DESC, rowid DESC LIMIT :limit"
        )
    };
}

const SELECT_RUNNING: &str = listed!("status = 'running'");
const SELECT_ENDED: &str = listed!("status <> 'running'");
const SELECT_ENDED_BY_KEY: &str = listed!("status <> 'running' AND key = :key");
const SELECT_ENDED_BY_REPO: &str = listed!("status <> 'running' AND repo = :repo");
const SELECT_ENDED_BY_AGENT: &str = listed!("status <> 'running' AND agent = :agent");
const SELECT_ENDED_BY_STATUS: &str = listed!("status NOT IN ('running', 'success') AND status = :status");
/// Started before `:since`, ended then or later: on that day, or on another day than it started. The second
/// condition is that of the index in `migrations/004.sql`, word for word; otherwise SQLite does not use it.
const SELECT_ENDED_SINCE: &str = select!(
    "WHERE rowid IN (
        SELECT rowid FROM task_history
        WHERE status <> 'running' AND last_seen_at >= :since AND last_seen_at < substr(:since, 1, 10) || '~'
          AND started_at < kept_time('task_history.started_at', :since)
        UNION ALL
        SELECT rowid FROM task_history
        WHERE last_seen_at > substr(started_at, 1, 10) || '~' AND last_seen_at >= :since
          AND started_at < kept_time('task_history.started_at', :since))
     AND +status <> 'running'
     AND (:key IS NULL OR +key = :key)
     AND (:repo IS NULL OR +repo = :repo)
     AND (:agent IS NULL OR +agent = :agent)
     ORDER BY last_seen_at DESC LIMIT :limit"
);

/// How many of the listed tasks an index holds. Counting ends at a limit, beyond which it costs more than a
/// better choice saves.
macro_rules! counted {
    ($by:literal) => {
        concat!(
            "SELECT count(*) FROM (SELECT 1 FROM task_history WHERE ",
            $by,
            " AND started_at >= coalesce(kept_time('task_history.started_at', :since), -9e999) LIMIT 1000)"
        )
    };
}

const COUNT_BY_KEY: &str = counted!("key = :value");
const COUNT_BY_REPO: &str = counted!("repo = :value");
const COUNT_BY_AGENT: &str = counted!("agent = :value");
const COUNT_BY_STATUS: &str = counted!("status NOT IN ('running', 'success') AND status = :value");
const DATA_VERSION: &str = "PRAGMA data_version";

impl Ledger {
    /// The running tasks first, then those that ended, each newest first.
    pub fn tasks(&self, filter: &TaskFilter) -> Result<Vec<Task>> {
        list(self.conn(), filter).map_err(self.failed("reading tasks"))
    }

    /// The tasks that ran at `filter.since` or later, whenever they started.
    pub fn tasks_in_flight_since(&self, filter: &TaskFilter) -> Result<Vec<Task>> {
        let read = || -> rusqlite::Result<Vec<Task>> {
            let running = TaskFilter { status: Some(Status::Running), since: None, ..filter.clone() };
            let mut tasks = list(self.conn(), &running)?;
            tasks.extend(list(self.conn(), filter)?.into_iter().filter(|t| t.status != Status::Running));
            tasks.extend(tasks::all(
                self.conn(),
                SELECT_ENDED_SINCE,
                named_params! {
                    ":since": filter.since,
                    ":key": filter.key,
                    ":repo": filter.repo,
                    ":agent": filter.agent,
                    ":limit": filter.limit.map_or(i64::MAX, |n| i64::try_from(n).unwrap_or(i64::MAX)),
                },
            )?);
            Ok(tasks)
        };
        read().map_err(self.failed("reading the tasks in flight"))
    }

    /// A number that changes when another process writes to the ledger. SQLite reads it from shared memory.
    pub fn version(&self) -> Result<i64> {
        self.conn()
            .query_row(DATA_VERSION, [], |row| row.get(0))
            .map_err(self.failed("checking whether it has changed"))
    }
}

fn list(conn: &Connection, filter: &TaskFilter) -> rusqlite::Result<Vec<Task>> {
    let limit = filter.limit.map_or(i64::MAX, |n| i64::try_from(n).unwrap_or(i64::MAX));
    let read = |sql: &str, limit: i64| {
        tasks::all(
            conn,
            sql,
            named_params! {
                ":status": filter.status.map(Status::as_str),
                ":key": filter.key,
                ":repo": filter.repo,
                ":agent": filter.agent,
                ":since": filter.since,
                ":limit": limit,
            },
        )
    };
    let mut tasks = match filter.status {
        None | Some(Status::Running) => read(SELECT_RUNNING, limit)?,
        Some(_) => Vec::new(),
    };
    let left = limit.saturating_sub(tasks.len() as i64);
    if filter.status != Some(Status::Running) && left > 0 {
        tasks.extend(read(select_ended(conn, filter)?, left)?);
    }
    Ok(tasks)
}

/// The statement that reads the ended tasks by the index with the fewest entries for this filter.
fn select_ended(conn: &Connection, filter: &TaskFilter) -> rusqlite::Result<&'static str> {
    // Most tasks succeed: `success` has no index, and the first such tasks are found soon by their start.
    let status = filter.status.filter(|s| *s != Status::Success).map(Status::as_str);
    let mut usable = [
        (filter.key.as_ref().map(Key::as_str), COUNT_BY_KEY, SELECT_ENDED_BY_KEY),
        (filter.repo.as_deref(), COUNT_BY_REPO, SELECT_ENDED_BY_REPO),
        (filter.agent.as_deref(), COUNT_BY_AGENT, SELECT_ENDED_BY_AGENT),
        (status, COUNT_BY_STATUS, SELECT_ENDED_BY_STATUS),
    ]
    .into_iter()
    .filter_map(|(value, count, select)| Some((value?, count, select)))
    .peekable();
    let Some(first) = usable.next() else { return Ok(SELECT_ENDED) };
    if usable.peek().is_none() {
        return Ok(first.2);
    }
    let mut fewest = (i64::MAX, first.2);
    for (value, count, select) in std::iter::once(first).chain(usable) {
        let params = named_params! { ":value": value, ":since": filter.since };
        let entries: i64 = conn.query_row(count, params, |row| row.get(0))?;
        if entries < fewest.0 {
            fewest = (entries, select);
        }
    }
    Ok(fewest.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use crate::ledger::GroupBy;
    use crate::ledger::tests::{World, each_uses_an_index, time};

    #[test]
    fn each_listing_uses_an_index() {
        each_uses_an_index(&[
            SELECT_RUNNING,
            SELECT_ENDED,
            SELECT_ENDED_BY_KEY,
            SELECT_ENDED_BY_REPO,
            SELECT_ENDED_BY_AGENT,
            SELECT_ENDED_BY_STATUS,
            SELECT_ENDED_SINCE,
            COUNT_BY_KEY,
            COUNT_BY_REPO,
            COUNT_BY_AGENT,
            COUNT_BY_STATUS,
        ]);
    }

    /// `tasks` ended tasks, one every 30 seconds, each of 40 seconds.
    fn history(tasks: u32) -> (World, Ledger) {
        let world = World::new();
        let ledger = world.open();
        world
            .raw()
            .execute_batch(&format!(
                "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {tasks})
                 INSERT INTO task_history
                     (id, key, repo, agent, status, started_at, finished_at, last_seen_at)
                 SELECT format('%08d', i), format('key-%d', i % {tasks}), iif(i % 2, 'odd', 'even'),
                     iif(i % 3, 'review', 'dev'), iif(i % 10, 'success', 'failure'),
                     strftime('%Y-%m-%dT%H:%M:%fZ', 1700000000 + i * 30, 'unixepoch'),
                     strftime('%Y-%m-%dT%H:%M:%fZ', 1700000040 + i * 30, 'unixepoch'),
                     strftime('%Y-%m-%dT%H:%M:%fZ', 1700000040 + i * 30, 'unixepoch')
                 FROM n"
            ))
            .unwrap();
        (world, ledger)
    }

    /// How many of SQLite's instructions it takes.
    fn steps<T>(ledger: &mut Ledger, read: impl FnOnce(&Ledger) -> T) -> (T, u64) {
        let count = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&count);
        let counter = move || {
            counted.fetch_add(1, Ordering::Relaxed);
            false
        };
        ledger.conn.progress_handler(1, Some(counter)).unwrap();
        let read = read(ledger);
        ledger.conn.progress_handler(1, None::<fn() -> bool>).unwrap();
        (read, count.load(Ordering::Relaxed))
    }

    fn filters() -> Vec<TaskFilter> {
        let text = |text: &str| Some(text.to_owned());
        let none = TaskFilter { limit: Some(10), ..TaskFilter::default() };
        vec![
            TaskFilter { key: Some("key-7".into()), ..none.clone() },
            TaskFilter { repo: text("odd"), ..none.clone() },
            TaskFilter { agent: text("dev"), ..none.clone() },
            TaskFilter { agent: text("nobody"), ..none.clone() },
            TaskFilter { repo: text("odd"), agent: text("nobody"), ..none.clone() },
            none,
        ]
    }

    #[test]
    fn a_timeline_reads_no_more_of_a_long_history() {
        let ((_small, mut small), (_large, mut large)) = (history(4_000), history(20_000));
        // Before everything, in the middle of the short history, after everything.
        for since in ["2023-11-01T00:00:00.000Z", "2023-11-15T02:20:05.000Z", "2024-11-01T00:00:00.000Z"] {
            for filter in filters() {
                let filter = TaskFilter { since: Some(time(since)), ..filter };
                let (_, few) = steps(&mut small, |l| l.tasks_in_flight_since(&filter).unwrap());
                let (_, many) = steps(&mut large, |l| l.tasks_in_flight_since(&filter).unwrap());
                assert!(many <= 2 * few, "{filter:?}: {few} steps for 4,000 tasks, {many} for 20,000");
            }
        }
    }

    #[test]
    fn a_list_reads_no_more_of_a_long_history() {
        let ((_small, mut small), (_large, mut large)) = (history(4_000), history(20_000));
        let of_status = |status| move |f: TaskFilter| TaskFilter { status: Some(status), ..f };
        let interrupted = filters().into_iter().map(of_status(Status::Interrupted));
        let running = filters().into_iter().map(of_status(Status::Running));
        for filter in filters().into_iter().chain(interrupted).chain(running) {
            let (_, few) = steps(&mut small, |l| l.tasks(&filter).unwrap());
            let (_, many) = steps(&mut large, |l| l.tasks(&filter).unwrap());
            assert!(many <= 2 * few, "{filter:?}: {few} steps for 4,000 tasks, {many} for 20,000");
        }
    }

    #[test]
    fn stats_read_only_the_tasks_since_then() {
        let ((_small, mut small), (_large, mut large)) = (history(4_000), history(20_000));
        for by in GroupBy::EACH {
            // Each day of both histories has the same number of tasks.
            let of_a_day =
                |ledger: &mut Ledger, since| steps(ledger, |l| l.stats(by, Some(since), 10).unwrap()).1;
            let few = of_a_day(&mut small, time("2023-11-15T07:33:20.000Z"));
            let many = of_a_day(&mut large, time("2023-11-20T20:53:20.000Z"));
            assert!(many <= 2 * few, "by {}: {few} steps of 4,000 tasks, {many} of 20,000", by.as_str());
        }
    }

    #[test]
    fn tasks_in_flight_are_found_whatever_their_length() {
        let world = World::new();
        let ledger = world.open();
        let since = "2026-03-05T12:30:00.000Z";
        let in_flight = [
            ("year", "2025-12-31T23:59:59.000Z", since),
            ("month", "2026-02-28T12:30:00.000Z", "2026-03-05T12:30:01.000Z"),
            ("day", "2026-03-04T23:00:00.000Z", "2026-03-06T00:00:00.000Z"),
            ("hour", "2026-03-05T11:59:59.999Z", "2026-03-05T13:00:00.000Z"),
            ("minute", "2026-03-05T12:29:59.999Z", "2026-03-05T12:30:00.000Z"),
        ];
        let others = [
            ("before", "2025-01-01T00:00:00.000Z", "2026-03-05T12:29:59.999Z"),
            ("same hour", "2026-03-05T12:00:00.000Z", "2026-03-05T12:29:59.999Z"),
        ];
        let raw = world.raw();
        for (id, started, ended) in in_flight.into_iter().chain(others) {
            raw.execute(
                "INSERT INTO task_history (id, status, started_at, finished_at, last_seen_at)
                 VALUES (?1, 'success', ?2, ?3, ?3)",
                (id, started, ended),
            )
            .unwrap();
        }
        let filter = TaskFilter { since: Some(time(since)), ..TaskFilter::default() };
        let mut found: Vec<String> =
            ledger.tasks_in_flight_since(&filter).unwrap().into_iter().map(|t| t.id.to_string()).collect();
        found.sort();
        let mut expected = in_flight.map(|(id, ..)| id.to_owned());
        expected.sort();
        assert_eq!(found, expected);
    }
}
