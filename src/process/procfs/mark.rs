//! A task's mark: the entries `BOOKEND_TASK_ID=<id>` and `BOOKEND_LEDGER=<path>` that its processes carry in
//! their environment, as `/proc/PID/environ` shows it (proc(5)).
//!
//! Both are needed because an id is unique in its ledger only: two ledgers may have a task `nightly`. Paths
//! are compared by the file to which they lead from the root directory of the process, so a ledger may have
//! several names. If a path leads nowhere (the ledger was moved, or is not visible there), only an identical
//! path counts. Any other path leaves open to which ledger the process belongs; such a process is counted and
//! never signalled.

use std::ffi::OsStr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::process::procfs::dying;
use crate::process::procfs::identity;
use crate::process::spawn::environment::{DETACHED, LEDGER, MARK};
use crate::task::TaskId;

/// execve(2) takes 6 MiB of arguments and environment at most.
const LONGEST: usize = 8 << 20;

/// Whether a process carries a task's mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MarkState {
    /// Its environment contains both entries.
    Carried,
    /// It contains the task's id, and a ledger that may or may not be the task's.
    Doubtful,
    /// It does not, or the process has ended.
    Absent,
    /// The process exits and has released its memory.
    Exiting,
    Unreadable,
}

/// What the environment of a process shows about tasks.
#[derive(Debug)]
pub(crate) enum ProcessMarks {
    /// The entries that are marks; none if the process has ended.
    Shown(Vec<u8>),
    /// Nothing yet: it is executing a program at this moment.
    Executing,
    /// The process exits and has released its memory.
    Exiting,
    Unreadable,
}

/// What marks the processes of one task.
#[derive(Debug, Clone)]
pub struct TaskMark {
    id: Vec<u8>,
    ledger: LedgerFile,
}

/// A ledger, as processes name it.
#[derive(Debug, Clone)]
pub struct LedgerFile {
    path: PathBuf,
    /// Device and inode; `None`: it cannot be seen.
    file: Option<(u64, u64)>,
    /// The user whose file it is.
    owner: Option<u32>,
}

impl LedgerFile {
    pub fn at(path: &Path) -> LedgerFile {
        let stat = stat_at(CWD, path.as_os_str(), ResolveFlags::empty());
        let file = stat.map(|s| (s.st_dev, s.st_ino));
        LedgerFile { path: path.to_owned(), file, owner: stat.map(|s| s.st_uid) }
    }

    /// Whether the file belongs to `user`: what another user wrote into it proves nothing about processes.
    pub fn is_owned_by(&self, user: u32) -> bool {
        self.owner == Some(user)
    }

    /// Whether `named` is this ledger for a process whose root directory is at `root`. `None`:
    /// unknown.
    fn is(&self, named: &[u8], root: &str) -> Option<bool> {
        let named = OsStr::from_bytes(named);
        let there = rustix::fs::open(root, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .ok()
            .filter(|_| Path::new(named).is_absolute())
            .and_then(|root| stat_at(&root, named, ResolveFlags::IN_ROOT))
            .map(|stat| (stat.st_dev, stat.st_ino));
        match (there, self.file) {
            (Some(there), Some(here)) => Some(there == here),
            _ => (named == self.path).then_some(true),
        }
    }

    /// Whether the ledger that an environment names is this one; `None`: unknown, or none is named.
    fn is_named_in(&self, environ: &[u8], root: &str) -> Option<bool> {
        let named: Vec<_> = values(environ, LEDGER).map(|path| self.is(path, root)).collect();
        if named.contains(&Some(true)) {
            return Some(true);
        }
        named.iter().all(|n| *n == Some(false)).then_some(false).filter(|_| !named.is_empty())
    }
}

fn stat_at(root: impl std::os::fd::AsFd, path: &OsStr, resolve: ResolveFlags) -> Option<rustix::fs::Stat> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let file = rustix::fs::openat2(root, path, flags, Mode::empty(), resolve).ok()?;
    rustix::fs::fstat(&file).ok()
}

