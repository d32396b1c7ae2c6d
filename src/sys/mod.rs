//! Thin, safe wrappers around the system calls that no library of ours wraps as bookend needs them.
//!
//! Here and in `process/gate.rs` stands all `unsafe` of the program. `just sanitize` runs all of it under
//! AddressSanitizer, what is between clone and exec too. Where a block says "Unseen", that does not see what
//! the block does to memory, and why: there the argument is all there is.

pub mod files;
pub mod socket;
pub mod stdout;

use std::ffi::c_void;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use syscalls::{Sysno, syscall};

use crate::exit::Exit;
use crate::task::Sender;

// The unwinder comes from the compiler's archive, not from libgcc_s.so.1: to find, map and bind that library
// costs each run as much as a commit.
#[cfg(target_env = "gnu")]
#[link(name = "gcc_eh", kind = "static")]
unsafe extern "C" {}

/// The natural logarithm, for the ranking of SQLite's full-text search. It is all that the program needs of
/// libm.so.6, which every run would load for it.
#[unsafe(no_mangle)]
extern "C" fn log(x: f64) -> f64 {
    libm::log(x)
}

/// A set of signals as the kernel keeps it: bit n-1 stands for signal n. All 64, those that the C
/// library keeps for itself (32, 33) too: they must pass like any other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SignalSet(pub u64);

impl SignalSet {
    pub const ALL: SignalSet = SignalSet(u64::MAX);

    pub fn contains(self, signal: i32) -> bool {
        (1..=64).contains(&signal) && self.0 & (1 << (signal - 1)) != 0
    }

    pub fn with(self, signal: i32) -> SignalSet {
        SignalSet(self.0 | 1 << (signal - 1))
    }
}

const SET_BYTES: usize = size_of::<u64>();

fn check(ret: libc::c_long) -> io::Result<libc::c_long> {
    if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(ret) }
}

/// Replaces the mask of the calling thread; returns the former one. sigprocmask(2), the raw call,
/// since the C library's leaves signals 32 and 33 out.
pub fn set_mask(set: SignalSet) -> SignalSet {
    let mut old = 0u64;
    // SAFETY: both pointers are to u64s that outlive the call, and the size passed is theirs. Unseen: it is
    // the kernel that reads and writes them.
    unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const set.0, &raw mut old, SET_BYTES);
    }
    SignalSet(old)
}

/// As [`set_mask`], for a process that shares our memory: it leaves the C library's errno alone.
pub fn set_mask_raw(set: SignalSet) {
    // SAFETY: a pointer to a u64 that outlives the call, whose size is passed; a null old mask is allowed.
    // Unseen: the kernel reads it.
    let _ = unsafe { syscall!(Sysno::rt_sigprocmask, libc::SIG_SETMASK, &raw const set.0, 0, SET_BYTES) };
}

/// Ignores `signal`, as [`set_mask_raw`] sets the mask. sigaction(2).
pub fn ignore_raw(signal: i32) {
    // The kernel's own struct: handler, flags, restorer, mask; nothing but the handler is set.
    let action = [libc::SIG_IGN as u64, 0, 0, 0];
    // SAFETY: the pointer is to as many bytes as the kernel reads, and outlives the call; a null old action
    // is allowed. No function of ours is made a handler. Unseen: the kernel reads them.
    let _ = unsafe { syscall!(Sysno::rt_sigaction, signal, action.as_ptr(), 0, SET_BYTES) };
}

/// A descriptor from which every signal can be read, close-on-exec and non-blocking. signalfd(2).
pub fn signalfd_all() -> io::Result<OwnedFd> {
    let set = SignalSet::ALL.0;
    // SAFETY: the pointer is to a u64 that outlives the call, and the size passed is its own. Unseen: the
    // kernel reads it.
    let fd = check(unsafe {
        libc::syscall(
            libc::SYS_signalfd4,
            -1,
            &raw const set,
            SET_BYTES,
            libc::SFD_CLOEXEC | libc::SFD_NONBLOCK,
        )
    })?;
    // SAFETY: the kernel has just given this descriptor to us, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// One signal as it came: who sent it and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    pub signal: i32,
    /// `si_code` of sigaction(2): `SI_USER`, `SI_QUEUE`, `SI_TKILL`, or > 0 from the kernel.
    pub code: i32,
    pub sender: Sender,
    /// `si_value` of a queued signal.
    pub value: u64,
}

