//! Times of the wall clock.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A time as bookend writes it: RFC 3339, UTC, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(Timestamp);

impl Time {
    pub const UNIX_EPOCH: Time = Time(Timestamp::UNIX_EPOCH);

    /// Now, or the end of the calendar: a clock may be set to any year, also beyond 9999.
    pub fn now() -> Time {
        let now = SystemTime::now();
        let nearest = if now < UNIX_EPOCH { Timestamp::MIN } else { Timestamp::MAX };
        Time::from(Timestamp::try_from(now).unwrap_or(nearest))
    }

    /// `None`: it is beyond the calendar.
    pub fn from_unix_seconds(seconds: i64) -> Option<Time> {
        Timestamp::from_second(seconds).ok().map(Time)
    }

    /// `None`: it is beyond the calendar.
    pub fn from_unix_millis(millis: i64) -> Option<Time> {
        Timestamp::from_millisecond(millis).ok().map(Time)
    }

    pub fn unix_millis(self) -> i64 {
        self.0.as_millisecond()
    }

    pub fn timestamp(self) -> Timestamp {
        self.0
    }

    /// When the day of this time began in a time zone.
    pub fn day_begin(self, zone: &TimeZone) -> Time {
        self.0.to_zoned(zone.clone()).start_of_day().map_or(self, |day| Time::from(day.timestamp()))
    }

    /// Beyond the calendar it is its end.
    pub fn plus(self, duration: SignedDuration) -> Time {
        Time::from(self.0.checked_add(duration).unwrap_or(Timestamp::MAX))
    }

    /// Beyond the calendar it is its beginning.
    pub fn minus(self, duration: SignedDuration) -> Time {
        Time::from(self.0.checked_sub(duration).unwrap_or(Timestamp::MIN))
    }
}

/// Less than a millisecond is cut off.
impl From<Timestamp> for Time {
    fn from(time: Timestamp) -> Time {
        let millis = time.as_nanosecond().div_euclid(1_000_000);
        let whole = i64::try_from(millis).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
        Time(whole.unwrap_or(time))
    }
}

impl FromStr for Time {
    type Err = jiff::Error;

    fn from_str(text: &str) -> Result<Time, jiff::Error> {
        text.parse::<Timestamp>().map(Time::from)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}", self.0)
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Time, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A time that a ledger holds, where another program may have written anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordedTime {
    At(Time),
    /// A text that bookend would not have written, shown as it is.
    Text(String),
}

impl RecordedTime {
    pub fn recorded(text: String) -> RecordedTime {
        match text.parse::<Time>() {
            Ok(time) if time.to_string() == text => RecordedTime::At(time),
            _ => RecordedTime::Text(text),
        }
    }

    /// `None`: the text is no time.
    pub fn time(&self) -> Option<Time> {
        match self {
            RecordedTime::At(time) => Some(*time),
            RecordedTime::Text(text) => text.parse().ok(),
        }
    }
}

/// No text: the row holds no time.
impl Default for RecordedTime {
    fn default() -> RecordedTime {
        RecordedTime::Text(String::new())
    }
}

impl From<Time> for RecordedTime {
    fn from(time: Time) -> RecordedTime {
        RecordedTime::At(time)
    }
}

/// As their texts: that is how the database orders them.
impl Ord for RecordedTime {
    fn cmp(&self, other: &RecordedTime) -> Ordering {
        match (self, other) {
            (RecordedTime::At(a), RecordedTime::At(b)) => a.cmp(b),
            _ => self.to_string().cmp(&other.to_string()),
        }
    }
}

impl PartialOrd for RecordedTime {
    fn partial_cmp(&self, other: &RecordedTime) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for RecordedTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecordedTime::At(time) => time.fmt(f),
            RecordedTime::Text(text) => f.write_str(text),
        }
    }
}

impl Serialize for RecordedTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RecordedTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RecordedTime, D::Error> {
        String::deserialize(deserializer).map(RecordedTime::recorded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: &str = "2026-11-21T12:00:00.250Z";

    fn noon() -> Time {
        NOON.parse().unwrap()
    }

    #[test]
    fn a_time_is_written_in_utc_with_milliseconds() {
        for text in [NOON, "2026-11-21T13:00:00.2509999+01:00"] {
            assert_eq!(text.parse::<Time>().unwrap().to_string(), NOON);
        }
        assert_eq!(serde_json::to_string(&noon()).unwrap(), format!("{NOON:?}"));
        assert!("yesterday".parse::<Time>().is_err());
    }

    #[test]
    fn less_than_a_millisecond_is_cut_off_before_1970_too() {
        let time: Time = "1969-12-31T23:59:59.9995Z".parse().unwrap();
        assert_eq!((time.to_string().as_str(), time.unix_millis()), ("1969-12-31T23:59:59.999Z", -1));
    }

    #[test]
    fn a_time_stays_within_the_calendar() {
        assert_eq!(noon().plus(SignedDuration::from_hours(1)).to_string(), "2026-11-21T13:00:00.250Z");
        assert_eq!(noon().minus(SignedDuration::from_hours(1)).to_string(), "2026-11-21T11:00:00.250Z");
        assert!(noon().plus(SignedDuration::MAX).to_string().starts_with("9999-12-30"));
        assert!(noon().minus(SignedDuration::MAX).to_string().starts_with("-009999"));
    }

    #[test]
    fn a_day_begins_at_local_midnight() {
        let zone = |hours| TimeZone::fixed(jiff::tz::Offset::constant(hours));
        let begin = |hours| noon().day_begin(&zone(hours)).to_string();
        assert_eq!(begin(0), "2026-11-21T00:00:00.000Z");
        assert_eq!(begin(13), "2026-11-21T11:00:00.000Z");
        assert_eq!(begin(-13), "2026-11-20T13:00:00.000Z");
    }

    #[test]
    fn a_recorded_text_is_shown_as_it_is() {
        for text in ["", "yesterday", "1763726400", "2026-11-21T12:00:60.000Z", "2026-11-21T12:00:00Z", NOON]
        {
            let recorded = RecordedTime::recorded(text.to_owned());
            assert_eq!(recorded.to_string(), text);
            assert_eq!(recorded.time(), text.parse().ok());
            assert_eq!(matches!(recorded, RecordedTime::At(_)), text == NOON);
        }
    }

    #[test]
    fn recorded_times_are_ordered_as_texts() {
        let mut texts =
            ["", "1763726400", "2026-11-21T12:00:00Z", NOON, "2027-01-01T00:00:00.000Z", "yesterday"];
        texts.sort_unstable();
        let recorded = texts.map(|t| RecordedTime::recorded(t.to_owned()));
        assert!(recorded.is_sorted());
    }
}
