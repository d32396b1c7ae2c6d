//! What identifies a process, and what the kernel says about the supervisor of a task.

/// What makes a pid mean one process: the pid and its start, in clock ticks since boot
/// (`/proc/PID/stat` field 22, proc(5)). The boot id is kept once a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessIdentity {
    pub pid: i32,
    pub start: u64,
}

/// A process as a row records it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessRecord {
    pub identity: ProcessIdentity,
    /// The inode of its pidfd, unique for a boot (pidfs, Linux 6.9). `None`: not recorded.
    pub pidfd_inode: Option<u64>,
}

impl From<ProcessIdentity> for ProcessRecord {
    fn from(identity: ProcessIdentity) -> ProcessRecord {
        ProcessRecord { identity, pidfd_inode: None }
    }
}

/// Where a process stands in the world: what its pid is relative to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessScope {
    pub host: String,
    /// `/proc/sys/kernel/random/boot_id`, random(4).
    pub boot_id: String,
    /// Inode of `/proc/self/ns/pid`, namespaces(7).
    pub pid_ns: u64,
    /// Path inside the cgroup2 hierarchy, cgroups(7), where there is one.
    pub cgroup: Option<String>,
}

/// What the kernel says of the live lock and the identity of a task that the ledger calls running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Alive,
    Gone,
    /// The pid is somebody else now.
    Recycled,
    /// Cannot be judged from here.
    Unverifiable,
}
