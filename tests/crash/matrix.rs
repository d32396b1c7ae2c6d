//! The crash matrix: every fail point that a scenario reaches, and every time it reaches it, × SIGKILL, an
//! I/O error and a panic.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::agents;
use super::invariants;
use super::points;
use super::scenarios::{self, Scenario};
use crate::harness::{End, Output, World, print_line};

/// The times that a repeatedly reached point is tried; with `BOOKEND_CRASH_ALL=1` all of them are.
const TIMES: usize = 3;
/// Around a monitor, many runs start and die for each fault.
const TIMES_OF_A_MONITOR: usize = 1;

struct Cell<'a> {
    scenario: &'a Scenario,
    /// The fault: `point#n:action`.
    fails: String,
    /// Whether a monitor recovers after the fault, instead of `recover`.
    then_monitor: bool,
}

/// `BOOKEND_CRASH_ONLY=TEXT` selects the cells whose names contain TEXT, such as
/// `recovers mark.ended#1:kill`.
#[test]
fn invariants_hold_after_a_kill_an_error_or_a_panic_at_every_step() {
    if agents::world("the crash matrix").is_none() {
        return;
    }
    let started = Instant::now();
    let mut reached = BTreeSet::new();
    let all = std::env::var_os("BOOKEND_CRASH_ALL").is_some();
    let mut panicked = BTreeSet::new();
    // Until the first write, runs behave alike, except for those that settle other tasks.
    let first_write = points::STEPS.iter().position(|p| *p == "claim.inserted");
    let mut common = BTreeSet::new();
    let mut cells = Vec::new();
    let only = std::env::var("BOOKEND_CRASH_ONLY").unwrap_or_default();
    for scenario in scenarios::ALL {
        let points = reached_points(scenario);
        reached.extend(points.iter().map(|(point, ..)| point.clone()));
        for (point, nth, kind) in points {
            let actions: &[&str] = match kind.as_str() {
                "io" => &["kill", "io", "panic"],
                "child" => &["kill"],
                _ => &["kill", "panic"],
            };
            let is_common = points::STEPS.iter().position(|p| *p == point) < first_write;
            let is_new_point = !is_common || scenario.settles || common.insert((point.clone(), nth));
            let times = if scenario.has_monitor() { TIMES_OF_A_MONITOR } else { TIMES };
            if all || (nth <= times && is_new_point) {
                // A panic unwinds through the same code in every scenario.
                let is_new_panic = all || panicked.insert((point.clone(), nth));
                for action in actions.iter().filter(|a| **a != "panic" || is_new_panic) {
                    let fails = format!("{point}#{nth}:{action}");
                    let then_monitor = cells.len() % 2 == 1;
                    cells.push(Cell { scenario, fails, then_monitor });
                }
            }
        }
    }
    let unreached: Vec<_> = points::STEPS.iter().filter(|p| !reached.contains(**p)).collect();
    assert!(unreached.is_empty() || !only.is_empty(), "points that no scenario reaches: {unreached:?}");
    cells.retain(|c| format!("{} {}", c.scenario.name, c.fails).contains(&only));
    assert!(!cells.is_empty(), "BOOKEND_CRASH_ONLY={only} matches no cell");

    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    let workers = 2 * std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(cell) = cells.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Some(failure) = run_cell(cell) {
                        failed.lock().expect("the list").push(failure);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("the list");
    assert!(failed.is_empty(), "{} of {}:\n{}", failed.len(), cells.len(), failed.join("\n"));
    print_line(&format!(
        "crash matrix: {} faults at {} points survived in {:?}",
        cells.len(),
        reached.len(),
        started.elapsed()
    ));
}

/// The points that the scenario reaches: name, count and kind.
fn reached_points(scenario: &Scenario) -> Vec<(String, usize, String)> {
    let world = agents::world(scenario.name).expect("a world");
    (scenario.before)(&world);
    let trace = world.name("trace");
    scenario.perform(&world, &[("BOOKEND_FAILPOINT_TRACE", &trace), ("BOOKEND_FAILPOINT", scenario.given)]);
    let given = scenario.given.split(':').next().unwrap_or_default();
    agents::lines(&world, "trace")
        .iter()
        .map(|line| {
            let (point, kind) = line.split_once(' ').expect("a point and its kind");
            let (name, nth) = point.split_once('#').expect("a name and a number");
            (name.to_owned(), nth.parse().expect("a number"), kind.to_owned())
        })
        .filter(|(name, ..)| name != given || given.is_empty())
        .collect()
}

fn run_cell(cell: &Cell<'_>) -> Option<String> {
    let then = if cell.then_monitor { "monitor" } else { "recover" };
    let what = format!("{}, {}, then {then}", cell.scenario.name, cell.fails);
    let done = std::panic::catch_unwind(|| {
        let mut world = agents::world(cell.scenario.name).expect("a world");
        let bystander = agents::bystander(&world);
        (cell.scenario.before)(&world);
        let running_before = running(&world);
        let all = [cell.scenario.given, &cell.fails].join(",");
        let output = cell.scenario.perform(&world, &[("BOOKEND_FAILPOINT", &all)]);
        let mut violations = Vec::new();
        // Between the durable commit and the creation of the guard, no code can panic.
        let is_unguarded = ["claim.committed", "spool.clear"].iter().any(|p| cell.fails.starts_with(p));
        let is_real = !is_unguarded || !cell.fails.ends_with(":panic");
        if cell.scenario.has_monitor() {
            // An error of the ledger does not end a monitor, and it settles all tasks then.
            if cell.fails.ends_with(":io") {
                let is_over = output.end != End::Signal(15);
                violations.extend(is_over.then(|| "an error ended the monitor".to_owned()));
                // The next recovery removes a slot that could not be removed.
                let left = super::pending(&world).into_iter().filter(|what| !what.ends_with(".slot"));
                let left: Vec<String> = left.collect();
                violations.extend((!left.is_empty()).then(|| format!("left by the monitor: {left:?}")));
            }
        } else if !cell.fails.ends_with(":kill") && is_real {
            violations.extend(left_running(&world, &running_before, &output));
        }
        world.renew_deadline();
        let recover = if cell.then_monitor { super::recover_by_monitor } else { super::recover };
        violations.extend(recover(&world).err());
        violations.extend(invariants::find_violations(&world, &bystander));
        violations.extend(handed_on_more_than_once(&world));
        violations.extend(success_is_recorded(&world, cell, &output));
        (!violations.is_empty()).then(|| format!("{}\n      {output:?}", violations.join("\n    ")))
    });
    match done {
        Ok(failure) => failure.map(|text| format!("  {what}:\n    {text}")),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
            Some(format!("  {what}: panicked: {text}"))
        }
    }
}

