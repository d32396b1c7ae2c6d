//! The storm: many runs at once under few keys, killed at random moments, supervisor, agent or both, with
//! recoveries beside them; then what always holds is looked at as in the matrix.
//!
//! `BOOKEND_STORM=N` sets how many runs, `BOOKEND_STORM_SEED` repeats the choices of an earlier storm.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Seek};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::agents::{self, ON_FINISH, cursor};
use super::invariants;
use crate::harness::{World, pause, say, stat_field};

/// With fail points the build is for this; else it is one test among many.
const RUNS: usize = if cfg!(feature = "failpoints") { 500 } else { 60 };
const AT_ONCE: usize = 16;
const KEYS: u64 = 12;
/// How far the moment of a kill lies, at most, from the start of the run or from its first fork.
const LATEST_US: u64 = 100_000;

/// SplitMix64 (Steele, Lea, Flood 2014): every run's choices follow from the seed and its number.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    Spared,
    SupervisorKilled,
    AgentKilled,
    BothKilled,
    Told,
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|n| n.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[test]
fn whoever_dies_in_a_storm_everything_holds_after_it() {
    let Some(mut world) = agents::world("the storm") else { return };
    let runs = number("BOOKEND_STORM").map_or(RUNS, |n| n as usize);
    let seed = number("BOOKEND_STORM_SEED").unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(0, |d| d.as_nanos() as u64)
    });
    let started = Instant::now();
    let bystander = agents::bystander(&world);
    let (next, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let met = Mutex::new(BTreeMap::new());
    let wrong = Mutex::new(Vec::new());
    let mut recoveries = 0;
    std::thread::scope(|scope| {
        let runners: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let n = next.fetch_add(1, Ordering::Relaxed);
                        if n >= runs {
                            break;
                        }
                        let (fate, end, said) =
                            one(&world, Dice(seed ^ (n as u64).wrapping_mul(0x2545_f491_4f6c_dd1d)));
                        *met.lock().expect("the count").entry((fate, end.clone())).or_insert(0usize) += 1;
                        if !["0", "3", "75", "signal 9", "signal 15"].contains(&end.as_str()) {
                            wrong
                                .lock()
                                .expect("the list")
                                .push(format!("run {n}, {fate:?}, left with {end}: {said}"));
                        }
                    }
                })
            })
            .collect();
        let beside: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut count = 0;
                    while !is_over.load(Ordering::Relaxed) {
                        let status = recovery(&world).status().expect("a recovery");
                        // 1: a task that was leaving at that moment was in doubt.
                        if !matches!(status.code(), Some(0 | 1)) {
                            wrong.lock().expect("the list").push(format!("a recovery left with {status}"));
                        }
                        count += 1;
                        pause(Duration::from_millis(50));
                    }
                    count
                })
            })
            .collect();
        for runner in runners {
            runner.join().expect("a runner");
        }
        is_over.store(true, Ordering::Relaxed);
        recoveries = beside.into_iter().map(|b| b.join().expect("a recovery")).sum();
    });
    let mut wrong = wrong.into_inner().expect("the list");
    let last = recovery(&world).status().expect("the last recovery");
    if !last.success() {
        wrong.push(format!("the last recovery left with {last}"));
    }
    world.renew_deadline();
    wrong.extend(invariants::violations(&world, &bystander));
    let met = met.into_inner().expect("the count");
    assert!(wrong.is_empty(), "seed {seed}, {met:?}:\n  {}", wrong.join("\n  "));
    say(&format!(
        "storm of {runs} runs, {AT_ONCE} at once, {recoveries} recoveries, seed {seed}: survived in {:?}",
        started.elapsed()
    ));
    for ((fate, end), count) in met {
        say(&format!("  {count:5} × {fate:?}, left with {end}"));
    }
    for row in world
        .sql("SELECT status, reason, count(*) AS n FROM task_history GROUP BY status, reason ORDER BY n DESC")
    {
        say(&format!("  {:>5} rows {}", row.text("n"), row.ending()));
    }
}

