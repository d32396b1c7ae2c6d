//! Adopting the database of another program: its tables are rebuilt so that bookend's rows fit in, and it
//! goes on working.
//!
//! The way is SQLite's own for a change that ALTER TABLE cannot make
//! (<https://www.sqlite.org/lang_altertable.html#otheralter>), in one transaction: killed at any point, the
//! file is what it was. This is the one place where SQL is put together: what the tables of others look like
//! is not known before.

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

/// What [`adopt`] did.
#[derive(Debug)]
pub enum AdoptionOutcome {
    Done(AdoptionSummary),
    /// It was done before.
    Already {
        since: RecordedTime,
        journal: JournalMode,
    },
}

/// An adopted database, in numbers.
#[derive(Debug)]
pub struct AdoptionSummary {
    pub tasks: i64,
    pub sessions: i64,
    /// Sessions whose last task was found.
    pub linked: i64,
    /// The database as it was.
    pub backup: PathBuf,
    pub journal: JournalMode,
}

/// How the adopted file takes its changes from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JournalMode {
    Wal,
    /// Left as it was: others read the file, and could not open the log beside it.
    SharedReaders,
    /// Left as it was: somebody kept it locked.
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

/// How long to wait for a moment in which nobody else uses the file, to switch it to WAL.
const WAL_PATIENCE: Duration = Duration::from_secs(3);

/// What must be there to be a history of tasks.
const NEEDED: [(&str, &[&str]); 2] =
    [("task_history", &["id", "status", "started_at"]), ("claude_sdk_sessions", &["key", "session_id"])];

/// Makes an existing database of the caller's the ledger at this place.
///
/// # Errors
/// When the file is no such database, is bookend's own, belongs to somebody else, or stays locked; then it is
/// what it was.
pub fn adopt(at: &Location) -> Result<AdoptionOutcome> {
    connect::check_sqlite()?;
    let file = at.file.as_path();
    let meta = file_check::check_own(file)?;
    trust::check_way(at.directory())?;
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
    // What is left of a copy that failed is of no use to anybody.
    let backup = back_up(file, &draft).inspect_err(|_| drop(fs::remove_file(&draft)))?;
    hit("adopt.backed_up", file)?;
    let (tasks, sessions, linked) = transform_soundly(&tx, file).inspect_err(|_| {
        // Nothing has changed, so it is a copy of nothing in particular; if it stays, no harm is done.
        drop(fs::remove_file(&backup));
    })?;
    hit("adopt.before_commit", file)?;
    tx.commit().map_err(failed("committing the adoption"))?;
    hit("adopt.committed", file)?;

    let journal = switch_to_wal(&conn, at)?;
    Ok(AdoptionOutcome::Done(AdoptionSummary { tasks, sessions, linked, backup, journal }))
}

/// When it was adopted, if it was; `None`: it is a database to adopt.
fn look(conn: &Connection, file: &Path) -> Result<Option<RecordedTime>> {
    let found = schema::look(conn, file).map_err(|e| match e {
        LedgerError::NotALedger { .. } => refusal(file, "it is not an SQLite database"),
        LedgerError::StandIn { name, .. } => {
            refusal(file, format!("its {name} is a view or a virtual table, not a table"))
        }
        e => e,
    })?;
    match found {
        FileContents::Ledger { version, adopted } => {
            schema::refuse_newer(file, version)?;
            match adopted {
                Some(dialect) => Ok(Some(dialect.at)),
                None => Err(refusal(file, "it is a ledger of bookend's own already, and needs no adoption")),
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

/// `None`: SQLite cannot tell, because a key refers to what is no key.
fn violations(conn: &Connection) -> Option<i64> {
    conn.query_row(SELECT_VIOLATIONS, [], |row| row.get(0)).ok()
}

/// A copy of the whole database beside it, private and durable. Nobody else writes meanwhile: the caller
/// holds the write lock.
fn back_up(file: &Path, draft: &Path) -> Result<PathBuf> {
    let io = |e| LedgerError::io("backing up to", draft, e);
    for suffix in ["", "-journal", "-wal", "-shm"] {
        file_check::remove_if_there(&with_suffix(draft, suffix)).map_err(io)?;
    }
    copy::create(draft).map_err(io)?;
    // The write lock is held by another connection, which cannot be read through meanwhile.
    let flags = OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_READ_ONLY;
    Connection::open_with_flags(file, flags)
        .and_then(|source| copy::copy(&source, draft))
        .map_err(|e| database_error("backing up", file, e))?;
    // 20261121T195343Z
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

/// How many tasks and sessions there are then, and how many of the sessions are linked.
fn transform_soundly(tx: &Connection, file: &Path) -> Result<(i64, i64, i64)> {
    let before = violations(tx);
    transform(tx, file)?;
    if violations(tx) != before {
        return Err(refusal(file, "its foreign keys would not hold any more"));
    }
    tx.query_row(SELECT_COUNTS, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .map_err(|e| database_error("counting what was adopted", file, e))
}

/// All that changes, inside the caller's transaction.
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
        let times = times(tx, &theirs).map_err(failed("looking how times are written"))?;
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
        .map_err(|e| refusal(file, format!("a task of bookend's does not fit into it: {e}")))
}

/// How the columns for times that a table had before are written, by their newest value.
fn times(tx: &Connection, theirs: &ForeignTable) -> rusqlite::Result<Vec<(String, TimeFormat)>> {
    const TIMES: [&str; 3] = ["started_at", "finished_at", "last_used_at"];
    let mut formats = Vec::new();
    for name in TIMES {
        let Some(declared) = theirs.declared(name) else { continue };
        let found = match theirs.newest(tx, name)? {
            Some(value) => TimeFormat::of(&value).unwrap_or_else(TimeFormat::ours),
            // An end that was not yet written will be written as the beginnings are.
            None => match formats.first() {
                Some((_, format)) => TimeFormat::clone(format),
                None => TimeFormat::of_declared(declared),
            },
        };
        formats.push((format!("{}.{name}", theirs.name()), found));
    }
    Ok(formats)
}

/// The words before the session ids.
fn prefixes(tx: &Connection) -> rusqlite::Result<Vec<String>> {
    let ids: Vec<String> =
        tx.prepare(SELECT_SESSION_IDS)?.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    let mut words: Vec<String> = ids.iter().filter_map(|id| dialect::prefix(id)).map(str::to_owned).collect();
    words.sort();
    words.dedup();
    Ok(words)
}

/// WAL lets readers and writers pass each other. The switch needs a moment in which nobody uses the file, and
/// no busy handler waits for it.
fn switch_to_wal(conn: &Connection, at: &Location) -> Result<JournalMode> {
    let failed = |e| database_error("looking at the journal mode", &at.file, e);
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

/// Whether somebody may read the file who may not write beside it: such a reader opens no WAL database whose
/// log is not there yet.
fn has_shared_readers(at: &Location) -> bool {
    let directory = at.file.parent().unwrap_or(Path::new("/"));
    let (Ok(file), Ok(directory)) = (fs::metadata(&at.file), fs::metadata(directory)) else { return false };
    let (file, directory) = (file.mode(), directory.mode());
    [(0o040, 0o010, 0o020), (0o004, 0o001, 0o002)]
        .iter()
        .any(|(read, enter, write)| file & read != 0 && directory & enter != 0 && directory & write == 0)
}
