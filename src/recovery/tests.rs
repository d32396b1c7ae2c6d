//! Which tasks are lost, the reason for it, and what settling one changes.

use serde_json::json;

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::policy::holds_live_lock;
use super::verdict::{EXIT_DELAY, verdict};
use super::*;
use crate::ledger::LiveLock;
use crate::ledger::TaskLookup;
use crate::ledger::tests::{START, World, ended, new_task, start};
use crate::ledger::{Ledger, LiveEvidence};
use crate::process::leftovers::SparedProcess;
use crate::process::leftovers::{LeftoverSummary, SparedReason};
use crate::process::procfs::identity;
use crate::task::{
    CancelReason, Ending, InterruptReason, NewTask, ProcessIdentity, ProcessScope, RecordedTime, SessionId,
    Status, Task, TaskId, Time, Verdict,
};
use jiff::SignedDuration;

const ALL: [Verdict; 4] = [Verdict::Alive, Verdict::Gone, Verdict::Recycled, Verdict::Unverifiable];
/// A process that does not exist: the kernel assigns no such pid.
const MISSING: ProcessIdentity = ProcessIdentity { pid: i32::MAX, start: 1 };

fn me() -> ProcessIdentity {
    identity::of(std::process::id() as i32).unwrap().unwrap()
}

fn here() -> Rc<ProcessScope> {
    Rc::new(identity::place())
}

fn row(ledger: &Ledger, id: &str) -> Task {
    match ledger.task(id).unwrap() {
        TaskLookup::One(task) => *task,
        other => panic!("{id}: {other:?}"),
    }
}

/// A running task of this boot whose supervisor is gone.
fn lost(id: &str) -> NewTask {
    NewTask {
        place: identity::place(),
        supervisor: MISSING.into(),
        agent_process: Some(MISSING.into()),
        ..new_task(id, None)
    }
}

fn begun(ledger: &mut Ledger, task: &NewTask) -> (LiveLock, Task) {
    let live = start(ledger, task);
    (live, row(ledger, task.id.as_str()))
}

/// The row of a task that is lost, without a ledger around it.
fn lost_row() -> Task {
    let world = World::new();
    begun(&mut world.open(), &lost("t")).1
}

fn found(task: Task, pids: &[i32], survivors: &[i32]) -> LostTask {
    let leftovers = LeftoverSummary {
        found: pids.len(),
        ended: pids.len() - survivors.len(),
        left: 0,
        unreadable: 0,
        pids: pids.to_vec(),
        spared: Vec::new(),
        survivors: survivors.to_vec(),
    };
    let mut lost = LostTask::unswept(task, here());
    lost.leftovers = Some(leftovers);
    lost
}

#[test]
fn the_lock_decides_and_a_contradiction_is_unverifiable() {
    for identity in ALL {
        for same_host in [false, true] {
            let verdict = |lock| verdict(lock, || identity, same_host);
            assert_eq!(verdict(LiveEvidence::Held), Verdict::Alive);
            let renumbered = LiveEvidence::Renumbered { anonymous: false };
            for unclear in [LiveEvidence::OtherFile, renumbered, LiveEvidence::Unreadable] {
                assert_eq!(verdict(unclear), Verdict::Unverifiable);
            }
            assert_eq!(verdict(LiveEvidence::NoSlot), identity);
        }
        assert_eq!(verdict(LiveEvidence::Free, || identity, false), Verdict::Unverifiable);
    }
    assert_eq!(verdict(LiveEvidence::Free, || Verdict::Alive, true), Verdict::Unverifiable);
    assert_eq!(verdict(LiveEvidence::Free, || Verdict::Gone, true), Verdict::Gone);
    assert_eq!(verdict(LiveEvidence::Free, || Verdict::Recycled, true), Verdict::Recycled);
    assert_eq!(verdict(LiveEvidence::Free, || Verdict::Unverifiable, true), Verdict::Gone);
}

