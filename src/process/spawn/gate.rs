//! The gate: a child that executes nothing until its row is committed.
//!
//! The child sets its parent-death signal, checks its parent, and blocks reading the gate. A byte opens
//! it; end-of-file (the supervisor died, or dismissed it) makes it leave with 125 without executing.
//! Every child of bookend, the prepare command and the hooks too, is started through here.

use std::cell::Cell;
use std::ffi::{CStr, CString, OsStr, c_void};
use std::fmt;
use std::io;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::ptr;

use nix::fcntl::OFlag;
use syscalls::{Sysno, syscall};

use crate::failpoint;
use crate::process::spawn::caller::Caller;
use crate::sys::{self, SignalSet};
use crate::task::Signal;

/// What a child is to become. All of it is made before it exists: it allocates nothing.
pub struct Launch {
    /// The paths to try, in the order of `PATH`.
    candidates: Vec<CString>,
    argv: Vec<CString>,
    env: Vec<CString>,
    cwd: Option<CString>,
    /// Whether it leads a process group of its own, so that all that it starts can be ended with it.
    leads_group: bool,
    /// What its descriptors 0, 1, 2 are to be; `None`: as inherited.
    stdio: [Option<OwnedFd>; 3],
}

impl Launch {
    /// `argv[0]` is the program; it is looked up in the `PATH` of `env` as execvp(3) does.
    ///
    /// # Errors
    /// `InvalidInput` when a word holds a NUL byte or there is no program.
    pub fn new<S: AsRef<OsStr>>(argv: &[S], env: Vec<CString>) -> io::Result<Launch> {
        let argv = argv.iter().map(|w| CString::new(w.as_ref().as_bytes())).collect::<Result<Vec<_>, _>>()?;
        let Some(program) = argv.first() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no program to execute"));
        };
        let candidates = candidates(program, &env);
        Ok(Launch { candidates, argv, env, cwd: None, leads_group: false, stdio: [None, None, None] })
    }

    pub fn cwd(mut self, cwd: Option<&OsStr>) -> io::Result<Launch> {
        self.cwd = cwd.map(|c| CString::new(c.as_bytes())).transpose()?;
        Ok(self)
    }

    /// Lets it lead a process group of its own.
    pub fn own_group(mut self) -> Launch {
        self.leads_group = true;
        self
    }

    /// Gives the child `fd` as its descriptor `number` (0 to 2).
    pub fn stdio(mut self, number: usize, fd: OwnedFd) -> Launch {
        self.stdio[number] = Some(fd);
        self
    }
}

/// The paths that execvp(3) would try for `program`.
fn candidates(program: &CStr, env: &[CString]) -> Vec<CString> {
    let name = program.to_bytes();
    if name.is_empty() || name.contains(&b'/') {
        return vec![program.to_owned()];
    }
    let path = env.iter().find_map(|e| e.to_bytes().strip_prefix(b"PATH=")).unwrap_or(b"/bin:/usr/bin");
    path.split(|&b| b == b':')
        .filter_map(|dir| {
            let mut file = dir.to_vec();
            if !file.is_empty() {
                file.push(b'/');
            }
            file.extend_from_slice(name);
            CString::new(file).ok()
        })
        .collect()
}

/// Where a start failed, as the child reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartStep {
    Chdir,
    Stdio,
    Exec,
}

/// Why there is no agent: the step and the errno of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StartError {
    pub step: StartStep,
    pub errno: i32,
}

/// A child of bookend: it waits at the gate until that is opened, or leaves when it is closed.
#[derive(Debug)]
pub struct Gated {
    pub pid: i32,
    pub pidfd: OwnedFd,
    gate: Option<OwnedFd>,
    report: Option<OwnedFd>,
    /// What the child reads until it executes or leaves. Given up, not freed, where that was not seen.
    shared: ManuallyDrop<Box<Shared>>,
}

