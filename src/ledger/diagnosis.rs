//! What a failure of SQLite means and what to do about it: its error code alone does not say.

use std::path::Path;

use rusqlite::{ErrorCode, ffi};

use super::busy;
use super::error::{DESCRIPTOR_LIMIT, LedgerError, SIZE_LIMIT, SqliteError};
use super::files;

pub fn database_error(doing: &'static str, path: &Path, source: rusqlite::Error) -> LedgerError {
    if let Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) = source.sqlite_error_code() {
        return LedgerError::Busy { doing, path: path.to_owned(), waited: busy::patience() };
    }
    let remedy = remedy(path, &source);
    LedgerError::Database { doing, path: path.to_owned(), remedy, source: SqliteError(Box::new(source)) }
}

/// What to do about it. `None`: only a closer look can say.
fn remedy(path: &Path, source: &rusqlite::Error) -> Option<&'static str> {
    Some(match source.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) if files::is_sound(path) => {
            "the file itself is sound (integrity_check: ok), and its -wal or -shm is damaged: wait until \
             the running tasks have ended, then try again; their ends wait in the spool"
        }
        Some(ErrorCode::NotADatabase) => {
            "it is not an SQLite database, or its beginning is damaged: name another file with --ledger \
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
        Some(ErrorCode::CannotOpen) if files::reach_descriptor_limit() => DESCRIPTOR_LIMIT,
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            "check its owner and mode, or name a ledger elsewhere with --ledger FILE"
        }
        Some(ErrorCode::OperationInterrupted) => {
            "it took 5 s of CPU time, and other users can write to this ledger: check its size and \
             its triggers (sqlite3 FILE .schema), or name another with --ledger FILE"
        }
        Some(ErrorCode::TooBig) => {
            "a value in it is longer than bookend reads: look for it with sqlite3, or name another \
             ledger with --ledger FILE"
        }
        Some(ErrorCode::SystemIoFailure) => io_remedy(path, source),
        _ => return None,
    })
}

/// What to do about an I/O error. SQLite does not pass the errno on.
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
