//! Opening the ledger file: created whole, migrated, and set up for many writers.

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
use super::membership::ReadMembership;
use super::schema::{self, FileContents, VERSION};
use super::trust::{self, Distrust};
use super::wal::WriteAheadLog;
use super::{busy, directories, file_check};

/// Older versions have the WAL-reset bug, which can corrupt a ledger (<https://www.sqlite.org/wal.html>).
const OLDEST_SQLITE: i32 = 3_051_003;

/// 256 KiB of pages.
pub(super) const FEW_PAGES: &str = "PRAGMA cache_size = -256";

/// The version of the bundled SQLite.
pub const SQLITE: &str = match rusqlite::ffi::SQLITE_VERSION.to_str() {
    Ok(version) => version,
    Err(_) => "of unknown version",
};

/// A ledger file that is open, and what it says about itself.
pub struct OpenedLedger {
    pub conn: Connection,
    pub dialect: Arc<Dialect>,
    pub fleet: ReadMembership,
    pub budget: CpuBudget,
}

/// A ledger file that is open for writing.
pub struct OpenedForWriting {
    pub opened: OpenedLedger,
    pub log: WriteAheadLog,
    /// Other users could write to one of its files until it was made private just now.
    pub was_shared: Option<Distrust>,
}

/// Opens the ledger for writing; creates or migrates it where necessary.
pub fn read_write(at: &Location) -> Result<OpenedForWriting> {
    check_sqlite()?;
    let file = at.file.as_path();
    // First, so that nothing is created beside a file that is not a ledger.
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
        // No limit: values of another program are copied when a row changes, however long they are.
        false => CpuBudget::default(),
    };
    let (adopted, fleet) = match schema::identify(&conn, file)? {
        FileContents::Ledger { version, adopted, fleet } => {
            schema::refuse_newer(file, version)?;
            limits::allow_views(&conn).map_err(set_up)?;
            if version < VERSION {
                let lock_path = at.private_dir().join("live");
                let _lock = LiveFile::open(&lock_path)?.hold_for_migration(&lock_path, file)?;
                schema::migrate(&mut conn, file)?;
            }
            (adopted, fleet)
        }
        FileContents::Empty | FileContents::Foreign => return Err(foreign(file)),
    };
    let is_ours = adopted.is_none();
    let dialect = Arc::new(adopted.unwrap_or_default());
    dialect::register(&conn, &dialect).and_then(|()| conn.execute_batch(FEW_PAGES)).map_err(set_up)?;
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
    Ok(OpenedForWriting { opened: OpenedLedger { conn, dialect, fleet, budget }, log, was_shared })
}

/// The user that must own a ledger that is opened for reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequiredOwner {
    Anyone,
    /// As for writing: the command acts on the rows.
    Caller,
}

/// Opens the ledger for reading; creates and changes nothing. `None`: it does not exist.
pub fn read_only(at: &Location, whose: RequiredOwner) -> Result<Option<OpenedLedger>> {
    check_sqlite()?;
    let file = at.file.as_path();
    let Some(meta) = file_check::check_type(file)?.filter(|m| m.len() > 0) else { return Ok(None) };
    // Root reads a user's ledger as that user, so a file of root was put there since.
    let must_be_mine = whose == RequiredOwner::Caller || geteuid().is_root();
    if must_be_mine {
        file_check::check_file(file)?;
    }
    if whose == RequiredOwner::Caller {
        trust::check_ancestors(at.directory())?;
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
    match schema::identify(&conn, file)? {
        FileContents::Ledger { version, adopted, fleet } => {
            let dialect = Arc::new(adopted.unwrap_or_default());
            dialect::register(&conn, &dialect)
                .map_err(|e| database_error("setting up the connection", file, e))?;
            schema::refuse_newer(file, version)?;
            if version < VERSION {
                return Err(LedgerError::Older { path: file.to_owned(), ledger: version, program: VERSION });
            }
            Ok(Some(OpenedLedger { conn, dialect, fleet, budget }))
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
        // Without it the last connection to close empties the log, which costs a lone run two fsyncs, and
        // removes it, although a reader without write permission for the directory needs it.
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        // Statements are not prepared again because of the values bound to them.
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        conn.busy_handler(Some(busy::handler(busy::patience())))?;
        Ok(conn)
    };
    set_up().map_err(|e| database_error("opening the file", file, e))
}
