//! The soak: a hundred supervisors for minutes. Some live all the time, beside agents that talk; the others
//! come and go, and what happens to agents happens to them: they succeed, fail, crash, hang, are stopped,
//! are killed. Recoveries recover and readers read. Nothing may grow, be lost or be left.
//!
//! `BOOKEND_SOAK=10m` sets how long, `BOOKEND_SOAK_AT_ONCE` how many, `BOOKEND_SOAK_SEED` repeats the
//! choices of an earlier one, `BOOKEND_SOAK_OF` is the program itself.

mod beside;
mod judgement;
mod lasting;
mod runs;

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use crate::crash::agents::{self, OVER};
use crate::crash::fault;
use crate::harness::{World, pause};

/// As one test among many.
const SHORT: (Duration, usize) = (Duration::from_secs(3), 16);
/// As what was asked for.
const AT_ONCE: usize = 100;
/// Of so many supervisors one lives all the time.
const LASTING: usize = 8;
/// How long they may take to begin.
const START: Duration = Duration::from_secs(120);
/// What is found wrong is told so often, at most.
const TOLD: usize = 60;

/// What all who take part share.
pub struct Soak {
    world: World,
    seed: u64,
    length: Duration,
    at_once: usize,
    /// When all of them lived.
    began: OnceLock<Instant>,
    is_over: AtomicBool,
    /// Supervisors that live now.
    alive: AtomicUsize,
    wrong: Mutex<Vec<String>>,
}

impl Soak {
    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Lets `time` pass, but not beyond the end; says whether it is over.
    fn rests(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        while !self.is_over() && Instant::now() < until {
            pause(Duration::from_millis(20).min(until.saturating_duration_since(Instant::now())));
        }
        self.is_over()
    }

    /// How much of the time has passed, from 0 to 1 and beyond.
    fn part(&self) -> f64 {
        self.began.get().map_or(0.0, |b| b.elapsed().as_secs_f64()) / self.length.as_secs_f64()
    }

    fn wrong(&self, what: String) {
        self.wrong.lock().expect("the list").push(what);
    }

    fn unless(&self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.wrong(what());
        }
    }

    /// Waits for what comes of itself, on a busy machine too.
    fn eventually(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let began = Instant::now();
        while !is_so() {
            assert!(began.elapsed() < START, "in vain: {what}");
            pause(Duration::from_millis(5));
        }
    }
}

/// Whatever way it ends, those who take part learn of it.
struct End<'a>(&'a Soak);

impl Drop for End<'_> {
    fn drop(&mut self) {
        fs::write(self.0.world.path(OVER), "").expect("the sign of the end");
        self.0.is_over.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_hundred_supervisors_grow_lose_and_leave_nothing() {
    let Some(world) = agents::world("the soak") else { return };
    if let Some(program) = std::env::var_os("BOOKEND_SOAK_OF") {
        let place = world.path("bin/bookend");
        fs::remove_file(&place).and_then(|()| symlink(program, place)).expect("the program in its place");
    }
    let asked = std::env::var("BOOKEND_SOAK").ok();
    let asked = asked.map(|text| humantime::parse_duration(&text).expect("BOOKEND_SOAK is a duration"));
    let (length, at_once) = asked.map_or(SHORT, |length| (length, AT_ONCE));
    let mut soak = Soak {
        world,
        seed: fault::seed("BOOKEND_SOAK_SEED"),
        length,
        at_once: fault::number("BOOKEND_SOAK_AT_ONCE").map_or(at_once, |n| n as usize),
        began: OnceLock::new(),
        is_over: AtomicBool::new(false),
        alive: AtomicUsize::new(0),
        wrong: Mutex::new(Vec::new()),
    };
    let bystander = agents::bystander(&soak.world);
    let lasting = soak.at_once / LASTING;
    let next = AtomicUsize::new(0);
    let seen = std::thread::scope(|scope| {
        let soak = &soak;
        let next = &next;
        let end = End(soak);
        let lives = lasting::start(soak, scope, lasting);
        let slots: Vec<_> = (lasting..soak.at_once)
            .map(|slot| scope.spawn(move || runs::one_after_another(soak, slot, next)))
            .collect();
        soak.eventually("all of them at once", || soak.alive.load(Ordering::Relaxed) == soak.at_once);
        soak.began.get_or_init(Instant::now);
        let beside = beside::start(soak, scope, lives);
        pause(soak.length);
        drop(end);
        let runs = slots.into_iter().flat_map(|s| s.join().expect("a slot")).collect();
        beside.join(runs)
    });
    soak.world.renew_deadline();
    judgement::judge(&soak, &bystander, &seen);
    let wrong = std::mem::take(&mut *soak.wrong.lock().expect("the list"));
    let count = wrong.len();
    let told: Vec<String> = wrong.into_iter().take(TOLD).collect();
    assert!(told.is_empty(), "seed {}, {count} violations:\n  {}", soak.seed, told.join("\n  "));
}