/// A run that was not killed ends its own row. If the ledger refuses the write, it reports that.
fn left_running(world: &World, before: &[String], output: &Output) -> Option<String> {
    let open: Vec<_> = running(world).into_iter().filter(|id| !before.contains(id)).collect();
    let words = ["is not recorded", "it waits in", "committing the claim"];
    let is_reported = words.iter().any(|w| output.stderr.contains(w));
    (!open.is_empty() && !is_reported).then(|| format!("left running without a message: {open:?}"))
}

fn running(world: &World) -> Vec<String> {
    if !world.ledger().exists() {
        return Vec::new();
    }
    let rows = world.sql("SELECT id FROM task_history WHERE status = 'running'");
    rows.iter().map(|r| r.text("id")).collect()
}

/// Each interrupted task is passed on once, but for the one whose `--on-interrupted` command the fault cut
/// off.
fn handed_on_more_than_once(world: &World) -> Option<String> {
    if !world.ledger().exists() {
        return None;
    }
    let handed_on = agents::lines(world, agents::HANDED_ON);
    let interrupted = world.sql("SELECT id FROM task_history WHERE status = 'interrupted'");
    let is_once = |id: &String| handed_on.contains(id);
    let is_right = interrupted.iter().map(|row| row.text("id")).all(|id| is_once(&id))
        && handed_on.len() <= interrupted.len() + 1;
    (!is_right).then(|| format!("handed on: {handed_on:?}, interrupted: {interrupted:?}"))
}

/// A run that exits with 0 is a success in the ledger.
fn success_is_recorded(world: &World, cell: &Cell<'_>, output: &Output) -> Option<String> {
    if output.end != End::Code(0) || cell.scenario.name == "recovers" || cell.scenario.has_monitor() {
        return None;
    }
    let last = world.sql("SELECT * FROM task_history ORDER BY rowid DESC LIMIT 1").pop()?;
    // If neither the ledger nor the spool takes the ending, bookend reports that.
    let has_no_place = !cell.scenario.given.is_empty() && cell.fails.starts_with("spool.");
    let is_recorded =
        last.text("status") == "success" || (has_no_place && output.stderr.contains("is not recorded"));
    (!is_recorded).then(|| format!("exit code 0, but the row says {}", last.ending()))
}
