//! Reading a regular file, whatever somebody may have laid at its path.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// All of a regular file that has `longest` bytes at most, opened with `flags` besides. Where others may lay
/// files, a named pipe would keep its reader for ever, and a long file take all memory.
///
/// # Errors
/// Those of open(2) and read(2); `InvalidData` for what is no regular file, or is longer.
pub fn read(path: &Path, flags: i32, longest: u64) -> io::Result<Vec<u8>> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags | libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC)
        .open(path)?;
    let refused = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidData, why));
    if !file.metadata()?.is_file() {
        return refused("it is not a regular file");
    }
    let mut bytes = Vec::new();
    file.take(longest + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > longest { refused("it is too long") } else { Ok(bytes) }
}