impl TaskMark {
    /// The mark of the task `id` of this ledger.
    pub fn new(id: &TaskId, ledger: LedgerFile) -> TaskMark {
        TaskMark { id: id.as_str().as_bytes().to_vec(), ledger }
    }

    pub fn id(&self) -> &[u8] {
        &self.id
    }

    pub fn ledger(&self) -> &LedgerFile {
        &self.ledger
    }

    /// What an environment shows; `root` is the path to the root directory of its process.
    fn look(&self, environ: &[u8], root: impl FnOnce() -> String) -> MarkState {
        if !values(environ, MARK).any(|id| id == self.id) {
            return MarkState::Absent;
        }
        match self.ledger.is_named_in(environ, &root()) {
            Some(true) => MarkState::Carried,
            Some(false) => MarkState::Absent,
            None => MarkState::Doubtful,
        }
    }
}

impl TaskMark {
    /// What `pid` shows.
    pub(crate) fn read(&self, pid: i32, marks: &ProcessMarks) -> MarkState {
        match marks {
            ProcessMarks::Shown(environ) => self.look(environ, || root_of(pid)),
            ProcessMarks::Executing => MarkState::Absent,
            ProcessMarks::Exiting => MarkState::Exiting,
            ProcessMarks::Unreadable => MarkState::Unreadable,
        }
    }
}

/// What `pid` shows, by its opened environment. Where the first thread has ended, the others show it.
pub(crate) fn marks_of(pid: i32, environ: rustix::io::Result<&OwnedFd>, buf: &mut Vec<u8>) -> ProcessMarks {
    match environ.and_then(|file| read_environ(file, buf)) {
        Ok([]) | Err(Errno::NOENT | Errno::SRCH) => marks_without_environment(pid, buf),
        Ok(environ) => ProcessMarks::Shown(marks_in(environ)),
        // The files of a thread that has ended belong to root.
        Err(_) if has_first_thread_ended(pid) => marks_of_threads(pid, buf),
        Err(_) => ProcessMarks::Unreadable,
    }
}

fn has_first_thread_ended(pid: i32) -> bool {
    let stat = identity::stat(pid).ok().flatten();
    stat.is_some_and(|stat| !stat.is_dead() && dying::first_thread_exits(&stat))
}

/// What a process shows whose environment is empty. Linux before 6.12 shows that of an exiting process as
/// empty too.
fn marks_without_environment(pid: i32, buf: &mut Vec<u8>) -> ProcessMarks {
    let stat = match identity::stat(pid) {
        Err(_) => return ProcessMarks::Unreadable,
        Ok(None) => return ProcessMarks::Shown(Vec::new()),
        Ok(Some(stat)) => stat,
    };
    if stat.is_dead() {
        ProcessMarks::Shown(Vec::new())
    } else if dying::first_thread_exits(&stat) {
        marks_of_threads(pid, buf)
    } else {
        marks_after_execve(pid, buf)
    }
}

/// What the threads of a process show whose first thread has ended.
fn marks_of_threads(pid: i32, buf: &mut Vec<u8>) -> ProcessMarks {
    for thread in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let path = thread.path().join("environ");
        let file = open_environ(CWD, path.as_os_str().as_bytes());
        match file.and_then(|file| read_environ(&file, buf).map(marks_in)) {
            Ok(marks) if !marks.is_empty() => return ProcessMarks::Shown(marks),
            _ => {}
        }
    }
    ProcessMarks::Exiting
}

/// What a process shows that may have executed a program since its environment was opened: then that file
/// shows nothing any more, and the new one shows nothing until execve(2) has written it.
fn marks_after_execve(pid: i32, buf: &mut Vec<u8>) -> ProcessMarks {
    let file = open_environ(CWD, format!("/proc/{pid}/environ").as_bytes());
    match file.and_then(|file| read_environ(&file, buf).map(marks_in)) {
        Ok(marks) if marks.is_empty() && has_no_environment_yet(pid) => ProcessMarks::Executing,
        Ok(marks) => ProcessMarks::Shown(marks),
        Err(Errno::NOENT | Errno::SRCH) => ProcessMarks::Shown(Vec::new()),
        Err(_) => ProcessMarks::Unreadable,
    }
}