/// A free lock proves an end only where the lock is visible: on this boot, or a machine of this name.
#[test]
fn a_free_lock_of_another_machine_proves_nothing() {
    let here = identity::place();
    let mut task = lost_row();
    for (boot, host, expected) in [
        (here.boot_id.as_str(), here.host.as_str(), Verdict::Gone),
        (&here.boot_id, "renamed since", Verdict::Gone),
        (&here.boot_id, "", Verdict::Gone),
        ("another", &here.host, Verdict::Gone),
        ("another", "", Verdict::Gone),
        ("another", "another", Verdict::Unverifiable),
    ] {
        task.boot_id = Some(boot.to_owned());
        task.host = Some(host.to_owned());
        assert_eq!(judge(LiveEvidence::Free, &task), expected, "{boot} {host}");
        assert_eq!(judge(LiveEvidence::Held, &task), Verdict::Alive, "{boot} {host}");
        if host.is_empty() {
            task.host = None;
            assert_eq!(judge(LiveEvidence::Free, &task), expected, "{boot}, host unknown");
        }
    }
}

#[test]
fn a_lock_on_a_renumbered_device_is_judged_only_after_a_reboot() {
    let mut task = lost_row();
    let [device, anonymous] = [false, true].map(|anonymous| LiveEvidence::Renumbered { anonymous });
    assert_eq!(judge(device, &task), Verdict::Unverifiable, "during one boot it is another file");
    assert_eq!(
        judge(anonymous, &task),
        Verdict::Gone,
        "the device number is no evidence, the identity decides"
    );
    task.pid_ns = task.pid_ns.map(|n| n + 1);
    assert_eq!(judge(anonymous, &task), Verdict::Unverifiable, "a pid of another namespace");
    task.boot_id = Some("another".to_owned());
    assert_eq!(judge(device, &task), Verdict::Gone);
}

#[test]
fn without_a_lock_the_identity_of_the_supervisor_decides() {
    let mut task = lost_row();
    assert_eq!(judge(LiveEvidence::NoSlot, &task), Verdict::Gone);
    let supervised_by = |task: &mut Task, pid: i32, start: u64| {
        (task.supervisor_pid, task.supervisor_start) = (Some(pid), Some(start));
    };
    let ProcessIdentity { pid, start } = me();
    supervised_by(&mut task, pid, start + 1);
    assert_eq!(judge(LiveEvidence::NoSlot, &task), Verdict::Recycled);
    assert_eq!(judge(LiveEvidence::Free, &task), Verdict::Recycled);
    supervised_by(&mut task, pid, start);
    assert_eq!(judge(LiveEvidence::NoSlot, &task), Verdict::Alive);
    assert_eq!(judge(LiveEvidence::Free, &task), Verdict::Unverifiable);
    task.pid_ns = task.pid_ns.map(|n| n + 1);
    assert_eq!(judge(LiveEvidence::NoSlot, &task), Verdict::Unverifiable, "a pid of another namespace");
    task.supervisor_pid = None;
    assert_eq!(judge(LiveEvidence::NoSlot, &task), Verdict::Unverifiable, "no record of its supervisor");
}

#[test]
fn waits_briefly_for_a_lock_that_a_child_of_a_lost_task_supervisor_holds() {
    let world = World::new();
    let mut ledger = world.open();
    let (live, mut task) = begun(&mut ledger, &lost("t"));
    let check = |ledger: &Ledger, task: &Task| {
        let from = Instant::now();
        (evidence(ledger, task).unwrap(), from.elapsed())
    };
    let (held, waited) = check(&ledger, &task);
    assert_eq!(held, LiveEvidence::Held, "a process that holds it for so long is not exiting");
    assert!(waited >= EXIT_DELAY);

    let supervisor = task.supervisor_pid.replace(me().pid);
    task.supervisor_start = Some(me().start);
    let (held, waited) = check(&ledger, &task);
    assert_eq!(held, LiveEvidence::Held);
    assert!(waited < EXIT_DELAY, "does not wait for a live supervisor");
    task.supervisor_pid = supervisor;

    let holder = std::thread::spawn(move || {
        // There is no event for the first check of the lock.
        std::thread::sleep(Duration::from_millis(50));
        drop(live);
    });
    assert_eq!(check(&ledger, &task).0, LiveEvidence::Free);
    holder.join().unwrap();
    let (free, waited) = check(&ledger, &task);
    assert_eq!(free, LiveEvidence::Free);
    assert!(waited < EXIT_DELAY, "does not wait for a free lock");
}

