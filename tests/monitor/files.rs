//! The files of the ledger: records in the spool, and what happens when one of them is replaced or locked.

use std::fs;

use rusqlite::Connection;
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::{count, until_ended, until_reported};
use crate::harness::{End, Monitor, World, eventually};
use crate::spool::{Waiting, locked};
use crate::standins::Busy;

fn spool(world: &World) -> std::path::PathBuf {
    world.path("state/bookend/bookend.db.d/spool")
}

#[test]
fn a_record_in_the_spool_is_merged_when_it_arrives() {
    let Some(world) = World::of_bookend("a_record_in_the_spool_is_merged_when_it_arrives") else { return };
    let monitor = Monitor::start(&world, &[]);
    let waiting = Waiting::start(&world, |run| run.env("BOOKEND_BUSY_TIMEOUT", "10ms"));
    let lock = locked(&world);
    waiting.end_in_spool(&world);
    drop(lock);
    until_ended(&world, "one", "failure/exit");
    assert_eq!(world.row().text("end_source"), "spool");
    eventually(world.deadline(), "an empty spool", || {
        fs::read_dir(spool(&world)).is_ok_and(|d| d.count() == 0)
    });
    let output = monitor.stop();
    assert_eq!(
        count(&output.stdout, "recorded the end of task one (failure) from the spool"),
        1,
        "{output:?}"
    );
}

#[test]
fn deaths_are_seen_after_the_spool_was_replaced() {
    let Some(world) = World::of_bookend("deaths_are_seen_after_the_spool_was_replaced") else { return };
    let monitor = Monitor::start(&world, &[]);
    let (moved, removed) = (Busy::sleep(&world, "moved"), Busy::sleep(&world, "removed"));
    let spool = spool(&world);
    // The slots of running tasks go with it; a copy of a slot is not the one that its supervisor holds open.
    let away = world.path("state/bookend/away");
    fs::create_dir(&away).expect("another spool");
    fs::copy(spool.join(".moved.slot"), away.join(".moved.slot")).expect("a copy of a slot");
    renameat_with(CWD, &spool, CWD, &away, RenameFlags::EXCHANGE).expect("an exchange");
    let new = Busy::sleep(&world, "new");
    moved.kill_supervisor();
    until_reported(&world, "moved");
    new.kill_supervisor();
    until_reported(&world, "new");
    fs::remove_dir_all(&spool).expect("no spool");
    removed.kill_supervisor();
    until_reported(&world, "removed");
    eventually(world.deadline(), "the spool again", || spool.is_dir());
    let last = Busy::sleep(&world, "last");
    last.kill_supervisor();
    until_reported(&world, "last");
    monitor.service.until("watching the tasks in");
    // A spool that is missing for a moment is no reason to warn.
    monitor.stop().silent();
}

#[test]
fn a_replaced_ledger_is_opened_again_and_recovered() {
    let Some(world) = World::of_bookend("a_replaced_ledger_is_opened_again_and_recovered") else { return };
    let busy = Busy::sleep(&world, "one");
    let copy = world.name("tmp/copy.db");
    world.bare(["bookend", "backup", &copy]).run().ended(End::Code(0));
    let monitor = Monitor::start(&world, &[]);
    let ledger = world.ledger();
    fs::rename(&copy, &ledger).expect("another ledger");
    for log in ["-wal", "-shm"] {
        let _ = fs::remove_file(format!("{}{log}", ledger.display()));
    }
    busy.kill_supervisor();
    until_reported(&world, "one");
    let new = Busy::sleep(&world, "two");
    new.kill_supervisor();
    until_reported(&world, "two");
    monitor.stop();
}

#[test]
fn the_byte_of_the_monitor_is_taken_again_in_a_new_live_file() {
    let Some(world) = World::of_bookend("the_byte_of_the_monitor_is_taken_again_in_a_new_live_file") else {
        return;
    };
    let monitor = Monitor::start(&world, &[]);
    fs::remove_file(world.path("state/bookend/bookend.db.d/live")).expect("no live file");
    Busy::sleep(&world, "one").kill_supervisor();
    until_reported(&world, "one");
    let second = world.bare(["bookend", "monitor"]).run().ended(End::Code(75));
    assert!(second.stderr.contains("another monitor"), "{second:?}");
    monitor.stop();
}

#[test]
fn a_locked_ledger_delays_the_monitor_and_does_not_end_it() {
    let Some(world) = World::of_bookend("a_locked_ledger_delays_the_monitor_and_does_not_end_it") else {
        return;
    };
    let busy = Busy::sleep(&world, "one");
    let lock = Connection::open(world.ledger()).expect("the ledger");
    let monitor = Monitor::spawn(&world, &[], &[("BOOKEND_BUSY_TIMEOUT", "10ms")], &[]);
    monitor.service.until("watching the tasks in");
    lock.execute_batch("BEGIN IMMEDIATE").expect("a lock");
    busy.kill_supervisor();
    let waits = monitor.service.until("not watching");
    assert!(waits.contains("other processes kept it locked"), "{waits}");
    lock.execute_batch("COMMIT").expect("no lock");
    until_reported(&world, "one");
    let output = monitor.stop();
    assert_eq!(count(&output.stderr, "the monitor cannot use the ledger"), 1, "{output:?}");
}
