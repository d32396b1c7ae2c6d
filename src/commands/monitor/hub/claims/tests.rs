//! The decisions of the hub about keys, with a ledger and a database of which the test says what they hold.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::*;
use crate::task::Time;

/// A ledger of which the test says what it holds.
#[derive(Default)]
struct Local {
    holders: RefCell<HashMap<Key, TaskId>>,
    unpublished_end: RefCell<Option<TaskId>>,
    keys_unpublished: RefCell<HashSet<Key>>,
}

impl LocalKeys for Local {
    fn holder(&self, key: &Key) -> Result<Option<TaskId>, LedgerError> {
        Ok(self.holders.borrow().get(key).cloned())
    }

    fn running(&self) -> Result<Vec<KeyRequest>, LedgerError> {
        let holders = self.holders.borrow();
        Ok(holders.iter().map(|(key, task)| asked(key.as_str(), task.as_str(), WhenHeld::Refuse)).collect())
    }

    fn unpublished_end(&self, _: &Key) -> Result<Option<TaskId>, LedgerError> {
        Ok(self.unpublished_end.borrow().clone())
    }

    fn has_unpublished(&self, key: &Key) -> Result<bool, LedgerError> {
        Ok(self.keys_unpublished.borrow().contains(key))
    }
}

fn asked(key: &str, task: &str, if_held: WhenHeld) -> KeyRequest {
    KeyRequest { key: key.into(), task: task.into(), slot: 1, if_held }
}

fn holder(task: &str, host: &str) -> KeyHolder {
    KeyHolder { task: task.into(), host: host.into(), since: Time::UNIX_EPOCH, unreachable_since: None }
}

/// The claim names this task.
fn granted(task: &str) -> TakeAnswer {
    TakeAnswer::Granted { task: task.into(), elsewhere: None, session_lost: false }
}

fn held() -> TakeAnswer {
    TakeAnswer::Held(holder("far", "b"))
}

fn told_held() -> HubAnswer {
    HubAnswer::Held(holder("far", "b"))
}

fn repoint(task: &str) -> ClaimCall {
    ClaimCall::Repoint { key: "k".into(), task: task.into() }
}

fn grant() -> HubAnswer {
    HubAnswer::Granted { stale_session: None }
}

fn release(task: &str) -> ClaimCall {
    ClaimCall::Release { key: "k".into(), task: task.into() }
}

fn claimed(task: &str) -> ClaimedKey {
    ClaimedKey { key: "k".into(), task: task.into() }
}

/// The hub of a registered ledger, and its runs, which all ask for the key `k`.
struct HubWorld {
    claims: FleetClaims,
    local: Local,
    runs: HashMap<RunNumber, UnboundedReceiver<HubAnswer>>,
}

impl HubWorld {
    fn new() -> HubWorld {
        let mut claims = FleetClaims::new();
        claims.linked(DatabaseLink::Ready { epoch: 1 });
        assert_eq!(claims.take_calls(), [ClaimCall::List]);
        HubWorld { claims, local: Local::default(), runs: HashMap::new() }
    }

    /// A run that asks, and whose task is named like its number.
    fn ask(&mut self, number: RunNumber, if_held: WhenHeld) {
        let (answers, answered) = unbounded_channel();
        self.runs.insert(number, answered);
        let asked = RunEvent::Asked(number, asked("k", &number.to_string(), if_held), answers);
        self.claims.run_event(asked, &self.local).expect("the ledger answers");
    }

    fn end(&mut self, number: RunNumber) {
        self.claims.run_event(RunEvent::Ended(number), &self.local).expect("the ledger answers");
    }

    fn answer(&mut self, number: RunNumber, answer: TakeAnswer) {
        let request = asked("k", &number.to_string(), WhenHeld::Refuse);
        self.claims.taken(number, &request, answer, &self.local).expect("the ledger answers");
    }

    fn told(&mut self, number: RunNumber) -> Vec<HubAnswer> {
        let run = self.runs.get_mut(&number).expect("a run");
        std::iter::from_fn(|| run.try_recv().ok()).collect()
    }

    /// The takes that were decided, as (run, wait), and the other calls.
    fn calls(&mut self) -> (Vec<(RunNumber, bool)>, Vec<ClaimCall>) {
        let mut takes = Vec::new();
        let mut others = Vec::new();
        for call in self.claims.take_calls() {
            match call {
                ClaimCall::Take { number, wait, .. } => takes.push((number, wait)),
                other => others.push(other),
            }
        }
        (takes, others)
    }

