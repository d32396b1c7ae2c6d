//! The witness: tells a signal that was sent to our whole process group from one sent to us alone.
//!
//! The agent is in our group, so what was sent to the group it has had already, and must not get again
//! from us. The kernel does not tell the receiver which it was; but a sibling in the group that blocks
//! every signal and counts those that reach it knows.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::sys::{self, Received};

pub struct Witness {
    /// `None`: the kernel had no room for it.
    pid: Option<i32>,
    accounted: [u32; 65],
}

impl Witness {
    /// Starts it. Without one (no room for a process) only what the kernel sent counts as sent to all.
    pub fn start() -> Witness {
        let pid = if children_are_beside_us() { sys::start_witness().ok() } else { None };
        Witness { pid, accounted: [0; 65] }
    }

    /// Whether this signal reached the whole group; `more` of its number wait for us.
    pub fn saw(&mut self, received: &Received, more: bool) -> bool {
        let signal = received.signal;
        let terminals = received.is_from_kernel() && by_terminal(signal);
        let Some(pid) = self.pid else { return terminals };
        let Some(accounted) = self.accounted.get_mut(signal as usize) else { return false };
        // The kernel hands a group's signal to its youngest member first, so the witness has had it
        // before us; it may only not have come to count it yet.
        while sys::witnessed(signal) == *accounted && !settled(pid, signal) {
            std::thread::yield_now();
        }
        let seen = sys::witnessed(signal);
        if seen == *accounted {
            // Two in quick succession may have merged for the witness and not for us.
            return terminals;
        }
        // Standard signals merge while they wait, for each process at its own pace; real-time ones queue.
        let all = signal < libc::SIGRTMIN() && !more;
        *accounted = if all { seen } else { *accounted + 1 };
        true
    }

    pub fn pid(&self) -> Option<i32> {
        self.pid
    }
}

/// Whether what we fork is in our own pid namespace. Otherwise (`unshare --pid` without --fork) the agent is
/// the first process of another one, whose end waits for all others in it to be reaped.
fn children_are_beside_us() -> bool {
    let namespace = |of: &str| fs::metadata(format!("/proc/self/ns/{of}")).ok().map(|m| m.ino());
    namespace("pid") == namespace("pid_for_children")
}

impl Drop for Witness {
    fn drop(&mut self) {
        if let Some(pid) = self.pid {
            sys::end_witness(pid);
        }
    }
}

/// The signals that a terminal sends to its foreground group.
fn by_terminal(signal: i32) -> bool {
    matches!(
        signal,
        libc::SIGINT | libc::SIGQUIT | libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU | libc::SIGWINCH
    )
}

/// Whether the witness sleeps and `signal` does not wait for it: it has counted all that came.
fn settled(pid: i32, signal: i32) -> bool {
    let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else { return true };
    let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).unwrap_or("").trim();
    let waits = |name: &str| {
        u64::from_str_radix(field(name), 16).is_ok_and(|set| sys::SignalSet(set).contains(signal))
    };
    let running = field("State:").starts_with('R');
    !running && !waits("ShdPnd:") && !waits("SigPnd:")
        // Stopped with the whole group: it will count when it is continued, and so shall we.
        || field("State:").starts_with(['T', 't', 'Z', 'X'])
}
