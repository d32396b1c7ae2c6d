//! The sessions in the ledger: what each end keeps, invalidates or replaces.

use super::{END, START, World, ended, new_task, start, time};
use crate::ledger::sessions::RestoreOutcome;
use crate::ledger::{FinishOutcome, Ledger, TaskLookup};
use crate::task::resume::SessionUse;
use crate::task::{
    CancelReason, Ending, FailureReason, InterruptReason, Key, NewTask, Provider, SessionId, SessionTotals,
    SessionTrust, Status, TaskEnd, TaskId, TokenUsage,
};

const KEY: &str = "forgejo:dev:charles/claude-hooks:1104";

fn with_session(id: &str, session: &str) -> NewTask {
    let mut task = new_task(id, Some(KEY));
    task.session_id = Some(session.into());
    task
}

/// A run that succeeded and linked its session to the key.
fn first_run(ledger: &mut Ledger) {
    drop(start(ledger, &with_session("first", "s1")));
    ledger.finish(&TaskId::recorded("first"), &ended(Ending::Success), "run").unwrap();
}

fn linked(ledger: &Ledger) -> Option<(SessionId, Option<TaskId>)> {
    ledger.session_of_key(&Key::recorded(KEY)).unwrap().map(|s| (s.session_id, s.task_id))
}

fn link(session: &str, task: &str) -> Option<(SessionId, Option<TaskId>)> {
    Some((session.into(), Some(TaskId::recorded(task))))
}

fn reasons(ledger: &Ledger, task: &str) -> Vec<(String, String)> {
    ledger
        .invalidations_of_task(&TaskId::recorded(task))
        .unwrap()
        .into_iter()
        .filter(|i| i.restored_at.is_none())
        .map(|i| (i.session_id.to_string(), i.reason))
        .collect()
}

#[test]
fn only_a_success_keeps_the_session_link() {
    let endings = [
        (Ending::Success, None),
        (Ending::Failure(FailureReason::Exit), Some("failure: exit")),
        (Ending::Failure(FailureReason::AgentError), Some("failure: agent_error")),
        (Ending::Cancelled(CancelReason::Timeout), Some("cancelled: timeout")),
        (Ending::Interrupted(InterruptReason::SupervisorLost), Some("interrupted: supervisor_lost")),
    ];
    for (ending, reason) in endings {
        let world = World::new();
        let mut ledger = world.open();
        first_run(&mut ledger);
        drop(start(&mut ledger, &with_session("second", "s1")));
        assert_eq!(linked(&ledger), link("s1", "second"));
        let finished = ledger.finish(&TaskId::recorded("second"), &ended(ending), "run").unwrap();
        let FinishOutcome::Done { invalidated } = finished else {
            panic!("{finished:?}");
        };
        match reason {
            None => {
                assert_eq!(invalidated, None);
                let session = ledger.session_of_key(&Key::recorded(KEY)).unwrap().unwrap();
                assert_eq!(session.session_id, "s1");
                assert_eq!(session.last_used_at, Some(time(END).into()));
                assert_eq!(session.trust, SessionTrust::Task, "recovery does not check it again");
                assert!(reasons(&ledger, "second").is_empty());
            }
            Some(reason) => {
                assert_eq!(invalidated, Some("s1".into()));
                assert_eq!(linked(&ledger), None);
                assert_eq!(reasons(&ledger, "second"), [("s1".to_owned(), reason.to_owned())]);
            }
        }
    }
}

/// One ending of each terminal status.
fn one_ending_each() -> [Ending; 5] {
    [
        Ending::Success,
        Ending::Failure(FailureReason::Exit),
        Ending::Cancelled(CancelReason::Operator),
        Ending::Interrupted(InterruptReason::SupervisorLost),
        Ending::AbortedNoSkill("review".to_owned()),
    ]
}

