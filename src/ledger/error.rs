//! What can go wrong with the ledger, said so that the user knows what to do next.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{ErrorCode, ffi};
use thiserror::Error;

use super::files::{self, Damage};
use super::location::OtherName;
use crate::failpoint;
use crate::task::TaskId;

pub type Result<T> = std::result::Result<T, LedgerError>;

/// A failure of the ledger or of the files beside it.
#[derive(Debug, Error)]
pub enum LedgerError {
    #[error(
        "choosing the ledger: uid {uid} has no home directory; name the file with --ledger FILE or \
         $BOOKEND_LEDGER"
    )]
    NoHome { uid: u32 },

    #[error(
        "{path} is a directory, and the ledger is a file; name a file in it, e.g. {path}/bookend.db",
        path = .path.display()
    )]
    IsDirectory { path: PathBuf },

    #[error("{doing} {path}: {source}; {remedy}", path = .path.display())]
    Io { doing: &'static str, path: PathBuf, remedy: &'static str, source: io::Error },

    #[error(
        "{path} belongs to uid {owner}, not to you (uid {uid}): whoever owns it could replace the ledger; \
         run as its owner, or name a ledger elsewhere with --ledger FILE",
        path = .path.display()
    )]
    ForeignDirectory { path: PathBuf, owner: u32, uid: u32 },

    #[error(
        "the directory {path} can be written by everybody (mode {mode:04o}): anybody could replace the \
         ledger; chmod o-w it, or name a ledger elsewhere with --ledger FILE. If all who can write there are \
         trusted (a Kubernetes emptyDir), keep the ledger in a directory of its own below it and set \
         BOOKEND_ALLOW_SHARED_DIR=1",
        path = .path.display()
    )]
    WorldWritable { path: PathBuf, mode: u32 },

    #[error(
        "the directory {path} can be written by its group (mode {mode:04o}): a member could replace the \
         ledger; chmod g-w it, or name a ledger elsewhere with --ledger FILE",
        path = .path.display()
    )]
    GroupWritable { path: PathBuf, mode: u32 },

    #[error(
        "{path} was replaced while it was being opened; look at what replaces it, and try again",
        path = .path.display()
    )]
    Swapped { path: PathBuf },

    #[error(
        "{path} is a symbolic link, which bookend does not follow there; remove it, or name the file that \
         it points to with --ledger FILE",
        path = .path.display()
    )]
    Symlink { path: PathBuf },

    #[error(
        "{path} is not {wanted}; move it away, or name a ledger elsewhere with --ledger FILE",
        path = .path.display()
    )]
    WrongType { path: PathBuf, wanted: &'static str },

    #[error(
        "{path} belongs to uid {owner}, not to you (uid {uid}); run as its owner, or name a ledger of your \
         own with --ledger FILE",
        path = .path.display()
    )]
    ForeignFile { path: PathBuf, owner: u32, uid: u32 },

    #[error(
        "SQLite {found} is linked, and before 3.51.3 it can corrupt a ledger; build bookend with its bundled \
         SQLite"
    )]
    SqliteTooOld { found: &'static str },

    #[error(
        "the ledger {path} has version {ledger}, and this bookend knows versions up to {program}; use the \
         newer bookend",
        path = .path.display()
    )]
    Newer { path: PathBuf, ledger: i64, program: i64 },

    #[error(
        "the ledger {path} has version {ledger}, and this bookend reads version {program}; any writing \
         command, e.g. bookend recover, brings it up to date",
        path = .path.display()
    )]
    Older { path: PathBuf, ledger: i64, program: i64 },

    #[error(
        "{path} is no ledger of bookend's: {why}; name another file with --ledger FILE or $BOOKEND_LEDGER",
        path = .path.display()
    )]
    NotALedger { path: PathBuf, why: &'static str },

    #[error(
        "{path} is not used: {name} in it is a view or a virtual table, not a table, and reading it could \
         execute any SQL; name another file with --ledger FILE or $BOOKEND_LEDGER",
        path = .path.display()
    )]
    StandIn { path: PathBuf, name: String },

    #[error("{path} cannot be adopted: {why}; it is as it was", path = .path.display())]
    NotAdoptable { path: PathBuf, why: String },

    #[error(
        "{doing} in the ledger {path}: others kept it locked for {waited:?}; look for a program that \
         holds it open in a transaction (fuser {path}), and try again",
        path = .path.display()
    )]
    Busy { doing: &'static str, path: PathBuf, waited: Duration },

    #[error(
        "a task {id} is in the ledger {path} already; give another --id, or none",
        path = .path.display()
    )]
    TaskExists { id: TaskId, path: PathBuf },

    #[error("another task is running under the key {key} in the ledger {path}", path = .path.display())]
    KeyBusy { key: String, path: PathBuf },

    #[error("there is no task {id} in the ledger {path}", path = .path.display())]
    NoSuchTask { id: TaskId, path: PathBuf },

    #[error("the task id {id:?} is too long to name a file; give a shorter --id, or none")]
    IdTooLong { id: TaskId },

    #[error("{}; nothing was executed or changed", .other.explain(.path))]
    OtherName { path: PathBuf, other: OtherName },

    #[error(
        "{doing} in the ledger {path}: making it durable failed (fdatasync of {path}-wal): {source}; a power \
         failure may undo what was written; check the disk and the kernel's log (dmesg)",
        path = .path.display()
    )]
    Unsynced { doing: &'static str, path: PathBuf, source: io::Error },

    #[error(
        "{doing} in the ledger {path}: {damage} while bookend had it open, so what is written to it now \
         would be lost; restore the file, or let the next command create a new ledger",
        path = .path.display(), damage = .damage.as_str()
    )]
    Replaced { doing: &'static str, path: PathBuf, damage: Damage },

    #[error("{doing} in the ledger {path}: {source}; {remedy}", path = .path.display())]
    Database {
        doing: &'static str,
        path: PathBuf,
        remedy: &'static str,
        source: Box<dyn Error + Send + Sync>,
    },
}

