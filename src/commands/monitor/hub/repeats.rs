//! When calls about keys are made again: those that failed although the database answers, and the questions
//! of runs that replace a task.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::claim_calls::CallSubject;

/// The pause after the first failure; each is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// So many failures in a row are no concern of the runs.
const UNREPORTED: u32 = 2;
/// How often a run that replaces a task on another host asks who holds the key.
const REPLACE_INTERVAL: Duration = Duration::from_secs(1);

/// The calls to be made again.
#[derive(Debug, Default)]
pub(super) struct RepeatedCalls(HashMap<CallSubject, Repetition>);

#[derive(Debug, Default)]
struct Repetition {
    /// The failures in a row.
    failures: u32,
    /// `None`: the call is under way.
    at: Option<Instant>,
}

impl RepeatedCalls {
    /// A call failed. Returns whether that is to be reported.
    pub(super) fn failed(&mut self, subject: CallSubject, now: Instant) -> bool {
        let repetition = self.0.entry(subject).or_default();
        if repetition.failures == 0 || repetition.at.is_none() {
            let pause = FIRST_PAUSE.saturating_mul(1 << repetition.failures.min(16)).min(LONGEST_PAUSE);
            repetition.failures += 1;
            repetition.at = Some(now + pause);
        }
        repetition.failures > UNREPORTED
    }

    /// A call was answered. One that failed meanwhile is still made again.
    pub(super) fn succeeded(&mut self, subject: &CallSubject) {
        if self.0.get(subject).is_some_and(|repetition| repetition.at.is_none()) {
            self.0.remove(subject);
        }
    }

    /// A run that replaces the holder of a key asks again.
    pub(super) fn soon(&mut self, subject: CallSubject, now: Instant) {
        self.0.entry(subject).or_default().at.get_or_insert(now + REPLACE_INTERVAL);
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.0.values().filter_map(|repetition| repetition.at).min()
    }

    /// What is due, and whether it has failed.
    pub(super) fn due(&mut self, now: Instant) -> Vec<(CallSubject, bool)> {
        let due = self.0.iter_mut().filter(|(_, repetition)| repetition.at.is_some_and(|at| at <= now));
        let due: Vec<_> = due
            .map(|(subject, repetition)| {
                repetition.at = None;
                (subject.clone(), repetition.failures > 0)
            })
            .collect();
        self.0.retain(|_, repetition| repetition.at.is_some() || repetition.failures > 0);
        due
    }
}

#[cfg(test)]
mod tests {
    use super::super::claim_calls::ClaimCall;
    use super::*;

    #[test]
    fn pauses_grow_until_a_call_is_answered() {
        let (mut calls, now, list) = (RepeatedCalls::default(), Instant::now(), ClaimCall::List.subject());
        let mut pauses = Vec::new();
        for failure in 1..=9 {
            assert_eq!(calls.failed(list.clone(), now), failure > UNREPORTED, "{failure}");
            let at = calls.next().expect("a repetition");
            calls.failed(list.clone(), at);
            calls.succeeded(&list);
            assert_eq!(calls.next(), Some(at), "one of several calls");
            pauses.push((at - now).as_millis());
            assert!(calls.due(at - FIRST_PAUSE / 2).is_empty());
            assert_eq!(calls.due(at), [(list.clone(), true)]);
        }
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
        calls.succeeded(&list);
        assert!(!calls.failed(list, now));
    }
}