/// The SQL statements keep and invalidate sessions as the resume rule says, for each pair of statuses.
#[test]
fn the_statements_follow_the_resume_rule_for_every_status() {
    let terminal = Status::ALL.into_iter().filter(|s| s.is_terminal());
    assert!(terminal.eq(one_ending_each().iter().map(Ending::status)), "a status has no ending here");
    for first in one_ending_each() {
        for second in one_ending_each() {
            let world = World::new();
            let mut ledger = world.open();
            for (id, ending) in [("first", &first), ("second", &second)] {
                drop(start(&mut ledger, &with_session(id, "s1")));
                ledger.finish(&TaskId::recorded(id), &ended(ending.clone()), "run").unwrap();
            }
            let provider = Provider::recorded("anthropic");
            let used = ledger.claim().unwrap().last_use(Some(&provider), &"s1".into(), None).unwrap();
            let context = format!("{first:?}, then {second:?}: {used:?}");
            assert_eq!(
                used.last.as_ref().map(|l| (l.id.as_str(), l.status)),
                Some(("second", second.status()))
            );
            let rule = SessionUse { veto: None, restored: false, ..used.clone() };
            assert_eq!(used.may_be_resumed(), rule.may_be_resumed(), "{context}");
            assert_eq!(linked(&ledger).is_some(), rule.may_be_resumed(), "{context}");
            assert_eq!(used.veto.is_some(), !rule.may_be_resumed(), "{context}");
        }
    }
}

fn never_executed() -> TaskEnd {
    let mut end = ended(Ending::Failure(FailureReason::Spawn));
    end.executed = false;
    end.exit = None;
    end
}

#[test]
fn an_agent_that_never_executed_leaves_the_former_link() {
    for session in ["s1", "s2"] {
        let world = World::new();
        let mut ledger = world.open();
        first_run(&mut ledger);
        let before = ledger.session_of_key(&Key::recorded(KEY)).unwrap();
        drop(start(&mut ledger, &with_session("second", session)));
        let finished = ledger.finish(&TaskId::recorded("second"), &never_executed(), "run").unwrap();
        assert_eq!(finished, FinishOutcome::Done { invalidated: None });
        assert_eq!(ledger.session_of_key(&Key::recorded(KEY)).unwrap(), before);
        assert!(reasons(&ledger, "second").is_empty());
        let claim = ledger.claim().unwrap();
        let last =
            claim.last_use(Some(&Provider::recorded("anthropic")), &SessionId::recorded("s1"), None).unwrap();
        assert_eq!(last.last.unwrap().id, "first", "a task that never executed does not count");
    }
}

#[test]
fn a_session_invalidated_at_the_start_is_restored_if_nothing_was_executed() {
    for executed in [true, false] {
        let world = World::new();
        let mut ledger = world.open();
        first_run(&mut ledger);
        let before = ledger.session_of_key(&Key::recorded(KEY)).unwrap();
        let live = ledger.hold_live().unwrap();
        let claim = ledger.claim().unwrap();
        claim.insert(&new_task("second", Some(KEY)), &live, "run").unwrap();
        claim
            .invalidate_session_for_start(
                &Key::recorded(KEY),
                "fresh",
                &TaskId::recorded("second"),
                time(START),
            )
            .unwrap();
        claim.commit().unwrap();
        assert_eq!(linked(&ledger), None);
        assert_eq!(reasons(&ledger, "second"), [("s1".to_owned(), "fresh".to_owned())]);
        let end = TaskEnd { executed, ..never_executed() };
        ledger.finish(&TaskId::recorded("second"), &end, "run").unwrap();
        assert_eq!(ledger.session_of_key(&Key::recorded(KEY)).unwrap(), before.filter(|_| !executed));
        assert_eq!(reasons(&ledger, "second").len(), usize::from(executed));
    }
}

#[test]
fn an_agent_that_never_executed_leaves_no_link_where_there_was_none() {
    let world = World::new();
    let mut ledger = world.open();
    drop(start(&mut ledger, &with_session("only", "s1")));
    ledger.finish(&TaskId::recorded("only"), &never_executed(), "run").unwrap();
    assert_eq!(linked(&ledger), None);
    assert!(ledger.invalidations_of_task(&TaskId::recorded("only")).unwrap().is_empty());
}

