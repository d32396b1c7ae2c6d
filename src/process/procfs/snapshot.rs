//! A snapshot of all processes that `/proc` shows, with their ancestry.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, RawDir, SeekFrom};
use rustix::io::Errno;

use crate::process::procfs::identity::{self, ProcessStat};
use crate::process::procfs::mark::{self, LedgerFile, MarkState, ProcessMarks, TaskMark};
use crate::task::TaskId;

/// How long after its start a process is read again by [`ProcFs::update`], in clock ticks: it may have been
/// forked and not yet have executed its program.
const YOUNG: u64 = 100;

/// An open `/proc`, with the buffers that all snapshots share.
pub struct ProcFs {
    dir: OwnedFd,
    entries: Vec<u8>,
    environ: Vec<u8>,
    /// What `/proc` listed for the last snapshot.
    listed: ProcessList,
    /// The processes of the last snapshot whose marks were asked for.
    seen: HashMap<i32, Seen>,
}

/// The processes that `/proc` lists, by pid, each with the inode of its directory. While a process exists its
/// directory keeps the inode or, if the kernel needed the memory, gets another one; another process with the
/// pid never has it (`proc_pid_make_inode` and `proc_flush_pid` of the kernel's fs/proc/base.c).
#[derive(Default)]
struct ProcessList(Vec<(i32, u64)>);

impl ProcessList {
    fn inode(&self, pid: i32) -> Option<u64> {
        self.0.binary_search_by_key(&pid, |(pid, _)| *pid).ok().map(|i| self.0[i].1)
    }

    /// Whether both list this process.
    fn both_have(&self, other: &ProcessList, pid: i32) -> bool {
        self.inode(pid).is_some_and(|inode| other.inode(pid) == Some(inode))
    }
}

/// What a process shows of itself.
struct Seen {
    /// Its user, if known.
    owner: Option<u32>,
    /// Its marks; `None`: no caller was concerned by its user yet.
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
        let listed = ProcessList::default();
        Ok(ProcFs { dir, entries, environ: Vec::new(), listed, seen: HashMap::new() })
    }

    /// Takes a snapshot of all processes.
    ///
    /// # Errors
    /// `/proc` cannot be listed. A process that cannot be read is missing.
    pub fn read(&mut self, snapshot: &mut ProcessSnapshot) -> io::Result<()> {
        let mut rows = std::mem::take(&mut snapshot.rows);
        rows.clear();
        self.seen.clear();
        let dir = self.dir.as_fd();
        self.listed = list(dir, &mut self.entries, |pid| rows.extend(stat_of(dir, pid)))?;
        *snapshot = ProcessSnapshot::of(rows);
        Ok(())
    }

    /// Brings a snapshot that was taken a moment ago up to date: reads what has begun since, what has lost
    /// its parent, and what may not have shown its environment. That finds what was forked by a process that
    /// then ended before it was read, at a fraction of the cost of a second snapshot.
    ///
    /// # Errors
    /// As [`ProcFs::read`].
    pub fn update(&mut self, snapshot: &mut ProcessSnapshot) -> io::Result<()> {
        let dir = self.dir.as_fd();
        let now = list(dir, &mut self.entries, |_| ())?;
        let before = std::mem::replace(&mut self.listed, now);
        let now = &self.listed;
        let mut rows = std::mem::take(&mut snapshot.rows);
        let youngest = rows.iter().map(|s| s.start).max().unwrap_or_default();
        let is_settled = |s: &ProcessStat| {
            let keeps_parent = s.ppid == 0 || now.both_have(&before, s.ppid);
            now.both_have(&before, s.pid) && keeps_parent && s.start.saturating_add(YOUNG) < youngest
        };
        rows.retain(is_settled);
        let kept: HashSet<i32> = rows.iter().map(|s| s.pid).collect();
        self.seen.retain(|pid, seen| kept.contains(pid) && seen.is_conclusive());
        let again = now.0.iter().filter(|(pid, _)| !kept.contains(pid));
        rows.extend(again.filter_map(|(pid, _)| stat_of(dir, *pid)));
        *snapshot = ProcessSnapshot::of(rows);
        Ok(())
    }

    /// Whether `pid` carries a mark in its environment, and its user if known. The environment is read only
    /// if its user `concerns` the caller: it is memory of that process, which can delay its reader, so any
    /// user could delay root. It is read once per snapshot.
    pub fn mark(
        &mut self,
        pid: i32,
        whose: &TaskMark,
        concerns: impl Fn(u32) -> bool,
    ) -> (MarkState, Option<u32>) {
        let (marks, owner) = self.marks(pid, concerns);
        (marks.map_or(MarkState::Absent, |marks| whose.read(pid, marks)), owner)
    }

    /// What `pid` shows; `None`: its user concerns no caller yet.
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
        let has_ended = matches!(file, Err(Errno::NOENT | Errno::SRCH));
        let marks = match &file {
            _ if owner.is_some_and(concerns) => {
                Some(mark::marks_of(pid, file.as_ref().map_err(|e| *e), &mut self.environ))
            }
            Err(_) if !has_ended => Some(ProcessMarks::Unreadable),
            _ => None,
        };
        Seen { owner, marks }
    }

    /// Whether a process was executing a program when its marks were asked for.
    pub(crate) fn is_one_executing(&self) -> bool {
        self.seen.values().any(|s| matches!(s.marks, Some(ProcessMarks::Executing)))
    }

    /// The task whose mark `pid` carries, if it is a process of `user` and names no other ledger.
    pub fn marked_id(&mut self, pid: i32, user: u32, ledger: &LedgerFile) -> Option<TaskId> {
        match self.marks(pid, |owner| owner == user) {
            (Some(ProcessMarks::Shown(environ)), Some(owner)) if owner == user => {
                mark::marked_id(environ, pid, ledger)
            }
            _ => None,
        }
    }

    /// The effective user of a process, from its opened environment. The files of a process that may not be
    /// dumped belong to root, but not its directory: `task_dump_owner` of the kernel's fs/proc/base.c.
    fn owner(&self, pid: i32, environ: Option<&OwnedFd>) -> Option<u32> {
        let by_file = environ.and_then(|f| rustix::fs::fstat(f).ok()).map(|s| s.st_uid);
        by_file.filter(|user| *user != 0).or_else(|| {
            let mut path = [0; 24];
            let directory = name(pid, "", &mut path);
            rustix::fs::statat(&self.dir, directory, AtFlags::empty()).ok().map(|s| s.st_uid)
        })
    }
}