    /// A run that was granted the key.
    fn grant(&mut self, number: RunNumber, if_held: WhenHeld) {
        self.ask(number, if_held);
        assert_eq!(self.calls(), (vec![(number, if_held == WhenHeld::Wait)], vec![]));
        self.answer(number, granted(&number.to_string()));
        assert_eq!(self.told(number), [grant()]);
        assert_eq!(self.calls(), (vec![], vec![]));
    }

    /// The run has committed its row.
    fn commit(&mut self, number: RunNumber) {
        self.local.holders.borrow_mut().insert("k".into(), TaskId::recorded(number.to_string()));
        self.end(number);
    }
}

#[test]
fn a_key_is_released_if_its_run_ends_without_a_row_and_kept_if_it_has_one() {
    let mut hub = HubWorld::new();
    hub.grant(1, WhenHeld::Refuse);
    assert_eq!(hub.claims.keys_to_keep(Vec::new()), [Key::from("k")]);
    hub.end(1);
    assert_eq!(hub.calls(), (vec![], vec![release("1")]));
    hub.grant(2, WhenHeld::Refuse);
    hub.commit(2);
    assert_eq!(hub.calls(), (vec![], vec![]));
    assert!(hub.claims.keys_to_keep(Vec::new()).is_empty());
}

#[test]
fn a_run_that_has_ended_before_the_hub_looked_is_left_to_its_publication() {
    let mut hub = HubWorld::new();
    hub.grant(1, WhenHeld::Refuse);
    *hub.local.unpublished_end.borrow_mut() = Some("1".into());
    hub.end(1);
    assert_eq!(hub.calls(), (vec![], vec![]));
}

#[test]
fn a_claim_that_names_an_earlier_task_outlives_the_publication_of_the_last_one() {
    let mut hub = HubWorld::new();
    hub.ask(2, WhenHeld::Refuse);
    hub.calls();
    hub.answer(2, granted("1"));
    *hub.local.unpublished_end.borrow_mut() = Some("2".into());
    hub.end(2);
    assert_eq!(hub.calls(), (vec![], vec![]));
    *hub.local.unpublished_end.borrow_mut() = None;
    hub.claims.published();
    assert_eq!(hub.calls(), (vec![], vec![ClaimCall::List]));
    hub.claims.listed(vec![claimed("1")], &hub.local).expect("the ledger answers");
    assert_eq!(hub.calls(), (vec![], vec![release("1")]));
}

#[test]
fn a_run_that_ends_while_the_database_is_asked_leaves_no_claim() {
    let mut hub = HubWorld::new();
    hub.ask(1, WhenHeld::Refuse);
    hub.end(1);
    hub.calls();
    hub.answer(1, granted("1"));
    assert_eq!(hub.calls(), (vec![], vec![release("1")]));
}

#[test]
fn a_claim_names_the_holder_in_the_ledger() {
    let mut hub = HubWorld::new();
    hub.grant(1, WhenHeld::Refuse);
    hub.commit(1);
    hub.ask(2, WhenHeld::Refuse);
    hub.calls();
    hub.answer(2, granted("1"));
    hub.end(2);
    assert_eq!(hub.calls(), (vec![], vec![]), "the ledger refused run 2");
    hub.ask(3, WhenHeld::Refuse);
    hub.calls();
    hub.answer(3, granted("3"));
    assert_eq!(hub.calls(), (vec![], vec![repoint("1")]), "the claim on its key was lost");
    hub.commit(3);
    assert_eq!(hub.calls(), (vec![], vec![repoint("3")]));
}

#[test]
fn a_held_key_refuses_one_run_and_lets_another_wait_until_it_is_free() {
    let mut hub = HubWorld::new();
    hub.ask(1, WhenHeld::Refuse);
    hub.ask(2, WhenHeld::Wait);
    hub.ask(3, WhenHeld::Wait);
    assert_eq!(hub.calls().0, [(1, false), (2, true)]);
    hub.answer(1, held());
    assert_eq!(hub.told(1), [told_held()]);
    hub.end(1);
    assert_eq!(hub.told(3), [HubAnswer::InLine]);
    hub.answer(2, held());
    hub.ask(4, WhenHeld::Wait);
    for run in [2, 3, 4] {
        assert_eq!(hub.told(run), [told_held()]);
    }
    assert_eq!(hub.calls(), (vec![], vec![]), "only the first one asks");
    hub.claims.free(&["k".into()]);
    assert_eq!(hub.calls(), (vec![(2, true)], vec![]));
    hub.answer(2, TakeAnswer::Held(holder("next", "c")));
    assert_eq!(hub.told(2), [HubAnswer::Held(holder("next", "c"))]);
    hub.claims.free(&["k".into()]);
    hub.calls();
    hub.answer(2, granted("2"));
    assert_eq!(hub.told(2), [grant()]);
    hub.commit(2);
    assert_eq!(hub.calls(), (vec![(3, true)], vec![]), "it waits for run 2 in the ledger");
    hub.answer(3, granted("2"));
    assert_eq!(hub.told(3), [grant()]);
    hub.ask(5, WhenHeld::Wait);
    assert_eq!(hub.told(4), [], "it was told once");
    assert_eq!(hub.told(5), [HubAnswer::InLine], "the holder is on this host");
}

