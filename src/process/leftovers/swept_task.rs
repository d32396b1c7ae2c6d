//! The task whose leftovers are swept, and who sweeps them.

use crate::process::cgroup::Cgroup;
use crate::process::procfs::identity::ProcessStat;
use crate::process::procfs::mark::LedgerFile;
use crate::task::{ProcessIdentity, RecordedProcesses, TaskId};

/// Who sweeps, which decides what proves that a process is the task's.
#[derive(Debug, Clone)]
pub enum SweepOwner {
    /// The task's own supervisor, subreaper since before the agent was forked: what is below it is the
    /// task's, except for its own helpers and for the `inherited` children that it had before
    /// ([`children()`](super::children())). If there are such, an orphan
    /// without the mark may be theirs and is spared.
    /// Helpers are children that are not reaped yet; they fork nothing, so they cause no such doubt.
    Supervisor { inherited: Vec<ProcessIdentity>, helpers: Vec<i32> },
    /// Another process, such as `recover`: only the mark proves that a process is the task's.
    Recovery,
    /// As [`SweepOwner::Recovery`], for a ledger that others may write to: a process below any supervisor is
    /// left to it, marked or not, since its row may be forged.
    DistrustfulRecovery,
}

/// The task whose leftovers are swept.
#[derive(Debug, Clone)]
pub struct SweptTask {
    pub id: TaskId,
    /// The ledger that has its row.
    pub ledger: LedgerFile,
    /// No process that started before it belongs to the task; start 0: unknown. It ran during this boot:
    /// after a reboot there is nothing to sweep.
    pub agent: ProcessIdentity,
    /// The device number of the agent's controlling terminal ([`ProcessStat::tty_nr`]); 0: it had none.
    pub agent_tty: i32,
    pub owner: SweepOwner,
    /// Whether processes with `BOOKEND_DETACHED` are spared ([`super::LeftoversPolicy`]).
    pub spares_detached: bool,
    /// The task's own cgroup: every process in it counts as marked.
    pub cgroup: Option<Cgroup>,
}

/// What the ledger says about supervisors.
pub trait SupervisorLookup {
    /// Whether a process is a supervisor that holds its live lock.
    fn is_supervisor(&self, stat: &ProcessStat) -> bool;

    /// The processes of all running tasks, read now; none if the rows prove nothing.
    fn recorded(&self) -> Vec<RecordedProcesses> {
        Vec::new()
    }
}

impl<F: Fn(&ProcessStat) -> bool> SupervisorLookup for F {
    fn is_supervisor(&self, stat: &ProcessStat) -> bool {
        self(stat)
    }
}
