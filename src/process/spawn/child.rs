//! The child between clone and exec: it shares bookend's memory, allocates nothing and makes raw system calls
//! only.

use std::cell::Cell;
use std::ffi::{CStr, CString, c_void};
use std::fmt;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::ptr::{self, NonNull};

use syscalls::{Sysno, syscall};

use super::launch::StartStep;
use crate::sys::{self, SignalSet};
use crate::task::Signal;

const PID_DIGITS: usize = 10;

/// The variables by which systemd names the process that it has started. A program ignores its sockets and
/// its watchdog unless they name itself: sd_listen_fds(3), sd_watchdog_enabled(3), systemd.exec(5).
const PID_VARIABLES: [&str; 3] = ["LISTEN_PID=", "WATCHDOG_PID=", "SYSTEMD_EXEC_PID="];

/// An environment entry into which the child writes its own pid.
struct OwnPidEntry {
    /// Which entry of the environment it replaces.
    entry: usize,
    bytes: Box<[Cell<u8>]>,
    /// Where the pid begins in `bytes`.
    pid_at: usize,
}

impl OwnPidEntry {
    /// What replaces an entry that names the supervisor.
    fn replacing(at: usize, entry: &CStr, supervisor: u32) -> Option<OwnPidEntry> {
        let value = |name: &str| entry.to_bytes().strip_prefix(name.as_bytes());
        let is_ours = |name: &&str| value(name).is_some_and(|v| v == supervisor.to_string().as_bytes());
        let name = PID_VARIABLES.into_iter().find(is_ours)?;
        let bytes = name.bytes().chain([0; PID_DIGITS + 1]).map(Cell::new).collect();
        Some(OwnPidEntry { entry: at, bytes, pid_at: name.len() })
    }
}

/// A command line and an environment as execve(2) takes them. The pointers point into the other fields, whose
/// heap memory does not move when this struct does.
pub(super) struct ExecArguments {
    argv_pointers: Vec<*const libc::c_char>,
    env_pointers: Vec<*const libc::c_char>,
    own_pid_entries: Vec<OwnPidEntry>,
    _words: (Vec<CString>, Vec<CString>),
}

impl ExecArguments {
    pub(super) fn new(argv: Vec<CString>, env: Vec<CString>, supervisor: u32) -> ExecArguments {
        let replaced = |(at, entry): (usize, &CString)| OwnPidEntry::replacing(at, entry, supervisor);
        let own_pid_entries: Vec<OwnPidEntry> = env.iter().enumerate().filter_map(replaced).collect();
        // From here on only the vectors move, not the strings and boxes in them.
        let argv_pointers = argv.iter().map(|w| w.as_ptr()).chain([ptr::null()]).collect();
        let mut env_pointers: Vec<*const libc::c_char> =
            env.iter().map(|e| e.as_ptr()).chain([ptr::null()]).collect();
        for own in &own_pid_entries {
            env_pointers[own.entry] = own.bytes.as_ptr().cast();
        }
        ExecArguments { argv_pointers, env_pointers, own_pid_entries, _words: (argv, env) }
    }
}

/// All that the child needs, prepared before it exists.
pub(super) struct ChildPlan {
    pub(super) candidates: Vec<CString>,
    pub(super) arguments: ExecArguments,
    pub(super) cwd: Option<CString>,
    pub(super) leads_group: bool,
    pub(super) stdio: [Option<RawFd>; 3],
    pub(super) gate: RawFd,
    pub(super) supervisors_gate: RawFd,
    pub(super) report: RawFd,
    pub(super) supervisor: i32,
    pub(super) mask: SignalSet,
    pub(super) sigchld_ignored: bool,
    /// A test wants the parent to die before the child checks it.
    pub(super) is_orphaned: bool,
    /// A test wants the child to die at the gate.
    pub(super) is_doomed: bool,
}

/// Bytes of the child's stack, which only makes system calls.
const STACK: usize = 16 * 1024;

