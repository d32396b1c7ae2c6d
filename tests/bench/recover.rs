//! `recover` after a hundred supervisors were killed, in a ledger with a long past beside one with a short.

use std::process::{Child, Stdio};

use crate::Bench;
use crate::figure::{Figure, Measured, Target};
use crate::harness::{Deadline, World, eventually, marked};
use crate::history;
use crate::measure::{command, in_turns, time};

const DEAD: usize = 100;

pub fn measure(bench: &Bench) -> Vec<Figure> {
    let (large_rows, name) = if bench.quick { (100_000, "100,000") } else { (1_000_000, "a million") };
    let (small, large) = (bench.world(), bench.world());
    history::fill(&small, 1_000);
    history::fill(&large, large_rows);
    let recover = |world: &World| {
        die(world);
        let took = time(&mut command(world, &["bookend", "recover"]));
        let left = world.sql("SELECT id FROM task_history WHERE status = 'running'");
        assert!(left.is_empty(), "recover left {left:?}");
        took
    };
    let pairs = in_turns(bench.pairs(7, 3), || recover(&large), || recover(&small));
    let what = format!("`recover` of {DEAD} dead after {name} others");
    let measured = Measured::beside("ms", &pairs, pairs.len());
    vec![Figure::new(&what, "after 1,000", Some(Target::AtMost(2.0)), measured)]
}

/// Leaves so many rows that say `running`, and nobody behind them.
fn die(world: &World) {
    let mut run = command(world, &["bookend", "run", "--", "sleep", "1000"]);
    let start = |_| run.stdin(Stdio::null()).spawn().expect("bookend");
    let mut supervisors: Vec<Child> = (0..DEAD).map(start).collect();
    let running = "SELECT count(*) AS n FROM task_history WHERE status = 'running'";
    eventually(Deadline::new(), "all of them run", || world.sql(running)[0].number("n") == Some(DEAD as i64));
    for supervisor in &mut supervisors {
        supervisor.kill().and_then(|()| supervisor.wait()).expect("its death");
    }
    eventually(Deadline::new(), "their agents are gone too", || marked(world).is_empty());
}
