//! One scan of all processes: each environment is read once, and a task to which no process can belong costs
//! one look-up.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::time::{Duration, Instant};

use super::classify::MarkCheck;
use super::known_owners::KnownOwners;
use super::swept_task::{SweepOwner, SweptTask};
use crate::process::procfs::identity::ProcessStat;
use crate::process::procfs::mark::{self, LedgerFile, MarkState, ProcessMarks, TaskMark};
use crate::process::procfs::snapshot::{ProcFs, ProcessSnapshot};
use crate::task::{RecordedProcesses, TaskId};

/// How long a scan of all processes is only brought up to date.
const CURRENT: Duration = Duration::from_millis(100);

/// All processes at one moment, and what the environments of this user's processes show.
pub struct ProcessScan {
    pub(super) proc: ProcFs,
    pub(super) snapshot: ProcessSnapshot,
    pub(super) known: KnownOwners,
    /// When all processes were read.
    read_at: Option<Instant>,
    /// When the agents of the tasks started that are searched for, in order.
    starts: Vec<u64>,
    index: Option<Index>,
    user: u32,
}

/// Which tasks the processes of this user name.
struct Index {
    ids: HashSet<Vec<u8>>,
    /// The rows of those whose environment cannot be read.
    unclear: Vec<(usize, MarkCheck)>,
}

impl ProcessScan {
    /// An empty scan.
    ///
    /// # Errors
    /// `/proc` is not mounted, or is another pid namespace's.
    pub fn open() -> io::Result<ProcessScan> {
        Ok(ProcessScan {
            proc: ProcFs::open()?,
            snapshot: ProcessSnapshot::default(),
            known: KnownOwners::default(),
            read_at: None,
            starts: vec![0],
            index: None,
            user: nix::unistd::geteuid().as_raw(),
        })
    }

    /// Scans all processes again.
    ///
    /// # Errors
    /// `/proc` cannot be listed.
    pub fn read(&mut self) -> io::Result<()> {
        let now = Instant::now();
        self.forget();
        self.proc.read(&mut self.snapshot)?;
        self.read_at = Some(now);
        Ok(())
    }

    /// Scans what may have changed since the scan a moment ago: see [`ProcFs::update`].
    ///
    /// # Errors
    /// As [`ProcessScan::read`].
    pub(super) fn update(&mut self) -> io::Result<()> {
        self.forget();
        self.proc.update(&mut self.snapshot)
    }

    /// Scans all processes, or only what may have changed if all were read after `since` and a moment ago.
    ///
    /// # Errors
    /// As [`ProcessScan::read`].
    pub(super) fn refresh(&mut self, since: Option<Instant>) -> io::Result<()> {
        let is_current = |at: Instant| at.elapsed() < CURRENT && since.is_some_and(|since| at > since);
        if self.read_at.is_some_and(is_current) { self.update() } else { self.read() }
    }

    fn forget(&mut self) {
        (self.index, self.known, self.starts) = (None, KnownOwners::default(), vec![0]);
    }

    /// Reads only environments that may show one of the tasks whose agents started at these times.
    pub(super) fn search(&mut self, starts: impl Iterator<Item = u64>, recorded: Vec<RecordedProcesses>) {
        self.starts = starts.collect();
        self.starts.sort_unstable();
        self.known = KnownOwners::of(&self.snapshot, &recorded);
        self.index = None;
    }

    /// Whether a process was executing a program when its environment was to be read.
    pub(super) fn is_one_executing(&self) -> bool {
        self.proc.is_one_executing()
    }

    /// Whether a process of the task can be among them, as far as the index tells: one names it, is its
    /// agent, or may be in its cgroup. The children of a supervisor need not name its task.
    pub(super) fn may_hold(&mut self, task: &SweptTask, mark: &TaskMark) -> bool {
        if matches!(task.owner, SweepOwner::Supervisor { .. }) || task.cgroup.is_some() {
            return true;
        }
        let agent = self.snapshot.index(task.agent.pid).map(|i| self.snapshot.rows()[i].identity());
        agent == Some(task.agent) || self.index().ids.contains(mark.id())
    }

    /// The processes of this user whose environment cannot be read: perhaps those of a task whose agent
    /// started at `start`, perhaps not.
    pub(super) fn unclear(&mut self, start: u64) -> Vec<(ProcessStat, MarkCheck)> {
        let unclear = self.index().unclear.clone();
        let may_be = |row: usize| {
            let stat = self.snapshot.rows()[row];
            (stat.start >= start && !self.known.excludes(row, start)).then_some(stat)
        };
        unclear.into_iter().filter_map(|(row, sight)| Some((may_be(row)?, sight))).collect()
    }

    /// The ids of the tasks of `ledger` that have live processes of this user.
    pub fn named_tasks(&mut self, ledger: &LedgerFile) -> BTreeSet<TaskId> {
        let (proc, user) = (&mut self.proc, self.user);
        let living = self.snapshot.rows().iter().filter(|s| !s.is_dead() && !s.is_kernel_thread());
        living.filter_map(|s| proc.marked_id(s.pid, user, ledger)).collect()
    }

