//! A supervisor that dies or fails while it ends its task, beside a monitor: nothing is lost, and nothing is
//! done twice that a recovery would not repeat.

use std::fs;

use crate::crash::points;
use crate::harness::{End, Monitor, World, eventually, state};

/// The points that a run with leftovers and a hook passes from the exit of its agent on.
const ENDS: [&str; 13] = [
    "run.ended",
    "run.drained",
    "end.begun",
    "end.updated",
    "end.written",
    "end.committed",
    "spool.free",
    "run.settled",
    "delivery.begun",
    "delivery.ended",
    "delivery.record",
    "run.delivered",
    "spool.release",
];
/// The points of a record that the ledger did not take.
const SPOOLING: [&str; 4] = ["spool.fill", "spool.filled", "spool.synced", "spool.renamed"];

/// What became of a task.
struct EndedTask {
    id: String,
    /// Its agent left a process behind that ignores SIGTERM.
    daemon: i32,
}

/// Runs a task whose supervisor fails as `faults` says, and waits for its end.
fn fail(world: &World, id: &str, faults: &str, expected: End) -> EndedTask {
    let (mut out, mut go) = (world.fifo(&format!("{id}.out")), world.fifo(&format!("{id}.go")));
    let daemon = format!("probe daemon -- probe with setsid ignore=15 -- probe stay {}", out.path());
    let hook = format!("echo $BOOKEND_FINISHED_TASK >>{}", world.name("delivered"));
    let options = ["--id", id, "--key", id, "--grace", "200ms", "--leftovers", "end", "--on-finish", &hook];
    let script = format!("{daemon}; read line <{}; exit 3", go.path());
    let run = world.run_sh(&script).options(options).env("BOOKEND_FAILPOINT", faults).start();
    let daemon = out.pid("stay");
    go.write_line("now");
    run.wait().ended(expected);
    EndedTask { id: id.to_owned(), daemon }
}

/// Waits until nothing is left to do for the task.
fn until_finished(world: &World, task: &EndedTask) {
    let row = |column: &str| {
        let query = format!("SELECT {column} AS it FROM task_history WHERE id = '{}'", task.id);
        world.sql(&query)[0].text("it")
    };
    eventually(world.deadline(), &format!("the delivery of {}", task.id), || {
        row("delivery_status") == "delivered"
    });
    eventually(world.deadline(), &format!("the report of {}", task.id), || {
        row("status") != "interrupted" || !row("hinted_at").is_empty()
    });
    eventually(world.deadline(), &format!("the end of the leftover of {}", task.id), || {
        matches!(state(task.daemon), None | Some('Z'))
    });
    let spool = world.path("state/bookend/bookend.db.d/spool");
    eventually(world.deadline(), &format!("an empty spool after {}", task.id), || {
        fs::read_dir(&spool).expect("the spool").count() == 0
    });
}

/// Checks that the task ended once, as expected, and that its hook ran this often.
fn check(world: &World, id: &str, ending: &str, hooks: usize) {
    let row = world.sql(&format!("SELECT status, reason FROM task_history WHERE id = '{id}'"));
    assert_eq!(row[0].ending(), ending, "{id}");
    let moves = world.sql(&format!("SELECT 1 FROM task_transition WHERE task_id = '{id}'"));
    assert_eq!(moves.len(), 2, "{id} ended once");
    let delivered = fs::read_to_string(world.path("delivered")).unwrap_or_default();
    assert_eq!(delivered.lines().filter(|line| *line == id).count(), hooks, "hooks of {id}");
    world.run(["true"]).options(["--key", id]).run().ended(End::Code(0));
}

fn index(points: &[&str], point: &str) -> usize {
    points.iter().position(|p| *p == point).expect("a point")
}