/// Whether the address where the environment begins is not set: field 50 of proc_pid_stat(5).
fn has_no_environment_yet(pid: i32) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = line.iter().rposition(|b| *b == b')').map_or(&[][..], |close| &line[close + 1..]);
    let fields = String::from_utf8_lossy(after_name);
    fields.split_ascii_whitespace().nth(47) == Some("0")
}

/// The entries of an environment that mark anything.
pub(crate) fn marks_in(environ: &[u8]) -> Vec<u8> {
    let is_mark =
        |entry: &&[u8]| [MARK, LEDGER, DETACHED].iter().any(|name| entry.starts_with(name.as_bytes()));
    environ.split(|b| *b == 0).filter(is_mark).collect::<Vec<_>>().join(&0)
}

/// What the entries of this name say in an environment as `/proc/PID/environ` shows it.
fn values<'a>(environ: &'a [u8], name: &str) -> impl Iterator<Item = &'a [u8]> {
    environ.split(|b| *b == 0).filter_map(move |e| e.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

fn root_of(pid: i32) -> String {
    format!("/proc/{pid}/root")
}

/// Whether the process `pid` carries the mark.
pub fn carries_mark(pid: i32, mark: &TaskMark) -> MarkState {
    let mut environ = Vec::new();
    let file = open_environ(CWD, format!("/proc/{pid}/environ").as_bytes());
    mark.read(pid, &marks_of(pid, file.as_ref().map_err(|e| *e), &mut environ))
}

/// The task of the ledger at `path` that this process runs inside of, as far as is known.
pub fn enclosing(path: &Path) -> Option<TaskId> {
    let ledger = || std::env::var_os(LEDGER).and_then(|named| LedgerFile::at(path).is(named.as_bytes(), "/"));
    let own = std::env::var(MARK).ok().map(TaskId::recorded)?;
    (ledger() != Some(false)).then_some(own)
}

/// Whether this process runs inside the task `id` of the ledger at `path`, as far as is known.
pub fn is_inside(id: &TaskId, path: &Path) -> bool {
    enclosing(path).as_ref() == Some(id)
}

/// Whether a process asks to be spared by the sweep.
pub(crate) fn is_detached(marks: &ProcessMarks) -> bool {
    let ProcessMarks::Shown(environ) = marks else { return false };
    values(environ, DETACHED).any(|value| [&b"1"[..], b"true", b"yes"].contains(&value))
}

/// The ids of the tasks that an environment names.
pub(crate) fn ids_in(environ: &[u8]) -> impl Iterator<Item = &[u8]> {
    values(environ, MARK)
}

/// The id of the task whose mark is in an environment, unless that names another ledger.
pub(crate) fn marked_id(environ: &[u8], pid: i32, ledger: &LedgerFile) -> Option<TaskId> {
    let id = values(environ, MARK).next().filter(|id| !id.is_empty())?;
    let id = String::from_utf8(id.to_vec()).ok()?;
    (ledger.is_named_in(environ, &root_of(pid)) != Some(false)).then(|| TaskId::recorded(id))
}

/// Opens the environment at `path` under `dir`.
pub(crate) fn open_environ(dir: BorrowedFd<'_>, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(dir, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

/// Reads an opened environment, if it is not longer than the kernel lets one be made: a process can let it
/// seem to be as long as its whole memory.
pub(crate) fn read_environ<'a>(file: &OwnedFd, buf: &'a mut Vec<u8>) -> rustix::io::Result<&'a [u8]> {
    let mut len = 0;
    loop {
        if len > LONGEST {
            return Err(Errno::TOOBIG);
        }
        if len == buf.len() {
            buf.resize((buf.len() * 2).max(16 * 1024), 0);
        }
        match rustix::io::read(file, &mut buf[len..]) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(&buf[..len])
}

#[cfg(test)]
mod tests;
