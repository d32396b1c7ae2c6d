//! The events of a watch, from real files. The kernel queues an event before the call that causes it returns.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;

use super::*;
use crate::ledger::tests::{World, ended};
use crate::task::Ending;

fn id(id: &str) -> TaskId {
    TaskId::recorded(id)
}

struct Watched {
    world: World,
    ledger: Ledger,
    watch: LedgerWatch,
}

impl Watched {
    fn new(scope: WatchScope) -> Watched {
        let world = World::new();
        let ledger = world.open();
        let _ = ledger.hold_monitor().unwrap();
        let watch = ledger.watch(scope).unwrap();
        Watched { world, ledger, watch }
    }

    fn spool(&self, name: &str) -> PathBuf {
        self.world.at().private_dir().join("spool").join(name)
    }

    #[track_caller]
    fn expect(&mut self, events: &[LedgerEvent]) {
        assert_eq!(self.watch.read(), events);
    }
}

#[test]
fn the_close_of_a_slot_names_its_task() {
    let mut watched = Watched::new(WatchScope::All);
    let slot = watched.ledger.spool_slot(&id("a/b")).unwrap();
    watched.expect(&[]);
    drop(slot);
    watched.expect(&[LedgerEvent::SupervisorClosed(id("a/b"))]);
}

#[test]
fn a_slot_that_is_removed_and_closed_is_one_event() {
    let mut watched = Watched::new(WatchScope::All);
    watched.ledger.spool_slot(&id("t")).unwrap().free().release().unwrap();
    watched.expect(&[LedgerEvent::Released(id("t"))]);
}

#[test]
fn a_record_is_reported_and_one_that_is_moved_away_is_not() {
    for scope in [WatchScope::All, WatchScope::Ends] {
        let mut watched = Watched::new(scope);
        let mut slot = watched.ledger.spool_slot(&id("t")).unwrap();
        slot.write(&ended(Ending::Success), "run").unwrap();
        let events = watched.watch.read();
        assert!(events.contains(&LedgerEvent::Recorded(id("t"))), "{events:?}");
        fs::rename(watched.spool("t.json"), watched.spool("t.kept.json")).unwrap();
        fs::write(watched.spool("notes.txt"), "").unwrap();
        watched.expect(&[]);
    }
    let mut watched = Watched::new(WatchScope::All);
    fs::write(watched.spool("saved.json"), "{}").unwrap();
    watched.expect(&[LedgerEvent::Recorded(id("saved"))]);
}

#[test]
fn an_end_is_reported_when_the_space_of_its_slot_is_given_back() {
    let mut watched = Watched::new(WatchScope::Ends);
    let slot = watched.ledger.spool_slot(&id("t")).unwrap();
    watched.expect(&[]);
    let slot = slot.free();
    watched.expect(&[LedgerEvent::EndRecorded(id("t"))]);
    slot.release().unwrap();
    watched.expect(&[LedgerEvent::Released(id("t"))]);
}

#[test]
fn a_replaced_spool_is_reported_and_one_that_is_moved_back_is_not() {
    let mut watched = Watched::new(WatchScope::All);
    let (spool, away) = (watched.spool(""), watched.world.dir.path().join("away"));
    fs::rename(&spool, &away).unwrap();
    fs::rename(&away, &spool).unwrap();
    watched.expect(&[]);
    fs::rename(&spool, &away).unwrap();
    fs::create_dir(&spool).unwrap();
    watched.expect(&[LedgerEvent::SpoolReplaced]);
    for scope in [WatchScope::All, WatchScope::Ends] {
        let mut watched = Watched::new(scope);
        fs::remove_dir(watched.spool("")).unwrap();
        watched.expect(&[LedgerEvent::SpoolReplaced]);
    }
}

#[test]
fn a_replaced_ledger_or_live_file_is_reported() {
    let part = |watched: &Watched, name: &str| watched.world.dir.path().join(name);
    for name in ["bookend.db", "bookend.db.d/live"] {
        let mut watched = Watched::new(WatchScope::All);
        let file = part(&watched, name);
        File::open(&file).unwrap().set_permissions(fs::metadata(&file).unwrap().permissions()).unwrap();
        watched.expect(&[]);
        // Replaced at once, as `mv` does, while this process has it open.
        fs::copy(&file, part(&watched, "copy")).unwrap();
        fs::rename(part(&watched, "copy"), &file).unwrap();
        watched.expect(&[LedgerEvent::LedgerReplaced]);
        let mut watched = Watched::new(WatchScope::All);
        fs::remove_file(part(&watched, name)).unwrap();
        watched.expect(&[LedgerEvent::LedgerReplaced]);
    }
    let mut watched = Watched::new(WatchScope::All);
    fs::rename(part(&watched, "bookend.db.d"), part(&watched, "away")).unwrap();
    watched.expect(&[LedgerEvent::LedgerReplaced]);
}

#[test]
fn changed_rows_are_reported_only_for_a_ledger_that_another_program_writes_too() {
    let mut watched = Watched::new(WatchScope::All);
    watched.ledger.finish(&id("none"), &ended(Ending::Success), "run").unwrap();
    watched.world.raw().execute_batch("CREATE TABLE theirs (id)").unwrap();
    watched.expect(&[]);
    let adopted = r#"INSERT INTO bookend_setting VALUES ('adopted',
        '{"at":"2026-11-21T12:00:00.000Z","times":{},"prefixes":[]}')"#;
    watched.world.raw().execute_batch(adopted).unwrap();
    watched.ledger = watched.world.open();
    watched.watch = watched.ledger.watch(WatchScope::All).unwrap();
    watched.expect(&[]);
    watched.world.raw().execute_batch("CREATE TABLE others (id)").unwrap();
    watched.expect(&[LedgerEvent::RowsChanged]);
}

#[test]
fn lost_events_are_reported() {
    let mut watched = Watched::new(WatchScope::All);
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let limit: usize = limit.trim().parse().unwrap();
    // Two names in turn, since the kernel joins an event with an equal one before it. A child that another
    // test forks keeps a file open for a moment, and so changes the order of a few.
    for n in 0..limit + 100 {
        let mut file = File::create(watched.spool([".a.slot", ".b.slot"][n % 2])).unwrap();
        file.write_all(b"x").unwrap();
    }
    assert_eq!(watched.watch.read().last(), Some(&LedgerEvent::Overflow));
    watched.expect(&[]);
}
