//! How an adopted file stores times, session ids and statuses. All are read in bookend's own format.
//!
//! Values for columns that the other program had before are written with [`Dialect::time`], or with the SQL
//! functions `kept_time(column, time)` and `kept_session(provider, id)`. In a ledger of bookend's own, none
//! of them changes anything. SQLite copies the pages that a statement with a function changes first.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::task::{Provider, RecordedTime, SessionId, Time};
use jiff::civil::DateTime;
use jiff::tz::Offset;
use rusqlite::Connection;
use rusqlite::functions::FunctionFlags;
use rusqlite::types::{FromSql, FromSqlResult, Value, ValueRef};
use serde::{Deserialize, Serialize};

/// The value of the setting `adopted`, as JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dialect {
    /// When it was adopted.
    pub at: RecordedTime,
    /// By `table.column`: the format of times in the columns that use another one than bookend.
    pub times: BTreeMap<String, TimeFormat>,
    /// The prefixes of session ids, which name the provider: `cursor` in `cursor:6ce4…`.
    pub prefixes: Vec<String>,
}

/// A format of times.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeFormat {
    /// Since 1970-01-01, UTC.
    Epoch { per_second: i64, fraction: bool },
    /// A date and a time of day, UTC.
    Text { separator: char, digits: u8, zone: String },
}

impl Dialect {
    /// Whether another program writes to the ledger too.
    pub fn is_adopted(&self) -> bool {
        *self != Dialect::default()
    }
}

/// The words that are recognized as a prefix.
const PREFIXES: [&str; 6] = ["claude", "anthropic", "cursor", "codex", "gemini", "opencode"];

impl TimeFormat {
    /// The format of a value. `None`: it is not a time.
    pub fn of(value: &Value) -> Option<TimeFormat> {
        match value {
            Value::Null | Value::Blob(_) => None,
            Value::Integer(n) => {
                Some(TimeFormat::Epoch { per_second: per_second(*n as f64), fraction: false })
            }
            Value::Real(n) => Some(TimeFormat::Epoch { per_second: per_second(*n), fraction: true }),
            Value::Text(text) => match text.trim().parse::<f64>() {
                Ok(n) => Some(TimeFormat::Epoch { per_second: per_second(n), fraction: text.contains('.') }),
                Err(_) => TimeFormat::of_text(text.trim()),
            },
        }
    }

    fn of_text(text: &str) -> Option<TimeFormat> {
        parse(text)?;
        let separator = text.chars().nth(10)?;
        let tail = text.get(19..).unwrap_or_default();
        let digits = tail.strip_prefix('.').map_or(0, |t| t.bytes().take_while(u8::is_ascii_digit).count());
        let zone = tail.get(if digits == 0 { 0 } else { digits + 1 }..)?;
        // Only UTC is written: the offset of another zone changes with the seasons.
        let zone = if zone.starts_with(['+', '-']) { "+00:00" } else { zone };
        Some(TimeFormat::Text { separator, digits: digits.min(9) as u8, zone: zone.to_owned() })
    }

    /// The format of an empty column, by its declared type.
    pub fn of_declared(declared: &str) -> TimeFormat {
        let declared = declared.to_ascii_uppercase();
        let is = |word: &str| declared.contains(word);
        if is("INT") {
            TimeFormat::Epoch { per_second: 1, fraction: false }
        } else if is("REAL") || is("FLOA") || is("DOUB") {
            TimeFormat::Epoch { per_second: 1, fraction: true }
        } else {
            TimeFormat::ours()
        }
    }

    /// As [`Time`] is written.
    pub fn ours() -> TimeFormat {
        TimeFormat::Text { separator: 'T', digits: 3, zone: "Z".to_owned() }
    }

    /// Writes a time of bookend in this format.
    fn write(&self, time: Time) -> Value {
        let time = time.timestamp();
        match self {
            TimeFormat::Epoch { per_second, fraction } => {
                let units = time.as_nanosecond() * i128::from(*per_second);
                match fraction {
                    true => Value::Real((units / 1000) as f64 / 1e6),
                    false => Value::Integer(units.div_euclid(1_000_000_000) as i64),
                }
            }
            TimeFormat::Text { separator, digits, zone } => {
                let digits = usize::from(*digits);
                let text = format!("{time:.*}", digits);
                let text = text.trim_end_matches('Z').replacen('T', &separator.to_string(), 1);
                Value::Text(text + zone)
            }
        }
    }
}

