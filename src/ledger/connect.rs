//! Opening the ledger file: made whole before anybody sees it, brought up to date, set up for many writers.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use nix::unistd::geteuid;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::create;
use super::diagnosis::database_error;
use super::dialect::{self, Dialect};
use super::error::{LedgerError, Result};
use super::limits::{self, CpuBudget};
use super::live::LiveFile;
use super::location::{Location, with_suffix};
use super::schema::{self, FileContents, VERSION};
use super::trust::{self, Distrust};
use super::wal::WriteAheadLog;
use super::{busy, directories, file_check};

/// Before this version the WAL-reset bug can corrupt a ledger (<https://www.sqlite.org/wal.html>).
const OLDEST_SQLITE: i32 = 3_051_003;

const SETTINGS: &str = "PRAGMA cache_size = -256";

/// The version of the SQLite that is built in.
pub const SQLITE: &str = match rusqlite::ffi::SQLITE_VERSION.to_str() {
    Ok(version) => version,
    Err(_) => "of unknown version",
};

/// A ledger that is open for writing.
pub struct OpenedForWriting {
    pub conn: Connection,
    pub log: WriteAheadLog,
    pub dialect: Arc<Dialect>,
    /// Others could write to a file of it until this one was made private.
    pub was_shared: Option<Distrust>,
    pub budget: CpuBudget,
}

/// Opens the ledger for writing; makes it, or brings it up to date, if need be.
pub fn read_write(at: &Location) -> Result<OpenedForWriting> {
    check_sqlite()?;
    let file = at.file.as_path();
    // First of all: beside what is no ledger of ours, nothing is made.
    let found = file_check::check_file(file)?;
    directories::prepare_directories(at)?;
    let meta = match found {
        Some(meta) if meta.len() > 0 => meta,
        _ => {
            create::create(at)?;
            file_check::check_own(file)?
        }
    };
    let log_path = with_suffix(file, "-wal");
    let index = with_suffix(file, "-shm");
    let log_meta = file_check::check_file(&log_path)?;
    let index_meta = file_check::check_file(&index)?;

    let files = [(file, Some(&meta)), (&log_path, log_meta.as_ref()), (&index, index_meta.as_ref())];
    let files = files.into_iter().filter_map(|(path, meta)| Some((path, meta?)));
    let is_shared = files.clone().any(|(path, meta)| trust::shared(path, meta).is_some());

    let mut conn = connect(file, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    trust::check_opened(&conn, file, &meta)?;
    let set_up = |e| database_error("setting up the connection", file, e);
    let budget = match is_shared {
        true => limits::bound_others(&mut conn).map_err(set_up)?,
        // What the caller's other program keeps in the rows is copied when they change, however long it is.
        false => CpuBudget::default(),
    };
    let adopted = match schema::look(&conn, file)? {
        FileContents::Ledger { version, adopted } => {
            schema::refuse_newer(file, version)?;
            limits::allow_views(&conn).map_err(set_up)?;
            if version < VERSION {
                let lock_path = at.private_dir().join("live");
                let _lock = LiveFile::open(&lock_path)?.hold_for_migration(&lock_path, file)?;
                schema::migrate(&mut conn, file)?;
            }
            adopted
        }
        FileContents::Empty | FileContents::Foreign => return Err(foreign(file)),
    };
    let is_ours = adopted.is_none();
    let dialect = Arc::new(adopted.unwrap_or_default());
    dialect::register(&conn, &dialect).and_then(|()| conn.execute_batch(SETTINGS)).map_err(set_up)?;
    let mut was_shared = None;
    if is_ours {
        for (path, meta) in files {
            let shared = trust::shared(path, meta);
            if shared.is_none() || at.chosen_by.owns_directory() {
                file_check::tighten(path, meta)?;
            }
            was_shared = was_shared.or(shared);
        }
    }
    let log = WriteAheadLog::keep(&mut conn, file, log_meta.as_ref().map(|m| m.ino()))?;
    Ok(OpenedForWriting { conn, log, dialect, was_shared, budget })
}

/// Whose ledger may be opened for reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequiredOwner {
    Anyone,
    /// As for writing: what is read from it is acted upon.
    Caller,
}

/// Opens the ledger for reading; makes and changes nothing. `None`: there is none.
pub fn read_only(
    at: &Location,
    whose: RequiredOwner,
) -> Result<Option<(Connection, Arc<Dialect>, CpuBudget)>> {
    check_sqlite()?;
    let file = at.file.as_path();
    let Some(meta) = file_check::check_type(file)?.filter(|m| m.len() > 0) else { return Ok(None) };
    // Root reads a user's ledger as that user: such a file was put here since.
    let must_be_mine = whose == RequiredOwner::Caller || geteuid().is_root();
    if must_be_mine {
        file_check::check_file(file)?;
    }
    if whose == RequiredOwner::Caller {
        trust::check_way(at.directory())?;
    }
    directories::check_beside(at)?;
    let mut conn = connect(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    if must_be_mine {
        trust::check_opened(&conn, file, &meta)?;
    }
    let budget = match trust::distrust(at) {
        Some(_) => limits::bound_others(&mut conn),
        None => limits::bound(&conn).map(|()| CpuBudget::default()),
    };
    let budget = budget.map_err(|e| database_error("setting up the connection", file, e))?;
    match schema::look(&conn, file)? {
        FileContents::Ledger { version, adopted } => {
            let dialect = Arc::new(adopted.unwrap_or_default());
            dialect::register(&conn, &dialect)
                .map_err(|e| database_error("setting up the connection", file, e))?;
            schema::refuse_newer(file, version)?;
            if version < VERSION {
                return Err(LedgerError::Older { path: file.to_owned(), ledger: version, program: VERSION });
            }
            Ok(Some((conn, dialect, budget)))
        }
        FileContents::Empty => Ok(None),
        FileContents::Foreign => Err(foreign(file)),
    }
}

pub fn check_sqlite() -> Result<()> {
    if rusqlite::version_number() < OLDEST_SQLITE {
        return Err(LedgerError::SqliteTooOld { found: rusqlite::version() });
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
        // it: but a reader that may not write there needs it (a persistent WAL).
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        // No statement is made ready a second time because of what is bound to it.
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        conn.busy_handler(Some(busy::handler(busy::patience())))?;
        Ok(conn)
    };
    set_up().map_err(|e| database_error("opening the file", file, e))
}