const SIZE_LIMIT: &str = "the limit on the size of files is reached: raise it (ulimit -f, LimitFSIZE=)";

/// What to do about an I/O error of SQLite, which keeps its errno to itself.
fn io_remedy(path: &Path, e: &rusqlite::Error) -> &'static str {
    match e.sqlite_error().map(|e| e.extended_code) {
        Some(ffi::SQLITE_IOERR_SHORT_READ) => {
            "the file or its -wal was truncated: if tasks are running, wait until they have ended and try \
             again; else sqlite3 FILE .recover reads what can still be read"
        }
        _ if files::reach_size_limit(path) => SIZE_LIMIT,
        _ => "look at the kernel's log (dmesg) for a failing disk",
    }
}

/// A step of a transaction at which a test may end bookend, or make SQLite fail as a broken disk does.
pub(super) fn step(point: &'static str) -> rusqlite::Result<()> {
    failpoint::hit(point).map_err(|e| {
        let code = ffi::Error::new(ffi::SQLITE_IOERR);
        rusqlite::Error::SqliteFailure(code, Some(e.to_string()))
    })
}

impl From<LedgerError> for crate::error::Error {
    fn from(e: LedgerError) -> crate::error::Error {
        use crate::error::Kind;
        let kind = match e {
            LedgerError::TaskExists { .. } | LedgerError::IdTooLong { .. } => Kind::Usage,
            LedgerError::KeyBusy { .. } => Kind::Busy,
            _ => Kind::Failed,
        };
        crate::error::Error::new(kind, e)
    }
}

impl LedgerError {
    pub(super) fn io(doing: &'static str, path: &Path, source: io::Error) -> LedgerError {
        let remedy = match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "free some space there",
            io::ErrorKind::PermissionDenied => {
                "check its owner and mode, or name a ledger elsewhere with --ledger FILE"
            }
            io::ErrorKind::AlreadyExists => "name a file that does not exist yet",
            io::ErrorKind::FileTooLarge => SIZE_LIMIT,
            io::ErrorKind::ReadOnlyFilesystem => "name a ledger elsewhere with --ledger FILE",
            _ => "check the path, or name a ledger elsewhere with --ledger FILE",
        };
        LedgerError::Io { doing, path: path.to_owned(), remedy, source }
    }

    pub(super) fn sql(doing: &'static str, path: &Path, source: rusqlite::Error) -> LedgerError {
        let remedy = match source.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                return LedgerError::Busy {
                    doing,
                    path: path.to_owned(),
                    waited: super::open::busy_patience(),
                };
            }
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) if files::is_sound(path) => {
                "the file itself is sound (integrity_check: ok), and its -wal or -shm is damaged: wait until \
                 the running tasks have ended, then try again; their ends wait in the spool"
            }
            Some(ErrorCode::NotADatabase) => {
                "it is no SQLite database, or its beginning is damaged: name another file with --ledger \
                 FILE, or move it away and keep it; sqlite3 FILE .recover reads what can still be read"
            }
            Some(ErrorCode::DiskFull) => "free some space there",
            Some(ErrorCode::ReadOnly) => {
                "check the mode of the file and of its directory, or name a ledger elsewhere with \
                 --ledger FILE"
            }
            Some(ErrorCode::DatabaseCorrupt) => {
                "move it away and keep it; sqlite3 FILE .recover reads what can still be read"
            }
            Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
                "check its owner and mode, or name a ledger elsewhere with --ledger FILE"
            }
            Some(ErrorCode::OperationInterrupted) => {
                "it took 5 s of CPU time, and others than you can write to this ledger: look at its size and \
                 its triggers (sqlite3 FILE .schema), or name another with --ledger FILE"
            }
            Some(ErrorCode::TooBig) => {
                "a value in it is longer than bookend reads: look for it with sqlite3, or name another \
                 ledger with --ledger FILE"
            }
            Some(ErrorCode::SystemIoFailure) => io_remedy(path, &source),
            _ => "bookend doctor shows which file this is and what is wrong with it",
        };
        LedgerError::Database { doing, path: path.to_owned(), remedy, source: Box::new(source) }
    }
}
