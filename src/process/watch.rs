//! The watch: one `poll` over signals, children, captured output and deadlines, told as events.
//!
//! Nothing wakes it without cause: no tick, no time-out but the next deadline. Every child is reaped
//! here, by pid; bookend is a subreaper and may be given children it never forked.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::failpoint;
use crate::sys::{self, Change, Received, Usage};

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    Signal(Received),
    Child {
        pid: i32,
        change: Change,
        usage: Usage,
    },
    /// The source of this name can be read or written, or was hung up.
    Ready(Source),
    /// The deadline that `next` was given has passed.
    Deadline,
}

/// What the watch looks at besides signals and children.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The report pipe of a child that was let through the gate.
    Report,
    /// The agent's captured stdout.
    Output,
    /// The report pipe of a prepare or hook command.
    HelperReport,
    /// The output of a prepare command.
    HelperOutput,
    /// The supervisor of another task, whose end is waited for.
    Holder,
    /// A process that the agent left behind and that is to end.
    Leftover,
    /// Our stdout, while there is something to be written.
    Downstream,
}

/// A descriptor to look at, by its name.
#[derive(Debug, Clone, Copy)]
pub struct Interest<'a> {
    pub source: Source,
    pub fd: BorrowedFd<'a>,
}

#[derive(Debug)]
pub struct Watch {
    signals: OwnedFd,
    queue: VecDeque<Event>,
    /// A SIGCHLD was read and the children were not asked yet.
    child_changed: bool,
}

impl Watch {
    /// Every signal must be blocked by now: what came before is read like what comes after.
    ///
    /// # Errors
    /// When the kernel has no room for a descriptor.
    pub fn new() -> io::Result<Watch> {
        Ok(Watch { signals: sys::signalfd_all()?, queue: VecDeque::new(), child_changed: false })
    }

    /// The first signal that waits and is `wanted`; it stays in line.
    ///
    /// # Errors
    /// When the signals cannot be read, for want of kernel memory.
    pub fn pending(&mut self, wanted: impl Fn(&Received) -> bool) -> io::Result<Option<Received>> {
        self.read_signals()?;
        Ok(self.queue.iter().find_map(|e| match e {
            Event::Signal(r) if wanted(r) => Some(*r),
            _ => None,
        }))
    }

    /// Puts back signals that were taken out by somebody whom they did not concern, before all others.
    pub fn put_back(&mut self, signals: Vec<Received>) {
        for received in signals.into_iter().rev() {
            self.queue.push_front(Event::Signal(received));
        }
    }

    /// The next event. Signals come before the child's end that they caused, so that the cause is known
    /// when the end is judged.
    ///
    /// # Errors
    /// Only when `poll` itself fails, for want of kernel memory.
    pub fn next(&mut self, interests: &[Interest<'_>], deadline: Option<Instant>) -> io::Result<Event> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Ok(event);
            }
            if std::mem::take(&mut self.child_changed) {
                while let Some((pid, change, usage)) = sys::wait_any() {
                    self.queue.push_back(Event::Child { pid, change, usage });
                }
                continue;
            }
            let timeout = match deadline {
                None => PollTimeout::NONE,
                Some(at) => {
                    // Rounded up, or the last millisecond would be spent spinning.
                    let left = at.saturating_duration_since(Instant::now()).as_nanos();
                    let ms = left.div_ceil(1_000_000).min(i32::MAX as u128);
                    PollTimeout::try_from(ms as i32).unwrap_or(PollTimeout::MAX)
                }
            };
            let mut fds = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
            fds.extend(interests.iter().map(|i| PollFd::new(i.fd, wanted(i.source))));
            failpoint::hit("watch.poll")?;
            match poll(&mut fds, timeout) {
                // A deadline that has passed yields to whatever else there is, or it could starve that.
                Ok(0) if deadline.is_some_and(|at| at <= Instant::now()) => return Ok(Event::Deadline),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
            let ready = |fd: &PollFd<'_>| fd.any().unwrap_or(true);
            let signalled = ready(&fds[0]);
            let sources: Vec<Source> =
                interests.iter().zip(&fds[1..]).filter(|(_, fd)| ready(fd)).map(|(i, _)| i.source).collect();
            if signalled {
                self.read_signals()?;
            }
            self.queue.extend(sources.into_iter().map(Event::Ready));
        }
    }

    fn read_signals(&mut self) -> io::Result<()> {
        while let Some(received) = sys::read_signal(self.signals.as_fd())? {
            if received.signal == libc::SIGCHLD {
                self.child_changed = true;
            } else {
                self.queue.push_back(Event::Signal(received));
            }
        }
        Ok(())
    }
}

fn wanted(source: Source) -> PollFlags {
    match source {
        Source::Report
        | Source::Output
        | Source::HelperReport
        | Source::HelperOutput
        | Source::Holder
        | Source::Leftover => PollFlags::POLLIN,
        Source::Downstream => PollFlags::POLLOUT,
    }
}
