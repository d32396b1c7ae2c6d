//! The identity of a process: reading it from `/proc`, comparing it, and holding it while signalling.
//!
//! Source of every field: proc_pid_stat(5), pidfd_open(2), namespaces(7), cgroups(7), random(4).

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};

use crate::sys;
use crate::task::{ProcessIdentity, ProcessRecord, ProcessScope, Signal, Verdict};

/// `PF_KTHREAD` of the kernel's `sched.h`: a thread of the kernel itself.
const KERNEL_THREAD: u32 = 0x0020_0000;

/// The name of a process: its first 15 bytes, all that the kernel keeps of a program's name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Comm {
    bytes: [u8; 15],
    len: u8,
}

impl Comm {
    pub fn new(name: &[u8]) -> Comm {
        let len = name.len().min(15);
        let mut bytes = [0; 15];
        bytes[..len].copy_from_slice(&name[..len]);
        Comm { bytes, len: len as u8 }
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl fmt::Display for Comm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&String::from_utf8_lossy(self.as_bytes()))
    }
}

impl fmt::Debug for Comm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.as_bytes().escape_ascii())
    }
}

/// One line of `/proc/PID/stat`, as far as bookend reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessStat {
    pub pid: i32,
    pub comm: Comm,
    /// `R`, `S`, `D`, `T`, `t`, `Z`, `X`, `I`.
    pub state: char,
    pub ppid: i32,
    pub pgrp: i32,
    pub session: i32,
    /// The controlling terminal's device number; 0: none.
    pub tty_nr: i32,
    pub flags: u32,
    pub threads: i32,
    /// Clock ticks since boot.
    pub start: u64,
}

impl ProcessStat {
    pub fn identity(&self) -> ProcessIdentity {
        ProcessIdentity { pid: self.pid, start: self.start }
    }

    /// A zombie is dead, unless only its first thread has ended and others run on.
    pub fn is_dead(&self) -> bool {
        match self.state {
            'X' | 'x' => true,
            'Z' => self.threads <= 1,
            _ => false,
        }
    }

    pub fn is_kernel_thread(&self) -> bool {
        self.flags & KERNEL_THREAD != 0
    }
}