impl Seen {
    /// Whether a second look would show the same, unless the process executes another program meanwhile.
    fn is_conclusive(&self) -> bool {
        matches!(self.marks, None | Some(ProcessMarks::Shown(_)))
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

/// Lists the processes, and calls `visit` with each pid.
fn list(dir: BorrowedFd<'_>, buf: &mut Vec<u8>, mut visit: impl FnMut(i32)) -> io::Result<ProcessList> {
    rustix::fs::seek(dir, SeekFrom::Start(0))?;
    let mut list = Vec::new();
    let mut entries = RawDir::new(dir, buf.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let digits = entry.file_name().to_str().ok();
        if let Some(pid) = digits.and_then(|d| d.parse().ok()) {
            list.push((pid, entry.ino()));
            visit(pid);
        }
    }
    list.sort_unstable();
    Ok(ProcessList(list))
}

/// All processes at one moment, by pid.
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

    /// The ancestors of row `of`, its parent first. Bounded: a snapshot that was taken while processes
    /// changed their parents may contain a circle.
    pub fn above(&self, of: usize) -> impl Iterator<Item = usize> + '_ {
        let up = |i: &usize| self.index(self.rows[*i].ppid);
        std::iter::successors(up(&of), move |i| up(i)).take(self.rows.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_snapshot_contains_this_process_below_its_parent() {
        let mut proc = ProcFs::open().unwrap();
        let mut snapshot = ProcessSnapshot::default();
        proc.read(&mut snapshot).unwrap();
        let me = snapshot.index(std::process::id() as i32).unwrap();
        assert_eq!(snapshot.above(me).next().map(|i| snapshot.rows()[i].pid), Some(snapshot.rows()[me].ppid));
    }

    fn sleeper() -> std::process::Child {
        std::process::Command::new("sleep").arg("1000").spawn().unwrap()
    }

    fn parent_of(snapshot: &ProcessSnapshot, pid: i32) -> Option<i32> {
        snapshot.index(pid).map(|i| snapshot.rows()[i].ppid)
    }

    #[test]
    fn an_update_finds_what_began_and_misses_what_ended() {
        let (mut proc, mut snapshot) = (ProcFs::open().unwrap(), ProcessSnapshot::default());
        let mut before = sleeper();
        proc.read(&mut snapshot).unwrap();
        before.kill().unwrap();
        before.wait().unwrap();
        let mut after = sleeper();
        proc.update(&mut snapshot).unwrap();
        assert_eq!(parent_of(&snapshot, before.id().cast_signed()), None);
        let me = std::process::id().cast_signed();
        assert_eq!(parent_of(&snapshot, after.id().cast_signed()), Some(me));
        after.kill().unwrap();
        after.wait().unwrap();
        proc.update(&mut snapshot).unwrap();
        assert_eq!(parent_of(&snapshot, after.id().cast_signed()), None);
    }

    /// However old it is: its ancestors decide whose it is.
    #[test]
    fn an_update_reads_a_process_again_that_has_lost_its_parent() {
        use std::io::{BufRead, BufReader, Read};
        let mut parent = std::process::Command::new("sh")
            .args(["-c", "sh -c 'echo $$; exec sleep 1000' & wait"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(parent.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let orphan: i32 = line.trim().parse().unwrap();
        let (mut proc, mut snapshot) = (ProcFs::open().unwrap(), ProcessSnapshot::default());
        proc.read(&mut snapshot).unwrap();
        assert_eq!(parent_of(&snapshot, orphan), Some(parent.id().cast_signed()));
        // As if it had started long ago.
        let start = |row: &mut ProcessStat| row.start = 1;
        snapshot.rows.iter_mut().filter(|s| s.pid == orphan).for_each(start);
        parent.kill().unwrap();
        parent.wait().unwrap();
        proc.update(&mut snapshot).unwrap();
        assert_ne!(parent_of(&snapshot, orphan), Some(parent.id().cast_signed()));
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(orphan), nix::sys::signal::SIGKILL).unwrap();
        output.read_to_end(&mut Vec::new()).unwrap();
    }

    #[test]
    fn an_update_keeps_the_marks_of_an_old_process_and_reads_those_of_a_young_one_again() {
        let (mut proc, mut snapshot) = (ProcFs::open().unwrap(), ProcessSnapshot::default());
        let (mut old, mut young) = (sleeper(), sleeper());
        proc.read(&mut snapshot).unwrap();
        for child in [&old, &young] {
            proc.marks(child.id().cast_signed(), |_| true);
        }
        let start = |row: &mut ProcessStat| row.start = 1;
        snapshot.rows.iter_mut().filter(|s| s.pid == old.id().cast_signed()).for_each(start);
        proc.seen.get_mut(&old.id().cast_signed()).unwrap().marks = Some(ProcessMarks::Shown(Vec::new()));
        proc.update(&mut snapshot).unwrap();
        let is_known = |proc: &ProcFs, pid: u32| proc.seen.contains_key(&pid.cast_signed());
        assert!(is_known(&proc, old.id()) && !is_known(&proc, young.id()));
        proc.seen.get_mut(&old.id().cast_signed()).unwrap().marks = Some(ProcessMarks::Executing);
        assert!(proc.is_one_executing());
        proc.update(&mut snapshot).unwrap();
        assert!(!is_known(&proc, old.id()), "it showed nothing while it executed a program");
        for child in [&mut old, &mut young] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// The files of a process that may not be dumped belong to root, and its directory does not.
    #[test]
    fn the_user_of_a_process_is_known_whose_files_belong_to_root() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let mut child = std::process::Command::new("setpriv")
            .args(["--reuid=65534", "--clear-groups", "sh", "-c", "echo; exec sleep 1000"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        let mut proc = ProcFs::open().unwrap();
        let (marks, owner) = proc.marks(child.id().cast_signed(), |owner| owner == 0);
        assert!(marks.is_none() && owner == Some(65534), "{owner:?}");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn the_ancestors_in_a_circle_end() {
        let line = |pid: i32, ppid: i32| {
            identity::parse_stat(
                format!("{pid} (a) S {ppid} 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 5 0").as_bytes(),
            )
            .unwrap()
        };
        let snapshot = ProcessSnapshot::of(vec![line(3, 2), line(2, 3)]);
        assert!(snapshot.above(0).count() <= 2);
    }
}
