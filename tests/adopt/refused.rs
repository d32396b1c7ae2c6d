//! A file that cannot be adopted is unchanged, and the message names the reason.

use std::fs;

use rusqlite::Connection;

use super::{ForeignDatabase, PLAIN, backups, strings};
use crate::harness::{End, World};

/// The error of `adopt` for a file that it does not change.
fn refusal(world: &World, file: &str) -> String {
    let path = world.path(file);
    let before = fs::read(&path).ok();
    let output = world.bare(["bookend", "adopt", path.to_str().expect("UTF-8")]).run().ended(End::Code(125));
    assert_eq!(output.stdout, "");
    assert_eq!(fs::read(&path).ok(), before, "{file} was changed");
    assert_eq!(backups(&path), Vec::<std::path::PathBuf>::new(), "{file} has a backup");
    assert!(output.stderr.contains(file), "the message names the file: {}", output.stderr);
    output.stderr
}

#[test]
fn a_file_without_a_task_history_is_not_adopted() {
    let world = World::new();
    fs::write(world.path("empty"), "").expect("a file");
    fs::write(world.path("text"), "x".repeat(5000)).expect("a file");
    fs::create_dir(world.path("directory")).expect("a directory");
    std::os::unix::fs::symlink(world.path("text"), world.path("link")).expect("a link");
    let make = |name: &str, sql: &str| {
        Connection::open(world.path(name)).expect("a database").execute_batch(sql).expect("its tables");
    };
    make("tableless", "PRAGMA user_version = 1; VACUUM");
    make("other", "CREATE TABLE x (y)");
    make("view", "CREATE TABLE x (id, status, started_at); CREATE VIEW task_history AS SELECT * FROM x");
    make("virtual", "CREATE VIRTUAL TABLE task_history USING fts5 (id, status, started_at)");
    make("columns", "CREATE TABLE task_history (id TEXT PRIMARY KEY, started_at TEXT)");
    make(
        "taken",
        "CREATE TABLE task_history (id TEXT, status TEXT, started_at TEXT); CREATE TABLE task_transition (x)",
    );
    make(
        "twice",
        "CREATE TABLE task_history (id TEXT, status TEXT, started_at TEXT);
                   INSERT INTO task_history VALUES ('a', 'success', '1'), ('a', 'success', '2')",
    );
    for (file, why) in [
        ("missing", "No such file"),
        ("empty", "it is empty"),
        ("text", "not an SQLite database"),
        ("directory", "is a directory"),
        ("link", "symbolic link"),
        ("tableless", "no tables"),
        ("other", "no table task_history"),
        ("view", "its task_history is a view"),
    ] {
        let output = refusal(&world, file);
        assert!(output.contains(why), "{file}: {output}");
        assert!(!world.path(&format!("{file}.d")).exists(), "{file}: adopt has created its directory");
    }
    // Detected during the adoption, which is rolled back.
    for (file, why) in [
        ("virtual", "its task_history is a view or a virtual table"),
        ("columns", "no column status"),
        ("taken", "a table task_transition of its own"),
        ("twice", "UNIQUE"),
    ] {
        let output = refusal(&world, file);
        assert!(output.contains(why), "{file}: {output}");
    }
}

#[test]
fn a_table_that_rejects_every_task_is_refused_with_its_reason() {
    let foreign = ForeignDatabase::new(PLAIN);
    foreign
        .open()
        .execute_batch(
            "CREATE TRIGGER strict BEFORE INSERT ON task_history WHEN NEW.finished_at IS NULL
             BEGIN SELECT RAISE(ABORT, 'every task has an end'); END",
        )
        .expect("the trigger");
    let output = foreign.adopt().ended(End::Code(125));
    assert!(output.stderr.contains("every task has an end"), "{}", output.stderr);
    assert_eq!(
        strings(&foreign.open(), "SELECT count(*) FROM sqlite_schema WHERE name LIKE 'bookend%'"),
        ["0"]
    );
}

#[test]
fn a_ledger_of_bookend_and_one_of_a_newer_version_are_refused() {
    let Some(world) = World::of_bookend("a_ledger_of_bookend_and_one_of_a_newer_version_are_refused") else {
        return;
    };
    world.run(["true"]).run().ended(End::Code(0));
    fs::copy(world.ledger(), world.path("own.db")).expect("a copy");
    for suffix in ["-wal", "-shm"] {
        let from = format!("{}{suffix}", world.ledger().display());
        fs::copy(from, world.path(&format!("own.db{suffix}"))).expect("a copy");
    }
    let own = Connection::open(world.path("own.db")).expect("the ledger");
    own.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").expect("a checkpoint");
    assert!(refusal(&world, "own.db").contains("it is already a ledger of bookend"));
    own.execute_batch("INSERT INTO bookend_migration VALUES (9999, 'x'); PRAGMA wal_checkpoint(TRUNCATE)")
        .expect("a newer version");
    let output = refusal(&world, "own.db");
    assert!(output.contains("9999") && output.contains("newer"), "{output}");
}

#[test]
fn an_adopted_file_of_a_newer_version_is_refused() {
    let foreign = ForeignDatabase::new(PLAIN);
    foreign.adopted();
    foreign.open().execute("INSERT INTO bookend_migration VALUES (9999, 'x')", []).expect("a newer version");
    let output = foreign.adopt().ended(End::Code(125));
    assert!(output.stderr.contains("9999") && output.stderr.contains("newer"), "{}", output.stderr);
}

#[test]
fn a_foreign_key_violated_before_does_not_prevent_adoption() {
    let foreign = ForeignDatabase::new(PLAIN);
    foreign
        .open()
        .execute_batch(
            "PRAGMA foreign_keys = OFF;
             CREATE TABLE notes (task_id TEXT REFERENCES task_history (id), x REFERENCES nowhere (y));
             INSERT INTO notes VALUES ('gone', NULL)",
        )
        .expect("the tables");
    foreign.adopted();
    assert_eq!(strings(&foreign.open(), "SELECT count(*) FROM notes"), ["1"]);
}
