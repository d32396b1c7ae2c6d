//! bookend's own messages: to the journal where stderr is the journal, else on stderr. That is the one
//! descriptor of the agent's that bookend goes on holding: what is said after the agent's end must still
//! find its reader.
//!
//! On stderr nothing is said unless something is wrong or `-v` asks for it; the journal also gets what
//! starts and ends. What is harmful in what came from data is escaped.

mod journal;
mod stderr;

use std::fmt::{self, Write as _};
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::filter::Targets;

use crate::task::TaskId;
use journal::Journal;
pub use journal::id;

/// Where messages go (`--log`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum To {
    /// To the journal if stderr is the journal.
    #[default]
    Auto,
    Stderr,
    /// To the journal if there is one.
    Journald,
}

/// The variable that filters what is said: a level, or `target=level` pairs, with commas between.
const FILTER: &str = "BOOKEND_LOG";

static IN_JOURNAL: AtomicBool = AtomicBool::new(false);
/// `--log stderr`: nothing goes to the journal.
static ON_STDERR_ALONE: AtomicBool = AtomicBool::new(false);

/// Whether what goes to `to` goes to the journal.
pub fn is_journal(to: To) -> bool {
    match to {
        To::Auto => journal::is_stderr(),
        To::Stderr => false,
        To::Journald => true,
    }
}

/// Sends messages of `level` and above to `to` from now on. `WARN`, which is said when nothing else was
/// asked for, is `INFO` in the journal. `BOOKEND_LOG` overrides both.
pub fn start(level: LevelFilter, to: To) {
    let journal = if is_journal(to) { Journal::open() } else { None };
    let level = match (&journal, level) {
        (Some(_), LevelFilter::WARN) => LevelFilter::INFO,
        _ => level,
    };
    let asked = std::env::var(FILTER).ok().filter(|f| !f.is_empty());
    let filter = asked.as_ref().map(|f| f.parse::<Targets>());
    let wrong = filter.as_ref().and_then(|f| f.as_ref().err().map(ToString::to_string));
    let filter = filter.and_then(Result::ok).unwrap_or_else(|| Targets::new().with_default(level));
    IN_JOURNAL.store(journal.is_some(), Ordering::Relaxed);
    ON_STDERR_ALONE.store(to == To::Stderr, Ordering::Relaxed);
    // Only a second start in one process could fail here, and the first would go on.
    let _ = tracing::subscriber::set_global_default(Log { filter, journal });
    if let Some(wrong) = wrong {
        tracing::warn!("{FILTER} is not used: {wrong}; it is a level, such as debug, or target=level pairs");
    }
}

/// Gives every message to the journal the task's fields from now on. On stderr nobody would see them.
pub fn about(task: &TaskId, key: Option<&str>) {
    journal::about(task, key);
}

/// Says why bookend failed.
pub fn fail(why: &str) {
    if IN_JOURNAL.load(Ordering::Relaxed) {
        tracing::error!("{why}");
    } else {
        say(&format!("bookend: {}\n", Escaped(why)));
    }
}

/// Says what the caller should know, whatever the level of messages is.
pub fn note(text: &str) {
    say(&format!("bookend: {}\n", Escaped(text).to_string().replace('\n', "\n  ")));
}

/// Says what is not an error, where a command may have started no log.
pub fn warn(text: &str) {
    if tracing::dispatcher::has_been_set() {
        tracing::warn!("{text}");
    } else {
        say(&format!("bookend: warning: {}\n", Escaped(text)));
    }
}

/// Writes the record of an end that no file took: one line of JSON on stderr and in the journal.
pub fn record(json: &str) {
    let journal = || Journal::open().is_some_and(|j| j.record(json));
    let is_sent = !ON_STDERR_ALONE.load(Ordering::Relaxed) && journal();
    // Where stderr is the journal, once is enough.
    if !is_sent || !journal::is_stderr() {
        say(&format!("{json}\n"));
    }
}

/// Writes one message as it is, in one go. Where stderr is full, the message waits for the next one, or for
/// [`flush`]: a reader that has stopped must keep neither row nor signal waiting. A stderr that nobody reads
/// is no error.
pub fn say(text: &str) {
    stderr::BACKLOG.lock().unwrap_or_else(PoisonError::into_inner).say(text);
}

/// Gives a reader of stderr the time to take what waits, a second at most. Call it before exiting.
pub fn flush() {
    stderr::BACKLOG.lock().unwrap_or_else(PoisonError::into_inner).flush();
}

/// Takes every message, and says those that the filter lets through.
struct Log {
    filter: Targets,
    /// `None`: stderr.
    journal: Option<Journal>,
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.filter.would_enable(metadata.target(), metadata.level())
    }

    fn event(&self, event: &Event<'_>) {
        match &self.journal {
            Some(journal) => journal.send(event),
            None => say(&line(event)),
        }
    }

    // What a message is about is known to the journal alone, by `about`.
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// One message as a line of text.
fn line(event: &Event<'_>) -> String {
    let mut message = Message(String::new());
    event.record(&mut message);
    let severity = match *event.metadata().level() {
        tracing::Level::ERROR => "error: ",
        tracing::Level::WARN => "warning: ",
        _ => "",
    };
    // No data can begin a line of its own, which would look like one of ours, or name a priority to
    // journald.
    format!("bookend: {severity}{}\n", message.0.replace('\n', "\n  "))
}

struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            let _ = write!(self.0, "{}", Escaped(&format!("{value:?}")));
        }
    }
}

/// What could move the cursor, color the terminal, change the reading direction (Unicode TR 9) or stay
/// unseen: control and format characters, line separators, and code points that are ignorable by default. A
/// test compares the ranges with Unicode's data.
pub fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{34f}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}')
        || matches!(c, '\u{890}'..='\u{891}' | '\u{8e2}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}')
        || matches!(c, '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}')
        || matches!(c, '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{110bd}' | '\u{110cd}')
        || matches!(c, '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}')
        || matches!(c, '\u{e0000}'..='\u{e0fff}')
}

/// Text of unknown origin, what is harmful in it made visible, line breaks kept.
pub struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            if is_harmful(c) && c != '\n' {
                write!(f, "{}", c.escape_default())?;
            } else {
                f.write_char(c)?;
            }
        }
        Ok(())
    }
}
