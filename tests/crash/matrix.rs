//! The crash matrix: each point that a scenario passes, each time it passes it × SIGKILL, an I/O error, a
//! panic.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::agents;
use super::invariants;
use super::points;
use super::scenarios::{self, Scenario};
use crate::harness::{End, Output, World, print_line};

/// How often a point is taken that is passed again and again; all of them with `BOOKEND_CRASH_ALL=1`.
const TIMES: usize = 3;

struct Cell<'a> {
    scenario: &'a Scenario,
    /// `point#n:action`
    fails: String,
}

/// `BOOKEND_CRASH_ONLY=TEXT` takes the cells with TEXT in their names, such as `recovers mark.ended#1:kill`.
#[test]
fn killed_failing_or_panicking_at_each_step_everything_holds() {
    if agents::world("the crash matrix").is_none() {
        return;
    }
    let started = Instant::now();
    let mut reached = BTreeSet::new();
    let all = std::env::var_os("BOOKEND_CRASH_ALL").is_some();
    let mut panicked = BTreeSet::new();
    // Before anything is written all runs are alike, but for those that settle others.
    let written = points::STEPS.iter().position(|p| *p == "claim.inserted");
    let mut common = BTreeSet::new();
    let mut cells = Vec::new();
    let only = std::env::var("BOOKEND_CRASH_ONLY").unwrap_or_default();
    for scenario in scenarios::ALL {
        let passed = passed(scenario);
        reached.extend(passed.iter().map(|(point, ..)| point.clone()));
        for (point, nth, kind) in passed {
            let actions: &[&str] = match kind.as_str() {
                "io" => &["kill", "io", "panic"],
                "child" => &["kill"],
                _ => &["kill", "panic"],
            };
            let is_common = points::STEPS.iter().position(|p| *p == point) < written;
            let is_told = !is_common || scenario.settles || common.insert((point.clone(), nth));
            if all || (nth <= TIMES && is_told) {
                // What a panic unwinds through is the same in each scenario.
                let is_new = all || panicked.insert((point.clone(), nth));
                let actions = actions.iter().filter(|a| **a != "panic" || is_new);
                cells.extend(
                    actions.map(|action| Cell { scenario, fails: format!("{point}#{nth}:{action}") }),
                );
            }
        }
    }
    let never: Vec<_> = points::STEPS.iter().filter(|p| !reached.contains(**p)).collect();
    assert!(never.is_empty() || !only.is_empty(), "points that no scenario passes: {never:?}");
    cells.retain(|c| format!("{} {}", c.scenario.name, c.fails).contains(&only));
    assert!(!cells.is_empty(), "BOOKEND_CRASH_ONLY={only} names nothing");

    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    let workers = 2 * std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(cell) = cells.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Some(wrong) = wrong_with(cell) {
                        failed.lock().expect("the list").push(wrong);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("the list");
    assert!(failed.is_empty(), "{} of {}:\n{}", failed.len(), cells.len(), failed.join("\n"));
    print_line(&format!(
        "crash matrix: {} deaths and failures at {} points survived, in {:?}",
        cells.len(),
        reached.len(),
        started.elapsed()
    ));
}

/// Which points the scenario passes: name, the how manieth time, kind.
fn passed(scenario: &Scenario) -> Vec<(String, usize, String)> {
    let world = agents::world(scenario.name).expect("a world");
    (scenario.before)(&world);
    let command = (scenario.act)(&world)
        .env("BOOKEND_FAILPOINT_TRACE", world.path("trace"))
        .env("BOOKEND_FAILPOINT", scenario.given);
    command.run();
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

fn wrong_with(cell: &Cell<'_>) -> Option<String> {
    let what = format!("{}, {}", cell.scenario.name, cell.fails);
    let done = std::panic::catch_unwind(|| {
        let world = agents::world(cell.scenario.name).expect("a world");
        let bystander = agents::bystander(&world);
        (cell.scenario.before)(&world);
        let running_before = running(&world);
        let all = [cell.scenario.given, &cell.fails].join(",");
        let output = (cell.scenario.act)(&world).env("BOOKEND_FAILPOINT", all).run();
        let mut wrong = Vec::new();
        // Nothing is left that could panic once the commit is durable and before the guard stands.
        let is_real = !cell.fails.starts_with("claim.committed") || !cell.fails.ends_with(":panic");
        if !cell.fails.ends_with(":kill") && is_real {
            wrong.extend(left_running(&world, &running_before, &output));
        }
        wrong.extend(super::recover(&world).err());
        wrong.extend(invariants::violations(&world, &bystander));
        wrong.extend(said_success(&world, cell, &output));
        (!wrong.is_empty()).then(|| format!("{}\n      {output:?}", wrong.join("\n    ")))
    });
    match done {
        Ok(wrong) => wrong.map(|w| format!("  {what}:\n    {w}")),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
            Some(format!("  {what}: panicked: {text}"))
        }
    }
}

/// A run that was not killed ends its row itself, unless the ledger does not take it: then it says so.
fn left_running(world: &World, before: &[String], output: &Output) -> Option<String> {
    let open: Vec<_> = running(world).into_iter().filter(|id| !before.contains(id)).collect();
    let words = ["is not recorded", "it waits in", "committing the claim"];
    let says = words.iter().any(|w| output.stderr.contains(w));
    (!open.is_empty() && !says).then(|| format!("left running without a message: {open:?}"))
}

fn running(world: &World) -> Vec<String> {
    if !world.ledger().exists() {
        return Vec::new();
    }
    let rows = world.sql("SELECT id FROM task_history WHERE status = 'running'");
    rows.iter().map(|r| r.text("id")).collect()
}

/// What bookend gave its caller as the agent's success is a success in the ledger.
fn said_success(world: &World, cell: &Cell<'_>, output: &Output) -> Option<String> {
    if output.end != End::Code(0) || cell.scenario.name == "recovers" {
        return None;
    }
    let last = world.sql("SELECT * FROM task_history ORDER BY rowid DESC LIMIT 1").pop()?;
    // Neither ledger nor spool took it: then all that is left is to say so.
    let has_no_place = !cell.scenario.given.is_empty() && cell.fails.starts_with("spool.");
    let is_well =
        last.text("status") == "success" || (has_no_place && output.stderr.contains("is not recorded"));
    (!is_well).then(|| format!("exit code 0, but the row says {}", last.ending()))
}
