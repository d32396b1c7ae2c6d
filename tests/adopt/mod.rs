//! Adoption: the database of another program becomes the ledger, keeps all its data, and the other program
//! keeps working.

mod killed;
mod refused;
mod together;

use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rusqlite::types::Value;

use crate::harness::{End, Output, World};

const PLAIN: &str = include_str!("plain.sql");
const RICH: &str = include_str!("rich.sql");
const EPOCH: &str = include_str!("epoch.sql");
const INTEGER_ID: &str = include_str!("integer_id.sql");
const SHAPES: [(&str, &str); 4] =
    [("plain", PLAIN), ("rich", RICH), ("epoch", EPOCH), ("integer id", INTEGER_ID)];

/// A world with a database that another program has created.
struct ForeignDatabase {
    world: World,
    file: PathBuf,
}

impl ForeignDatabase {
    fn new(sql: &str) -> ForeignDatabase {
        let world = World::new();
        let file = world.path("dispatcher.db");
        let foreign = ForeignDatabase { world, file };
        foreign.open().execute_batch(sql).expect("the tables");
        foreign
    }

    /// The other program's connection.
    fn open(&self) -> Connection {
        let conn = Connection::open(&self.file).expect("the database");
        conn.busy_timeout(std::time::Duration::from_secs(20)).expect("a time-out");
        conn
    }

    fn name(&self) -> String {
        self.file.to_str().expect("UTF-8").to_owned()
    }

    fn adopt(&self) -> Output {
        self.world.bare(["bookend", "adopt", &self.name()]).run()
    }

    fn adopted(&self) -> Output {
        self.adopt().ended(End::Code(0)).silent()
    }

    /// `bookend --ledger FILE run OPTIONS -- AGENT`
    fn run(&self, options: &[&str], agent: &[&str]) -> Output {
        let name = self.name();
        let words = [&["bookend", "--ledger", &name, "run"], options, &["--"], agent].concat();
        self.world.bare(words).run()
    }
}

/// Every row of every original table, with its original columns and its rowid.
#[derive(Debug, PartialEq)]
struct Contents(Vec<(String, Vec<Vec<Value>>)>);

impl Contents {
    fn queries(conn: &Connection) -> Vec<(String, String)> {
        let tables = strings(
            conn,
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_stat%'
             ORDER BY name",
        );
        let query = |table: &String| {
            let columns = strings(
                conn,
                &format!(
                    "SELECT '\"' || replace(name, '\"', '\"\"') || '\"' FROM pragma_table_xinfo('{table}')"
                ),
            );
            let columns = columns.join(", ");
            format!("SELECT {columns} FROM \"{table}\" ORDER BY {columns}")
        };
        tables.iter().map(|t| (t.clone(), query(t))).collect()
    }

    fn read(conn: &Connection, queries: &[(String, String)]) -> Contents {
        Contents(queries.iter().map(|(name, sql)| (name.clone(), rows(conn, sql))).collect())
    }
}

