//! Closes descriptors, and orphans processes.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};

use crate::raw;

/// Closes `fds` (a list with commas), writes `closed`, and runs until it is killed.
pub fn close(fds: &str, out: &str) -> io::Result<i32> {
    for fd in fds.split(',') {
        let fd: i32 = fd.parse().map_err(io::Error::other)?;
        // SAFETY: nothing here uses them.
        unsafe { libc::close(fd) };
    }
    let mut out = OpenOptions::new().append(true).open(out)?;
    writeln!(out, "closed {}", std::process::id())?;
    loop {
        // SAFETY: no memory is involved.
        unsafe { libc::pause() };
    }
}

/// Orphans `n` grandchildren, which exit with 7 once they have another parent, and waits for a line on
/// `go`. Exits with 3.
pub fn orphans(n: i32, go: &str) -> io::Result<i32> {
    for _ in 0..n {
        let_go(7)?;
    }
    File::open(go)?.read_exact(&mut [0])?;
    Ok(3)
}

/// Orphans a grandchild, which exits with `code` once it has another parent.
pub fn let_go(code: i32) -> io::Result<()> {
    if raw::fork()? {
        let parent = std::process::id() as i32;
        if raw::fork()? {
            // SAFETY: no memory is involved; `_exit` does not return.
            unsafe {
                while libc::getppid() == parent {
                    libc::sched_yield();
                }
                libc::_exit(code);
            }
        }
        // SAFETY: `_exit` does not return.
        unsafe { libc::_exit(0) };
    }
    // SAFETY: the status pointer is null.
    unsafe { libc::wait(std::ptr::null_mut()) };
    Ok(())
}

/// `daemon -- command`: forks twice and executes the command in the grandchild; exits with 0 at once.
pub fn daemon(args: &[OsString]) -> io::Result<i32> {
    if raw::fork()? {
        if raw::fork()? {
            return Err(raw::exec(&args[1..], None, &raw::environment()));
        }
        // SAFETY: `_exit` does not return.
        unsafe { libc::_exit(0) };
    }
    // SAFETY: the status pointer is null.
    unsafe { libc::wait(std::ptr::null_mut()) };
    Ok(0)
}

/// `as-pid PID -- command`: executes the command in a child with this pid, and writes `ready PID`. Exits
/// with its code. Uses `set_tid` of clone3(2), which requires CAP_CHECKPOINT_RESTORE or root.
pub fn as_pid(pid: i32, args: &[OsString]) -> io::Result<i32> {
    let wanted = [pid];
    let clone = libc::clone_args {
        flags: 0,
        pidfd: 0,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: libc::SIGCHLD as u64,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: wanted.as_ptr() as u64,
        set_tid_size: 1,
        cgroup: 0,
    };
    // SAFETY: without flags and stack it is a fork of a process with one thread; the arguments outlive it.
    let got = unsafe { libc::syscall(libc::SYS_clone3, &raw const clone, size_of_val(&clone)) };
    if raw::check(got as i32)? == 0 {
        return Err(raw::exec(&args[1..], None, &raw::environment()));
    }
    writeln!(io::stdout(), "ready {got}")?;
    let mut status = 0;
    // SAFETY: the status outlives the call.
    raw::check(unsafe { libc::waitpid(got as i32, &raw mut status, 0) })?;
    Ok(libc::WEXITSTATUS(status))
}
