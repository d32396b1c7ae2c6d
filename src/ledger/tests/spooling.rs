//! The spool: a record is merged once, and a record that cannot be merged is kept.

use std::fs;
use std::os::unix::fs::MetadataExt;

use super::{World, ended, new_task, start, time};
use crate::exit::Exit;
use crate::ledger::{Ledger, MergeOutcome, TaskLookup};
use crate::task::{
    Ending, FailureReason, SessionId, SessionTotals, Signal, SignalSender, Status, Task, TaskEnd, TaskId,
    TokenUsage, UsageCounts,
};

fn read(ledger: &Ledger, id: &str) -> Task {
    match ledger.task(id).unwrap() {
        TaskLookup::One(task) => *task,
        other => panic!("{id}: {other:?}"),
    }
}

fn a_rich_end() -> TaskEnd {
    let mut end = ended(Ending::Failure(FailureReason::Signal));
    end.error = Some("killed\n\"by\" whom?".to_owned());
    end.exit = Some(Exit::Signal(Signal::KILL));
    end.stop_signal = Some(Signal::TERM);
    end.stop_sender = Some(SignalSender { pid: 7, uid: 1000 });
    end.counts = UsageCounts {
        cost_usd: Some(0.125),
        turns: Some(3),
        input_tokens: Some(1),
        output_tokens: Some(2),
        cache_read_tokens: Some(3),
        cache_creation_tokens: Some(4),
    };
    let tokens = TokenUsage { input: Some(9), output: None, ..TokenUsage::of(&end.counts) };
    end.session_totals = SessionTotals { cost_usd: Some(0.5), tokens: Some(tokens) };
    end.model = Some("opus".to_owned());
    end.session_id = Some(SessionId::recorded("s"));
    end.oom_killed = Some(true);
    end.leftovers = Some("{\"found\":1}".to_owned());
    end
}

#[test]
fn a_merged_record_equals_an_end_written_directly() {
    let world = World::new();
    let mut ledger = world.open();
    for id in ["direct", "spooled"] {
        drop(start(&mut ledger, &new_task(id, None)));
    }
    ledger.finish(&TaskId::recorded("direct"), &a_rich_end(), "run").unwrap();
    let mut slot = ledger.spool_slot(&TaskId::recorded("spooled")).unwrap();
    let path = slot.write(&a_rich_end(), "run").unwrap();
    assert_eq!(ledger.spooled().unwrap(), [path]);
    let claim = ledger.claim().unwrap();
    assert!(claim.spooled(&TaskId::recorded("spooled")).unwrap().is_some());
    assert!(claim.spooled(&TaskId::recorded("direct")).unwrap().is_none());
    drop(claim);
    drop(ledger);

    let (ledger, merged) = Ledger::open(&world.at()).unwrap();
    assert_eq!(merged.len(), 1);
    assert_eq!(merged[0].task, Some(TaskId::recorded("spooled")));
    assert!(matches!(
        &merged[0].outcome,
        MergeOutcome::Applied { status: Status::Failure, invalidated: Some(id) } if *id == "s"
    ));
    assert!(ledger.spooled().unwrap().is_empty());
    let mut row = read(&ledger, "spooled");
    let direct = read(&ledger, "direct");
    assert_eq!(row.end_source.as_deref(), Some("spool"));
    row.end_source = direct.end_source.clone();
    row.id = direct.id.clone();
    row.live_slot = direct.live_slot;
    assert_eq!(row, direct);
    assert_eq!(ledger.transitions(&TaskId::recorded("spooled")).unwrap().len(), 2);
}

#[test]
fn a_record_whose_row_has_ended_is_moved_away_and_reported() {
    let world = World::new();
    let mut ledger = world.open();
    drop(start(&mut ledger, &new_task("t", None)));
    let mut slot = ledger.spool_slot(&TaskId::recorded("t")).unwrap();
    slot.write(&a_rich_end(), "run").unwrap();
    ledger.finish(&TaskId::recorded("t"), &ended(Ending::Success), "run").unwrap();
    let merged = ledger.merge_spool().unwrap();
    let MergeOutcome::AlreadyTerminal { status, kept } = &merged[0].outcome else {
        panic!("{merged:?}");
    };
    assert_eq!(*status, Status::Success);
    assert!(kept.ends_with("t.kept.json") && kept.exists());
    assert_eq!(read(&ledger, "t").status, Status::Success);
    assert!(ledger.merge_spool().unwrap().is_empty());
}

#[test]
fn a_record_that_was_merged_before_is_not_reported() {
    let world = World::new();
    let mut ledger = world.open();
    drop(start(&mut ledger, &new_task("t", None)));
    let path = ledger.spool_slot(&TaskId::recorded("t")).unwrap().write(&a_rich_end(), "run").unwrap();
    let bytes = fs::read(&path).unwrap();
    ledger.merge_spool().unwrap();
    fs::write(&path, bytes).unwrap();
    let merged = ledger.merge_spool().unwrap();
    assert!(matches!(merged[0].outcome, MergeOutcome::Applied { .. }));
    assert_eq!(ledger.transitions(&TaskId::recorded("t")).unwrap().len(), 2);
    assert!(!path.exists());
}

