//! A clock that can pause: a limit does not run while the agent cannot make progress.

use std::time::{Duration, Instant};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Clock {
    #[default]
    Off,
    Until(Instant),
    /// This much is left when it continues.
    Paused(Duration),
}

impl Clock {
    /// A clock that expires `limit` from now; without a limit, never.
    pub(super) fn of(limit: Option<Duration>, now: Instant) -> Clock {
        limit.map_or(Clock::Off, |limit| Clock::Until(now + limit))
    }

    /// Continues the clock, or pauses it.
    pub(super) fn run(&mut self, runs: bool, now: Instant) {
        *self = match (*self, runs) {
            (Clock::Until(at), false) => Clock::Paused(at.saturating_duration_since(now)),
            (Clock::Paused(left), true) => Clock::Until(now + left),
            (as_it_was, _) => as_it_was,
        };
    }

    /// When it expires.
    pub(super) fn deadline(self) -> Option<Instant> {
        if let Clock::Until(at) = self { Some(at) } else { None }
    }

    /// Whether it has expired. True once only.
    pub(super) fn take_due(&mut self, now: Instant) -> bool {
        let due = self.deadline().is_some_and(|at| at <= now);
        if due {
            *self = Clock::Off;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paused_clock_keeps_what_is_left() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut clock = Clock::of(Some(3 * second), start);
        clock.run(false, start + second);
        clock.run(false, start + 2 * second);
        assert_eq!((clock.deadline(), clock.take_due(start + 9 * second)), (None, false));
        clock.run(true, start + 10 * second);
        clock.run(true, start + 11 * second);
        assert_eq!(clock.deadline(), Some(start + 12 * second));
        assert!(clock.take_due(start + 12 * second) && !clock.take_due(start + 12 * second));
    }

    #[test]
    fn a_clock_without_a_limit_is_never_due() {
        let now = Instant::now();
        let mut clock = Clock::of(None, now);
        clock.run(false, now);
        clock.run(true, now);
        assert_eq!((clock, clock.deadline()), (Clock::Off, None));
    }
}
