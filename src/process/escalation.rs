//! The ladder: how an agent is made to stop. The signal that came, then SIGTERM, then SIGKILL, a grace apart.

use std::time::{Duration, Instant};

#[derive(Debug)]
pub struct Ladder {
    grace: Duration,
    climb: Option<Climb>,
}

#[derive(Debug, Clone, Copy)]
struct Climb {
    next: i32,
    at: Instant,
}

impl Ladder {
    pub fn new(grace: Duration) -> Ladder {
        Ladder { grace, climb: None }
    }

    /// `signal` has been sent: the first rung. A ladder that is being climbed already goes on as it was.
    pub fn begin(&mut self, signal: i32, now: Instant) {
        if self.climb.is_none() {
            let next = if signal == libc::SIGTERM { libc::SIGKILL } else { libc::SIGTERM };
            self.climb = Some(Climb { next, at: now + self.grace });
        }
    }

    /// When the next rung is due.
    pub fn deadline(&self) -> Option<Instant> {
        self.climb.map(|c| c.at)
    }

    /// The signal that is due now, if any.
    pub fn due(&mut self, now: Instant) -> Option<i32> {
        let climb = self.climb.filter(|c| c.at <= now)?;
        // Nothing comes after SIGKILL.
        self.climb =
            (climb.next != libc::SIGKILL).then(|| Climb { next: libc::SIGKILL, at: now + self.grace });
        Some(climb.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ladder_goes_from_what_came_over_term_to_kill() {
        let start = Instant::now();
        let grace = Duration::from_secs(10);
        let mut ladder = Ladder::new(grace);
        assert_eq!(ladder.deadline(), None);
        ladder.begin(libc::SIGHUP, start);
        assert_eq!(ladder.due(start), None);
        assert_eq!(ladder.due(start + grace), Some(libc::SIGTERM));
        assert_eq!(ladder.due(start + grace), None);
        assert_eq!(ladder.due(start + grace * 2), Some(libc::SIGKILL));
        assert_eq!(ladder.deadline(), None);
    }

    #[test]
    fn a_term_is_followed_by_kill() {
        let start = Instant::now();
        let mut ladder = Ladder::new(Duration::ZERO);
        ladder.begin(libc::SIGTERM, start);
        ladder.begin(libc::SIGHUP, start);
        assert_eq!(ladder.due(start), Some(libc::SIGKILL));
    }
}