fn rows(conn: &Connection, sql: &str) -> Vec<Vec<Value>> {
    let mut statement = conn.prepare(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
    let columns = statement.column_count();
    let rows = statement.query_map([], |row| (0..columns).map(|n| row.get(n)).collect());
    rows.and_then(Iterator::collect).unwrap_or_else(|e| panic!("{sql}: {e}"))
}

fn strings(conn: &Connection, sql: &str) -> Vec<String> {
    rows(conn, sql)
        .into_iter()
        .map(|row| match &row[0] {
            Value::Text(t) => t.clone(),
            Value::Integer(n) => n.to_string(),
            other => format!("{other:?}"),
        })
        .collect()
}

/// The integrity check and the foreign key check find no problem.
fn assert_sound(conn: &Connection) {
    assert_eq!(strings(conn, "PRAGMA integrity_check"), ["ok"]);
    assert_eq!(rows(conn, "PRAGMA foreign_key_check"), Vec::<Vec<Value>>::new());
}

fn backups(file: &Path) -> Vec<PathBuf> {
    let directory = file.parent().expect("a directory");
    let entries = std::fs::read_dir(directory).expect("the directory").flatten();
    let mut found: Vec<PathBuf> =
        entries.map(|e| e.path()).filter(|p| p.to_string_lossy().contains(".before-bookend")).collect();
    found.sort();
    found
}

#[test]
fn adoption_keeps_every_row_and_column() {
    for (shape, sql) in SHAPES {
        let foreign = ForeignDatabase::new(sql);
        let conn = foreign.open();
        let queries = Contents::queries(&conn);
        let mut before = Contents::read(&conn, &queries);
        let numbers = ["PRAGMA user_version", "PRAGMA application_id"].map(|p| strings(&conn, p));
        foreign.adopted();

        assert_sound(&conn);
        // Adoption changes one value: the inferred end time of interrupted tasks.
        for (table, rows) in &mut before.0 {
            if table.eq_ignore_ascii_case("task_history") {
                let index = |name: &str| {
                    let columns = strings(&conn, "SELECT name FROM pragma_table_xinfo('task_history')");
                    columns.iter().position(|c| c == name).expect("a column")
                };
                let (status, finished) = (index("status"), index("finished_at"));
                for row in rows.iter_mut().filter(|r| r[status] == Value::Text("interrupted".to_owned())) {
                    row[finished] = Value::Null;
                    // A column that is computed from it.
                    if shape == "rich" {
                        row[index("seconds")] = Value::Null;
                    }
                }
            }
        }
        assert_eq!(Contents::read(&conn, &queries), before, "{shape}");
        assert_eq!(numbers, ["PRAGMA user_version", "PRAGMA application_id"].map(|p| strings(&conn, p)));
    }
}

#[test]
fn the_backup_is_an_unchanged_private_copy_whose_path_is_printed() {
    for (shape, sql) in SHAPES {
        let foreign = ForeignDatabase::new(sql);
        let conn = foreign.open();
        let queries = Contents::queries(&conn);
        let before = (Contents::read(&conn, &queries), strings(&conn, "SELECT sql FROM sqlite_schema"));
        let output = foreign.adopted().stdout;

        let backups = backups(&foreign.file);
        assert_eq!(backups.len(), 1, "{shape}: {backups:?}");
        assert!(output.contains(&format!("backup: {}\n", backups[0].display())), "{output}");
        let backup = Connection::open(&backups[0]).expect("the backup");
        assert_eq!(strings(&backup, "PRAGMA integrity_check"), ["ok"]);
        let copied = (Contents::read(&backup, &queries), strings(&backup, "SELECT sql FROM sqlite_schema"));
        assert_eq!(copied, before, "{shape}");
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&backups[0]).expect("its mode"));
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[test]
fn adoption_keeps_indexes_triggers_and_views() {
    const OBJECTS: &str = "
        SELECT type || ' ' || lower(tbl_name) || ' ' || sql FROM sqlite_schema
        WHERE type IN ('index', 'trigger', 'view') AND sql IS NOT NULL ORDER BY name";
    for (shape, sql) in [("plain", PLAIN), ("rich", RICH), ("epoch", EPOCH)] {
        let foreign = ForeignDatabase::new(sql);
        let conn = foreign.open();
        let before = strings(&conn, OBJECTS);
        foreign.adopted();
        let after = strings(&conn, OBJECTS);
        for object in before {
            assert!(after.contains(&object), "{shape}: {object} is not in {after:#?}");
        }
    }
}

#[test]
fn a_second_adoption_changes_nothing() {
    for (shape, sql) in SHAPES {
        let foreign = ForeignDatabase::new(sql);
        foreign.adopted();
        let conn = foreign.open();
        let queries = Contents::queries(&conn);
        let before = (Contents::read(&conn, &queries), strings(&conn, "SELECT sql FROM sqlite_schema"));
        let output = foreign.adopted().stdout;
        assert!(output.contains("nothing to do"), "{output}");
        let after = (Contents::read(&conn, &queries), strings(&conn, "SELECT sql FROM sqlite_schema"));
        assert_eq!(after, before, "{shape}");
        assert_eq!(backups(&foreign.file).len(), 1, "{shape}");
    }
}

#[test]
fn tasks_interrupted_before_adoption_have_no_end_time_and_are_not_reported() {
    let foreign = ForeignDatabase::new(PLAIN);
    foreign.adopted();
    let conn = foreign.open();
    assert_eq!(
        strings(
            &conn,
            "SELECT id || ' ' || ifnull(finished_at, '-') || ' ' || last_seen_at || ' ' ||
                    (hinted_at IS NOT NULL)
             FROM task_history WHERE status = 'interrupted'"
        ),
        ["t4 - 2026-01-04T00:01:00.000000+00:00 1"]
    );
    let others = "SELECT count(*) FROM task_history WHERE status <> 'interrupted' AND finished_at IS NULL";
    assert_eq!(strings(&conn, others), ["0"]);
}

#[test]
fn each_session_is_linked_to_the_last_task_that_matches_its_key() {
    let foreign = ForeignDatabase::new(PLAIN);
    let output = foreign.adopted().stdout;
    assert!(output.contains("5 tasks and 3 sessions, 2 of them linked"), "{output}");
    assert_eq!(
        strings(
            &foreign.open(),
            "SELECT key || ' ' || session_id || ' ' || ifnull(task_id, '-')
             FROM claude_sdk_sessions ORDER BY key"
        ),
        [
            "forgejo:dev:charles/claude-hooks:1104 cursor:6ce4 t2",
            "forgejo:dev:charles/claude-hooks:1105 cursor:7df5 t4",
            "forgejo:dev:charles/claude-hooks:9999 0198-nobody -",
        ]
    );
}
