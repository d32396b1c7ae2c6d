//! Opening the ledger file: made whole before anybody sees it, brought up to date, set up for many writers.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use nix::unistd::geteuid;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension, TransactionBehavior};
use uuid::Uuid;

use super::backup;
use super::dialect::{self, Dialect};
use super::error::{LedgerError, Result};
use super::limits::{self, Budget};
use super::live::LiveFile;
use super::location::{self, Location, with_suffix};
use super::trust::{self, Distrust};
use super::wal::Log;
use crate::failpoint;

/// How long a command waits for other writers before it gives up, unless [`PATIENCE`] says otherwise.
const USUAL_PATIENCE: Duration = Duration::from_secs(30);
/// The variable that sets it, as a duration like `500ms` or `2m`.
const PATIENCE: &str = "BOOKEND_BUSY_TIMEOUT";
const SHORTEST_NAP: Duration = Duration::from_micros(100);
const LONGEST_NAP: Duration = Duration::from_millis(20);

/// Before this version the WAL-reset bug can corrupt a ledger (<https://www.sqlite.org/wal.html>).
const OLDEST_SQLITE: i32 = 3_051_003;

const MIGRATIONS: [&str; 4] = [
    include_str!("migrations/001.sql"),
    include_str!("migrations/002.sql"),
    include_str!("migrations/003.sql"),
    include_str!("migrations/004.sql"),
];
const VERSION: i64 = MIGRATIONS.len() as i64;

/// A view or a virtual table that has the name of a table of the ledger. A virtual table has no root page.
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
            (SELECT value FROM bookend_setting WHERE name = 'adopted'), ",
    stand_in!()
);
const SELECT_STAND_IN: &str = concat!("SELECT ", stand_in!());
const SELECT_IS_LEDGER: &str = "SELECT 1 FROM sqlite_schema WHERE name = 'bookend_migration'";
const SELECT_IS_EMPTY: &str = "SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema)";
const SELECT_INDEXES: &str = "SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL";
const INSERT_VERSION: &str = "INSERT INTO bookend_migration (version, applied_at) VALUES (?1, ?2)";

const SETTINGS: &str = "PRAGMA cache_size = -256";

/// The page of a new ledger, in bytes. A run changes a little in each of a dozen pages, all of which go into
/// the log; a row without a long prompt has room enough in this.
const PAGE: u32 = 2048;

/// What an opened ledger file turned out to be.
#[derive(Debug)]
pub enum Found {
    Ledger {
        version: i64,
        /// How it is written, if it is another program's too.
        adopted: Option<Dialect>,
    },
    Empty,
    Foreign,
}

/// A ledger that is open for writing.
pub struct Opened {
    pub conn: Connection,
    pub log: Log,
    pub dialect: Arc<Dialect>,
    /// Others could write to a file of it until this one was made private.
    pub was_shared: Option<Distrust>,
    pub budget: Budget,
}

