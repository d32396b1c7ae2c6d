//! Malicious content of a ledger: views, virtual tables, endless triggers and values of hundreds of
//! megabytes.

use std::fs;
use std::process::Command;

use crate::harness::{End, Output, World, possible};
use crate::standins::bookend;

const TABLES: [&str; 6] = [
    "task_history",
    "claude_sdk_sessions",
    "task_transition",
    "session_invalidation",
    "bookend_migration",
    "bookend_setting",
];

/// SQL that replaces a table by an endless view with the same columns.
fn endless(world: &World, table: &str) -> String {
    let columns = world.sql(&format!("SELECT group_concat(name) AS names FROM pragma_table_info('{table}')"));
    let names = columns[0].text("names");
    let nothing = names.split(',').map(|n| format!("'1' AS {n}")).collect::<Vec<_>>().join(", ");
    format!(
        "ALTER TABLE {table} RENAME TO former;
         CREATE VIEW {table} AS
         WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)
         SELECT {nothing} FROM n WHERE i < 0"
    )
}

fn refused(output: Output, table: &str, words: &[&str]) {
    assert_eq!(output.end, End::Code(125), "{words:?}: {output:?}");
    let why = format!("{table} in it is a view or a virtual table");
    assert!(output.stderr.contains(&why), "{words:?}: {output:?}");
}

#[test]
fn a_view_in_place_of_a_table_is_refused_before_it_is_read() {
    let Some(mut world) = World::of_bookend("a_view_in_place_of_a_table_is_refused_before_it_is_read") else {
        return;
    };
    for table in TABLES {
        world.renew_deadline();
        fs::remove_dir_all(world.path("state/bookend")).unwrap_or_default();
        world.run(["true"]).options(["--id", "one", "--key", "k"]).run().ended(End::Code(0));
        world.write(&endless(&world, table));
        for words in [
            &["show", "one"][..],
            &["list"],
            &["audit"],
            &["stats"],
            &["session", "list"],
            &["recover"],
            &["cancel", "one"],
            &["redispatch", "one"],
            &["run", "--key", "k", "--", "touch", "../effect"],
        ] {
            refused(bookend(&world, words), table, words);
        }
        let doctor = bookend(&world, &["doctor"]);
        assert!(doctor.stdout.contains("is a view or a virtual table"), "{doctor:?}");
        assert!(!world.path("effect").exists(), "the agent ran");
    }
}

#[test]
fn a_virtual_table_in_place_of_a_table_is_refused() {
    let Some(world) = World::of_bookend("a_virtual_table_in_place_of_a_table_is_refused") else { return };
    world.run(["true"]).options(["--id", "one"]).run().ended(End::Code(0));
    let names = "SELECT group_concat(name) AS names FROM pragma_table_info('task_transition')";
    let columns = world.sql(names)[0].text("names");
    world.write("DROP TABLE task_transition");
    world.write(&format!("CREATE VIRTUAL TABLE task_transition USING fts5({columns})"));
    for words in [&["show", "one"][..], &["recover"], &["run", "--", "true"]] {
        refused(bookend(&world, words), "task_transition", words);
    }
}

#[test]
fn a_database_with_a_view_named_task_history_is_not_adopted() {
    let Some(world) = World::of_bookend("a_database_with_a_view_named_task_history_is_not_adopted") else {
        return;
    };
    let file = world.path("theirs.db");
    let theirs = rusqlite::Connection::open(&file).expect("a database");
    let view = "CREATE VIEW task_history AS
        WITH RECURSIVE n (id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n)
        SELECT id, 'success' AS status, '2026' AS started_at FROM n";
    theirs.execute_batch(view).expect("a view");
    let refused = bookend(&world, &["adopt", &world.name("theirs.db")]).ended(End::Code(125));
    assert!(refused.stderr.contains("its task_history is a view or a virtual table"), "{refused:?}");
}

/// The address sanitizer reserves terabytes of address space.
fn can_limit_memory(test: &str) -> bool {
    possible(test, std::env::var_os("ASAN_OPTIONS").is_none(), "a build without the address sanitizer")
}

/// As [`bookend`], with at most 200 MB of address space.
fn in_little_memory(world: &World, words: &[&str]) -> Output {
    let line = "ulimit -v 200000; exec bookend \"$@\"";
    world.bare(["sh", "-c", line, "sh"].iter().chain(words).copied()).run()
}

#[test]
fn a_text_of_hundreds_of_megabytes_is_not_read() {
    let Some(mut world) = World::of_bookend("a_text_of_hundreds_of_megabytes_is_not_read") else { return };
    if !can_limit_memory("a_text_of_hundreds_of_megabytes_is_not_read") {
        return;
    }
    world.run(["true"]).options(["--id", "one", "--key", "k"]).run().ended(End::Code(0));
    for column in ["error", "argv", "key"] {
        world.renew_deadline();
        let long = format!("{column} = CAST(zeroblob(100000000) AS TEXT)");
        world.write(&format!("UPDATE task_history SET {long}, session_id = NULL WHERE id = 'one'"));
        for words in [
            &["show", "one"][..],
            &["show", "one", "--json"],
            &["list"],
            &["list", "--jsonl"],
            &["audit"],
            &["timeline"],
            &["recover"],
        ] {
            world.renew_deadline();
            let output = in_little_memory(&world, words).ended(End::Code(0));
            let is_shown =
                words[0] != "show" || output.stdout.contains("100000000 bytes, too long to be read");
            assert!(is_shown, "{column}: {words:?}: {output:?}");
        }
        world.write(&format!("UPDATE task_history SET {column} = NULL"));
    }
}

