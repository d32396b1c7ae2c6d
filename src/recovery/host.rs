//! Where a task was recorded, compared with where this process runs.

use crate::process::procfs::identity;
use crate::task::{ProcessRecord, ProcessScope, Task};

pub(super) fn place_of(task: &Task) -> ProcessScope {
    ProcessScope {
        host: task.host.clone().unwrap_or_default(),
        boot_id: task.boot_id.clone().unwrap_or_default(),
        pid_ns: task.pid_ns.unwrap_or_default(),
        cgroup: task.cgroup.clone(),
    }
}

/// The part of a process record of the task that can be compared from here.
pub(super) fn comparable(recorded: ProcessRecord, task: &Task, here: &ProcessScope) -> ProcessRecord {
    identity::comparable(recorded, &place_of(task), here)
}

/// The record of a task's supervisor, as far as it can be compared from here.
pub fn comparable_supervisor(task: &Task) -> Option<ProcessRecord> {
    Some(comparable(task.supervisor()?, task, &identity::place()))
}

/// The same machine: the same boot, or the same name.
pub(super) fn same_host(task: &Task, here: &ProcessScope) -> bool {
    let at = place_of(task);
    (!at.boot_id.is_empty() && at.boot_id == here.boot_id) || at.host.is_empty() || at.host == here.host
}

/// Whether the machine is known to have rebooted since the task ran.
pub(super) fn is_of_another_boot(task: &Task, here: &ProcessScope) -> bool {
    let then = task.boot_id.as_deref().filter(|id| !id.is_empty());
    then.is_some_and(|then| !here.boot_id.is_empty() && then != here.boot_id)
}
