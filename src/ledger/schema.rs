//! The tables of the ledger: recognized in a file, created, and migrated.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

use super::diagnosis::database_error;
use super::dialect::Dialect;
use super::error::{LedgerError, Result};
use super::membership::ReadMembership;
use crate::task::Time;

const MIGRATIONS: [&str; 5] = [
    include_str!("migrations/001.sql"),
    include_str!("migrations/002.sql"),
    include_str!("migrations/003.sql"),
    include_str!("migrations/004.sql"),
    include_str!("migrations/005.sql"),
];
pub const VERSION: i64 = MIGRATIONS.len() as i64;

/// The name of a view or a virtual table that is called like a table of the ledger. A virtual table has no
/// root page.
macro_rules! stand_in {
    () => {
        "(SELECT name FROM sqlite_schema
          WHERE lower(name) IN ('task_history', 'claude_sdk_sessions', 'task_transition',
                                'session_invalidation', 'bookend_migration', 'bookend_setting')
            AND (type <> 'table' OR rootpage = 0))"
    };
}
const SELECT_VERSION: &str = concat!(
    "SELECT (SELECT max(version) FROM bookend_migration),
            (SELECT value FROM bookend_setting WHERE name = 'adopted'),
            (SELECT value FROM bookend_setting WHERE name = 'fleet'), ",
    stand_in!()
);
const SELECT_STAND_IN: &str = concat!("SELECT ", stand_in!());
const SELECT_IS_LEDGER: &str = "SELECT 1 FROM sqlite_schema WHERE name = 'bookend_migration'";
const SELECT_IS_EMPTY: &str = "SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema)";
const SELECT_INDEXES: &str = "SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL";
const INSERT_VERSION: &str = "INSERT INTO bookend_migration (version, applied_at) VALUES (?1, ?2)";

/// What an opened file contains.
#[derive(Debug)]
pub enum FileContents {
    Ledger {
        version: i64,
        /// How values are written, if it was adopted from another program.
        adopted: Option<Dialect>,
        fleet: ReadMembership,
    },
    Empty,
    Foreign,
}

pub fn identify(conn: &Connection, file: &Path) -> Result<FileContents> {
    let failed = |e| database_error("reading the version", file, e);
    let found = conn.query_row(SELECT_VERSION, [], |row| {
        let adopted = row.get::<_, Option<String>>(1)?;
        Ok((row.get::<_, Option<i64>>(0)?, adopted, row.get(2)?, row.get(3)?))
    });
    let stand_in = |name| LedgerError::StandIn { path: file.to_owned(), name };
    match found {
        Ok((_, _, _, Some(name))) => Err(stand_in(name)),
        Ok((version, adopted, fleet, None)) => Ok(FileContents::Ledger {
            version: version.unwrap_or(0),
            adopted: adopted.map(|text| serde_json::from_str(&text).unwrap_or_default()),
            fleet: ReadMembership::now(conn, fleet),
        }),
        Err(e) if e.sqlite_error_code() != Some(rusqlite::ErrorCode::Unknown) => Err(failed(e)),
        // The table does not exist, or another process has just created it.
        Err(e) => {
            if let Some(name) = conn.query_row(SELECT_STAND_IN, [], |row| row.get(0)).map_err(failed)? {
                return Err(stand_in(name));
            }
            let is_ledger = conn.query_row(SELECT_IS_LEDGER, [], |_| Ok(())).optional().map_err(failed)?;
            if is_ledger.is_some() {
                return Err(failed(e));
            }
            let is_empty: bool = conn.query_row(SELECT_IS_EMPTY, [], |row| row.get(0)).map_err(failed)?;
            Ok(if is_empty { FileContents::Empty } else { FileContents::Foreign })
        }
    }
}

pub fn refuse_newer(file: &Path, version: i64) -> Result<()> {
    if version > VERSION {
        return Err(LedgerError::Newer { path: file.to_owned(), ledger: version, program: VERSION });
    }
    Ok(())
}

/// Creates the tables of the newest version in an empty database.
pub fn make_tables(conn: &Connection) -> rusqlite::Result<()> {
    (1..=VERSION).try_for_each(|version| apply(conn, version))
}

/// Migrates a ledger from the previous version to `version`.
fn apply(conn: &Connection, version: i64) -> rusqlite::Result<()> {
    if version == 2 {
        drop_superseded(conn)?;
    }
    conn.execute_batch(MIGRATIONS[version as usize - 1])
}

/// Drops the indexes of version 1 that version 2 replaces. In an adopted file another program may have an
/// index of the same name: ours is recognized by its text.
fn drop_superseded(conn: &Connection) -> rusqlite::Result<()> {
    const SUPERSEDED: [&str; 8] = [
        "task_history_one_running_per_key",
        "task_history_running",
        "task_history_undelivered",
        "task_history_unhinted",
        "task_history_delivery_failed",
        "task_history_uncleaned",
        "task_history_ill_timed",
        "task_history_ended",
    ];
    let indexes: Vec<(String, String)> = conn
        .prepare(SELECT_INDEXES)?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    for (name, sql) in indexes {
        let first = name.strip_prefix("bookend_").unwrap_or(&name);
        if SUPERSEDED.contains(&first) && MIGRATIONS[0].contains(&sql.replacen(&name, first, 1)) {
            conn.execute_batch(&format!("DROP INDEX {name}"))?;
        }
    }
    Ok(())
}

/// Records that the tables have the newest version.
pub fn record_versions(conn: &Connection) -> rusqlite::Result<()> {
    (1..=VERSION).try_for_each(|v| conn.execute(INSERT_VERSION, (v, Time::now())).map(drop))
}

pub fn migrate(conn: &mut Connection, file: &Path) -> Result<()> {
    for version in 1..=VERSION {
        let mut upgrade = || {
            let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let is_ledger = tx.query_row(SELECT_IS_LEDGER, [], |_| Ok(())).optional()?.is_some();
            let current = match is_ledger {
                true => tx.query_row(SELECT_VERSION, [], |row| row.get::<_, Option<i64>>(0))?.unwrap_or(0),
                false => 0,
            };
            if current < version {
                apply(&tx, version)?;
                tx.execute(INSERT_VERSION, (version, Time::now()))?;
            }
            tx.commit()
        };
        upgrade().map_err(|e| database_error("bringing the tables up to date", file, e))?;
    }
    Ok(())
}
