//! bookend's messages to journald, with fields that journalctl can filter by: systemd.journal-fields(7).
//!
//! tracing-journald writes the messages. Its socket blocks, so it is made non-blocking: a message that
//! journald does not take at once is dropped and counted. Of an event's fields, only those with names in
//! capitals become fields of the journal.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;
use std::{io, mem, thread};

use nix::errno::Errno;
use nix::sys::stat::fstat;
use tracing::field::{Field, Value, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, EnteredSpan, Id};
use tracing::{Event, Metadata, Span, Subscriber};
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

use super::escape::Escaped;
use super::{silence, stderr};
use crate::sys;
use crate::task::{Key, TaskId};

/// The longest value of a field, in bytes: a dozen of them fit into a datagram.
const LONGEST: usize = 16 * 1024;
/// How long opening the journal may take while the queue of journald is full.
const PATIENCE: Duration = Duration::from_millis(100);

/// The kinds of messages, for `journalctl MESSAGE_ID=…`. They never change; the catalog in
/// `contrib/systemd/catalog` explains each.
pub mod id {
    use crate::task::Status;

    pub const STARTED: &str = "1f1c8c6eb3504a31843ddd27f093cdf8";
    pub const ENDED: &str = "20f2b8ad4b8a4c6b8e5921fde2777540";
    pub const INTERRUPTED: &str = "a3dc6471ea4c48e98f7cd5727872de78";
    pub const SESSION_INVALIDATED: &str = "323327e934c34dc78ae70bda9f6b5041";
    pub const SPOOLED: &str = "a84681b9b5dc479f8a8b67db29bae178";
    pub const UNRECORDED: &str = "6b0f5c1d9a4e4c7f8d21e3b7a95c4f10";

    /// The kind of message that says a task now has this status.
    pub fn of(status: Status) -> &'static str {
        match status {
            Status::Running => STARTED,
            Status::Interrupted => INTERRUPTED,
            Status::Success | Status::Failure | Status::Cancelled | Status::AbortedNoSkill => ENDED,
        }
    }
}

/// Messages that journald did not take: its queue was full.
static LOST: AtomicUsize = AtomicUsize::new(0);

/// The number of messages that journald did not take because it does not read its socket.
pub(super) fn lost() -> usize {
    LOST.load(Ordering::Relaxed)
}

/// Whether stderr is the journal: systemd.exec(5), `JOURNAL_STREAM`.
pub(super) fn is_stderr() -> bool {
    let Some(stream) = std::env::var_os("JOURNAL_STREAM") else { return false };
    fstat(sys::stdio(2)).is_ok_and(|s| stream.as_bytes() == format!("{}:{}", s.st_dev, s.st_ino).as_bytes())
}

/// Every message from now on has the task's fields.
pub fn about(task: &TaskId, key: Option<&Key>, ledger: &Path) {
    // A process has one run, and messages after its end are about it too: the span is never left.
    mem::forget(enter(task, key, ledger));
}

/// Runs `say`, whose messages are about another task: they do not get the fields of this process's own.
pub fn about_another<T>(say: impl FnOnce() -> T) -> T {
    let own = Span::current();
    own.with_subscriber(|(id, log)| log.exit(id));
    let said = say();
    own.with_subscriber(|(id, log)| log.enter(id));
    said
}

/// A span is written to the journal only, and whatever the level of messages is.
fn enter(task: &TaskId, key: Option<&Key>, ledger: &Path) -> EnteredSpan {
    let key = key.map(|key| cut(key.as_str()));
    tracing::error_span!(
        "task",
        TASK_ID = cut(task.as_str()),
        KEY = key,
        LEDGER = cut(&ledger.to_string_lossy())
    )
    .entered()
}

/// Sends the record of an end that no file took, whether or not messages go to the journal. Returns whether
/// journald took it.
pub(super) fn record(task: &TaskId, key: Option<&Key>, ledger: &Path, json: &str) -> bool {
    let Some(journal) = Journal::open() else { return false };
    let before = lost();
    tracing::subscriber::with_default(tracing_subscriber::registry().with(journal), || {
        let _task = enter(task, key, ledger);
        tracing::error!(MESSAGE_ID = id::UNRECORDED, MESSAGE = json);
    });
    lost() == before
}

/// A layer that sends every message to journald.
pub(super) struct Journal {
    /// `None`: journald does not read its socket, and every message is lost.
    layer: Option<tracing_journald::Layer>,
    filter: Targets,
    /// The log of this process: a message that journald refuses goes to stderr.
    is_log: bool,
}

impl Journal {
    /// `None`: journald does not run.
    pub(super) fn open() -> Option<Journal> {
        let layer = match connect() {
            Ok(layer) => Some(layer),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => None,
            Err(_) => return None,
        };
        Some(Journal { layer, filter: Targets::new().with_default(LevelFilter::TRACE), is_log: false })
    }

