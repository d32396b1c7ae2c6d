//! The monitor as a process: one for each ledger, what it tells systemd, how it stops, and what it costs.

use std::fs;

use rustix::process::Signal;

use super::{MonitorService, count, until_ended, until_reported};
use crate::harness::{End, World, eventually, memory, state, voluntary_switches};
use crate::standins::{Busy, bookend};

#[test]
fn a_second_monitor_of_a_ledger_exits_with_75_and_changes_nothing() {
    let test = "a_second_monitor_of_a_ledger_exits_with_75_and_changes_nothing";
    let Some(world) = World::of_bookend(test) else { return };
    let first = MonitorService::start(&world, &[]);
    let second = bookend(&world, &["monitor"]).ended(End::Code(75));
    assert!(second.stderr.starts_with("bookend: error: another monitor watches the ledger /"), "{second:?}");
    assert_eq!(second.stdout, "");
    let elsewhere = world.name("tmp/other.db");
    let other = world.bare(["bookend", "monitor", "--ledger", &elsewhere]).start();
    eventually(world.deadline(), "a monitor of another ledger", || fs::exists(&elsewhere).unwrap_or(false));
    first.stop();
    // The byte is free when its holder has exited, however it did.
    MonitorService::start(&world, &[]).kill();
    MonitorService::start(&world, &[]).stop();
    other.signal(Signal::TERM);
    other.wait().ended(End::Signal(15));
}

#[test]
fn a_monitor_creates_the_ledger_and_says_what_it_watches() {
    let Some(world) = World::of_bookend("a_monitor_creates_the_ledger_and_says_what_it_watches") else {
        return;
    };
    let mut monitor = MonitorService::begin(&world, &["bookend"], &[]);
    let ready = monitor.service.until("READY=1");
    assert_eq!(ready, format!("READY=1\nSTATUS=watching the tasks in {}\n", world.ledger().display()));
    assert!(world.rows().is_empty());
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        monitor.process.signal(signal);
        monitor.service.until("STOPPING=1");
        let output = monitor.process.wait().ended(End::Signal(signal.as_raw())).silent();
        assert_eq!(output.stdout, "", "nothing happened");
        monitor = MonitorService::start(&world, &[]);
    }
    monitor.stop();
}

#[test]
fn a_file_that_is_not_a_ledger_is_refused() {
    let Some(world) = World::of_bookend("a_file_that_is_not_a_ledger_is_refused") else { return };
    fs::write(world.path("tmp/notes.db"), "these are notes\n".repeat(100)).expect("a file");
    let refused = bookend(&world, &["monitor", "--ledger", &world.name("tmp/notes.db")]);
    let refused = refused.ended(End::Code(125));
    assert!(refused.stderr.contains("file is not a database"), "{refused:?}");
}

#[test]
fn stopping_or_killing_the_monitor_changes_no_task() {
    let Some(world) = World::of_bookend("stopping_or_killing_the_monitor_changes_no_task") else { return };
    let busy = Busy::sleep(&world, "one");
    MonitorService::start(&world, &[]).stop();
    MonitorService::start(&world, &[]).kill();
    assert_eq!(world.row().text("status"), "running");
    assert!(state(busy.agent).is_some_and(|s| s != 'Z'));
    busy.kill_supervisor();
    // Its next start catches up.
    let monitor = MonitorService::start(&world, &[]);
    assert_eq!(world.row().ending(), "interrupted/supervisor_lost");
    until_reported(&world, "one");
    let output = monitor.stop();
    assert_eq!(count(&output.stdout, "[recovery] task one interrupted"), 1, "{output:?}");
}

#[test]
fn an_idle_monitor_is_never_woken_up_and_needs_little_memory() {
    let test = "an_idle_monitor_is_never_woken_up_and_needs_little_memory";
    let Some(world) = World::of_bookend(test) else { return };
    let monitor = MonitorService::start(&world, &[]);
    let tasks: Vec<Busy<'_>> = ["a", "b", "c"].iter().map(|id| Busy::sleep(&world, id)).collect();
    for task in tasks.into_iter().take(2) {
        task.kill_all();
    }
    until_reported(&world, "a");
    until_reported(&world, "b");
    until_ended(&world, "a", "interrupted/supervisor_lost");
    let pid = monitor.process.pid();
    let mut last = voluntary_switches(pid);
    // While the test does something else for a while, the monitor must sleep.
    eventually(world.deadline(), "a monitor that sleeps", || {
        bookend(&world, &["list"]).ended(End::Code(0));
        let before = std::mem::replace(&mut last, voluntary_switches(pid));
        state(pid) == Some('S') && before == last
    });
    bookend(&world, &["list"]).ended(End::Code(0));
    bookend(&world, &["audit"]);
    assert_eq!(voluntary_switches(pid), last, "readers wake it up");
    let (anonymous, _) = memory(pid).expect("its memory");
    assert!(anonymous <= 2048, "{anonymous} KiB of anonymous memory");
    monitor.stop();
}

#[test]
fn a_reader_of_its_stdout_that_does_not_read_delays_neither_deaths_nor_a_stop() {
    let test = "a_reader_of_its_stdout_that_does_not_read_delays_neither_deaths_nor_a_stop";
    let Some(world) = World::of_bookend(test) else { return };
    let mut unread = world.fifo("unread");
    unread.fill_up();
    let script = format!("exec bookend \"$@\" >{}", unread.path());
    let monitor = MonitorService::begin(&world, &["sh", "-c", &script, "sh"], &[]);
    monitor.service.until("READY=1");
    for id in ["one", "two"] {
        Busy::sleep(&world, id).kill_supervisor();
        until_ended(&world, id, "interrupted/supervisor_lost");
    }
    let output = monitor.stop();
    assert!(output.stderr.contains("could not be printed: its reader does not read"), "{output:?}");
    let due = world.sql("SELECT 1 FROM task_history WHERE hinted_at IS NULL");
    assert_eq!(due.len(), 2, "the next start prints both");
}
