//! What is checked at the end of the soak, and what is printed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use super::Soak;
use super::beside::{HANDED, LOCKED, LOG, LONG_READ, Seen, check_once, recover_once};
use super::lasting::{Life, Sample};
use super::runs::{Plan, Run};
use crate::crash::agents::lines;
use crate::crash::fault::bookend;
use crate::crash::invariants;
use crate::harness::{Proc, Row, all_processes, print_line};

/// A shorter soak tells nothing of growth.
const TELLING: Duration = Duration::from_secs(30);
const SAMPLES: usize = 10;
/// What a supervisor may have for itself, at most.
const MOST_KIB: u64 = 4096;
/// By how much the least of the last third may be more than that of the first. An agent that talks says a
/// hundred lines a second.
const GROWTH_KIB: u64 = 64;
/// Of the program and of the log's index.
const PAGED_IN_KIB: u64 = 1024;
/// It is emptied at 4 MiB; as much may come while somebody reads.
const LOG_KIB: u64 = 8 << 10;

pub fn judge(soak: &Soak, bystander: &Proc, seen: &Seen) {
    recover_once(soak, &[0]);
    check_once(soak);
    for what in invariants::violations(&soak.world, bystander) {
        soak.wrong(what);
    }
    let rows: BTreeMap<String, Row> = soak.world.rows().into_iter().map(|r| (r.text("id"), r)).collect();
    for run in &seen.runs {
        as_drawn(soak, run, rows.get(&run.plan.id));
    }
    for life in &seen.lives {
        if let Some(id) = &life.id {
            let ending = rows.get(id).map(Row::ending).unwrap_or_default();
            let is_due = ["success/", "interrupted/signal"].contains(&ending.as_str());
            soak.unless(is_due, || format!("{}: {ending}", life.name));
        }
    }
    handed(soak, &rows);
    let audit = bookend(&soak.world).args(["audit", "--json"]).output().expect("an audit");
    let findings: serde_json::Value = serde_json::from_slice(&audit.stdout).unwrap_or_default();
    let cut_off: BTreeSet<&str> =
        seen.runs.iter().filter(|r| r.plan.hook_may_fail()).map(|r| r.plan.id.as_str()).collect();
    for finding in findings["findings"].as_array().into_iter().flatten() {
        let is_due = finding["code"] == "delivery_failed"
            && finding["task"].as_str().is_some_and(|task| cut_off.contains(task));
        soak.unless(is_due, || format!("at the end: {finding}"));
    }
    soak.unless(findings["summary"].is_object(), || format!("at the end: {audit:?}"));
    let left: Vec<i32> = all_processes(&soak.world).into_iter().filter(|p| *p != bystander.pid()).collect();
    soak.unless(left.is_empty(), || format!("still run: {left:?}"));
    growth(soak, seen);
    let few = seen.alive.iter().filter(|alive| **alive < soak.at_once * 9 / 10).count();
    soak.unless(few * 20 <= seen.alive.len(), || {
        format!("{few} of {} times fewer than nine tenths of them lived", seen.alive.len())
    });
    report(soak, seen, &rows);
}

/// Whether a run ended as what was drawn for it says.
fn as_drawn(soak: &Soak, run: &Run, row: Option<&Row>) {
    let ending = row.map(Row::ending).unwrap_or_default();
    let plan = &run.plan;
    soak.unless(plan.may_end(&run.end, &ending), || {
        format!("left with {}, its row {ending:?}: {plan:?}: {}", run.end, run.said)
    });
    let unexpected = plan.unexpected(&run.end, &run.said);
    soak.unless(unexpected.is_empty(), || format!("{plan:?}, left with {}, said {unexpected:?}", run.end));
    // Who said nothing has counted nothing, which is not the same as 0.
    if let (Some(rounds @ 1..), Some(row), 2, "0") = (run.rounds, row, plan.program, run.end.as_str()) {
        let counted = (row.number("turns"), row.number("input_tokens"), row.number("output_tokens"));
        let [turns, read, written] = [1, 3, 2].map(|n| Some(rounds as i64 * n));
        soak.unless(counted == (turns, read, written), || {
            format!("{plan:?} talked {rounds} rounds: {counted:?}")
        });
    }
}

/// Each interrupted task was handed on once.
fn handed(soak: &Soak, rows: &BTreeMap<String, Row>) {
    let mut handed: BTreeMap<String, usize> = BTreeMap::new();
    for id in lines(&soak.world, HANDED) {
        *handed.entry(id).or_default() += 1;
    }
    for (id, row) in rows {
        let times = handed.remove(id).unwrap_or_default();
        let due = usize::from(row.text("status") == "interrupted");
        soak.unless(times == due, || format!("{id}, {}, was handed on {times} times", row.ending()));
    }
    soak.unless(handed.is_empty(), || format!("handed on, and no tasks: {handed:?}"));
}

