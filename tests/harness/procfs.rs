//! Reads processes from /proc and kills those that a test left running.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A field of `/proc/PID/stat`, numbered as in proc(5), from 3. `None` if the process does not exist.
pub fn stat_field(pid: i32, number: usize) -> Option<String> {
    let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let after_name = &text[text.rfind(')')? + 2..];
    after_name.split_whitespace().nth(number - 3).map(str::to_owned)
}

/// The state: `R`, `S`, `T`, `Z`, …; `None` if the process does not exist.
pub fn state(pid: i32) -> Option<char> {
    stat_field(pid, 3)?.chars().next()
}

/// The pending signals of the process as a set: bit n-1 is signal n.
pub fn pending(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let set = |name| {
        let line = status.lines().find_map(|l| l.strip_prefix(name)).unwrap_or("0");
        u64::from_str_radix(line.trim(), 16).expect("a set of signals")
    };
    set("SigPnd:") | set("ShdPnd:")
}

/// Whether `/proc` hides the processes of other users from a plain user (`hidepid`).
pub fn proc_is_hidden() -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("the mounts");
    let proc = mounts.lines().rfind(|line| line.split(' ').nth(1) == Some("/proc")).unwrap_or_default();
    proc.contains("hidepid=") && !proc.contains("hidepid=0") && !proc.contains("hidepid=off")
}

/// The children, including zombies.
pub fn children(pid: i32) -> Vec<i32> {
    all().filter(|p| stat_field(*p, 4) == Some(pid.to_string())).collect()
}

/// The children, including zombies, without a scan of all processes.
pub fn forked(parent: i32) -> Vec<i32> {
    let list = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    list.split_whitespace().filter_map(|p| p.parse().ok()).collect()
}

/// The processes of a group that are not zombies.
pub fn group(pgid: i32) -> Vec<i32> {
    all().filter(|p| stat_field(*p, 5) == Some(pgid.to_string()) && state(*p) != Some('Z')).collect()
}

/// The voluntary context switches of all threads of the process.
pub fn voluntary_switches(pid: i32) -> u64 {
    switches(pid, |name| name == "voluntary_ctxt_switches")
}

/// All context switches of all threads of the process. Each wake-up causes at least one.
pub fn context_switches(pid: i32) -> u64 {
    switches(pid, |name| name.ends_with("voluntary_ctxt_switches"))
}

fn switches(pid: i32, is_counted: impl Fn(&str) -> bool) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let statuses = tasks.filter_map(|t| fs::read_to_string(t.path().join("status")).ok());
    let of_thread = |status: String| -> u64 {
        let counts = status.lines().filter_map(|line| line.split_once(':'));
        counts.filter(|(name, _)| is_counted(name)).filter_map(|(_, n)| n.trim().parse::<u64>().ok()).sum()
    };
    statuses.map(of_thread).sum()
}

/// The targets of the process's descriptors above 2.
pub fn open_files(pid: i32) -> Vec<String> {
    let Ok(fds) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return Vec::new();
    };
    fds.flatten()
        .filter(|f| f.file_name().to_str().and_then(|n| n.parse().ok()).is_some_and(|n: i32| n > 2))
        .filter_map(|f| fs::read_link(f.path()).ok()?.to_str().map(str::to_owned))
        .collect()
}

/// The anonymous and the resident memory in KiB. `None` if the process does not exist.
pub fn memory(pid: i32) -> Option<(u64, u64)> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let field = |name| {
        let line = rollup.lines().find_map(|l| l.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    Some((field("Anonymous:")?, field("Rss:")?))
}

fn all() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc").expect("/proc").flatten().filter_map(|e| e.file_name().to_str()?.parse().ok())
}

/// The processes of a world whose environment contains a task id.
pub fn marked(world: &super::World) -> Vec<i32> {
    let dir = world.path("home");
    let is_marked = |pid: i32| {
        fs::read(format!("/proc/{pid}/environ")).is_ok_and(|env| {
            let names = |mark: &[u8]| env.split(|b| *b == 0).any(|v| v.starts_with(mark));
            names(b"BOOKEND_TASK_ID=") && names(&[b"HOME=", dir.as_os_str().as_bytes()].concat())
        })
    };
    all().filter(|p| is_marked(*p)).collect()
}

/// Whether the environment of a process contains the path `dir`.
fn belongs_to(dir: &Path, pid: i32) -> bool {
    let mark = dir.as_os_str().as_bytes();
    fs::read(format!("/proc/{pid}/environ")).is_ok_and(|env| env.windows(mark.len()).any(|part| part == mark))
}

/// All processes of a world.
pub fn all_processes(world: &super::World) -> Vec<i32> {
    all().filter(|p| belongs_to(world.dir.path(), *p)).collect()
}

/// Kills the processes whose environment contains `dir` until none is left.
pub(super) fn kill_marked(dir: &Path) {
    for _ in 0..1000 {
        let mut found = false;
        for pid in all().filter(|p| belongs_to(dir, *p)) {
            let Some(Ok(handle)) = Pid::from_raw(pid).map(|p| pidfd_open(p, PidfdFlags::empty())) else {
                continue;
            };
            // Checked again now that the pidfd is open: the pid could have been reused before.
            if belongs_to(dir, pid) && pidfd_send_signal(&handle, Signal::KILL).is_ok() {
                found = true;
                super::wait::ready(&[&handle], std::time::Duration::from_secs(1));
            }
        }
        if !found {
            return;
        }
    }
}