impl Gated {
    /// Starts the child. Call it from the main thread only: the parent-death signal fires when the
    /// *thread* that started it exits (PR_SET_PDEATHSIG of prctl(2)).
    ///
    /// It shares our memory until it executes, as a child of vfork(2) does, but we go on beside it: no page
    /// is copied, neither for it nor for us. clone(2) with `CLONE_VM`.
    ///
    /// # Errors
    /// When the kernel has no room for a process or a descriptor.
    pub fn start(launch: Launch, caller: &Caller) -> io::Result<Gated> {
        let (gate_read, gate) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let (report, report_write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        failpoint::hit("gate.fork")?;
        let Launch { candidates, argv, env, cwd, leads_group, stdio } = launch;
        let supervisor = std::process::id();
        let argv_pointers = argv.iter().map(|w| w.as_ptr()).chain([ptr::null()]).collect();
        let mut own_pid_entries = Vec::new();
        let mut env_pointers: Vec<*const libc::c_char> = env.iter().map(|e| e.as_ptr()).collect();
        for (entry, pointer) in env.iter().zip(&mut env_pointers) {
            if let Some(own) = OwnPidEntry::replacing(entry, supervisor) {
                *pointer = own.bytes.as_ptr().cast();
                own_pid_entries.push(own);
            }
        }
        env_pointers.push(ptr::null());
        let mut shared = Box::new(Shared {
            candidates,
            argv_pointers,
            env_pointers,
            own_pid_entries,
            cwd,
            leads_group,
            stdio: [0, 1, 2].map(|n| stdio[n].as_ref().map(AsRawFd::as_raw_fd)),
            gate: gate_read.as_raw_fd(),
            others_gate: gate.as_raw_fd(),
            report: report_write.as_raw_fd(),
            supervisor: supervisor as i32,
            mask: caller.mask,
            sigchld_ignored: caller.sigchld_ignored,
            orphaned: failpoint::dooms_child("gate.orphaned"),
            doomed: failpoint::dooms_child("gate.waiting"),
            stack: Box::new_uninit_slice(STACK),
            _words: (argv, env),
        });
        let top = shared.stack.as_mut_ptr_range().end.map_addr(|a| a & !15).cast::<c_void>();
        let mut pidfd: RawFd = -1;
        // No handler runs on the shared memory: every signal is blocked, and the child unblocks none before
        // it is about to execute. `run` makes raw system calls and plain reads of `Shared` only, so it leaves
        // the C library's thread data, which it shares, alone.
        // SAFETY: `run` is as said above and touches no stack but its own, which lives in `Shared`. That is
        // boxed, not written by us again, and freed only after the child was seen to have left this memory
        // (`read_report`), else never. AddressSanitizer follows the child, valgrind and Miri do not. Unseen
        // (see `sys`): whether its stack is long enough.
        let pid = unsafe {
            libc::clone(
                Shared::run,
                top,
                libc::CLONE_VM | libc::CLONE_PIDFD | libc::SIGCHLD,
                (&raw const *shared).cast_mut().cast::<c_void>(),
                &raw mut pidfd,
            )
        };
        if pid < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just given us this descriptor of our own child (CLONE_PIDFD of clone(2)).
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        let child =
            Gated { pid, pidfd, gate: Some(gate), report: Some(report), shared: ManuallyDrop::new(shared) };
        failpoint::hit("gate.forked")?;
        Ok(child)
    }

    /// Sends the child a signal; `false`: it has ended.
    ///
    /// # Errors
    /// As [`sys::signal_child`].
    pub fn signal(&self, signal: Signal, value: Option<u64>) -> io::Result<bool> {
        sys::signal_child((self.pid, self.pidfd.as_fd()), signal, value)
    }

    /// Lets the child execute. How that went comes over `report`.
    pub fn open(&mut self) {
        if let Some(gate) = self.gate.take() {
            // A child that is gone already makes this fail; its end is told by wait4.
            let _ = nix::unistd::write(&gate, b"!");
        }
    }

    /// Sends the child away: it leaves with 125 and has executed nothing.
    pub fn dismiss(&mut self) {
        self.gate = None;
        // Its end-of-file would read like that of an exec.
        self.report = None;
    }

    /// Where to wait for how the exec went, once the gate is open.
    pub fn report(&self) -> Option<BorrowedFd<'_>> {
        if self.gate.is_some() { None } else { self.report.as_ref().map(AsFd::as_fd) }
    }

