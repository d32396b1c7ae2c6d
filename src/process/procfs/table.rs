//! One picture of all processes that `/proc` shows: who is below whom.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, RawDir, SeekFrom};
use rustix::io::Errno;

use crate::process::procfs::identity::{self, ProcessStat};
use crate::process::procfs::mark::{self, LedgerFile, MarkState, ProcessMarks, TaskMark};
use crate::task::TaskId;

/// The way to `/proc`, with the buffers that every picture reuses.
pub struct ProcFs {
    dir: OwnedFd,
    entries: Vec<u8>,
    environ: Vec<u8>,
    /// Of the processes of the last picture, those that were asked for their marks.
    seen: HashMap<i32, Seen>,
}

/// What a process has shown of itself.
struct Seen {
    /// Whose it is, where that could be told.
    owner: Option<u32>,
    /// Its marks; `None`: they concerned nobody yet.
    marks: Option<ProcessMarks>,
}

impl ProcFs {
    /// # Errors
    /// `/proc` is not mounted, or is another pid namespace's.
    pub fn open() -> io::Result<ProcFs> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open("/proc", flags, Mode::empty())?;
        if !identity::proc_is_ours() {
            let text = "it does not show this process under its own pid";
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        let entries = Vec::with_capacity(32 * 1024);
        Ok(ProcFs { dir, entries, environ: Vec::new(), seen: HashMap::new() })
    }

    /// Takes a picture of all processes.
    ///
    /// # Errors
    /// `/proc` cannot be listed. A process that cannot be read is left out.
    pub fn read(&mut self, table: &mut ProcessSnapshot) -> io::Result<()> {
        rustix::fs::seek(&self.dir, SeekFrom::Start(0))?;
        let dir = self.dir.as_fd();
        let mut rows = std::mem::take(&mut table.rows);
        rows.clear();
        each_pid(dir, &mut self.entries, |pid| rows.extend(stat_of(dir, pid)))?;
        *table = ProcessSnapshot::of(rows);
        self.seen.clear();
        Ok(())
    }

    /// Whether `pid` carries a mark in its environment, and whose process it is where that could be told.
    /// The environment is read only if its owner `concerns` us: it is memory of that process, which can
    /// let its reader wait, so that root would wait for whoever likes. It is read once for all who ask of
    /// one picture.
    pub fn mark(
        &mut self,
        pid: i32,
        whose: &TaskMark,
        concerns: impl Fn(u32) -> bool,
    ) -> (MarkState, Option<u32>) {
        let (marks, owner) = self.marks(pid, concerns);
        (marks.map_or(MarkState::Absent, |marks| whose.read(pid, marks)), owner)
    }

    /// What `pid` shows; `None`: it concerns nobody yet.
    pub(crate) fn marks(
        &mut self,
        pid: i32,
        concerns: impl Fn(u32) -> bool,
    ) -> (Option<&ProcessMarks>, Option<u32>) {
        let known = self.seen.remove(&pid).filter(|s| s.marks.is_some() || !s.owner.is_some_and(&concerns));
        let seen = known.unwrap_or_else(|| self.see(pid, concerns));
        let seen = self.seen.entry(pid).insert_entry(seen).into_mut();
        (seen.marks.as_ref(), seen.owner)
    }

    fn see(&mut self, pid: i32, concerns: impl Fn(u32) -> bool) -> Seen {
        let mut path = [0; 24];
        let file = mark::open_environ(self.dir.as_fd(), name(pid, "environ", &mut path));
        let owner = self.owner(pid, file.as_ref().ok());
        let is_gone = matches!(file, Err(Errno::NOENT | Errno::SRCH));
        let marks = match &file {
            Err(_) if !is_gone => Some(ProcessMarks::Unreadable),
            _ if owner.is_some_and(concerns) => {
                Some(mark::marks_of(pid, file.as_ref().map_err(|e| *e), &mut self.environ))
            }
            _ => None,
        };
        Seen { owner, marks }
    }

