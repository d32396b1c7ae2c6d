//! `prune` deletes expired tasks in small batches and keeps those that are still needed.

use serde_json::Value;

use crate::harness::{End, World};
use crate::spool::{Waiting, locked};

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

/// What prune prints below its first line, and that line up to the path.
fn printed(world: &World, options: &[&str]) -> Vec<String> {
    let words = ["bookend", "prune"].iter().chain(options).copied();
    let text = world.bare(words).run().ended(End::Code(0)).silent().stdout;
    text.replace(&format!(" from {}", world.ledger().display()), "").lines().map(str::to_owned).collect()
}

#[test]
fn prune_says_what_each_retention_period_keeps_and_what_the_option_replaces() {
    let test = "prune_says_what_each_retention_period_keeps_and_what_the_option_replaces";
    let Some(world) = World::of_bookend(test) else { return };
    for (id, retention) in [("short", "0"), ("year", "365d"), ("decade", "3650d")] {
        world.run(["true"]).options(["--id", id, "--retention", retention]).run().ended(End::Code(0));
    }
    let dry = |options: &[&str]| printed(&world, &[&["--dry-run"], options].concat());
    assert_eq!(dry(&[]), ["1 task would be removed", "2 tasks kept by their own retention period"]);
    // Longer than a task's own period, and shorter.
    assert_eq!(
        dry(&["--retention", "90d"]),
        ["0 tasks would be removed", "3 tasks kept by --retention, 1 of them past its own retention period"]
    );
    assert_eq!(
        dry(&["--retention", "0"]),
        ["3 tasks would be removed, 2 of them within their own retention period"]
    );
    assert_eq!(printed(&world, &[]), ["1 task removed", "2 tasks kept by their own retention period"]);
    world.write("UPDATE task_history SET cleanup_after = '2001-01-01T00:00:00.000Z' WHERE id = 'year'");
    assert_eq!(
        printed(&world, &["--retention", "0"]),
        ["2 tasks removed, 1 of them within its own retention period"]
    );
}

#[test]
fn a_dry_run_prints_the_numbers_of_the_real_run() {
    let Some(world) = World::of_bookend("a_dry_run_prints_the_numbers_of_the_real_run") else { return };
    let fill = || {
        for id in ["a", "b", "c", "d", "e", "f"] {
            succeed(&world, id);
        }
        // Neither of `b`, `c` and `d` has an expiry date: their end and their own period decide.
        world.write(&format!(
            "UPDATE task_history SET cleanup_after = '{LONG_AGO}' WHERE id = 'a';
             UPDATE task_history SET cleanup_after = NULL WHERE id IN ('b', 'c', 'd');
             UPDATE task_history SET retention_secs = 0 WHERE id IN ('b', 'd');
             UPDATE task_history SET delivery_status = 'pending' WHERE id IN ('d', 'e')"
        ));
    };
    for options in [&[][..], &["--retention", "0"], &["--retention", "30d"]] {
        world.bare(["rm", "-rf", &world.name("state/bookend")]).run().ended(End::Code(0));
        fill();
        let numbers = |report: Value| {
            let names = ["removed", "removed_early", "kept_for_retention", "kept_late"];
            let names = names.iter().chain(&["kept_for_session", "kept_undelivered"]);
            names.map(|n| report[*n].as_i64().expect("a number")).collect::<Vec<_>>()
        };
        let dry = numbers(prune(&world, &[options, &["--dry-run"]].concat()));
        assert_eq!(dry, numbers(prune(&world, options)), "{options:?}");
        assert_eq!(dry[0] + dry[2] + dry[4] + dry[5], 6, "each task is counted once: {dry:?}");
        assert_eq!(world.rows().len() as i64, 6 - dry[0]);
    }
}

#[test]
fn a_dry_run_says_which_ends_it_does_not_count() {
    let Some(world) = World::of_bookend("a_dry_run_says_which_ends_it_does_not_count") else { return };
    let waiting =
        Waiting::start(&world, |run| run.options(["--retention", "0"]).env("BOOKEND_BUSY_TIMEOUT", "10ms"));
    let lock = locked(&world);
    waiting.end_in_spool(&world);
    drop(lock);
    let dry = printed(&world, &["--dry-run"]);
    assert_eq!(dry, ["0 tasks would be removed", "1 end waits in the spool: its task is not counted"]);
    assert_eq!(prune(&world, &[])["removed"], 1);
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
