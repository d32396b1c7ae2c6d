//! Tests of joining, of what becomes unpublished, and of what a second connection in the process does.

use super::super::LedgerEvent;
use super::super::tests::{World, ended, new_task, start};
use super::super::{PruneScope, WatchScope};
use super::outbox::OutboxState;
use super::*;
use crate::task::{Ending, FailureReason, Key, NewTask, SessionId, TaskId};
use jiff::SignedDuration;
use std::time::Duration;

const SETTING: &str = r#"{"url":"postgres://db/fleet"}"#;
const OBJECTS: &str = "SELECT count(*) FROM sqlite_schema WHERE name LIKE 'fleet%'";

fn dirty(ledger: &Ledger) -> Vec<String> {
    ledger.unpublished().unwrap().into_iter().map(|d| d.id.to_string()).collect()
}

fn publish(ledger: &mut Ledger, revs: &[i64]) {
    ledger.published(revs);
    ledger.note_published(Duration::from_secs(10)).unwrap();
}

fn publish_all(ledger: &mut Ledger) -> i64 {
    let revs: Vec<i64> = ledger.unpublished().unwrap().iter().map(|d| d.rev).collect();
    publish(ledger, &revs);
    revs.into_iter().max().unwrap_or_default()
}

fn with_session(id: &str, key: &str) -> NewTask {
    NewTask { session_id: Some(SessionId::recorded("s")), ..new_task(id, Some(key)) }
}

