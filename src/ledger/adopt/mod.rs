//! Adopting the database of another program: its tables are rebuilt to take bookend's rows, and the other
//! program keeps working.
//!
//! This follows SQLite's procedure for changes that ALTER TABLE cannot make
//! (<https://www.sqlite.org/lang_altertable.html#otheralter>), in one transaction: killed at any point, the
//! file is unchanged. Only here SQL is composed at run time, since the foreign tables are not known in
//! advance.

mod ddl;
mod rebuild;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, TransactionBehavior};

use super::connect;
use super::copy;
use super::diagnosis::database_error;
use super::dialect::{self, Dialect, TimeFormat};
use super::directories;
use super::error::{LedgerError, Result, step};
use super::file_check;
use super::limits;
use super::location::{Location, with_suffix};
use super::other_name;
use super::schema::{self, FileContents};
use super::trust;
use crate::failpoint;
use crate::task::{RecordedTime, Time};
use rebuild::{ForeignTable, OwnTables};

/// The result of [`adopt`].
#[derive(Debug)]
pub enum AdoptionOutcome {
    Done(AdoptionSummary),
    /// The database was already adopted.
    Already {
        since: RecordedTime,
        journal: JournalMode,
    },
}

/// What was adopted.
#[derive(Debug)]
pub struct AdoptionSummary {
    pub tasks: i64,
    pub sessions: i64,
    /// Sessions linked to their last task.
    pub linked: i64,
    /// A copy of the database before the adoption.
    pub backup: PathBuf,
    pub journal: JournalMode,
}

/// The journal mode of the adopted file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JournalMode {
    Wal,
    /// Unchanged: other users read the file, and could not open a log beside it.
    SharedReaders,
    /// Unchanged: another process kept the file locked.
    InUse,
}

const SET_UP: &str = "
    PRAGMA foreign_keys = OFF;
    PRAGMA legacy_alter_table = ON;
    PRAGMA ignore_check_constraints = ON;
    PRAGMA synchronous = FULL";
const SELECT_VIOLATIONS: &str = "SELECT count(*) FROM pragma_foreign_key_check";
const SELECT_TABLE: &str = "SELECT name FROM sqlite_schema WHERE name = ?1 COLLATE NOCASE";
const SELECT_COUNTS: &str = "
    SELECT (SELECT count(*) FROM task_history),
           (SELECT count(*) FROM claude_sdk_sessions),
           (SELECT count(task_id) FROM claude_sdk_sessions)";
const SELECT_SESSION_IDS: &str = "SELECT session_id FROM claude_sdk_sessions WHERE session_id LIKE '%:%'";
const INSERT_SETTING: &str = "INSERT INTO bookend_setting (name, value) VALUES ('adopted', ?1)";

/// How long to wait for a moment when no other process uses the file, to switch it to WAL.
const WAL_PATIENCE: Duration = Duration::from_secs(3);

/// The tables and columns that a history of tasks needs.
const NEEDED: [(&str, &[&str]); 2] =
    [("task_history", &["id", "status", "started_at"]), ("claude_sdk_sessions", &["key", "session_id"])];

/// Makes an existing database of the caller a ledger.
///
/// # Errors
/// When the file is not such a database, already belongs to bookend or to another user, or stays locked. Then
/// it is unchanged.
pub fn adopt(at: &Location) -> Result<AdoptionOutcome> {
    connect::check_sqlite()?;
    let file = at.file.as_path();
    let meta = file_check::check_own(file)?;
    trust::check_ancestors(at.directory())?;
    other_name::refuse_other_name(file)?;
    if meta.len() == 0 {
        return Err(refusal(file, "it is empty"));
    }
    let mut conn = connect::connect(file, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    trust::check_opened(&conn, file, &meta)?;
    if let Some(since) = look(&conn, file)? {
        return Ok(AdoptionOutcome::Already { since, journal: switch_to_wal(&conn, at)? });
    }
    directories::prepare_directories(at)?;
    let failed = |doing| move |e| database_error(doing, file, e);
    conn.execute_batch(SET_UP).map_err(failed("setting up the adoption"))?;

    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed("adopting"))?;
    if let Some(since) = look(&tx, file)? {
        drop(tx);
        return Ok(AdoptionOutcome::Already { since, journal: switch_to_wal(&conn, at)? });
    }
    limits::allow_views(&tx).map_err(failed("setting up the adoption"))?;
    hit("adopt.begun", file)?;
    let draft = with_suffix(file, ".before-bookend.partial");
    // An incomplete copy is useless.
    let backup = back_up(file, &draft).inspect_err(|_| drop(fs::remove_file(&draft)))?;
    hit("adopt.backed_up", file)?;
    let (tasks, sessions, linked) = transform_checked(&tx, file).inspect_err(|_| {
        // Nothing was changed, so no backup is needed.
        drop(fs::remove_file(&backup));
    })?;
    hit("adopt.before_commit", file)?;
    tx.commit().map_err(failed("committing the adoption"))?;
    hit("adopt.committed", file)?;

    let journal = switch_to_wal(&conn, at)?;
    Ok(AdoptionOutcome::Done(AdoptionSummary { tasks, sessions, linked, backup, journal }))
}

