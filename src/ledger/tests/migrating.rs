//! Migrations keep the data of an older ledger and produce the schema of a new one.

use std::collections::BTreeMap;

use rusqlite::Connection;

use super::World;
use crate::task::{Status, TaskFilter};

/// A ledger of version 1 in an adopted file, in which an index of bookend has another name.
#[test]
fn a_ledger_of_the_first_version_is_migrated_and_keeps_its_history() {
    let world = World::new();
    drop(world.open());
    std::fs::remove_file(world.file()).unwrap();
    let raw = world.raw();
    raw.execute_batch(include_str!("../migrations/001.sql")).unwrap();
    raw.execute_batch(
        "PRAGMA journal_mode = WAL;
         INSERT INTO bookend_migration VALUES (1, '2026-01-01T00:00:00.000Z');
         INSERT INTO task_history (id, status, started_at) VALUES
             ('a', 'success', '2026-01-01T00:00:00.000Z'), ('b', 'running', '2026-01-02T00:00:00.000Z'),
             ('c', 'failure', '2026-01-03T00:00:00.000Z');
         INSERT INTO task_transition (task_id, at, to_status) VALUES
             ('a', 't1', 'running'), ('b', 't2', 'running'), ('a', 't3', 'success'), ('c', 't4', 'failure');
         DROP INDEX task_history_running;
         CREATE INDEX task_history_running ON task_history (user);
         CREATE INDEX bookend_task_history_running ON task_history (started_at) WHERE status = 'running'",
    )
    .unwrap();
    let ledger = world.open();
    // A supervisor of the older version still writes a transition.
    raw.execute("INSERT INTO task_transition (task_id, at, to_status) VALUES ('b', 't5', 'success')", [])
        .unwrap();
    let transitions: Vec<(String, i64, String)> = raw
        .prepare("SELECT task_id, n, to_status FROM task_transition ORDER BY task_id, n")
        .unwrap()
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .unwrap()
        .collect::<rusqlite::Result<_>>()
        .unwrap();
    let expected = [("a", 1, "running"), ("a", 2, "success"), ("b", 1, "running"), ("b", 2, "success")];
    let expected = [&expected[..], &[("c", 1, "failure")]].concat();
    let transitions: Vec<_> = transitions.iter().map(|(id, n, to)| (id.as_str(), *n, to.as_str())).collect();
    assert_eq!(transitions, expected);
    let ids: Vec<_> = ledger.tasks(&TaskFilter::default()).unwrap().into_iter().map(|t| t.id).collect();
    assert_eq!(ids, ["b", "c", "a"]);
    let failed = TaskFilter::of(Status::Failure);
    assert_eq!(ledger.tasks(&failed).unwrap().len(), 1);
    let of = |conn: &Connection| -> BTreeMap<String, String> {
        conn.prepare("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL")
            .unwrap()
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap()
            .collect::<rusqlite::Result<_>>()
            .unwrap()
    };
    let fresh = World::new();
    drop(fresh.open());
    let mut schema = of(&raw);
    let foreign = schema.remove("task_history_running");
    assert_eq!(foreign.as_deref(), Some("CREATE INDEX task_history_running ON task_history (user)"));
    assert_eq!(schema, of(&fresh.raw()), "except for that index, the schema is that of a new ledger");
}