/// The memory that the child uses until it executes or exits: its plan and its stack. Both are leaked before
/// the child exists and named by pointers only, so that no Rust reference or `Box` claims them meanwhile.
pub(super) struct ChildMemory {
    plan: NonNull<ChildPlan>,
    stack: NonNull<[MaybeUninit<u8>]>,
}

impl fmt::Debug for ChildMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChildMemory").finish_non_exhaustive()
    }
}

impl ChildMemory {
    pub(super) fn leak(plan: ChildPlan) -> ChildMemory {
        ChildMemory {
            plan: NonNull::from(Box::leak(Box::new(plan))),
            stack: NonNull::from(Box::leak(Box::<[u8]>::new_uninit_slice(STACK))),
        }
    }

    /// Starts the child, which shares this process's memory until it executes or exits. clone(2).
    ///
    /// `None`: the kernel has no room for another process; `errno` says why.
    pub(super) fn clone_child(&self) -> Option<(i32, RawFd)> {
        let start = self.stack.as_ptr().cast::<u8>();
        // SAFETY: one past the end of the allocation of `STACK` bytes; the stack grows towards its start.
        let top = unsafe { start.add(STACK) }.map_addr(|a| a & !15).cast::<c_void>();
        let mut pidfd: RawFd = -1;
        // The child runs `run` only: raw system calls that read `ChildPlan`, and never the C library's thread
        // data. Every signal is blocked, so no handler runs on the shared memory. AddressSanitizer follows
        // the child, valgrind and Miri do not. Unseen (see `sys`): whether its stack is long enough.
        // SAFETY: the plan and the stack are leaked, nothing here writes to them again, and `free` is called
        // only after the child has left this memory. This clone alone uses the stack.
        let pid = unsafe {
            libc::clone(
                ChildPlan::run,
                top,
                libc::CLONE_VM | libc::CLONE_PIDFD | libc::SIGCHLD,
                self.plan.as_ptr().cast::<c_void>(),
                &raw mut pidfd,
            )
        };
        (pid >= 0).then_some((pid, pidfd))
    }

    /// Frees the memory.
    ///
    /// # Safety
    /// No child uses it: there was none, or it has executed or exited.
    pub(super) unsafe fn free(self) {
        // SAFETY: both come from `Box::leak` and are freed once, since `self` is consumed and is not `Copy`;
        // the caller says that the child has left the memory.
        unsafe {
            drop(Box::from_raw(self.plan.as_ptr()));
            drop(Box::from_raw(self.stack.as_ptr()));
        }
    }
}

impl ChildPlan {
    /// All that the child does before exec.
    extern "C" fn run(plan: *mut c_void) -> libc::c_int {
        // SAFETY: `clone_child` passes a pointer to its leaked plan, which is neither changed nor freed
        // before this process has left the memory that both share. The child writes to `Cell`s only.
        let plan = unsafe { &*plan.cast::<ChildPlan>() };
        plan.wait_at_gate();
        plan.become_agent();
        plan.exec()
    }

    fn wait_at_gate(&self) {
        // SAFETY: plain numbers, and one byte of this stack. Unseen: the kernel writes that byte.
        unsafe {
            if self.is_orphaned {
                let _ = syscall!(Sysno::kill, self.supervisor, libc::SIGKILL);
                while syscall!(Sysno::getppid) == Ok(self.supervisor as usize) {}
            }
            let _ = syscall!(Sysno::prctl, libc::PR_SET_PDEATHSIG, libc::SIGTERM, 0, 0, 0);
            // The supervisor died before the line above, so no signal would ever arrive. A parent outside of
            // our pid namespace (`unshare --pid` without --fork) reads as 0.
            let parent = syscall!(Sysno::getppid).unwrap_or(0);
            if parent != self.supervisor as usize && parent != 0 {
                exit();
            }
            if self.is_doomed {
                let _ = syscall!(Sysno::kill, own_pid(), libc::SIGKILL);
            }
            // Or the end-of-file would never come.
            let _ = syscall!(Sysno::close, self.supervisors_gate);
            let mut word = 0u8;
            loop {
                match syscall!(Sysno::read, self.gate, &raw mut word, 1) {
                    Ok(1) => return,
                    Err(syscalls::Errno::EINTR) => {}
                    _ => exit(),
                }
            }
        }
    }