/// Stops the monitor, and checks that it reported each interrupted task once, and that nothing is left.
fn check_reports(world: &World, monitor: Monitor) {
    let output = monitor.stop();
    let interrupted = world.sql("SELECT id FROM task_history WHERE status = 'interrupted'");
    assert!(!interrupted.is_empty());
    for row in interrupted {
        let told = format!("task {} interrupted", row.text("id"));
        let count = output.stdout.lines().filter(|line| line.contains(&told)).count();
        assert_eq!(count, 1, "{told}: {output:?}");
    }
    let left = world.bare(["bookend", "recover"]).run().ended(End::Code(0));
    assert!(left.stdout.contains("nothing to settle"), "{left:?}");
}

#[test]
fn a_supervisor_killed_while_it_ends_its_task_loses_nothing_beside_a_monitor() {
    let test = "a_supervisor_killed_while_it_ends_its_task_loses_nothing_beside_a_monitor";
    let Some(mut world) = World::of_bookend(test) else { return };
    let monitor = Monitor::start(&world, &["--grace", "200ms"]);
    for point in ENDS {
        world.renew_deadline();
        let task = fail(&world, point, &format!("{point}:kill"), End::Signal(9));
        until_finished(&world, &task);
        let has_ended = index(&ENDS, point) >= index(&ENDS, "end.committed");
        let ending = if has_ended { "failure/exit" } else { "interrupted/supervisor_lost" };
        // It had run, and its end was not recorded.
        let runs_again = ["delivery.ended", "delivery.record"].contains(&point);
        check(&world, point, ending, 1 + usize::from(runs_again));
    }
    check_reports(&world, monitor);
}

#[test]
fn a_supervisor_that_fails_while_it_ends_its_task_leaves_the_rest_to_a_monitor() {
    let test = "a_supervisor_that_fails_while_it_ends_its_task_leaves_the_rest_to_a_monitor";
    let Some(mut world) = World::of_bookend(test) else { return };
    let monitor = Monitor::start(&world, &["--grace", "200ms"]);
    for point in ENDS {
        world.renew_deadline();
        let task = fail(&world, point, &format!("{point}:panic"), End::Code(125));
        until_finished(&world, &task);
        let is_judged = index(&ENDS, point) >= index(&ENDS, "end.begun");
        let ending = if is_judged { "failure/exit" } else { "interrupted/supervisor_lost" };
        let runs_again = ["delivery.ended", "delivery.record"].contains(&point);
        check(&world, point, ending, 1 + usize::from(runs_again));
    }
    check_reports(&world, monitor);
}

#[test]
fn a_supervisor_killed_while_it_writes_its_record_loses_nothing_beside_a_monitor() {
    let test = "a_supervisor_killed_while_it_writes_its_record_loses_nothing_beside_a_monitor";
    let Some(mut world) = World::of_bookend(test) else { return };
    let monitor = Monitor::start(&world, &["--grace", "200ms"]);
    for point in SPOOLING {
        world.renew_deadline();
        let task = fail(&world, point, &format!("end.begun:io,{point}:kill"), End::Signal(9));
        until_finished(&world, &task);
        let is_written = point == "spool.renamed";
        check(&world, point, if is_written { "failure/exit" } else { "interrupted/supervisor_lost" }, 1);
    }
    // One that lives on, and one that dies after the monitor has merged its record.
    for (id, faults, end) in [
        ("lives", "end.begun:io", End::Code(3)),
        ("settled", "end.begun:io,run.settled:kill", End::Signal(9)),
        ("delivered", "end.begun:io,run.delivered:kill", End::Signal(9)),
        ("released", "end.begun:io,spool.release:kill", End::Signal(9)),
    ] {
        world.renew_deadline();
        let task = fail(&world, id, faults, end);
        until_finished(&world, &task);
        check(&world, id, "failure/exit", 1);
    }
    check_reports(&world, monitor);
}

#[test]
fn the_points_of_an_end_are_all_tried() {
    let from = index(points::STEPS, "run.ended");
    let to = index(points::STEPS, "spool.release");
    let tried: Vec<&str> = ENDS.into_iter().chain(SPOOLING).collect();
    let missing: Vec<_> = points::STEPS[from..=to].iter().filter(|point| !tried.contains(point)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
