//! Captures the agent's stdout: passes it on at once and unchanged, and shows it to the adapter.
//!
//! A slow reader does not throttle the agent: unread output waits in memory, and beyond 1 MiB in an unlinked
//! file, up to a limit. If there is much output and the reader is reading, bookend waits for it for moments:
//! a reader that reads nothing does not delay the agent, and one that reads little leaves it a few MB a
//! second. Beyond the limit, or if the file cannot grow, the agent has to wait (back-pressure).
//!
//! Only EPIPE means that the reader has exited. If the file system is full, bookend tries again. Output that
//! could not be written is counted and makes the run a failure.
//!
//! The inherited descriptor is never made non-blocking, since other processes share it.

mod backlog;
mod downstream;
mod holders;

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, tee};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use backlog::Backlog;
use downstream::{Downstream, WriteRefusal};
pub use holders::PipeHolders;

/// The capacity of the agent's pipe in bytes: the agent can write while its earlier output is read. All pipes
/// of a user may hold 64 MiB together, pipe(7).
const PIPE: usize = 256 * 1024;
/// From so many bytes on, the pages of the agent's pipe are passed on instead of copied. A page occupies one
/// slot of the reader's pipe however little it contains.
const MUCH: usize = 16 * 1024;
/// How long to wait for a reader that is reading. Meanwhile the agent can write into its own pipe; what the
/// reader does not accept in time is copied.
const PATIENCE: Duration = Duration::from_millis(20);
/// The time between attempts to write to a full file system.
const RETRY: Duration = Duration::from_millis(250);

/// What to do when the process reading our stdout has exited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnClosedOutput {
    /// Read on and discard: this agent would not notice.
    Drain,
    /// Close the agent's pipe too, so that the agent gets EPIPE.
    HangUp,
}

#[derive(Debug)]
pub struct Capture {
    from: Option<OwnedFd>,
    to: Downstream,
    backlog: Backlog,
    outlet: Outlet,
    on_closed: OnClosedOutput,
    chunk: Vec<u8>,
    /// The last read returned much, so the next one probably does too.
    much: bool,
    /// Bytes that the reader has been given and that are still to be read from the agent's pipe.
    ahead: usize,
    /// Enlarging the reader's pipe was tried.
    enlarged: bool,
    /// The last call waited for the reader.
    waited: bool,
    /// The reader was waited for in vain, and has read nothing since.
    reader_is_idle: bool,
    /// Bytes read from the agent.
    total: u64,
    /// What the agent's pipe contained when the agent ended: it is read even if there is no room for it.
    owed: usize,
}

/// Whether our stdout accepts output.
#[derive(Debug)]
enum Outlet {
    Open,
    /// Its file system was full.
    Full {
        errno: Errno,
        retry: Instant,
    },
    /// Nothing more is written.
    Failed(OutputLoss),
}

/// Output of the agent that could not be written to our stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputLoss {
    errno: Errno,
    bytes: u64,
}

impl fmt::Display for OutputLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let OutputLoss { errno, bytes } = self;
        let plural = if *bytes == 1 { "byte" } else { "bytes" };
        write!(f, "{bytes} {plural} of the agent's output could not be written to stdout: {errno}")
    }
}

impl Capture {
    /// A capture that passes output on to `stdout`, and the end that the agent writes to. With `backlog`
    /// bytes waiting for stdout, the agent has to wait.
    ///
    /// # Errors
    /// When the kernel has no room for a pipe, or `stdout` is closed.
    pub fn new(
        stdout: BorrowedFd<'_>,
        on_closed: OnClosedOutput,
        backlog: u64,
    ) -> io::Result<(Capture, OwnedFd)> {
        let to = Downstream::of(stdout)?;
        let (from, agents) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        fcntl(&from, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        // Refused if the user's pipes are too large already: the default size works too.
        let _ = fcntl(&from, FcntlArg::F_SETPIPE_SZ(PIPE as i32));
        let capture = Capture {
            from: Some(from),
            to,
            backlog: Backlog::new(backlog),
            outlet: Outlet::Open,
            on_closed,
            chunk: Vec::new(),
            much: false,
            ahead: 0,
            enlarged: false,
            waited: false,
            reader_is_idle: false,
            total: 0,
            owed: 0,
        };
        Ok((capture, agents))
    }

    /// What to poll for more output; `None` while there is no room for it.
    pub fn input(&self) -> Option<BorrowedFd<'_>> {
        self.from.as_ref().filter(|_| self.backlog.has_room() || self.owed > 0).map(AsFd::as_fd)
    }