#[test]
fn a_record_that_cannot_be_merged_does_not_stop_the_others() {
    let world = World::new();
    let mut ledger = world.open();
    drop(start(&mut ledger, &new_task("good", None)));
    ledger.spool_slot(&TaskId::recorded("good")).unwrap().write(&a_rich_end(), "run").unwrap();
    let mut orphan = ledger.spool_slot(&TaskId::recorded("orphan")).unwrap();
    let orphan = orphan.write(&a_rich_end(), "run").unwrap();
    fs::write(orphan.with_file_name("torn.json"), "{\"version\":1,").unwrap();
    // Still valid JSON, with one digit changed.
    drop(start(&mut ledger, &new_task("damaged", None)));
    let damaged =
        ledger.spool_slot(&TaskId::recorded("damaged")).unwrap().write(&a_rich_end(), "run").unwrap();
    let text = String::from_utf8(fs::read(&damaged).unwrap()).unwrap();
    fs::write(&damaged, text.replacen("\"term_signal\":9", "\"term_signal\":8", 1)).unwrap();
    let outcomes: Vec<_> = ledger.merge_spool().unwrap().into_iter().map(|m| m.outcome).collect();
    let count = |wanted: fn(&MergeOutcome) -> bool| outcomes.iter().filter(|o| wanted(o)).count();
    assert_eq!(count(|o| matches!(o, MergeOutcome::Unreadable { kept, .. } if kept.exists())), 2);
    assert_eq!(count(|o| matches!(o, MergeOutcome::NoRow { kept } if kept.exists())), 1);
    assert_eq!(count(|o| matches!(o, MergeOutcome::Applied { .. })), 1);
    assert_eq!(read(&ledger, "good").status, Status::Failure);
    assert_eq!(read(&ledger, "damaged").status, Status::Running);
    assert!(matches!(ledger.task("orphan").unwrap(), TaskLookup::None));
}

#[test]
fn records_are_merged_in_the_order_in_which_the_tasks_ended() {
    let world = World::new();
    let mut ledger = world.open();
    for (id, at) in [("a", "2026-11-21T12:00:03.000Z"), ("b", "2026-11-21T12:00:01.000Z")] {
        drop(start(&mut ledger, &new_task(id, None)));
        let mut end = ended(Ending::Success);
        end.finished_at = Some(time(at));
        ledger.spool_slot(&TaskId::recorded(id)).unwrap().write(&end, "run").unwrap();
    }
    let order: Vec<_> = ledger.merge_spool().unwrap().into_iter().map(|m| m.task.unwrap()).collect();
    assert_eq!(order, ["b", "a"]);
}

#[test]
fn the_space_for_a_record_is_reserved_and_freed() {
    let world = World::new();
    let ledger = world.open();
    let slot = ledger.spool_slot(&TaskId::recorded("../odd id")).unwrap();
    let path = world.at().private_dir().join("spool/.%2E%2E%2Fodd%20id.slot");
    let meta = fs::metadata(&path).unwrap();
    assert!(meta.len() >= 16 * 1024 && meta.blocks() * 512 >= 16 * 1024);
    assert!(ledger.spooled().unwrap().is_empty());
    let held = slot.free();
    assert_eq!((fs::metadata(&path).unwrap().len(), fs::metadata(&path).unwrap().blocks()), (0, 0));
    held.release().unwrap();
    assert!(!path.exists());
    let unused = ledger.spool_slot(&TaskId::recorded("unused")).unwrap();
    drop(unused);
    let path = world.at().private_dir().join("spool/.unused.slot");
    assert!(path.exists());
    ledger.clear_spool(&TaskId::recorded("unused"), true).unwrap();
    assert!(!path.exists());
}

#[test]
fn a_slot_is_held_beside_its_record_and_giving_it_back_keeps_the_record() {
    let world = World::new();
    let mut ledger = world.open();
    drop(start(&mut ledger, &new_task("t", None)));
    let mut slot = ledger.spool_slot(&TaskId::recorded("t")).unwrap();
    let record = slot.write(&a_rich_end(), "run").unwrap();
    let spool = world.at().private_dir().join("spool");
    assert_eq!(fs::metadata(spool.join(".t.slot")).unwrap().len(), 0);
    // Whatever has become of the other slot meanwhile.
    fs::remove_file(spool.join(".t.slot")).unwrap();
    let held = slot.free();
    assert!(fs::metadata(&record).unwrap().len() > 0);
    held.release().unwrap();
    assert_eq!(ledger.spooled().unwrap(), [record]);
    assert!(ledger.merge_spool().unwrap()[0].is_applied());
}

#[test]
fn only_slots_of_tasks_that_do_not_run_are_removed() {
    let world = World::new();
    let mut ledger = world.open();
    let ids = ["runs", "ended", "never-committed"].map(TaskId::recorded);
    for id in &ids[..2] {
        drop(start(&mut ledger, &new_task(id.as_str(), None)));
    }
    ledger.finish(&ids[1], &ended(Ending::Success), "run").unwrap();
    for id in &ids {
        drop(ledger.spool_slot(id).unwrap());
    }
    assert_eq!(ledger.slots().unwrap().len(), 3);
    ledger.remove_slots(&ids).unwrap();
    assert_eq!(ledger.slots().unwrap(), [ids[0].clone()]);
}

#[test]
fn a_record_may_be_larger_than_its_slot() {
    let world = World::new();
    let mut ledger = world.open();
    drop(start(&mut ledger, &new_task("t", None)));
    let mut end = a_rich_end();
    end.error = Some("é".repeat(100_000));
    ledger.spool_slot(&TaskId::recorded("t")).unwrap().write(&end, "run").unwrap();
    ledger.merge_spool().unwrap();
    assert_eq!(read(&ledger, "t").error, end.error);
}
