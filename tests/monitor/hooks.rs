//! The hooks of the monitor: they follow the settling, delay no other death, and a stop reaches them.

use rustix::process::Signal;

use super::{CutOff, count, until_delivered, until_ended, until_reported};
use crate::harness::{End, Monitor, World, bookend, eventually, on_path, possible};
use crate::spool::{Waiting, locked};
use crate::standins::{Busy, gone};
use crate::wait::asleep;

#[test]
fn a_hook_that_hangs_delays_no_other_death() {
    let Some(world) = World::of_bookend("a_hook_that_hangs_delays_no_other_death") else { return };
    let (mut started, mut go) = (world.fifo("started"), world.fifo("go"));
    let hook = format!(
        "echo $BOOKEND_FINISHED_TASK ${{NOTIFY_SOCKET-none}} >{}; read x <{}",
        started.path(),
        go.path()
    );
    let monitor = Monitor::start(&world, &["--on-interrupted", &hook]);
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
    let monitor = Monitor::start(&world, &[]);
    CutOff::start(&world, "one").kill_supervisor().runs_again();
    until_delivered(&world);
    let output = monitor.stop().silent();
    assert_eq!(count(&output.stdout, "the --on-finish command of task one: delivered"), 1, "{output:?}");
}

#[test]
fn the_hook_of_a_lost_task_runs_before_its_report() {
    let Some(world) = World::of_bookend("the_hook_of_a_lost_task_runs_before_its_report") else { return };
    let mut log = world.fifo("log");
    let said = |what: &str| format!("echo {what} $BOOKEND_FINISHED_TASK >{}", log.path());
    let (finish, report) = (said("finish"), said("report"));
    let monitor = Monitor::start(&world, &["--on-interrupted", &report]);
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
    let monitor = Monitor::start(&world, &["--on-interrupted", &hook]);
    let (one, two) = (Busy::sleep(&world, "one"), Busy::sleep(&world, "two"));
    one.kill_all();
    started.line();
    two.kill_all();
    until_ended(&world, "two", "interrupted/supervisor_lost");
    monitor.signal(Signal::TERM);
    monitor.service.until("STOPPING=1");
    let output = monitor.wait().ended(End::Signal(15));
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
    let monitor = Monitor::start(&world, &["--on-interrupted", &hook]);
    Busy::sleep(&world, "one").kill_all();
    started.line();
    monitor.kill();
    let quick = format!("echo again >{}", started.path());
    let monitor = Monitor::start(&world, &["--on-interrupted", &quick]);
    assert_eq!(started.line(), "again");
    until_reported(&world, "one");
    assert_eq!(world.row().number("hint_attempts"), Some(2));
    monitor.stop();
}

#[test]
fn a_record_that_arrives_while_a_hook_runs_is_merged() {
    let Some(world) = World::of_bookend("a_record_that_arrives_while_a_hook_runs_is_merged") else { return };
    let mut started = world.fifo("started");
    let hook = format!("echo up >{}; exec sleep 1000", started.path());
    let monitor = Monitor::start(&world, &["--on-interrupted", &hook]);
    let waiting = Waiting::start(&world, |run| run.env("BOOKEND_BUSY_TIMEOUT", "10ms"));
    Busy::sleep(&world, "lost").kill_all();
    assert_eq!(started.line(), "up");
    let lock = locked(&world);
    waiting.end_in_spool(&world);
    drop(lock);
    until_ended(&world, "one", "failure/exit");
    assert_eq!(
        world.sql("SELECT end_source FROM task_history WHERE id = 'one'")[0].text("end_source"),
        "spool"
    );
    monitor.stop();
}

#[test]
fn a_monitor_is_ready_before_its_hooks_and_feeds_the_watchdog_while_they_run() {
    let test = "a_monitor_is_ready_before_its_hooks_and_feeds_the_watchdog_while_they_run";
    let Some(world) = World::of_bookend(test) else { return };
    let (mut started, mut go) = (world.fifo("started"), world.fifo("go"));
    Busy::stubborn(&world, "one").kill_supervisor();
    let hook =
        format!("echo ${{WATCHDOG_USEC-no}} ${{WATCHDOG_PID-no}} >{}; read x <{}", started.path(), go.path());
    let options = ["--grace", "1s", "--on-interrupted", &hook];
    let monitor = Monitor::spawn(&world, &[], &[("WATCHDOG_USEC", "200000")], &options);
    // Ending the agent takes as long as its grace.
    monitor.service.until("EXTEND_TIMEOUT_USEC=");
    monitor.service.until("READY=1");
    assert_eq!(world.row().ending(), "interrupted/supervisor_lost");
    assert_eq!(started.line(), "no no");
    for _ in 0..3 {
        monitor.service.until("WATCHDOG=1");
    }
    go.write_line("end");
    until_reported(&world, "one");
    monitor.stop();
}