    /// Reads how the exec went: `Ok` when the report ended without a word. Blocks until it did.
    ///
    /// # Errors
    /// The step that failed, and why; the child leaves with 125.
    pub fn read_report(&mut self) -> Result<(), StartError> {
        let Some(report) = self.report.take() else { return Ok(()) };
        let mut words = [0u8; 9];
        let mut have = 0;
        loop {
            match nix::unistd::read(&report, &mut words[have..]) {
                // Its end is the end of the child's copy of the descriptor, which exec and exit close only
                // after they have let go of the memory.
                Ok(0) => break,
                Ok(n) => have += n,
                Err(nix::errno::Errno::EINTR) => {}
                Err(_) => return Ok(()),
            }
        }
        // SAFETY: taken here only, once, since `report` is taken once; the child has let go of it, see above.
        unsafe { ManuallyDrop::drop(&mut self.shared) };
        let [a, b, c, d, e, f, g, h, _] = words;
        if have == 0 {
            return Ok(());
        }
        let step = match i32::from_ne_bytes([a, b, c, d]) {
            0 => StartStep::Chdir,
            1 => StartStep::Stdio,
            _ => StartStep::Exec,
        };
        Err(StartError { step, errno: i32::from_ne_bytes([e, f, g, h]) })
    }
}

const PID_DIGITS: usize = 10;

/// The variables by which systemd names the process that it started. A program ignores its sockets and its
/// watchdog unless they name itself: sd_listen_fds(3), sd_watchdog_enabled(3), systemd.exec(5).
const PID_VARIABLES: [&str; 3] = ["LISTEN_PID=", "WATCHDOG_PID=", "SYSTEMD_EXEC_PID="];

/// An environment entry in which the child writes its own pid.
struct OwnPidEntry {
    bytes: Box<[Cell<u8>]>,
    /// Where the pid begins.
    at: usize,
}

impl OwnPidEntry {
    /// What the child gets in place of an entry that names the supervisor.
    fn replacing(entry: &CStr, supervisor: u32) -> Option<OwnPidEntry> {
        let value = |name: &str| entry.to_bytes().strip_prefix(name.as_bytes());
        let is_ours = |name: &&str| value(name).is_some_and(|v| v == supervisor.to_string().as_bytes());
        let name = PID_VARIABLES.into_iter().find(is_ours)?;
        let bytes = name.bytes().chain([0; PID_DIGITS + 1]).map(Cell::new).collect();
        Some(OwnPidEntry { bytes, at: name.len() })
    }
}

/// The child's stack: it calls nothing but system calls.
const STACK: usize = 16 * 1024;

/// All that the child needs, made before it exists.
struct Shared {
    candidates: Vec<CString>,
    argv_pointers: Vec<*const libc::c_char>,
    env_pointers: Vec<*const libc::c_char>,
    own_pid_entries: Vec<OwnPidEntry>,
    cwd: Option<CString>,
    leads_group: bool,
    stdio: [Option<RawFd>; 3],
    gate: RawFd,
    others_gate: RawFd,
    report: RawFd,
    supervisor: i32,
    mask: SignalSet,
    sigchld_ignored: bool,
    /// A test wants the parent to die before the child looks at it.
    orphaned: bool,
    /// A test wants the child to die at the gate.
    doomed: bool,
    stack: Box<[MaybeUninit<u8>]>,
    /// Where the pointers point.
    _words: (Vec<CString>, Vec<CString>),
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("candidates", &self.candidates).finish_non_exhaustive()
    }
}

