//! The sentinel process: a sibling of the agent that counts the signals reaching our process group.

use std::ffi::c_void;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::kill;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use syscalls::{Sysno, syscall};

use super::signal::{SET_BYTES, SignalSet};
use crate::task::Signal;

/// How often each signal reached the sentinel, by signal number.
static SEEN: [AtomicU32; 65] = [const { AtomicU32::new(0) }; 65];

/// Bytes of the sentinel's stack, which only makes system calls.
const STACK: usize = 16 * 1024;

/// Starts the sentinel: a sibling of the agent in our process group that blocks every signal and counts
/// those that reach it, so that a signal sent to the whole group can be told from one sent to us alone.
/// It shares our memory, so it costs no page, and dies with us. It holds no descriptor, so the live lock and
/// the agent's pipes close when the supervisor exits. clone(2) with `CLONE_VM`.
///
/// # Errors
/// When the kernel has no room for another process.
pub fn start_sentinel() -> io::Result<i32> {
    let stack = Box::leak(vec![0u8; STACK].into_boxed_slice());
    // SAFETY: one past the end of the leaked stack, aligned down: the stack grows towards its start.
    let top = unsafe { stack.as_mut_ptr().add(STACK) };
    let top = top.map_addr(|a| a & !15).cast::<c_void>();
    // SAFETY: the function is static, the stack is leaked and used by this clone alone. The clone
    // shares memory but not the thread group; it runs `sentinel` only, which uses no
    // thread-local data (its system calls do not go through the C library's errno). AddressSanitizer follows
    // it, valgrind and Miri do not. Unseen: whether its stack is long enough.
    let pid = unsafe {
        libc::clone(
            sentinel,
            top,
            // No exit signal: a wait for our children does not see it unless it asks for `__WALL`.
            libc::CLONE_VM | libc::CLONE_FS,
            std::ptr::without_provenance_mut(nix::unistd::getpid().as_raw() as usize),
        )
    };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(pid)
}

/// The body of the sentinel. Every signal is blocked since the clone. Only raw system calls: the C library's
/// wrappers would write the errno of the supervisor, whose thread pointer the sentinel shares.
extern "C" fn sentinel(supervisor: *mut c_void) -> libc::c_int {
    let all = SignalSet::ALL.0;
    // SAFETY: the descriptors are copies of its own; prctl with plain numbers; the name is a literal with
    // its NUL. Unseen: the kernel reads it.
    unsafe {
        let _ = syscall!(Sysno::prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
        let _ = syscall!(Sysno::close_range, 0, u32::MAX, 0);
        let _ = syscall!(Sysno::prctl, libc::PR_SET_NAME, c"bookend-sentinel".as_ptr(), 0, 0, 0);
        if syscall!(Sysno::getppid) != Ok(supervisor.addr()) {
            return 0; // The supervisor died before PR_SET_PDEATHSIG took effect.
        }
    }
    loop {
        // SAFETY: the set is a u64 on this stack and its size is passed; null info and timeout are
        // allowed (sigtimedwait(2)). Unseen: the kernel reads it.
        let got = unsafe { syscall!(Sysno::rt_sigtimedwait, &raw const all, 0, 0, SET_BYTES) };
        if let Ok(signal) = got
            && let Some(count) = SEEN.get(signal)
        {
            count.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// Ends the sentinel and reaps it. Where a sandbox forbids kill(2), it dies with this process.
pub fn end_sentinel(pid: i32) {
    let pid = Pid::from_raw(pid);
    if kill(pid, nix::sys::signal::Signal::SIGKILL).is_ok() {
        let _ = waitpid(pid, Some(WaitPidFlag::__WALL));
    }
}

/// How often `signal` has reached the sentinel.
pub fn signals_seen(signal: Signal) -> u32 {
    SEEN.get(signal.number() as usize).map_or(0, |c| c.load(Ordering::SeqCst))
}
