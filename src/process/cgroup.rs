//! A cgroup of its own for each task, where bookend's own was delegated to it: cgroups(7), `Delegate=` of
//! systemd.resource-control(5), <https://systemd.io/CGROUP_DELEGATION>.
//!
//! Where none was, one question to the kernel is all that is spent here.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::debug;

/// Where cgroup2 is mounted: alone, or beside the older hierarchies.
const MOUNTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
/// systemd sets it to `1` on what it delegates: nobody else makes or removes cgroups there.
const DELEGATED: &str = "user.delegate";
/// Where supervisors go: a cgroup that hands controllers on to those below has no processes in itself.
const SUPERVISORS: &str = "supervisor";
/// What is accounted and limited for each task, as far as it was handed on to us.
const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];

/// The cgroup of one task. Removed when dropped, if nobody is in it any more.
#[derive(Debug)]
pub struct Cgroup {
    /// Inside the hierarchy, as `/proc/PID/cgroup` names it.
    path: String,
    directory: PathBuf,
}

/// What a cgroup has used since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Used {
    /// User and system time: `usage_usec` of `cpu.stat`.
    pub cpu: Option<Duration>,
    /// `memory.peak`, with the page cache that was charged to it.
    pub peak_kib: Option<i64>,
}

impl Cgroup {
    /// Makes a cgroup for the task below `own`, where this process is, and puts the process `agent` into it.
    /// `None`: `own` was not delegated to us, or the kernel refuses.
    pub fn make(own: Option<&str>, task: &str, agent: i32) -> Option<Cgroup> {
        let own = own.filter(|own| *own != "/")?;
        let parent = delegated(own)?;
        let made = Cgroup { path: format!("{own}/{}", name(task)), directory: parent.join(name(task)) };
        match made.fill(&parent, agent) {
            Ok(()) => Some(made),
            Err(e) => {
                debug!("no cgroup for task {task} in {}: {e}; going on without", parent.display());
                None
            }
        }
    }

    fn fill(&self, parent: &Path, agent: i32) -> io::Result<()> {
        let supervisors = parent.join(SUPERVISORS);
        make_directory(&supervisors)?;
        fs::write(supervisors.join("cgroup.procs"), "0")?;
        let offered = fs::read_to_string(parent.join("cgroup.controllers"))?;
        for controller in CONTROLLERS.iter().filter(|c| offered.split_ascii_whitespace().any(|o| o == **c)) {
            // Refused while others are in the parent itself. The task's cgroup is worth having without.
            let _ = fs::write(parent.join("cgroup.subtree_control"), format!("+{controller}"));
        }
        make_directory(&self.directory)?;
        fs::write(self.directory.join("cgroup.procs"), agent.to_string())
    }

    /// The cgroup that was made for the task, if the recorded path is that of one and it still exists.
    pub fn of(task: &str, recorded: Option<&str>) -> Option<Cgroup> {
        let path = recorded?;
        let its_own = path.rsplit('/').next() == Some(name(task).as_str()) && !path.contains("/../");
        let directory = if its_own { directory(path)? } else { return None };
        Some(Cgroup { path: path.to_owned(), directory })
    }

    /// As `/proc/PID/cgroup` names it.
    pub fn path(&self) -> &str {
        &self.path
    }

    pub fn used(&self) -> Used {
        let read = |file: &str| fs::read_to_string(self.directory.join(file)).ok();
        Used {
            cpu: read("cpu.stat").and_then(|t| usage_of(&t)),
            peak_kib: read("memory.peak").and_then(|t| t.trim().parse().ok()).map(|b: i64| b / 1024),
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

    /// SIGKILL to all in it and below at once, whatever they fork meanwhile. `false`: the kernel cannot
    /// (before Linux 5.14), or may not on our behalf.
    pub fn kill(&self) -> bool {
        fs::write(self.directory.join("cgroup.kill"), "1").is_ok()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Refused while somebody is in it; whoever gave us the cgroup above removes it then.
        each_below(&self.directory, &mut |directory| drop(fs::remove_dir(directory)));
    }
}

fn name(task: &str) -> String {
    format!("task-{task}")
}

/// The directory of the cgroup `own`, if it was delegated to us.
fn delegated(own: &str) -> Option<PathBuf> {
    let directory = directory_of(own, |directory| {
        let mut value = [0; 8];
        rustix::fs::getxattr(directory, DELEGATED, &mut value[..]).is_ok_and(|len| &value[..len] == b"1")
    })?;
    // Delegated to another user, who started us: it is not ours then.
    rustix::fs::access(&directory, rustix::fs::Access::WRITE_OK).is_ok().then_some(directory)
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
        assert!(Cgroup::of("t", Some("/system.slice")).is_none());
        assert!(Cgroup::of("t", Some("/")).is_none());
        assert!(Cgroup::of("t", None).is_none());
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
