//! Marks in environments, and environments that cannot be read.

use std::process::Command;

use super::*;

fn whose(id: &str) -> TaskMark {
    TaskMark::new(&TaskId::recorded(id), LedgerFile::at(Path::new("/no/ledger")))
}

fn look(whose: &TaskMark, environ: &str) -> MarkState {
    whose.look(environ.replace('|', "\0").as_bytes(), || "/".to_owned())
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
            .env("BOOKEND_LEDGER", "/no/ledger")
            .spawn()
            .unwrap();
        let pid = child.id() as i32;
        assert_eq!(carries_mark(pid, &whose("abc")), MarkState::Carried, "{filled}");
        assert_eq!(carries_mark(pid, &whose("ab")), MarkState::Absent, "{filled}");
        let path = format!("/proc/{pid}/environ");
        let mut buf = Vec::new();
        let environ = open_environ(CWD, path.as_bytes()).unwrap();
        assert_eq!(read_environ(&environ, &mut buf).unwrap(), std::fs::read(&path).unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(carries_mark(pid, &whose("abc")), MarkState::Absent, "it has ended");
    }
}

#[test]
fn an_environment_that_cannot_be_read_is_neither_marked_nor_unmarked() {
    let look = |path: &[u8]| {
        let file = open_environ(CWD, path);
        whose("abc").read(1, &marks_of(i32::MAX, file.as_ref().map_err(|e| *e), &mut Vec::new()))
    };
    // A directory opens and does not read.
    assert_eq!(look(b"/proc/self/task"), MarkState::Unreadable);
    assert_eq!(look(b"/proc/self/stat/none"), MarkState::Unreadable);
    assert_eq!(look(b"/proc/self/none"), MarkState::Absent);
}

