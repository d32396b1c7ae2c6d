//! Which processes have a pipe open, as far as `/proc/PID/fd` can be read: those of the same user, proc(5).

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::os::fd::BorrowedFd;

use crate::process::procfs::identity;

/// How many are named; the others are only counted.
const NAMED: usize = 4;

/// The other processes that have a pipe open.
#[derive(Debug)]
pub struct PipeHolders {
    /// Pid and name of each.
    found: Vec<(i32, String)>,
}

impl PipeHolders {
    pub(super) fn of(pipe: BorrowedFd<'_>) -> PipeHolders {
        let Ok(inode) = nix::sys::stat::fstat(pipe).map(|stat| stat.st_ino) else {
            return PipeHolders { found: Vec::new() };
        };
        let link = OsString::from(format!("pipe:[{inode}]"));
        let own = std::process::id().cast_signed();
        let names = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.file_name());
        let pids = names.filter_map(|name| name.to_str()?.parse().ok()).filter(|pid| *pid != own);
        PipeHolders { found: pids.filter(|pid| holds(*pid, &link)).map(|pid| (pid, name(pid))).collect() }
    }
}

/// Whether one of the descriptors of `pid` is a link to `target`.
fn holds(pid: i32, target: &OsString) -> bool {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    descriptors.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|link| link.as_os_str() == target)
}

fn name(pid: i32) -> String {
    identity::stat(pid).ok().flatten().map_or_else(|| "?".to_owned(), |stat| stat.comm.to_string())
}

impl fmt::Display for PipeHolders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (pid, name)) in self.found.iter().take(NAMED).enumerate() {
            f.write_str(if at == 0 { "" } else { ", " })?;
            write!(f, "process {pid} ({name})")?;
        }
        match self.found.len() {
            0 => f.write_str("a process that bookend may not inspect"),
            n if n > NAMED => write!(f, " and {} more", n - NAMED),
            _ => Ok(()),
        }
    }
}
