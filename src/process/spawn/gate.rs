//! The gate: a child that executes nothing until its row is committed.
//!
//! The child sets its parent-death signal, checks its parent, and blocks reading the gate. A byte opens the
//! gate. After end-of-file (the supervisor died, or dismissed the child) it exits with 125 and has executed
//! nothing. Every child of bookend is started this way, helpers and hooks included.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use super::child::{ChildMemory, ChildPlan, ExecArguments};
pub use super::launch::{Launch, StartError, StartStep};
use crate::failpoint;
use crate::process::spawn::caller::Caller;
use crate::sys;
use crate::task::Signal;

/// A child of bookend. It waits at the gate until that is opened, and exits when it is closed.
#[derive(Debug)]
pub struct Gated {
    pub pid: i32,
    pub pidfd: OwnedFd,
    gate: Option<OwnedFd>,
    report: Option<OwnedFd>,
    /// What the child uses until it executes or exits. Leaked unless that was observed.
    memory: Option<ChildMemory>,
}

impl Gated {
    /// Starts the child. Call it from the main thread only: the parent-death signal arrives when the
    /// *thread* that started the child exits (PR_SET_PDEATHSIG of prctl(2)).
    ///
    /// The child shares our memory until it executes, as a child of vfork(2) does, but this process continues
    /// meanwhile: no page is copied for either. clone(2) with `CLONE_VM`.
    ///
    /// # Errors
    /// When the kernel has no room for a process or a descriptor.
    pub fn start(launch: Launch, caller: &Caller) -> io::Result<Gated> {
        let (gate_read, gate) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let (report, report_write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        failpoint::hit("gate.fork")?;
        let Launch { candidates, argv, env, cwd, leads_group, stdio } = launch;
        let supervisor = std::process::id();
        let memory = ChildMemory::leak(ChildPlan {
            candidates,
            arguments: ExecArguments::new(argv, env, supervisor),
            cwd,
            leads_group,
            stdio: [0, 1, 2].map(|n| stdio[n].as_ref().map(AsRawFd::as_raw_fd)),
            gate: gate_read.as_raw_fd(),
            supervisors_gate: gate.as_raw_fd(),
            report: report_write.as_raw_fd(),
            supervisor: supervisor.cast_signed(),
            mask: caller.mask,
            sigchld_ignored: caller.sigchld_ignored,
            is_orphaned: failpoint::dooms_child("gate.orphaned"),
            is_doomed: failpoint::dooms_child("gate.waiting"),
        });
        let Some((pid, pidfd)) = memory.clone_child() else {
            let error = io::Error::last_os_error();
            // SAFETY: no child was started.
            unsafe { memory.free() };
            return Err(error);
        };
        // SAFETY: the kernel has just given us this descriptor of our own child (CLONE_PIDFD of clone(2)).
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        let child = Gated { pid, pidfd, gate: Some(gate), report: Some(report), memory: Some(memory) };
        if let Some((soft, hard)) = caller.open_files {
            let limit = Rlimit { current: Some(soft), maximum: Some(hard) };
            prlimit(Pid::from_raw(pid), Resource::Nofile, limit)?;
        }
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

    /// Lets the child execute. [`Gated::report`] becomes readable when that has succeeded or failed.
    pub fn open(&mut self) {
        if let Some(gate) = self.gate.take() {
            // Fails if the child has died already; wait4 reports that.
            let _ = nix::unistd::write(&gate, b"!");
        }
    }

    /// Makes the child exit with 125, without executing anything.
    pub fn dismiss(&mut self) {
        self.gate = None;
        // Its end-of-file would look like that of a successful exec.
        self.report = None;
    }

    /// What to poll for the result of the exec, once the gate is open.
    pub fn report(&self) -> Option<BorrowedFd<'_>> {
        if self.gate.is_some() { None } else { self.report.as_ref().map(AsFd::as_fd) }
    }

    /// Reads the result of the exec: `Ok` if the report is empty. Blocks until the report is complete.
    ///
    /// # Errors
    /// The step that failed, and why; the child exits with 125.
    pub fn read_report(&mut self) -> Result<(), StartError> {
        let Some(report) = self.report.take() else { return Ok(()) };
        let mut words = [0u8; 9];
        let mut have = 0;
        loop {
            match nix::unistd::read(&report, &mut words[have..]) {
                Ok(0) => break,
                Ok(n) => have += n,
                Err(Errno::EINTR) => {}
                Err(_) => return Ok(()),
            }
        }
        if let Some(memory) = self.memory.take() {
            // SAFETY: the end-of-file says that the child's copy of the descriptor was closed, and exec and
            // exit close descriptors only after they have released the memory.
            unsafe { memory.free() };
        }
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