#[test]
fn an_oversized_value_in_another_column_is_an_error_in_little_memory() {
    let Some(world) = World::of_bookend("an_oversized_value_in_another_column_is_an_error_in_little_memory")
    else {
        return;
    };
    if !can_limit_memory("an_oversized_value_in_another_column_is_an_error_in_little_memory") {
        return;
    }
    world.run(["true"]).options(["--id", "one"]).run().ended(End::Code(0));
    world.write("UPDATE task_history SET host = CAST(zeroblob(100000000) AS TEXT)");
    let shown = in_little_memory(&world, &["show", "one"]).ended(End::Code(125));
    assert!(shown.stderr.contains("a value in it is longer than bookend reads"), "{shown:?}");
}

#[test]
fn an_oversized_command_line_is_not_redispatched() {
    let Some(world) = World::of_bookend("an_oversized_command_line_is_not_redispatched") else { return };
    world.run(["touch", "effect"]).options(["--id", "one"]).run().ended(End::Code(0));
    world.write("UPDATE task_history SET user_argv = '[\"' || hex(zeroblob(1000000)) || '\"]'");
    let refused = bookend(&world, &["redispatch", "one"]).ended(End::Code(125));
    assert!(refused.stderr.contains("its row does not store its command line"), "{refused:?}");
    assert_eq!(world.rows().len(), 1, "no run was started");
}

#[test]
fn an_endless_trigger_is_interrupted_in_a_shared_ledger() {
    let Some(mut world) = World::of_bookend("a_trigger_without_an_end_in_a_shared_ledger") else { return };
    let ledger = world.name("l.db");
    world.run(["true"]).options(["--id", "one", "--ledger", &ledger]).run().ended(End::Code(0));
    let trigger = "CREATE TRIGGER endless AFTER UPDATE OF artifacts ON task_history BEGIN
        SELECT (WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n);
        END";
    rusqlite::Connection::open(world.path("l.db")).and_then(|c| c.execute_batch(trigger)).expect("a trigger");
    super::set_mode(&world, "l.db", 0o660);
    // 5 s of CPU time can take minutes on a busy machine.
    let added = Command::new("timeout")
        .args(["300", "bookend", "--ledger", &ledger, "artifact", "add", "--task", "one", "a://b"])
        .env_clear()
        .envs(world.environment())
        .output()
        .expect("timeout(1)");
    world.renew_deadline();
    let printed = String::from_utf8_lossy(&added.stderr);
    assert_eq!(added.status.code(), Some(125), "{printed}");
    assert!(printed.contains("5 s of CPU time"), "{printed}");
    let shown = world.bare(["bookend", "--ledger", &ledger, "show", "one"]).run().ended(End::Code(0));
    assert!(!shown.stdout.contains("a://b"), "the change was rolled back: {shown:?}");
}

#[test]
fn triggers_of_the_other_program_still_work() {
    let Some(world) = World::of_bookend("triggers_of_the_other_program_still_work") else { return };
    let file = world.path("theirs.db");
    let theirs = rusqlite::Connection::open(&file).expect("a database");
    theirs
        .execute_batch(
            "CREATE TABLE task_history (id TEXT PRIMARY KEY, status TEXT, started_at TEXT, agent TEXT);
             CREATE VIRTUAL TABLE found USING fts5(id, agent);
             CREATE TABLE seen (id TEXT, at TEXT, parts INTEGER);
             CREATE VIEW agents AS SELECT DISTINCT agent FROM task_history;
             CREATE TRIGGER indexed AFTER INSERT ON task_history BEGIN
                 INSERT INTO found VALUES (NEW.id, NEW.agent);
                 INSERT INTO seen SELECT NEW.id, datetime('now'), (SELECT count(*) FROM json_each('[1, 2]'))
                     WHERE NEW.agent IN (SELECT agent FROM agents);
             END;",
        )
        .expect("their tables");
    bookend(&world, &["adopt", &world.name("theirs.db")]).ended(End::Code(0));
    let options = ["--ledger", &world.name("theirs.db"), "--id", "one", "--agent", "dev"];
    world.run(["true"]).options(options).run().ended(End::Code(0)).silent();
    let found = world.sql_of("theirs.db", "SELECT id FROM found WHERE found MATCH 'dev'");
    assert_eq!(found.len(), 1, "the full-text index contains the row");
    let seen = world.sql_of("theirs.db", "SELECT parts FROM seen WHERE id = 'one'");
    assert_eq!(seen[0].number("parts"), Some(2), "the trigger that reads a view inserted its row");
}
