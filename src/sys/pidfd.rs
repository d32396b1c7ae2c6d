//! Signals for other processes, sent so that a recycled pid never gets one: pidfd_send_signal(2).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use crate::task::Signal;

/// Sends `signal` to the process behind `pidfd`; with a value it is queued as by sigqueue(3).
/// `Ok(false)`: the process has ended. pidfd_send_signal(2); rustix's takes no value.
///
/// # Errors
/// EPERM: the process belongs to another user. [`io::ErrorKind::Unsupported`]: this kernel (before 5.1) or a
/// sandbox refuses the call itself. Then nothing is signalled: kill(2) could reach another process with that
/// pid.
pub fn send_signal(pidfd: BorrowedFd<'_>, signal: Signal, value: Option<u64>) -> io::Result<bool> {
    match pidfd_send_signal(pidfd, signal.number(), value) {
        Err(e) if is_refused(&e) && !pidfd_signals_work() => {
            Err(io::Error::new(io::ErrorKind::Unsupported, NO_PIDFD_SIGNALS))
        }
        sent => sent,
    }
}

/// As [`send_signal`], to a child of this process. Until the child is reaped, no other process can get its
/// pid, so kill(2) is used where the kernel or a sandbox refuses the call.
///
/// # Errors
/// EPERM: the child has changed its user.
pub fn signal_child(child: (i32, BorrowedFd<'_>), signal: Signal, value: Option<u64>) -> io::Result<bool> {
    let (pid, pidfd) = child;
    match pidfd_send_signal(pidfd, signal.number(), value) {
        Err(e) if is_refused(&e) => kill_child(pid, signal.number(), value),
        sent => sent,
    }
}

/// Why only children can be signalled, see [`send_signal`].
pub const NO_PIDFD_SIGNALS: &str = "pidfd_send_signal(2) does not work here: the kernel is older than Linux \
    5.1, or a sandbox forbids the call";

fn is_refused(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EPERM))
}

/// Whether pidfd_send_signal(2) works here: sends signal 0 to this process.
pub fn pidfd_signals_work() -> bool {
    let me = rustix::process::getpid();
    rustix::process::pidfd_open(me, rustix::process::PidfdFlags::empty())
        .is_ok_and(|own| pidfd_send_signal(own.as_fd(), 0, None).is_ok())
}

fn kill_child(pid: i32, signal: i32, value: Option<u64>) -> io::Result<bool> {
    // It must be a child that was not reaped, or the pid could be another process's.
    let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    if pid <= 0 || waitid(Id::Pid(Pid::from_raw(pid)), peek) == Err(Errno::ECHILD) {
        return Ok(false);
    }
    let ret = match value {
        // SAFETY: kill touches no memory.
        None => libc::c_long::from(unsafe { libc::kill(pid, signal) }),
        Some(value) => {
            let info = QueuedInfo::new(signal, value);
            // SAFETY: as in `pidfd_send_signal`. Unseen: the kernel reads it.
            unsafe { libc::syscall(libc::SYS_rt_sigqueueinfo, pid, signal, &raw const info) }
        }
    };
    ended_or(ret)
}

/// `Ok(false)`: there is no such process.
fn ended_or(returned: libc::c_long) -> io::Result<bool> {
    match Errno::result(returned) {
        Ok(_) => Ok(true),
        Err(Errno::ESRCH) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// The effective user of the process behind `pidfd`, also where `/proc` hides the process. `None`: the kernel
/// is older than 6.13. PIDFD_GET_INFO, include/uapi/linux/pidfd.h.
pub fn pidfd_user(pidfd: BorrowedFd<'_>) -> Option<u32> {
    const WORDS: usize = 16;
    const EUID: usize = 9;
    const GET_INFO: libc::Ioctl = (3 << 30) | ((WORDS as libc::Ioctl * 4) << 16) | (0xFF << 8) | 11;
    // `struct pidfd_info` of its first version: two words of mask, two of cgroup id, pid, tgid, ppid, ruid,
    // rgid, euid, … The credentials are always filled in.
    let mut info = [0u32; WORDS];
    // SAFETY: the array is as long as the size in the request says, and outlives the call; the kernel copies
    // bytes, so it needs no alignment. Unseen: the kernel writes it.
    let ret = unsafe { libc::ioctl(pidfd.as_raw_fd(), GET_INFO, info.as_mut_ptr()) };
    (ret == 0).then(|| info[EUID])
}

fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32, value: Option<u64>) -> io::Result<bool> {
    let fd = pidfd.as_raw_fd();
    let ret = match value {
        // SAFETY: a null siginfo is allowed and means "as kill(2)".
        None => unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, std::ptr::null::<libc::siginfo_t>(), 0)
        },
        Some(value) => {
            let info = QueuedInfo::new(signal, value);
            // SAFETY: QueuedInfo has the layout and the size of the kernel's siginfo_t for a queued
            // signal on 64-bit Linux, and outlives the call. Unseen: the kernel reads it.
            unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, &raw const info, 0) }
        }
    };
    ended_or(ret)
}

/// `siginfo_t` of a queued signal, include/uapi/asm-generic/siginfo.h.
#[repr(C)]
struct QueuedInfo {
    signo: i32,
    errno: i32,
    code: i32,
    pad: i32,
    pid: i32,
    uid: u32,
    value: u64,
    rest: [u64; 12],
}

impl QueuedInfo {
    fn new(signal: i32, value: u64) -> QueuedInfo {
        QueuedInfo {
            signo: signal,
            errno: 0,
            code: libc::SI_QUEUE,
            pad: 0,
            pid: nix::unistd::getpid().as_raw(),
            uid: nix::unistd::getuid().as_raw(),
            value,
            rest: [0; 12],
        }
    }
}

const _: () = assert!(size_of::<QueuedInfo>() == size_of::<libc::siginfo_t>());
