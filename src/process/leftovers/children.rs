//! The children that this process has, including those that `/proc` hides.

use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, waitid};

use super::error::SweepError;
use crate::process::procfs::identity::{self, ProcessStat};
use crate::process::procfs::snapshot::{ProcFs, ProcessSnapshot};
use crate::task::{ProcessIdentity, Verdict};

/// Whether this process has any child, zombies included. Nothing is reaped.
pub(super) fn has_children() -> bool {
    let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    waitid(Id::All, peek) != Err(Errno::ECHILD)
}

/// The children that this process has now. A supervisor asks before it forks anything, since the program that
/// executed bookend may have left it some (`sleep 9 & exec bookend run …`).
///
/// # Errors
/// [`SweepError::Proc`].
pub fn children() -> Result<Vec<ProcessIdentity>, SweepError> {
    if !has_children() {
        return Ok(Vec::new());
    }
    let mut snapshot = ProcessSnapshot::default();
    ProcFs::open().and_then(|mut p| p.read(&mut snapshot)).map_err(SweepError::Proc)?;
    let me = std::process::id() as i32;
    let shown = snapshot.rows().iter().filter(|s| s.ppid == me).map(ProcessStat::identity);
    let hidden = hidden_children().into_iter().map(|pid| ProcessIdentity { pid, start: 0 });
    Ok(shown.chain(hidden).collect())
}

/// The children of a process, as proc_pid_task(5) lists them for each of its threads (CONFIG_PROC_CHILDREN).
/// `None`: the kernel does not list them, or the process has ended.
pub(super) fn children_of(pid: i32) -> Option<Vec<i32>> {
    let mut children = Vec::new();
    for thread in std::fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        let listed = std::fs::read_to_string(thread.ok()?.path().join("children")).ok()?;
        children.extend(listed.split_ascii_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
    }
    Some(children)
}

/// The living children of this process that `/proc` hides (`hidepid`) because they run as another user. The
/// kernel lists their pids nevertheless (proc_pid_task(5), CONFIG_PROC_CHILDREN).
pub(super) fn hidden_children() -> Vec<i32> {
    let path = format!("/proc/self/task/{}/children", std::process::id());
    let listed = std::fs::read_to_string(path).unwrap_or_default();
    let lives = |pid| identity::presence(ProcessIdentity { pid, start: 0 }.into()) != Verdict::Gone;
    let is_hidden = |pid: &i32| identity::stat(*pid).is_err() && lives(*pid);
    listed.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).filter(is_hidden).collect()
}
