//! The soak: runs a hundred supervisors for minutes. Some run for the whole time with agents that keep
//! printing. The others are short runs that succeed, fail, crash, hang, are stopped or are killed. Recoveries
//! and readers run at the same time. No memory use or file may grow, no row may be lost and no process may be
//! left.
//!
//! `BOOKEND_SOAK=10m` sets the duration, `BOOKEND_SOAK_AT_ONCE` the number of supervisors,
//! `BOOKEND_SOAK_SEED` repeats the choices of an earlier soak and `BOOKEND_SOAK_OF` is the path of the
//! bookend to test.

mod background;
mod checks;
mod long_lived;
mod runs;

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use crate::crash::agents::{self, OVER};
use crate::crash::fault;
use crate::harness::{World, pause};

/// The duration and the number of supervisors if `BOOKEND_SOAK` is not set.
const SHORT: (Duration, usize) = (Duration::from_secs(3), 16);
/// The number of supervisors if `BOOKEND_SOAK` is set.
const AT_ONCE: usize = 100;
/// One in this many supervisors runs for the whole time.
const LONG_LIVED_SHARE: usize = 8;
/// The time that all supervisors may take to start.
const START_LIMIT: Duration = Duration::from_secs(120);
/// The largest number of violations to print.
const MAX_PRINTED: usize = 60;

/// The state that all threads share.
pub struct Soak {
    world: World,
    seed: u64,
    length: Duration,
    at_once: usize,
    /// The time at which all supervisors were running.
    began: OnceLock<Instant>,
    is_over: AtomicBool,
    /// The number of supervisors that run now.
    alive: AtomicUsize,
    violations: Mutex<Vec<String>>,
}

impl Soak {
    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Sleeps for `time`, or until the soak is over. Returns whether it is over.
    fn sleep_or_end(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        while !self.is_over() && Instant::now() < until {
            pause(Duration::from_millis(20).min(until.saturating_duration_since(Instant::now())));
        }
        self.is_over()
    }

    /// The elapsed part of the duration: 0 at the start, 1 at the end.
    fn part(&self) -> f64 {
        self.began.get().map_or(0.0, |b| b.elapsed().as_secs_f64()) / self.length.as_secs_f64()
    }

    fn report_violation(&self, what: String) {
        self.violations.lock().expect("the list").push(what);
    }

    fn unless(&self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.report_violation(what());
        }
    }

    /// Waits for a condition with a limit for a busy machine.
    fn eventually(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let began = Instant::now();
        while !is_so() {
            assert!(began.elapsed() < START_LIMIT, "timed out waiting for {what}");
            pause(Duration::from_millis(5));
        }
    }
}

/// Ends all threads when dropped, even after a panic.
struct EndOnDrop<'a>(&'a Soak);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        fs::write(self.0.world.path(OVER), "").expect("the file that ends the agents");
        self.0.is_over.store(true, Ordering::Relaxed);
    }
}

#[test]
fn supervisors_do_not_grow_lose_rows_or_leave_processes() {
    let Some(world) = agents::world("the soak") else { return };
    if let Some(program) = std::env::var_os("BOOKEND_SOAK_OF") {
        world.install(program.as_ref());
    }
    let duration = std::env::var("BOOKEND_SOAK").ok();
    let duration = duration.map(|text| humantime::parse_duration(&text).expect("BOOKEND_SOAK is a duration"));
    let (length, at_once) = duration.map_or(SHORT, |length| (length, AT_ONCE));
    let mut soak = Soak {
        world,
        seed: fault::seed("BOOKEND_SOAK_SEED"),
        length,
        at_once: fault::number("BOOKEND_SOAK_AT_ONCE").map_or(at_once, |n| n as usize),
        began: OnceLock::new(),
        is_over: AtomicBool::new(false),
        alive: AtomicUsize::new(0),
        violations: Mutex::new(Vec::new()),
    };
    let bystander = agents::bystander(&soak.world);
    let long_lived = soak.at_once / LONG_LIVED_SHARE;
    let next = AtomicUsize::new(0);
    let observations = std::thread::scope(|scope| {
        let soak = &soak;
        let next = &next;
        let end = EndOnDrop(soak);
        let supervisors = long_lived::start(soak, scope, long_lived);
        let slots: Vec<_> = (long_lived..soak.at_once)
            .map(|slot| scope.spawn(move || runs::one_after_another(soak, slot, next)))
            .collect();
        soak.eventually("all supervisors to run at once", || {
            soak.alive.load(Ordering::Relaxed) == soak.at_once
        });
        soak.began.get_or_init(Instant::now);
        let background = background::start(soak, scope, supervisors);
        pause(soak.length);
        drop(end);
        let runs = slots.into_iter().flat_map(|s| s.join().expect("a slot")).collect();
        background.join(runs)
    });
    soak.world.renew_deadline();
    checks::check_all(&soak, &bystander, &observations);
    let violations = std::mem::take(&mut *soak.violations.lock().expect("the list"));
    let count = violations.len();
    let printed: Vec<String> = violations.into_iter().take(MAX_PRINTED).collect();
    assert!(printed.is_empty(), "seed {}, {count} violations:\n  {}", soak.seed, printed.join("\n  "));
}
