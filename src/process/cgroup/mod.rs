//! A cgroup of its own for each task, where bookend's own was delegated to it: cgroups(7), `Delegate=` of
//! systemd.resource-control(5), <https://systemd.io/CGROUP_DELEGATION>.
//!
//! Without a delegated cgroup this costs one system call.

pub mod oom;

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::task::TaskId;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{AccessFlags, Pid};
use tracing::debug;

/// Where cgroup2 is mounted: alone, or beside the older hierarchies.
pub(super) const MOUNTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
/// systemd sets this to `1` on a cgroup that it delegates, in which it then neither creates nor removes
/// cgroups. User managers before systemd 254 do not set it.
const DELEGATED: &str = "user.delegate";
/// The variable by which a unit of such a manager declares the delegation.
pub const DELEGATED_VARIABLE: &str = "BOOKEND_DELEGATED";
/// The cgroup of the supervisors: one that passes controllers to its children must not contain processes.
const SUPERVISORS: &str = "supervisor";
/// The controllers that are enabled for each task, as far as they were delegated.
const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];

/// A cgroup that was delegated to bookend, with this process moved into its child `supervisor`.
#[derive(Debug)]
pub struct DelegatedCgroup {
    path: String,
    directory: PathBuf,
}

/// The cgroup of one task.
#[derive(Debug, Clone)]
pub struct Cgroup {
    /// Inside the hierarchy, as `/proc/PID/cgroup` names it.
    path: String,
    directory: PathBuf,
}

/// What a cgroup has used since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CgroupUsage {
    /// User and system time: `usage_usec` of `cpu.stat`.
    pub cpu: Option<Duration>,
    /// `memory.peak`, with the page cache that was charged to it.
    pub peak_kib: Option<i64>,
}

impl DelegatedCgroup {
    /// Takes charge of `own`, the cgroup of this process. Call it before anything is forked: a cgroup that
    /// passes controllers on must not contain processes. `None`: it was not delegated, or the kernel refuses.
    pub fn enter(own: Option<&str>) -> Option<DelegatedCgroup> {
        let path = own.filter(|own| *own != "/")?.to_owned();
        let directory = directory_of(&path, is_delegated)?;
        let entered = DelegatedCgroup { path, directory };
        entered
            .make_room()
            .inspect_err(|e| debug!("{}: {e}; no cgroup for the task", entered.directory.display()))
            .is_ok()
            .then_some(entered)
    }

    fn make_room(&self) -> io::Result<()> {
        let supervisors = self.directory.join(SUPERVISORS);
        make_directory(&supervisors)?;
        fs::write(supervisors.join("cgroup.procs"), "0")?;
        let offered = fs::read_to_string(self.directory.join("cgroup.controllers"))?;
        for controller in CONTROLLERS.iter().filter(|c| offered.split_ascii_whitespace().any(|o| o == **c)) {
            // Refused while other processes are in the cgroup itself. A task's cgroup is useful without it.
            let _ = fs::write(self.directory.join("cgroup.subtree_control"), format!("+{controller}"));
        }
        Ok(())
    }

    /// Makes the cgroup of a task, whose live lock is in `slot`, and puts the process `agent` into it.
    pub fn give(&self, task: &TaskId, slot: i64, agent: i32) -> Option<NewCgroup> {
        let name = name(task, slot);
        let made = Cgroup { path: format!("{}/{name}", self.path), directory: self.directory.join(&name) };
        make_directory(&made.directory)
            .and_then(|()| fs::write(made.directory.join("cgroup.procs"), agent.to_string()))
            .inspect_err(|e| {
                debug!("{}: {e}; no cgroup for the task", made.directory.display());
                made.remove();
            })
            .is_ok()
            .then_some(NewCgroup { cgroup: made, agent: Some(Pid::from_raw(agent)) })
    }
}

/// The cgroup of a task whose row is not committed yet. Dropped before [`NewCgroup::keep`], it ends the gated
/// child, which has executed nothing, and is removed.
#[derive(Debug)]
pub struct NewCgroup {
    pub cgroup: Cgroup,
    /// `None`: the cgroup is the task's, and stays.
    agent: Option<Pid>,
}

impl NewCgroup {
    /// The row is committed: the cgroup is removed with the end of the task.
    pub fn keep(mut self) -> Cgroup {
        self.agent = None;
        self.cgroup.clone()
    }
}

impl Drop for NewCgroup {
    fn drop(&mut self) {
        let Some(agent) = self.agent else { return };
        // The child is ours and not reaped, so its pid is still its own. A cgroup with a live process cannot
        // be removed; one that has only zombies can: cgroups(7).
        let ended = kill(agent, Signal::SIGKILL)
            .and_then(|()| waitid(Id::Pid(agent), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT));
        if let Err(e) = ended {
            debug!("ending the child at the gate: {e}");
        }
        self.cgroup.remove();
    }
}

