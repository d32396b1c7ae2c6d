//! `recover` of many lost tasks: per task, after a long history, and beside other writers.

use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::Bench;
use crate::figure::{Figure, Measured};
use crate::harness::{Deadline, World, eventually, marked};
use crate::measure::{command, in_turns, time};

/// The lost tasks of one measurement.
const LOST: usize = 500;
const LOST_BESIDE_WRITERS: usize = 100;
const WRITERS: usize = 20;

pub fn measure(bench: &Bench) -> Vec<Figure> {
    vec![per_task(bench), after_long_history(bench), beside_writers(bench)]
}

fn per_task(bench: &Bench) -> Figure {
    let world = bench.world();
    let took: Vec<f64> = (0..bench.pairs(7, 3)).map(|_| recover(&world) / LOST as f64).collect();
    let what = format!("`recover`, per task of {LOST} lost tasks");
    Figure::new(&what, "", Some(0.4), Measured::alone("ms", &took))
}

fn after_long_history(bench: &Bench) -> Figure {
    let (small, large) = bench.histories();
    let pairs = in_turns(bench.pairs(5, 2), || recover(large), || recover(small));
    let what = format!("`recover` of {LOST} lost tasks, {} tasks", bench.long_history());
    let measured = Measured::beside("ms", &pairs, pairs.len());
    Figure::new(&what, "1,000 tasks", Some(2.0), measured)
}

/// The transactions of the writers and of the recovery wait for each other.
fn beside_writers(bench: &Bench) -> Figure {
    let world = bench.world();
    let beside_writers = || {
        lose(&world, LOST_BESIDE_WRITERS);
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
    let took: Vec<f64> = (0..bench.pairs(7, 3)).map(|_| beside_writers()).collect();
    let what = format!("`recover` of {LOST_BESIDE_WRITERS} lost tasks beside {WRITERS} writers");
    Figure::new(&what, "", Some(300.0), Measured::alone("ms", &took))
}

/// The milliseconds of one `recover` that settles [`LOST`] tasks.
fn recover(world: &World) -> f64 {
    lose(world, LOST);
    let took = time(&mut command(world, &["bookend", "recover"]));
    let left = world.sql("SELECT id FROM task_history WHERE status = 'running'");
    assert!(left.is_empty(), "recover left {left:?}");
    took
}

/// Kills one supervisor and its agent, and copies its row until there are `tasks` rows.
fn lose(world: &World, tasks: usize) {
    let mut run = command(world, &["bookend", "run", "--", "sleep", "1000"]);
    let mut supervisor = run.stdin(Stdio::null()).spawn().expect("bookend");
    let running = "SELECT count(*) AS n FROM task_history WHERE status = 'running'";
    let runs = || world.ledger().exists() && world.sql(running)[0].number("n") == Some(1);
    eventually(Deadline::new(), "the task runs", runs);
    supervisor.kill().and_then(|()| supervisor.wait()).expect("the exit of the supervisor");
    eventually(Deadline::new(), "the agent has exited", || marked(world).is_empty());
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
        tasks - 1,
        columns.join(", "),
        copied.join(", ")
    ));
}
