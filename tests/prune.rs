//! `prune` deletes expired tasks in small batches and keeps those that are still needed.

use serde_json::Value;

use crate::harness::{End, World};

fn prune(world: &World, words: &[&str]) -> Value {
    let words = ["bookend", "prune", "--json"].iter().chain(words).copied();
    let output = world.bare(words).run().ended(End::Code(0)).silent();
    serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
}

fn ids(world: &World) -> Vec<String> {
    world.rows().iter().map(|r| r.text("id")).collect()
}

fn succeed(world: &World, id: &str) {
    world.run(["true"]).options(["--id", id]).run().ended(End::Code(0));
}

const LONG_AGO: &str = "2000-01-01T00:00:00.000Z";

#[test]
fn expired_tasks_are_deleted_with_their_history_and_a_dry_run_only_counts() {
    let test = "expired_tasks_are_deleted_with_their_history_and_a_dry_run_only_counts";
    let Some(world) = World::of_bookend(test) else { return };
    succeed(&world, "old");
    succeed(&world, "young");
    world.write(&format!("UPDATE task_history SET cleanup_after = '{LONG_AGO}' WHERE id = 'old'"));
    assert_eq!(prune(&world, &["--dry-run"])["removed"], 1);
    assert_eq!(ids(&world), ["old", "young"]);
    assert_eq!(prune(&world, &["--vacuum"])["removed"], 1);
    assert_eq!(ids(&world), ["young"]);
    assert_eq!(world.sql("SELECT * FROM task_transition WHERE task_id = 'old'").len(), 0);
    assert_eq!(world.sql("SELECT * FROM task_transition WHERE task_id = 'young'").len(), 2);
    assert_eq!(prune(&world, &[])["removed"], 0);
}

#[test]
fn the_retention_period_of_a_task_counts_from_its_end() {
    let Some(world) = World::of_bookend("the_retention_period_of_a_task_counts_from_its_end") else { return };
    world.run(["true"]).options(["--id", "short", "--retention", "0"]).run().ended(End::Code(0));
    succeed(&world, "year");
    assert_eq!(prune(&world, &["--retention", "1h"])["removed"], 0);
    assert_eq!(prune(&world, &[])["removed"], 1);
    assert_eq!(ids(&world), ["year"]);
    assert_eq!(prune(&world, &["--retention", "0"])["removed"], 1);
}

#[test]
fn running_and_needed_tasks_are_not_pruned() {
    let Some(world) = World::of_bookend("running_and_needed_tasks_are_not_pruned") else { return };
    let mut up = world.fifo("up");
    let script = format!("echo up >{}; exec sleep 1000", up.path());
    let running = world.run_sh(&script).options(["--id", "running"]).start();
    up.line();
    for id in ["used-before", "used-last", "undelivered", "foreign", "gone"] {
        succeed(&world, id);
    }
    world.write(&format!(
        "UPDATE task_history SET started_at = '{LONG_AGO}', cleanup_after = '{LONG_AGO}';
         UPDATE task_history SET started_at = '2000-01-02T00:00:00.000Z' WHERE id = 'used-last';
         UPDATE task_history SET session_id = 's' WHERE id LIKE 'used-%';
         UPDATE task_history SET delivery_status = 'pending' WHERE id = 'undelivered';
         UPDATE task_history SET live_slot = NULL WHERE id = 'foreign';
         INSERT INTO claude_sdk_sessions (key, session_id, task_id) VALUES ('k', 's', 'used-last')"
    ));
    let report = prune(&world, &[]);
    let numbers = ["removed", "kept_for_session", "kept_undelivered"].map(|n| report[n].as_i64());
    assert_eq!(numbers, [Some(2), Some(1), Some(1)], "{report}");
    assert_eq!(ids(&world), ["foreign", "running", "undelivered", "used-last"]);
    drop(running);
}

#[test]
fn pruning_many_tasks_does_not_block_writers() {
    let Some(world) = World::of_bookend("pruning_many_tasks_does_not_block_writers") else { return };
    succeed(&world, "first");
    world.write(&format!("UPDATE task_history SET started_at = '{LONG_AGO}'"));
    world.write(&format!(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
         INSERT INTO task_history
           (id, status, started_at, finished_at, last_seen_at, cleanup_after, live_slot)
         SELECT 'old-' || i, 'success', '{LONG_AGO}', '{LONG_AGO}', '{LONG_AGO}', '{LONG_AGO}', i FROM n"
    ));
    succeed(&world, "young");
    let pruning = world.bare(["bookend", "prune", "--json"]).start();
    for _ in 0..5 {
        world.run(["true"]).run().ended(End::Code(0)).silent();
    }
    let output = pruning.wait().ended(End::Code(0)).silent();
    let report: Value = serde_json::from_str(&output.stdout).expect("JSON");
    assert_eq!(report["removed"], 20000);
    // The disk of a loaded machine may make one commit slow; a batch without a bound takes seconds.
    assert!(report["longest_hold_ms"].as_f64().is_some_and(|ms| ms < 500.0), "{report}");
    assert_eq!(world.rows().len(), 7);
}

#[test]
fn prune_creates_no_ledger() {
    let Some(world) = World::of_bookend("prune_creates_no_ledger") else { return };
    world.bare(["bookend", "prune"]).run().ended(End::Code(1));
    assert!(!world.ledger().exists());
}
