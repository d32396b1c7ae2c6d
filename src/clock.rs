//! The wall clock, as the ledger writes it.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

/// Now: RFC 3339, UTC, milliseconds.
pub fn now() -> String {
    text(timestamp())
}

/// A time as the ledger writes it.
pub fn text(time: Timestamp) -> String {
    format!("{time:.3}")
}

/// A Unix time in seconds, as the ledger writes it; `None`: it is beyond the calendar.
pub fn of_unix(seconds: i64) -> Option<String> {
    Timestamp::from_second(seconds).ok().map(text)
}

/// Now, or the end of the calendar: a clock may be set to any year, also beyond 9999.
pub fn timestamp() -> Timestamp {
    let now = SystemTime::now();
    let nearest = if now < UNIX_EPOCH { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::try_from(now).unwrap_or(nearest)
}
