//! The storm: many runs at once under few keys. The supervisor, the agent or both are killed at random
//! moments while recoveries run, and part of the time a monitor, which is killed too. Afterwards it checks
//! the invariants, as the crash matrix does.
//!
//! `BOOKEND_STORM=N` sets the number of runs, `BOOKEND_STORM_SEED` repeats the choices of an earlier storm.

use std::collections::BTreeMap;
use std::io::{Read, Seek};
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::agents::{self, ON_FINISH, cursor};
use super::fault::{self, Dice, Fault, await_child, bookend, number, recovery};
use super::invariants;
use crate::harness::{End, Monitor, World, pause, print_line};

/// Fewer without fail points, where the storm is one test among many.
const RUNS: usize = if cfg!(feature = "failpoints") { 500 } else { 60 };
const AT_ONCE: usize = 16;
const KEYS: u64 = 12;
/// The longest time from the start of a run, or from its first fork, to the kill.
const LATEST_US: u64 = 100_000;

#[test]
fn invariants_hold_after_a_storm_of_kills() {
    let Some(mut world) = agents::world("the storm") else { return };
    let runs = number("BOOKEND_STORM").map_or(RUNS, |n| n as usize);
    let seed = fault::seed("BOOKEND_STORM_SEED");
    let started = Instant::now();
    let bystander = agents::bystander(&world);
    let (next, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let outcomes = Mutex::new(BTreeMap::new());
    let violations = Mutex::new(Vec::new());
    let (mut recoveries, mut monitors) = (0, 0);
    std::thread::scope(|scope| {
        let runners: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let n = next.fetch_add(1, Ordering::Relaxed);
                        if n >= runs {
                            break;
                        }
                        let (fault, end, stderr) = run_with_fault(&world, Dice::of(seed, n));
                        *outcomes.lock().expect("the count").entry((fault, end.clone())).or_insert(0usize) +=
                            1;
                        if !["0", "3", "75", "signal 9", "signal 15"].contains(&end.as_str()) {
                            violations
                                .lock()
                                .expect("the list")
                                .push(format!("run {n}, {fault:?}, ended with {end}: {stderr}"));
                        }
                    }
                })
            })
            .collect();
        let recoverers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut count = 0;
                    while !is_over.load(Ordering::Relaxed) {
                        let status = recovery(&world).status().expect("a recovery");
                        // 1: a task that was exiting at that moment could not be judged yet.
                        if !matches!(status.code(), Some(0 | 1)) {
                            violations
                                .lock()
                                .expect("the list")
                                .push(format!("a recovery ended with {status}"));
                        }
                        count += 1;
                        pause(Duration::from_millis(50));
                    }
                    count
                })
            })
            .collect();
        let watching = scope.spawn(|| run_monitors(&world, Dice::of(seed, runs), &is_over));
        for runner in runners {
            runner.join().expect("a runner");
        }
        is_over.store(true, Ordering::Relaxed);
        recoveries = recoverers.into_iter().map(|r| r.join().expect("a recovery")).sum();
        let wrong = watching.join().expect("the monitors").into_iter().inspect(|_| monitors += 1);
        violations.lock().expect("the list").extend(wrong.flatten());
    });
    let mut violations = violations.into_inner().expect("the list");
    let last = recovery(&world).status().expect("the last recovery");
    if !last.success() {
        violations.push(format!("the last recovery ended with {last}"));
    }
    world.renew_deadline();
    violations.extend(invariants::find_violations(&world, &bystander));
    let outcomes = outcomes.into_inner().expect("the count");
    assert!(violations.is_empty(), "seed {seed}, {outcomes:?}:\n  {}", violations.join("\n  "));
    print_line(&format!(
        "storm of {runs} runs, {AT_ONCE} at once, {recoveries} recoveries, {monitors} monitors, seed {seed}: \
         survived in {:?}",
        started.elapsed()
    ));
    for ((fault, end), count) in outcomes {
        print_line(&format!("  {count:5} × {fault:?}, ended with {end}"));
    }
    for row in world
        .sql("SELECT status, reason, count(*) AS n FROM task_history GROUP BY status, reason ORDER BY n DESC")
    {
        print_line(&format!("  {:>5} rows {}", row.text("n"), row.ending()));
    }
}

/// Runs one monitor after another, with pauses, and kills each or stops it. Returns what is wrong with each.
fn run_monitors(world: &World, mut dice: Dice, is_over: &AtomicBool) -> Vec<Option<String>> {
    let mut monitors = Vec::new();
    let mut wait_up_to = |limit: u64| {
        let until = Instant::now() + Duration::from_micros(dice.roll(limit));
        while !is_over.load(Ordering::Relaxed) && Instant::now() < until {
            pause(Duration::from_millis(5));
        }
        dice.roll(2) == 0
    };
    while !is_over.load(Ordering::Relaxed) {
        let monitor = Monitor::spawn(world, &[], &[], &["--grace", "200ms"]);
        if wait_up_to(10 * LATEST_US) {
            monitor.signal(Signal::KILL);
        }
        let output = monitor.end();
        let is_right = matches!(output.end, End::Signal(9 | 15));
        monitors.push((!is_right).then(|| format!("a monitor: {output:?}")));
        wait_up_to(5 * LATEST_US);
    }
    monitors
}

/// Starts one run and injects a fault.
fn run_with_fault(world: &World, mut dice: Dice) -> (Fault, String, String) {
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
    let fault = match dice.roll(8) {
        0..3 => Fault::SupervisorKilled,
        3 => Fault::AgentKilled,
        4 => Fault::BothKilled,
        5 => Fault::Signalled(15),
        _ => Fault::Nothing,
    };
    // A run that is not killed must end by itself.
    let how = match (dice.roll(8), fault) {
        (0, Fault::SupervisorKilled | Fault::BothKilled | Fault::Signalled(_)) => "stubborn",
        (1, Fault::SupervisorKilled | Fault::BothKilled | Fault::Signalled(_)) => "hang",
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
    if fault != Fault::Nothing {
        if dice.roll(3) > 0 {
            await_child(&mut child);
        }
        pause(moment);
    }
    fault.inject(&mut child);
    let end = fault::describe_end(child.wait().expect("its end"));
    let mut stderr = String::new();
    errors.rewind().and_then(|()| errors.read_to_string(&mut stderr)).expect("its stderr");
    (fault, end, stderr)
}