/// When it was adopted. `None`: it can be adopted.
fn look(conn: &Connection, file: &Path) -> Result<Option<RecordedTime>> {
    let found = schema::identify(conn, file).map_err(|e| match e {
        LedgerError::NotALedger { .. } => refusal(file, "it is not an SQLite database"),
        LedgerError::StandIn { name, .. } => {
            refusal(file, format!("its {name} is a view or a virtual table, not a table"))
        }
        e => e,
    })?;
    match found {
        FileContents::Ledger { version, adopted, fleet: _ } => {
            schema::refuse_newer(file, version)?;
            match adopted {
                Some(dialect) => Ok(Some(dialect.at)),
                None => Err(refusal(file, "it is already a ledger of bookend")),
            }
        }
        FileContents::Empty => Err(refusal(file, "it has no tables")),
        FileContents::Foreign => match ForeignTable::read(conn, "task_history").map_err(reading(file))? {
            Some(_) => Ok(None),
            None => Err(refusal(file, "it has no table task_history")),
        },
    }
}

fn refusal(file: &Path, why: impl Into<String>) -> LedgerError {
    LedgerError::NotAdoptable { path: file.to_owned(), why: why.into() }
}

fn reading(file: &Path) -> impl Fn(rusqlite::Error) -> LedgerError {
    move |e| database_error("reading the tables", file, e)
}

fn hit(point: &'static str, file: &Path) -> Result<()> {
    failpoint::hit(point).map_err(|e| LedgerError::io("adopting", file, e))
}

/// `None`: SQLite cannot check, because a foreign key refers to a column that is not a key.
fn violations(conn: &Connection) -> Option<i64> {
    conn.query_row(SELECT_VIOLATIONS, [], |row| row.get(0)).ok()
}

/// Copies the whole database to a private, durable file beside it. The caller holds the write lock.
fn back_up(file: &Path, draft: &Path) -> Result<PathBuf> {
    let io = |e| LedgerError::io("backing up to", draft, e);
    for suffix in ["", "-journal", "-wal", "-shm"] {
        file_check::remove_if_there(&with_suffix(draft, suffix)).map_err(io)?;
    }
    copy::create(draft).map_err(io)?;
    // The connection with the write lock cannot be the source of a backup.
    let flags = OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_READ_ONLY;
    Connection::open_with_flags(file, flags)
        .and_then(|source| copy::copy(&source, draft))
        .map_err(|e| database_error("backing up", file, e))?;
    // Example: 20261121T195343Z
    let stamp = format!("{:.0}", Time::now().timestamp()).replace(['-', ':'], "");
    let named = with_suffix(file, &format!(".before-bookend-{stamp}"));
    let backup = (0u32..)
        .map(|n| if n == 0 { named.clone() } else { with_suffix(&named, &format!(".{n}")) })
        .find(|p| !p.exists())
        .unwrap_or(named);
    fs::rename(draft, &backup)
        .and_then(|()| file_check::sync_directory(file.parent().unwrap_or(Path::new("/"))))
        .map_err(io)?;
    Ok(backup)
}

