//! Whether a file may be used as a file of the ledger: its type, its owner, its mode.

use std::fs::{self, Metadata, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use nix::unistd::geteuid;

use super::error::{LedgerError, Result};

pub const OTHERS: u32 = 0o077;

/// Whether the ledger, or a file of its own beside it, may be used as it lies there. `None`: it is missing.
pub fn check_file(path: &Path) -> Result<Option<Metadata>> {
    let Some(meta) = check_type(path)? else {
        return Ok(None);
    };
    check_owner(path, &meta)?;
    Ok(Some(meta))
}

/// As [`check_file`], of one that has to be there.
pub fn check_own(path: &Path) -> Result<Metadata> {
    let missing = || LedgerError::io("looking at", path, io::Error::from_raw_os_error(libc::ENOENT));
    check_file(path)?.ok_or_else(missing)
}

/// That a path names a regular file itself, or nothing.
pub fn check_type(path: &Path) -> Result<Option<Metadata>> {
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(LedgerError::io("looking at", path, e)),
    };
    check_regular(path, &meta)?;
    Ok(Some(meta))
}

/// That an opened file is a regular one of our own.
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

/// Takes from a file what others may do with it.
pub fn tighten(path: &Path, meta: &Metadata) -> Result<()> {
    if meta.mode() & OTHERS == 0 { Ok(()) } else { chmod(path, meta.mode() & 0o700) }
}

pub fn chmod(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))
        .map_err(|e| LedgerError::io("making private", path, e))
}

/// Makes what was renamed or removed in a directory durable. fsync(2).
pub fn sync_directory(dir: &Path) -> io::Result<()> {
    fs::File::open(dir)?.sync_all()
}

pub fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
