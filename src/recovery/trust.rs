//! Which evidence counts if others may write to the ledger: what the kernel shows of processes.

use std::cell::OnceCell;
use std::io;

use crate::ledger::{Distrust, Ledger};
use crate::process::cgroup::Cgroup;
use crate::process::leftovers::{self, LedgerFile, SharedScan, SweepOwner};
use crate::process::procfs::identity::{self, ProcessStat};
use crate::process::procfs::locks::{self, LockedBytes};
use crate::recovery::policy;
use crate::task::{ProcessIdentity, Task, TaskId};
use crate::view;

/// What proves which processes belong to a task of the ledger, and which supervise one.
#[derive(Debug)]
pub enum OwnershipEvidence {
    /// The rows, which only this user can have written.
    Rows,
    /// Only the kernel: marks in environments, and locks on the ledger's `live` file. `None`: there is no
    /// such file.
    Kernel(Option<LockedBytes>),
}

impl OwnershipEvidence {
    pub fn of(ledger: &Ledger) -> OwnershipEvidence {
        ledger.distrust().map_or(OwnershipEvidence::Rows, |_| OwnershipEvidence::Kernel(live_bytes(ledger)))
    }

    /// Whether a process supervises a task of the ledger.
    pub fn is_supervisor(&self, ledger: &Ledger, stat: &ProcessStat) -> bool {
        match self {
            OwnershipEvidence::Rows => policy::holds_live_lock(ledger, stat.identity()),
            OwnershipEvidence::Kernel(locked) => locked
                .as_ref()
                .is_some_and(|locked| locks::holds(stat.pid, locked).unwrap_or_else(|| may_be_bookend(stat))),
        }
    }

    /// Removes from a row what it says of processes, if others may have written it.
    pub fn redact(&self, task: &mut Task) {
        if matches!(self, OwnershipEvidence::Kernel(_)) {
            (task.cgroup, task.oom_kills_before) = (None, None);
            (task.agent_pid, task.agent_start, task.agent_pidfd) = (None, None, None);
        }
    }

    /// How to sweep a task's processes; `agent`: its recorded agent.
    pub fn leftovers_of(
        &self,
        ledger: LedgerFile,
        task: &Task,
        agent: Option<ProcessIdentity>,
    ) -> leftovers::SweptTask {
        let owner = match self {
            OwnershipEvidence::Rows => SweepOwner::Recovery,
            OwnershipEvidence::Kernel(_) => SweepOwner::DistrustfulRecovery,
        };
        leftovers::SweptTask {
            id: task.id.clone(),
            ledger,
            agent: agent.unwrap_or(ProcessIdentity { pid: 0, start: 0 }),
            agent_tty: 0,
            owner,
            spares_detached: policy::leftovers_policy(task).spares_detached(),
            cgroup: Cgroup::of(&task.id, task.live_slot, task.cgroup.as_deref()),
        }
    }
}

/// Whether a process whose descriptors cannot be read may be bookend: it belongs to this user and has our
/// name.
fn may_be_bookend(stat: &ProcessStat) -> bool {
    let own = identity::stat(std::process::id().cast_signed()).ok().flatten();
    let me = nix::unistd::geteuid().as_raw();
    own.is_some_and(|own| own.comm == stat.comm) && identity::user(stat.pid) == Some(me)
}

/// Whether a process supervises a task of the ledger. Whether the rows are trusted is determined for the
/// first process.
pub fn supervisors(ledger: &Ledger) -> impl Fn(&ProcessStat) -> bool + '_ {
    let evidence = OnceCell::new();
    move |stat| evidence.get_or_init(|| OwnershipEvidence::of(ledger)).is_supervisor(ledger, stat)
}

/// What the owner of a ledger has to do so that its rows are trusted.
pub fn remedy(distrust: &Distrust) -> String {
    match distrust.fix {
        Some(command) => format!("{command} {}", view::quoted(&distrust.path.to_string_lossy())),
        None => "find out who wrote to it".to_owned(),
    }
}

/// Whether the process `pid` demonstrably supervises the task `id`: it holds a lock on the ledger's `live`
/// file, and a process of this user with the task's mark descends from it. The row is not used.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn supervises(ledger: &Ledger, pid: i32, id: &TaskId) -> io::Result<bool> {
    let holds = live_bytes(ledger).is_some_and(|locked| locks::holds(pid, &locked) == Some(true));
    let ledger = LedgerFile::at(ledger.path());
    Ok(holds && SharedScan::default().descends_from(pid, id, ledger).map_err(io::Error::other)?)
}

fn live_bytes(ledger: &Ledger) -> Option<LockedBytes> {
    let (dev, ino, bytes) = ledger.live_bytes().ok()??;
    Some(LockedBytes { dev, ino, bytes })
}