/// Opens the ledger for writing; makes it, or brings it up to date, if need be.
pub fn read_write(at: &Location) -> Result<Opened> {
    check_sqlite()?;
    let file = at.file.as_path();
    // First of all: beside what is no ledger of ours, nothing is made.
    let found = location::check_file(file)?;
    location::prepare_directories(at)?;
    let meta = match found {
        Some(meta) if meta.len() > 0 => meta,
        _ => {
            create(at)?;
            location::check_own(file)?
        }
    };
    let log_path = with_suffix(file, "-wal");
    let index = with_suffix(file, "-shm");
    let log_meta = location::check_file(&log_path)?;
    let index_meta = location::check_file(&index)?;

    let files = [(file, Some(&meta)), (&log_path, log_meta.as_ref()), (&index, index_meta.as_ref())];
    let files = files.into_iter().filter_map(|(path, meta)| Some((path, meta?)));
    let is_shared = files.clone().any(|(path, meta)| trust::shared(path, meta).is_some());

    let mut conn = connect(file, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    trust::check_opened(&conn, file, &meta)?;
    let set_up = |e| LedgerError::sql("setting up the connection", file, e);
    let budget = match is_shared {
        true => limits::bound_others(&mut conn).map_err(set_up)?,
        // What the caller's other program keeps in the rows is copied when they change, however long it is.
        false => Budget::default(),
    };
    let adopted = match look(&conn, file)? {
        Found::Ledger { version, adopted } => {
            refuse_newer(file, version)?;
            limits::allow_views(&conn).map_err(set_up)?;
            if version < VERSION {
                let lock_path = at.private_dir().join("live");
                let _lock = LiveFile::open(&lock_path)?.hold_for_migration(&lock_path, file)?;
                migrate(&mut conn, file)?;
            }
            adopted
        }
        Found::Empty | Found::Foreign => return Err(foreign(file)),
    };
    let is_ours = adopted.is_none();
    let dialect = Arc::new(adopted.unwrap_or_default());
    dialect::register(&conn, &dialect).and_then(|()| conn.execute_batch(SETTINGS)).map_err(set_up)?;
    let mut was_shared = None;
    if is_ours {
        for (path, meta) in files {
            let shared = trust::shared(path, meta);
            if shared.is_none() || at.chosen_by.owns_directory() {
                location::tighten(path, meta)?;
            }
            was_shared = was_shared.or(shared);
        }
    }
    let log = Log::keep(&mut conn, file, log_meta.as_ref().map(|m| m.ino()))?;
    Ok(Opened { conn, log, dialect, was_shared, budget })
}

/// Whose ledger may be opened for reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    Anybodys,
    /// As for writing: what is read from it is acted upon.
    Mine,
}

/// Opens the ledger for reading; makes and changes nothing. `None`: there is none.
pub fn read_only(at: &Location, whose: Whose) -> Result<Option<(Connection, Arc<Dialect>, Budget)>> {
    check_sqlite()?;
    let file = at.file.as_path();
    let Some(meta) = location::check_type(file)?.filter(|m| m.len() > 0) else { return Ok(None) };
    // Root reads a user's ledger as that user: such a file was put here since.
    let must_be_mine = whose == Whose::Mine || geteuid().is_root();
    if must_be_mine {
        location::check_file(file)?;
    }
    if whose == Whose::Mine {
        trust::check_way(at.directory())?;
    }
    location::check_beside(at)?;
    let mut conn = connect(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    if must_be_mine {
        trust::check_opened(&conn, file, &meta)?;
    }
    let budget = match trust::distrust(at) {
        Some(_) => limits::bound_others(&mut conn),
        None => limits::bound(&conn).map(|()| Budget::default()),
    };
    let budget = budget.map_err(|e| LedgerError::sql("setting up the connection", file, e))?;
    match look(&conn, file)? {
        Found::Ledger { version, adopted } => {
            let dialect = Arc::new(adopted.unwrap_or_default());
            dialect::register(&conn, &dialect)
                .map_err(|e| LedgerError::sql("setting up the connection", file, e))?;
            refuse_newer(file, version)?;
            if version < VERSION {
                return Err(LedgerError::Older { path: file.to_owned(), ledger: version, program: VERSION });
            }
            Ok(Some((conn, dialect, budget)))
        }
        Found::Empty => Ok(None),
        Found::Foreign => Err(foreign(file)),
    }
}

pub fn check_sqlite() -> Result<()> {
    if rusqlite::version_number() < OLDEST_SQLITE {
        return Err(LedgerError::SqliteTooOld { found: rusqlite::version() });
    }
    Ok(())
}

pub fn refuse_newer(file: &Path, version: i64) -> Result<()> {
    if version > VERSION {
        return Err(LedgerError::Newer { path: file.to_owned(), ledger: version, program: VERSION });
    }
    Ok(())
}

fn foreign(file: &Path) -> LedgerError {
    LedgerError::NotALedger { path: file.to_owned(), why: "it is the database of another program" }
}

pub fn connect(file: &Path, mode: OpenFlags) -> Result<Connection> {
    let set_up = || {
        let mut conn = Connection::open_with_flags(file, mode | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        limits::harden(&conn)?;
        // The last one to close would else empty the log, two more fsyncs for every lone run, and remove
        // it: but a reader that may not write there needs it (DESIGN: persistent WAL).
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        // No statement is made ready a second time because of what is bound to it.
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        conn.busy_handler(Some(patience(busy_patience())))?;
        Ok(conn)
    };
    set_up().map_err(|e| LedgerError::sql("opening the file", file, e))
}

/// How long this command waits for other writers.
pub fn busy_patience() -> Duration {
    let set = std::env::var(PATIENCE).ok().and_then(|text| humantime::parse_duration(&text).ok());
    set.unwrap_or(USUAL_PATIENCE)
}

/// SQLite's own busy handler sleeps up to 100 ms at a time, all sleepers alike: too long among a hundred
/// writers whose turns take well under a millisecond each.
pub(super) fn patience(longest: Duration) -> impl FnMut(i32) -> bool + Send + 'static {
    let mut since = Instant::now();
    move |count| {
        if count == 0 {
            since = Instant::now();
        }
        let waited = since.elapsed();
        if waited > longest {
            return false;
        }
        let sleep = nap(waited);
        std::thread::sleep(sleep / 2 + sleep.mul_f64(jitter()));
        true
    }
}

/// Naps grow with what was waited already, since looks of a hundred that only just missed each other cost
/// more than the gaps between turns. They shrink again with the seconds: no turn is kept for anybody, and
/// where somebody always waits, whoever comes, and looks often, would be before the one who has waited
/// longest.
fn nap(waited: Duration) -> Duration {
    let seconds = u32::try_from(waited.as_secs()).unwrap_or(u32::MAX - 1);
    (waited / 3).clamp(SHORTEST_NAP, LONGEST_NAP / (1 + seconds).min(20))
}

/// A number from 0 to 1 that differs between those who wake up together.
fn jitter() -> f64 {
    let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |t| t.subsec_nanos());
    f64::from(nanos % 1_000_000) / 1e6
}

