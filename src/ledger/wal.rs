//! The write-ahead log: made durable after each commit, and kept short.
//!
//! SQLite would sync it by itself, but while it holds the write lock, so that a hundred supervisors wait
//! for each other's disk, and with fsync(2), which also waits for the file's times to be journalled. Here the
//! lock is let go first, and whoever syncs makes durable what others have committed before him.
//!
//! Now and then the log is copied into the ledger, beside the others who write. The next writer begins it
//! anew if all of it was copied: if nobody has written meanwhile, and nobody reads an older state. Among a
//! hundred writers somebody always has, and the log would grow for as long as they write. So who finds it
//! long empties it while he keeps the others from writing.
//!
//! <https://www.sqlite.org/wal.html>, <https://www.sqlite.org/c3ref/wal_hook.html>

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::time::Duration;

use rusqlite::hooks::Wal;
use rusqlite::{Connection, ffi};

use super::diagnosis::database_error;
use super::error::{LedgerError, Result};
use super::file_check;
use super::files::{FileDamage, OpenFiles};
use super::location;
use crate::failpoint;

/// What a long reader made the log grow to is given back when it begins anew.
const SETTINGS: &str = "
    PRAGMA synchronous = NORMAL;
    PRAGMA journal_size_limit = 1048576";

/// Pages of log from which it is copied. Whoever opens a ledger that nobody else has open reads the whole
/// log, so a long one would be paid for by every lone run.
const WORTH_COPYING: u32 = 64;
/// A little more than a commit writes, in pages: of those that make the log longer by `WORTH_COPYING` one or
/// two copy it, whether they are one program's or a hundred programs'.
const STRIDE: u32 = 8;
/// Pages of log from which it is long: 2 MiB where the pages are ours.
const LONG: u32 = 1024;
/// Pages that others may have written since the copying began. If more are left, somebody reads an older
/// state, and the writers would be kept waiting in vain.
const FEW: i64 = 64;
/// How long the writers are waited for, and then the readers while the writers wait.
pub const PATIENCE: Duration = Duration::from_millis(100);

const COPY: &str = "PRAGMA wal_checkpoint(PASSIVE)";
const EMPTY: &str = "PRAGMA wal_checkpoint(TRUNCATE)";

/// The log of a ledger that was opened for writing.
#[derive(Debug, Default)]
pub struct WriteAheadLog {
    /// Its length after the last commit of ours.
    pages: Arc<AtomicU32>,
    /// Commits are not synced.
    lax: Arc<AtomicBool>,
    /// The errno of the last sync that failed, until it is reported; else 0.
    unsynced: Arc<AtomicI32>,
    /// `None`: the ledger was opened for reading.
    files: Option<OpenFiles>,
}

impl WriteAheadLog {
    /// Takes charge of the log. `before` names the one that was there before the ledger was opened: a new one
    /// has yet to be made durable in its directory. A ledger that was switched to another way of journalling
    /// has none, and SQLite goes on syncing by itself.
    pub fn keep(conn: &mut Connection, ledger: &Path, before: Option<u64>) -> Result<WriteAheadLog> {
        let path = location::with_suffix(ledger, "-wal");
        let mut log = WriteAheadLog { files: Some(OpenFiles::default()), ..WriteAheadLog::default() };
        // It carries no lock of SQLite's, so that closing it drops none.
        let opened = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(&path);
        let file = match opened {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(log),
            other => other.map_err(|e| LedgerError::io("opening the log", &path, e))?,
        };
        let meta = file.metadata().map_err(|e| LedgerError::io("looking at the log", &path, e))?;
        let mut directory = match before {
            Some(inode) if inode == meta.ino() => None,
            _ => ledger.parent().map(Path::to_owned),
        };
        let files = OpenFiles::note(ledger, &meta);
        log.files = Some(files.map_err(|e| LedgerError::io("looking at the log's index of", ledger, e))?);
        let (length, lax, unsynced) = (log.pages.clone(), log.lax.clone(), log.unsynced.clone());
        let committed = move |wal: &mut Wal, pages| {
            if !lax.load(Ordering::Relaxed) {
                let failed = |e: io::Error| {
                    unsynced.store(e.raw_os_error().unwrap_or(libc::EIO), Ordering::Relaxed);
                    unsynced_commit()
                };
                sync(&file).map_err(failed)?;
                if let Some(new_in) = directory.take() {
                    file_check::sync_directory(&new_in).map_err(failed)?;
                }
            }
            let pages = u32::try_from(pages).unwrap_or(0);
            length.store(pages, Ordering::Relaxed);
            if pages >= WORTH_COPYING && pages % WORTH_COPYING < STRIDE {
                // Another writer is at it, or it goes wrong and is tried again: nothing depends on it.
                let _ = wal.checkpoint();
            }
            Ok(())
        };
        conn.execute_batch(SETTINGS)
            .and_then(|()| conn.wal_hook(Some(committed)))
            .map_err(|e| database_error("setting up the connection", ledger, e))?;
        Ok(log)
    }

    /// From now on a commit is only with the kernel when it returns, and on the disk with the next one that
    /// is synced; or no longer.
    pub fn set_lax(&self, lax: bool) {
        self.lax.store(lax, Ordering::Relaxed);
    }

    /// What happened to the files of the ledger since it was opened. A commit is lost in them then, however
    /// well it goes.
    pub fn damage(&self, conn: &Connection) -> Option<FileDamage> {
        self.files.as_ref()?.damage(conn, self.pages.load(Ordering::Relaxed))
    }

    /// Says why something failed that may have been a commit. SQLite reports a hook that failed as "SQL logic
    /// error" and forgets why.
    pub fn error(&self, doing: &'static str, ledger: &Path, e: rusqlite::Error) -> LedgerError {
        match self.unsynced.swap(0, Ordering::Relaxed) {
            0 => database_error(doing, ledger, e),
            errno => LedgerError::Unsynced {
                doing,
                path: ledger.to_owned(),
                source: io::Error::from_raw_os_error(errno),
            },
        }
    }

    pub fn is_long(&self) -> bool {
        self.pages.load(Ordering::Relaxed) >= LONG
    }
}

/// Copies the log into the file and cuts it, unless somebody is in the way or at it already.
pub fn empty(conn: &Connection) -> rusqlite::Result<()> {
    let pages = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(1)?, row.get::<_, i64>(2)?));
    let (all, copied) = conn.query_row(COPY, [], pages)?;
    if copied < 0 || all - copied > FEW {
        return Ok(());
    }
    conn.query_row(EMPTY, [], |_| Ok(()))
}

fn sync(file: &File) -> io::Result<()> {
    failpoint::hit("log.sync")?;
    file.sync_data()
}

/// As SQLite names it where its own sync fails.
fn unsynced_commit() -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_IOERR_FSYNC), None)
}
