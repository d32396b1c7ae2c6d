//! Waits for events, never for time, under one deadline per test.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The time a test may take before a wait in it fails, unless it sets another.
pub(super) const LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    set: Instant,
    limit: Duration,
}

impl Deadline {
    pub fn new() -> Deadline {
        Deadline::within(LIMIT)
    }

    pub fn within(limit: Duration) -> Deadline {
        Deadline { set: Instant::now(), limit }
    }

    /// Waits until one of `fds` is readable or hung up and returns which are.
    ///
    /// # Panics
    /// When the deadline passes: `what` names what was waited for.
    pub fn readable(self, what: &str, fds: &[&dyn AsFdRef]) -> Vec<bool> {
        let ready = ready(fds, self.left());
        assert!(ready.contains(&true), "timed out waiting for {what}");
        ready
    }

    /// Whether `time` has passed since the deadline was set.
    pub fn has_run_for(self, time: Duration) -> bool {
        self.set.elapsed() >= time
    }

    pub(super) fn left(self) -> Duration {
        self.limit.saturating_sub(self.set.elapsed())
    }

    pub fn passed(self) -> bool {
        self.has_run_for(self.limit)
    }
}

/// `AsFd`, usable in a list of different kinds.
pub trait AsFdRef {
    fn fd(&self) -> std::os::fd::BorrowedFd<'_>;
}

impl<T: AsFd> AsFdRef for T {
    fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.as_fd()
    }
}

/// Which of `fds` are readable or hung up, within `limit`.
pub fn ready(fds: &[&dyn AsFdRef], limit: Duration) -> Vec<bool> {
    let end = Instant::now() + limit;
    loop {
        let mut polled: Vec<PollFd> =
            fds.iter().map(|f| PollFd::from_borrowed_fd(f.fd(), PollFlags::IN)).collect();
        let left = end.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut polled, Some(&left)) {
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => panic!("poll: {e}"),
            Ok(_) => return polled.iter().map(|p| !p.revents().is_empty()).collect(),
        }
    }
}

/// Polls a condition that gives no event, such as the state of a process that is not a child.
///
/// # Panics
/// When the deadline passes: `what` names what was waited for.
pub fn eventually(deadline: Deadline, what: &str, mut is_so: impl FnMut() -> bool) {
    while !is_so() {
        assert!(!deadline.passed(), "timed out waiting for {what}");
        ready(&[], Duration::from_millis(2));
    }
}

/// Sleeps, where the awaited condition gives no event.
pub fn pause(time: Duration) {
    ready(&[], time);
}
