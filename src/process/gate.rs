//! The gate: a forked child that executes nothing until its row is committed.
//!
//! The child sets its parent-death signal, checks its parent, and blocks reading the gate. A byte opens
//! it; end-of-file (the supervisor died, or dismissed it) makes it leave with 125 without executing.
//! Every child of bookend, the prepare command and the hooks too, is started through here.

use std::cell::Cell;
use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::ptr;

use nix::fcntl::OFlag;

use crate::failpoint;
use crate::process::caller::Caller;
use crate::sys::{self, SignalSet};

/// What a child is to become. All of it is made before the fork: the child allocates nothing.
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
pub enum Step {
    Chdir,
    Stdio,
    Exec,
}

/// Why there is no agent: the step and the errno of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StartError {
    pub step: Step,
    pub errno: i32,
}

/// A child of bookend: it waits at the gate until that is opened, or leaves when it is closed.
#[derive(Debug)]
pub struct Gated {
    pub pid: i32,
    pub pidfd: OwnedFd,
    gate: Option<OwnedFd>,
    report: Option<OwnedFd>,
}

impl Gated {
    /// Forks the child. Call it from the main thread only: the parent-death signal fires when the
    /// *thread* that forked exits (PR_SET_PDEATHSIG of prctl(2)).
    ///
    /// # Errors
    /// When the kernel has no room for a process or a descriptor.
    pub fn fork(launch: &Launch, caller: &Caller) -> io::Result<Gated> {
        let (gate_read, gate) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let (report, report_write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let listen_pid = LISTEN_PID_BLANK.map(Cell::new);
        let argv: Vec<_> = launch.argv.iter().map(|w| w.as_ptr()).chain([ptr::null()]).collect();
        let env: Vec<_> = launch
            .env
            .iter()
            .map(|e| match e.as_bytes_with_nul() == LISTEN_PID_BLANK {
                true => listen_pid.as_ptr().cast::<libc::c_char>(),
                false => e.as_ptr(),
            })
            .chain([ptr::null()])
            .collect();
        let supervisor = std::process::id() as i32;
        failpoint::hit("gate.fork")?;
        let child = Child {
            candidates: &launch.candidates,
            argv: &argv,
            env: &env,
            listen_pid: &listen_pid,
            cwd: launch.cwd.as_deref(),
            leads_group: launch.leads_group,
            stdio: [0, 1, 2].map(|n| launch.stdio[n].as_ref().map(AsRawFd::as_raw_fd)),
            gate: gate_read.as_raw_fd(),
            others_gate: gate.as_raw_fd(),
            report: report_write.as_raw_fd(),
            supervisor,
            mask: caller.mask,
            sigchld_ignored: caller.sigchld_ignored,
            orphaned: failpoint::dooms_child("gate.orphaned"),
            doomed: failpoint::dooms_child("gate.waiting"),
        };
        // SAFETY: this process has one thread, so no lock can be held by a thread that the child lacks;
        // the child runs `Child::run` only, which makes nothing but async-signal-safe calls on memory
        // prepared above, and never returns.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: this is the freshly forked child, as `run` asks.
            unsafe { child.run() }
        }
        if pid < 0 {
            return Err(io::Error::last_os_error());
        }
        let of = rustix::process::Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidData)?;
        failpoint::hit("gate.forked")?;
        // Our own child that has not been reaped: the pid means it and nobody else.
        let pidfd = rustix::process::pidfd_open(of, rustix::process::PidfdFlags::empty())?;
        Ok(Gated { pid, pidfd, gate: Some(gate), report: Some(report) })
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
        let mut words = [0u8; 8];
        let mut have = 0;
        while have < words.len() {
            match nix::unistd::read(&report, &mut words[have..]) {
                Ok(0) => return Ok(()),
                Ok(n) => have += n,
                Err(nix::errno::Errno::EINTR) => {}
                Err(_) => return Ok(()),
            }
        }
        let [a, b, c, d, e, f, g, h] = words;
        let step = match i32::from_ne_bytes([a, b, c, d]) {
            0 => Step::Chdir,
            1 => Step::Stdio,
            _ => Step::Exec,
        };
        Err(StartError { step, errno: i32::from_ne_bytes([e, f, g, h]) })
    }
}

const PID_DIGITS: usize = 10;

