//! Waiting for events, never for time: one deadline for a whole test.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How long a test may take in all before a wait in it gives up.
const LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy)]
pub struct Deadline(Instant);

impl Deadline {
    pub fn new() -> Deadline {
        Deadline(Instant::now() + LIMIT)
    }

    /// Waits until one of `fds` is readable or hung up, and says which are.
    ///
    /// # Panics
    /// When the deadline passes: `what` names what was waited for.
    pub fn readable(self, what: &str, fds: &[&dyn AsFdRef]) -> Vec<bool> {
        let left = self.0.saturating_duration_since(Instant::now());
        let ready = ready(fds, left);
        assert!(ready.contains(&true), "in vain until the deadline: {what}");
        ready
    }

    /// Whether `time` has passed since the deadline was set.
    pub fn has_run_for(self, time: Duration) -> bool {
        Instant::now() + LIMIT >= self.0 + time
    }

    pub fn passed(self) -> bool {
        Instant::now() >= self.0
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

/// Waits for what gives no event, such as the state of a process that is not ours: looks until it is so.
///
/// # Panics
/// When the deadline passes: `what` names what was waited for.
pub fn eventually(deadline: Deadline, what: &str, mut is_so: impl FnMut() -> bool) {
    while !is_so() {
        assert!(!deadline.passed(), "in vain until the deadline: {what}");
        ready(&[], Duration::from_millis(2));
    }
}

/// Lets time pass, where what is waited for gives no event.
pub fn pause(time: Duration) {
    ready(&[], time);
}