fn recovery(world: &World) -> Command {
    let mut command = bookend(world);
    command.args(["recover", "--grace", "200ms"]).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// bookend in a world where files are made for all to read.
fn bookend(world: &World) -> Command {
    let mut command = Command::new(world.path("bin/probe"));
    command
        .args(["with", "umask=0", "--", "bookend"])
        .env_clear()
        .envs(world.environment())
        .current_dir(world.path("home"))
        .stdin(Stdio::null());
    command
}

/// One run and what befalls it.
fn one(world: &World, mut dice: Dice) -> (Fate, String, String) {
    let mut command = bookend(world);
    command.args(["run", "-q", "--grace", "200ms"]);
    if dice.roll(8) > 0 {
        command.args(["--key", &format!("forgejo:dev:charles/storm:{}", dice.roll(KEYS))]);
    }
    if dice.roll(4) == 0 {
        command.args(["--wait"]);
    }
    if dice.roll(4) == 0 {
        command.args(["--on-finish", ON_FINISH]);
    }
    let fate = match dice.roll(8) {
        0..3 => Fate::SupervisorKilled,
        3 => Fate::AgentKilled,
        4 => Fate::BothKilled,
        5 => Fate::Told,
        _ => Fate::Spared,
    };
    // One that nobody kills must end by itself.
    let how = match (dice.roll(8), fate) {
        (0, Fate::SupervisorKilled | Fate::BothKilled | Fate::Told) => "stubborn",
        (1, Fate::SupervisorKilled | Fate::BothKilled | Fate::Told) => "hang",
        (2, _) => "fail",
        (3..6, _) => "nap",
        _ => "ok",
    };
    command.arg("--");
    match dice.roll(3) {
        0 => command.args(["agent", how]),
        _ => command.args(cursor(how)),
    };
    let mut errors = tempfile::tempfile().expect("a file for stderr");
    command.stdout(Stdio::null()).stderr(errors.try_clone().expect("stderr"));
    let mut child = command.spawn().expect("a run");
    let moment = Duration::from_micros(dice.roll(LATEST_US));
    if fate != Fate::Spared {
        if dice.roll(3) > 0 {
            await_child(&mut child);
        }
        pause(moment);
    }
    if matches!(fate, Fate::AgentKilled | Fate::BothKilled) {
        kill_children(child.id());
    }
    match fate {
        Fate::SupervisorKilled | Fate::BothKilled => child.kill().expect("a signal to our child"),
        Fate::Told => tell(&child),
        Fate::AgentKilled | Fate::Spared => {}
    }
    let end = end(child.wait().expect("its end"));
    let mut said = String::new();
    errors.rewind().and_then(|()| errors.read_to_string(&mut said)).expect("what it said");
    (fate, end, said)
}

fn end(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => code.to_string(),
        (None, signal) => format!("signal {}", signal.unwrap_or_default()),
    }
}

fn tell(child: &Child) {
    // Not waited for yet, so the pid means our child.
    let _ = rustix::process::kill_process(Pid::from_child(child), Signal::TERM);
}

/// Waits until bookend has forked, so that a slow start is not all that is ever hit.
fn await_child(run: &mut Child) {
    let children = format!("/proc/{0}/task/{0}/children", run.id());
    let has_child = || fs::read_to_string(&children).is_ok_and(|c| !c.trim().is_empty());
    while !has_child() && run.try_wait().is_ok_and(|ended| ended.is_none()) {
        pause(Duration::from_millis(1));
    }
}

/// Kills what runs right below `parent`: the agent, at the gate or behind it, or a hook. The witness, which
/// has no life of its own, is spared.
fn kill_children(parent: u32) {
    let list = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    for pid in list.split_whitespace().filter_map(|p| p.parse().ok()) {
        let Some(Ok(handle)) = Pid::from_raw(pid).map(|p| pidfd_open(p, PidfdFlags::empty())) else {
            continue;
        };
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        // Asked behind the handle: the number could have become somebody else's.
        if stat_field(pid, 4) == Some(parent.to_string()) && name.trim_end() != "bookend-witness" {
            let _ = pidfd_send_signal(&handle, Signal::KILL);
        }
    }
}

#[test]
fn the_storms_choices_follow_from_its_seed() {
    let rolls = |seed| {
        let mut dice = Dice(seed);
        (0..8).map(|_| dice.roll(100)).collect::<Vec<_>>()
    };
    assert_eq!(rolls(7), rolls(7));
    assert_ne!(rolls(7), rolls(8));
}
