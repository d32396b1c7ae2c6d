//! The escalation that stops an agent: the signal that arrived, then SIGTERM, then SIGKILL, one grace period
//! apart.

use std::time::{Duration, Instant};

#[derive(Debug)]
pub struct Escalation {
    grace: Duration,
    /// `None`: it has not begun, or SIGKILL was sent.
    next: Option<EscalationStep>,
}

#[derive(Debug, Clone, Copy)]
struct EscalationStep {
    signal: i32,
    at: Instant,
}

impl Escalation {
    pub fn new(grace: Duration) -> Escalation {
        Escalation { grace, next: None }
    }

    /// `signal` has been sent, which is the first step. An escalation that has begun is not changed.
    pub fn begin(&mut self, signal: i32, now: Instant) {
        if self.next.is_none() {
            let signal = if signal == libc::SIGTERM { libc::SIGKILL } else { libc::SIGTERM };
            self.next = Some(EscalationStep { signal, at: now + self.grace });
        }
    }

    /// When the next step is due.
    pub fn deadline(&self) -> Option<Instant> {
        self.next.map(|step| step.at)
    }

    /// The signal that is due now, if any.
    pub fn due(&mut self, now: Instant) -> Option<i32> {
        let due = self.next.filter(|step| step.at <= now)?;
        // SIGKILL is the last step.
        let is_last = due.signal == libc::SIGKILL;
        self.next = (!is_last).then(|| EscalationStep { signal: libc::SIGKILL, at: now + self.grace });
        Some(due.signal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sigterm_and_then_sigkill_follow_another_signal() {
        let start = Instant::now();
        let grace = Duration::from_secs(10);
        let mut escalation = Escalation::new(grace);
        assert_eq!(escalation.deadline(), None);
        escalation.begin(libc::SIGHUP, start);
        assert_eq!(escalation.due(start), None);
        assert_eq!(escalation.due(start + grace), Some(libc::SIGTERM));
        assert_eq!(escalation.due(start + grace), None);
        assert_eq!(escalation.due(start + grace * 2), Some(libc::SIGKILL));
        assert_eq!(escalation.deadline(), None);
    }

    #[test]
    fn sigkill_follows_sigterm() {
        let start = Instant::now();
        let mut escalation = Escalation::new(Duration::ZERO);
        escalation.begin(libc::SIGTERM, start);
        escalation.begin(libc::SIGHUP, start);
        assert_eq!(escalation.due(start), Some(libc::SIGKILL));
    }
}
