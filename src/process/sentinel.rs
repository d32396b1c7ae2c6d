//! The sentinel: distinguishes a signal sent to our whole process group from one sent to us alone.
//!
//! The agent is in our group, so it has already received what was sent to the group, and must not receive it
//! again from us. The kernel does not say to whom a signal was sent. A sibling in the group that blocks every
//! signal and counts those that reach it shows it.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::sys::{self, ReceivedSignal};
use crate::task::Signal;

pub struct Sentinel {
    /// `None`: the kernel had no room for another process.
    pid: Option<i32>,
    /// How many of each signal were attributed to the group so far.
    accounted: [u32; 65],
}

impl Sentinel {
    /// Starts the process. Without it, only what the kernel sent counts as sent to the whole group.
    pub fn start() -> Sentinel {
        let pid = if children_are_beside_us() { sys::start_sentinel().ok() } else { None };
        Sentinel { pid, accounted: [0; 65] }
    }

    /// Whether this signal was sent to the whole group. `more`: further signals with the same number are
    /// queued.
    pub fn saw(&mut self, received: &ReceivedSignal, more: bool) -> bool {
        let signal = received.signal;
        let terminals = received.is_from_kernel() && by_terminal(signal);
        let Some(pid) = self.pid else { return terminals };
        let Some(accounted) = self.accounted.get_mut(signal.number() as usize) else { return false };
        // The kernel delivers to the youngest member of a group first, so the sentinel has received it
        // before us; it may not have counted it yet.
        while sys::signals_seen(signal) == *accounted && !settled(pid, signal) {
            std::thread::yield_now();
        }
        let seen = sys::signals_seen(signal);
        if seen == *accounted {
            // Two in quick succession may have merged for the sentinel and not for us.
            return terminals;
        }
        // Standard signals merge while pending, in each process separately; real-time signals queue.
        let all = !signal.is_real_time() && !more;
        *accounted = if all { seen } else { *accounted + 1 };
        true
    }

    pub fn pid(&self) -> Option<i32> {
        self.pid
    }
}

/// Whether our children are in our own pid namespace. Otherwise (`unshare --pid` without --fork) the agent is
/// the first process of another namespace, and it cannot end before all others in it are reaped.
fn children_are_beside_us() -> bool {
    let namespace = |of: &str| fs::metadata(format!("/proc/self/ns/{of}")).ok().map(|m| m.ino());
    namespace("pid") == namespace("pid_for_children")
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        if let Some(pid) = self.pid {
            sys::end_sentinel(pid);
        }
    }
}

/// Whether a terminal sends this signal to its foreground process group.
fn by_terminal(signal: Signal) -> bool {
    matches!(signal, Signal::INT | Signal::QUIT | Signal::TSTP | Signal::TTIN | Signal::TTOU | Signal::WINCH)
}

/// Whether the sentinel sleeps and `signal` is not pending for it: it has counted all that arrived.
fn settled(pid: i32, signal: Signal) -> bool {
    let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else { return true };
    let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).unwrap_or("").trim();
    let waits = |name: &str| {
        u64::from_str_radix(field(name), 16).is_ok_and(|set| sys::SignalSet(set).contains(signal))
    };
    let running = field("State:").starts_with('R');
    !running && !waits("ShdPnd:") && !waits("SigPnd:")
        // Stopped with the whole group: it counts when it is continued, and so do we.
        || field("State:").starts_with(['T', 't', 'Z', 'X'])
}