#[test]
fn a_session_reported_while_running_replaces_the_former_at_once() {
    let world = World::new();
    let mut ledger = world.open();
    first_run(&mut ledger);
    drop(start(&mut ledger, &with_session("second", "s1")));
    ledger
        .session_seen(
            &TaskId::recorded("second"),
            Some(&Key::recorded(KEY)),
            Some(&Provider::recorded("anthropic")),
            &SessionId::recorded("s2"),
            time(END),
        )
        .unwrap();
    let TaskLookup::One(row) = ledger.task("second").unwrap() else { panic!("no row") };
    assert_eq!(row.session_id, Some("s2".into()));
    assert_eq!(linked(&ledger), link("s2", "second"));
    assert_eq!(reasons(&ledger, "second"), [("s1".to_owned(), "replaced".to_owned())]);
    ledger.finish(&TaskId::recorded("second"), &ended(Ending::Success), "run").unwrap();
    assert_eq!(linked(&ledger), link("s2", "second"));
    ledger
        .session_seen(
            &TaskId::recorded("second"),
            Some(&Key::recorded(KEY)),
            Some(&Provider::recorded("anthropic")),
            &SessionId::recorded("s3"),
            time(END),
        )
        .unwrap();
    assert_eq!(linked(&ledger), link("s2", "second"), "an ended task changes no link");
}

#[test]
fn a_session_reported_only_in_the_result_is_linked_at_the_end() {
    let world = World::new();
    let mut ledger = world.open();
    drop(start(&mut ledger, &new_task("t", Some(KEY))));
    let mut end = ended(Ending::Success);
    end.session_id = Some(SessionId::recorded("late"));
    ledger.finish(&TaskId::recorded("t"), &end, "run").unwrap();
    assert_eq!(linked(&ledger), link("late", "t"));
}

#[test]
fn a_failure_invalidates_the_session_under_every_key() {
    let world = World::new();
    let mut ledger = world.open();
    first_run(&mut ledger);
    let mut keyless = new_task("keyless", None);
    keyless.session_id = Some(SessionId::recorded("s1"));
    drop(start(&mut ledger, &keyless));
    ledger
        .finish(&TaskId::recorded("keyless"), &ended(Ending::Failure(FailureReason::Signal)), "run")
        .unwrap();
    assert_eq!(linked(&ledger), None);
    let invalidated = ledger.invalidations_of_task(&TaskId::recorded("keyless")).unwrap();
    assert_eq!(invalidated.len(), 1);
    assert_eq!(invalidated[0].key, Some(KEY.into()));
    assert_eq!(invalidated[0].last_used_at, Some(time(END).into()));
}

#[test]
fn the_same_id_of_another_provider_is_another_session() {
    let world = World::new();
    let mut ledger = world.open();
    first_run(&mut ledger);
    let mut other = new_task("other", None);
    other.provider = Some(Provider::recorded("cursor"));
    other.session_id = Some(SessionId::recorded("s1"));
    drop(start(&mut ledger, &other));
    ledger.finish(&TaskId::recorded("other"), &ended(Ending::Failure(FailureReason::Exit)), "run").unwrap();
    assert_eq!(linked(&ledger), link("s1", "first"));
    let claim = ledger.claim().unwrap();
    let last =
        claim.last_use(Some(&Provider::recorded("anthropic")), &SessionId::recorded("s1"), None).unwrap();
    assert_eq!(last.last.unwrap().id, "first");
}