    pub(super) fn into_log(self, filter: Targets) -> Journal {
        Journal { filter, is_log: true, ..self }
    }
}

/// Opens the layer and makes its socket non-blocking.
///
/// # Errors
/// [`io::ErrorKind::WouldBlock`]: journald does not read its socket.
fn connect() -> io::Result<tracing_journald::Layer> {
    // The layer does not tell its descriptor. A new descriptor is the lowest free one (open(2)).
    let number = sys::socket::lowest_free_descriptor()?;
    let (sender, layer) = mpsc::channel();
    // `layer()` sends an empty message, which waits while the queue of journald is full. If it does, the
    // thread waits in this process's place; nothing joins it.
    let opener = thread::Builder::new().spawn(move || drop(sender.send(tracing_journald::layer())))?;
    let layer = match layer.recv_timeout(PATIENCE) {
        Ok(layer) => layer?,
        Err(RecvTimeoutError::Timeout) => return Err(io::ErrorKind::WouldBlock.into()),
        Err(RecvTimeoutError::Disconnected) => return Err(io::ErrorKind::Other.into()),
    };
    let _ = opener.join();
    sys::socket::set_nonblocking(number)?;
    Ok(layer.with_field_prefix(None).with_syslog_identifier("bookend".to_owned()).with_priority_mappings(
        PriorityMappings {
            error: Priority::Error,
            warn: Priority::Warning,
            info: Priority::Informational,
            debug: Priority::Debug,
            trace: Priority::Debug,
        },
    ))
}

impl<S: Subscriber + for<'span> LookupSpan<'span>> Layer<S> for Journal {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        metadata.is_span() || self.filter.would_enable(metadata.target(), metadata.level())
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(layer) = &self.layer {
            layer.on_new_span(attributes, id, context);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        silence::assert_none();
        let sent = self.layer.as_ref().map_or(Err(Errno::EAGAIN), |layer| send(layer, event, context));
        match sent {
            Ok(()) => {}
            Err(e) if e != Errno::EAGAIN && self.is_log => stderr::say(&stderr::line(event)),
            Err(_) => drop(LOST.fetch_add(1, Ordering::Relaxed)),
        }
    }
}

/// Sends what of `event` is for the journal.
fn send<S>(layer: &tracing_journald::Layer, event: &Event<'_>, context: Context<'_, S>) -> nix::Result<()>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    let fields = event.metadata().fields();
    let mut texts = FieldTexts(vec![None; fields.len()]);
    event.record(&mut texts);
    let values: Vec<_> = texts.0.iter().map(|text| text.as_ref().map(|t| t as &dyn Value)).collect();
    // The layer drops the error of its last system call; errno(3) still has it.
    Errno::clear();
    layer.on_event(&Event::new(event.metadata(), &fields.value_set_all(&values)), context);
    match Errno::last_raw() {
        0 => Ok(()),
        // A message that is too long for a datagram has been sent as a memory file.
        e if e == Errno::EMSGSIZE as i32 => Ok(()),
        e => Err(Errno::from_raw(e)),
    }
}

/// The fields of an event as the journal gets them, in the order of their declaration.
struct FieldTexts(Vec<Option<String>>);

impl FieldTexts {
    fn put(&mut self, field: &Field, text: &str) {
        self.0[field.index()] = match field.name() {
            "message" => Some(cut(&Escaped(text).to_string()).to_owned()),
            // The message is the first field of an event, so it is already here.
            "hint" => {
                let hint = format!("\nhint: {}", cut(&Escaped(text).to_string()));
                self.0.iter_mut().flatten().take(1).for_each(|message| *message += &hint);
                None
            }
            // The record of an end: it is ASCII, and useless if it is cut.
            "MESSAGE" => Some(text.to_owned()),
            name if is_for_the_journal(name) => Some(cut(text).to_owned()),
            _ => None,
        };
    }
}

impl Visit for FieldTexts {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, &format!("{value:?}"));
    }
}

/// Names that journald accepts and does not reserve for itself.
fn is_for_the_journal(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_uppercase())
        && name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
}

/// At most [`LONGEST`] bytes of `text`.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(LONGEST);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_a_long_value_between_characters() {
        assert_eq!(cut("short"), "short");
        assert_eq!(cut(&format!("x{}", "ü".repeat(LONGEST))).len(), LONGEST - 1);
    }

    #[test]
    fn only_names_in_capitals_are_for_the_journal() {
        assert!(is_for_the_journal("TASK_ID") && is_for_the_journal("N2"));
        assert!(
            !is_for_the_journal("_PID") && !is_for_the_journal("task_id") && !is_for_the_journal("log.line")
        );
    }
}
