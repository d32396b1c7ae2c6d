//! The escalation that stops an agent: the signal that arrived, then SIGTERM, then SIGKILL, one grace period
//! apart.

use std::time::{Duration, Instant};

use crate::task::Signal;

#[derive(Debug)]
pub struct Escalation {
    grace: Duration,
    /// `None`: it has not begun, or SIGKILL was sent.
    next: Option<EscalationStep>,
}

#[derive(Debug, Clone, Copy)]
struct EscalationStep {
    signal: Signal,
    at: Instant,
}

impl Escalation {
    pub fn new(grace: Duration) -> Escalation {
        Escalation { grace, next: None }
    }

    /// `signal` has been sent, which is the first step. An escalation that has begun is not changed.
    pub fn begin(&mut self, signal: Signal, now: Instant) {
        if self.next.is_none() {
            let signal = if signal == Signal::TERM { Signal::KILL } else { Signal::TERM };
            self.next = Some(EscalationStep { signal, at: now + self.grace });
        }
    }

    /// When the next step is due.
    pub fn deadline(&self) -> Option<Instant> {
        self.next.map(|step| step.at)
    }

    /// The signal that is due now, if any.
    pub fn due(&mut self, now: Instant) -> Option<Signal> {
        let due = self.next.filter(|step| step.at <= now)?;
        // SIGKILL is the last step.
        let is_last = due.signal == Signal::KILL;
        self.next = (!is_last).then(|| EscalationStep { signal: Signal::KILL, at: now + self.grace });
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
        escalation.begin(Signal::HUP, start);
        assert_eq!(escalation.due(start), None);
        assert_eq!(escalation.due(start + grace), Some(Signal::TERM));
        assert_eq!(escalation.due(start + grace), None);
        assert_eq!(escalation.due(start + grace * 2), Some(Signal::KILL));
        assert_eq!(escalation.deadline(), None);
    }

    #[test]
    fn sigkill_follows_sigterm() {
        let start = Instant::now();
        let mut escalation = Escalation::new(Duration::ZERO);
        escalation.begin(Signal::TERM, start);
        escalation.begin(Signal::HUP, start);
        assert_eq!(escalation.due(start), Some(Signal::KILL));
    }
}