#[test]
fn a_ledger_that_does_not_wait_any_longer_says_so() {
    let mut hub = HubWorld::new();
    hub.ask(1, WhenHeld::Wait);
    hub.answer(1, held());
    hub.ask(2, WhenHeld::Wait);
    hub.calls();
    hub.end(1);
    assert_eq!(hub.calls(), (vec![(2, true)], vec![]), "its host keeps its place");
    hub.answer(2, held());
    hub.end(2);
    let give_up = ClaimCall::GiveUp { key: "k".into() };
    assert_eq!(hub.calls(), (vec![], vec![give_up.clone()]));
    hub.claims.free(&["k".into()]);
    assert_eq!(hub.calls(), (vec![], vec![give_up]), "a free key that no run waits for is left to others");
}

fn passing() -> std::io::Error {
    std::io::Error::other("it passes")
}

#[test]
fn a_call_that_failed_is_made_again_after_a_pause() {
    let mut hub = HubWorld::new();
    let give_up = || ClaimCall::GiveUp { key: "k".into() };
    let take = ClaimCall::Take { number: 1, request: asked("k", "1", WhenHeld::Wait), wait: true };
    let later = || Instant::now() + std::time::Duration::from_secs(60);
    for (if_held, waits) in [(WhenHeld::Wait, true), (WhenHeld::Refuse, false)] {
        hub.ask(1, if_held);
        for failure in 1..=3 {
            assert_eq!(hub.calls().0, [(1, waits)]);
            hub.claims.failed(Some(1), take.subject(), &passing());
            hub.claims.repeat(Instant::now());
            assert_eq!(hub.calls(), (vec![], vec![]), "it pauses");
            let why = "it passes".to_owned();
            let is_told = waits || failure == 3;
            assert_eq!(hub.told(1), Vec::from_iter(is_told.then_some(HubAnswer::Away { why })));
            hub.claims.repeat(later());
        }
        assert_eq!(hub.calls(), (vec![(1, waits)], vec![ClaimCall::List]));
        hub.claims.succeeded(&take.subject());
        hub.answer(1, granted("1"));
        hub.end(1);
        assert_eq!(hub.calls(), (vec![], vec![release("1")]));
    }
    hub.claims.failed(None, give_up().subject(), &passing());
    hub.claims.repeat(later());
    assert_eq!(hub.calls(), (vec![], vec![give_up(), ClaimCall::List]));
    hub.claims.failed(None, ClaimCall::List.subject(), &passing());
    hub.claims.repeat(later());
    assert_eq!(hub.calls(), (vec![], vec![ClaimCall::List]));
    assert_eq!(hub.claims.next_repeat(), None);
}

#[test]
fn each_registration_is_asked_again_even_if_the_link_between_was_not_seen() {
    let mut hub = HubWorld::new();
    hub.ask(1, WhenHeld::Wait);
    hub.calls();
    hub.claims.linked(DatabaseLink::Ready { epoch: 1 });
    assert_eq!(hub.calls(), (vec![(1, true)], vec![ClaimCall::List]));
}

#[test]
fn a_run_behind_one_that_was_refused_is_sent() {
    let mut hub = HubWorld::new();
    hub.ask(1, WhenHeld::Wait);
    hub.ask(2, WhenHeld::Wait);
    hub.calls();
    hub.claims.refused(1, &std::io::Error::other("too long"), None);
    hub.end(1);
    assert_eq!(hub.calls(), (vec![(2, true)], vec![]));
}

#[test]
fn a_ledger_gives_up_waiting_although_another_run_asks_that_does_not_wait() {
    let mut hub = HubWorld::new();
    hub.ask(1, WhenHeld::Wait);
    hub.answer(1, held());
    hub.ask(2, WhenHeld::Refuse);
    hub.calls();
    hub.end(1);
    let give_up = ClaimCall::GiveUp { key: "k".into() };
    assert_eq!(hub.calls(), (vec![], vec![give_up.clone()]));
    hub.answer(2, held());
    // One that ends before the database has answered.
    hub.ask(3, WhenHeld::Wait);
    hub.end(3);
    hub.calls();
    hub.answer(3, held());
    assert_eq!(hub.calls(), (vec![], vec![give_up]));
}

