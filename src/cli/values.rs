//! Parsers for the values of options: durations, sizes, times and keywords.

use std::convert::Infallible;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use jiff::SignedDuration;
use jiff::civil::{self, DateTime};
use jiff::tz::TimeZone;
use tracing::level_filters::LevelFilter;

use crate::run::options::{CostBudget, WhenBusy};
use crate::task::{GroupBy, Key, Status, Time};
use crate::view::{Code, Severity, TaskColumn};

/// The longest duration: it can be added to any time without overflow.
const LONGEST: Duration = Duration::from_secs(1000 * 366 * 24 * 60 * 60);

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let given = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => humantime::parse_duration(text)
            .map_err(|_| "invalid duration; use a value such as 30s, 10m or 1h30m".to_owned())?,
    };
    Ok(given.min(LONGEST))
}

/// US dollars and a period, such as `20/24h`.
pub(super) fn budget(text: &str) -> Result<CostBudget, String> {
    let parse = || {
        let (usd, per) = text.split_once('/')?;
        let usd: f64 = usd.strip_prefix('$').unwrap_or(usd).parse().ok()?;
        let per = duration(per).ok().filter(|per| per.as_secs() > 0)?;
        (usd.is_finite() && usd > 0.0).then_some(CostBudget { usd, per })
    };
    parse().ok_or_else(|| "invalid budget; use US dollars and a period, such as 20/24h".to_owned())
}

/// Bytes, or a number with KiB, MiB or GiB (`K`, `M` and `G` mean the same).
pub(super) fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match text[digits.len()..].trim_start() {
        "" => Some(0),
        "K" | "KiB" => Some(10),
        "M" | "MiB" => Some(20),
        "G" | "GiB" => Some(30),
        _ => None,
    };
    let bytes = digits.parse::<u64>().ok().zip(shift).and_then(|(n, shift)| n.checked_mul(1 << shift));
    bytes.ok_or_else(|| "invalid size; use a value such as 500000, 64MiB or 2GiB".to_owned())
}

pub(super) fn limit(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "invalid limit; use a number above 0".to_owned())
}

pub(super) fn issue(text: &str) -> Result<i64, String> {
    let number = text.strip_prefix('#').unwrap_or(text);
    number.parse().map_err(|_| "invalid issue number; use a value such as 1104".to_owned())
}

pub(super) fn status() -> impl TypedValueParser<Value = Status> {
    one_of(&Status::ALL, Status::as_str)
}

pub(super) fn column() -> impl TypedValueParser<Value = TaskColumn> {
    one_of(&TaskColumn::ALL, TaskColumn::as_str)
}

pub(super) fn group() -> impl TypedValueParser<Value = GroupBy> {
    one_of(&GroupBy::EACH, GroupBy::as_str)
}

pub(super) fn severity() -> impl TypedValueParser<Value = Severity> {
    one_of(&[Severity::Warn, Severity::Error], Severity::as_str)
}

pub(super) fn code() -> impl TypedValueParser<Value = Code> {
    one_of(&Code::ALL, Code::as_str)
}

/// One of several keywords. clap lists them in the help and completions.
fn one_of<T>(each: &'static [T], word: fn(T) -> &'static str) -> impl TypedValueParser<Value = T>
where
    T: Copy + Send + Sync,
{
    PossibleValuesParser::new(each.iter().map(|value| word(*value))).try_map(move |given| {
        each.iter().copied().find(|value| word(*value) == given).ok_or("not one of these values")
    })
}

/// A key as recorded in a ledger, where another program may have written any text.
pub(super) fn any_key(text: &str) -> Result<Key, Infallible> {
    Ok(Key::recorded(text))
}

/// An age, a day or a time.
pub(super) fn moment(text: &str) -> Result<Time, String> {
    moment_in(text, Time::now(), TimeZone::system)
}

