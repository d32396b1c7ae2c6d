//! Whether a file may be used as a file of the ledger: its type, its owner, its mode.
//!
//! All checks use the path: opening the ledger file and closing it again would drop the locks that SQLite
//! holds on it in this process (<https://www.sqlite.org/howtocorrupt.html>, section 2.2).

use std::fs::{self, Metadata, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use nix::unistd::geteuid;

use super::error::{LedgerError, Result};

pub const OTHERS: u32 = 0o077;

/// Checks that a file is a regular file of the caller. `None`: it does not exist.
pub fn check_file(path: &Path) -> Result<Option<Metadata>> {
    let Some(meta) = check_type(path)? else {
        return Ok(None);
    };
    check_owner(path, &meta)?;
    Ok(Some(meta))
}

/// As [`check_file`], for a file that must exist.
pub fn check_own(path: &Path) -> Result<Metadata> {
    let missing =
        || LedgerError::io("reading the attributes of", path, io::Error::from_raw_os_error(libc::ENOENT));
    check_file(path)?.ok_or_else(missing)
}

/// Checks that a path names a regular file, not a link to one. `None`: it does not exist.
pub fn check_type(path: &Path) -> Result<Option<Metadata>> {
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(LedgerError::io("reading the attributes of", path, e)),
    };
    check_regular(path, &meta)?;
    Ok(Some(meta))
}

/// Checks that an opened file is a regular file of the caller.
pub fn check_opened(path: &Path, meta: &Metadata) -> Result<()> {
    check_regular(path, meta)?;
    check_owner(path, meta)
}

fn check_regular(path: &Path, meta: &Metadata) -> Result<()> {
    let kind = meta.file_type();
    if kind.is_symlink() {
        Err(LedgerError::Symlink { path: path.to_owned() })
    } else if kind.is_dir() {
        Err(LedgerError::IsDirectory { path: path.to_owned() })
    } else if kind.is_fifo() || kind.is_socket() || !kind.is_file() {
        Err(LedgerError::WrongType { path: path.to_owned(), wanted: "a regular file" })
    } else {
        Ok(())
    }
}

pub fn check_owner(path: &Path, meta: &Metadata) -> Result<()> {
    let uid = geteuid().as_raw();
    if meta.uid() == uid {
        Ok(())
    } else {
        Err(LedgerError::ForeignFile { path: path.to_owned(), owner: meta.uid(), uid })
    }
}

/// Removes the permissions of group and others from a file.
pub fn tighten(path: &Path, meta: &Metadata) -> Result<()> {
    if meta.mode() & OTHERS == 0 { Ok(()) } else { chmod(path, meta.mode() & 0o700) }
}

pub fn chmod(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))
        .map_err(|e| LedgerError::io("changing the mode of", path, e))
}

/// Makes renames and removals in a directory durable: fsync(2).
pub fn sync_directory(dir: &Path) -> io::Result<()> {
    fs::File::open(dir)?.sync_all()
}

pub fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