#[test]
fn a_success_does_not_restore_a_session_that_an_operator_invalidated_meanwhile() {
    let world = World::new();
    let mut ledger = world.open();
    drop(start(&mut ledger, &with_session("t", "s1")));
    let claim = ledger.claim().unwrap();
    assert!(
        claim
            .invalidate_session(&Key::recorded(KEY), "operator", Some(&TaskId::recorded("t")), time(END))
            .unwrap()
    );
    assert!(
        !claim
            .invalidate_session(&Key::recorded(KEY), "operator", Some(&TaskId::recorded("t")), time(END))
            .unwrap()
    );
    claim.commit().unwrap();
    ledger.finish(&TaskId::recorded("t"), &ended(Ending::Success), "run").unwrap();
    assert_eq!(linked(&ledger), None);
}

#[test]
fn a_claim_finds_the_last_user_and_the_totals_of_a_session() {
    let world = World::new();
    let mut ledger = world.open();
    drop(start(&mut ledger, &with_session("first", "s1")));
    let mut end = ended(Ending::Success);
    let tokens = TokenUsage { input: Some(7), ..TokenUsage::default() };
    end.session_totals = SessionTotals { cost_usd: Some(1.5), tokens: Some(tokens) };
    ledger.finish(&TaskId::recorded("first"), &end, "run").unwrap();
    let mut second = with_session("second", "s1");
    second.key = Some(Key::recorded("another key"));
    second.started_at = time(END);
    drop(start(&mut ledger, &second));
    let claim = ledger.claim().unwrap();
    let provider = Some(&Provider::recorded("anthropic"));
    assert_eq!(claim.last_session_totals(provider, &"s1".into()).unwrap(), end.session_totals);
    assert_eq!(claim.last_session_totals(provider, &"s2".into()).unwrap(), SessionTotals::default());
    let last = claim.last_use(provider, &"s1".into(), Some(&TaskId::recorded("first"))).unwrap();
    assert_eq!(last.running().map(TaskId::as_str), Some("second"));
    assert!(claim.last_use(provider, &"s2".into(), None).unwrap().last.is_none());
    let linked = claim.last_use(provider, &"s2".into(), Some(&TaskId::recorded("first"))).unwrap();
    assert!(linked.last.is_none(), "a task of another session does not count");
}

#[test]
fn a_restored_session_may_be_resumed_unless_it_is_in_use() {
    let world = World::new();
    let mut ledger = world.open();
    drop(start(&mut ledger, &with_session("t", "s1")));
    let safe = |ledger: &mut Ledger, restored| {
        let last = ledger
            .claim()
            .unwrap()
            .last_use(Some(&Provider::recorded("anthropic")), &SessionId::recorded("s1"), None)
            .unwrap();
        assert!(!last.restored);
        // Restoring a session removes its veto.
        SessionUse { restored, veto: last.veto.clone().filter(|_| !restored), ..last }.may_be_resumed()
    };
    assert_eq!([false, true].map(|restored| safe(&mut ledger, restored)), [false; 2], "the task is running");
    ledger.finish(&TaskId::recorded("t"), &ended(Ending::Failure(FailureReason::Exit)), "run").unwrap();
    assert_eq!([false, true].map(|restored| safe(&mut ledger, restored)), [false, true]);
    drop(start(&mut ledger, &with_session("u", "s1")));
    ledger.finish(&TaskId::recorded("u"), &ended(Ending::Success), "run").unwrap();
    assert!(safe(&mut ledger, false), "the last use was a success");
}

#[test]
fn restore_restores_the_last_invalidated_session_and_not_a_replaced_one() {
    let world = World::new();
    let mut ledger = world.open();
    // The first session fails; the next run starts a second one, which a third replaces.
    drop(start(&mut ledger, &with_session("first", "s1")));
    ledger.finish(&TaskId::recorded("first"), &ended(Ending::Failure(FailureReason::Exit)), "run").unwrap();
    drop(start(&mut ledger, &with_session("second", "s2")));
    ledger
        .session_seen(
            &TaskId::recorded("second"),
            Some(&Key::recorded(KEY)),
            Some(&Provider::recorded("anthropic")),
            &SessionId::recorded("s3"),
            time(END),
        )
        .unwrap();
    assert_eq!(reasons(&ledger, "second"), [("s2".to_owned(), "replaced".to_owned())]);
    ledger.finish(&TaskId::recorded("second"), &never_executed(), "run").unwrap();
    let restored = |ledger: &mut Ledger| match ledger.restore_session(&Key::recorded(KEY), time(END)).unwrap()
    {
        RestoreOutcome::Done(session) => Some(session.session_id),
        _ => None,
    };
    let raw = world.raw();
    raw.execute_batch("DELETE FROM claude_sdk_sessions").unwrap();
    assert_eq!(restored(&mut ledger), Some("s1".into()), "s2 was only replaced");
    raw.execute_batch("DELETE FROM claude_sdk_sessions").unwrap();
    assert_eq!(restored(&mut ledger), None, "s1 was restored before");
}