#[test]
fn a_run_that_does_not_wait_is_not_held_up_and_those_that_wait_ask_again_after_its_grant() {
    let mut hub = HubWorld::new();
    hub.ask(1, WhenHeld::Wait);
    hub.ask(2, WhenHeld::Refuse);
    assert_eq!(hub.calls(), (vec![(1, true), (2, false)], vec![]));
    hub.answer(1, TakeAnswer::Held(holder("t", "here")));
    hub.answer(2, granted("2"));
    assert_eq!(hub.calls(), (vec![(1, true)], vec![]), "a grant ends the waiting of its node");
}

#[test]
fn a_claim_that_ended_while_another_run_asked_is_released_when_that_one_is_refused() {
    let mut hub = HubWorld::new();
    hub.grant(1, WhenHeld::Refuse);
    hub.ask(2, WhenHeld::Refuse);
    hub.end(1);
    assert_eq!(hub.calls(), (vec![(2, false)], vec![]));
    hub.answer(2, TakeAnswer::Held(holder("far", "b")));
    assert_eq!(hub.calls(), (vec![], vec![release("1")]));
}

#[test]
fn a_run_that_waits_asks_again_at_each_look_unless_the_database_is_away() {
    let mut world = HubWorld::new();
    world.ask(1, WhenHeld::Wait);
    assert_eq!(world.calls(), (vec![(1, true)], vec![]));
    world.answer(1, TakeAnswer::Held(holder("t", "there")));
    assert_eq!(world.calls(), (vec![], vec![]));
    world.claims.look();
    assert_eq!(world.calls(), (vec![(1, true)], vec![ClaimCall::List]));
    world.answer(1, granted("1"));
    world.claims.look();
    assert_eq!(world.calls(), (vec![], vec![ClaimCall::List]));
    world.claims.linked(DatabaseLink::Away { why: "gone".to_owned() });
    world.end(1);
    world.claims.look();
    assert_eq!(world.calls(), (vec![], vec![]), "the database is away");
}

#[test]
fn replace_waits_first_and_cancels_each_holder_then() {
    let mut hub = HubWorld::new();
    hub.ask(1, WhenHeld::Replace);
    let cancel = || ClaimCall::Cancel { key: "k".into() };
    let check = || ClaimCall::CheckOrder { key: "k".into(), order: 7 };
    for (task, calls) in [("far", vec![cancel()]), ("far", vec![check()]), ("next", vec![cancel()])] {
        assert_eq!(hub.calls(), (vec![(1, false)], vec![]));
        hub.answer(1, TakeAnswer::Held(holder(task, "b")));
        assert_eq!(hub.calls(), (vec![(1, true)], vec![]));
        hub.answer(1, TakeAnswer::Held(holder(task, "b")));
        assert_eq!(hub.calls(), (vec![], calls), "{task}");
        hub.claims.ordered(&"k".into(), &HolderCancel { task: task.into(), order: 7 });
        hub.claims.repeat(Instant::now());
        assert_eq!(hub.calls(), (vec![], vec![]), "it pauses");
        hub.claims.repeat(Instant::now() + std::time::Duration::from_secs(60));
    }
    hub.claims.checked(&"k".into(), 7, "asked");
    assert!(hub.told(1).iter().all(|told| matches!(told, HubAnswer::Held(_))));
    hub.claims.checked(&"k".into(), 7, "refused: why");
    let why = "why".to_owned();
    assert_eq!(hub.told(1), [HubAnswer::NotCancelled { holder: holder("next", "b"), why }]);
    hub.claims.checked(&"k".into(), 7, "refused: why");
    assert_eq!(hub.told(1), [], "it was said");
    hub.calls();
    hub.claims.free(&["k".into()]);
    hub.answer(1, granted("1"));
    assert_eq!(hub.told(1).last(), Some(&grant()));
}