#[test]
fn a_report_command_that_fails_is_run_three_times() {
    let Some(world) = World::of_bookend("a_report_command_that_fails_is_run_three_times") else { return };
    Busy::sleep(&world, "one").kill_all();
    let fails = ["--on-interrupted", "exit 7"];
    for (attempt, next) in [(1, "it is run again in a minute"), (2, "it is run again in a minute")] {
        let monitor = Monitor::start(&world, &fails);
        monitor.until_printed(&format!("failed with exit code 7 for task one; {next}"));
        // A death meanwhile, and an end, are no reason to run it earlier.
        world.run(["true"]).options(["--id", &format!("other-{attempt}")]).run().ended(End::Code(0));
        monitor.stop();
        let row = &world.sql("SELECT hint_attempts, hinted_at FROM task_history WHERE id = 'one'")[0];
        assert_eq!((row.number("hint_attempts"), row.text("hinted_at")), (Some(attempt), String::new()));
    }
    let monitor = Monitor::start(&world, &fails);
    until_reported(&world, "one");
    let output = monitor.stop();
    assert_eq!(count(&output.stdout, "for task one; it is not run again"), 1, "{output:?}");
}

#[test]
fn a_report_that_waits_for_a_minute_may_be_made_by_a_recovery() {
    let test = "a_report_that_waits_for_a_minute_may_be_made_by_a_recovery";
    let Some(world) = World::of_bookend(test) else { return };
    Busy::sleep(&world, "one").kill_all();
    let monitor = Monitor::start(&world, &["--on-interrupted", "exit 7"]);
    monitor.until_printed("it is run again in a minute");
    // What else ends meanwhile is no reason to try it again, and keeps no other process from it.
    Busy::sleep(&world, "two").kill_all();
    monitor.until_printed("failed with exit code 7 for task two");
    let recover = ["recover", "--on-interrupted", "exit 0"];
    let done = || {
        bookend(&world, &recover).ended(End::Code(0));
        world.sql("SELECT 1 FROM task_history WHERE hinted_at IS NOT NULL").len() == 2
    };
    eventually(world.deadline(), "both reports", done);
    let attempts = world.sql("SELECT hint_attempts FROM task_history");
    assert!(attempts.iter().all(|row| row.number("hint_attempts") == Some(2)), "{attempts:?}");
    monitor.stop();
}

#[test]
fn an_error_of_the_ledger_does_not_cut_off_a_hook() {
    let Some(world) = World::of_bookend("an_error_of_the_ledger_does_not_cut_off_a_hook") else { return };
    let (mut started, mut go) = (world.fifo("started"), world.fifo("go"));
    let hook = format!("echo $BOOKEND_FINISHED_TASK >{}; read x <{}; exit 0", started.path(), go.path());
    let options = ["--grace", "0s", "--on-interrupted", &hook];
    let monitor = Monitor::start_with(&world, &[], &[("BOOKEND_BUSY_TIMEOUT", "0")], &options);
    let two = Busy::stubborn(&world, "two");
    Busy::sleep(&world, "one").kill_all();
    assert_eq!(started.line(), "one");
    let lock = locked(&world);
    let agent = two.agent;
    two.kill_supervisor();
    // The monitor has killed it, and cannot settle the task.
    gone(&world, agent);
    asleep(&world, monitor.pid());
    drop(lock);
    go.write_line("end");
    until_reported(&world, "one");
    let not_watching = monitor.service.until("not watching");
    assert!(not_watching.contains("other processes kept it locked"), "{not_watching}");
    assert_eq!(started.line(), "two", "it is settled a second later");
    go.write_line("end");
    until_reported(&world, "two");
    let attempts = world.sql("SELECT hint_attempts FROM task_history");
    assert!(attempts.iter().all(|row| row.number("hint_attempts") == Some(1)), "{attempts:?}");
    let output = monitor.stop();
    assert_eq!(count(&output.stderr, "the monitor cannot use the ledger"), 1, "{output:?}");
}

#[test]
fn a_stop_while_git_runs_leaves_the_report_to_the_next_start() {
    let Some(world) = World::of_bookend("a_stop_while_git_runs_leaves_the_report_to_the_next_start") else {
        return;
    };
    if !possible("a_stop_while_git_runs_leaves_the_report_to_the_next_start", on_path("git"), "git") {
        return;
    }
    let mut asked = world.fifo("asked");
    world.bare(["git", "init", "-q"]).run().ended(End::Code(0));
    let monitor = Monitor::start(&world, &["--on-interrupted", "exit 0"]);
    let busy = Busy::sleep(&world, "one");
    let git = format!("echo $PPID >{}; kill -TERM $PPID; exec sleep 1000", asked.path());
    world.program("git", &format!("#!/bin/sh\n{git}\n"));
    busy.kill_all();
    assert_eq!(asked.line(), monitor.pid().to_string());
    let output = monitor.wait().ended(End::Signal(15));
    assert_eq!(count(&output.stdout, "[recovery] task one interrupted"), 1, "{output:?}");
    assert_eq!(world.row().text("hinted_at"), "", "the command was not run");
    assert_eq!(world.row().number("hint_attempts"), Some(0));
    std::fs::remove_file(world.path("bin/git")).expect("the program");
    let report = bookend(&world, &["recover", "--on-interrupted", "exit 0"]).ended(End::Code(0)).stdout;
    assert_eq!(count(&report, "[recovery] task one interrupted"), 1, "{report}");
}