    /// The task whose mark `pid` carries, if it is `user`'s process and names no other ledger.
    pub fn marked_id(&mut self, pid: i32, user: u32, ledger: &LedgerFile) -> Option<TaskId> {
        match self.marks(pid, |owner| owner == user) {
            (Some(ProcessMarks::Shown(environ)), Some(owner)) if owner == user => {
                mark::marked_id(environ, pid, ledger)
            }
            _ => None,
        }
    }

    /// The effective user of a process, by its opened environment. What may not be dumped looks like root's.
    fn owner(&self, pid: i32, environ: Option<&OwnedFd>) -> Option<u32> {
        match environ.and_then(|f| rustix::fs::fstat(f).ok()).map(|s| s.st_uid) {
            Some(0) | None => self.user(pid),
            user => user,
        }
    }

    fn user(&self, pid: i32) -> Option<u32> {
        let mut path = [0; 24];
        identity::user_at(self.dir.as_fd(), name(pid, "status", &mut path))
    }
}

fn stat_of(dir: BorrowedFd<'_>, pid: i32) -> Option<ProcessStat> {
    let mut path = [0; 24];
    let mut buf = [0; 1024];
    let len = identity::read_at(dir, name(pid, "stat", &mut path), &mut buf).ok()?;
    identity::parse_stat(&buf[..len])
}

/// `PID/file`, without an allocation for each of hundreds of processes.
fn name<'a>(pid: i32, file: &str, buf: &'a mut [u8; 24]) -> &'a [u8] {
    use io::Write as _;
    let mut rest = &mut buf[..];
    let written = write!(rest, "{pid}/{file}");
    debug_assert!(written.is_ok());
    let left = rest.len();
    &buf[..24 - left]
}

/// Calls `visit` with each pid that `/proc` lists from here on.
fn each_pid(dir: BorrowedFd<'_>, buf: &mut Vec<u8>, mut visit: impl FnMut(i32)) -> io::Result<()> {
    let mut entries = RawDir::new(dir, buf.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let digits = entry.file_name().to_str().ok();
        if let Some(pid) = digits.and_then(|d| d.parse().ok()) {
            visit(pid);
        }
    }
    Ok(())
}

/// The picture.
#[derive(Default)]
pub struct ProcessSnapshot {
    rows: Vec<ProcessStat>,
}

impl ProcessSnapshot {
    pub fn of(mut rows: Vec<ProcessStat>) -> ProcessSnapshot {
        rows.sort_unstable_by_key(|s| s.pid);
        ProcessSnapshot { rows }
    }

    pub fn rows(&self) -> &[ProcessStat] {
        &self.rows
    }

    pub fn index(&self, pid: i32) -> Option<usize> {
        self.rows.binary_search_by_key(&pid, |s| s.pid).ok()
    }

    /// The ancestors of row `of`, from its parent upwards. They end in any case: a picture that was taken
    /// while processes moved may hold a circle.
    pub fn above(&self, of: usize) -> impl Iterator<Item = usize> + '_ {
        let up = |i: &usize| self.index(self.rows[*i].ppid);
        std::iter::successors(up(&of), move |i| up(i)).take(self.rows.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_stand_in_the_picture_below_our_parent() {
        let mut proc = ProcFs::open().unwrap();
        let mut table = ProcessSnapshot::default();
        proc.read(&mut table).unwrap();
        let me = table.index(std::process::id() as i32).unwrap();
        assert_eq!(table.above(me).next().map(|i| table.rows()[i].pid), Some(table.rows()[me].ppid));
    }

    #[test]
    fn a_circle_of_parents_ends() {
        let line = |pid: i32, ppid: i32| {
            identity::parse_stat(
                format!("{pid} (a) S {ppid} 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 5 0").as_bytes(),
            )
            .unwrap()
        };
        let table = ProcessSnapshot::of(vec![line(3, 2), line(2, 3)]);
        assert!(table.above(0).count() <= 2);
    }
}
