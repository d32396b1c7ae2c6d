//! Files: reading one that others may have replaced, one in memory, and whether SQLite's was moved.

use std::ffi::c_void;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::sys::memfd::{MFdFlags, memfd_create};
use rusqlite::Connection;
use rusqlite::ffi::{SQLITE_FCNTL_DATA_VERSION, SQLITE_FCNTL_HAS_MOVED, SQLITE_OK, sqlite3_file_control};

/// The content of a regular file of at most `longest` bytes, opened with additional `flags`. In a directory
/// that others can write to, a named pipe would block its reader, and a huge file would use up all memory.
///
/// # Errors
/// Those of open(2) and read(2); `InvalidData`: it is not a regular file, or is longer.
pub fn read(path: &Path, flags: i32, longest: u64) -> io::Result<Vec<u8>> {
    read_regular(path, flags, longest).map(|(bytes, _)| bytes)
}

/// As [`read`], with the attributes of the file that was read.
///
/// # Errors
/// As [`read`].
pub fn read_regular(path: &Path, flags: i32, longest: u64) -> io::Result<(Vec<u8>, Metadata)> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags | libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC)
        .open(path)?;
    let refused = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidData, why));
    let attributes = file.metadata()?;
    if !attributes.is_file() {
        return refused("it is not a regular file");
    }
    let mut bytes = Vec::new();
    file.take(longest + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > longest { refused("it is too long") } else { Ok((bytes, attributes)) }
}

/// An unnamed file in memory that contains `bytes`, positioned at its beginning.
///
/// # Errors
/// When the kernel has no memory or no descriptor left.
pub fn memory_file(name: &str, bytes: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}

/// Whether the file that `conn` has open is no longer at its path: it was renamed, removed or replaced.
/// `SQLITE_FCNTL_HAS_MOVED` of <https://www.sqlite.org/c3ref/c_fcntl_begin_atomic_write.html>; if
/// SQLite cannot tell, it counts as moved.
pub fn has_moved(conn: &Connection) -> bool {
    let mut moved: libc::c_int = 1;
    // SAFETY: the handle is valid while `conn` is borrowed; the name is a literal with its NUL; the operation
    // writes one int, which outlives the call.
    let said = unsafe {
        sqlite3_file_control(
            conn.handle(),
            c"main".as_ptr(),
            SQLITE_FCNTL_HAS_MOVED,
            (&raw mut moved).cast::<c_void>(),
        )
    };
    said != SQLITE_OK || moved != 0
}

/// The version of the data that `conn` read last: it changes with each commit to the file, by any process.
/// `SQLITE_FCNTL_DATA_VERSION` of <https://www.sqlite.org/c3ref/c_fcntl_begin_atomic_write.html>. `None`:
/// SQLite cannot tell.
pub fn data_version(conn: &Connection) -> Option<u32> {
    let mut version: libc::c_uint = 0;
    // SAFETY: the handle is valid while `conn` is borrowed; the name is a literal with its NUL; the operation
    // writes one unsigned int, which outlives the call.
    let said = unsafe {
        sqlite3_file_control(
            conn.handle(),
            c"main".as_ptr(),
            SQLITE_FCNTL_DATA_VERSION,
            (&raw mut version).cast::<c_void>(),
        )
    };
    (said == SQLITE_OK).then_some(version)
}
