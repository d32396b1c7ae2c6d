//! The directories of the ledger: created private, and refused where other users could tamper with them.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::Path;

use super::error::{LedgerError, Result};
use super::file_check::{OTHERS, check_owner, check_type, chmod};
use super::location::{Location, with_suffix};
use super::trust;

/// Creates the directories, and refuses those in which other users could replace the ledger.
pub fn prepare_directories(at: &Location) -> Result<()> {
    let dir = at.directory();
    trust::check_ancestors(dir)?;
    let looking = |e| LedgerError::io("reading the ledger's directory", dir, e);
    let meta = match fs::metadata(dir) {
        Err(e) if e.kind() == ErrorKind::NotFound => {
            make_private_dir(dir).map_err(|e| LedgerError::io("creating the ledger's directory", dir, e))?;
            // Another user may have created it first if the directory above is shared.
            trust::check_ancestors(dir)?;
            fs::metadata(dir).map_err(looking)?
        }
        other => other.map_err(looking)?,
    };
    if at.chosen_by.owns_directory() && meta.mode() & OTHERS != 0 {
        chmod(dir, 0o700)?;
    }
    ensure_private(&at.private_dir())?;
    ensure_private(&at.private_dir().join("spool"))
}

/// For readers: refuses a symbolic link in place of a file or directory that only bookend creates.
pub fn check_beside(at: &Location) -> Result<()> {
    for suffix in ["-wal", "-shm"] {
        check_type(&with_suffix(&at.file, suffix))?;
    }
    let private = at.private_dir();
    for dir in [private.join("spool"), private] {
        if fs::symlink_metadata(&dir).is_ok_and(|m| m.is_symlink()) {
            return Err(LedgerError::Symlink { path: dir });
        }
    }
    Ok(())
}

/// Makes sure that a directory exists, has mode 0700, belongs to the caller and is not a link.
fn ensure_private(dir: &Path) -> Result<()> {
    let meta = match fs::symlink_metadata(dir) {
        Ok(meta) => meta,
        Err(e) if e.kind() == ErrorKind::NotFound => {
            make_private_dir(dir).map_err(|e| LedgerError::io("creating the directory", dir, e))?;
            fs::symlink_metadata(dir).map_err(|e| LedgerError::io("reading the attributes of", dir, e))?
        }
        Err(e) => return Err(LedgerError::io("reading the attributes of", dir, e)),
    };
    if meta.is_symlink() {
        return Err(LedgerError::Symlink { path: dir.to_owned() });
    }
    if !meta.is_dir() {
        return Err(LedgerError::WrongType { path: dir.to_owned(), wanted: "a directory" });
    }
    check_owner(dir, &meta)?;
    if meta.mode() & 0o777 != 0o700 {
        chmod(dir, 0o700)?;
    }
    Ok(())
}

fn make_private_dir(dir: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(dir) {
        // The umask may have taken the owner's own bits.
        Ok(()) => fs::set_permissions(dir, Permissions::from_mode(0o700)),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(e) if e.kind() == ErrorKind::NotFound => match dir.parent() {
            // If the parent exists and nothing can be created in it (/proc), retrying would never end.
            Some(parent) if !parent.exists() => {
                make_private_dir(parent)?;
                make_private_dir(dir)
            }
            _ => Err(e),
        },
        Err(e) => Err(e),
    }
}