pub fn look(conn: &Connection, file: &Path) -> Result<Found> {
    let failed = |e| LedgerError::sql("reading the version", file, e);
    let found = conn.query_row(SELECT_VERSION, [], |row| {
        Ok((row.get::<_, Option<i64>>(0)?, row.get::<_, Option<String>>(1)?, row.get(2)?))
    });
    let stand_in = |name| LedgerError::StandIn { path: file.to_owned(), name };
    match found {
        Ok((_, _, Some(name))) => Err(stand_in(name)),
        Ok((version, adopted, None)) => Ok(Found::Ledger {
            version: version.unwrap_or(0),
            adopted: adopted.map(|text| serde_json::from_str(&text).unwrap_or_default()),
        }),
        Err(e) if e.sqlite_error_code() != Some(rusqlite::ErrorCode::Unknown) => Err(failed(e)),
        // No such table, or the tables are there by now.
        Err(e) => {
            if let Some(name) = conn.query_row(SELECT_STAND_IN, [], |row| row.get(0)).map_err(failed)? {
                return Err(stand_in(name));
            }
            let is_ledger = conn.query_row(SELECT_IS_LEDGER, [], |_| Ok(())).optional().map_err(failed)?;
            if is_ledger.is_some() {
                return Err(failed(e));
            }
            let is_empty: bool = conn.query_row(SELECT_IS_EMPTY, [], |row| row.get(0)).map_err(failed)?;
            Ok(if is_empty { Found::Empty } else { Found::Foreign })
        }
    }
}

