//! Tests of the listings: what they read, and how much of a long history.

use super::*;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::ledger::tests::{World, each_uses_an_index, time};
use crate::task::GroupBy;

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
        COUNT_RUNNING,
        COUNT_BY_START,
        COUNT_BY_KEY,
        COUNT_BY_REPO,
        COUNT_BY_AGENT,
        COUNT_BY_STATUS,
    ]);
    each_uses_an_index(&super::super::filter::COUNTS);
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
    let of_status = |status| move |f: TaskFilter| TaskFilter { statuses: vec![status], ..f };
    let interrupted = filters().into_iter().map(of_status(Status::Interrupted));
    let running = filters().into_iter().map(of_status(Status::Running));
    let rare = vec![Status::Cancelled, Status::Interrupted, Status::AbortedNoSkill];
    let rare = filters().into_iter().map(|f| TaskFilter { statuses: rare.clone(), ..f });
    let until = Some(time("2023-11-15T02:20:05.000Z"));
    let until = filters().into_iter().map(|f| TaskFilter { until, ..f });
    for filter in filters().into_iter().chain(interrupted).chain(running).chain(rare).chain(until) {
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
        let of_a_day = |ledger: &mut Ledger, since| {
            steps(ledger, |l| {
                l.stats(&[by], &TaskFilter { since: Some(since), ..TaskFilter::default() }, 10).unwrap()
            })
            .1
        };
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

fn ids(tasks: &[Task]) -> Vec<&str> {
    tasks.iter().map(|t| t.id.as_str()).collect()
}

#[test]
fn pages_join_without_a_gap_although_tasks_start_at_the_same_time() {
    let (world, ledger) = history(500);
    world.raw().execute_batch("UPDATE task_history SET started_at = substr(started_at, 1, 16)").unwrap();
    let by_sql = |condition: &str| -> Vec<String> {
        let sql =
            format!("SELECT id FROM task_history WHERE {condition} ORDER BY started_at DESC, rowid DESC");
        let raw = world.raw();
        let mut statement = raw.prepare(&sql).unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().collect::<rusqlite::Result<_>>().unwrap()
    };
    let statuses = vec![Status::Failure, Status::Cancelled];
    let dev = || Some("dev".to_owned());
    for (filter, condition) in [
        (TaskFilter::default(), "true"),
        (TaskFilter { agent: dev(), ..TaskFilter::default() }, "agent = 'dev'"),
        (TaskFilter { statuses: statuses.clone(), ..TaskFilter::default() }, "status = 'failure'"),
        (
            TaskFilter { agent: dev(), statuses, ..TaskFilter::default() },
            "status = 'failure' AND agent = 'dev'",
        ),
    ] {
        let pages: Vec<Vec<Task>> = ledger.pages(&filter).map(|page| page.unwrap()).collect();
        assert!(pages.iter().all(|page| page.len() <= PAGE as usize));
        assert_eq!(ids(&pages.concat()), by_sql(condition), "{filter:?}");
        assert_eq!(
            ledger.count(&filter).unwrap(),
            TaskCount { at_least: by_sql(condition).len(), is_exact: true }
        );
    }
    let limited = TaskFilter { limit: Some(100), ..TaskFilter::default() };
    assert_eq!(ids(&ledger.tasks(&limited).unwrap()), by_sql("true")[..100]);
}

#[test]
fn a_task_that_ends_between_two_pages_is_listed_once() {
    let (world, ledger) = history(100);
    let raw = world.raw();
    raw.execute_batch("UPDATE task_history SET status = 'running', key = NULL WHERE id = '00000001'")
        .unwrap_err();
    raw.execute_batch(
        "INSERT INTO task_history (id, status, started_at)
         VALUES ('now', 'running', '2023-11-15T00:00:00.000Z')",
    )
    .unwrap();
    let filter = TaskFilter::default();
    let mut pages = ledger.pages(&filter);
    assert_eq!(ids(&pages.next().unwrap().unwrap()), ["now"]);
    raw.execute_batch("UPDATE task_history SET status = 'success' WHERE id = 'now'").unwrap();
    let rest: Vec<Task> = pages.flat_map(|page| page.unwrap()).collect();
    assert_eq!(rest.len(), 100);
    assert!(!ids(&rest).contains(&"now"));
}

#[test]
fn counting_examines_no_more_of_a_long_history() {
    let ((_small, mut small), (_large, mut large)) = (history(4_000), history(20_000));
    for filter in filters() {
        let (_, few) = steps(&mut small, |l| l.count(&filter).unwrap());
        let (found, many) = steps(&mut large, |l| l.count(&filter).unwrap());
        assert!(many <= 2 * few, "{filter:?}: {few} steps for 4,000 tasks, {many} for 20,000");
        assert!(found.is_exact || found.at_least <= COUNTED as usize, "{found:?}");
    }
}
