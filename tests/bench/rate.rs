//! Many runs, some at a time, all in one ledger.

use std::time::Instant;

use nix::sys::wait::{WaitStatus, wait};

use crate::Bench;
use crate::figure::{Figure, Measured, Target};
use crate::harness::{World, on_path};
use crate::measure::{command, in_turns, installed, time};
use crate::start::{LEAST, RUN, TASK_SPOOLER, TINI, least};

const AT_ONCE: usize = 64;

pub fn measure(bench: &Bench) -> Vec<Figure> {
    let world = bench.world();
    time(&mut command(&world, &RUN));
    let ledger = world.ledger();
    let runs = if bench.quick { 500 } else { 2000 };
    let many = |what: &str| format!("{runs} {what}, {AT_ONCE} at a time");
    let target = Some(Target::AtLeast(0.6));
    let mut expected = 1;
    let mut beside = |what: &str, ours: &[&str], peer: &[&str], target| {
        if !on_path(peer[0]) {
            return Figure::not_measured(what, &peer.join(" "), target, peer[0]);
        }
        let pairs = in_turns(
            bench.pairs(5, 2),
            || {
                expected += runs;
                let rate = rate(&world, ours, runs);
                every_row_is_terminal(&world, expected);
                rate
            },
            || rate(&world, peer, runs),
        );
        Figure::new(what, &peer.join(" "), target, Measured::beside("/s", &pairs, pairs.len()))
    };
    let mut figures = vec![beside(&many("runs"), &RUN, &TINI, target)];
    figures.push(beside(&many(&format!("times {LEAST}")), &least(&ledger), &TINI, None));
    if on_path(TASK_SPOOLER[0]) {
        time(&mut command(&world, &["tsp", "-S", &AT_ONCE.to_string()]));
    }
    figures.push(beside(&many("runs"), &RUN, &TASK_SPOOLER, None));
    figures
}

/// Runs a second. Every one must end well: none was told that the ledger is busy.
#[expect(clippy::zombie_processes, reason = "whoever ends first is waited for, not this one")]
fn rate(world: &World, argv: &[&str], runs: usize) -> f64 {
    let (_program, mut command) = installed(world, argv);
    let (mut started, mut ended) = (0, 0);
    let began = Instant::now();
    while ended < runs {
        while started < runs && started - ended < AT_ONCE {
            command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
            started += 1;
        }
        match wait().expect("a child") {
            WaitStatus::Exited(_, 0) => ended += 1,
            other => panic!("{command:?}: {other:?}"),
        }
    }
    runs as f64 / began.elapsed().as_secs_f64()
}

fn every_row_is_terminal(world: &World, expected: usize) {
    let rows = world.sql("SELECT status, count(*) AS n FROM task_history GROUP BY status");
    let seen: Vec<_> = rows.iter().map(|r| (r.text("status"), r.text("n"))).collect();
    assert_eq!(seen, [("success".to_owned(), expected.to_string())], "the rows of the ledger");
}
