//! Signals of this process: its mask, its dispositions, reading those that arrive, and dying by one.

use std::ffi::c_void;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use syscalls::{Sysno, syscall};

use crate::task::{Signal, SignalSender};

/// A set of signals as the kernel stores it: bit n-1 stands for signal n. It can hold all 64, including 32
/// and 33, which the C library reserves and nix therefore cannot express: they must be passed on too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SignalSet(pub u64);

impl SignalSet {
    pub const ALL: SignalSet = SignalSet(u64::MAX);

    pub fn contains(self, signal: Signal) -> bool {
        self.0 & signal_bit(signal) != 0
    }

    pub fn with(self, signal: Signal) -> SignalSet {
        SignalSet(self.0 | signal_bit(signal))
    }
}

/// 0 for a number that is no signal.
fn signal_bit(signal: Signal) -> u64 {
    match signal.number() {
        number @ 1..=64 => 1 << (number - 1),
        _ => 0,
    }
}

pub(super) const SET_BYTES: usize = size_of::<u64>();

/// Replaces the mask of the calling thread and returns the former one. sigprocmask(2); the raw call, since
/// the C library's function leaves out signals 32 and 33.
pub fn set_mask(set: SignalSet) -> SignalSet {
    let mut old = 0u64;
    // SAFETY: both pointers are to u64s that outlive the call, and the size passed is theirs. Unseen: it is
    // the kernel that reads and writes them.
    unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const set.0, &raw mut old, SET_BYTES);
    }
    SignalSet(old)
}

/// As [`set_mask`], for a child that shares our memory: it does not touch the C library's errno.
pub fn set_mask_raw(set: SignalSet) {
    // SAFETY: a pointer to a u64 that outlives the call, whose size is passed; a null old mask is allowed.
    // Unseen: the kernel reads it.
    let _ = unsafe { syscall!(Sysno::rt_sigprocmask, libc::SIG_SETMASK, &raw const set.0, 0, SET_BYTES) };
}

/// Ignores `signal`, for a child that shares our memory. sigaction(2).
pub fn ignore_raw(signal: Signal) {
    // The kernel's own struct: handler, flags, restorer, mask. Only the handler is set.
    let action = [libc::SIG_IGN as u64, 0, 0, 0];
    // SAFETY: the pointer is to as many bytes as the kernel reads, and outlives the call; a null old action
    // is allowed. No function of ours becomes a handler. Unseen: the kernel reads them.
    let _ = unsafe { syscall!(Sysno::rt_sigaction, signal.number(), action.as_ptr(), 0, SET_BYTES) };
}

/// A descriptor from which every signal can be read, close-on-exec and non-blocking. signalfd(2); nix's set
/// lacks signals 32 and 33.
pub fn signalfd_all() -> io::Result<OwnedFd> {
    let set = SignalSet::ALL.0;
    // SAFETY: the pointer is to a u64 that outlives the call, and the size passed is its own. Unseen: the
    // kernel reads it.
    let fd = Errno::result(unsafe {
        libc::syscall(
            libc::SYS_signalfd4,
            -1,
            &raw const set,
            SET_BYTES,
            libc::SFD_CLOEXEC | libc::SFD_NONBLOCK,
        )
    })?;
    // SAFETY: the kernel has just given this descriptor to us, nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// One signal as it arrived: its sender and how it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceivedSignal {
    pub signal: Signal,
    /// `si_code` of sigaction(2): `SI_USER`, `SI_QUEUE`, `SI_TKILL`, or > 0 from the kernel.
    pub code: i32,
    pub sender: SignalSender,
    /// `si_value` of a queued signal.
    pub value: u64,
}

impl ReceivedSignal {
    /// Sent by the kernel itself: the terminal, a fault, a timer.
    pub fn is_from_kernel(&self) -> bool {
        self.code > 0
    }

    /// The value that was queued with it, sigqueue(3).
    pub fn queued_value(&self) -> Option<u64> {
        (self.code == libc::SI_QUEUE).then_some(self.value)
    }
}

/// The next pending signal; `None`: there is none. signalfd(2).
pub fn read_signal(fd: BorrowedFd<'_>) -> io::Result<Option<ReceivedSignal>> {
    let mut info = MaybeUninit::<libc::signalfd_siginfo>::uninit();
    let size = size_of::<libc::signalfd_siginfo>();
    // SAFETY: the buffer is as long as the size passed; the kernel writes whole records only.
    let n = unsafe { libc::read(fd.as_raw_fd(), info.as_mut_ptr().cast::<c_void>(), size) };
    if n < 0 {
        let e = io::Error::last_os_error();
        return match e.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
            _ => Err(e),
        };
    }
    if n as usize != size {
        return Ok(None);
    }
    // SAFETY: the kernel filled the whole record, as the length it returned says. Unseen: AddressSanitizer
    // knows what may be read, not what was ever written.
    let info = unsafe { info.assume_init() };
    Ok(Some(ReceivedSignal {
        signal: Signal::from_number(info.ssi_signo as i32),
        code: info.ssi_code,
        sender: SignalSender { pid: info.ssi_pid as i32, uid: info.ssi_uid },
        value: info.ssi_ptr,
    }))
}

/// Whether this process ignores `signal`. sigaction(2), which nix cannot ask without changing the action.
pub fn is_ignored(signal: Signal) -> bool {
    let mut old = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a null new action changes nothing; the pointer is valid for a write of its type.
    let ret = unsafe { libc::sigaction(signal.number(), std::ptr::null(), old.as_mut_ptr()) };
    // SAFETY: zeroed is a valid sigaction where the call failed, else the kernel's answer.
    ret == 0 && unsafe { old.assume_init() }.sa_sigaction == libc::SIG_IGN
}

/// Sets `signal` to its default action or to ignored. sigaction(2); nix has no real-time signals.
pub fn set_disposition(signal: Signal, ignored: bool) {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: zeroed is a valid sigaction; only its handler is set, to one of the two constants that
    // are not functions, so none of our code ever runs in a signal handler.
    unsafe {
        (*action.as_mut_ptr()).sa_sigaction = if ignored { libc::SIG_IGN } else { libc::SIG_DFL };
        libc::sigaction(signal.number(), action.as_ptr(), std::ptr::null_mut());
    }
}

/// Sends `signal` to this process and unblocks it for a moment. Returns if the process is still there: it
/// was stopped and continued, or cannot die by a signal (PID 1).
pub fn raise_unblocked(signal: Signal) {
    // SAFETY: kill to our own pid touches no memory.
    unsafe { libc::kill(libc::getpid(), signal.number()) };
    let all_but = SignalSet(SignalSet::ALL.0 & !signal_bit(signal));
    set_mask(all_but);
    set_mask(SignalSet::ALL);
}
