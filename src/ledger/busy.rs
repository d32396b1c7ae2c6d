//! How long to wait for other writers, and how often to try again.

use std::time::{Duration, Instant, SystemTime};

/// How long a command waits for other writers, unless [`PATIENCE`] is set.
const USUAL_PATIENCE: Duration = Duration::from_secs(30);
/// The variable that changes it, a duration such as `500ms` or `2m`.
const PATIENCE: &str = "BOOKEND_BUSY_TIMEOUT";
const SHORTEST_NAP: Duration = Duration::from_micros(100);
const LONGEST_NAP: Duration = Duration::from_millis(20);

/// How long a write waits that must not delay the event loop of a run.
pub const BRIEF: Duration = Duration::from_millis(250);

/// How long this command waits for other writers.
pub fn patience() -> Duration {
    let set = std::env::var(PATIENCE).ok().and_then(|text| humantime::parse_duration(&text).ok());
    set.unwrap_or(USUAL_PATIENCE)
}

/// SQLite's own busy handler sleeps up to 100 ms, and all processes sleep alike: too long among a hundred
/// writers that need well under a millisecond each.
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

/// Naps first grow with the time waited, since a hundred processes that poll cost more than the gaps between
/// writers. After a second they shrink: SQLite has no queue, and otherwise newcomers, which poll often, would
/// overtake the process that has waited longest.
fn nap(waited: Duration) -> Duration {
    let seconds = u32::try_from(waited.as_secs()).unwrap_or(u32::MAX - 1);
    (waited / 3).clamp(SHORTEST_NAP, LONGEST_NAP / (1 + seconds).min(20))
}

/// A number from 0 to 1 that differs between processes that wake up together.
fn jitter() -> f64 {
    let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |t| t.subsec_nanos());
    f64::from(nanos % 1_000_000) / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_has_waited_long_polls_more_often_than_a_newcomer() {
        let naps = [0, 1, 10, 60, 900].map(|ms| nap(Duration::from_millis(ms)));
        assert!(naps.is_sorted() && naps[0] == SHORTEST_NAP && naps[4] == LONGEST_NAP, "{naps:?}");
        let naps = [900, 1_000, 3_000, 29_000].map(|ms| nap(Duration::from_millis(ms)));
        assert!(naps.is_sorted_by(|a, b| a > b), "{naps:?}");
        assert!(nap(Duration::from_secs(29)) < nap(Duration::from_millis(5)));
        assert!(nap(Duration::MAX) >= SHORTEST_NAP);
    }
}
