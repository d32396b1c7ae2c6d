//! One scan of all processes, shared by the sweeps of many tasks: each environment is read once, and a task
//! that no process can belong to costs a look-up.

use std::collections::{BTreeSet, HashSet};
use std::io;

use crate::process::leftovers::classify::{MarkCheck, SweepOwner, SweptTask};
use crate::process::procfs::identity::ProcessStat;
use crate::process::procfs::mark::{self, LedgerFile, MarkState, ProcessMarks, TaskMark};
use crate::process::procfs::table::{ProcFs, ProcessSnapshot};
use crate::task::TaskId;

/// All processes at one moment, and what those of this user show in their environment.
pub struct ProcessScan {
    pub(super) proc: ProcFs,
    pub(super) table: ProcessSnapshot,
    index: Option<Index>,
    user: u32,
}

/// Which tasks the processes of this user name.
struct Index {
    ids: HashSet<Vec<u8>>,
    /// The rows of those whose environment says nothing of tasks because it cannot be read.
    unclear: Vec<(usize, MarkCheck)>,
}

impl ProcessScan {
    /// A scan that has seen nothing yet.
    ///
    /// # Errors
    /// `/proc` is not mounted, or is another pid namespace's.
    pub fn open() -> io::Result<ProcessScan> {
        let user = nix::unistd::geteuid().as_raw();
        Ok(ProcessScan { proc: ProcFs::open()?, table: ProcessSnapshot::default(), index: None, user })
    }

    /// Looks at all processes anew.
    ///
    /// # Errors
    /// `/proc` cannot be listed.
    pub fn read(&mut self) -> io::Result<()> {
        self.index = None;
        self.proc.read(&mut self.table)
    }

    /// Whether a process of the task can be among them, as far as that can be told without looking at each:
    /// one names it, is its agent or is in its cgroup. The children of a supervisor need not name its task.
    pub(super) fn may_hold(&mut self, task: &SweptTask, mark: &TaskMark) -> bool {
        if matches!(task.owner, SweepOwner::Supervisor { .. }) || task.cgroup.is_some() {
            return true;
        }
        let agent = self.table.index(task.agent.pid).map(|i| self.table.rows()[i].identity());
        agent == Some(task.agent) || self.index().ids.contains(mark.id())
    }

    /// The processes of this user that show nothing: perhaps a task's, perhaps not.
    pub(super) fn unclear(&mut self) -> Vec<(ProcessStat, MarkCheck)> {
        let unclear = self.index().unclear.clone();
        unclear.into_iter().map(|(i, sight)| (self.table.rows()[i], sight)).collect()
    }

    /// The ids of the tasks of `ledger` of which processes of this user live.
    pub fn named_tasks(&mut self, ledger: &LedgerFile) -> BTreeSet<TaskId> {
        let (proc, user) = (&mut self.proc, self.user);
        let living = self.table.rows().iter().filter(|s| !s.is_dead() && !s.is_kernel_thread());
        living.filter_map(|s| proc.marked_id(s.pid, user, ledger)).collect()
    }

    /// Whether a process of this user that carries the mark descends from the process `ancestor`.
    pub fn descends_from(&mut self, ancestor: i32, mark: &TaskMark) -> bool {
        let (proc, table, user) = (&mut self.proc, &self.table, self.user);
        let rows = table.rows();
        let mut below = (0..rows.len()).filter(|i| table.above(*i).any(|above| rows[above].pid == ancestor));
        below.any(|i| proc.mark(rows[i].pid, mark, |owner| owner == user) == (MarkState::Carried, Some(user)))
    }

    fn index(&mut self) -> &Index {
        let (proc, user) = (&mut self.proc, self.user);
        self.index.get_or_insert_with(|| index_of(proc, &self.table, user))
    }
}

fn index_of(proc: &mut ProcFs, table: &ProcessSnapshot, user: u32) -> Index {
    let mut index = Index { ids: HashSet::new(), unclear: Vec::new() };
    let me = std::process::id().cast_signed();
    let may_be = |s: &ProcessStat| !s.is_dead() && !s.is_kernel_thread() && s.pid != me;
    for (i, stat) in table.rows().iter().enumerate().filter(|(_, s)| may_be(s)) {
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
