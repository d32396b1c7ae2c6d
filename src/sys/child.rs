//! How children end and what they used, and how this process itself exits.

use std::mem::MaybeUninit;
use std::time::Duration;

use crate::exit::Exit;
use crate::task::Signal;

/// What changed about a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChildChange {
    Ended(Exit),
    Stopped(Signal),
    Continued,
}

/// What a child, and the children that it waited for, have used. getrusage(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ResourceUsage {
    /// User and system time.
    pub cpu: Duration,
    pub max_rss_kib: i64,
}

/// The next change of any child; a child that has ended is reaped. `None`: nothing has changed. wait4(2),
/// because nix cannot express death by a real-time signal and rustix does not return the resource usage.
pub fn wait_any() -> Option<(i32, ChildChange, ResourceUsage)> {
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: both pointers are valid for writes of their types for the length of the call.
    let pid = unsafe {
        libc::wait4(
            -1,
            &raw mut status,
            libc::WNOHANG | libc::WUNTRACED | libc::WCONTINUED,
            usage.as_mut_ptr(),
        )
    };
    if pid <= 0 {
        return None;
    }
    // SAFETY: zeroed is a valid rusage, and the kernel has written over it.
    let usage = unsafe { usage.assume_init() };
    let time = |t: libc::timeval| {
        Duration::from_secs(t.tv_sec.max(0) as u64) + Duration::from_micros(t.tv_usec.max(0) as u64)
    };
    let change = if libc::WIFSTOPPED(status) {
        ChildChange::Stopped(Signal::from_number(libc::WSTOPSIG(status)))
    } else if libc::WIFCONTINUED(status) {
        ChildChange::Continued
    } else if libc::WIFSIGNALED(status) {
        ChildChange::Ended(Exit::Signal(Signal::from_number(libc::WTERMSIG(status))))
    } else {
        ChildChange::Ended(Exit::Code(libc::WEXITSTATUS(status)))
    };
    let usage =
        ResourceUsage { cpu: time(usage.ru_utime) + time(usage.ru_stime), max_rss_kib: usage.ru_maxrss };
    Some((pid, change, usage))
}

/// Forbids a core file of this process: it dies by the agent's signal, and the agent has dumped its own
/// core. PR_SET_DUMPABLE of prctl(2).
pub fn forbid_core() {
    let _ = nix::sys::prctl::set_dumpable(false);
    let _ = nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0);
}

/// Exits at once: no destructor and no exit handler runs. _exit(2).
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit does not return and touches no memory of ours.
    unsafe { libc::_exit(code) }
}