/// Returns the numbers of tasks, of sessions, and of linked sessions.
fn transform_checked(tx: &Connection, file: &Path) -> Result<(i64, i64, i64)> {
    let before = violations(tx);
    transform(tx, file)?;
    if violations(tx) != before {
        return Err(refusal(file, "its foreign keys would be violated"));
    }
    tx.query_row(SELECT_COUNTS, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .map_err(|e| database_error("counting what was adopted", file, e))
}

/// All changes, in the transaction of the caller.
fn transform(tx: &Connection, file: &Path) -> Result<()> {
    let failed = |doing| move |e| database_error(doing, file, e);
    let own = OwnTables::read().map_err(reading(file))?;
    let mut dialect = Dialect { at: Time::now().into(), ..Dialect::default() };
    let mut dependents = Vec::new();
    let mut has_issues = false;
    for (name, needed) in NEEDED {
        let Some(theirs) = ForeignTable::read(tx, name).map_err(reading(file))? else { continue };
        if let Some(missing) = needed.iter().find(|c| !theirs.has(c)) {
            return Err(refusal(file, format!("its table {name} has no column {missing}")));
        }
        if name == "task_history" {
            has_issues = ["agent", "repo", "issue_number"].iter().all(|c| theirs.has(c));
        }
        let times = times(tx, &theirs).map_err(failed("reading the formats of times"))?;
        dialect.times.extend(times);
        let rebuilt = rebuild::rebuild(tx, &theirs, &own)
            .map_err(failed("rebuilding the tables"))?
            .map_err(|why| refusal(file, format!("its table {name} {why}")))?;
        dependents.extend(rebuilt);
        hit("adopt.rebuilt", file)?;
    }
    for name in own.tables() {
        let taken = tx
            .query_row(SELECT_TABLE, [name], |row| row.get::<_, String>(0))
            .optional()
            .map_err(reading(file))?;
        match taken {
            Some(_) if NEEDED.iter().any(|(n, _)| *n == name) => {}
            Some(_) => return Err(refusal(file, format!("it has a table {name} of its own"))),
            None => own.create_table(tx, name).map_err(failed("making bookend's tables"))?,
        }
    }
    let settle = || {
        tx.execute_batch(include_str!("settle.sql"))?;
        if has_issues {
            tx.execute_batch(include_str!("link_sessions.sql"))?;
        }
        step("adopt.linked")?;
        for sql in &dependents {
            tx.execute_batch(sql)?;
        }
        own.create_indexes_and_triggers(tx)?;
        if has_issues {
            tx.execute_batch(include_str!("keep_linking.sql"))?;
        }
        dialect.prefixes = prefixes(tx)?;
        schema::record_versions(tx)?;
        tx.execute(INSERT_SETTING, [serde_json::to_string(&dialect).unwrap_or_default()])?;
        dialect::register(tx, &Arc::new(dialect))
    };
    settle().map_err(failed("settling what was adopted"))?;
    tx.execute_batch(include_str!("trial.sql"))
        .map_err(|e| refusal(file, format!("it does not accept a task of bookend: {e}")))
}

/// The formats of the time columns that a table had before, by their newest values.
fn times(tx: &Connection, theirs: &ForeignTable) -> rusqlite::Result<Vec<(String, TimeFormat)>> {
    const TIMES: [&str; 3] = ["started_at", "finished_at", "last_used_at"];
    let mut formats = Vec::new();
    for name in TIMES {
        let Some(declared) = theirs.declared(name) else { continue };
        let found = match theirs.newest(tx, name)? {
            Some(value) => TimeFormat::of(&value).unwrap_or_else(TimeFormat::ours),
            // Ends will be written like starts.
            None => match formats.first() {
                Some((_, format)) => TimeFormat::clone(format),
                None => TimeFormat::of_declared(declared),
            },
        };
        formats.push((format!("{}.{name}", theirs.name()), found));
    }
    Ok(formats)
}

/// The prefixes of the session ids.
fn prefixes(tx: &Connection) -> rusqlite::Result<Vec<String>> {
    let ids: Vec<String> =
        tx.prepare(SELECT_SESSION_IDS)?.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    let mut words: Vec<String> = ids.iter().filter_map(|id| dialect::prefix(id)).map(str::to_owned).collect();
    words.sort();
    words.dedup();
    Ok(words)
}

/// In WAL mode readers and writers do not block each other. The switch needs a moment when no other process
/// uses the file, and no busy handler waits for it.
fn switch_to_wal(conn: &Connection, at: &Location) -> Result<JournalMode> {
    let failed = |e| database_error("reading the journal mode", &at.file, e);
    let mode: String = conn.query_row("PRAGMA journal_mode", [], |row| row.get(0)).map_err(failed)?;
    if mode.eq_ignore_ascii_case("wal") {
        return Ok(JournalMode::Wal);
    }
    if has_shared_readers(at) {
        return Ok(JournalMode::SharedReaders);
    }
    let since = Instant::now();
    loop {
        let switched =
            conn.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0));
        match switched {
            Ok(mode) if mode.eq_ignore_ascii_case("wal") => return Ok(JournalMode::Wal),
            Err(e) if !is_locked(&e) => return Err(failed(e)),
            _ if since.elapsed() > WAL_PATIENCE => return Ok(JournalMode::InUse),
            _ => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn is_locked(e: &rusqlite::Error) -> bool {
    matches!(e.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// Whether another user may read the file but not write to its directory: such a reader cannot open a WAL
/// database that has no log yet.
fn has_shared_readers(at: &Location) -> bool {
    let directory = at.file.parent().unwrap_or(Path::new("/"));
    let (Ok(file), Ok(directory)) = (fs::metadata(&at.file), fs::metadata(directory)) else { return false };
    let (file, directory) = (file.mode(), directory.mode());
    [(0o040, 0o010, 0o020), (0o004, 0o001, 0o002)]
        .iter()
        .any(|(read, enter, write)| file & read != 0 && directory & enter != 0 && directory & write == 0)
}
