//! What identifies a process, and the verdict on whether a recorded process still runs.

/// A pid with its start time, in clock ticks since boot (`/proc/PID/stat` field 22, proc(5)): unique within a
/// boot. The row stores the boot id once for all its processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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

/// The processes that a running row names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordedProcesses {
    pub supervisor: ProcessIdentity,
    pub agent: Option<ProcessIdentity>,
    /// The supervisor was started inside of a task, so its own environment names one.
    pub is_nested: bool,
    /// The pids are known to be of this boot and this pid namespace.
    pub is_here: bool,
}

/// The host, boot, pid namespace and cgroup in which a pid is valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessScope {
    pub host: String,
    /// `/proc/sys/kernel/random/boot_id`, random(4).
    pub boot_id: String,
    /// Inode of `/proc/self/ns/pid`, namespaces(7).
    pub pid_ns: u64,
    /// Path in the cgroup2 hierarchy, cgroups(7); `None` without cgroup2.
    pub cgroup: Option<String>,
}

/// Whether a process that the ledger records as running still runs, from its live lock and its identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Alive,
    Gone,
    /// The pid now belongs to another process.
    Recycled,
    /// It cannot be checked from this host, boot or namespace.
    Unverifiable,
}