impl Received {
    /// Sent by the kernel itself: the terminal, a fault, a timer.
    pub fn is_from_kernel(&self) -> bool {
        self.code > 0
    }
}

/// The next signal that waits, `None` when there is none. signalfd(2).
pub fn read_signal(fd: BorrowedFd<'_>) -> io::Result<Option<Received>> {
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
    Ok(Some(Received {
        signal: info.ssi_signo as i32,
        code: info.ssi_code,
        sender: Sender { pid: info.ssi_pid as i32, uid: info.ssi_uid },
        value: info.ssi_ptr,
    }))
}

/// Sends `signal` to the process behind `pidfd`; with a value it is queued as by sigqueue(3).
/// `Ok(false)`: the process is gone. pidfd_send_signal(2).
///
/// # Errors
/// EPERM: it is another user's process. [`io::ErrorKind::Unsupported`]: this kernel (before 5.1) or a sandbox
/// refuses the call itself. Nothing was signalled then: kill(2) could reach another process of that number.
pub fn send_signal(pidfd: BorrowedFd<'_>, signal: i32, value: Option<u64>) -> io::Result<bool> {
    match pidfd_send_signal(pidfd, signal, value) {
        Err(e) if is_refused(&e) && !pidfd_signals_work() => {
            Err(io::Error::new(io::ErrorKind::Unsupported, NO_PIDFD_SIGNALS))
        }
        sent => sent,
    }
}

/// As [`send_signal`], to a child of this process. As long as that was not reaped, its number cannot be
/// another process's, and kill(2) takes the place of a call that the kernel or a sandbox refuses.
///
/// # Errors
/// EPERM: it became another user's process.
pub fn signal_child(child: (i32, BorrowedFd<'_>), signal: i32, value: Option<u64>) -> io::Result<bool> {
    let (pid, pidfd) = child;
    match pidfd_send_signal(pidfd, signal, value) {
        Err(e) if is_refused(&e) => kill_child(pid, signal, value),
        sent => sent,
    }
}

/// Why no process but a child can be signalled, see [`send_signal`].
pub const NO_PIDFD_SIGNALS: &str = "pidfd_send_signal(2) does not work here: the kernel is older than Linux \
    5.1, or a sandbox forbids the call";

fn is_refused(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EPERM))
}

/// Whether pidfd_send_signal(2) works here at all: tries signal 0 to this process.
pub fn pidfd_signals_work() -> bool {
    let me = rustix::process::getpid();
    rustix::process::pidfd_open(me, rustix::process::PidfdFlags::empty())
        .is_ok_and(|own| pidfd_send_signal(own.as_fd(), 0, None).is_ok())
}

fn kill_child(pid: i32, signal: i32, value: Option<u64>) -> io::Result<bool> {
    use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    let Some(child) = Pid::from_raw(pid).filter(|p| waitid(WaitId::Pid(*p), look).is_ok()) else {
        return Ok(false);
    };
    let pid = child.as_raw_nonzero().get();
    let ret = match value {
        // SAFETY: kill touches no memory.
        None => libc::c_long::from(unsafe { libc::kill(pid, signal) }),
        Some(value) => {
            let info = QueuedInfo::new(signal, value);
            // SAFETY: as in `pidfd_send_signal`. Unseen: the kernel reads it.
            unsafe { libc::syscall(libc::SYS_rt_sigqueueinfo, pid, signal, &raw const info) }
        }
    };
    gone_or(check(ret))
}

fn gone_or(sent: io::Result<libc::c_long>) -> io::Result<bool> {
    match sent {
        Ok(_) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Ok(false),
        Err(e) => Err(e),
    }
}

/// The effective user of the process behind `pidfd`, also where `/proc` hides the process. `None`: a kernel
/// before 6.13 does not tell. PIDFD_GET_INFO, include/uapi/linux/pidfd.h.
pub fn pidfd_user(pidfd: BorrowedFd<'_>) -> Option<u32> {
    const WORDS: usize = 16;
    const EUID: usize = 9;
    const GET_INFO: libc::Ioctl = (3 << 30) | ((WORDS as libc::Ioctl * 4) << 16) | (0xFF << 8) | 11;
    // `struct pidfd_info` of its first version: two words of mask, two of cgroup id, pid, tgid, ppid, ruid,
    // rgid, euid, … The credentials are told without being asked for.
    let mut info = [0u32; WORDS];
    // SAFETY: the array is as long and as aligned as the size in the request says (8 bytes are asked of no
    // pointer by the kernel, which copies bytes), and outlives the call. Unseen: the kernel writes it.
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
    gone_or(check(ret))
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

/// What changed about a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Ended(Exit),
    Stopped(i32),
    Continued,
}