#[test]
fn while_the_database_is_away_runs_are_told_and_those_that_wait_ask_again() {
    let mut hub = HubWorld::new();
    hub.grant(1, WhenHeld::Refuse);
    hub.ask(2, WhenHeld::Wait);
    hub.claims.linked(DatabaseLink::Starting);
    assert!(hub.told(2).is_empty() && hub.calls().0.is_empty());
    let away = DatabaseLink::Away { why: "gone".to_owned() };
    hub.claims.linked(away);
    hub.ask(3, WhenHeld::Refuse);
    for run in [2, 3] {
        assert_eq!(hub.told(run), [HubAnswer::Away { why: "gone".to_owned() }]);
    }
    assert!(hub.told(1).is_empty(), "it has the key");
    hub.end(3);
    hub.claims.linked(DatabaseLink::Ready { epoch: 1 });
    assert_eq!(hub.calls(), (vec![(2, true)], vec![ClaimCall::List]));
    hub.claims.listed(vec![claimed("1")], &hub.local).expect("the ledger answers");
    hub.end(1);
    hub.answer(2, granted("1"));
    hub.end(2);
    assert_eq!(hub.calls(), (vec![], vec![release("1")]));
}

#[test]
fn what_was_granted_in_an_epoch_that_is_over_is_asked_for_again() {
    let mut hub = HubWorld::new();
    hub.grant(1, WhenHeld::Refuse);
    hub.claims.linked(DatabaseLink::Ready { epoch: 2 });
    assert!(hub.runs.get_mut(&1).expect("a run").is_closed(), "its connection is closed");
}

#[test]
fn a_listed_claim_without_a_holder_is_released_and_a_running_key_without_a_claim_asserted() {
    let mut hub = HubWorld::new();
    hub.claims.listed(vec![claimed("gone")], &hub.local).expect("the ledger answers");
    assert_eq!(hub.calls(), (vec![], vec![release("gone")]));
    hub.local.holders.borrow_mut().insert("k".into(), "t".into());
    hub.claims.listed(vec![claimed("refused")], &hub.local).expect("the ledger answers");
    assert_eq!(hub.calls().1, [repoint("t")]);
    hub.claims.listed(vec![], &hub.local).expect("the ledger answers");
    let request = asked("k", "t", WhenHeld::Refuse);
    assert_eq!(hub.calls().1, [ClaimCall::Assert { request }]);
    hub.ask(1, WhenHeld::Refuse);
    hub.calls();
    hub.claims.listed(vec![claimed("other")], &hub.local).expect("the ledger answers");
    hub.claims.listed(vec![], &hub.local).expect("the ledger answers");
    assert_eq!(hub.calls(), (vec![], vec![]), "a run is asking");
}

#[test]
fn a_key_that_a_publication_kept_in_vain_is_looked_at() {
    let mut hub = HubWorld::new();
    hub.ask(1, WhenHeld::Wait);
    hub.calls();
    assert_eq!(hub.claims.keys_to_keep(Vec::new()), [Key::from("k")]);
    hub.answer(1, TakeAnswer::Held(holder("t", "here")));
    hub.claims.published();
    assert_eq!(hub.calls(), (vec![], vec![ClaimCall::List]));
    hub.claims.keys_to_keep(Vec::new());
    hub.claims.published();
    assert_eq!(hub.calls(), (vec![], vec![]));
}

#[test]
fn the_claims_that_a_reconciliation_needs_name_the_holder_or_the_granted_run() {
    let mut hub = HubWorld::new();
    let needed =
        |hub: &HubWorld| hub.claims.needed(&[claimed("refused")], &hub.local).expect("the ledger answers");
    assert_eq!(needed(&hub), []);
    hub.grant(1, WhenHeld::Refuse);
    assert_eq!(needed(&hub), [claimed("1")]);
    assert!(hub.claims.is_beginning(&"1".into()));
    hub.commit(1);
    assert!(!hub.claims.is_beginning(&"1".into()));
    hub.ask(2, WhenHeld::Wait);
    hub.answer(2, granted("1"));
    assert_eq!(needed(&hub), [claimed("1")]);
}

#[test]
fn a_session_used_elsewhere_is_stale_unless_the_ledger_has_news_of_the_key() {
    let elsewhere =
        || TakeAnswer::Granted { task: "t".into(), elsewhere: Some("b".to_owned()), session_lost: false };
    let mut hub = HubWorld::new();
    hub.ask(1, WhenHeld::Refuse);
    hub.answer(1, elsewhere());
    let stale = StaleSession::Elsewhere { host: "b".to_owned() };
    assert_eq!(hub.told(1), [HubAnswer::Granted { stale_session: Some(stale) }]);
    hub.local.keys_unpublished.borrow_mut().insert("k".into());
    hub.ask(2, WhenHeld::Refuse);
    hub.answer(2, elsewhere());
    assert_eq!(hub.told(2), [grant()]);
    hub.ask(3, WhenHeld::Refuse);
    hub.answer(3, TakeAnswer::Granted { task: "t".into(), elsewhere: None, session_lost: true });
    assert_eq!(hub.told(3), [HubAnswer::Granted { stale_session: Some(StaleSession::Lost) }]);
}
