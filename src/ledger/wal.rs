//! The write-ahead log: made durable after each commit, and kept short.
//!
//! SQLite would sync the log itself, but while it holds the write lock, so that a hundred supervisors wait
//! for each other's disk writes, and with fsync(2), which also waits for the timestamps of the file. Here the
//! lock is released first, and a process that syncs also makes durable what others committed before it.
//!
//! From time to time the log is copied into the ledger while others write. The next writer restarts the log
//! if all of it was copied, no process has written since, and no process reads an older state. With a hundred
//! writers that never happens, and the log would keep growing. So the process that finds it long keeps other
//! writers out for a moment and empties it.
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

/// `journal_size_limit`: the space that a long reader made the log grow to is freed when the log restarts.
const SETTINGS: &str = "
    PRAGMA synchronous = NORMAL;
    PRAGMA journal_size_limit = 1048576";

/// The log is copied from this many pages on. The first process that opens a ledger reads the whole log, so a
/// long log slows down every lone run.
const COPY_FROM: u32 = 64;
/// In pages, a little more than a commit writes: while the log grows by `COPY_FROM`, one or two commits
/// copy it, however many programs write.
const STRIDE: u32 = 8;
/// The log is long from this many pages on: 2 MiB with the page size of a new ledger.
const LONG: u32 = 1024;
/// Pages that others may have written since copying began. If more are left, a process reads an older state,
/// and keeping the writers out would be in vain.
const FEW: i64 = 64;
/// How long to wait for the writers, and then for the readers while the writers wait.
pub const PATIENCE: Duration = Duration::from_millis(100);

const COPY: &str = "PRAGMA wal_checkpoint(PASSIVE)";
const EMPTY: &str = "PRAGMA wal_checkpoint(TRUNCATE)";

/// The log of a ledger that is open for writing.
#[derive(Debug, Default)]
pub struct WriteAheadLog {
    /// Its length after the last commit of this process.
    pages: Arc<AtomicU32>,
    /// Commits are not synced.
    lax: Arc<AtomicBool>,
    /// The errno of the last sync that failed, until it is reported; else 0.
    unsynced: Arc<AtomicI32>,
    /// `None`: the ledger was opened for reading.
    files: Option<OpenFiles>,
    /// `None`: there is no log that bookend syncs.
    file: Option<Arc<File>>,
}

impl WriteAheadLog {
    /// Takes over the syncing of the log. `before`: the inode of the log before the ledger was opened; a new
    /// log must still be made durable in its directory. A ledger in another journal mode has no log, and
    /// SQLite keeps syncing by itself.
    pub fn keep(conn: &mut Connection, ledger: &Path, before: Option<u64>) -> Result<WriteAheadLog> {
        let path = location::with_suffix(ledger, "-wal");
        let mut log = WriteAheadLog { files: Some(OpenFiles::default()), ..WriteAheadLog::default() };
        // SQLite holds no lock on this file, so closing it drops none.
        let opened = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(&path);
        let file = match opened {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(log),
            other => other.map_err(|e| LedgerError::io("opening the log", &path, e))?,
        };
        let meta = file.metadata().map_err(|e| LedgerError::io("reading the attributes of", &path, e))?;
        let mut directory = match before {
            Some(inode) if inode == meta.ino() => None,
            _ => ledger.parent().map(Path::to_owned),
        };
        let files = OpenFiles::note(ledger, &meta);
        log.files =
            Some(files.map_err(|e| LedgerError::io("reading the attributes of the index of", ledger, e))?);
        let (length, lax, unsynced) = (log.pages.clone(), log.lax.clone(), log.unsynced.clone());
        let file = Arc::new(file);
        log.file = Some(Arc::clone(&file));
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
            if pages >= COPY_FROM && pages % COPY_FROM < STRIDE {
                // It fails if another writer copies it now. The next commit tries again.
                let _ = wal.checkpoint();
            }
            Ok(())
        };
        conn.execute_batch(SETTINGS)
            .and_then(|()| conn.wal_hook(Some(committed)))
            .map_err(|e| database_error("setting up the connection", ledger, e))?;
        Ok(log)
    }

    /// If `lax`, a commit returns when the kernel has the data; the next synced commit makes it durable.
    pub fn set_lax(&self, lax: bool) {
        self.lax.store(lax, Ordering::Relaxed);
    }

    /// Makes durable what all processes have committed.
    pub fn sync(&self) -> io::Result<()> {
        self.file.as_deref().map_or(Ok(()), sync)
    }

    /// What happened to the files of the ledger since it was opened. Commits to such files are lost although
    /// they succeed.
    pub fn damage(&self, conn: &Connection) -> Option<FileDamage> {
        self.files.as_ref()?.damage(conn, self.pages.load(Ordering::Relaxed))
    }

    /// The error of an operation that may have been a commit: SQLite reports a failed hook as "SQL logic
    /// error", without the reason.
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

/// Copies the log into the file and truncates it, unless other processes use it.
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

/// The error code that SQLite uses when its own sync fails.
fn unsynced_commit() -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_IOERR_FSYNC), None)
}
