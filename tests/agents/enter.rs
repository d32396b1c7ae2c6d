//! Runs a command in the namespaces of another process.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use crate::raw::{self, check};

/// `enter PID COMMAND…`: in the mount, pid, network and UTS namespaces of PID. Ends as the command does.
/// Unlike nsenter(1) it is not stopped when the command is.
pub fn enter(process: &str, command: &[OsString]) -> io::Result<i32> {
    let namespaces = ["pid", "net", "uts", "mnt"];
    let files = namespaces.map(|name| File::open(format!("/proc/{process}/ns/{name}")));
    for file in files {
        // SAFETY: the descriptor outlives the call.
        check(unsafe { libc::setns(file?.as_raw_fd(), 0) })?;
    }
    // A process enters a pid namespace only by forking.
    if raw::fork()? {
        return Err(raw::exec(command, None, &raw::environment()));
    }
    let mut status = 0;
    // SAFETY: the status outlives the call.
    check(unsafe { libc::wait(&raw mut status) })?;
    if libc::WIFSIGNALED(status) {
        raw::die(libc::WTERMSIG(status))?;
    }
    Ok(libc::WEXITSTATUS(status))
}