/// Seconds, milli-, micro- or nanoseconds: recognized by their size, which is right from 1973 until 5138.
fn per_second(n: f64) -> i64 {
    match n.abs() {
        n if n < 1e11 => 1,
        n if n < 1e14 => 1_000,
        n if n < 1e17 => 1_000_000,
        _ => 1_000_000_000,
    }
}

fn parse(text: &str) -> Option<Time> {
    text.parse().ok().or_else(|| {
        let local: DateTime = text.parse().ok()?;
        Offset::UTC.to_timestamp(local).ok().map(Time::from)
    })
}

fn of_epoch(n: f64) -> Option<Time> {
    let seconds = n / per_second(n) as f64;
    Time::from_unix_millis((seconds * 1e3).round() as i64)
}

/// Converts a time to bookend's format. Any other text stays as it is.
fn ours(text: &str) -> RecordedTime {
    let is_ours = text.len() == 24 && text.ends_with('Z') && text.as_bytes()[10] == b'T';
    if is_ours {
        return RecordedTime::recorded(text.to_owned());
    }
    let time = text.trim().parse::<f64>().map_or_else(|_| parse(text.trim()), of_epoch);
    time.map_or_else(|| RecordedTime::Text(text.to_owned()), RecordedTime::At)
}

/// Removes the prefix: for the agent, `cursor:6ce4…` is `6ce4…`.
pub fn bare(session_id: &str) -> &str {
    match session_id.split_once(':') {
        Some((word, id)) if PREFIXES.contains(&word) && !id.is_empty() => id,
        _ => session_id,
    }
}

/// The prefix of a session id, if it has one.
pub fn prefix(session_id: &str) -> Option<&str> {
    session_id.strip_suffix(bare(session_id))?.strip_suffix(':')
}

/// The session id as another program may have written it.
pub fn prefixed(provider: Option<&Provider>, session_id: &SessionId) -> Option<SessionId> {
    let provider = provider.filter(|p| PREFIXES.contains(&p.as_str()))?;
    Some(SessionId::recorded(format!("{provider}:{session_id}")))
}

impl Dialect {
    /// A time of bookend in the format of `table.column`.
    pub fn time(&self, column: &str, time: Time) -> Value {
        match self.times.get(column) {
            Some(format) => format.write(time),
            None => Value::Text(time.to_string()),
        }
    }

    /// A text that is no time is kept as it is.
    fn kept_time(&self, column: &str, text: String) -> Value {
        match self.times.get(column).map(|format| (format, text.parse())) {
            Some((format, Ok(time))) => format.write(time),
            Some((_, Err(_))) | None => Value::Text(text),
        }
    }

    fn session(&self, provider: Option<&str>, id: String) -> String {
        let is_used = |word: &&str| self.prefixes.iter().any(|p| p == word);
        let word = match provider {
            Some("anthropic") => ["anthropic", "claude"].into_iter().find(is_used),
            Some(provider) => Some(provider).filter(is_used),
            None => None,
        };
        match word {
            Some(word) => format!("{word}:{id}"),
            None => id,
        }
    }
}

/// Registers the SQL functions of a dialect with a connection.
pub fn register(conn: &Connection, dialect: &Arc<Dialect>) -> rusqlite::Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
    let (of_times, dialect) = (Arc::clone(dialect), Arc::clone(dialect));
    conn.create_scalar_function("kept_time", 2, flags, move |ctx| {
        let column: String = ctx.get(0)?;
        let time: Option<String> = ctx.get(1)?;
        Ok(time.map(|time| of_times.kept_time(&column, time)))
    })?;
    conn.create_scalar_function("recorded_day", 1, flags, |ctx| {
        let time = AnyTime::column_result(ctx.get_raw(0))?.0;
        Ok(time.map(|time| time.to_string().chars().take(10).collect::<String>()))
    })?;
    conn.create_scalar_function("kept_session", 2, flags, move |ctx| {
        let provider: Option<String> = ctx.get(0)?;
        let id: Option<String> = ctx.get(1)?;
        Ok(id.map(|id| dialect.session(provider.as_deref(), id)))
    })
}

/// A time in any format.
#[derive(Debug)]
pub struct AnyTime(pub Option<RecordedTime>);