#[test]
fn without_a_fleet_there_is_neither_a_table_nor_a_trigger() {
    let world = World::new();
    let mut ledger = world.open();
    let count = || world.raw().query_row(OBJECTS, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!((ledger.fleet(), count(), dirty(&ledger).len()), (None, 0, 0));
    ledger.join_fleet(SETTING).unwrap();
    assert_eq!((world.open().fleet(), count()), (Some(SETTING), 10));
    assert_eq!(Ledger::open_read_only(&world.at()).unwrap().unwrap().fleet(), Some(SETTING));
    ledger.leave_fleet().unwrap();
    ledger.leave_fleet().unwrap();
    assert_eq!((world.open().fleet(), ledger.fleet(), count()), (None, None, 0));
    let _live = start(&mut ledger, &new_task("t", Some("k")));
    assert_eq!((ledger.count_unpublished().unwrap(), dirty(&ledger).len()), (0, 0));
}

#[test]
fn a_claim_tells_the_fleet_of_its_own_moment() {
    let world = World::new();
    let (mut ours, mut other) = (world.open(), world.open());
    let fleet =
        |ledger: &mut Ledger| ledger.claim().unwrap().fleet().unwrap().map(std::borrow::Cow::into_owned);
    assert_eq!(fleet(&mut ours), None);
    for setting in [SETTING, "another"] {
        other.join_fleet(setting).unwrap();
        assert_eq!(
            (fleet(&mut ours), fleet(&mut other)),
            (Some(setting.to_owned()), Some(setting.to_owned()))
        );
    }
    assert_eq!(ours.refresh_fleet().unwrap(), Some("another"));
    other.leave_fleet().unwrap();
    assert_eq!((fleet(&mut ours), fleet(&mut other)), (None, None));
}

#[test]
fn joining_makes_the_whole_history_unpublished() {
    let world = World::new();
    let mut ledger = world.open();
    let _live = ["a", "b"].map(|id| start(&mut ledger, &new_task(id, Some(id))));
    ledger.join_fleet(SETTING).unwrap();
    assert_eq!(dirty(&ledger), ["a", "b"]);
    let before = publish_all(&mut ledger);
    ledger.join_fleet("another").unwrap();
    assert_eq!(ledger.unpublished().unwrap()[0].rev, before + 1, "the numbers go on");
    assert_eq!((dirty(&ledger), ledger.count_unpublished().unwrap()), (vec!["a".into(), "b".into()], 2));
    assert_eq!(world.open().refresh_fleet().unwrap(), Some("another"));
}

#[test]
fn a_ledger_that_left_by_force_knows_its_fleet_and_goes_on_after_the_last_number() {
    let world = World::new();
    let mut ledger = world.open();
    ledger.join_fleet(SETTING).unwrap();
    let _live = ["a", "b"].map(|id| start(&mut ledger, &new_task(id, None)));
    let last = publish_all(&mut ledger);
    ledger.leave_fleet_by_force().unwrap();
    ledger.leave_fleet_by_force().unwrap();
    assert_eq!(ledger.former_fleet().unwrap(), None, "it was in none");
    ledger.join_fleet_after(SETTING, last).unwrap();
    let revs: Vec<i64> = ledger.unpublished().unwrap().iter().map(|d| d.rev).collect();
    assert_eq!(revs, [last + 1, last + 2]);
    ledger.leave_fleet_by_force().unwrap();
    let former = FormerFleet { setting: SETTING.to_owned(), rev: last + 2 };
    assert_eq!((world.open().former_fleet().unwrap(), world.open().fleet()), (Some(former), None));
    ledger.join_fleet("another").unwrap();
    assert_eq!(ledger.former_fleet().unwrap(), None);
    assert_eq!(ledger.unpublished().unwrap()[0].rev, 1);
}

#[test]
fn each_change_of_a_task_gets_a_higher_number_and_one_that_came_meanwhile_stays() {
    let world = World::new();
    let mut ledger = world.open();
    ledger.join_fleet(SETTING).unwrap();
    let _live = start(&mut ledger, &with_session("t", "k"));
    let before = ledger.unpublished().unwrap();
    assert!(before.len() == 1 && before[0].is_running, "{before:?}");
    let id = TaskId::recorded("t");
    ledger.finish(&id, &ended(Ending::Failure(FailureReason::Exit)), "run").unwrap();
    publish(&mut ledger, &[before[0].rev]);
    let after = ledger.unpublished().unwrap();
    assert!(after.len() == 1 && after[0].rev > before[0].rev && !after[0].is_running, "{after:?}");
    let sent = ledger.publication(&after).unwrap();
    assert_eq!((sent[0].task.id.as_str(), sent[0].transitions.len()), ("t", 2));
    assert_eq!((sent[0].sessions.len(), sent[0].invalidations.len()), (0, 1));
    let last = publish_all(&mut ledger);
    assert_eq!(
        ledger.outbox_state(vec![id.clone()]).unwrap(),
        OutboxState { open: Vec::new(), max_rev: last }
    );
    ledger.leftovers(&id, "{}").unwrap();
    assert_eq!(dirty(&ledger), ["t"]);
}

#[test]
fn what_is_published_is_not_looked_for_again_before_and_after_it_is_noted() {
    let world = World::new();
    let mut ledger = world.open();
    ledger.join_fleet(SETTING).unwrap();
    let _live = ["a", "b"].map(|id| start(&mut ledger, &new_task(id, Some(id))));
    let found = ledger.unpublished().unwrap();
    ledger.published(&[found[0].rev]);
    let key = |name: &str| Key::recorded(name);
    let state = |ledger: &Ledger| {
        let a = ledger.is_unpublished(&found[0].id).unwrap() || ledger.has_unpublished(&key("a")).unwrap();
        let b = ledger.is_unpublished(&found[1].id).unwrap() && ledger.has_unpublished(&key("b")).unwrap();
        (dirty(ledger), a, b, ledger.count_unnoted(), ledger.acknowledged().unwrap())
    };
    let rev = found[0].rev;
    assert_eq!(state(&ledger), (vec!["b".into()], false, true, 1, rev));
    let writer = world.raw();
    writer.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert!(matches!(ledger.note_published(Duration::ZERO), Err(LedgerError::Busy { .. })));
    assert_eq!(state(&ledger), (vec!["b".into()], false, true, 1, rev), "it is noted later");
    assert_eq!(dirty(&world.open()), ["a", "b"]);
    writer.execute_batch("ROLLBACK").unwrap();
    ledger.note_published(Duration::ZERO).unwrap();
    assert_eq!(state(&ledger), (vec!["b".into()], false, true, 0, rev));
    assert_eq!((dirty(&world.open()), world.open().acknowledged().unwrap()), (vec!["b".into()], rev));
    ledger.finish(&found[0].id, &ended(Ending::Success), "run").unwrap();
    assert_eq!(dirty(&ledger), ["b", "a"]);
}

#[test]
fn a_note_does_not_concern_another_fleet() {
    let world = World::new();
    let mut ledger = world.open();
    ledger.join_fleet(SETTING).unwrap();
    let _live = start(&mut ledger, &new_task("a", None));
    ledger.published(&[1]);
    let mut other = world.open();
    other.leave_fleet().unwrap();
    other.join_fleet("another").unwrap();
    assert_eq!(other.unpublished().unwrap()[0].rev, 1, "the numbers began again");
    ledger.note_published(Duration::from_secs(10)).unwrap();
    assert_eq!((dirty(&other), other.acknowledged().unwrap()), (vec!["a".into()], 0));
}

#[test]
fn all_is_published_again_with_higher_numbers() {
    let world = World::new();
    let mut ledger = world.open();
    ledger.join_fleet(SETTING).unwrap();
    let _live = ["a", "b"].map(|id| start(&mut ledger, &new_task(id, None)));
    let last = publish_all(&mut ledger);
    let _live = start(&mut ledger, &new_task("c", None));
    assert_eq!(ledger.acknowledged().unwrap(), last);
    ledger.publish_again(Duration::from_secs(10)).unwrap();
    assert_eq!(
        (dirty(&ledger), ledger.acknowledged().unwrap()),
        (vec!["a".into(), "b".into(), "c".into()], 0)
    );
    assert!(ledger.unpublished().unwrap().iter().all(|d| d.rev > last + 1));
    publish_all(&mut ledger);
    ledger.leave_fleet().unwrap();
    let left = "SELECT count(*) FROM bookend_setting WHERE name LIKE 'fleet%'";
    assert_eq!(world.raw().query_row(left, [], |row| row.get::<_, i64>(0)).unwrap(), 0);
}

#[test]
fn a_task_is_open_until_its_end_is_published() {
    let world = World::new();
    let mut ledger = world.open();
    ledger.join_fleet(SETTING).unwrap();
    let _live = start(&mut ledger, &with_session("a", "k"));
    publish_all(&mut ledger);
    let open = |ledger: &Ledger| {
        ledger.outbox_state(vec![TaskId::recorded("a"), TaskId::recorded("b")]).unwrap().open
    };
    assert_eq!(open(&ledger), [TaskId::recorded("a")]);
    ledger.finish(&TaskId::recorded("a"), &ended(Ending::Success), "run").unwrap();
    assert_eq!(open(&ledger), [TaskId::recorded("a")]);
    publish_all(&mut ledger);
    assert!(open(&ledger).is_empty());
}

#[test]
fn a_session_that_changes_makes_both_its_tasks_unpublished() {
    let world = World::new();
    let mut ledger = world.open();
    ledger.join_fleet(SETTING).unwrap();
    let _live = start(&mut ledger, &with_session("a", "k"));
    ledger.finish(&TaskId::recorded("a"), &ended(Ending::Success), "run").unwrap();
    publish_all(&mut ledger);
    let _live = start(&mut ledger, &with_session("b", "k"));
    let mut both = dirty(&ledger);
    both.sort();
    assert_eq!(both, ["a", "b"]);
    let sent = ledger.publication(&ledger.unpublished().unwrap()).unwrap();
    let linked: Vec<_> = sent.iter().map(|u| (u.task.id.as_str(), u.sessions.len())).collect();
    assert!(linked.contains(&("a", 0)) && linked.contains(&("b", 1)), "{linked:?}");
    assert_eq!(ledger.running_holder(&Key::recorded("k")).unwrap().unwrap().id.as_str(), "b");
}

#[test]
fn prune_keeps_and_counts_what_is_not_published() {
    let world = World::new();
    let mut ledger = world.open();
    ledger.join_fleet(SETTING).unwrap();
    for id in ["a", "b"] {
        let _live = start(&mut ledger, &new_task(id, None));
        ledger.finish(&TaskId::recorded(id), &ended(Ending::Success), "run").unwrap();
    }
    let of_a = ledger.unpublished().unwrap().into_iter().find(|d| d.id.as_str() == "a").unwrap();
    publish(&mut ledger, &[of_a.rev]);
    let due = PruneScope::Older(SignedDuration::ZERO);
    let mut counts = |dry| {
        let pruned = ledger.prune(&due, dry).unwrap();
        (pruned.removed, pruned.kept_unpublished)
    };
    assert_eq!((counts(true), counts(false), counts(false)), ((1, 1), (1, 1), (0, 1)));
    assert_eq!(world.raw().execute("DELETE FROM task_history", []).unwrap(), 0, "another program's");
    publish_all(&mut ledger);
    let pruned = ledger.prune(&due, false).unwrap();
    assert_eq!((pruned.removed, pruned.kept_unpublished), (1, 0));
}

#[test]
fn an_id_that_is_a_number_is_published_once() {
    let world = World::new();
    let mut ledger = world.open();
    ledger.join_fleet(SETTING).unwrap();
    let raw = world.raw();
    let rebuilt = "
        ALTER TABLE task_history RENAME TO former;
        CREATE TABLE task_history AS SELECT * FROM former;
        DROP TABLE former;
        CREATE TRIGGER again AFTER UPDATE ON task_history WHEN NEW.id IS NOT NULL
        BEGIN
            DELETE FROM fleet_dirty WHERE task_id = CAST(NEW.id AS TEXT);
            INSERT INTO fleet_dirty (task_id) VALUES (NEW.id);
        END;
        INSERT INTO task_history (id, status) VALUES (7, 'running');
        UPDATE task_history SET status = 'success';
        UPDATE task_history SET status = 'failure';
        SELECT 1";
    raw.execute_batch(rebuilt).unwrap();
    assert_eq!(dirty(&ledger), ["7"]);
}

#[test]
fn the_watch_reports_rows_and_membership() {
    let world = World::new();
    let mut ledger = world.open();
    let mut all = ledger.watch(WatchScope::All).unwrap();
    let mut rows = ledger.watch(WatchScope::Rows).unwrap();
    ledger.join_fleet(SETTING).unwrap();
    assert_eq!(
        (all.read(), rows.read()),
        (vec![LedgerEvent::MembershipChanged], vec![LedgerEvent::RowsChanged])
    );
    ledger.join_fleet(SETTING).unwrap();
    assert_eq!(all.read(), [LedgerEvent::MembershipChanged]);
    ledger.leave_fleet().unwrap();
    assert_eq!(all.read(), [LedgerEvent::MembershipChanged]);
    let _live = start(&mut ledger, &new_task("t", None));
    assert_eq!(rows.read(), [LedgerEvent::RowsChanged]);
}

/// A second connection of this process to the ledger, closed while the first one is inside a transaction:
/// closing a file drops all locks of the process on it (fcntl_locking(2)), unless SQLite itself closes it.
#[test]
fn closing_a_second_connection_keeps_the_locks_of_the_first() {
    let world = World::new();
    let mut first = world.open();
    let second = world.open();
    let live = first.hold_live().unwrap();
    let claim = first.claim().unwrap();
    claim.insert(&new_task("t", Some("k")), &live, "run").unwrap();
    drop(second);
    let third = Ledger::open_read_only(&world.at()).unwrap().unwrap();
    drop(third);
    let may_write = || {
        let tried = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["ledger::fleet::tests::writes_in_another_process", "--exact", "--ignored"])
            .env("BOOKEND_TEST_LEDGER", world.file())
            .output();
        tried.unwrap().status.success()
    };
    assert!(!may_write(), "another process took the write lock although it is held");
    claim.commit().unwrap();
    assert!(may_write());
    let id = TaskId::recorded("t");
    assert!(first.running_holder(&Key::recorded("k")).unwrap().is_some_and(|t| t.id == id));
}

#[test]
#[ignore = "a part of closing_a_second_connection_keeps_the_locks_of_the_first"]
fn writes_in_another_process() {
    let file = std::env::var_os("BOOKEND_TEST_LEDGER").unwrap();
    let conn = rusqlite::Connection::open(file).unwrap();
    conn.busy_timeout(std::time::Duration::ZERO).unwrap();
    conn.execute_batch("BEGIN IMMEDIATE").unwrap();
}
