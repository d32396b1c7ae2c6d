//! The time axis of a timeline: round times, and how they are written.

use jiff::tz::Offset;

use crate::task::Time;

/// How many lines in the terminal, or lanes on the page, follow before the axis is repeated: with it, that
/// many fit on a screen.
pub(super) const LINES_PER_AXIS: usize = 20;

const SECOND: i64 = 1000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// From the first to the last shown moment, in milliseconds since 1970.
#[derive(Debug, Clone, Copy)]
pub(super) struct TimeAxis {
    pub begin: i64,
    /// Later than `begin`.
    pub end: i64,
}

impl TimeAxis {
    pub fn length(self) -> i64 {
        self.end - self.begin
    }

    /// Where a time is on the axis, from 0 to 1.
    pub fn share(self, ms: i64) -> f64 {
        (ms - self.begin) as f64 / self.length() as f64
    }

    /// The smallest round step that divides the axis into fewer than `most` parts.
    pub fn step(self, most: usize) -> i64 {
        let most = i64::try_from(most.max(1)).unwrap_or(i64::MAX);
        steps().find(|step| self.length() / step < most).unwrap_or(i64::MAX)
    }

    /// The multiples of `step` on the axis (UTC).
    pub fn ticks(self, step: i64) -> impl Iterator<Item = i64> {
        let first = self.begin.div_euclid(step) + i64::from(self.begin.rem_euclid(step) > 0);
        (first..).map(move |n| n.saturating_mul(step)).take_while(move |ms| *ms <= self.end)
    }

    /// A time on the axis: as much of `2026-11-30 12:00:05` as a step of this length needs (UTC).
    pub fn label(self, ms: i64, step: i64, day: bool) -> String {
        let format = match step {
            step if step < MINUTE => "%H:%M:%S",
            _ if self.length() > 300 * DAY => "%Y-%m-%d",
            step if step >= DAY => "%m-%d",
            _ if day || self.length() > DAY => "%m-%d %H:%M",
            _ => "%H:%M",
        };
        written(ms, format)
    }

    /// Its first and its last moment.
    pub fn period(self) -> String {
        [self.begin, self.end].map(|ms| written(ms, "%Y-%m-%d %H:%M")).join(" to ")
    }
}

fn written(ms: i64, format: &str) -> String {
    let time = Time::from_unix_millis(ms).unwrap_or(Time::UNIX_EPOCH).timestamp();
    Offset::UTC.to_datetime(time).strftime(format).to_string()
}

/// 1 s, 2 s, 5 s and so on up to many days.
fn steps() -> impl Iterator<Item = i64> {
    let sixtieths = [1, 2, 5, 10, 15, 30];
    let hours = [1, 2, 3, 6, 12].map(|n| n * HOUR);
    let days = (0..7).flat_map(|power| [1, 2, 5].map(|n| n * 10_i64.pow(power) * DAY));
    let short = [SECOND, MINUTE].into_iter().flat_map(move |unit| sixtieths.map(|n| n * unit));
    short.chain(hours).chain(days)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(begin: &str, end: &str, most: usize) -> Vec<String> {
        let ms = |time: &str| time.parse::<Time>().expect("a time").unix_millis();
        let axis = TimeAxis { begin: ms(begin), end: ms(end) };
        let step = axis.step(most);
        axis.ticks(step).map(|ms| axis.label(ms, step, false)).collect()
    }

    #[test]
    fn the_times_are_round() {
        let four_hours = labels("2026-11-29T23:21:07Z", "2026-11-30T03:16:07Z", 5);
        assert_eq!(four_hours, ["00:00", "01:00", "02:00", "03:00"]);
        let seconds = labels("2026-11-30T12:00:00.500Z", "2026-11-30T12:00:07Z", 5);
        assert_eq!(seconds, ["12:00:02", "12:00:04", "12:00:06"]);
        let days = labels("2026-11-27T10:00:00Z", "2026-11-30T10:00:00Z", 4);
        assert_eq!(days, ["11-28", "11-29", "11-30"]);
        let two_days = labels("2026-11-28T10:00:00Z", "2026-11-30T09:00:00Z", 3);
        assert_eq!(two_days, ["11-29", "11-30"]);
        let half_days = labels("2026-11-28T10:00:00Z", "2026-11-30T09:00:00Z", 5);
        assert_eq!(half_days, ["11-28 12:00", "11-29 00:00", "11-29 12:00", "11-30 00:00"]);
        assert_eq!(labels("2019-01-01T00:00:00Z", "2026-11-30T00:00:00Z", 2), ["2019-04-14", "2024-10-04"]);
    }

    #[test]
    fn no_more_times_than_allowed_are_on_an_axis_of_any_length() {
        for power in 0..48 {
            for most in 1..10 {
                let axis = TimeAxis { begin: -12_345, end: -12_345 + (1 << power) };
                assert!(axis.ticks(axis.step(most)).count() <= most, "2^{power} ms, {most}");
            }
        }
    }
}