    /// Whether the agent has to wait until our stdout accepts more.
    pub fn delays_agent(&self) -> bool {
        self.from.is_some() && !self.backlog.has_room()
    }

    /// What to poll for the reader, while output waits for it.
    pub fn output(&self) -> Option<BorrowedFd<'_>> {
        // A file on a full file system always polls as writable: poll(2).
        if self.backlog.is_empty() || self.lacks_room() { None } else { self.to.fd() }
    }

    /// Whether the file system of our stdout was full.
    pub fn lacks_room(&self) -> bool {
        matches!(self.outlet, Outlet::Full { .. })
    }

    /// When to call [`Capture::flush`] at the latest.
    pub fn due(&self) -> Option<Instant> {
        match self.outlet {
            Outlet::Open => self.to.line_due(),
            Outlet::Full { retry, .. } => Some(retry),
            Outlet::Failed(_) => None,
        }
    }

    /// What could not be written.
    pub fn loss(&self) -> Option<OutputLoss> {
        if let Outlet::Failed(loss) = self.outlet { Some(loss) } else { None }
    }

    /// Bytes read from the agent so far.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The other processes that have the agent's stdout open.
    pub fn holders(&self) -> Option<PipeHolders> {
        self.from.as_ref().map(|pipe| PipeHolders::of(pipe.as_fd()))
    }

    /// The agent has ended: what it has written is read even if stdout does not accept it now.
    pub fn agent_ended(&mut self) {
        let held = self.from.as_ref().and_then(|pipe| rustix::io::ioctl_fionread(pipe).ok());
        self.owed = held.map_or(0, |n| n as usize);
    }

    /// Whether the agent's side has ended or was closed.
    pub fn ended(&self) -> bool {
        self.from.is_none()
    }

    /// Whether the last read returned much without waiting for the reader: there may be more right now.
    pub fn has_much(&self) -> bool {
        self.much && !self.waited && self.input().is_some()
    }

    /// Reads one chunk, passes it on, then shows it to `observe`. Returns whether there was one.
    pub fn read(&mut self, observe: &mut dyn FnMut(&[u8])) -> bool {
        if self.much && self.ahead == 0 {
            self.ahead = self.pass_pages_on();
        }
        let Some(from) = &self.from else { return false };
        if self.chunk.is_empty() {
            // Zeroed by the kernel: pages that no chunk reaches use no memory.
            self.chunk = vec![0; PIPE];
        }
        let due = match (self.ahead, self.backlog.has_room()) {
            (0, true) => PIPE,
            (0, false) => self.owed.min(PIPE),
            (ahead, _) => ahead,
        };
        if due == 0 {
            return false;
        }
        let n = match nix::unistd::read(from, &mut self.chunk[..due]) {
            Ok(n) => n,
            Err(Errno::EAGAIN | Errno::EINTR) => return false,
            Err(_) => 0,
        };
        if n == 0 {
            self.hang_up();
            return false;
        }
        self.total += n as u64;
        self.owed = self.owed.saturating_sub(n);
        let chunk = std::mem::take(&mut self.chunk);
        if self.ahead == 0 {
            self.pass_on(&chunk[..n]);
        }
        self.ahead = self.ahead.saturating_sub(n);
        self.much = n >= MUCH;
        observe(&chunk[..n]);
        self.chunk = chunk;
        true
    }

    /// Gives the reader the pages that the agent has written, without a copy, and returns how many bytes they
    /// contain: those are still to be read. A page in a pipe does not change, unless an agent lends the pipe
    /// its own memory, vmsplice(2), which no agent does that writes JSON.
    fn pass_pages_on(&mut self) -> usize {
        let mut until = None;
        self.waited = false;
        loop {
            self.flush();
            let (Some(from), Downstream::Pipe(to)) = (&self.from, &self.to) else { return 0 };
            if self.backlog.is_empty() {
                match tee(from, to, PIPE, SpliceFFlags::SPLICE_F_NONBLOCK) {
                    Ok(n) => {
                        self.reader_is_idle = false;
                        return n;
                    }
                    Err(Errno::EAGAIN) => {}
                    Err(Errno::EPIPE) => {
                        self.close_output();
                        return 0;
                    }
                    Err(_) => return 0,
                }
            }
            // Not worth it for little output.
            if rustix::io::ioctl_fionread(from).is_ok_and(|n| n < MUCH as u64) {
                return 0;
            }
            if !self.enlarged && self.backlog.is_empty() {
                self.enlarged = true;
                enlarge(to);
                continue;
            }
            // A reader that is reading makes room in a moment, which costs less than a copy. Waits only
            // briefly.
            if self.reader_is_idle {
                return 0;
            }
            self.waited = true;
            let until = *until.get_or_insert_with(|| Instant::now() + PATIENCE);
            let left = until.saturating_duration_since(Instant::now()).as_millis();
            let mut fds = [PollFd::new(to.as_fd(), PollFlags::POLLOUT)];
            if poll(&mut fds, PollTimeout::from(left as u8)) != Ok(1) {
                self.reader_is_idle = true;
                return 0;
            }
        }
    }

    /// Frees the buffer until the next chunk.
    pub fn free_buffer(&mut self) {
        self.chunk = Vec::new();
    }

    /// Closes the agent's side: what is still written there is lost.
    pub fn hang_up(&mut self) {
        self.from = None;
        self.flush();
    }

    fn pass_on(&mut self, mut bytes: &[u8]) {
        while self.backlog.is_empty() && !bytes.is_empty() && !matches!(self.to, Downstream::Closed) {
            match write(&mut self.to, &mut self.outlet, bytes) {
                Ok(n) => bytes = &bytes[n..],
                Err(refusal) => {
                    self.refused(refusal);
                    break;
                }
            }
        }
        match (&mut self.outlet, &self.to) {
            (Outlet::Failed(loss), _) => loss.bytes += bytes.len() as u64,
            (_, Downstream::Closed) => {}
            _ => self.backlog.push(bytes),
        }
    }

    /// Writes the waiting output, as far as our stdout accepts it.
    pub fn flush(&mut self) {
        while let Some(front) = self.backlog.front() {
            match write(&mut self.to, &mut self.outlet, front) {
                Ok(n) => {
                    self.reader_is_idle = false;
                    self.backlog.consume(n);
                }
                Err(refusal) => return self.refused(refusal),
            }
        }
        self.end_line();
        self.close_when_empty();
    }

    /// Writes the incomplete line if its newline cannot come any more or has not come in time.
    fn end_line(&mut self) {
        let due = self.to.line_due();
        if due.is_some_and(|due| self.from.is_none() || due <= Instant::now()) {
            match self.to.write_line() {
                Ok(()) => self.outlet = Outlet::Open,
                Err(refusal) => self.refused(refusal),
            }
        }
    }

    fn refused(&mut self, refusal: WriteRefusal) {
        match refusal {
            WriteRefusal::WouldBlock => {}
            WriteRefusal::ReaderGone => self.close_output(),
            WriteRefusal::Full(errno) => self.outlet = Outlet::Full { errno, retry: Instant::now() + RETRY },
            WriteRefusal::Failed(errno) => self.failed(errno),
        }
    }

    /// Stops waiting for a full file system.
    pub fn give_up(&mut self) {
        if let Outlet::Full { errno, .. } = self.outlet {
            self.failed(errno);
        }
    }

    fn failed(&mut self, errno: Errno) {
        let bytes = self.backlog.len() + self.to.waiting() as u64;
        self.close_output();
        self.outlet = Outlet::Failed(OutputLoss { errno, bytes });
    }

    fn close_output(&mut self) {
        self.to = Downstream::Closed;
        self.outlet = Outlet::Open;
        self.backlog.clear();
        if self.on_closed == OnClosedOutput::HangUp {
            self.from = None;
        }
    }

    /// Once nothing more can come, the reader gets its end-of-file at once and not only when bookend exits.
    fn close_when_empty(&mut self) {
        if self.from.is_none() && self.backlog.is_empty() && self.to.waiting() == 0 {
            self.to = Downstream::Closed;
        }
    }
}

/// Writes `bytes` to our stdout, and returns how many it accepted.
fn write(to: &mut Downstream, outlet: &mut Outlet, bytes: &[u8]) -> Result<usize, WriteRefusal> {
    let waited = to.waiting();
    let taken = to.write(bytes)?;
    // An incomplete line was only kept, not written.
    if to.waiting() <= waited {
        *outlet = Outlet::Open;
    }
    Ok(taken)
}

/// Makes the reader's pipe as large as the agent's. The pipe is not ours, but bytes and order stay the same,
/// and we keep what does not fit. Only once it was too small: most pipes are large enough, and what all pipes
/// of a user may hold is limited.
fn enlarge(pipe: &OwnedFd) {
    let size = fcntl(pipe, FcntlArg::F_GETPIPE_SZ);
    if size.is_ok_and(|size| size < PIPE as i32) {
        // Refused if the user's pipes are too large already.
        let _ = fcntl(pipe, FcntlArg::F_SETPIPE_SZ(PIPE as i32));
    }
}

#[cfg(test)]
mod tests;
