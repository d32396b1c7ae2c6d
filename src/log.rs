//! bookend's own messages, on stderr. It is the one descriptor of the agent's that bookend goes on
//! holding: what is said after the agent's end must still find its reader.
//!
//! Nothing is said unless something is wrong or `-v` asks for it. Control characters in what came from
//! data are escaped.

use std::fmt::{self, Write as _};
use std::io::{self, Write};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

use crate::sys;

/// Sends messages of `level` and above to stderr from now on.
pub fn start(level: LevelFilter) {
    let subscriber =
        tracing_subscriber::fmt().with_max_level(level).with_writer(ToStderr).event_format(Line).finish();
    // Only a second start in one process could fail here, and the first would go on.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// Writes one message as it is, in one go. A stderr that nobody reads is no error.
pub fn say(text: &str) {
    let mut bytes = text.as_bytes();
    while !bytes.is_empty() {
        match nix::unistd::write(sys::stdio(2), bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return,
        }
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