#[test]
fn a_process_without_environment_is_not_taken_for_one_that_is_executing_a_program() {
    use std::io::Read;
    let mut child = Command::new("sh")
        .args(["-c", "echo; exec env -i sleep 1000"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let pid = child.id() as i32;
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let path = format!("/proc/{pid}/environ");
    let is_empty = || std::fs::read(&path).unwrap().is_empty() && !has_no_environment_yet(pid);
    while std::fs::read(format!("/proc/{pid}/comm")).unwrap() != b"sleep\n" || !is_empty() {
        std::thread::yield_now();
    }
    let environ = open_environ(CWD, path.as_bytes()).unwrap();
    let marks = marks_of(pid, Ok(&environ), &mut Vec::new());
    assert!(matches!(&marks, ProcessMarks::Shown(none) if none.is_empty()), "{marks:?}");
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The environment that was opened before shows nothing any more.
#[test]
fn the_mark_is_found_of_a_process_that_executed_a_program_after_its_environment_was_opened() {
    use std::io::{Read, Write};
    let mut child = Command::new("sh")
        .args(["-c", "echo; read go; exec sleep 1000"])
        .envs([("BOOKEND_TASK_ID", "abc"), ("BOOKEND_LEDGER", "/no/ledger")])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let pid = child.id() as i32;
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let environ = open_environ(CWD, format!("/proc/{pid}/environ").as_bytes()).unwrap();
    child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    while std::fs::read(format!("/proc/{pid}/comm")).unwrap() != b"sleep\n" || has_no_environment_yet(pid) {
        std::thread::yield_now();
    }
    let marks = marks_of(pid, Ok(&environ), &mut Vec::new());
    assert_eq!(whose("abc").read(pid, &marks), MarkState::Carried, "{marks:?}");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn only_whole_values_are_the_mark() {
    let whose = whose("abc");
    assert_eq!(look(&whose, "A=1|BOOKEND_TASK_ID=abc|BOOKEND_LEDGER=/no/ledger|B=2"), MarkState::Carried);
    assert_eq!(look(&whose, "BOOKEND_LEDGER=/no/ledger|BOOKEND_TASK_ID=abc"), MarkState::Carried);
    for other in [
        "BOOKEND_TASK_ID=abcd",
        "BOOKEND_TASK_ID=ab",
        "XBOOKEND_TASK_ID=abc",
        "X=BOOKEND_TASK_ID=abc",
        "BOOKEND_TASK_ID=abc ",
        "BOOKEND_TASK_IDX=abc",
        "",
    ] {
        assert_eq!(look(&whose, &format!("{other}|BOOKEND_LEDGER=/no/ledger")), MarkState::Absent, "{other}");
    }
}

#[test]
fn the_ledger_counts_as_the_file_that_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::create_dir(path("real")).unwrap();
    std::os::unix::fs::symlink("real", path("link")).unwrap();
    for name in ["real/l.db", "other.db"] {
        std::fs::write(path(name), "").unwrap();
    }
    let whose = TaskMark::new(&TaskId::recorded("abc"), LedgerFile::at(&path("real/l.db")));
    let named =
        |name: &str| look(&whose, &format!("BOOKEND_TASK_ID=abc|BOOKEND_LEDGER={}", path(name).display()));
    assert_eq!([named("real/l.db"), named("link/../link/l.db")], [MarkState::Carried; 2]);
    assert_eq!(named("other.db"), MarkState::Absent, "another ledger's task");
    assert_eq!(named("gone.db"), MarkState::Doubtful, "perhaps its former place");
    assert_eq!(look(&whose, "BOOKEND_TASK_ID=abc"), MarkState::Doubtful);
    assert_eq!(look(&whose, "BOOKEND_TASK_ID=abc|BOOKEND_LEDGER=l.db"), MarkState::Doubtful);
    std::fs::rename(path("real/l.db"), path("moved.db")).unwrap();
    let moved = TaskMark::new(&TaskId::recorded("abc"), LedgerFile::at(&path("moved.db")));
    let former = format!("BOOKEND_TASK_ID=abc|BOOKEND_LEDGER={}", path("real/l.db").display());
    assert_eq!(look(&moved, &former), MarkState::Doubtful);
    std::fs::write(path("real/l.db"), "").unwrap();
    assert_eq!(look(&moved, &former), MarkState::Absent, "a new ledger has taken its place");
}

#[test]
fn the_mark_tells_whose_a_process_is() {
    let ledger = LedgerFile::at(Path::new("/no/ledger"));
    let id = |environ: &[u8]| marked_id(environ, std::process::id() as i32, &ledger);
    assert_eq!(id(b"A=1\0BOOKEND_TASK_ID=abc\0BOOKEND_LEDGER=/no/ledger\0"), Some(TaskId::recorded("abc")));
    assert_eq!(id(b"BOOKEND_TASK_ID=\0XBOOKEND_TASK_ID=abc\0"), None);
    let here = LedgerFile::at(Path::new("/proc/self/stat"));
    let of_another = b"BOOKEND_TASK_ID=abc\0BOOKEND_LEDGER=/proc/self/status\0";
    assert_eq!(marked_id(of_another, std::process::id() as i32, &here), None);
}

#[test]
fn an_environment_is_read_up_to_the_longest_that_can_be_given_and_no_further() {
    let file = OwnedFd::from(tempfile::tempfile().unwrap());
    let read = |len: usize| {
        rustix::fs::ftruncate(&file, len as u64).unwrap();
        rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0)).unwrap();
        read_environ(&file, &mut Vec::new()).map(<[u8]>::len)
    };
    assert_eq!(read(LONGEST), Ok(LONGEST));
    assert_eq!(read(LONGEST + 1), Err(Errno::TOOBIG));
}

/// Opening a pipe would block until another process writes into it, and opening a device may have
/// effects.
#[test]
fn what_an_environment_names_as_its_ledger_is_never_opened() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("l.db"), "").unwrap();
    // It can be looked at, and cannot be opened.
    let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
    let named = |named: &str, ledger: &str| {
        let environ = format!("BOOKEND_TASK_ID=abc|BOOKEND_LEDGER={}", path(named).display());
        look(&TaskMark::new(&TaskId::recorded("abc"), LedgerFile::at(&path(ledger))), &environ)
    };
    assert_eq!(named("socket", "l.db"), MarkState::Absent);
    assert_eq!(named("socket", "socket"), MarkState::Carried);
}

#[test]
fn a_ledger_is_found_below_a_root_that_may_be_passed_through_and_not_read() {
    use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
    use std::os::unix::fs::PermissionsExt;
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("l.db"), "").unwrap();
    std::fs::set_permissions(root.path(), std::fs::Permissions::from_mode(0o100)).unwrap();
    let look = || {
        let none = CapabilitySet::empty();
        // Of this thread only: the modes of files count for it as for anybody.
        set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
            .unwrap();
        assert!(std::fs::read_dir(root.path()).is_err(), "it cannot be read");
        LedgerFile::at(&root.path().join("l.db")).is(b"/l.db", root.path().to_str().unwrap())
    };
    assert_eq!(std::thread::scope(|s| s.spawn(look).join().unwrap()), Some(true));
}

#[test]
fn of_an_environment_only_the_marks_are_kept() {
    let environ = b"A=1\0BOOKEND_TASK_ID=abc\0B=BOOKEND_LEDGER\0BOOKEND_LEDGER=/l\0XBOOKEND_LEDGER=/m\0";
    assert_eq!(marks_in(environ), b"BOOKEND_TASK_ID=abc\0BOOKEND_LEDGER=/l");
    assert_eq!(marks_in(b"A=1\0"), b"");
    assert_eq!(marks_in(b"BOOKEND_DETACHED=1\0A=1\0"), b"BOOKEND_DETACHED=1");
}
