//! bookend's messages to journald, with fields that can be asked for: systemd.journal-fields(7),
//! <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>.
//!
//! Of what a message carries, the fields whose names are in capitals become fields of the journal. Nothing
//! here waits: what journald does not take at once is dropped. That, and that every field is chosen here, is
//! why it is not tracing-journald.

use std::fmt;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::sync::OnceLock;

use nix::sys::stat::fstat;
use tracing::field::{Field, Visit};
use tracing::{Event, Level};

use super::Escaped;
use crate::sys;
use crate::task::TaskId;

const SOCKET: &str = "/run/systemd/journal/socket";
/// The longest value of a field, in bytes: a datagram has room for a dozen of them.
const LONGEST: usize = 16 * 1024;

/// The kinds of messages that can be asked for: `journalctl MESSAGE_ID=…`. They never change; the catalog
/// in `contrib/systemd/catalog` explains each.
pub mod id {
    use crate::task::Status;

    pub const STARTED: &str = "1f1c8c6eb3504a31843ddd27f093cdf8";
    pub const ENDED: &str = "20f2b8ad4b8a4c6b8e5921fde2777540";
    pub const INTERRUPTED: &str = "a3dc6471ea4c48e98f7cd5727872de78";
    pub const SESSION_INVALIDATED: &str = "323327e934c34dc78ae70bda9f6b5041";
    pub const SPOOLED: &str = "a84681b9b5dc479f8a8b67db29bae178";
    pub const UNRECORDED: &str = "6b0f5c1d9a4e4c7f8d21e3b7a95c4f10";

    /// Of the message that a task now has this status.
    pub fn of(status: Status) -> &'static str {
        match status {
            Status::Running => STARTED,
            Status::Interrupted => INTERRUPTED,
            Status::Success | Status::Failure | Status::Cancelled | Status::AbortedNoSkill => ENDED,
        }
    }
}

/// Whether stderr is the journal: systemd.exec(5), `JOURNAL_STREAM`.
pub fn is_stderr() -> bool {
    let Some(stream) = std::env::var_os("JOURNAL_STREAM") else { return false };
    fstat(sys::stdio(2)).is_ok_and(|s| stream.as_bytes() == format!("{}:{}", s.st_dev, s.st_ino).as_bytes())
}

/// Sends every message to journald.
pub struct Journal {
    socket: UnixDatagram,
}

impl Journal {
    /// `None`: there is no journald.
    pub fn open() -> Option<Journal> {
        let socket = UnixDatagram::unbound().ok()?;
        socket.set_nonblocking(true).ok()?;
        // Asked by connecting, since only that tells a socket nobody listens on; each message goes to the
        // path anew, so that it also reaches the next journald.
        UnixDatagram::unbound().ok()?.connect(SOCKET).ok()?;
        Some(Journal { socket })
    }
}

/// What every message is about, once that is known.
static ABOUT: OnceLock<Fields> = OnceLock::new();

/// Every message from now on is about this task.
pub fn about(task: &TaskId, key: Option<&str>) {
    let mut fields = Fields::default();
    fields.put("TASK_ID", task.as_str());
    if let Some(key) = key {
        fields.put("KEY", key);
    }
    // There is one run in a process, and one task of a run.
    let _ = ABOUT.set(fields);
}

impl Journal {
    /// Sends the record of an end that no file took. Whether journald took it.
    pub fn record(&self, json: &str) -> bool {
        let mut fields = Fields::of(&Level::ERROR);
        fields.put("MESSAGE_ID", id::UNRECORDED);
        fields.put("MESSAGE", json);
        self.socket.send_to(&fields.0, SOCKET).is_ok()
    }

    pub fn send(&self, event: &Event<'_>) {
        let mut fields = Fields::of(event.metadata().level());
        event.record(&mut fields);
        match self.socket.send_to(&fields.0, SOCKET) {
            Ok(_) => {}
            // It is behind, and waiting for it would hold up the agent's end.
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(_) => super::say(&super::line(event)),
        }
    }
}

fn priority(level: &Level) -> &'static str {
    match *level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        Level::DEBUG | Level::TRACE => "7",
    }
}

/// Fields as the protocol wants them.
#[derive(Default)]
struct Fields(Vec<u8>);

impl Fields {
    /// Those of every message.
    fn of(level: &Level) -> Fields {
        let mut fields = Fields::default();
        fields.put("SYSLOG_IDENTIFIER", "bookend");
        fields.put("PRIORITY", priority(level));
        if let Some(about) = ABOUT.get() {
            fields.0.extend_from_slice(&about.0);
        }
        fields
    }

    fn put(&mut self, name: &str, value: &str) {
        let mut end = value.len().min(LONGEST);
        while !value.is_char_boundary(end) {
            end -= 1;
        }
        let value = &value.as_bytes()[..end];
        self.0.extend_from_slice(name.as_bytes());
        if value.contains(&b'\n') {
            self.0.push(b'\n');
            self.0.extend_from_slice(&(value.len() as u64).to_le_bytes());
        } else {
            self.0.push(b'=');
        }
        self.0.extend_from_slice(value);
        self.0.push(b'\n');
    }

    fn take(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.put("MESSAGE", &Escaped(value).to_string()),
            name if is_for_the_journal(name) => self.put(name, value),
            _ => {}
        }
    }
}

/// What journald accepts, without the names that it keeps for itself.
fn is_for_the_journal(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_uppercase())
        && name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.take(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.take(field, &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_with_line_breaks_goes_with_its_length() {
        let mut fields = Fields::default();
        fields.put("A", "one");
        fields.put("B", "two\nlines");
        assert_eq!(fields.0, b"A=one\nB\n\x09\0\0\0\0\0\0\0two\nlines\n");
    }

    #[test]
    fn a_long_value_is_cut_between_characters() {
        let mut fields = Fields::default();
        fields.put("A", &"ü".repeat(LONGEST));
        let value = std::str::from_utf8(&fields.0).expect("UTF-8").trim_end();
        assert_eq!(value.len(), "A=".len() + LONGEST);
    }

    #[test]
    fn only_capitals_are_for_the_journal() {
        assert!(is_for_the_journal("TASK_ID") && is_for_the_journal("N2"));
        assert!(
            !is_for_the_journal("_PID") && !is_for_the_journal("task_id") && !is_for_the_journal("log.line")
        );
    }
}