/// A task of another program may not record its session. The link of the key shows then that it used it.
#[test]
fn a_linked_task_without_a_session_is_the_last_user_only_if_it_started_after_the_known_one() {
    const LATER: &str = "2026-11-21T12:00:00.001Z";
    let runs = Some(Status::Running);
    for (theirs, ours, user, status) in [
        (LATER, START, "theirs", Some(Status::Failure)),
        (START, START, "ours", Some(Status::Success)),
        (START, LATER, "ours", Some(Status::Success)),
        // A running task is the last user, whenever the others started.
        (LATER, START, "ours", runs),
    ] {
        let world = World::new();
        let mut ledger = world.open();
        let begun = |id: &str, at: &str| NewTask { started_at: time(at), ..new_task(id, None) };
        drop(start(&mut ledger, &begun("theirs", theirs)));
        ledger
            .finish(&TaskId::recorded("theirs"), &ended(Ending::Failure(FailureReason::Exit)), "another")
            .unwrap();
        let linked_only = ledger
            .claim()
            .unwrap()
            .last_use(
                Some(&Provider::recorded("anthropic")),
                &SessionId::recorded("s1"),
                Some(&TaskId::recorded("theirs")),
            )
            .unwrap();
        assert_eq!(
            linked_only.last.map(|t| t.id),
            Some(TaskId::recorded("theirs")),
            "no other task is known to use the session"
        );

        drop(start(
            &mut ledger,
            &NewTask { session_id: Some(SessionId::recorded("s1")), ..begun("ours", ours) },
        ));
        if status != runs {
            ledger.finish(&TaskId::recorded("ours"), &ended(Ending::Success), "run").unwrap();
        }
        let last = ledger
            .claim()
            .unwrap()
            .last_use(
                Some(&Provider::recorded("anthropic")),
                &SessionId::recorded("s1"),
                Some(&TaskId::recorded("theirs")),
            )
            .unwrap();
        let last = last.last.unwrap();
        assert_eq!((Some(last.status), last.id.as_str()), (status, user), "{theirs} {ours}");
    }
}

#[test]
fn a_lost_holder_is_ended_and_its_key_claimed_in_one_commit() {
    let world = World::new();
    let mut ledger = world.open();
    drop(start(&mut ledger, &with_session("lost", "s1")));
    let live = ledger.hold_live().unwrap();
    let claim = ledger.claim().unwrap();
    let lost = ended(Ending::Interrupted(InterruptReason::SupervisorLost));
    claim.end(&TaskId::recorded("lost"), &lost, "run").unwrap();
    assert!(claim.session(&Key::recorded(KEY)).unwrap().is_none());
    let mut next = with_session("next", "s2");
    next.started_at = time(START);
    claim.insert(&next, &live, "run").unwrap();
    claim
        .link_session(
            &Key::recorded(KEY),
            Some(&Provider::recorded("anthropic")),
            &SessionId::recorded("s2"),
            &TaskId::recorded("next"),
            time(START),
        )
        .unwrap();
    claim.commit().unwrap();
    assert_eq!(linked(&ledger), link("s2", "next"));
    assert_eq!(reasons(&ledger, "lost"), [("s1".to_owned(), "interrupted: supervisor_lost".to_owned())]);
}