/// What a child and the children it waited for have used. getrusage(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// User and system time.
    pub cpu: Duration,
    pub max_rss_kib: i64,
}

/// The next change of any child, ended ones reaped; `None` when there is none to tell. The raw call,
/// because nix has no name for death by a real-time signal. wait4(2).
pub fn wait_any() -> Option<(i32, Change, Usage)> {
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
        Change::Stopped(libc::WSTOPSIG(status))
    } else if libc::WIFCONTINUED(status) {
        Change::Continued
    } else if libc::WIFSIGNALED(status) {
        Change::Ended(Exit::Signal(libc::WTERMSIG(status)))
    } else {
        Change::Ended(Exit::Code(libc::WEXITSTATUS(status)))
    };
    let usage = Usage { cpu: time(usage.ru_utime) + time(usage.ru_stime), max_rss_kib: usage.ru_maxrss };
    Some((pid, change, usage))
}

/// Whether this process inherited `signal` as ignored, or has set it so. sigaction(2).
pub fn is_ignored(signal: i32) -> bool {
    let mut old = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a null new action only asks; the pointer is valid for a write of its type.
    let ret = unsafe { libc::sigaction(signal, std::ptr::null(), old.as_mut_ptr()) };
    // SAFETY: zeroed is a valid sigaction where the call failed, else the kernel's answer.
    ret == 0 && unsafe { old.assume_init() }.sa_sigaction == libc::SIG_IGN
}

/// Sets `signal` to its default action or to ignored. sigaction(2).
pub fn set_disposition(signal: i32, ignored: bool) {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: zeroed is a valid sigaction; only its handler is set, to one of the two constants that
    // are no function, so nothing of ours ever runs in a signal handler.
    unsafe {
        (*action.as_mut_ptr()).sa_sigaction = if ignored { libc::SIG_IGN } else { libc::SIG_DFL };
        libc::sigaction(signal, action.as_ptr(), std::ptr::null_mut());
    }
}

/// Sends `signal` to this process with its default action, unblocked around it, and returns if that
/// did not end it: a stop signal that was continued, or a process that cannot die by it (PID 1).
pub fn raise_unblocked(signal: i32) {
    // SAFETY: kill to our own pid touches no memory.
    unsafe { libc::kill(libc::getpid(), signal) };
    let all_but = SignalSet(SignalSet::ALL.0 & !(1 << (signal - 1)));
    set_mask(all_but);
    set_mask(SignalSet::ALL);
}

/// Forbids a core file of this process: it ends by the agent's signal, and the agent has dumped its
/// own. PR_SET_DUMPABLE of prctl(2).
pub fn forbid_core() {
    let _ = nix::sys::prctl::set_dumpable(false);
    let _ = nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0);
}

/// Leaves at once: no destructor, no exit handler. _exit(2).
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit does not return and touches no memory of ours.
    unsafe { libc::_exit(code) }
}

/// How often each signal reached the witness, index = signal.
static WITNESSED: [AtomicU32; 65] = [const { AtomicU32::new(0) }; 65];

/// The stack of the witness: it calls nothing but system calls.
const WITNESS_STACK: usize = 16 * 1024;