/// What to put into the environment where `LISTEN_PID` named us: the child writes its own pid there, or
/// the agent would ignore the sockets it was given (sd_listen_fds(3)).
pub const LISTEN_PID_BLANK: &[u8; 22] = b"LISTEN_PID=0000000000\0";

/// All that the child needs, borrowed from before the fork.
struct Child<'a> {
    candidates: &'a [CString],
    argv: &'a [*const libc::c_char],
    env: &'a [*const libc::c_char],
    listen_pid: &'a [Cell<u8>; LISTEN_PID_BLANK.len()],
    cwd: Option<&'a CStr>,
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
}

impl Child<'_> {
    /// The child's whole life before exec.
    ///
    /// # Safety
    /// Only in a freshly forked child, which must do nothing else.
    unsafe fn run(&self) -> ! {
        // SAFETY: every call here is async-signal-safe (signal-safety(7)) or a plain system call; all
        // pointers are to memory that was made before the fork and of which this process has its copy.
        unsafe {
            if self.orphaned {
                libc::kill(self.supervisor, libc::SIGKILL);
                while libc::getppid() == self.supervisor {}
            }
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
            // The supervisor died before the line above: nothing would ever tell us. A parent that is
            // outside of our pid namespace (`unshare --pid` without --fork) reads as 0.
            let parent = libc::getppid();
            if parent != self.supervisor && parent != 0 {
                libc::_exit(125);
            }
            if self.doomed {
                libc::kill(libc::getpid(), libc::SIGKILL);
            }
            // Or its end-of-file would never come.
            libc::close(self.others_gate);
            let mut word = 0u8;
            loop {
                let n = libc::read(self.gate, (&raw mut word).cast(), 1);
                if n == 1 {
                    break;
                }
                if n == 0 || *libc::__errno_location() != libc::EINTR {
                    libc::_exit(125);
                }
            }
            if self.leads_group {
                libc::setpgid(0, 0);
            }
            if let Some(cwd) = self.cwd
                && libc::chdir(cwd.as_ptr()) < 0
            {
                self.fail(Step::Chdir, *libc::__errno_location());
            }
            for (number, fd) in self.stdio.iter().enumerate() {
                if let Some(fd) = fd
                    && libc::dup2(*fd, number as RawFd) < 0
                {
                    self.fail(Step::Stdio, *libc::__errno_location());
                }
            }
            self.name_itself_for_sockets();
            if self.sigchld_ignored {
                sys::set_disposition(libc::SIGCHLD, true);
            }
            sys::set_mask(self.mask);
            self.exec()
        }
    }

    /// Writes its pid over the blank of `LISTEN_PID_BLANK`, as short as it is.
    fn name_itself_for_sockets(&self) {
        let mut digits = [0u8; PID_DIGITS];
        let mut first = PID_DIGITS;
        let mut rest = std::process::id();
        while rest > 0 {
            first -= 1;
            digits[first] = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        let place = &self.listen_pid[LISTEN_PID_BLANK.len() - 1 - PID_DIGITS..];
        for (to, digit) in place.iter().zip(digits[first..].iter().chain(&[0])) {
            to.set(*digit);
        }
    }

    /// Tries each candidate as execvp(3) does, but runs no script without `#!` through a shell.
    ///
    /// # Safety
    /// As `run`.
    unsafe fn exec(&self) -> ! {
        let mut errno = libc::ENOENT;
        for file in self.candidates {
            // SAFETY: all three are NUL-terminated, made before the fork.
            let now = unsafe {
                libc::execve(file.as_ptr(), self.argv.as_ptr(), self.env.as_ptr());
                *libc::__errno_location()
            };
            match now {
                libc::EACCES => errno = now,
                libc::ENOENT | libc::ENOTDIR | libc::ENAMETOOLONG | libc::ELOOP => {
                    if errno != libc::EACCES {
                        errno = now;
                    }
                }
                _ => {
                    errno = now;
                    break;
                }
            }
        }
        // SAFETY: still the forked child.
        unsafe { self.fail(Step::Exec, errno) }
    }

    /// Tells the supervisor where and why it ended, and leaves.
    ///
    /// # Safety
    /// As `run`.
    unsafe fn fail(&self, step: Step, errno: i32) -> ! {
        let words = [step as i32, errno];
        // SAFETY: eight bytes of this stack; at most PIPE_BUF, so written whole or not at all.
        unsafe {
            libc::write(self.report, words.as_ptr().cast(), size_of_val(&words));
            libc::_exit(125)
        }
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
