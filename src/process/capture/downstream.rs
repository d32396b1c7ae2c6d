//! bookend's own stdout: what it takes to write to it without waiting, and what its refusals mean.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, IoSlice, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::time::{Duration, Instant};

use memchr::memrchr;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};

use super::backlog::CHUNK;

/// How long a line without its newline waits for it.
const LINE_WAIT: Duration = Duration::from_secs(1);
/// The longest line that is written in one piece, in bytes.
const LONGEST_LINE: usize = 16 << 20;

/// Our stdout, by what it takes to write to it without waiting.
#[derive(Debug)]
pub(super) enum Downstream {
    /// A pipe, opened once more so that it can be non-blocking.
    Pipe(OwnedFd),
    /// A pipe that cannot be opened again (another user's): after POLLOUT it takes `PIPE_BUF` bytes.
    Shared(OwnedFd),
    Socket(OwnedFd),
    /// A file or a device: it takes all, at once.
    File(File),
    /// A regular file that others may append to as well.
    Log(Log),
    Closed,
}

/// Why stdout did not take what it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It would have to be waited for.
    NotNow,
    /// The process reading it has closed it.
    ReaderGone,
    /// Its file system has no room, or the user's quota is used up: that can change.
    Full(Errno),
    Failed(Errno),
}

impl Refusal {
    pub(super) fn of(e: &io::Error) -> Refusal {
        match e.raw_os_error().map_or(Errno::EIO, Errno::from_raw) {
            Errno::EAGAIN => Refusal::NotNow,
            // A TCP connection that the reader has reset says so once, then EPIPE: tcp(7).
            Errno::EPIPE | Errno::ECONNRESET => Refusal::ReaderGone,
            errno @ (Errno::ENOSPC | Errno::EDQUOT) => Refusal::Full(errno),
            errno => Refusal::Failed(errno),
        }
    }
}

impl Downstream {
    pub(super) fn of(stdout: BorrowedFd<'_>) -> io::Result<Downstream> {
        let own = File::from(stdout.try_clone_to_owned()?);
        let kind = own.metadata()?.file_type();
        if kind.is_socket() {
            return Ok(Downstream::Socket(own.into()));
        }
        if !kind.is_fifo() {
            let flags = OFlag::from_bits_truncate(fcntl(&own, FcntlArg::F_GETFL)?);
            return Ok(match kind.is_file() && flags.contains(OFlag::O_APPEND) {
                true => Downstream::Log(Log { file: own, line: Vec::new(), since: None }),
                false => Downstream::File(own),
            });
        }
        let again = OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(format!("/proc/self/fd/{}", own.as_raw_fd()));
        Ok(match again {
            Ok(pipe) => Downstream::Pipe(pipe.into()),
            Err(_) => Downstream::Shared(own.into()),
        })
    }

    /// Takes what goes without waiting, and says how many bytes those were.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<usize, Refusal> {
        loop {
            match self.attempt(bytes) {
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                outcome => return outcome.map_err(|e| Refusal::of(&e)),
            }
        }
    }

    fn attempt(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Downstream::Pipe(fd) => Ok(nix::unistd::write(fd, bytes)?),
            Downstream::Shared(fd) => {
                let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLOUT)];
                if poll(&mut fds, PollTimeout::ZERO)? == 0 {
                    return Err(Errno::EAGAIN.into());
                }
                Ok(nix::unistd::write(fd, &bytes[..bytes.len().min(libc::PIPE_BUF)])?)
            }
            Downstream::Socket(fd) => {
                Ok(send(fd.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)?)
            }
            Downstream::File(file) => file.write(bytes),
            Downstream::Log(log) => log.write(bytes),
            Downstream::Closed => Err(Errno::EPIPE.into()),
        }
    }

    /// Writes the line that waits for its newline.
    pub(super) fn write_line(&mut self) -> Result<(), Refusal> {
        let Downstream::Log(log) = self else { return Ok(()) };
        while !log.line.is_empty() {
            match log.append(&[]) {
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                outcome => drop(outcome.map_err(|e| Refusal::of(&e))?),
            }
        }
        Ok(())
    }

    /// Bytes of a line that waits for its newline.
    pub(super) fn waiting(&self) -> usize {
        if let Downstream::Log(log) = self { log.line.len() } else { 0 }
    }

    /// When the line that waits for its newline is to be written without it.
    pub(super) fn line_due(&self) -> Option<Instant> {
        let Downstream::Log(log) = self else { return None };
        log.since.map(|since| since + LINE_WAIT)
    }

    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Downstream::Pipe(fd) | Downstream::Shared(fd) | Downstream::Socket(fd) => Some(fd.as_fd()),
            Downstream::File(file) | Downstream::Log(Log { file, .. }) => Some(file.as_fd()),
            Downstream::Closed => None,
        }
    }
}

/// A regular file opened with `O_APPEND`. Each write to it is whole among those of other processes, since the
/// kernel holds the inode's lock meanwhile: so each write is of whole lines.
#[derive(Debug)]
pub(super) struct Log {
    file: File,
    /// What has come of a line.
    line: Vec<u8>,
    /// When the first byte of it came.
    since: Option<Instant>,
}

impl Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match memrchr(b'\n', bytes) {
            Some(end) => self.append(&bytes[..=end]),
            None if self.line.len() + bytes.len() > LONGEST_LINE => self.append(bytes),
            None => {
                self.line.extend_from_slice(bytes);
                self.since.get_or_insert_with(Instant::now);
                Ok(bytes.len())
            }
        }
    }

    /// Writes what waits and then `bytes`, at once. Says how many of `bytes` were taken.
    fn append(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.write_vectored(&[IoSlice::new(&self.line), IoSlice::new(bytes)])?;
        let of_line = n.min(self.line.len());
        self.line.drain(..of_line);
        if self.line.is_empty() {
            self.line.shrink_to(CHUNK);
            self.since = None;
        }
        Ok(n - of_line)
    }
}
