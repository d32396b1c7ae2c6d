//! bookend's own stdout: how to write to it without waiting, and what its errors mean.

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

/// How long an incomplete line waits for its newline.
const LINE_WAIT: Duration = Duration::from_secs(1);
/// The longest line that is written in one piece, in bytes.
const LONGEST_LINE: usize = 16 << 20;

/// Our stdout, by how it can be written to without waiting.
#[derive(Debug)]
pub(super) enum Downstream {
    /// A pipe, opened a second time so that it can be non-blocking.
    Pipe(OwnedFd),
    /// A pipe that cannot be opened again (another user's): after POLLOUT it accepts `PIPE_BUF` bytes.
    Shared(OwnedFd),
    Socket(OwnedFd),
    /// A file or a device, which accepts everything at once.
    File(File),
    /// A regular file to which other processes may append too.
    Log(AppendedLog),
    Closed,
}

/// Why stdout did not accept a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WriteRefusal {
    /// The write would block.
    WouldBlock,
    /// The process reading it has closed it.
    ReaderGone,
    /// Its file system is full or the user's quota is used up, which can change.
    Full(Errno),
    Failed(Errno),
}

impl WriteRefusal {
    pub(super) fn of(e: &io::Error) -> WriteRefusal {
        match e.raw_os_error().map_or(Errno::EIO, Errno::from_raw) {
            Errno::EAGAIN => WriteRefusal::WouldBlock,
            // A TCP connection that its reader has reset fails so once, then with EPIPE: tcp(7).
            Errno::EPIPE | Errno::ECONNRESET => WriteRefusal::ReaderGone,
            errno @ (Errno::ENOSPC | Errno::EDQUOT) => WriteRefusal::Full(errno),
            errno => WriteRefusal::Failed(errno),
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
                true => Downstream::Log(AppendedLog { file: own, line: Vec::new(), since: None }),
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

    /// Writes as much as possible without waiting, and returns the number of bytes.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<usize, WriteRefusal> {
        loop {
            match self.attempt(bytes) {
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                outcome => return outcome.map_err(|e| WriteRefusal::of(&e)),
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

    /// Writes the incomplete line.
    pub(super) fn write_line(&mut self) -> Result<(), WriteRefusal> {
        let Downstream::Log(log) = self else { return Ok(()) };
        while !log.line.is_empty() {
            match log.append(&[]) {
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                outcome => drop(outcome.map_err(|e| WriteRefusal::of(&e))?),
            }
        }
        Ok(())
    }

    /// Bytes of the incomplete line.
    pub(super) fn waiting(&self) -> usize {
        if let Downstream::Log(log) = self { log.line.len() } else { 0 }
    }

    /// When the incomplete line is to be written without its newline.
    pub(super) fn line_due(&self) -> Option<Instant> {
        let Downstream::Log(log) = self else { return None };
        log.since.map(|since| since + LINE_WAIT)
    }

    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Downstream::Pipe(fd) | Downstream::Shared(fd) | Downstream::Socket(fd) => Some(fd.as_fd()),
            Downstream::File(file) | Downstream::Log(AppendedLog { file, .. }) => Some(file.as_fd()),
            Downstream::Closed => None,
        }
    }
}

/// A regular file opened with `O_APPEND`. Writes of several processes do not mix, since the kernel locks the
/// inode for each: so each write consists of whole lines.
#[derive(Debug)]
pub(super) struct AppendedLog {
    file: File,
    /// The incomplete line.
    line: Vec<u8>,
    /// When its first byte arrived.
    since: Option<Instant>,
}

impl AppendedLog {
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

    /// Writes the incomplete line and `bytes` in one call. Returns how many of `bytes` were written.
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
