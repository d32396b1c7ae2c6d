//! Adoption: the database of another program becomes the ledger, nothing of it is lost, and that program goes
//! on working.

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

/// A world with a database in it that another program has made.
struct Theirs {
    world: World,
    file: PathBuf,
}

impl Theirs {
    fn new(sql: &str) -> Theirs {
        let world = World::new();
        let file = world.path("dispatcher.db");
        let theirs = Theirs { world, file };
        theirs.open().execute_batch(sql).expect("their tables");
        theirs
    }

    /// The other program's connection.
    fn open(&self) -> Connection {
        let conn = Connection::open(&self.file).expect("their database");
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

/// Every row of every table that was there, column by column as it was then, rowids too.
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

/// The file is whole, and its foreign keys hold.
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
fn every_row_and_column_survives_in_every_shape() {
    for (shape, sql) in SHAPES {
        let theirs = Theirs::new(sql);
        let conn = theirs.open();
        let queries = Contents::queries(&conn);
        let mut before = Contents::read(&conn, &queries);
        let numbers = ["PRAGMA user_version", "PRAGMA application_id"].map(|p| strings(&conn, p));
        theirs.adopted();

        assert_sound(&conn);
        // The one value that changes: the end of a task that was inferred.
        for (table, rows) in &mut before.0 {
            if table.eq_ignore_ascii_case("task_history") {
                let place = |name: &str| {
                    let columns = strings(&conn, "SELECT name FROM pragma_table_xinfo('task_history')");
                    columns.iter().position(|c| c == name).expect("a column")
                };
                let (status, finished) = (place("status"), place("finished_at"));
                for row in rows.iter_mut().filter(|r| r[status] == Value::Text("interrupted".to_owned())) {
                    row[finished] = Value::Null;
                    // Computed from it.
                    if shape == "rich" {
                        row[place("seconds")] = Value::Null;
                    }
                }
            }
        }
        assert_eq!(Contents::read(&conn, &queries), before, "{shape}");
        assert_eq!(numbers, ["PRAGMA user_version", "PRAGMA application_id"].map(|p| strings(&conn, p)));
    }
}

#[test]
fn the_backup_is_the_database_as_it_was_private_and_named() {
    for (shape, sql) in SHAPES {
        let theirs = Theirs::new(sql);
        let conn = theirs.open();
        let queries = Contents::queries(&conn);
        let before = (Contents::read(&conn, &queries), strings(&conn, "SELECT sql FROM sqlite_schema"));
        let said = theirs.adopted().stdout;

        let backups = backups(&theirs.file);
        assert_eq!(backups.len(), 1, "{shape}: {backups:?}");
        assert!(said.contains(&format!("backup: {}\n", backups[0].display())), "{said}");
        let backup = Connection::open(&backups[0]).expect("the backup");
        assert_eq!(strings(&backup, "PRAGMA integrity_check"), ["ok"]);
        let kept = (Contents::read(&backup, &queries), strings(&backup, "SELECT sql FROM sqlite_schema"));
        assert_eq!(kept, before, "{shape}");
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&backups[0]).expect("its mode"));
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[test]
fn indexes_triggers_and_views_are_there_as_they_were() {
    const OBJECTS: &str = "
        SELECT type || ' ' || lower(tbl_name) || ' ' || sql FROM sqlite_schema
        WHERE type IN ('index', 'trigger', 'view') AND sql IS NOT NULL ORDER BY name";
    for (shape, sql) in [("plain", PLAIN), ("rich", RICH), ("epoch", EPOCH)] {
        let theirs = Theirs::new(sql);
        let conn = theirs.open();
        let before = strings(&conn, OBJECTS);
        theirs.adopted();
        let after = strings(&conn, OBJECTS);
        for object in before {
            assert!(after.contains(&object), "{shape}: {object} is not in {after:#?}");
        }
    }
}

#[test]
fn adopting_twice_changes_nothing_the_second_time() {
    for (shape, sql) in SHAPES {
        let theirs = Theirs::new(sql);
        theirs.adopted();
        let conn = theirs.open();
        let queries = Contents::queries(&conn);
        let before = (Contents::read(&conn, &queries), strings(&conn, "SELECT sql FROM sqlite_schema"));
        let said = theirs.adopted().stdout;
        assert!(said.contains("nothing to do"), "{said}");
        let after = (Contents::read(&conn, &queries), strings(&conn, "SELECT sql FROM sqlite_schema"));
        assert_eq!(after, before, "{shape}");
        assert_eq!(backups(&theirs.file).len(), 1, "{shape}");
    }
}

#[test]
fn tasks_interrupted_before_the_adoption_have_no_end_and_are_not_reported() {
    let theirs = Theirs::new(PLAIN);
    theirs.adopted();
    let conn = theirs.open();
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
fn each_session_belongs_to_the_last_task_that_makes_up_its_key() {
    let theirs = Theirs::new(PLAIN);
    let said = theirs.adopted().stdout;
    assert!(said.contains("5 tasks and 3 sessions, 2 of them linked"), "{said}");
    assert_eq!(
        strings(
            &theirs.open(),
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
