//! The caller's signal mask, dispositions and descriptors: bookend takes them over when it starts and passes
//! them on to the agent unchanged.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use nix::dir::Dir;
use nix::fcntl::{FcntlArg, FdFlag, OFlag};
#[cfg(feature = "fleet")]
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, SFlag, fstat};

use crate::sys::{self, SignalSet};
use crate::task::Signal;

#[derive(Debug)]
pub struct Caller {
    pub mask: SignalSet,
    /// While SIGCHLD is ignored, the kernel reaps our children itself and their status is lost.
    pub sigchld_ignored: bool,
    /// Open descriptors above 2 that the agent is to inherit.
    descriptors: Vec<RawFd>,
    /// The soft and the hard limit on open files, if bookend has raised its own.
    pub(super) open_files: Option<(u64, u64)>,
}

impl Caller {
    /// Blocks every signal and records what bookend inherited. This is the first step of `run`: no later
    /// signal is lost, and no descriptor that bookend opens counts as the caller's.
    pub fn take_over() -> Caller {
        let mask = sys::set_mask(SignalSet::ALL);
        sys::occupy_closed_stdio();
        let sigchld_ignored = sys::is_ignored(Signal::CHLD);
        if sigchld_ignored {
            sys::set_disposition(Signal::CHLD, false);
        }
        Caller { mask, sigchld_ignored, descriptors: open_descriptors(), open_files: None }
    }

    /// Lets bookend open as many files as the kernel allows it. Its children get the limit that it had.
    #[cfg(feature = "fleet")]
    pub fn with_raised_limit(mut self) -> Caller {
        if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
            && soft < hard
            && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok()
        {
            self.open_files = Some((soft, hard));
        }
        self
    }

    /// Closes all that the agent has inherited, once it has: the agent must close the last copy of a pipe, or
    /// the process reading it would wait for us. Stderr stays open for our own messages.
    ///
    /// # Errors
    /// When /dev/null cannot be opened; the standard descriptors then stay open.
    pub fn let_go(&mut self) -> io::Result<()> {
        for fd in self.descriptors.drain(..) {
            sys::close_inherited(fd);
        }
        let held: Vec<RawFd> = (0..=1).filter(|&n| is_pipe(n)).collect();
        if held.is_empty() {
            return Ok(());
        }
        let null = nix::fcntl::open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())?;
        for number in held {
            sys::replace_stdio(null.as_fd(), number)?;
        }
        Ok(())
    }
}

/// Whether descriptor `number`, 0 to 2, was open when bookend was started. Ask before [`Caller::let_go`]:
/// what occupies a closed one is close-on-exec, which no inherited descriptor can be.
pub fn was_open(number: RawFd) -> bool {
    let flags = nix::fcntl::fcntl(sys::stdio(number), FcntlArg::F_GETFD);
    flags.is_ok_and(|f| !FdFlag::from_bits_retain(f).contains(FdFlag::FD_CLOEXEC))
}

/// Whether descriptor `number` is a pipe or a socket: another process may wait for its end-of-file.
fn is_pipe(number: RawFd) -> bool {
    fstat(sys::stdio(number)).is_ok_and(|s| {
        let kind = SFlag::from_bits_truncate(s.st_mode & SFlag::S_IFMT.bits());
        kind == SFlag::S_IFIFO || kind == SFlag::S_IFSOCK
    })
}

/// The descriptors above 2 that are open now. Without /proc none are known, and all stay open.
fn open_descriptors() -> Vec<RawFd> {
    const LIST: &str = "/proc/self/fd";
    // Since Linux 6.2 its size is their number, before that 0 (proc_pid_fd(5)); 0 to 2 are all open.
    if fs::metadata(LIST).is_ok_and(|list| list.len() == 3) {
        return Vec::new();
    }
    let Ok(mut list) = Dir::open(LIST, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()) else {
        return Vec::new();
    };
    let own = list.as_raw_fd();
    let numbers = list.iter().filter_map(|entry| entry.ok()?.file_name().to_str().ok()?.parse().ok());
    numbers.filter(|&fd| fd > 2 && fd != own).collect()
}