impl Shared {
    /// The child's whole life before exec.
    extern "C" fn run(shared: *mut c_void) -> libc::c_int {
        // SAFETY: `start` passes a pointer to its `Shared`, which stays as it is until this process has left
        // the memory that both share.
        let shared = unsafe { &*shared.cast::<Shared>() };
        shared.wait_at_gate();
        shared.become_agent();
        shared.exec()
    }

    fn wait_at_gate(&self) {
        // SAFETY: plain numbers, and one byte of this stack. Unseen: the kernel writes that byte.
        unsafe {
            if self.orphaned {
                let _ = syscall!(Sysno::kill, self.supervisor, libc::SIGKILL);
                while syscall!(Sysno::getppid) == Ok(self.supervisor as usize) {}
            }
            let _ = syscall!(Sysno::prctl, libc::PR_SET_PDEATHSIG, libc::SIGTERM, 0, 0, 0);
            // The supervisor died before the line above: nothing would ever tell us. A parent that is
            // outside of our pid namespace (`unshare --pid` without --fork) reads as 0.
            let parent = syscall!(Sysno::getppid).unwrap_or(0);
            if parent != self.supervisor as usize && parent != 0 {
                leave();
            }
            if self.doomed {
                let _ = syscall!(Sysno::kill, own_pid(), libc::SIGKILL);
            }
            // Or its end-of-file would never come.
            let _ = syscall!(Sysno::close, self.others_gate);
            let mut word = 0u8;
            loop {
                match syscall!(Sysno::read, self.gate, &raw mut word, 1) {
                    Ok(1) => return,
                    Err(syscalls::Errno::EINTR) => {}
                    _ => leave(),
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

    /// Writes its pid where the caller's environment named the supervisor.
    fn write_own_pid(&self) {
        let mut digits = [0u8; PID_DIGITS];
        let mut first = PID_DIGITS;
        let mut rest = own_pid();
        while rest > 0 {
            first -= 1;
            digits[first] = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        for entry in &self.own_pid_entries {
            for (to, digit) in entry.bytes[entry.at..].iter().zip(&digits[first..]) {
                to.set(*digit);
            }
        }
    }

    /// Tries each candidate as execvp(3) does, but runs no script without `#!` through a shell.
    fn exec(&self) -> ! {
        let mut errno = libc::ENOENT;
        let (argv, env) = (self.argv_pointers.as_ptr(), self.env_pointers.as_ptr());
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

    /// Tells the supervisor where and why it ended, and leaves.
    fn fail(&self, step: StartStep, errno: i32) -> ! {
        let words = [step as i32, errno];
        // SAFETY: eight bytes of this stack; at most PIPE_BUF, so written whole or not at all. Unseen: the
        // kernel reads them.
        let _ = unsafe { syscall!(Sysno::write, self.report, words.as_ptr(), size_of_val(&words)) };
        leave()
    }
}

/// The child's own number: the C library's answer would be as good, but nothing of its is used here.
fn own_pid() -> usize {
    // SAFETY: it takes nothing and touches no memory.
    unsafe { syscall!(Sysno::getpid) }.unwrap_or(0)
}

/// Leaves as one that has executed nothing: no destructor, no exit handler.
fn leave() -> ! {
    loop {
        // SAFETY: it does not return.
        let _ = unsafe { syscall!(Sysno::exit_group, 125) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(program: &CStr, env: &[&CStr]) -> Vec<String> {
        let env: Vec<CString> = env.iter().map(|e| (*e).to_owned()).collect();
        candidates(program, &env).into_iter().map(|c| c.into_string().expect("ascii")).collect()
    }

    #[test]
    fn a_program_is_looked_up_as_execvp_does() {
        assert_eq!(paths(c"./a", &[c"PATH=/x"]), ["./a"]);
        assert_eq!(paths(c"a", &[c"PATH=/x::/y"]), ["/x/a", "a", "/y/a"]);
        assert_eq!(paths(c"a", &[c"HOME=/"]), ["/bin/a", "/usr/bin/a"]);
        assert_eq!(paths(c"", &[c"PATH=/x"]), [""]);
    }
}
