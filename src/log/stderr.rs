//! Writes messages to stderr without ever waiting for the process that reads it.
//!
//! The descriptor is shared with the agent, so `O_NONBLOCK` must not be set on it. A pipe or a terminal is
//! opened again with a file description of its own (proc_pid_fd(5)), a socket gets `MSG_DONTWAIT`, and any
//! other file is polled before it is written to.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};
use nix::sys::stat::{Mode, SFlag, fstat};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::Targets;

use super::escape::Escaped;
use super::silence;
use crate::sys;

/// Bytes that are buffered; messages beyond it are dropped and counted.
const LIMIT: usize = 64 * 1024;
/// The time that [`flush`] waits.
const PATIENCE: Duration = Duration::from_secs(1);

/// Writes one message as it is, in one go. While stderr is full, the message is buffered until the next one
/// or [`flush`]: a process that has stopped reading delays neither row nor signal. A closed stderr is no
/// error.
pub fn say(text: &str) {
    BACKLOG.lock().unwrap_or_else(PoisonError::into_inner).say(text);
}

/// Gives the process reading stderr up to a second to take what is buffered.
pub(super) fn flush() {
    BACKLOG.lock().unwrap_or_else(PoisonError::into_inner).flush();
}

/// Writes the messages that the filter lets through to stderr.
pub(super) struct StderrLog {
    pub(super) filter: Targets,
}

impl Subscriber for StderrLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // The fields of a span go to the journal only.
        metadata.is_event() && self.filter.would_enable(metadata.target(), metadata.level())
    }

    fn event(&self, event: &Event<'_>) {
        silence::assert_none();
        say(&line(event));
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// One message as a line of text, and its hint on the next one. Further lines of either are indented: no data
/// begins a line, which would look like a message of ours or name a priority to journald.
pub(super) fn line(event: &Event<'_>) -> String {
    let mut message = MessageText::default();
    event.record(&mut message);
    let severity = match *event.metadata().level() {
        Level::ERROR => "error: ",
        Level::WARN => "warning: ",
        _ => "",
    };
    format!("bookend: {severity}{}\n{}", message.text, message.hint)
}

#[derive(Default)]
struct MessageText {
    text: String,
    hint: String,
}

impl Visit for MessageText {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let shown = || Escaped(&format!("{value:?}")).to_string().replace('\n', "\n  ");
        match field.name() {
            "message" => self.text = shown(),
            "hint" => self.hint = format!("hint: {}\n", shown()),
            _ => {}
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }
}

static BACKLOG: Mutex<WaitingMessages> = Mutex::new(WaitingMessages { bytes: Vec::new(), lost: 0, to: None });

/// What stderr has not taken yet.
struct WaitingMessages {
    bytes: Vec<u8>,
    /// The number of messages that were dropped.
    lost: usize,
    /// How stderr is written to; known from the first write on.
    to: Option<Stderr>,
}

enum Stderr {
    /// Opened again, with `O_NONBLOCK`.
    Own(OwnedFd),
    Socket,
    /// Polled before each write.
    Polled,
}

impl WaitingMessages {
    fn say(&mut self, text: &str) {
        if !self.bytes.is_empty() && self.bytes.len() + text.len() > LIMIT {
            self.lost += 1;
        } else {
            self.bytes.extend_from_slice(text.as_bytes());
        }
        self.write(Instant::now());
    }

    fn flush(&mut self) {
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

    /// Writes what stderr takes before `until`.
    fn write(&mut self, until: Instant) {
        let to = self.to.get_or_insert_with(Stderr::open);
        while !self.bytes.is_empty() {
            match to.write(&self.bytes) {
                Ok(n) => drop(self.bytes.drain(..n)),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) if to.takes_something(until) => {}
                Err(Errno::EAGAIN) => return,
                // Nothing reads stderr any more.
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
            // A regular file opened again would be written from its beginning.
            SFlag::S_IFIFO | SFlag::S_IFCHR => own().map_or(Stderr::Polled, Stderr::Own),
            _ => Stderr::Polled,
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Stderr::Own(fd) => fd.as_fd(),
            Stderr::Socket | Stderr::Polled => sys::stdio(2),
        }
    }

    fn write(&self, bytes: &[u8]) -> nix::Result<usize> {
        match self {
            Stderr::Own(fd) => nix::unistd::write(fd, bytes),
            Stderr::Socket => {
                let how = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                send(self.fd().as_raw_fd(), bytes, how)
            }
            // A pipe that is writable takes PIPE_BUF bytes (pipe(7)).
            Stderr::Polled if self.takes_something(Instant::now()) => {
                nix::unistd::write(self.fd(), &bytes[..bytes.len().min(libc::PIPE_BUF)])
            }
            Stderr::Polled => Err(Errno::EAGAIN),
        }
    }

    fn takes_something(&self, until: Instant) -> bool {
        let left = until.saturating_duration_since(Instant::now()).as_millis().min(i32::MAX as u128);
        let left = PollTimeout::try_from(left as i32).unwrap_or(PollTimeout::ZERO);
        let mut fds = [PollFd::new(self.fd(), PollFlags::POLLOUT)];
        poll(&mut fds, left).is_ok_and(|n| n > 0)
    }
}