/// `zone` is asked only for words and local times: to find the system's zone, a folder has to be read.
fn moment_in(text: &str, now: Time, zone: impl FnOnce() -> TimeZone) -> Result<Time, String> {
    if let Ok(time) = text.parse::<Time>() {
        return Ok(time);
    }
    // journalctl takes a time of day alone for that of today, too.
    let of_today = || text.contains(':').then(|| text.parse::<civil::Time>().ok()).flatten();
    let time = match (text, text.parse::<DateTime>(), of_today()) {
        ("today", ..) => Some(now.day_begin(&zone())),
        ("yesterday", ..) => {
            let zone = zone();
            // An hour before midnight is yesterday in every zone.
            Some(now.day_begin(&zone).minus(SignedDuration::from_hours(1)).day_begin(&zone))
        }
        (_, Ok(local), _) => zone().to_timestamp(local).ok().map(Time::from),
        (_, Err(_), Some(time)) => {
            let zone = zone();
            let today = zone.to_datetime(now.timestamp()).date();
            zone.to_timestamp(today.to_datetime(time)).ok().map(Time::from)
        }
        (_, Err(_), None) => {
            let ago = duration(text).map_err(|_| {
                "invalid time; use a value such as 30m, 2h, 3d, today, yesterday, 09:30, 2026-11-21 or \
                 2026-11-21T12:00:00Z"
                    .to_owned()
            })?;
            let ago = SignedDuration::try_from(ago).unwrap_or(SignedDuration::MAX);
            now.timestamp().checked_sub(ago).ok().map(Time::from)
        }
    };
    Ok(time.unwrap_or(Time::UNIX_EPOCH))
}

pub(super) fn when_busy(wait: bool, replace: bool) -> WhenBusy {
    match (wait, replace) {
        (true, _) => WhenBusy::Wait,
        (_, true) => WhenBusy::Replace,
        _ => WhenBusy::Refuse,
    }
}

pub(super) fn level(quiet: bool, verbose: u8) -> LevelFilter {
    match (quiet, verbose) {
        (true, _) => LevelFilter::ERROR,
        (_, 0) => LevelFilter::WARN,
        (_, 1) => LevelFilter::INFO,
        _ => LevelFilter::DEBUG,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use jiff::tz::Offset;

    #[test]
    fn a_budget_is_a_sum_and_a_period() {
        let of = |usd, secs| Ok(CostBudget { usd, per: Duration::from_secs(secs) });
        assert_eq!(budget("20/24h"), of(20.0, 86_400));
        assert_eq!(budget("$0.5/30m"), of(0.5, 1_800));
        for (text, shown) in [
            ("20/1d", "$20.00 in 24h"),
            ("20/31d", "$20.00 in 31d"),
            ("20/1h", "$20.00 in 1h"),
            ("20/90m", "$20.00 in 90m"),
            ("20/45", "$20.00 in 45s"),
        ] {
            assert_eq!(budget(text).map(|b| b.to_string()).as_deref(), Ok(shown));
        }
        for wrong in
            ["20", "20/", "/24h", "0/24h", "-1/24h", "20/0", "inf/1h", "nan/1h", "20/soon", "20/24h/2"]
        {
            assert!(budget(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn moments_are_ages_days_and_times_and_local_without_a_zone() {
        let zone = TimeZone::fixed(Offset::constant(2));
        let now = "2026-11-21T23:30:00Z".parse().unwrap();
        let of = |text: &str| moment_in(text, now, || zone.clone()).map(|time| time.to_string());
        for (text, time) in [
            ("today", "2026-11-21T22:00:00.000Z"),
            ("yesterday", "2026-11-20T22:00:00.000Z"),
            ("2h", "2026-11-21T21:30:00.000Z"),
            ("90", "2026-11-21T23:28:30.000Z"),
            ("09:30", "2026-11-22T07:30:00.000Z"),
            ("00:00:30", "2026-11-21T22:00:30.000Z"),
            ("2026-11-21", "2026-11-20T22:00:00.000Z"),
            ("2026-11-21T12:00", "2026-11-21T10:00:00.000Z"),
            ("2026-11-21 12:00:30", "2026-11-21T10:00:30.000Z"),
            ("2026-11-21T12:00:00Z", "2026-11-21T12:00:00.000Z"),
            ("2026-11-21T12:00:00+01:00", "2026-11-21T11:00:00.000Z"),
            ("1000y", "1026-11-14T23:30:00.000Z"),
        ] {
            assert_eq!(of(text).as_deref(), Ok(time), "{text}");
        }
        assert!(["soon", "", "tomorrow", "2026-13-01", "25:00", ":"].iter().all(|text| of(text).is_err()));
    }
}
