//! What is done at regular intervals while the engine works or waits.

use std::time::{Duration, Instant};

/// A function that is called at regular intervals.
pub struct Pulse<'a> {
    interval: Duration,
    pub(super) due: Instant,
    beat: &'a dyn Fn(),
}

impl<'a> Pulse<'a> {
    /// Calls `beat` now, and again after each `interval`.
    pub fn begin(interval: Duration, beat: &'a dyn Fn()) -> Pulse<'a> {
        beat();
        Pulse { interval, due: Instant::now() + interval, beat }
    }

    pub(super) fn beat_if_due(&mut self) {
        if self.due <= Instant::now() {
            (self.beat)();
            self.due = Instant::now() + self.interval;
        }
    }
}
