//! A task's mark: the entry `BOOKEND_TASK_ID=<id>` that its processes carry in their environment, as
//! `/proc/PID/environ` shows it (proc(5)).

use std::os::fd::BorrowedFd;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

/// Whether a process carries a task's mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// `BOOKEND_TASK_ID=<id>` stands in its environment.
    Carried,
    /// It does not, or the process is gone.
    Absent,
    Unreadable,
}

/// The whole entry that a process of the task `task_id` has in its environment.
pub(super) fn mark_of(task_id: &str) -> Vec<u8> {
    [b"BOOKEND_TASK_ID=", task_id.as_bytes()].concat()
}

/// Whether `mark` is one entry of an environment as `/proc/PID/environ` shows it.
pub(super) fn has_entry(environ: &[u8], mark: &[u8]) -> bool {
    environ.split(|b| *b == 0).any(|entry| entry == mark)
}

/// Whether the process `pid` carries the mark of the task `task_id`.
pub fn carries_mark(pid: i32, task_id: &str) -> Mark {
    read_mark(CWD, format!("/proc/{pid}/environ").as_bytes(), &mark_of(task_id), &mut Vec::new()).0
}

/// The id of the task whose mark stands in an environment.
pub(super) fn marked_id(environ: &[u8]) -> Option<String> {
    let id = environ.split(|b| *b == 0).find_map(|entry| entry.strip_prefix(b"BOOKEND_TASK_ID="))?;
    String::from_utf8(id.to_vec()).ok().filter(|id| !id.is_empty())
}

/// As [`carries_mark`], of the environment at `path` under `dir`, with the user it belongs to (the
/// process's effective one) where it could be opened.
pub(super) fn read_mark(
    dir: BorrowedFd<'_>,
    path: &[u8],
    mark: &[u8],
    buf: &mut Vec<u8>,
) -> (Mark, Option<u32>) {
    let (environ, owner) = read_environ(dir, path, buf);
    let mark = match environ {
        Ok(environ) if has_entry(environ, mark) => Mark::Carried,
        Ok(_) | Err(Errno::NOENT | Errno::SRCH) => Mark::Absent,
        Err(_) => Mark::Unreadable,
    };
    (mark, owner)
}

/// The environment at `path` under `dir`, and the user it belongs to where it could be opened.
pub(super) fn read_environ<'a>(
    dir: BorrowedFd<'_>,
    path: &[u8],
    buf: &'a mut Vec<u8>,
) -> (rustix::io::Result<&'a [u8]>, Option<u32>) {
    let file = match rustix::fs::openat(dir, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(file) => file,
        Err(e) => return (Err(e), None),
    };
    let owner = rustix::fs::fstat(&file).ok().map(|s| s.st_uid);
    let mut len = 0;
    loop {
        if len == buf.len() {
            buf.resize((buf.len() * 2).max(16 * 1024), 0);
        }
        match rustix::io::read(&file, &mut buf[len..]) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(Errno::INTR) => {}
            Err(e) => return (Err(e), owner),
        }
    }
    (Ok(&buf[..len]), owner)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_mark_tells_whose_a_process_is() {
        assert_eq!(marked_id(b"A=1\0BOOKEND_TASK_ID=abc\0").as_deref(), Some("abc"));
        assert_eq!(marked_id(b"BOOKEND_TASK_ID=\0XBOOKEND_TASK_ID=abc\0"), None);
    }

    #[test]
    fn a_mark_behind_any_length_of_environment_is_found_and_says_whose_process_it_is() {
        // Around the sizes at which the buffer grows: it starts with 16 KiB.
        for filled in [10, 16 * 1024 - 40, 16 * 1024, 40_000, 100_000] {
            let mut child = Command::new("sleep")
                .arg("1000")
                .env_clear()
                .env("AAA", "x".repeat(filled))
                .env("BOOKEND_TASK_ID", "abc")
                .spawn()
                .unwrap();
            let pid = child.id() as i32;
            assert_eq!(carries_mark(pid, "abc"), Mark::Carried, "{filled}");
            assert_eq!(carries_mark(pid, "ab"), Mark::Absent, "{filled}");
            let path = format!("/proc/{pid}/environ");
            let mut buf = Vec::new();
            let (environ, owner) = read_environ(CWD, path.as_bytes(), &mut buf);
            assert_eq!(environ.unwrap(), std::fs::read(&path).unwrap());
            assert_eq!(owner, Some(rustix::process::geteuid().as_raw()));
            child.kill().unwrap();
            child.wait().unwrap();
            assert_eq!(carries_mark(pid, "abc"), Mark::Absent, "it is gone");
        }
    }

    #[test]
    fn an_environment_that_cannot_be_read_is_neither_marked_nor_unmarked() {
        // A directory opens and does not read.
        let (mark, owner) = read_mark(CWD, b"/proc/self/task", &mark_of("abc"), &mut Vec::new());
        assert_eq!((mark, owner), (Mark::Unreadable, Some(rustix::process::geteuid().as_raw())));
        let (mark, owner) = read_mark(CWD, b"/proc/self/stat/none", &mark_of("abc"), &mut Vec::new());
        assert_eq!((mark, owner), (Mark::Unreadable, None));
        let (mark, owner) = read_mark(CWD, b"/proc/self/none", &mark_of("abc"), &mut Vec::new());
        assert_eq!((mark, owner), (Mark::Absent, None));
    }

    #[test]
    fn only_a_whole_value_is_the_mark() {
        let mark = mark_of("abc");
        assert!(has_entry(b"A=1\0BOOKEND_TASK_ID=abc\0B=2\0", &mark));
        assert!(has_entry(b"BOOKEND_TASK_ID=abc", &mark));
        let others: [&[u8]; 6] = [
            b"BOOKEND_TASK_ID=abcd\0",
            b"BOOKEND_TASK_ID=ab\0",
            b"XBOOKEND_TASK_ID=abc\0",
            b"X=BOOKEND_TASK_ID=abc\0",
            b"BOOKEND_TASK_ID=abc \0",
            b"",
        ];
        for other in others {
            assert!(!has_entry(other, &mark), "{}", other.escape_ascii());
        }
    }
}