/// Makes a whole ledger under another name and then gives it its own, so that nobody ever opens half a
/// one, and the switch to WAL, which no busy handler covers, happens where nobody else is.
fn create(at: &Location) -> Result<()> {
    let file = at.file.as_path();
    let private = at.private_dir();
    let lock_path = private.join("live");
    let _lock = LiveFile::open(&lock_path)?.hold_for_migration(&lock_path, file)?;
    if location::check_file(file)?.is_some_and(|m| m.len() > 0) {
        return Ok(());
    }
    let draft = private.join("new.db");
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let path = with_suffix(&draft, suffix);
        remove_if_there(&path)
            .map_err(|e| LedgerError::io("removing what an interrupted creation left:", &path, e))?;
    }
    backup::create(&draft)
        .and_then(|()| failpoint::hit("create.drafted"))
        .map_err(|e| LedgerError::io("creating the ledger's draft", &draft, e))?;
    fill(&draft)?;
    failpoint::hit("create.filled").map_err(|e| LedgerError::io("creating the ledger", file, e))?;
    set_strays_aside(file, &private)?;
    fs::rename(&draft, file)
        .and_then(|()| failpoint::hit("create.renamed"))
        .and_then(|()| location::sync_directory(&private))
        .and_then(|()| file.parent().map_or(Ok(()), location::sync_directory))
        .map_err(|e| LedgerError::io("creating the ledger", file, e))
}

fn fill(draft: &Path) -> Result<()> {
    let failed = |e| LedgerError::sql("creating the tables", draft, e);
    let mut conn = Connection::open_with_flags(
        draft,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
    .map_err(failed)?;
    limits::harden(&conn).map_err(failed)?;
    conn.pragma_update(None, "page_size", PAGE).map_err(failed)?;
    conn.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(())).map_err(failed)?;
    migrate(&mut conn, draft)?;
    conn.close().map_err(|(_, e)| failed(e))
}

/// The tables of the newest version, in an empty database.
pub fn make_tables(conn: &Connection) -> rusqlite::Result<()> {
    (1..=VERSION).try_for_each(|version| apply(conn, version))
}

/// Brings a ledger of the version before to `version`.
fn apply(conn: &Connection, version: i64) -> rusqlite::Result<()> {
    if version == 2 {
        drop_superseded(conn)?;
    }
    conn.execute_batch(MIGRATIONS[version as usize - 1])
}

/// The indexes of version 1 that version 2 does without. In an adopted file another program may have one of
/// the same name: ours is known by its words.
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

/// Says that the tables are of the newest version.
pub fn record_versions(conn: &Connection) -> rusqlite::Result<()> {
    (1..=VERSION).try_for_each(|v| conn.execute(INSERT_VERSION, (v, super::now())).map(drop))
}

fn migrate(conn: &mut Connection, file: &Path) -> Result<()> {
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
                tx.execute(INSERT_VERSION, (version, super::now()))?;
            }
            tx.commit()
        };
        upgrade().map_err(|e| LedgerError::sql("bringing the tables up to date", file, e))?;
    }
    Ok(())
}

/// A log whose ledger is gone would be taken for the log of the new one.
fn set_strays_aside(file: &Path, private: &Path) -> Result<()> {
    for suffix in ["-wal", "-shm", "-journal"] {
        let stray = with_suffix(file, suffix);
        let aside = private.join(format!("stray{suffix}.{}", Uuid::now_v7()));
        match fs::rename(&stray, aside) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                return Err(LedgerError::io("setting aside the stray log", &stray, e));
            }
            _ => {}
        }
    }
    Ok(())
}

pub fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_waited_for_long_looks_more_often_than_who_has_just_come() {
        let naps = [0, 1, 10, 60, 900].map(|ms| nap(Duration::from_millis(ms)));
        assert!(naps.is_sorted() && naps[0] == SHORTEST_NAP && naps[4] == LONGEST_NAP, "{naps:?}");
        let naps = [900, 1_000, 3_000, 29_000].map(|ms| nap(Duration::from_millis(ms)));
        assert!(naps.is_sorted_by(|a, b| a > b), "{naps:?}");
        assert!(nap(Duration::from_secs(29)) < nap(Duration::from_millis(5)));
        assert!(nap(Duration::MAX) >= SHORTEST_NAP);
    }
}
