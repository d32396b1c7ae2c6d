//! The checks at the end of the soak, and its report.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use super::Soak;
use super::background::{LOCK_DURATION, LONG_READ, Observations, WAL, check_once, recover_once};
use super::long_lived::{Sample, Supervisor};
use super::runs::{Plan, Run};
use crate::crash::agents::{HANDED_ON, lines};
use crate::crash::fault::bookend;
use crate::crash::invariants;
use crate::harness::{Proc, Row, all_processes, print_line};

/// A shorter soak is no evidence about growth.
const GROWTH_MIN_DURATION: Duration = Duration::from_secs(30);
const MIN_SAMPLES: usize = 10;
/// The largest anonymous memory of a supervisor.
const ANONYMOUS_LIMIT_KIB: u64 = 4096;
/// The growth allowed from the minimum of the first third to that of the last. An agent prints a hundred
/// lines a second.
const GROWTH_KIB: u64 = 64;
/// Pages of the program and of the WAL index that are read later.
const PAGED_IN_KIB: u64 = 1024;
/// bookend resets the WAL at 4 MiB. It may grow by as much during a read.
const WAL_LIMIT_KIB: u64 = 8 << 10;

pub fn check_all(soak: &Soak, bystander: &Proc, observations: &Observations) {
    recover_once(soak, &[0]);
    check_once(soak);
    for what in invariants::find_violations(&soak.world, bystander) {
        soak.report_violation(what);
    }
    let rows: BTreeMap<String, Row> = soak.world.rows().into_iter().map(|r| (r.text("id"), r)).collect();
    for run in &observations.runs {
        check_run(soak, run, rows.get(&run.plan.id));
    }
    for supervisor in &observations.supervisors {
        if let Some(id) = &supervisor.id {
            let ending = rows.get(id).map(Row::ending).unwrap_or_default();
            let is_expected = ["success/", "interrupted/signal"].contains(&ending.as_str());
            soak.unless(is_expected, || format!("{}: {ending}", supervisor.name));
        }
    }
    check_handed_on(soak, &rows);
    let audit = bookend(&soak.world).args(["audit", "--json"]).output().expect("an audit");
    let findings: serde_json::Value = serde_json::from_slice(&audit.stdout).unwrap_or_default();
    let cut_off: BTreeSet<&str> =
        observations.runs.iter().filter(|r| r.plan.hook_may_fail()).map(|r| r.plan.id.as_str()).collect();
    for finding in findings["findings"].as_array().into_iter().flatten() {
        let is_expected = finding["code"] == "delivery_failed"
            && finding["task"].as_str().is_some_and(|task| cut_off.contains(task));
        soak.unless(is_expected, || format!("unexpected finding at the end: {finding}"));
    }
    soak.unless(findings["summary"].is_object(), || format!("audit failed at the end: {audit:?}"));
    let left: Vec<i32> = all_processes(&soak.world).into_iter().filter(|p| *p != bystander.pid()).collect();
    soak.unless(left.is_empty(), || format!("still running: {left:?}"));
    check_growth(soak, observations);
    let few = observations.alive.iter().filter(|alive| **alive < soak.at_once * 9 / 10).count();
    soak.unless(few * 20 <= observations.alive.len(), || {
        format!(
            "in {few} of {} samples fewer than nine tenths of the supervisors ran",
            observations.alive.len()
        )
    });
    report(soak, observations, &rows);
}

/// Checks that a run ended as its plan allows.
fn check_run(soak: &Soak, run: &Run, row: Option<&Row>) {
    let ending = row.map(Row::ending).unwrap_or_default();
    let plan = &run.plan;
    soak.unless(plan.may_end(&run.end, &ending), || {
        format!("ended with {}, its row {ending:?}: {plan:?}: {}", run.end, run.stderr)
    });
    let unexpected = plan.unexpected(&run.end, &run.stderr);
    soak.unless(unexpected.is_empty(), || {
        format!("{plan:?}, ended with {}, printed {unexpected:?}", run.end)
    });
    // An agent that printed nothing has no counts, which is not the same as 0.
    if let (Some(rounds @ 1..), Some(row), 2, "0") = (run.rounds, row, plan.program, run.end.as_str()) {
        let counted = (row.number("turns"), row.number("input_tokens"), row.number("output_tokens"));
        let [turns, input, output] = [1, 3, 2].map(|n| Some(rounds as i64 * n));
        soak.unless(counted == (turns, input, output), || {
            format!("{plan:?} printed {rounds} rounds: {counted:?}")
        });
    }
}

/// Checks that each interrupted task was handed on once.
fn check_handed_on(soak: &Soak, rows: &BTreeMap<String, Row>) {
    let mut handed_on: BTreeMap<String, usize> = BTreeMap::new();
    for id in lines(&soak.world, HANDED_ON) {
        *handed_on.entry(id).or_default() += 1;
    }
    for (id, row) in rows {
        let times = handed_on.remove(id).unwrap_or_default();
        let expected = usize::from(row.text("status") == "interrupted");
        soak.unless(times == expected, || format!("{id}, {}, was handed on {times} times", row.ending()));
    }
    soak.unless(handed_on.is_empty(), || format!("handed on, but not in the ledger: {handed_on:?}"));
}

