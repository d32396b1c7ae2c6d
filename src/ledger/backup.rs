//! Copies of a whole database by SQLite's backup API, while others write to it. The file alone is not a copy:
//! what was committed last is in the log. <https://www.sqlite.org/backup.html>

use std::fs::{self, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};

use super::error::{LedgerError, Result};
use super::place::{self, with_suffix};
use super::{Ledger, open};

/// How long a copy waits before it tries a locked database again.
const PAUSE: Duration = Duration::from_millis(5);

impl Ledger {
    /// Copies the ledger into a new file, mode 0600, durably. An existing file is refused, as is one beside
    /// which SQLite would find the log of another database.
    pub fn back_up(&self, to: &Path) -> Result<()> {
        let failed = |e| LedgerError::io("writing the backup", to, e);
        for suffix in ["", "-wal", "-shm", "-journal"] {
            let path = with_suffix(to, suffix);
            if fs::symlink_metadata(&path).is_ok() {
                let exists = io::ErrorKind::AlreadyExists.into();
                return Err(LedgerError::io("writing the backup", &path, exists));
            }
        }
        create(to).map_err(failed)?;
        copy(&self.conn, to)
            .map_err(self.failed("backing up"))
            .and_then(|()| place::sync_directory(to.parent().unwrap_or(Path::new("/"))).map_err(failed))
            .inspect_err(|_| drop(fs::remove_file(to)))
    }
}

/// A new file of 0600, whatever the umask.
pub fn create(path: &Path) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)?
        .set_permissions(Permissions::from_mode(0o600))
}

/// Copies a database into the file `to`, which is there and empty, in one step: what others commit meanwhile
/// is not in the copy.
pub fn copy(source: &Connection, to: &Path) -> rusqlite::Result<()> {
    let flags = OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_READ_WRITE;
    let mut target = Connection::open_with_flags(to, flags)?;
    target.pragma_update(None, "synchronous", "FULL")?;
    let since = Instant::now();
    {
        let backup = Backup::new(source, &mut target)?;
        loop {
            match backup.step(-1)? {
                StepResult::Done => break,
                _ if since.elapsed() < open::busy_patience() => std::thread::sleep(PAUSE),
                _ => {
                    let busy = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
                    return Err(rusqlite::Error::SqliteFailure(busy, None));
                }
            }
        }
    }
    target.close().map_err(|(_, e)| e)
}
