//! What is done at regular intervals while the engine works or waits.

use std::time::{Duration, Instant};

/// A function that is called at regular intervals.
pub struct PeriodicCall<'a> {
    interval: Duration,
    pub(super) due: Instant,
    call: &'a dyn Fn(),
}

impl<'a> PeriodicCall<'a> {
    /// Calls `call` now, and again after each `interval`.
    pub fn begin(interval: Duration, call: &'a dyn Fn()) -> PeriodicCall<'a> {
        call();
        PeriodicCall { interval, due: Instant::now() + interval, call }
    }

    pub(super) fn call_if_due(&mut self) {
        if self.due <= Instant::now() {
            (self.call)();
            self.due = Instant::now() + self.interval;
        }
    }
}