/// Checks that neither the long-lived supervisors nor the WAL grow.
fn check_growth(soak: &Soak, observations: &Observations) {
    for supervisor in &observations.supervisors {
        let most = supervisor.samples.iter().map(|s| s.anonymous_kib).max();
        soak.unless(most.is_some_and(|kib| kib <= ANONYMOUS_LIMIT_KIB), || {
            format!("too much memory: {}", describe(supervisor))
        });
        if soak.length < GROWTH_MIN_DURATION {
            continue;
        }
        // The minimum excludes memory that is used for a moment.
        let least = |of: fn(&Sample) -> u64, from, to| supervisor.between(from, to).map(of).min();
        let grown =
            |of| least(of, 0.7, 9.0).zip(least(of, 0.0, 0.4)).map(|(late, early)| late.saturating_sub(early));
        let is_flat = grown(|s| s.anonymous_kib).is_some_and(|kib| kib <= supervisor.fills_kib + GROWTH_KIB)
            && grown(|s| s.rss_kib)
                .is_some_and(|kib| kib <= supervisor.fills_kib + GROWTH_KIB + PAGED_IN_KIB);
        soak.unless(is_flat && supervisor.samples.len() >= MIN_SAMPLES, || {
            format!("growing: {}", describe(supervisor))
        });
    }
    if soak.length >= GROWTH_MIN_DURATION {
        let largest = observations
            .largest_wal_between(0.0, LONG_READ.0)
            .max(observations.largest_wal_between(0.8, 9.0));
        soak.unless(largest <= WAL_LIMIT_KIB, || format!("the WAL is {largest} KiB without a long reader"));
    }
}

fn report(soak: &Soak, observations: &Observations, rows: &BTreeMap<String, Row>) {
    let (runs, alive) = (observations.runs.len(), &observations.alive);
    let average = alive.iter().sum::<usize>() as f64 / alive.len().max(1) as f64;
    let least = alive.iter().min().copied().unwrap_or_default();
    print_line(&format!(
        "soak of {:?}, seed {}: {} supervisors at once (at least {least}, on average {average:.1}), \
         {} of them long-lived; {runs} other runs, {} rows",
        soak.length,
        soak.seed,
        soak.at_once,
        observations.supervisors.iter().filter(|l| l.id.is_some()).count(),
        rows.len(),
    ));
    let table = |items: &mut dyn Iterator<Item = String>| {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        items.for_each(|what| *counts.entry(what).or_default() += 1);
        counts.into_iter().map(|(what, n)| format!("{n} {what}")).collect::<Vec<_>>().join(", ")
    };
    let plans = || observations.runs.iter().map(|r| &r.plan);
    print_line(&format!("  agents: {}", table(&mut plans().map(|p| format!("{:?}", p.how)))));
    let fault = |p: &Plan| if p.is_cancelled { "Cancelled".to_owned() } else { format!("{:?}", p.fault) };
    print_line(&format!("  faults: {}", table(&mut plans().map(fault))));
    print_line(&format!(
        "  runs ended with: {}",
        table(&mut observations.runs.iter().map(|r| r.end.clone()))
    ));
    let ending = |row: &Row| format!("{} ({})", row.ending(), row.text("end_source"));
    print_line(&format!("  rows: {}", table(&mut rows.values().map(ending))));
    print_line(&format!(
        "  in the background: {} recoveries, the longest {:.1?}; {} checks of the whole ledger; {} locks by \
         another program of {:?}",
        observations.recoveries.0,
        observations.recoveries.1,
        observations.checks,
        observations.locks,
        LOCK_DURATION
    ));
    for (words, (n, longest)) in &observations.reads {
        print_line(&format!("  {n:>6} × bookend {words}, the longest {longest:.1?}"));
    }
    print_line(&format!(
        "  WAL, at most: {} KiB before the long read, {} during, {} after, {} in the last fifth; {} at the \
         end; ledger {} KiB",
        observations.largest_wal_between(0.0, LONG_READ.0),
        observations.largest_wal_between(LONG_READ.0, LONG_READ.1),
        observations.largest_wal_between(LONG_READ.1, 0.8),
        observations.largest_wal_between(0.8, 9.0),
        fs::metadata(soak.world.path(WAL)).map_or(0, |m| m.len() / 1024),
        fs::metadata(soak.world.ledger()).map_or(0, |m| m.len() / 1024),
    ));
    for supervisor in &observations.supervisors {
        print_line(&format!("  {}", describe(supervisor)));
    }
}

/// The figures of a long-lived supervisor: the minimum and maximum in each third of the duration.
fn describe(supervisor: &Supervisor) -> String {
    let range = |of: fn(&Sample) -> u64, from: f64, to: f64| {
        let inside = || supervisor.between(from, to).map(of);
        format!("{}..{}", inside().min().unwrap_or_default(), inside().max().unwrap_or_default())
    };
    let thirds = |of: fn(&Sample) -> u64| {
        [(0.0, 0.4), (0.4, 0.7), (0.7, 9.0)].map(|(from, to)| range(of, from, to)).join(" ")
    };
    format!(
        "{:<30} anonymous {} KiB, rss {} KiB, files {}, {} samples",
        supervisor.name,
        thirds(|s| s.anonymous_kib),
        thirds(|s| s.rss_kib),
        range(|s| s.files as u64, 0.0, 9.0),
        supervisor.samples.len(),
    )
}
