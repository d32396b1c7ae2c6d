//! `bookend backup`: a copy of the ledger in a new file.

use std::fs;
use std::io;
use std::path::Path;

use super::copy;
use super::error::{LedgerError, Result};
use super::file_check;
use super::handle::Ledger;
use super::location::with_suffix;

impl Ledger {
    /// Copies the ledger into a new file, mode 0600, durably. Refuses an existing file, and a path beside
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
        copy::create(to).map_err(failed)?;
        copy::copy(&self.conn, to)
            .map_err(self.failed("backing up"))
            .and_then(|()| file_check::sync_directory(to.parent().unwrap_or(Path::new("/"))).map_err(failed))
            .inspect_err(|_| drop(fs::remove_file(to)))
    }
}
