//! Waiting for other writers: how long, and how often to look again.

use std::time::{Duration, Instant, SystemTime};

/// How long a command waits for other writers before it gives up, unless [`PATIENCE`] says otherwise.
const USUAL_PATIENCE: Duration = Duration::from_secs(30);
/// The variable that sets it, as a duration like `500ms` or `2m`.
const PATIENCE: &str = "BOOKEND_BUSY_TIMEOUT";
const SHORTEST_NAP: Duration = Duration::from_micros(100);
const LONGEST_NAP: Duration = Duration::from_millis(20);

/// How long a write waits for a locked ledger that is not worth keeping the run's loop from its work.
pub const BRIEF: Duration = Duration::from_millis(250);

/// How long this command waits for other writers.
pub fn patience() -> Duration {
    let set = std::env::var(PATIENCE).ok().and_then(|text| humantime::parse_duration(&text).ok());
    set.unwrap_or(USUAL_PATIENCE)
}

/// SQLite's own busy handler sleeps up to 100 ms at a time, all sleepers alike: too long among a hundred
/// writers whose turns take well under a millisecond each.
pub fn handler(longest: Duration) -> impl FnMut(i32) -> bool + Send + 'static {
    let mut since = Instant::now();
    move |count| {
        if count == 0 {
            since = Instant::now();
        }
        let waited = since.elapsed();
        if waited > longest {
            return false;
        }
        let sleep = nap(waited);
        std::thread::sleep(sleep / 2 + sleep.mul_f64(jitter()));
        true
    }
}

/// Naps grow with what was waited already, since looks of a hundred that only just missed each other cost
/// more than the gaps between turns. They shrink again with the seconds: no turn is kept for anybody, and
/// where somebody always waits, whoever comes, and looks often, would be before the one who has waited
/// longest.
fn nap(waited: Duration) -> Duration {
    let seconds = u32::try_from(waited.as_secs()).unwrap_or(u32::MAX - 1);
    (waited / 3).clamp(SHORTEST_NAP, LONGEST_NAP / (1 + seconds).min(20))
}

/// A number from 0 to 1 that differs between those who wake up together.
fn jitter() -> f64 {
    let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |t| t.subsec_nanos());
    f64::from(nanos % 1_000_000) / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_waited_for_long_looks_more_often_than_who_has_just_come() {
        let naps = [0, 1, 10, 60, 900].map(|ms| nap(Duration::from_millis(ms)));
        assert!(naps.is_sorted() && naps[0] == SHORTEST_NAP && naps[4] == LONGEST_NAP, "{naps:?}");
        let naps = [900, 1_000, 3_000, 29_000].map(|ms| nap(Duration::from_millis(ms)));
        assert!(naps.is_sorted_by(|a, b| a > b), "{naps:?}");
        assert!(nap(Duration::from_secs(29)) < nap(Duration::from_millis(5)));
        assert!(nap(Duration::MAX) >= SHORTEST_NAP);
    }
}
