//! One scan of all processes: each environment is read once, and a task to which no process can belong costs
//! one look-up.

use std::collections::{BTreeSet, HashSet};
use std::io;

use super::classify::MarkCheck;
use super::swept_task::{SweepOwner, SweptTask};
use crate::process::procfs::identity::ProcessStat;
use crate::process::procfs::mark::{self, LedgerFile, MarkState, ProcessMarks, TaskMark};
use crate::process::procfs::snapshot::{ProcFs, ProcessSnapshot};
use crate::task::TaskId;

/// All processes at one moment, and what the environments of this user's processes show.
pub struct ProcessScan {
    pub(super) proc: ProcFs,
    pub(super) snapshot: ProcessSnapshot,
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
        let user = nix::unistd::geteuid().as_raw();
        Ok(ProcessScan { proc: ProcFs::open()?, snapshot: ProcessSnapshot::default(), index: None, user })
    }

    /// Scans all processes again.
    ///
    /// # Errors
    /// `/proc` cannot be listed.
    pub fn read(&mut self) -> io::Result<()> {
        self.index = None;
        self.proc.read(&mut self.snapshot)
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

    /// The processes of this user whose environment cannot be read: perhaps a task's, perhaps not.
    pub(super) fn unclear(&mut self) -> Vec<(ProcessStat, MarkCheck)> {
        let unclear = self.index().unclear.clone();
        unclear.into_iter().map(|(i, sight)| (self.snapshot.rows()[i], sight)).collect()
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
        let (proc, user) = (&mut self.proc, self.user);
        self.index.get_or_insert_with(|| index_of(proc, &self.snapshot, user))
    }
}

fn index_of(proc: &mut ProcFs, snapshot: &ProcessSnapshot, user: u32) -> Index {
    let mut index = Index { ids: HashSet::new(), unclear: Vec::new() };
    let me = std::process::id().cast_signed();
    let may_be = |s: &ProcessStat| !s.is_dead() && !s.is_kernel_thread() && s.pid != me;
    for (i, stat) in snapshot.rows().iter().enumerate().filter(|(_, s)| may_be(s)) {
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