/// A text, or another value converted to text.
#[derive(Debug)]
pub struct AnyText(pub Option<String>);

/// An integer, stored as any type.
#[derive(Debug)]
pub struct AnyInteger(pub Option<i64>);

/// A number, stored as any type.
#[derive(Debug)]
pub struct AnyReal(pub Option<f64>);

impl FromSql for AnyTime {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Ok(AnyTime(match value {
            ValueRef::Null => None,
            ValueRef::Integer(n) => of_epoch(n as f64).map(RecordedTime::At),
            ValueRef::Real(n) => of_epoch(n).map(RecordedTime::At),
            ValueRef::Text(t) | ValueRef::Blob(t) => Some(ours(&String::from_utf8_lossy(t))),
        }))
    }
}

impl FromSql for AnyText {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Ok(AnyText(match value {
            ValueRef::Null => None,
            ValueRef::Integer(n) => Some(n.to_string()),
            ValueRef::Real(n) => Some(n.to_string()),
            ValueRef::Text(t) | ValueRef::Blob(t) => Some(String::from_utf8_lossy(t).into_owned()),
        }))
    }
}

impl FromSql for AnyInteger {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Ok(AnyInteger(match value {
            ValueRef::Integer(n) => Some(n),
            other => AnyReal::column_result(other)?.0.map(|n| n as i64),
        }))
    }
}

impl FromSql for AnyReal {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Ok(AnyReal(match value {
            ValueRef::Null | ValueRef::Blob(_) => None,
            ValueRef::Integer(n) => Some(n as f64),
            ValueRef::Real(n) => Some(n).filter(|n| n.is_finite()),
            ValueRef::Text(t) => {
                String::from_utf8_lossy(t).trim().parse().ok().filter(|n: &f64| n.is_finite())
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: &str = "2026-11-21T12:00:00.250Z";

    fn text(t: &str) -> Value {
        Value::Text(t.to_owned())
    }

    #[test]
    fn a_time_is_written_in_the_format_of_the_file_and_read_in_ours() {
        let second = "2026-11-21T12:00:00.000Z";
        for (found, written, read) in [
            (Value::Integer(1), Value::Integer(1_795_262_400), second),
            (Value::Real(1.5), Value::Real(1_795_262_400.25), TIME),
            (Value::Integer(1_763_000_000_000), Value::Integer(1_795_262_400_250), TIME),
            (text("1763000000"), Value::Integer(1_795_262_400), second),
            (text("2025-01-02T03:04:05Z"), text("2026-11-21T12:00:00Z"), second),
            (text("2025-01-02 03:04:05"), text("2026-11-21 12:00:00"), second),
            (text("2025-01-02T03:04:05.123456+00:00"), text("2026-11-21T12:00:00.250000+00:00"), TIME),
            (text("2025-01-02T03:04:05.123"), text("2026-11-21T12:00:00.250"), TIME),
            (text("2025-01-02T03:04:05.123Z"), text(TIME), TIME),
        ] {
            let format = TimeFormat::of(&found).unwrap();
            assert_eq!(format.write(TIME.parse().unwrap()), written, "{found:?}");
            let got = AnyTime::column_result(ValueRef::from(&written)).unwrap().0;
            assert_eq!(got.map(|t| t.to_string()).as_deref(), Some(read), "{found:?}");
        }
        assert_eq!(TimeFormat::of(&text("yesterday")), None);
        assert_eq!(ours("yesterday"), RecordedTime::Text("yesterday".to_owned()));
    }

    #[test]
    fn a_prefix_is_removed_for_the_agent_and_restored_for_the_other_program() {
        assert_eq!(bare("cursor:6ce4"), "6ce4");
        assert_eq!(bare("6ce4"), "6ce4");
        assert_eq!(bare("other:6ce4"), "other:6ce4");
        assert_eq!(prefix("cursor:6ce4"), Some("cursor"));
        assert_eq!(prefix("6ce4"), None);
        let dialect = Dialect { prefixes: vec!["cursor".to_owned()], ..Dialect::default() };
        assert_eq!(dialect.session(Some("cursor"), "6ce4".to_owned()), "cursor:6ce4");
        assert_eq!(dialect.session(Some("anthropic"), "6ce4".to_owned()), "6ce4");
    }
}
