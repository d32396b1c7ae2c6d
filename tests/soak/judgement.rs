//! What is looked at when all is over, and what is told of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use super::Soak;
use super::beside::{HANDED, LONG_READ, Seen, check_once, recover_once};
use super::lasting::{Life, Sample};
use super::runs::Run;
use crate::crash::agents::lines;
use crate::crash::fate::bookend;
use crate::crash::invariants;
use crate::harness::{Proc, Row, inhabitants, say};

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
    let cut_off: BTreeSet<&str> = seen
        .runs
        .iter()
        .filter(|r| r.plan.is_told() && r.plan.has_hooks)
        .map(|r| r.plan.id.as_str())
        .collect();
    for finding in findings["findings"].as_array().into_iter().flatten() {
        let is_due = finding["code"] == "delivery_failed"
            && finding["task"].as_str().is_some_and(|task| cut_off.contains(task));
        soak.unless(is_due, || format!("at the end: {finding}"));
    }
    soak.unless(findings["summary"].is_object(), || format!("at the end: {audit:?}"));
    let left: Vec<i32> = inhabitants(&soak.world).into_iter().filter(|p| *p != bystander.pid()).collect();
    soak.unless(left.is_empty(), || format!("still run: {left:?}"));
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
    if let (Some(rounds), Some(row), 2, "0") = (run.rounds, row, plan.program, run.end.as_str()) {
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

fn report(soak: &Soak, seen: &Seen, rows: &BTreeMap<String, Row>) {
    say(&format!(
        "soak of {:?}, {} supervisors at once, seed {}: {} runs, {} rows",
        soak.length,
        soak.at_once,
        soak.seed,
        seen.runs.len(),
        rows.len()
    ));
    let count = |alive: &[usize]| {
        let sum: usize = alive.iter().sum();
        (alive.iter().min().copied().unwrap_or_default(), sum as f64 / alive.len().max(1) as f64)
    };
    let settled = &seen.alive[seen.alive.len() / 10..];
    say(&format!("  alive: at least, on average {:?}", count(settled)));
    let mut met: BTreeMap<String, usize> = BTreeMap::new();
    for run in &seen.runs {
        let cancelled = if run.plan.is_cancelled { ", cancelled" } else { "" };
        *met.entry(format!("{:?}, {:?}{cancelled}", run.plan.how, run.plan.fate)).or_default() += 1;
    }
    for (what, n) in met {
        say(&format!("  {n:>6} × {what}"));
    }
    let mut endings: BTreeMap<String, usize> = BTreeMap::new();
    for row in rows.values() {
        *endings.entry(format!("{} by {}", row.ending(), row.text("end_source"))).or_default() += 1;
    }
    for (ending, n) in endings {
        say(&format!("  {n:>6} rows {ending}"));
    }
    let mut ends: BTreeMap<&str, usize> = BTreeMap::new();
    for run in &seen.runs {
        *ends.entry(&run.end).or_default() += 1;
    }
    say(&format!("  left with: {ends:?}"));
    say(&format!(
        "  {:.0?} recoveries, {} checks of the ledger, {} locks",
        seen.recoveries, seen.checks, seen.locks
    ));
    for (words, (n, longest)) in &seen.looks {
        say(&format!("  {n:>6} × bookend {words}, the longest {longest:.0?}"));
    }
    let largest = |from: f64, to: f64| {
        let inside = seen.log.iter().filter(|(part, _)| (from..to).contains(part));
        inside.map(|(_, size)| size / 1024).max().unwrap_or_default()
    };
    say(&format!(
        "  log: {} KiB before the long read, {} during, {} after, {} in the last fifth; ledger {} KiB",
        largest(0.0, LONG_READ.0),
        largest(LONG_READ.0, LONG_READ.1),
        largest(LONG_READ.1, 0.8),
        largest(0.8, 9.0),
        fs::metadata(soak.world.ledger()).map_or(0, |m| m.len() / 1024),
    ));
    for life in &seen.lives {
        say(&format!("  {}", measured(life)));
    }
}

fn measured(life: &Life) -> String {
    let range = |of: fn(&Sample) -> u64, from: f64, to: f64| {
        let inside = || life.samples.iter().filter(|s| (from..to).contains(&s.part)).map(of);
        format!("{}..{}", inside().min().unwrap_or_default(), inside().max().unwrap_or_default())
    };
    let thirds = |of: fn(&Sample) -> u64| {
        [(0.0, 0.4), (0.4, 0.7), (0.7, 9.0)].map(|(from, to)| range(of, from, to)).join(" ")
    };
    format!(
        "{:<36} anonymous {} KiB, rss {} KiB, files {}",
        life.name,
        thirds(|s| s.anonymous_kib),
        thirds(|s| s.rss_kib),
        range(|s| s.files as u64, 0.0, 9.0)
    )
}
