//! `recover` after many supervisors were killed: in a ledger with a long past beside one with a short, for
//! each task, and beside writers.

use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::Bench;
use crate::figure::{Figure, Measured, Target};
use crate::harness::{Deadline, World, eventually, marked};
use crate::history;
use crate::measure::{command, in_turns, time};

const DEAD: usize = 100;
/// What each lost task costs is seen in so many.
const MANY: usize = 500;
const WRITERS: usize = 20;

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
    let past = Figure::new(&what, "after 1,000", Some(Target::AtMost(2.0)), measured);
    vec![past, each(bench), beside_writers(bench)]
}

/// What each of many lost tasks costs.
fn each(bench: &Bench) -> Figure {
    let world = bench.world();
    let recover = || {
        copies(&world, MANY);
        time(&mut command(&world, &["bookend", "recover"])) / MANY as f64
    };
    let took: Vec<f64> = (0..bench.pairs(7, 3)).map(|_| recover()).collect();
    let what = format!("`recover` for each of {MANY} lost tasks");
    Figure::new(&what, "", Some(Target::AtMost(0.4)), Measured::alone("ms", &took))
}

/// While others write all the time, their transactions and those of the recovery wait for each other.
fn beside_writers(bench: &Bench) -> Figure {
    let world = bench.world();
    let recover = || {
        copies(&world, DEAD);
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..WRITERS {
                scope.spawn(|| {
                    while !is_over.load(Ordering::Relaxed) {
                        time(&mut command(&world, &["bookend", "run", "--", "true"]));
                    }
                });
            }
            let took = time(&mut command(&world, &["bookend", "recover"]));
            is_over.store(true, Ordering::Relaxed);
            took
        })
    };
    let took: Vec<f64> = (0..bench.pairs(7, 3)).map(|_| recover()).collect();
    let what = format!("`recover` of {DEAD} lost tasks beside {WRITERS} writers");
    Figure::new(&what, "", Some(Target::AtMost(300.0)), Measured::alone("ms", &took))
}

/// Kills one supervisor and its agent, and leaves so many rows as theirs.
fn copies(world: &World, rows: usize) {
    let mut run = command(world, &["bookend", "run", "--", "sleep", "1000"]);
    let mut supervisor = run.stdin(Stdio::null()).spawn().expect("bookend");
    let running = "SELECT count(*) AS n FROM task_history WHERE status = 'running'";
    let runs = || world.ledger().exists() && world.sql(running)[0].number("n") == Some(1);
    eventually(Deadline::new(), "it runs", runs);
    supervisor.kill().and_then(|()| supervisor.wait()).expect("its death");
    eventually(Deadline::new(), "its agent is gone too", || marked(world).is_empty());
    let columns = world.sql("SELECT name FROM pragma_table_info('task_history')");
    let columns: Vec<String> = columns.iter().map(|c| format!("\"{}\"", c.text("name"))).collect();
    let copied: Vec<String> = columns
        .iter()
        .map(|c| match c.as_str() {
            "\"id\"" => "id || '.' || n".to_owned(),
            "\"live_slot\"" => "live_slot + n".to_owned(),
            other => other.to_owned(),
        })
        .collect();
    world.write(&format!(
        "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {})
         INSERT INTO task_history ({}) SELECT {} FROM c, task_history WHERE status = 'running'",
        rows - 1,
        columns.join(", "),
        copied.join(", ")
    ));
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