/// Nothing grows: neither what lives all the time nor the log.
fn growth(soak: &Soak, seen: &Seen) {
    for life in &seen.lives {
        let most = life.samples.iter().map(|s| s.anonymous_kib).max();
        soak.unless(most.is_some_and(|kib| kib <= MOST_KIB), || format!("it is large: {}", told(life)));
        if soak.length < TELLING {
            continue;
        }
        // What comes and goes is not there in the best of moments.
        let least = |of: fn(&Sample) -> u64, from, to| life.between(from, to).map(of).min();
        let grown =
            |of| least(of, 0.7, 9.0).zip(least(of, 0.0, 0.4)).map(|(late, early)| late.saturating_sub(early));
        let is_flat = grown(|s| s.anonymous_kib).is_some_and(|kib| kib <= life.fills_kib + GROWTH_KIB)
            && grown(|s| s.rss_kib).is_some_and(|kib| kib <= life.fills_kib + GROWTH_KIB + PAGED_IN_KIB);
        soak.unless(is_flat && life.samples.len() >= SAMPLES, || format!("it grows: {}", told(life)));
    }
    if soak.length >= TELLING {
        let calm = seen.log_between(0.0, LONG_READ.0).max(seen.log_between(0.8, 9.0));
        soak.unless(calm <= LOG_KIB, || format!("the log is {calm} KiB, and nobody reads for long"));
    }
}

fn report(soak: &Soak, seen: &Seen, rows: &BTreeMap<String, Row>) {
    let (runs, alive) = (seen.runs.len(), &seen.alive);
    let average = alive.iter().sum::<usize>() as f64 / alive.len().max(1) as f64;
    let least = alive.iter().min().copied().unwrap_or_default();
    print_line(&format!(
        "soak of {:?}, seed {}: {} supervisors at once (at least {least}, on average {average:.1}), of which \
         {} all the time; {runs} other runs, {} rows",
        soak.length,
        soak.seed,
        soak.at_once,
        seen.lives.iter().filter(|l| l.id.is_some()).count(),
        rows.len(),
    ));
    let table = |of: &mut dyn Iterator<Item = String>| {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        of.for_each(|what| *counts.entry(what).or_default() += 1);
        counts.into_iter().map(|(what, n)| format!("{n} {what}")).collect::<Vec<_>>().join(", ")
    };
    let plans = || seen.runs.iter().map(|r| &r.plan);
    print_line(&format!("  agents: {}", table(&mut plans().map(|p| format!("{:?}", p.how)))));
    let fault = |p: &Plan| if p.is_cancelled { "Cancelled".to_owned() } else { format!("{:?}", p.fault) };
    print_line(&format!("  faults: {}", table(&mut plans().map(fault))));
    print_line(&format!("  runs left with: {}", table(&mut seen.runs.iter().map(|r| r.end.clone()))));
    let ending = |row: &Row| format!("{} ({})", row.ending(), row.text("end_source"));
    print_line(&format!("  rows: {}", table(&mut rows.values().map(ending))));
    print_line(&format!(
        "  beside: {} recoveries, the longest {:.1?}; {} checks of the whole ledger; {} times locked by \
         another program for {:?}",
        seen.recoveries.0, seen.recoveries.1, seen.checks, seen.locks, LOCKED
    ));
    for (words, (n, longest)) in &seen.looks {
        print_line(&format!("  {n:>6} × bookend {words}, the longest {longest:.1?}"));
    }
    print_line(&format!(
        "  log, at most: {} KiB before the long read, {} during, {} after, {} in the last fifth; {} at the \
         end; ledger {} KiB",
        seen.log_between(0.0, LONG_READ.0),
        seen.log_between(LONG_READ.0, LONG_READ.1),
        seen.log_between(LONG_READ.1, 0.8),
        seen.log_between(0.8, 9.0),
        fs::metadata(soak.world.path(LOG)).map_or(0, |m| m.len() / 1024),
        fs::metadata(soak.world.ledger()).map_or(0, |m| m.len() / 1024),
    ));
    for life in &seen.lives {
        print_line(&format!("  {}", told(life)));
    }
}

/// The figures of one that lived all the time, at least and at most in the first, the second and the last
/// third of it.
fn told(life: &Life) -> String {
    let range = |of: fn(&Sample) -> u64, from: f64, to: f64| {
        let inside = || life.between(from, to).map(of);
        format!("{}..{}", inside().min().unwrap_or_default(), inside().max().unwrap_or_default())
    };
    let thirds = |of: fn(&Sample) -> u64| {
        [(0.0, 0.4), (0.4, 0.7), (0.7, 9.0)].map(|(from, to)| range(of, from, to)).join(" ")
    };
    format!(
        "{:<30} anonymous {} KiB, rss {} KiB, files {}, {} times measured",
        life.name,
        thirds(|s| s.anonymous_kib),
        thirds(|s| s.rss_kib),
        range(|s| s.files as u64, 0.0, 9.0),
        life.samples.len(),
    )
}