    /// Whether a process of this user that carries the mark descends from the process `ancestor`.
    pub fn descends_from(&mut self, ancestor: i32, mark: &TaskMark) -> bool {
        let (proc, snapshot, user) = (&mut self.proc, &self.snapshot, self.user);
        let rows = snapshot.rows();
        let mut below =
            (0..rows.len()).filter(|i| snapshot.above(*i).any(|above| rows[above].pid == ancestor));
        below.any(|i| proc.mark(rows[i].pid, mark, |owner| owner == user) == (MarkState::Carried, Some(user)))
    }

    fn index(&mut self) -> &Index {
        let ProcessScan { proc, snapshot, known, starts, index, user, .. } = self;
        index.get_or_insert_with(|| {
            let concerned = |row, stat: &ProcessStat| known.concerns_any(row, stat.start, starts);
            index_of(proc, snapshot, *user, concerned)
        })
    }
}

/// The index of the processes that are `concerned`.
fn index_of(
    proc: &mut ProcFs,
    snapshot: &ProcessSnapshot,
    user: u32,
    concerned: impl Fn(usize, &ProcessStat) -> bool,
) -> Index {
    let mut index = Index { ids: HashSet::new(), unclear: Vec::new() };
    let me = std::process::id().cast_signed();
    let may_be = |row: usize, s: &ProcessStat| {
        !s.is_dead() && !s.is_kernel_thread() && s.pid != me && concerned(row, s)
    };
    for (i, stat) in snapshot.rows().iter().enumerate().filter(|(row, s)| may_be(*row, s)) {
        match proc.marks(stat.pid, |owner| owner == user) {
            (Some(ProcessMarks::Shown(environ)), Some(owner)) if owner == user => {
                index.ids.extend(mark::ids_in(environ).map(<[u8]>::to_vec));
            }
            (Some(ProcessMarks::Exiting), Some(owner)) if owner == user => {
                index.unclear.push((i, MarkCheck::Exiting))
            }
            (Some(ProcessMarks::Unreadable), Some(owner)) if owner == user => {
                index.unclear.push((i, MarkCheck::Unreadable));
            }
            _ => {}
        }
    }
    index
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::{Child, Command};

    use super::*;
    use crate::process::procfs::identity;
    use crate::task::ProcessIdentity;

    fn marked(id: &str) -> (Child, ProcessIdentity) {
        let mark = [("BOOKEND_TASK_ID", id), ("BOOKEND_LEDGER", "/no/ledger")];
        let child = Command::new("sleep").arg("1000").env_clear().envs(mark).spawn().unwrap();
        let identity = identity::of(child.id().cast_signed()).unwrap().unwrap();
        (child, identity)
    }

    /// Whether a process may belong to the task `id`, whose agent, which has ended, started at `start`.
    fn may_hold(scan: &mut ProcessScan, id: &str, start: u64, recorded: &[RecordedProcesses]) -> bool {
        let ledger = LedgerFile::at(Path::new("/no/ledger"));
        let task = SweptTask {
            id: TaskId::recorded(id),
            ledger: ledger.clone(),
            agent: ProcessIdentity { pid: i32::MAX, start },
            agent_tty: 0,
            owner: SweepOwner::Recovery,
            spares_detached: true,
            cgroup: None,
        };
        scan.search([start].into_iter(), recorded.to_vec());
        scan.may_hold(&task, &TaskMark::new(&task.id, ledger))
    }

    #[test]
    fn a_process_that_the_rows_exclude_is_not_read_and_one_that_is_too_old_neither() {
        let id = format!("scan-{}", std::process::id());
        let (mut child, agent) = marked(&id);
        let unused = ProcessIdentity { pid: i32::MAX, start: 1 };
        let row =
            RecordedProcesses { supervisor: unused, agent: Some(agent), is_nested: true, is_here: true };
        let mut scan = ProcessScan::open().unwrap();
        scan.read().unwrap();
        assert!(may_hold(&mut scan, &id, agent.start - 1, &[]));
        assert!(!may_hold(&mut scan, &id, agent.start - 1, &[row]), "below the agent of a younger task");
        assert!(may_hold(&mut scan, &id, agent.start, &[row]), "of the same moment");
        assert!(may_hold(&mut scan, &id, 0, &[row]), "an unknown agent");
        assert!(!may_hold(&mut scan, &id, agent.start + 1, &[]), "it is older than the agent");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn what_was_read_before_a_task_is_lost_is_read_again() {
        let mut scan = ProcessScan::open().unwrap();
        let before = Instant::now();
        scan.read().unwrap();
        let read_at = scan.read_at;
        scan.refresh(Some(before)).unwrap();
        assert_eq!(scan.read_at, read_at, "it is only brought up to date");
        scan.refresh(Some(Instant::now())).unwrap();
        assert!(scan.read_at > read_at);
    }
}