    fn become_agent(&self) {
        if self.leads_group {
            // SAFETY: plain numbers.
            let _ = unsafe { syscall!(Sysno::setpgid, 0, 0) };
        }
        if let Some(cwd) = &self.cwd {
            // SAFETY: NUL-terminated, and part of `self`. Unseen: the kernel reads it.
            if let Err(e) = unsafe { syscall!(Sysno::chdir, cwd.as_ptr()) } {
                self.fail(StartStep::Chdir, e.into_raw());
            }
        }
        for (number, fd) in self.stdio.iter().enumerate() {
            if let Some(fd) = *fd
                // SAFETY: plain numbers; the descriptors are this process's own copies. None of them is 0
                // to 2 itself: those were all occupied before bookend opened anything.
                && let Err(e) = unsafe { syscall!(Sysno::dup3, fd, number, 0) }
            {
                self.fail(StartStep::Stdio, e.into_raw());
            }
        }
        self.write_own_pid();
        if self.sigchld_ignored {
            sys::ignore_raw(Signal::CHLD);
        }
        sys::set_mask_raw(self.mask);
    }

    /// Writes its pid where the caller's environment names the supervisor.
    fn write_own_pid(&self) {
        let mut digits = [0u8; PID_DIGITS];
        let mut first = PID_DIGITS;
        let mut rest = own_pid();
        while rest > 0 {
            first -= 1;
            digits[first] = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        for entry in &self.arguments.own_pid_entries {
            for (to, digit) in entry.bytes[entry.pid_at..].iter().zip(&digits[first..]) {
                to.set(*digit);
            }
        }
    }

    /// Tries each candidate as execvp(3) does, but does not pass a script without `#!` to a shell.
    fn exec(&self) -> ! {
        let mut errno = libc::ENOENT;
        let (argv, env) = (self.arguments.argv_pointers.as_ptr(), self.arguments.env_pointers.as_ptr());
        for file in &self.candidates {
            // SAFETY: the file and what both arrays point to are NUL-terminated and parts of `self`, and the
            // arrays end with a null pointer. Unseen: the kernel reads them all.
            let Err(e) = (unsafe { syscall!(Sysno::execve, file.as_ptr(), argv, env) }) else { continue };
            match e.into_raw() {
                libc::EACCES => errno = libc::EACCES,
                now @ (libc::ENOENT | libc::ENOTDIR | libc::ENAMETOOLONG | libc::ELOOP) => {
                    if errno != libc::EACCES {
                        errno = now;
                    }
                }
                now => {
                    errno = now;
                    break;
                }
            }
        }
        self.fail(StartStep::Exec, errno)
    }

    /// Reports to the supervisor which step failed and why, and exits.
    fn fail(&self, step: StartStep, errno: i32) -> ! {
        let words = [step as i32, errno];
        // SAFETY: eight bytes of this stack; at most PIPE_BUF, so written whole or not at all. Unseen: the
        // kernel reads them.
        let _ = unsafe { syscall!(Sysno::write, self.report, words.as_ptr(), size_of_val(&words)) };
        exit()
    }
}

/// The child's pid. The C library could tell too, but the child uses nothing of it.
fn own_pid() -> usize {
    // SAFETY: it takes nothing and touches no memory.
    unsafe { syscall!(Sysno::getpid) }.unwrap_or(0)
}

/// Exits with 125, having executed nothing: no destructor and no exit handler runs.
fn exit() -> ! {
    loop {
        // SAFETY: it does not return.
        let _ = unsafe { syscall!(Sysno::exit_group, 125) };
    }
}
