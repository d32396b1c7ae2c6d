//! Capture: the agent's stdout, passed on at once and unchanged, and read along.
//!
//! A slow reader never throttles the agent: what it has not taken yet waits in memory, and beyond 1 MiB
//! in an unlinked file. Only amid much output a reader who is at it is waited for, for moments: a reader who
//! takes nothing holds nobody up, and one who takes little leaves the agent a few MB a second at the worst.
//!
//! The descriptor that we inherited is never made non-blocking; others share it.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, OFlag};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::pipe::{SpliceFlags, tee};

use crate::sys;

/// Bytes that wait for the reader in memory, at most.
const MEMORY: usize = 1 << 20;
const CHUNK: usize = 64 * 1024;
/// What the agent's pipe holds, in bytes: the agent writes on while what it wrote before is read, all at
/// once. A user's pipes may hold 64 MiB together, pipe(7).
const PIPE: usize = 256 * 1024;
/// From so many bytes at a time on, the pages of the agent's pipe are passed on instead of copied. Each takes
/// a place in the reader's pipe however little is in it.
const MUCH: usize = 16 * 1024;
/// How long a reader who is at it may keep us from reading on. The agent writes on into its own pipe
/// meanwhile; what the reader takes later is copied, and waits.
const PATIENCE: Duration = Duration::from_millis(20);

/// What to do when nobody reads our stdout any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenReaderGone {
    /// Drain and read along: this agent would not notice.
    Drain,
    /// Hang up on the agent too, so that it gets its own EPIPE.
    HangUp,
}

#[derive(Debug)]
pub struct Capture {
    from: Option<OwnedFd>,
    to: Downstream,
    backlog: Backlog,
    when_gone: WhenReaderGone,
    chunk: Vec<u8>,
    /// There was much to read the last time: there will be again.
    much: bool,
    /// What the reader has been given already of what is still to be read.
    ahead: usize,
    /// The reader's pipe is as large as the agent's, if that could be had.
    enlarged: bool,
    /// He was waited for the last time.
    held_up: bool,
    /// He was waited for in vain, and has taken nothing since.
    asleep: bool,
}

/// Our own stdout, by what it takes to write to it without waiting.
#[derive(Debug)]
enum Downstream {
    /// A pipe, opened once more so that it can be non-blocking.
    Pipe(OwnedFd),
    /// A pipe that cannot be opened again (another user's): after POLLOUT it takes `PIPE_BUF` bytes.
    Shared(OwnedFd),
    Socket(OwnedFd),
    /// A file or a device: it takes all, at once.
    File(File),
    Closed,
}

impl Downstream {
    fn of(stdout: BorrowedFd<'_>) -> io::Result<Downstream> {
        let own = File::from(stdout.try_clone_to_owned()?);
        let kind = own.metadata()?.file_type();
        if kind.is_socket() {
            return Ok(Downstream::Socket(own.into()));
        }
        if !kind.is_fifo() {
            return Ok(Downstream::File(own));
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

    /// Writes what goes without waiting: `WouldBlock` when nothing does.
    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Downstream::Pipe(fd) => Ok(nix::unistd::write(fd, bytes)?),
            Downstream::Shared(fd) => {
                let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLOUT)];
                if poll(&mut fds, PollTimeout::ZERO)? == 0 {
                    return Err(ErrorKind::WouldBlock.into());
                }
                Ok(nix::unistd::write(fd, &bytes[..bytes.len().min(libc::PIPE_BUF)])?)
            }
            Downstream::Socket(fd) => {
                let flags =
                    nix::sys::socket::MsgFlags::MSG_DONTWAIT | nix::sys::socket::MsgFlags::MSG_NOSIGNAL;
                Ok(nix::sys::socket::send(fd.as_raw_fd(), bytes, flags)?)
            }
            Downstream::File(file) => io::Write::write(&mut &*file, bytes),
            Downstream::Closed => Err(ErrorKind::BrokenPipe.into()),
        }
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Downstream::Pipe(fd) | Downstream::Shared(fd) | Downstream::Socket(fd) => Some(fd.as_fd()),
            Downstream::File(file) => Some(file.as_fd()),
            Downstream::Closed => None,
        }
    }
}

