//! Holds a new child before its first instruction, so that events of its parent happen before it runs.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::ptr;

use crate::raw::{self, check};

/// `newborn OUT command…`: executes the command, writes `held PID` to OUT when it has forked, and holds the
/// child until the command has exited. Then it releases the child and exits with its code, or with 42 if
/// the child executes a program. Writes `no` if ptrace(2) is not allowed.
pub fn newborn(args: &[OsString]) -> io::Result<i32> {
    let path = args[0].to_str().unwrap_or_default();
    let mut out = OpenOptions::new().append(true).open(path)?;
    let held = hold(&args[1..]);
    let (command, child) = match held {
        Ok(pids) => pids,
        Err(e) => {
            writeln!(out, "no")?;
            return Err(e);
        }
    };
    request(libc::PTRACE_DETACH, command, 0)?;
    writeln!(out, "held {command}")?;
    wait_for(command)?;
    request(libc::PTRACE_CONT, child, 0)?;
    let status = wait_for(child)?;
    Ok(if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 42 })
}

/// Returns the pids of the command, which has just forked, and of its child; both are stopped.
fn hold(argv: &[OsString]) -> io::Result<(i32, i32)> {
    // SAFETY: one thread, so the child may do anything.
    let command = check(unsafe { libc::fork() })?;
    if command == 0 {
        // SAFETY: PTRACE_TRACEME; no memory is involved.
        unsafe {
            if libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) < 0 {
                libc::_exit(99);
            }
            libc::raise(libc::SIGSTOP);
        }
        return Err(raw::exec(argv, None, &raw::environment()));
    }
    if libc::WIFEXITED(wait_for(command)?) {
        return Err(io::Error::other("ptrace is not allowed"));
    }
    let options = libc::PTRACE_O_TRACEFORK | libc::PTRACE_O_TRACEEXEC | libc::PTRACE_O_EXITKILL;
    request(libc::PTRACE_SETOPTIONS, command, options as usize)?;
    loop {
        request(libc::PTRACE_CONT, command, 0)?;
        let status = wait_for(command)?;
        if !libc::WIFSTOPPED(status) {
            return Err(io::Error::other("the command ended and had not forked"));
        }
        if status >> 16 == libc::PTRACE_EVENT_FORK {
            let mut child: libc::c_ulong = 0;
            request(libc::PTRACE_GETEVENTMSG, command, (&raw mut child) as usize)?;
            let child = child as i32;
            wait_for(child)?;
            return Ok((command, child));
        }
    }
}

fn request(what: libc::c_uint, pid: i32, data: usize) -> io::Result<()> {
    // SAFETY: data that is an address is that of a number that outlives the call.
    let done = unsafe { libc::ptrace(what, pid, ptr::null_mut::<libc::c_void>(), data) };
    check(done as i32).map(drop)
}

fn wait_for(pid: i32) -> io::Result<i32> {
    let mut status = 0;
    // SAFETY: one status is written.
    check(unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) })?;
    Ok(status)
}
