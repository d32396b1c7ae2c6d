//! The watch: one `poll` over signals, children, captured output and deadlines, reported as events.
//!
//! It never wakes without a cause: there is no tick, and the only time-out is the next deadline. Every child
//! is reaped here, by pid; bookend is a subreaper and gets children that it never forked.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::failpoint;
use crate::process::procfs::identity::poll_timeout;
use crate::sys::{self, ChildChange, ReceivedSignal, ResourceUsage};
use crate::task::Signal;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchEvent {
    Signal(ReceivedSignal),
    Child {
        pid: i32,
        change: ChildChange,
        usage: ResourceUsage,
    },
    /// A descriptor of this source is readable or writable, or was hung up.
    Ready(WatchSource),
    /// The deadline that `next` was given has passed.
    Deadline,
}

/// What the watch polls besides signals and children.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchSource {
    /// The report pipe of a child whose gate was opened.
    Report,
    /// The agent's captured stdout.
    Output,
    /// The report pipe of a prepare or hook command.
    HelperReport,
    /// The output of a prepare command.
    HelperOutput,
    /// The supervisor of another task, whose exit is waited for.
    Holder,
    /// A leftover process that is to end.
    Leftover,
    /// The watch of the ledger's files.
    LedgerChange,
    /// The supervisor of a task that may be lost.
    Supervisor,
    /// The hub of a monitor that stops: it has ended.
    #[cfg_attr(not(feature = "fleet"), allow(dead_code, reason = "there is no hub"))]
    Hub,
    /// Tasks of the fleet may have changed.
    FleetChange,
    /// Our stdout, while there is something to be written.
    Downstream,
}

/// A descriptor to poll, and its source.
#[derive(Debug, Clone, Copy)]
pub struct WatchInterest<'a> {
    pub source: WatchSource,
    pub fd: BorrowedFd<'a>,
}

#[derive(Debug)]
pub struct Watch {
    signals: OwnedFd,
    queue: VecDeque<WatchEvent>,
    /// A SIGCHLD was read and no child was waited for yet.
    child_changed: bool,
}

impl Watch {
    /// Block every signal before this call: signals that arrived since then are read too.
    ///
    /// # Errors
    /// When the kernel has no room for a descriptor.
    pub fn new() -> io::Result<Watch> {
        Ok(Watch { signals: sys::signalfd_all()?, queue: VecDeque::new(), child_changed: false })
    }

    /// The first pending signal that is `wanted`; it stays queued.
    ///
    /// # Errors
    /// When the signals cannot be read, for want of kernel memory.
    pub fn pending(
        &mut self,
        wanted: impl Fn(&ReceivedSignal) -> bool,
    ) -> io::Result<Option<ReceivedSignal>> {
        self.read_signals()?;
        Ok(self.queue.iter().find_map(|e| match e {
            WatchEvent::Signal(r) if wanted(r) => Some(*r),
            _ => None,
        }))
    }

    /// Puts back signals that its caller took and does not handle, before all others.
    pub fn put_back(&mut self, signals: Vec<ReceivedSignal>) {
        for received in signals.into_iter().rev() {
            self.queue.push_front(WatchEvent::Signal(received));
        }
    }

    /// The next event. A signal comes before the exit that it caused, so that the cause is known when the
    /// exit is judged.
    ///
    /// # Errors
    /// Only when `poll` itself fails, for want of kernel memory.
    pub fn next(
        &mut self,
        interests: &[WatchInterest<'_>],
        deadline: Option<Instant>,
    ) -> io::Result<WatchEvent> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Ok(event);
            }
            if std::mem::take(&mut self.child_changed) {
                while let Some((pid, change, usage)) = sys::wait_any() {
                    self.queue.push_back(WatchEvent::Child { pid, change, usage });
                }
                continue;
            }
            let left = |at: Instant| poll_timeout(at.saturating_duration_since(Instant::now()));
            let timeout = deadline.map_or(PollTimeout::NONE, left);
            let mut fds = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
            fds.extend(interests.iter().map(|i| PollFd::new(i.fd, wanted(i.source))));
            failpoint::hit("watch.poll")?;
            match poll(&mut fds, timeout) {
                // Only without other events: a deadline that has passed must not starve them.
                Ok(0) if deadline.is_some_and(|at| at <= Instant::now()) => return Ok(WatchEvent::Deadline),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
            let ready = |fd: &PollFd<'_>| fd.any().unwrap_or(true);
            let signalled = ready(&fds[0]);
            let mut sources: Vec<WatchSource> =
                interests.iter().zip(&fds[1..]).filter(|(_, fd)| ready(fd)).map(|(i, _)| i.source).collect();
            // Many processes may have ended at once: their caller looks at all of them.
            sources.dedup();
            if signalled {
                self.read_signals()?;
            }
            self.queue.extend(sources.into_iter().map(WatchEvent::Ready));
        }
    }

    fn read_signals(&mut self) -> io::Result<()> {
        while let Some(received) = sys::read_signal(self.signals.as_fd())? {
            if received.signal == Signal::CHLD {
                self.child_changed = true;
            } else {
                self.queue.push_back(WatchEvent::Signal(received));
            }
        }
        Ok(())
    }
}

fn wanted(source: WatchSource) -> PollFlags {
    match source {
        WatchSource::Report
        | WatchSource::Output
        | WatchSource::HelperReport
        | WatchSource::HelperOutput
        | WatchSource::Holder
        | WatchSource::Leftover
        | WatchSource::LedgerChange
        | WatchSource::Hub
        | WatchSource::FleetChange
        | WatchSource::Supervisor => PollFlags::POLLIN,
        WatchSource::Downstream => PollFlags::POLLOUT,
    }
}
