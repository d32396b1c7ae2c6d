//! When calls about keys are made again: those that failed although the database answers, and the questions of
//! runs that replace a task.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::task::Key;

/// The pause after the first failure; each is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// So many failures in a row are no concern of the runs.
const UNREPORTED: u32 = 2;
/// How often a run that replaces a task on another host asks who holds the key.
const REPLACE_INTERVAL: Duration = Duration::from_secs(1);

/// The calls to be made again, by their keys. `None`: the list of all claims.
#[derive(Debug, Default)]
pub(super) struct RepeatedCalls(HashMap<Option<Key>, Repetition>);

#[derive(Debug, Default)]
struct Repetition {
    /// The failures in a row.
    failures: u32,
    /// `None`: the call is under way.
    at: Option<Instant>,
}

impl RepeatedCalls {
    /// A call failed. Returns whether that is to be reported.
    pub(super) fn failed(&mut self, key: Option<Key>, now: Instant) -> bool {
        let repetition = self.0.entry(key).or_default();
        if repetition.failures == 0 || repetition.at.is_none() {
            let pause = FIRST_PAUSE.saturating_mul(1 << repetition.failures.min(16)).min(LONGEST_PAUSE);
            repetition.failures += 1;
            repetition.at = Some(now + pause);
        }
        repetition.failures > UNREPORTED
    }

    /// A call was answered. One that failed meanwhile is still made again.
    pub(super) fn succeeded(&mut self, key: &Option<Key>) {
        if self.0.get(key).is_some_and(|repetition| repetition.at.is_none()) {
            self.0.remove(key);
        }
    }

    /// A run that replaces the holder of the key asks again.
    pub(super) fn soon(&mut self, key: Key, now: Instant) {
        self.0.entry(Some(key)).or_default().at.get_or_insert(now + REPLACE_INTERVAL);
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.0.values().filter_map(|repetition| repetition.at).min()
    }

    /// The keys that are due, and whether a call has failed.
    pub(super) fn due(&mut self, now: Instant) -> (Vec<Key>, bool) {
        let (mut keys, mut has_failed) = (Vec::new(), false);
        for (key, repetition) in &mut self.0 {
            if repetition.at.is_some_and(|at| at <= now) {
                repetition.at = None;
                keys.extend(key.clone());
                has_failed |= repetition.failures > 0;
            }
        }
        (keys, has_failed)
    }
}