/// Reads one `/proc/PID/stat`. The name may hold anything, `)` and newlines too: the last `)` ends it.
/// `None`: this is no such line.
pub fn parse_stat(bytes: &[u8]) -> Option<ProcessStat> {
    let open = bytes.iter().position(|b| *b == b'(')?;
    let close = bytes.iter().rposition(|b| *b == b')')?;
    let pid = std::str::from_utf8(bytes.get(..open)?).ok()?.trim().parse().ok()?;
    let comm = Comm::new(bytes.get(open + 1..close)?);
    let rest = std::str::from_utf8(bytes.get(close + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let ppid = fields.next()?.parse().ok()?;
    let pgrp = fields.next()?.parse().ok()?;
    let session = fields.next()?.parse().ok()?;
    let tty_nr = fields.next()?.parse().ok()?;
    let flags = fields.nth(1)?.parse().ok()?;
    let threads = fields.nth(10)?.parse().ok()?;
    let start = fields.nth(1)?.parse().ok()?;
    // What follows shows that it is whole: a start that was cut would be another process's.
    fields.next()?;
    Some(ProcessStat { pid, comm, state, ppid, pgrp, session, tty_nr, flags, threads, start })
}

/// Reads as much of a small file under `dir` as fits into `buf`, in one read.
pub(crate) fn read_at(dir: BorrowedFd<'_>, path: &[u8], buf: &mut [u8]) -> rustix::io::Result<usize> {
    let file = rustix::fs::openat(dir, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    loop {
        match rustix::io::read(&file, &mut *buf) {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

/// A valid pid: a row that another program wrote may contain any number.
fn number(pid: i32) -> Option<Pid> {
    if pid.is_positive() { Pid::from_raw(pid) } else { None }
}

/// The process `pid`, zombies included; `None`: there is none.
///
/// # Errors
/// Whatever keeps `/proc/PID/stat` from being read while the process may well live: a `/proc` that hides
/// it (`hidepid`) or is not mounted. That never counts as ended.
pub fn stat(pid: i32) -> io::Result<Option<ProcessStat>> {
    let Some(number) = number(pid) else {
        return Ok(None);
    };
    let path = format!("/proc/{pid}/stat");
    let mut buf = [0; 1024];
    // A pid that is reused between the two checks makes them disagree once, not twice.
    for last in [false, true] {
        match read_at(CWD, path.as_bytes(), &mut buf) {
            Ok(len) => {
                return match parse_stat(&buf[..len]) {
                    Some(stat) => Ok(Some(stat)),
                    None => Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!("{path} is not as proc(5) says"),
                    )),
                };
            }
            Err(Errno::SRCH) => return Ok(None),
            Err(Errno::NOENT) => match rustix::process::test_kill_process(number) {
                Err(Errno::SRCH) => return Ok(None),
                Err(e) => return Err(e.into()),
                Ok(()) if last => {
                    let text =
                        format!("process {pid} exists, but {path} does not: is /proc mounted, with hidepid?");
                    return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
                }
                Ok(()) => {}
            },
            Err(e) => return Err(e.into()),
        }
    }
    Ok(None)
}

/// The identity of the live process `pid`; `None`: there is none, or it is dead and not yet reaped.
///
/// # Errors
/// As [`stat`].
pub fn of(pid: i32) -> io::Result<Option<ProcessIdentity>> {
    Ok(stat(pid)?.filter(|s| !s.is_dead()).map(|s| s.identity()))
}

/// The effective user of a process. `/proc/PID` itself belongs to root where the process is not dumpable.
pub fn user(pid: i32) -> Option<u32> {
    user_at(CWD, format!("/proc/{pid}/status").as_bytes())
        .or_else(|| sys::pidfd_user(pidfd(number(pid)?).ok()??.as_fd()))
}

/// A pidfd of the process; `None`: it does not exist.
fn pidfd(pid: Pid) -> rustix::io::Result<Option<OwnedFd>> {
    match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(fd) => Ok(Some(fd)),
        // EINVAL, or ENOENT since Linux 6.15: the number now names a thread.
        Err(Errno::SRCH | Errno::INVAL | Errno::NOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The records of this process and of its child behind `child`, with the inodes of their pidfds. Before
/// pidfs (Linux 6.9) all pidfds had one inode in common, which is not recorded.
pub fn records(
    own: ProcessIdentity,
    child: Option<(ProcessIdentity, BorrowedFd<'_>)>,
) -> (ProcessRecord, Option<ProcessRecord>) {
    let inode = |fd: BorrowedFd<'_>| rustix::fs::fstat(fd).ok().map(|s| s.st_ino);
    let my_inode = number(own.pid).and_then(|pid| inode(pidfd(pid).ok()??.as_fd()));
    let childs_inode = child.and_then(|(_, fd)| inode(fd));
    let differ = my_inode.is_some() && childs_inode.is_some() && my_inode != childs_inode;
    let record =
        |identity, inode: Option<u64>| ProcessRecord { identity, pidfd_inode: inode.filter(|_| differ) };
    (record(own, my_inode), child.map(|(identity, _)| record(identity, childs_inode)))
}

/// As [`user`], by its `status` at `path` under `dir`.
pub(crate) fn user_at(dir: BorrowedFd<'_>, path: &[u8]) -> Option<u32> {
    let mut buf = [0; 1024];
    let len = read_at(dir, path, &mut buf).ok()?;
    let text = String::from_utf8_lossy(&buf[..len]);
    text.lines().find_map(|l| l.strip_prefix("Uid:"))?.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Whether `/proc` counts pids as we do: it may be that of another pid namespace (`unshare --pid` without a
/// mount of its own).
pub(crate) fn proc_is_ours() -> bool {
    let mut buf = [0; 16];
    let me = rustix::process::getpid().as_raw_nonzero().get();
    match rustix::fs::readlinkat_raw(CWD, "/proc/self", &mut buf[..]) {
        Ok(len) => std::str::from_utf8(&buf[..len]).ok().and_then(|s| s.parse().ok()) == Some(me),
        Err(_) => false,
    }
}

/// This boot of this machine.
pub fn boot_id() -> Option<String> {
    let mut buf = [0; 64];
    let len = read_at(CWD, b"/proc/sys/kernel/random/boot_id", &mut buf).ok()?;
    let text = std::str::from_utf8(&buf[..len]).ok()?.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// Where this process runs. What cannot be read is empty or 0, and then proves nothing.
pub fn place() -> ProcessScope {
    ProcessScope {
        host: nix::unistd::gethostname().map(|h| h.to_string_lossy().into_owned()).unwrap_or_default(),
        boot_id: boot_id().unwrap_or_default(),
        pid_ns: std::fs::metadata("/proc/self/ns/pid").map(|m| m.ino()).unwrap_or(0),
        cgroup: cgroup(),
    }
}

fn cgroup() -> Option<String> {
    let mut buf = [0; 8192];
    let len = read_at(CWD, b"/proc/self/cgroup", &mut buf).ok()?;
    let text = String::from_utf8_lossy(&buf[..len]);
    text.lines().find_map(|l| l.strip_prefix("0::")).map(str::to_owned)
}

/// What the identity alone proves about a process that was recorded at `at`, seen from `here`. An empty host
/// or boot id, or a pid namespace or start of 0, was not recorded.
pub fn judge(recorded: ProcessRecord, at: &ProcessScope, here: &ProcessScope) -> Verdict {
    let same_host = at.host.is_empty() || at.host == here.host;
    if !at.boot_id.is_empty() && at.boot_id != here.boot_id {
        let known = !here.boot_id.is_empty();
        return if same_host && known { Verdict::Gone } else { Verdict::Unverifiable };
    }
    let another_world = (at.boot_id.is_empty() && !same_host) || (at.pid_ns != 0 && at.pid_ns != here.pid_ns);
    if another_world || !proc_is_ours() {
        return Verdict::Unverifiable;
    }
    presence(comparable(recorded, at, here))
}

/// What of a record can be compared from here. Inodes of pidfds are numbered anew at each boot, in step with
/// pids, so one of an unknown boot proves nothing.
pub fn comparable(recorded: ProcessRecord, at: &ProcessScope, here: &ProcessScope) -> ProcessRecord {
    let same_boot = !at.boot_id.is_empty() && at.boot_id == here.boot_id;
    ProcessRecord { pidfd_inode: recorded.pidfd_inode.filter(|_| same_boot), ..recorded }
}

/// Whether a process recorded at `at` may have a pid of ours, on this boot of this machine, as far as both
/// places are known.
pub fn may_be_here(at: &ProcessScope, here: &ProcessScope) -> bool {
    let agree = |a: &str, b: &str| a.is_empty() || b.is_empty() || a == b;
    let same_boot = !at.boot_id.is_empty() && at.boot_id == here.boot_id;
    let same_machine = same_boot || (agree(&at.boot_id, &here.boot_id) && agree(&at.host, &here.host));
    same_machine && (at.pid_ns == 0 || at.pid_ns == here.pid_ns) && proc_is_ours()
}

/// The verdict on a process of bookend's own pid namespace. `/proc` may hide it, so a pidfd shows whether it
/// exists, has ended, and is the recorded one. `/proc` is read only if the pidfd does not show that.
pub fn presence(recorded: ProcessRecord) -> Verdict {
    let Some(pid) = number(recorded.identity.pid) else { return Verdict::Gone };
    match pidfd(pid) {
        Ok(None) => return Verdict::Gone,
        Ok(Some(fd)) => {
            if has_ended(fd.as_fd()) {
                return Verdict::Gone;
            }
            if let Some(recorded) = recorded.pidfd_inode
                && let Ok(now) = rustix::fs::fstat(&fd)
            {
                return if now.st_ino == recorded { Verdict::Alive } else { Verdict::Recycled };
            }
        }
        Err(_) if rustix::process::test_kill_process(pid) == Err(Errno::SRCH) => return Verdict::Gone,
        Err(_) => {}
    }
    let recorded = recorded.identity;
    match of(recorded.pid) {
        Err(_) => Verdict::Unverifiable,
        Ok(None) => Verdict::Gone,
        Ok(Some(now)) if now == recorded => Verdict::Alive,
        Ok(Some(_)) if recorded.start == 0 => Verdict::Unverifiable,
        Ok(Some(_)) => Verdict::Recycled,
    }
}

/// Whether the process behind a pidfd has ended, reaped or not, all its threads included.
fn has_ended(pidfd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::POLLIN)];
    matches!(nix::poll::poll(&mut fds, PollTimeout::ZERO), Ok(1))
}

/// Whether kill(2) lets this process signal `pid`; `None`: unknown, since the process has ended or a sandbox
/// forbids kill(2).
pub fn may_be_signalled(pid: i32) -> Option<bool> {
    match rustix::process::test_kill_process(number(pid)?) {
        Ok(()) => Some(true),
        Err(Errno::PERM) => {
            let own = rustix::process::test_kill_process(rustix::process::getpid());
            own.is_ok().then_some(false)
        }
        Err(_) => None,
    }
}

/// A process held by its pidfd: it cannot become another one while this lives.
#[derive(Debug)]
pub struct ProcessHandle {
    pidfd: OwnedFd,
    identity: ProcessIdentity,
}

/// Holds the process that `identity` names; `None`: it has ended, or its pid was recycled.
///
/// # Errors
/// pidfd_open(2) (EMFILE, …) or as [`stat`].
pub fn open(identity: &ProcessIdentity) -> io::Result<Option<ProcessHandle>> {
    open_recorded(ProcessRecord::from(*identity))
}

/// As [`open`]; the inode of its pidfd proves a process that `/proc` hides.
///
/// # Errors
/// As [`open`].
pub fn open_recorded(recorded: ProcessRecord) -> io::Result<Option<ProcessHandle>> {
    let ProcessRecord { identity, pidfd_inode } = recorded;
    let Some(pid) = number(identity.pid) else {
        return Ok(None);
    };
    let Some(pidfd) = pidfd(pid)? else { return Ok(None) };
    // Asked after opening: from here on the number cannot change its meaning unseen.
    let same = match pidfd_inode {
        Some(inode) => rustix::fs::fstat(&pidfd)?.st_ino == inode && !has_ended(pidfd.as_fd()),
        None => of(identity.pid)?.is_some_and(|now| now == identity),
    };
    Ok(same.then_some(ProcessHandle { pidfd, identity }))
}

impl ProcessHandle {
    pub fn identity(&self) -> ProcessIdentity {
        self.identity
    }

    /// Sends `signal`; `false`: the process has ended.
    ///
    /// # Errors
    /// As [`sys::send_signal`].
    pub fn signal(&self, signal: Signal) -> io::Result<bool> {
        sys::send_signal(self.pidfd.as_fd(), signal, None)
    }

    /// The effective user of the process, if known.
    pub fn user(&self) -> Option<u32> {
        sys::pidfd_user(self.pidfd.as_fd()).or_else(|| user(self.identity.pid))
    }

    /// Waits until the process has ended, reaped or not, at most `timeout`; `true`: it has.
    ///
    /// # Errors
    /// poll(2), but for EINTR.
    pub fn wait(&self, timeout: Duration) -> io::Result<bool> {
        let until = Instant::now() + timeout;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let mut fds = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
            match nix::poll::poll(&mut fds, poll_timeout(left)) {
                Ok(0) if left.is_zero() => return Ok(false),
                Ok(0) | Err(nix::errno::Errno::EINTR) => {}
                Ok(_) => return Ok(true),
                Err(e) => return Err(e.into()),
            }
        }
    }
}

impl AsFd for ProcessHandle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// Waits until one of `fds` is readable, at most until `until`, or a signal arrives.
///
/// # Errors
/// poll(2), but for EINTR.
pub fn wait_for_any<'a>(fds: impl Iterator<Item = BorrowedFd<'a>>, until: Instant) -> io::Result<()> {
    let mut fds: Vec<_> = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
    match nix::poll::poll(&mut fds, poll_timeout(until.saturating_duration_since(Instant::now()))) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// `left` for poll(2), rounded up so that poll does not return at once during the last millisecond.
pub(crate) fn poll_timeout(left: Duration) -> PollTimeout {
    let ms = left.as_nanos().div_ceil(1_000_000);
    PollTimeout::try_from(ms.min(i32::MAX as u128) as i32).unwrap_or(PollTimeout::MAX)
}

#[cfg(test)]
mod tests;