impl Capture {
    /// A capture that passes on to `stdout`, and the end that the agent is to write to.
    ///
    /// # Errors
    /// When the kernel has no room for a pipe, or `stdout` is closed.
    pub fn new(stdout: BorrowedFd<'_>, when_gone: WhenReaderGone) -> io::Result<(Capture, OwnedFd)> {
        let to = Downstream::of(stdout)?;
        let (from, agents) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        nix::fcntl::fcntl(&from, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        // It is refused to who has too much in pipes already: the usual size will do.
        let _ = nix::fcntl::fcntl(&from, nix::fcntl::FcntlArg::F_SETPIPE_SZ(PIPE as i32));
        let capture = Capture {
            from: Some(from),
            to,
            backlog: Backlog::default(),
            when_gone,
            chunk: Vec::new(),
            much: false,
            ahead: 0,
            enlarged: false,
            held_up: false,
            asleep: false,
        };
        Ok((capture, agents))
    }

    /// Where to wait for more output: nowhere while what was read cannot be put by.
    pub fn input(&self) -> Option<BorrowedFd<'_>> {
        self.from.as_ref().filter(|_| self.backlog.held.is_empty()).map(AsFd::as_fd)
    }

    /// Where to wait for the reader, while something waits for it.
    pub fn output(&self) -> Option<BorrowedFd<'_>> {
        if self.backlog.is_empty() { None } else { self.to.fd() }
    }

    /// Whether the agent's side has ended, or was hung up on.
    pub fn ended(&self) -> bool {
        self.from.is_none()
    }

    /// Whether there was much to read the last time, and nobody was waited for: there may be more at once.
    pub fn has_much(&self) -> bool {
        self.much && !self.held_up && self.input().is_some()
    }

    /// Reads one chunk, passes it on, then shows it to `along`. Says whether there was any.
    pub fn read(&mut self, along: &mut dyn FnMut(&[u8])) -> bool {
        if self.much && self.ahead == 0 {
            self.ahead = self.pass_pages_on();
        }
        let Some(from) = &self.from else { return false };
        if self.chunk.is_empty() {
            // Zeros from the kernel: what no chunk reaches is no memory.
            self.chunk = vec![0; PIPE];
        }
        let due = if self.ahead > 0 { self.ahead } else { PIPE };
        let n = match nix::unistd::read(from, &mut self.chunk[..due]) {
            Ok(n) => n,
            Err(Errno::EAGAIN | Errno::EINTR) => return false,
            Err(_) => 0,
        };
        if n == 0 {
            self.from = None;
            self.close_when_empty();
            return false;
        }
        let chunk = std::mem::take(&mut self.chunk);
        if self.ahead == 0 {
            self.pass_on(&chunk[..n]);
        }
        self.ahead = self.ahead.saturating_sub(n);
        self.much = n >= MUCH;
        along(&chunk[..n]);
        self.chunk = chunk;
        true
    }

    /// Gives the reader the very pages that the agent has written, without a copy, and says how many bytes
    /// lie in them: they are still to be read. Nobody writes to a page that lies in a pipe, but for an agent
    /// that lends the pipe memory of its own, vmsplice(2): none that says JSON does.
    fn pass_pages_on(&mut self) -> usize {
        let mut until = None;
        self.held_up = false;
        loop {
            self.flush();
            let (Some(from), Downstream::Pipe(to)) = (&self.from, &self.to) else { return 0 };
            if self.backlog.is_empty() {
                match tee(from, to, PIPE, SpliceFlags::NONBLOCK) {
                    Ok(n) => {
                        self.asleep = false;
                        return n;
                    }
                    Err(rustix::io::Errno::AGAIN) => {}
                    Err(rustix::io::Errno::PIPE) => {
                        self.reader_gone();
                        return 0;
                    }
                    Err(_) => return 0,
                }
            }
            // Not for little.
            if rustix::io::ioctl_fionread(from).is_ok_and(|n| n < MUCH as u64) {
                return 0;
            }
            if !self.enlarged && self.backlog.is_empty() {
                self.enlarged = true;
                enlarge(to);
                continue;
            }
            // A reader who is at it makes room in a moment: that costs him and us less than a copy that
            // waits. Not for long.
            if self.asleep {
                return 0;
            }
            self.held_up = true;
            let until = *until.get_or_insert_with(|| Instant::now() + PATIENCE);
            let left = until.saturating_duration_since(Instant::now()).as_millis();
            let mut fds = [PollFd::new(to.as_fd(), PollFlags::POLLOUT)];
            if poll(&mut fds, PollTimeout::from(left as u8)) != Ok(1) {
                self.asleep = true;
                return 0;
            }
        }
    }

    /// Gives back what is not needed until the next chunk.
    pub fn rest(&mut self) {
        self.chunk = Vec::new();
    }

    /// Stops listening to the agent's side: what is still written there is lost.
    pub fn hang_up(&mut self) {
        self.from = None;
        self.close_when_empty();
    }

    fn pass_on(&mut self, mut bytes: &[u8]) {
        if matches!(self.to, Downstream::Closed) {
            return;
        }
        while self.backlog.is_empty() && !bytes.is_empty() {
            match self.to.write(bytes) {
                Ok(n) => bytes = &bytes[n..],
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return self.reader_gone(),
            }
        }
        self.backlog.push(bytes);
    }

    /// Writes what waits, as far as the reader takes it.
    pub fn flush(&mut self) {
        while let Some(front) = self.backlog.front() {
            match self.to.write(front) {
                Ok(n) => {
                    self.asleep = false;
                    self.backlog.consume(n);
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(_) => return self.reader_gone(),
            }
        }
        self.close_when_empty();
    }

    fn reader_gone(&mut self) {
        self.to = Downstream::Closed;
        self.backlog = Backlog::default();
        if self.when_gone == WhenReaderGone::HangUp {
            self.from = None;
        }
    }

    /// Nothing more will come: the reader gets its end-of-file now, not when we leave.
    fn close_when_empty(&mut self) {
        if self.from.is_none() && self.backlog.is_empty() {
            self.to = Downstream::Closed;
        }
    }
}

