//! bookend's own messages, on stderr or in the journal.
//!
//! stderr gets warnings and errors, and more with `-v`; the journal also gets the start and the end of each
//! task. Control and format characters in a message are escaped.

mod escape;
mod journal;
mod silence;
mod stderr;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;

use crate::error::{Error, chain};
use crate::task::{Key, TaskId};
use escape::Escaped;
pub use escape::is_harmful;
use journal::Journal;
pub use journal::{about, about_another, id};
pub use silence::Silence;
pub use stderr::say;

/// Where messages go (`--log`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum To {
    /// To the journal if stderr is the journal.
    #[default]
    Auto,
    Stderr,
    /// To the journal if journald runs.
    Journald,
}

/// The variable that filters messages: a level, or `target=level` pairs separated by commas.
const FILTER: &str = "BOOKEND_LOG";

static IN_JOURNAL: AtomicBool = AtomicBool::new(false);
/// `--log stderr`: nothing goes to the journal.
static ON_STDERR_ALONE: AtomicBool = AtomicBool::new(false);
/// `-v`: lost messages are reported.
static IS_VERBOSE: AtomicBool = AtomicBool::new(false);

/// Whether `--log` set to `to` sends messages to the journal.
pub fn is_journal(to: To) -> bool {
    match to {
        To::Auto => journal::is_stderr(),
        To::Stderr => false,
        To::Journald => true,
    }
}

/// Sends messages of `level` and above to `to` from now on. `WARN`, the default, becomes `INFO` in the
/// journal. `BOOKEND_LOG` overrides both.
pub fn start(level: LevelFilter, to: To) {
    let journal = if is_journal(to) { Journal::open() } else { None };
    let asked = std::env::var(FILTER).ok().filter(|f| !f.is_empty());
    let filter = asked.as_ref().map(|f| f.parse::<Targets>());
    let wrong = filter.as_ref().and_then(|f| f.as_ref().err().map(ToString::to_string));
    let default = match (&journal, level) {
        (Some(_), LevelFilter::WARN) => LevelFilter::INFO,
        _ => level,
    };
    let filter = filter.and_then(Result::ok).unwrap_or_else(|| Targets::new().with_default(default));
    IN_JOURNAL.store(journal.is_some(), Ordering::Relaxed);
    ON_STDERR_ALONE.store(to == To::Stderr, Ordering::Relaxed);
    IS_VERBOSE.store(level >= LevelFilter::INFO, Ordering::Relaxed);
    // Fails only when a log was started before; that one stays in use.
    let _ = match journal {
        Some(journal) => tracing::subscriber::set_global_default(
            tracing_subscriber::registry().with(journal.into_log(filter)),
        ),
        None => tracing::subscriber::set_global_default(stderr::StderrLog { filter }),
    };
    if let Some(wrong) = wrong {
        tracing::warn!("{FILTER} is not used: {wrong}; it is a level, such as debug, or target=level pairs");
    }
}

/// Says why bookend failed.
pub fn fail(why: &Error) {
    if IN_JOURNAL.load(Ordering::Relaxed) {
        error(why);
    } else {
        say(&format!("bookend: error: {}\n", Escaped(&why.report())));
    }
}

/// Says what the caller should know, whatever the level of messages is.
pub fn note(text: &str) {
    say(&format!("bookend: {}\n", Escaped(text).to_string().replace('\n', "\n  ")));
}

/// Reports an error that the command goes on after.
pub fn error(error: &Error) {
    tracing::error!(hint = error.advice(), "{}", chain(error));
}

/// Says what is not an error, where a command may have started no log.
pub fn warn(text: &str, hint: &str) {
    if tracing::dispatcher::has_been_set() {
        tracing::warn!(hint, "{text}");
    } else {
        say(&format!("bookend: warning: {}\nhint: {}\n", Escaped(text), Escaped(hint)));
    }
}

/// Writes the record of an end that no file took: one line of JSON on stderr and in the journal.
pub fn record(task: &TaskId, key: Option<&Key>, ledger: &Path, json: &str) {
    let is_sent = !ON_STDERR_ALONE.load(Ordering::Relaxed) && journal::record(task, key, ledger, json);
    // Where stderr is the journal, once is enough.
    if !is_sent || !journal::is_stderr() {
        say(&format!("{json}\n"));
    }
}

/// Reports lost messages with `-v`, and gives the process reading stderr up to a second to take what is
/// buffered. Call it before exiting.
pub fn flush() {
    if IS_VERBOSE.load(Ordering::Relaxed) {
        let lost = match journal::lost() {
            0 => None,
            1 => Some("1 message".to_owned()),
            n => Some(format!("{n} messages")),
        };
        if let Some(lost) = lost {
            say(&format!("bookend: warning: {lost} lost: journald does not read its socket\n"));
        }
    }
    stderr::flush();
}