#[test]
fn a_task_expires_after_its_last_sign_of_life() {
    let ago = |hours: i64| RecordedTime::At(Time::now().minus(SignedDuration::from_hours(hours)));
    let hours = |n: u64| Duration::from_secs(n * 3600);
    let mut task = lost_row();
    (task.started_at, task.last_seen_at) = (ago(30), None);
    assert!(has_expired(&task, hours(24)));
    assert!(!has_expired(&task, hours(31)));
    task.last_seen_at = Some(ago(2));
    assert!(!has_expired(&task, hours(24)), "it was seen since");
    assert!(has_expired(&task, hours(1)));
    assert!(!has_expired(&task, Duration::MAX));
    task.last_seen_at = Some(RecordedTime::Text("yesterday".to_owned()));
    assert!(!has_expired(&task, Duration::ZERO), "an unreadable time is no proof");
}

#[test]
fn leftovers_are_ended_after_the_task_as_its_option_says() {
    let mut task = lost_row();
    for status in Status::ALL {
        task.status = status;
        for (option, ends_after) in [
            (None, [false, true]),
            (Some("auto"), [false, true]),
            (Some("end"), [true, true]),
            (Some("leave"), [false, false]),
            (Some("of another version"), [false, true]),
        ] {
            task.run_options = option.map(|o| json!({ "leftovers": o }));
            let expected = status != Status::Running && ends_after[usize::from(status != Status::Success)];
            assert_eq!(ends_leftovers(&task), expected, "{status} {option:?}");
        }
    }
}

#[test]
fn only_the_holder_of_the_lock_supervises_a_task() {
    let world = World::new();
    let mut ledger = world.open();
    let live = start(&mut ledger, &NewTask { supervisor: me().into(), ..lost("t") });
    assert!(holds_live_lock(&ledger, me()));
    assert!(!holds_live_lock(&ledger, MISSING));
    assert!(!holds_live_lock(&ledger, ProcessIdentity { start: me().start + 1, ..me() }));
    drop(live);
    assert!(!holds_live_lock(&ledger, me()));
}

#[test]
fn a_task_with_survivors_is_stuck_and_names_them() {
    let task = lost_row();
    assert_eq!(LostTask::unswept(task.clone(), here()).stuck(), None);
    assert_eq!(found(task.clone(), &[7, 8], &[]).stuck(), None);
    let lost_task = found(task, &[7, 8, 9], &[8, 9]);
    assert_eq!(lost_task.survivors(), [8, 9]);
    let why = lost_task.stuck().expect("it is stuck");
    assert!(why.contains("pid 8; pid 9") && !why.contains("pid 7"), "{why}");
}

#[test]
fn each_survivor_is_named_with_the_reason() {
    let mut lost_task = found(lost_row(), &[7, 8, 9], &[7, 8, 9]);
    let spared = [(8, SparedReason::Unreadable), (9, SparedReason::UnknownLedger)]
        .map(|(pid, why)| SparedProcess { pid, name: "env".to_owned(), why, state: None });
    lost_task.leftovers.as_mut().expect("a summary").spared = spared.into();
    let why = lost_task.stuck().expect("it is stuck");
    for part in
        ["pid 7; pid 8, whose environment cannot be read", "pid 9, which names a ledger that does not"]
    {
        assert!(why.contains(part), "{part} in {why}");
    }
}

#[test]
fn an_agent_runs_if_its_identity_is_unchanged() {
    let mut task = lost_row();
    assert_eq!(agent_state(&task), AgentState::Ended);
    let ProcessIdentity { pid, start } = me();
    (task.agent_pid, task.agent_start) = (Some(pid), Some(start));
    assert_eq!(agent_state(&task), AgentState::Runs);
    task.agent_start = Some(start + 1);
    assert_eq!(agent_state(&task), AgentState::Ended, "another process has its pid");
    task.agent_pid = None;
    assert_eq!(agent_state(&task), AgentState::Ended);
}

