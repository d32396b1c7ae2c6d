//! Messages on their way to stderr, which is never waited for: its reader may have stopped.
//!
//! The descriptor is the caller's, and made non-blocking it would be so for the agent too. So a pipe or a
//! terminal is opened once more, with a description of its own (proc_pid_fd(5)), and a socket is sent to
//! without waiting. Anything else does not block, or is asked before.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};
use nix::sys::stat::{Mode, SFlag, fstat};

use crate::sys;

/// How much may wait; what comes beyond is counted.
const LIMIT: usize = 64 * 1024;
/// How long the last messages may take.
const PATIENCE: Duration = Duration::from_secs(1);

pub static BACKLOG: Mutex<Backlog> = Mutex::new(Backlog { bytes: Vec::new(), lost: 0, to: None });

/// What stderr has not taken yet.
pub struct Backlog {
    bytes: Vec<u8>,
    /// How many messages had no room here.
    lost: usize,
    /// How stderr is written to, once it was.
    to: Option<Stderr>,
}

enum Stderr {
    /// Opened once more, not to block.
    Own(OwnedFd),
    Socket,
    /// It is asked whether it takes something before it is written to.
    Asked,
}

impl Backlog {
    pub fn say(&mut self, text: &str) {
        if !self.bytes.is_empty() && self.bytes.len() + text.len() > LIMIT {
            self.lost += 1;
        } else {
            self.bytes.extend_from_slice(text.as_bytes());
        }
        self.write(Instant::now());
    }

    pub fn flush(&mut self) {
        let until = Instant::now() + PATIENCE;
        self.write(until);
        if self.lost > 0 && self.bytes.is_empty() {
            let lost = std::mem::take(&mut self.lost);
            let messages =
                if lost == 1 { "1 message was".to_owned() } else { format!("{lost} messages were") };
            let text = format!("bookend: warning: {messages} lost: nothing read standard error\n");
            self.bytes.extend_from_slice(text.as_bytes());
            self.write(until);
        }
    }

    /// Writes what stderr takes until then.
    fn write(&mut self, until: Instant) {
        let to = self.to.get_or_insert_with(Stderr::open);
        while !self.bytes.is_empty() {
            match to.write(&self.bytes) {
                Ok(n) => drop(self.bytes.drain(..n)),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) if to.takes_something(until) => {}
                Err(Errno::EAGAIN) => return,
                // There is nobody to tell.
                Err(_) => self.bytes.clear(),
            }
        }
    }
}

impl Stderr {
    fn open() -> Stderr {
        let own = || {
            let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
            nix::fcntl::open("/proc/self/fd/2", flags, Mode::empty()).ok()
        };
        let kind = fstat(sys::stdio(2)).map_or(SFlag::empty(), |s| SFlag::from_bits_truncate(s.st_mode));
        match kind & SFlag::S_IFMT {
            SFlag::S_IFSOCK => Stderr::Socket,
            // A file opened once more would be written from its beginning.
            SFlag::S_IFIFO | SFlag::S_IFCHR => own().map_or(Stderr::Asked, Stderr::Own),
            _ => Stderr::Asked,
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Stderr::Own(fd) => fd.as_fd(),
            Stderr::Socket | Stderr::Asked => sys::stdio(2),
        }
    }

    fn write(&self, bytes: &[u8]) -> nix::Result<usize> {
        match self {
            Stderr::Own(fd) => nix::unistd::write(fd, bytes),
            Stderr::Socket => {
                let how = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                send(self.fd().as_raw_fd(), bytes, how)
            }
            // A pipe that takes something takes a page of it (pipe(7)).
            Stderr::Asked if self.takes_something(Instant::now()) => {
                nix::unistd::write(self.fd(), &bytes[..bytes.len().min(libc::PIPE_BUF)])
            }
            Stderr::Asked => Err(Errno::EAGAIN),
        }
    }

    fn takes_something(&self, until: Instant) -> bool {
        let left = until.saturating_duration_since(Instant::now()).as_millis().min(i32::MAX as u128);
        let left = PollTimeout::try_from(left as i32).unwrap_or(PollTimeout::ZERO);
        let mut fds = [PollFd::new(self.fd(), PollFlags::POLLOUT)];
        poll(&mut fds, left).is_ok_and(|n| n > 0)
    }
}