/// Starts the witness: a sibling of the agent in our process group that blocks every signal and counts
/// those that reach it, so that a signal sent to the whole group can be told from one sent to us alone.
/// It shares our memory, so it costs no page, and dies with us. It holds no descriptor: the live lock and
/// the agent's pipes end with the supervisor, not a moment later. clone(2) with `CLONE_VM`.
///
/// # Errors
/// When the kernel has no room for another process.
pub fn start_witness() -> io::Result<i32> {
    let stack = Box::leak(vec![0u8; WITNESS_STACK].into_boxed_slice());
    // SAFETY: one past the end of the leaked stack, aligned down: the stack grows towards its start.
    let top = unsafe { stack.as_mut_ptr().add(WITNESS_STACK) };
    let top = top.map_addr(|a| a & !15).cast::<c_void>();
    // SAFETY: the function lives for ever, the stack is leaked and used by this clone alone. The clone
    // shares memory but not the thread group; it runs `witness` only, which uses no
    // thread-local data (its system calls do not go through the C library's errno). AddressSanitizer follows
    // it, valgrind and Miri do not. Unseen: whether its stack is long enough.
    let pid = unsafe {
        libc::clone(
            witness,
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

/// What the witness runs, with every signal blocked since the clone. Only raw system calls: the C
/// library's wrappers would write the errno of the supervisor, whose thread pointer it shares.
extern "C" fn witness(supervisor: *mut c_void) -> libc::c_int {
    let all = SignalSet::ALL.0;
    // SAFETY: the descriptors are copies of its own; prctl with plain numbers; the name is a literal with
    // its NUL. Unseen: the kernel reads it.
    unsafe {
        let _ = syscall!(Sysno::prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
        let _ = syscall!(Sysno::close_range, 0, u32::MAX, 0);
        let _ = syscall!(Sysno::prctl, libc::PR_SET_NAME, c"bookend-witness".as_ptr(), 0, 0, 0);
        if syscall!(Sysno::getppid) != Ok(supervisor.addr()) {
            return 0; // It died before the line above could tie us to it.
        }
    }
    loop {
        // SAFETY: the set is a u64 on this stack and its size is passed; null info and timeout are
        // allowed (sigtimedwait(2)). Unseen: the kernel reads it.
        let got = unsafe { syscall!(Sysno::rt_sigtimedwait, &raw const all, 0, 0, SET_BYTES) };
        if let Ok(signal) = got
            && let Some(count) = WITNESSED.get(signal)
        {
            count.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// Ends the witness and reaps it. Where a sandbox forbids kill(2) it ends with this process.
pub fn end_witness(pid: i32) {
    // SAFETY: it is our own child and not reaped, so the pid means it; the calls touch no memory.
    unsafe {
        if libc::kill(pid, libc::SIGKILL) == 0 {
            libc::waitpid(pid, std::ptr::null_mut(), libc::__WALL);
        }
    }
}

/// How many of `signal` the witness has seen so far.
pub fn witnessed(signal: i32) -> u32 {
    WITNESSED.get(signal as usize).map_or(0, |c| c.load(Ordering::SeqCst))
}

/// Occupies each of the descriptors 0, 1 and 2 that is closed with one that the agent will not inherit
/// and that can be neither read nor written, so that no file of ours lands there.
pub fn occupy_closed_stdio() {
    for fd in 0..=2 {
        // SAFETY: F_GETFD on a number touches no memory.
        if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
            // SAFETY: the path is a literal with its NUL. The lowest free number is `fd` itself, since
            // all below it are open by now.
            unsafe { libc::open(c"/".as_ptr(), libc::O_PATH | libc::O_CLOEXEC) };
        }
    }
}

/// Closes a descriptor that this process inherited and has no use for.
pub fn close_inherited(fd: RawFd) {
    // SAFETY: the caller names a number that it found open before bookend opened anything of its own,
    // so no owned descriptor of ours is closed.
    unsafe { libc::close(fd) };
}

/// The descriptors 0, 1 and 2 stay open for the life of the process, so they can be borrowed.
pub fn stdio(fd: RawFd) -> BorrowedFd<'static> {
    assert!((0..=2).contains(&fd));
    // SAFETY: 0 to 2 are open (`occupy_closed_stdio`) and are replaced but never closed.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// Makes descriptor `onto` (0 to 2) a copy of `fd`, close-on-exec. dup3(2).
pub fn replace_stdio(fd: BorrowedFd<'_>, onto: RawFd) -> io::Result<()> {
    assert!((0..=2).contains(&onto));
    // SAFETY: dup3 on numbers touches no memory; `onto` is owned by nobody (see `stdio`).
    check(libc::c_long::from(unsafe { libc::dup3(fd.as_raw_fd(), onto, libc::O_CLOEXEC) }))?;
    Ok(())
}

unsafe extern "C" {
    static environ: *const *const libc::c_char;
}

/// The environment as it was given to us, entry by entry, malformed and repeated ones too. environ(7).
pub fn environment() -> Vec<std::ffi::CString> {
    environment_with(b"")
}

/// The entries of the environment that begin with `prefix`.
pub fn environment_with(prefix: &[u8]) -> Vec<std::ffi::CString> {
    let mut entries = Vec::new();
    // SAFETY: only `forget_variable` changes the environment, before a second thread exists, and unsetenv(3)
    // leaves an array of NUL-terminated strings that ends with a null pointer. Unseen: AddressSanitizer knows
    // no bounds of what the kernel laid out.
    unsafe {
        let mut at = environ;
        while !at.is_null() && !(*at).is_null() {
            let entry = std::ffi::CStr::from_ptr(*at);
            if entry.to_bytes().starts_with(prefix) {
                entries.push(entry.to_owned());
            }
            at = at.add(1);
        }
    }
    entries
}

/// Removes a variable from the environment of this process. Call it only while there is a single thread.
pub fn forget_variable(name: &str) {
    // SAFETY: `main` calls this before it starts anything, so no other thread reads the environment.
    unsafe { std::env::remove_var(name) }
}

/// An unnamed file in memory that holds `bytes`, ready to be read from its beginning.
///
/// # Errors
/// When the kernel has no memory or no descriptor left.
pub fn memory_file(name: &str, bytes: &[u8]) -> io::Result<std::fs::File> {
    use std::io::{Seek, Write};
    let mut file = std::fs::File::from(rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}

/// Blots out the last `count` words of our command line as others see it, `/proc/PID/cmdline` of proc(5).
/// The words must have been copied by now: std does so whenever it is asked for them.
pub fn hide_arguments(count: usize) {
    // Where the kernel laid the words out, one after the other: fields 48 and 49 of proc_pid_stat(5), which
    // the owner may read. The name before them may hold any bytes.
    let Some(stat) = proc_self_stat() else { return };
    let Some(fields) = stat.rsplit(|b| *b == b')').next().and_then(|f| std::str::from_utf8(f).ok()) else {
        return;
    };
    let mut fields = fields.split_ascii_whitespace().skip(48 - 3).map(|n| n.parse::<usize>().unwrap_or(0));
    let (Some(start), Some(end)) = (fields.next(), fields.next()) else { return };
    if start == 0 || end <= start {
        return;
    }
    // SAFETY: the kernel itself says that our words lie there, on our own writable stack; one thread runs,
    // and nothing keeps a reference to them: std copies them each time that it is asked. Unseen:
    // AddressSanitizer knows no bounds of what the kernel laid out.
    let words = unsafe {
        std::slice::from_raw_parts_mut(std::ptr::with_exposed_provenance_mut::<u8>(start), end - start)
    };
    let breaks: Vec<usize> = words.iter().enumerate().filter(|(_, b)| **b == 0).map(|(at, _)| at).collect();
    if count > 0 && count < breaks.len() {
        words[breaks[breaks.len() - count - 1] + 1..].fill(0);
    }
}

/// Whether this process was given more rights than its caller has, by a set-user-ID or set-group-ID bit or
/// by capabilities of its file. What it is told by its environment would then be done with somebody else's
/// power.
pub fn is_elevated() -> bool {
    use nix::unistd::{getegid, geteuid, getgid, getuid};
    // SAFETY: getauxval only reads what the kernel laid out for this process.
    let is_secure = unsafe { libc::getauxval(libc::AT_SECURE) } != 0;
    // A security module may set it too, where it gives nothing.
    let has_capabilities = || rustix::thread::capabilities(None).is_ok_and(|c| !c.permitted.is_empty());
    getuid() != geteuid()
        || getgid() != getegid()
        || (is_secure && !geteuid().is_root() && has_capabilities())
}

/// `/proc/self/stat`, if it is the kernel that says so: anything may be mounted on `/proc`.
fn proc_self_stat() -> Option<Vec<u8>> {
    let mut file = std::fs::File::open("/proc/self/stat").ok()?;
    let on = nix::sys::statfs::fstatfs(&file).ok()?.filesystem_type();
    let mut stat = Vec::new();
    file.read_to_end(&mut stat).ok().filter(|_| on == nix::sys::statfs::PROC_SUPER_MAGIC)?;
    Some(stat)
}

/// A user for messages: `user alice (uid 1000)`, or `uid 1000` where no name is known.
pub fn user_name(uid: u32) -> String {
    let user = nix::unistd::User::from_uid(uid.into()).ok().flatten();
    user.map_or_else(|| format!("uid {uid}"), |u| format!("user {} (uid {uid})", u.name))
}

/// Marks every descriptor above 2 close-on-exec. close_range(2), since Linux 5.11 with this flag.
pub fn keep_only_stdio() -> io::Result<()> {
    // SAFETY: the call changes flags of descriptors only, and touches no memory.
    check(unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) })?;
    Ok(())
}

/// Gives up the controlling terminal, unless this process leads its session: then the terminal is hung up
/// when it ends. A process of another user that has the terminal on a descriptor, or traces one that has,
/// could type into it (TIOCSTI of ioctl_tty(2)), and the shell would execute that as its own user.
pub fn give_up_terminal() {
    let Ok(terminal) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/tty") else { return };
    if nix::unistd::getsid(None) != Ok(nix::unistd::getpid()) {
        // SAFETY: the call takes no argument and touches no memory.
        unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCNOTTY) };
    }
}

/// Whether the file that `conn` has open no longer lies at its path: it was renamed, removed or replaced.
/// `SQLITE_FCNTL_HAS_MOVED` of <https://www.sqlite.org/c3ref/c_fcntl_begin_atomic_write.html>; what SQLite
/// cannot say counts as moved.
pub fn has_moved(conn: &rusqlite::Connection) -> bool {
    use rusqlite::ffi::{SQLITE_FCNTL_HAS_MOVED, SQLITE_OK, sqlite3_file_control};
    let mut moved: libc::c_int = 1;
    // SAFETY: the handle is valid while `conn` is borrowed; the name is a literal with its NUL; the operation
    // writes one int, which outlives the call.
    let said = unsafe {
        sqlite3_file_control(
            conn.handle(),
            c"main".as_ptr(),
            SQLITE_FCNTL_HAS_MOVED,
            (&raw mut moved).cast::<c_void>(),
        )
    };
    said != SQLITE_OK || moved != 0
}

/// What a run needs of the heap until its agent executes, in bytes.
const HEAP: usize = 416 * 1024;

/// Has the heap grow in one large step instead of many small ones, each a system call, and its pages come at
/// once instead of one by one, each a fault. What is too much is given back by [`trim_memory`]. mallopt(3),
/// madvise(2); a kernel before 5.14 knows no MADV_POPULATE_WRITE, and the pages come one by one.
pub fn ready_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt and the first malloc change the allocator's own books only; one thread runs. sbrk(0)
    // asks where the heap ends. All pages from where it ended before to where it ends now are the heap's,
    // and madvise leaves what is in them. Unseen: AddressSanitizer puts an allocator of its own in the place
    // of the C library's.
    unsafe {
        libc::mallopt(libc::M_TOP_PAD, HEAP as libc::c_int);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 2 * HEAP as libc::c_int);
        let begin = libc::sbrk(0).map_addr(|a| a.next_multiple_of(4096));
        libc::free(std::hint::black_box(libc::malloc(1)));
        if libc::sbrk(0).addr() >= begin.addr() + HEAP {
            libc::madvise(begin, HEAP, libc::MADV_POPULATE_WRITE);
        }
    }
}

/// How deep the stack was at most, generously, in bytes.
const STACK: usize = 256 * 1024;
/// What of it is left to this function and what it calls.
const SHALLOW: usize = 16 * 1024;

/// Gives back to the kernel, before a long wait, the memory that is free in the allocator, and what parsing
/// and starting has used of the stack. malloc_trim(3), madvise(2).
pub fn trim_memory() {
    // SAFETY: it changes the allocator's own books only; one thread runs. Unseen, as in `ready_heap`.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
    let here = 0u8;
    let deep = (&raw const here).map_addr(|a| (a - STACK) & !4095).cast_mut().cast::<c_void>();
    // SAFETY: the main thread alone runs, on the stack that the kernel gave it, which grows downwards; what
    // lies below this frame, and below what the kernel may write there for a call, belongs to nobody. The
    // guard gap below a stack is longer than this. Pages that are given back read as zeros when they are
    // used anew. Unseen: it is the kernel that takes them.
    unsafe { libc::madvise(deep, STACK - SHALLOW, libc::MADV_DONTNEED) };
}