impl Cgroup {
    /// The cgroup that was made for the task, if the recorded path is that of one and it still exists.
    pub fn of(task: &TaskId, slot: Option<i64>, recorded: Option<&str>) -> Option<Cgroup> {
        let path = recorded?;
        let its_own = path.rsplit('/').next() == Some(name(task, slot?).as_str()) && !path.contains("/../");
        let directory = if its_own { directory(path)? } else { return None };
        Some(Cgroup { path: path.to_owned(), directory })
    }

    /// As `/proc/PID/cgroup` names it.
    pub fn path(&self) -> &str {
        &self.path
    }

    pub fn used(&self) -> CgroupUsage {
        let read = |file: &str| fs::read_to_string(self.directory.join(file)).ok();
        CgroupUsage {
            cpu: read("cpu.stat").and_then(|t| usage_of(&t)),
            peak_kib: read("memory.peak")
                .and_then(|t| t.trim().parse::<i64>().ok())
                .map(|bytes| bytes / 1024),
        }
    }

    /// Every process in it and below.
    pub fn members(&self) -> Vec<i32> {
        let mut members = Vec::new();
        each_below(&self.directory, &mut |directory| {
            let pids = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
            members.extend(pids.lines().filter_map(|l| l.parse::<i32>().ok()));
        });
        members
    }

    /// Whether the process is in it, or below.
    pub fn holds(&self, pid: i32) -> bool {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        text.lines().find_map(|l| l.strip_prefix("0::")).is_some_and(|at| is_in(at, &self.path))
    }

    /// Whether a live process is in it or below it. cgroup.events of cgroups(7).
    pub fn is_populated(&self) -> bool {
        let events = fs::read_to_string(self.directory.join("cgroup.events")).unwrap_or_default();
        events.lines().any(|l| l == "populated 1")
    }

    /// SIGKILL to all in it and below at once, whatever they fork meanwhile. `false`: the kernel cannot
    /// (before Linux 5.14), or may not on our behalf.
    pub fn kill(&self) -> bool {
        fs::write(self.directory.join("cgroup.kill"), "1").is_ok()
    }

    /// Removes it, unless it still contains a process: then the manager that delegated its parent removes it
    /// later.
    pub fn remove(&self) {
        each_below(&self.directory, &mut |directory| drop(fs::remove_dir(directory)));
    }
}

/// Contains the task's slot, which is random: an id is unique in its ledger only, and processes in the cgroup
/// of another task must not be ended.
fn name(task: &TaskId, slot: i64) -> String {
    format!("task-{}-{slot:016x}", task.as_str().replace('/', "_"))
}

fn is_delegated(directory: &Path) -> bool {
    let is_marked = || {
        let mut value = [0; 8];
        rustix::fs::getxattr(directory, DELEGATED, &mut value[..]).is_ok_and(|len| &value[..len] == b"1")
    };
    (std::env::var_os(DELEGATED_VARIABLE).is_some_and(|v| v == "1") || is_marked())
        // Delegated to the other user that started us, it is not writable; nor does it exist on the other
        // mount.
        && nix::unistd::access(directory, AccessFlags::W_OK).is_ok()
}

fn directory(path: &str) -> Option<PathBuf> {
    directory_of(path, Path::is_dir)
}

fn directory_of(path: &str, is_it: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    let inside = path.trim_start_matches('/');
    MOUNTS.iter().map(|mount| Path::new(mount).join(inside)).find(|directory| is_it(directory))
}

fn make_directory(directory: &Path) -> io::Result<()> {
    match fs::create_dir(directory) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => Err(e),
        _ => Ok(()),
    }
}

/// Calls `visit` with every cgroup below `directory`, the deepest first, then with itself.
fn each_below(directory: &Path, visit: &mut impl FnMut(&Path)) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            each_below(&entry.path(), visit);
        }
    }
    visit(directory);
}

fn is_in(at: &str, cgroup: &str) -> bool {
    at.strip_prefix(cgroup).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn usage_of(stat: &str) -> Option<Duration> {
    let usec = stat.lines().find_map(|l| l.strip_prefix("usage_usec "))?;
    usec.trim().parse().ok().map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_tasks_own_cgroup_is_taken_for_it() {
        for path in [Some("/system.slice"), Some("/"), Some("/task-t"), None] {
            assert!(Cgroup::of(&TaskId::recorded("t"), Some(1), path).is_none(), "{path:?}");
        }
        assert_eq!(name(&TaskId::recorded("a/../b"), 26), "task-a_.._b-000000000000001a");
        assert!(is_in("/a/task-t", "/a/task-t") && is_in("/a/task-t/b", "/a/task-t"));
        assert!(!is_in("/a/task-tt", "/a/task-t") && !is_in("/a", "/a/task-t"));
    }

    #[test]
    fn cpu_time_is_the_sum_of_user_and_system() {
        let stat = "usage_usec 1500\nuser_usec 1000\nsystem_usec 500\n";
        assert_eq!(usage_of(stat), Some(Duration::from_micros(1500)));
        assert_eq!(usage_of(""), None);
    }
}