#[test]
fn a_lost_task_is_described_with_its_id_start_and_leftovers() {
    let task = lost_row();
    let plain = LostTask::unswept(task.clone(), here()).describe();
    assert!(plain.contains("task t") && plain.contains(START) && !plain.contains("leftover"), "{plain}");
    assert_eq!(found(task.clone(), &[], &[]).describe(), plain);
    assert!(found(task, &[7, 8], &[]).describe().contains("2 leftover processes ended"));
}

#[test]
fn the_reason_follows_from_boot_and_expiry() {
    let task = lost_row();
    let reason = |task: &Task| LostTask::unswept(task.clone(), here()).reason();
    assert_eq!(reason(&task), InterruptReason::SupervisorLost);
    assert_eq!(LostTask::expired(task.clone(), here()).reason(), InterruptReason::Ttl);
    let unknown = Task { boot_id: None, ..task.clone() };
    assert_eq!(reason(&unknown), InterruptReason::SupervisorLost, "no boot id was recorded");
    let booted = Task { boot_id: Some("another".to_owned()), ..task };
    assert_eq!(reason(&booted), InterruptReason::Rebooted);
    assert_eq!(LostTask::expired(booted, here()).reason(), InterruptReason::Ttl);
}

#[test]
fn the_explanation_names_the_supervisor_and_the_agent() {
    let task = Task { supervisor_pid: Some(5), agent_pid: Some(6), ..lost_row() };
    let how = |lost_task: &LostTask, reason| lost_task.explanation(reason);
    let lost = InterruptReason::SupervisorLost;
    let alone = LostTask::unswept(task.clone(), here());
    assert_eq!(how(&alone, lost), "its supervisor (pid 5) died unexpectedly");
    assert_eq!(
        how(&found(task.clone(), &[7], &[]), lost),
        "its supervisor (pid 5) died unexpectedly; its agent (pid 6) had ended too"
    );
    let outlived = found(task.clone(), &[6, 7], &[]);
    assert_eq!(
        how(&outlived, lost),
        "its supervisor (pid 5) died unexpectedly; its agent (pid 6) was still running and was ended"
    );
    let oom = how(&outlived, InterruptReason::Oom);
    assert!(oom.contains("OOM killer") && oom.contains("pid 6") && oom.contains("still running"), "{oom}");
    assert!(how(&alone, InterruptReason::Rebooted).contains("rebooted"));
    let ttl = how(&alone, InterruptReason::Ttl);
    assert!(ttl.contains(&task.started_at.to_string()), "{ttl}");
    let seen = Task {
        last_seen_at: Some(RecordedTime::recorded("2026-11-21T12:00:03.000Z".to_owned())),
        ..task.clone()
    };
    assert!(how(&LostTask::unswept(seen, here()), InterruptReason::Ttl).contains("2026-11-21T12:00:03.000Z"));
    let unknown = Task { supervisor_pid: None, agent_pid: None, ..task };
    assert_eq!(how(&LostTask::unswept(unknown, here()), lost), "its supervisor died unexpectedly");
}

fn interrupted(reason: InterruptReason) -> SettleOutcome {
    SettleOutcome::Interrupted { reason, invalidated: None }
}

fn settle(ledger: &mut Ledger, lost_task: &LostTask) -> SettleOutcome {
    let claim = ledger.claim().unwrap();
    let outcome = lost_task.settle(&claim, "recover").unwrap();
    claim.commit().unwrap();
    outcome
}

