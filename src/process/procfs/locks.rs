//! Which processes hold a lock of a file, as the kernel shows it: `/proc/PID/fdinfo` of proc_pid_fdinfo(5).
//! Unlike the rows of a ledger that others may write to, it cannot be forged by another user.

use std::fs;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;

/// A file, by device and inode, and the bytes of it whose locks count.
#[derive(Debug, Clone)]
pub struct LockedBytes {
    pub dev: u64,
    pub ino: u64,
    pub bytes: Range<i64>,
}

/// Whether `pid` has the file open with an open-file-description write lock on one of the bytes. `None`: its
/// descriptors may not be read.
pub fn holds(pid: i32, locked: &LockedBytes) -> Option<bool> {
    let list = match fs::read_dir(format!("/proc/{pid}/fdinfo")) {
        Ok(list) => list,
        Err(e) => return is_gone(&e).then_some(false),
    };
    let mut names = list.flatten().map(|entry| entry.file_name());
    Some(names.any(|name| {
        let name = name.to_string_lossy();
        let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{name}")).unwrap_or_default();
        let is_it = |m: fs::Metadata| (m.dev(), m.ino()) == (locked.dev, locked.ino);
        info.lines().filter_map(locked_byte).any(|byte| locked.bytes.contains(&byte))
            && fs::metadata(format!("/proc/{pid}/fd/{name}")).is_ok_and(is_it)
    }))
}

fn is_gone(e: &io::Error) -> bool {
    e.kind() == ErrorKind::NotFound || e.raw_os_error() == Some(libc::ESRCH)
}

/// The first byte of an open-file-description write lock: `lock: 1: OFDLCK ADVISORY WRITE -1 08:01:42 7 7`.
fn locked_byte(line: &str) -> Option<i64> {
    let words: Vec<&str> = line.strip_prefix("lock:")?.split_ascii_whitespace().collect();
    let is_ours = words.get(1) == Some(&"OFDLCK") && words.get(3) == Some(&"WRITE");
    words.get(6).filter(|_| is_ours)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use nix::fcntl::{FcntlArg, fcntl};

    use super::*;

    #[test]
    fn a_lock_of_this_process_is_seen_with_its_byte() {
        let file = tempfile::tempfile().unwrap();
        let meta = file.metadata().unwrap();
        let here = |bytes| {
            let locked = LockedBytes { dev: meta.dev(), ino: meta.ino(), bytes };
            holds(std::process::id() as i32, &locked)
        };
        assert_eq!(here(0..100), Some(false), "nothing is locked yet");
        let byte = libc::flock {
            l_type: libc::F_WRLCK as i16,
            l_whence: libc::SEEK_SET as i16,
            l_start: 42,
            l_len: 1,
            l_pid: 0,
        };
        fcntl(&file, FcntlArg::F_OFD_SETLK(&byte)).unwrap();
        assert_eq!(here(0..100), Some(true));
        assert_eq!(here(43..100), Some(false), "another byte");
        let other = File::open("/proc/self/stat").unwrap().metadata().unwrap();
        let locked = LockedBytes { dev: other.dev(), ino: other.ino(), bytes: 0..100 };
        assert_eq!(holds(std::process::id() as i32, &locked), Some(false), "another file");
    }

    #[test]
    fn only_write_locks_of_open_file_descriptions_count() {
        let byte = |line| locked_byte(line);
        assert_eq!(byte("lock:\t1: OFDLCK  ADVISORY  WRITE -1 08:01:42 7 7"), Some(7));
        assert_eq!(byte("lock:\t1: OFDLCK  ADVISORY  READ -1 08:01:42 7 7"), None);
        assert_eq!(byte("lock:\t1: POSIX  ADVISORY  WRITE 99 08:01:42 7 7"), None);
        assert_eq!(byte("pos:\t0"), None);
    }
}
