//! bookend's own messages, on stderr, without holding the agent's stderr open.
//!
//! Nothing is said unless something is wrong or `-v` asks for it. Control characters in what came from
//! data are escaped.

use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::sync::Mutex;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

use crate::sys;

/// Where messages go.
enum Stderr {
    /// Descriptor 2 itself.
    Inherited,
    /// A pipe, by a handle that does not keep it open; opened for each message.
    Named(OwnedFd),
    /// A copy: a socket, or a pipe that we may not open again.
    Copied(OwnedFd),
}

static STDERR: Mutex<Stderr> = Mutex::new(Stderr::Inherited);

/// Sends messages of `level` and above to stderr from now on.
pub fn start(level: LevelFilter) {
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(ToStderr)
        .event_format(Line)
        .finish();
    // Only a second start in one process could fail here, and the first would go on.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// Lets go of the agent's stderr if it is a pipe or a socket whose reader waits for its end: descriptor
/// 2 may be replaced after this, messages still arrive.
pub fn release_stderr() -> io::Result<()> {
    let own = File::from(sys::stdio(2).try_clone_to_owned()?);
    let kept = if own.metadata()?.file_type().is_fifo() { named(&own) } else { None };
    *STDERR.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = match kept {
        Some(handle) => Stderr::Named(handle),
        None => Stderr::Copied(own.into()),
    };
    Ok(())
}

/// A handle on the pipe that counts neither as reader nor as writer (`O_PATH` of open(2)), if it can be
/// opened for writing through it later.
fn named(pipe: &File) -> Option<OwnedFd> {
    let handle = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(format!("/proc/self/fd/{}", pipe.as_raw_fd()))
        .ok()?;
    let handle = OwnedFd::from(handle);
    reopen(&handle).ok()?;
    Some(handle)
}

fn reopen(handle: &OwnedFd) -> io::Result<File> {
    // Non-blocking only for the opening: a pipe without a reader would make it wait.
    let file = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(format!("/proc/self/fd/{}", handle.as_raw_fd()))?;
    nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::empty()))?;
    Ok(file)
}

/// A descriptor of the caller's stderr, for a hook's own output.
pub fn stderr_for_hook() -> io::Result<OwnedFd> {
    match &*STDERR.lock().unwrap_or_else(std::sync::PoisonError::into_inner) {
        Stderr::Inherited => sys::stdio(2).try_clone_to_owned(),
        Stderr::Named(handle) => Ok(reopen(handle)?.into()),
        Stderr::Copied(fd) => fd.as_fd().try_clone_to_owned(),
    }
}

/// Writes one message as it is, in one go. A stderr that nobody reads is no error.
pub fn say(text: &str) {
    if let Ok(fd) = stderr_for_hook() {
        let _ = File::from(fd).write_all(text.as_bytes());
    }
}

struct ToStderr;

impl<'a> MakeWriter<'a> for ToStderr {
    type Writer = Self;
    fn make_writer(&'a self) -> Self {
        ToStderr
    }
}

impl Write for ToStderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        say(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `bookend: warning: what happened`.
struct Line;

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut message = Message(String::new());
        event.record(&mut message);
        let severity = match *event.metadata().level() {
            tracing::Level::ERROR => "error: ",
            tracing::Level::WARN => "warning: ",
            _ => "",
        };
        writeln!(writer, "bookend: {severity}{}", message.0)
    }
}

struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            let _ = write!(self.0, "{}", Escaped(&format!("{value:?}")));
        }
    }
}

/// Text of unknown origin, its control characters made visible, line breaks kept.
pub struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            if c.is_control() && c != '\n' {
                write!(f, "{}", c.escape_default())?;
            } else {
                f.write_char(c)?;
            }
        }
        Ok(())
    }
}