#[test]
fn settling_records_the_explanation_and_leftovers_but_no_unknown_times() {
    let world = World::new();
    let mut ledger = world.open();
    let (_, task) = begun(&mut ledger, &NewTask { session_id: Some(SessionId::recorded("s1")), ..lost("t") });
    let lost_task = found(task, &[MISSING.pid, 7], &[]);
    assert!(matches!(
        settle(&mut ledger, &lost_task),
        SettleOutcome::Interrupted { reason: InterruptReason::SupervisorLost, .. }
    ));
    let task = row(&ledger, "t");
    assert_eq!((task.status, task.reason.as_deref()), (Status::Interrupted, Some("supervisor_lost")));
    assert_eq!(task.error, Some(lost_task.explanation(InterruptReason::SupervisorLost)));
    assert_eq!((task.end_source.as_deref(), task.oom_killed), (Some("recovery"), None));
    assert_eq!((task.finished_at, task.exit_code, task.term_signal), (None, None, None));
    assert_eq!(task.leftovers.expect("what was found")["found"], 2);
    let invalidated = ledger.invalidations_of_task(&TaskId::recorded("t")).unwrap();
    assert_eq!(invalidated.len(), 1, "the state of the session is unknown");
    assert!(matches!(settle(&mut ledger, &lost_task), SettleOutcome::Unchanged), "it has ended");
}

#[test]
fn without_leftovers_none_are_recorded() {
    let world = World::new();
    let mut ledger = world.open();
    let (_, task) = begun(&mut ledger, &lost("t"));
    assert!(matches!(settle(&mut ledger, &found(task, &[], &[])), SettleOutcome::Interrupted { .. }));
    assert_eq!(row(&ledger, "t").leftovers, None);
}

#[test]
fn a_live_or_unverifiable_task_is_not_settled_unless_it_has_expired() {
    let world = World::new();
    let mut ledger = world.open();
    let (live, task) = begun(&mut ledger, &lost("t"));
    assert!(
        matches!(settle(&mut ledger, &LostTask::unswept(task.clone(), here())), SettleOutcome::Unchanged),
        "its lock is held"
    );
    assert!(
        matches!(settle(&mut ledger, &LostTask::expired(task, here())), SettleOutcome::Unchanged),
        "its age does not count"
    );
    drop(live);
    world.raw().execute_batch("UPDATE task_history SET live_ino = live_ino + 1").unwrap();
    let task = row(&ledger, "t");
    assert!(
        matches!(settle(&mut ledger, &LostTask::unswept(task.clone(), here())), SettleOutcome::Unchanged),
        "it may run"
    );
    assert_eq!(row(&ledger, "t").status, Status::Running);
    assert!(matches!(
        settle(&mut ledger, &LostTask::expired(task, here())),
        SettleOutcome::Interrupted { reason: InterruptReason::Ttl, .. }
    ));
    assert_eq!(row(&ledger, "t").reason.as_deref(), Some("ttl"));
}

#[test]
fn an_ending_in_the_spool_takes_precedence() {
    let world = World::new();
    let mut ledger = world.open();
    let (_, task) = begun(&mut ledger, &lost("t"));
    let mut slot = ledger.spool_slot(&TaskId::recorded("t")).unwrap();
    let record = slot.write(&ended(Ending::Cancelled(CancelReason::Timeout)), "run").unwrap();
    let lost_task = found(task, &[7], &[]);
    let outcome = settle(&mut ledger, &lost_task);
    assert!(matches!(outcome, SettleOutcome::FromSpool(Status::Cancelled)));
    assert_eq!(row(&ledger, "t").reason.as_deref(), Some("timeout"));
    lost_task.close(&ledger, &outcome);
    assert!(!record.exists(), "the row contains it now");
}

#[test]
fn spool_files_of_a_settled_task_are_removed_unless_it_may_be_alive() {
    let world = World::new();
    let mut ledger = world.open();
    let (_, task) = begun(&mut ledger, &lost("t"));
    // A slot that is not given back.
    drop(ledger.spool_slot(&TaskId::recorded("t")).unwrap());
    let slot = world.at().private_dir().join("spool/.t.slot");
    assert!(slot.exists());
    LostTask::expired(task.clone(), here()).close(&ledger, &interrupted(InterruptReason::Ttl));
    LostTask::unswept(task.clone(), here()).close(&ledger, &SettleOutcome::Unchanged);
    assert!(slot.exists(), "its supervisor may run");
    LostTask::unswept(task, here()).close(&ledger, &interrupted(InterruptReason::SupervisorLost));
    assert!(!slot.exists());
}
