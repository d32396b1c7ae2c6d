//! The hooks of the monitor: they follow the settling, delay no other death, and a stop reaches them.

use rustix::process::Signal;

use super::{MonitorService, count, until_ended, until_reported};
use crate::harness::{End, World, eventually};
use crate::standins::Busy;

#[test]
fn a_hook_that_hangs_delays_no_other_death() {
    let Some(world) = World::of_bookend("a_hook_that_hangs_delays_no_other_death") else { return };
    let (mut started, mut go) = (world.fifo("started"), world.fifo("go"));
    let hook = format!(
        "echo $BOOKEND_FINISHED_TASK ${{NOTIFY_SOCKET-none}} >{}; read x <{}",
        started.path(),
        go.path()
    );
    let monitor = MonitorService::start(&world, &["--on-interrupted", &hook]);
    let (one, two) = (Busy::sleep(&world, "one"), Busy::sleep(&world, "two"));
    one.kill_supervisor();
    assert_eq!(started.line(), "one none");
    two.kill_supervisor();
    until_ended(&world, "two", "interrupted/supervisor_lost");
    assert!(started.lines_so_far().is_empty(), "one hook at a time");
    go.write_line("end");
    until_reported(&world, "one");
    assert_eq!(started.line(), "two none", "its report was due");
    go.write_line("end");
    until_reported(&world, "two");
    let output = monitor.stop().silent();
    assert_eq!(count(&output.stdout, "[recovery] task"), 2, "{output:?}");
}

#[test]
fn a_supervisor_that_is_killed_in_its_hook_is_delivered_again() {
    let Some(world) = World::of_bookend("a_supervisor_that_is_killed_in_its_hook_is_delivered_again") else {
        return;
    };
    let monitor = MonitorService::start(&world, &[]);
    let mut started = world.fifo("started");
    let hook = format!(
        "echo attempt $BOOKEND_DELIVERY_ATTEMPT >{}; [ $BOOKEND_DELIVERY_ATTEMPT = 2 ] || exec sleep 1000",
        started.path()
    );
    let run = world.run(["true"]).options(["--id", "one", "--on-finish", &hook]).start();
    assert_eq!(started.line(), "attempt 1");
    run.signal(Signal::KILL);
    run.wait();
    assert_eq!(started.line(), "attempt 2");
    let delivered = || world.row().text("delivery_status") == "delivered";
    eventually(world.deadline(), "the delivery", delivered);
    let output = monitor.stop().silent();
    assert_eq!(count(&output.stdout, "the --on-finish command of task one: delivered"), 1, "{output:?}");
}

#[test]
fn the_hook_of_a_lost_task_runs_before_its_report() {
    let Some(world) = World::of_bookend("the_hook_of_a_lost_task_runs_before_its_report") else { return };
    let mut log = world.fifo("log");
    let said = |what: &str| format!("echo {what} $BOOKEND_FINISHED_TASK >{}", log.path());
    let (finish, report) = (said("finish"), said("report"));
    let monitor = MonitorService::start(&world, &["--on-interrupted", &report]);
    let script = "echo ready $$ >$SAY; exec sleep 1000";
    let options = ["--id", "one", "--on-finish", &finish];
    Busy::start(&world, "say", |_| world.run_sh(script).options(options)).kill_supervisor();
    assert_eq!((log.line(), log.line()), ("finish one".to_owned(), "report one".to_owned()));
    until_reported(&world, "one");
    monitor.stop();
}

#[test]
fn a_stop_reaches_the_hook_and_its_attempt_does_not_count() {
    let Some(world) = World::of_bookend("a_stop_reaches_the_hook_and_its_attempt_does_not_count") else {
        return;
    };
    let mut started = world.fifo("started");
    let hook = format!("echo started >{}; exec sleep 1000", started.path());
    let monitor = MonitorService::start(&world, &["--on-interrupted", &hook]);
    let (one, two) = (Busy::sleep(&world, "one"), Busy::sleep(&world, "two"));
    one.kill_all();
    started.line();
    two.kill_all();
    until_ended(&world, "two", "interrupted/supervisor_lost");
    monitor.process.signal(Signal::TERM);
    monitor.service.until("STOPPING=1");
    let output = monitor.process.wait().ended(End::Signal(15));
    assert!(output.stderr.is_empty(), "{output:?}");
    assert_eq!(count(&output.stdout, "was interrupted by SIGTERM for task one"), 1, "{output:?}");
    let rows = world.sql("SELECT hint_attempts, hinted_at IS NULL AS due FROM task_history");
    let due: Vec<_> = rows.iter().map(|r| (r.number("hint_attempts"), r.number("due"))).collect();
    assert_eq!(due, [(Some(0), Some(1)), (Some(0), Some(1))], "the next start reports both");
}

#[test]
fn a_monitor_killed_in_a_hook_runs_it_again_at_its_next_start() {
    let Some(world) = World::of_bookend("a_monitor_killed_in_a_hook_runs_it_again_at_its_next_start") else {
        return;
    };
    let mut started = world.fifo("started");
    let hook = format!("echo $$ >{}; exec sleep 1000", started.path());
    let monitor = MonitorService::start(&world, &["--on-interrupted", &hook]);
    Busy::sleep(&world, "one").kill_all();
    started.line();
    monitor.kill();
    let quick = format!("echo again >{}", started.path());
    let monitor = MonitorService::start(&world, &["--on-interrupted", &quick]);
    assert_eq!(started.line(), "again");
    until_reported(&world, "one");
    assert_eq!(world.row().number("hint_attempts"), Some(2));
    monitor.stop();
}
