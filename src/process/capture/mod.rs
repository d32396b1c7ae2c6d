//! Capture: the agent's stdout, passed on at once and unchanged, and read along.
//!
//! A slow reader does not throttle the agent: what it has not read yet waits in memory, and beyond 1 MiB in
//! an unlinked file, up to a limit. If there is much output and the reader reads, bookend waits for it for
//! moments: a reader that reads nothing does not delay the agent, and one that reads little leaves it a few
//! MB a second. Beyond the limit, or if the file cannot grow, the agent has to wait (back-pressure).
//!
//! Only EPIPE means that the reader has exited. If the file system is full, bookend tries again. Output that
//! could not be written is counted and makes the run a failure.
//!
//! The descriptor that we inherited is never made non-blocking; others share it.

mod backlog;
mod downstream;
mod holders;

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::pipe::{SpliceFlags, tee};

use backlog::Backlog;
use downstream::{Downstream, Refusal};
pub use holders::PipeHolders;

/// What the agent's pipe holds, in bytes: the agent writes on while what it wrote before is read, all at
/// once. A user's pipes may hold 64 MiB together, pipe(7).
const PIPE: usize = 256 * 1024;
/// From so many bytes at a time on, the pages of the agent's pipe are passed on instead of copied. Each takes
/// a place in the reader's pipe however little is in it.
const MUCH: usize = 16 * 1024;
/// How long a reader who is at it may keep us from reading on. The agent writes on into its own pipe
/// meanwhile; what the reader takes later is copied, and waits.
const PATIENCE: Duration = Duration::from_millis(20);
/// How long until a file system that had no room is tried again.
const RETRY: Duration = Duration::from_millis(250);

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
    outlet: Outlet,
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
    /// Bytes read from the agent.
    total: u64,
    /// What the agent's pipe held when the agent had ended: it is read although there is no room for it.
    owed: usize,
}

/// Whether our stdout takes what it is given.
#[derive(Debug)]
enum Outlet {
    Open,
    /// Its file system had no room.
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
    /// A capture that passes on to `stdout`, and the end that the agent is to write to. At `backlog` bytes
    /// that stdout has not taken, the agent has to wait.
    ///
    /// # Errors
    /// When the kernel has no room for a pipe, or `stdout` is closed.
    pub fn new(
        stdout: BorrowedFd<'_>,
        when_gone: WhenReaderGone,
        backlog: u64,
    ) -> io::Result<(Capture, OwnedFd)> {
        let to = Downstream::of(stdout)?;
        let (from, agents) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        nix::fcntl::fcntl(&from, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        // It is refused to who has too much in pipes already: the usual size will do.
        let _ = nix::fcntl::fcntl(&from, nix::fcntl::FcntlArg::F_SETPIPE_SZ(PIPE as i32));
        let capture = Capture {
            from: Some(from),
            to,
            backlog: Backlog::new(backlog),
            outlet: Outlet::Open,
            when_gone,
            chunk: Vec::new(),
            much: false,
            ahead: 0,
            enlarged: false,
            held_up: false,
            asleep: false,
            total: 0,
            owed: 0,
        };
        Ok((capture, agents))
    }

    /// Where to wait for more output: nowhere while what was read cannot be put by.
    pub fn input(&self) -> Option<BorrowedFd<'_>> {
        self.from.as_ref().filter(|_| self.backlog.has_room() || self.owed > 0).map(AsFd::as_fd)
    }

    /// Whether the agent has to wait until our stdout takes more.
    pub fn holds_agent_up(&self) -> bool {
        self.from.is_some() && !self.backlog.has_room()
    }

    /// Where to wait for the reader, while something waits for it.
    pub fn output(&self) -> Option<BorrowedFd<'_>> {
        // A file system without room says that it can be written to: poll(2).
        if self.backlog.is_empty() || self.lacks_room() { None } else { self.to.fd() }
    }

    /// Whether the file system of our stdout had no room.
    pub fn lacks_room(&self) -> bool {
        matches!(self.outlet, Outlet::Full { .. })
    }

    /// When to call [`Capture::flush`], whatever happens until then.
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

    /// Who else has the agent's stdout open.
    pub fn holders(&self) -> Option<PipeHolders> {
        self.from.as_ref().map(|pipe| PipeHolders::of(pipe.as_fd()))
    }

    /// The agent has ended: what it has written is read even if nothing takes it now.
    pub fn agent_ended(&mut self) {
        let held = self.from.as_ref().and_then(|pipe| rustix::io::ioctl_fionread(pipe).ok());
        self.owed = held.map_or(0, |n| n as usize);
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

    /// Writes what waits, as far as our stdout takes it.
    pub fn flush(&mut self) {
        while let Some(front) = self.backlog.front() {
            match write(&mut self.to, &mut self.outlet, front) {
                Ok(n) => {
                    self.asleep = false;
                    self.backlog.consume(n);
                }
                Err(refusal) => return self.refused(refusal),
            }
        }
        self.end_line();
        self.close_when_empty();
    }

    /// Writes the line that waits for its newline, if that does not come or has not come in time.
    fn end_line(&mut self) {
        let due = self.to.line_due();
        if due.is_some_and(|due| self.from.is_none() || due <= Instant::now()) {
            match self.to.write_line() {
                Ok(()) => self.outlet = Outlet::Open,
                Err(refusal) => self.refused(refusal),
            }
        }
    }

    fn refused(&mut self, refusal: Refusal) {
        match refusal {
            Refusal::NotNow => {}
            Refusal::ReaderGone => self.reader_gone(),
            Refusal::Full(errno) => self.outlet = Outlet::Full { errno, retry: Instant::now() + RETRY },
            Refusal::Failed(errno) => self.failed(errno),
        }
    }

    /// Gives up on a file system that still has no room.
    pub fn give_up(&mut self) {
        if let Outlet::Full { errno, .. } = self.outlet {
            self.failed(errno);
        }
    }

    fn failed(&mut self, errno: Errno) {
        let bytes = self.backlog.len() + self.to.waiting() as u64;
        self.reader_gone();
        self.outlet = Outlet::Failed(OutputLoss { errno, bytes });
    }

    fn reader_gone(&mut self) {
        self.to = Downstream::Closed;
        self.outlet = Outlet::Open;
        self.backlog.clear();
        if self.when_gone == WhenReaderGone::HangUp {
            self.from = None;
        }
    }

    /// Nothing more will come: the reader gets its end-of-file now, not when we leave.
    fn close_when_empty(&mut self) {
        if self.from.is_none() && self.backlog.is_empty() && self.to.waiting() == 0 {
            self.to = Downstream::Closed;
        }
    }
}

/// Gives `bytes` to our stdout, and says how many it took.
fn write(to: &mut Downstream, outlet: &mut Outlet, bytes: &[u8]) -> Result<usize, Refusal> {
    let waited = to.waiting();
    let taken = to.write(bytes)?;
    // A part of a line that waits for its newline was not written.
    if to.waiting() <= waited {
        *outlet = Outlet::Open;
    }
    Ok(taken)
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

#[cfg(test)]
mod tests;