/// Makes the reader's pipe as large as the agent's. It is somebody else's, and yet: bytes and order are the
/// same, and that a full one holds nobody up is so anyway, since we take what it does not. Not before it was
/// too small: for most it is large enough, and what a user's pipes may hold together is bounded.
fn enlarge(pipe: &OwnedFd) {
    let size = nix::fcntl::fcntl(pipe, nix::fcntl::FcntlArg::F_GETPIPE_SZ);
    if size.is_ok_and(|size| size < PIPE as i32) {
        // It is refused to who has too much in pipes already.
        let _ = nix::fcntl::fcntl(pipe, nix::fcntl::FcntlArg::F_SETPIPE_SZ(PIPE as i32));
    }
}

/// What the reader has not taken yet, oldest first: `memory`, then `file`, then `held`.
#[derive(Debug, Default)]
struct Backlog {
    memory: VecDeque<u8>,
    file: Option<Spilled>,
    /// What the file could not take: while there is any, nothing more is read from the agent.
    held: Vec<u8>,
}

#[derive(Debug)]
struct Spilled {
    file: File,
    read: u64,
    written: u64,
    /// Of what was read, this much is on the disk no more.
    given_back: u64,
}

impl Backlog {
    fn is_empty(&self) -> bool {
        self.memory.is_empty() && self.file.is_none() && self.held.is_empty()
    }

    fn push(&mut self, bytes: &[u8]) {
        if self.file.is_none() && self.held.is_empty() && self.memory.len() + bytes.len() <= MEMORY {
            self.memory.extend(bytes);
        } else if bytes.is_empty() || (self.held.is_empty() && self.spill(bytes).is_ok()) {
        } else {
            self.held.extend_from_slice(bytes);
        }
    }

    fn spill(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.file.is_none() {
            self.file = Some(Spilled { file: tempfile::tempfile()?, read: 0, written: 0, given_back: 0 });
        }
        if let Some(spilled) = &mut self.file {
            spilled.file.write_all_at(bytes, spilled.written)?;
            spilled.written += bytes.len() as u64;
        }
        Ok(())
    }

    fn front(&mut self) -> Option<&[u8]> {
        if self.memory.is_empty()
            && let Some(spilled) = &mut self.file
        {
            let mut chunk = [0; CHUNK];
            let left = (spilled.written - spilled.read).min(CHUNK as u64) as usize;
            match spilled.file.read_at(&mut chunk[..left], spilled.read) {
                Ok(n) if n > 0 => {
                    spilled.read += n as u64;
                    self.memory.extend(&chunk[..n]);
                }
                // Our own unlinked file is not readable: what it held is lost, and the order is kept.
                _ => spilled.read = spilled.written,
            }
            if spilled.read == spilled.written {
                self.file = None;
            } else {
                spilled.give_back();
            }
        }
        if self.memory.is_empty() && self.file.is_none() {
            self.memory.extend(self.held.drain(..));
        }
        let front = self.memory.as_slices().0;
        if front.is_empty() { None } else { Some(front) }
    }

    fn consume(&mut self, n: usize) {
        self.memory.drain(..n);
        if self.is_empty() && self.memory.capacity() > CHUNK {
            self.memory = VecDeque::new();
            sys::trim_memory();
        }
    }
}

impl Spilled {
    /// Gives the disk back what has been read. A reader who never quite catches up would else make the file
    /// as long as all that the agent ever says.
    fn give_back(&mut self) {
        if self.read - self.given_back >= MEMORY as u64 {
            let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            // A file system that has no holes keeps it until the end.
            let _ = nix::fcntl::fallocate(&self.file, flags, 0, self.read.cast_signed());
            self.given_back = self.read;
        }
    }
}

#[cfg(test)]
mod tests;
