//! Whether a process is ending: it was killed by a signal, or it exits. proc_pid_stat(5), proc_pid_status(5).
//!
//! That is a reason to wait for its end but not a proof of it: only a readable pidfd is (pidfd_open(2)).
//! Releasing much memory takes 100 ms and more; a hung disk or a core dump delays the end as long as it
//! lasts.

use rustix::fs::CWD;

use crate::process::procfs::identity::{self, ProcessStat};

/// `PF_EXITING` of the kernel's `sched.h`. The first thread of a process can exit before the others.
const EXITING: u32 = 0x4;
/// `PF_DUMPCORE` and `PF_SIGNALED`: a fatal signal was taken, which ends all threads.
const SIGNALED: u32 = 0x200 | 0x400;

/// Whether the process exits, or SIGKILL is pending for it.
pub fn is_dying(stat: &ProcessStat) -> bool {
    let exits = stat.flags & SIGNALED != 0 || (stat.flags & EXITING != 0 && stat.threads <= 1);
    exits || is_kill_pending(stat.pid)
}

/// Whether its first thread exits, which then has no environment any more.
pub(crate) fn first_thread_exits(stat: &ProcessStat) -> bool {
    stat.flags & (EXITING | SIGNALED) != 0
}

/// A set of `/proc/PID/status` is 16 hexadecimal digits, bit n-1 is signal n.
fn is_kill_pending(pid: i32) -> bool {
    let mut buf = [0; 4096];
    let Ok(len) = identity::read_at(CWD, format!("/proc/{pid}/status").as_bytes(), &mut buf) else {
        return false;
    };
    let text = String::from_utf8_lossy(&buf[..len]);
    let has_kill =
        |set: &str| u64::from_str_radix(set.trim(), 16).is_ok_and(|s| s >> (libc::SIGKILL - 1) & 1 == 1);
    ["SigPnd:", "ShdPnd:"]
        .iter()
        .any(|name| text.lines().find_map(|l| l.strip_prefix(name)).is_some_and(has_kill))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_that_runs_is_not_dying_and_one_that_was_killed_is_dying_or_dead() {
        let mut child = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
        let pid = child.id().cast_signed();
        assert!(!is_dying(&identity::stat(pid).unwrap().unwrap()));
        child.kill().unwrap();
        let stat = identity::stat(pid).unwrap().unwrap();
        assert!(stat.is_dead() || is_dying(&stat), "{stat:?}");
        child.wait().unwrap();
    }

    #[test]
    fn the_flags_of_the_first_thread_decide_unless_others_live() {
        // The pid that no kernel gives out has no pending signals.
        let of = |flags: u32, threads: i32| {
            let line = format!("2147483647 (a) R 1 1 1 0 -1 {flags} 0 0 0 0 0 0 0 0 20 0 {threads} 0 5 0");
            identity::parse_stat(line.as_bytes()).unwrap()
        };
        assert!(is_dying(&of(EXITING, 1)));
        assert!(!is_dying(&of(EXITING, 2)) && first_thread_exits(&of(EXITING, 2)));
        assert!(is_dying(&of(0x400, 16)) && is_dying(&of(0x200, 16)));
        assert!(!is_dying(&of(0x40_0040, 1)));
    }
}
