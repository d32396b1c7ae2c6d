//! Creating a new ledger file.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};
use uuid::Uuid;

use super::diagnosis::database_error;
use super::error::{LedgerError, Result};
use super::file_check::{self, remove_if_there};
use super::live::LiveFile;
use super::location::{Location, with_suffix};
use super::{copy, limits, schema};
use crate::failpoint;

/// The page size of a new ledger, in bytes. A run changes a little in each of a dozen pages, all of which are
/// written to the log; a row without a long prompt fits in one.
const PAGE: u32 = 2048;

/// Creates the ledger under another name and renames it, so that no process opens an incomplete one. The
/// switch to WAL, which no busy handler covers, also happens where no other process is.
pub fn create(at: &Location) -> Result<()> {
    let file = at.file.as_path();
    let private = at.private_dir();
    let lock_path = private.join("live");
    let _lock = LiveFile::open(&lock_path)?.hold_for_migration(&lock_path, file)?;
    if file_check::check_file(file)?.is_some_and(|m| m.len() > 0) {
        return Ok(());
    }
    let draft = private.join("new.db");
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let path = with_suffix(&draft, suffix);
        remove_if_there(&path).map_err(|e| LedgerError::io("removing an incomplete draft:", &path, e))?;
    }
    copy::create(&draft)
        .and_then(|()| failpoint::hit("create.drafted"))
        .map_err(|e| LedgerError::io("creating the ledger's draft", &draft, e))?;
    fill(&draft)?;
    failpoint::hit("create.filled").map_err(|e| LedgerError::io("creating the ledger", file, e))?;
    move_stray_logs(file, &private)?;
    fs::rename(&draft, file)
        .and_then(|()| failpoint::hit("create.renamed"))
        .and_then(|()| file_check::sync_directory(&private))
        .and_then(|()| file.parent().map_or(Ok(()), file_check::sync_directory))
        .map_err(|e| LedgerError::io("creating the ledger", file, e))
}

fn fill(draft: &Path) -> Result<()> {
    let failed = |e| database_error("creating the tables", draft, e);
    let mut conn = Connection::open_with_flags(
        draft,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
    .map_err(failed)?;
    limits::harden(&conn).map_err(failed)?;
    conn.pragma_update(None, "page_size", PAGE).map_err(failed)?;
    conn.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(())).map_err(failed)?;
    schema::migrate(&mut conn, draft)?;
    conn.close().map_err(|(_, e)| failed(e))
}

/// Moves away a log without a ledger: SQLite would use it as the log of the new one.
fn move_stray_logs(file: &Path, private: &Path) -> Result<()> {
    for suffix in ["-wal", "-shm", "-journal"] {
        let stray = with_suffix(file, suffix);
        let aside = private.join(format!("stray{suffix}.{}", Uuid::now_v7()));
        match fs::rename(&stray, aside) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                return Err(LedgerError::io("moving away the stray log", &stray, e));
            }
            _ => {}
        }
    }
    Ok(())
}
