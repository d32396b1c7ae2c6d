//! Descriptors given up and children let go.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};

use crate::raw;

/// Closes `fds` (a list with commas), says `closed`, and stays until it is killed.
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

/// Lets go `n` grandchildren that exit 7 once nobody of ours is their parent, and waits for a word on `go`.
/// Exits 3.
pub fn orphans(n: i32, go: &str) -> io::Result<i32> {
    for _ in 0..n {
        if raw::fork()? {
            let parent = std::process::id() as i32;
            if raw::fork()? {
                // SAFETY: no memory is involved; `_exit` leaves at once.
                unsafe {
                    while libc::getppid() == parent {
                        libc::sched_yield();
                    }
                    libc::_exit(7);
                }
            }
            // SAFETY: leaves at once.
            unsafe { libc::_exit(0) };
        }
        // SAFETY: the status is not asked for.
        unsafe { libc::wait(std::ptr::null_mut()) };
    }
    File::open(go)?.read_exact(&mut [0])?;
    Ok(3)
}

/// `daemon -- command`: forks twice and executes the command in the grandchild; exits 0 at once.
pub fn daemon(args: &[OsString]) -> io::Result<i32> {
    if raw::fork()? {
        if raw::fork()? {
            return Err(raw::exec(&args[1..], None, &raw::environment()));
        }
        // SAFETY: leaves at once.
        unsafe { libc::_exit(0) };
    }
    // SAFETY: the status is not asked for.
    unsafe { libc::wait(std::ptr::null_mut()) };
    Ok(0)
}
