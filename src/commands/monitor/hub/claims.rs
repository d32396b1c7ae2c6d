//! The keys of this ledger's runs in the fleet: which run asks for which key, and when a key is given back.
//!
//! The database decides between ledgers, the ledger between its own runs. While a run asks, its key is kept
//! for the ledger. When its connection ends, the ledger shows what came of it: with a running task the key
//! stays, and publishing the task's end frees it; otherwise it is released. Calls are made in the order in
//! which they are decided, so that none overtakes another.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::Instant;

use super::claim_calls::{CallSubject, ClaimCall, ClaimedKey, HolderCancel, TakeAnswer};
use super::pending::{PendingRun, Stage};
use super::repeats::RepeatedCalls;
use super::server::{RunEvent, RunNumber};
use crate::fleet::socket::{HubAnswer, KeyHolder, KeyRequest, StaleSession, WhenHeld};
use crate::ledger::LedgerError;
use crate::task::{Key, TaskId};

/// What the ledger says of its keys.
pub(super) trait LocalKeys {
    /// The task that holds a key: it runs, or its agent has outlived it.
    fn holder(&self, key: &Key) -> Result<Option<TaskId>, LedgerError>;
    /// The running tasks with a key.
    fn running(&self) -> Result<Vec<KeyRequest>, LedgerError>;
    /// The last task of the key that has ended, if that is still to be published.
    fn unpublished_end(&self, key: &Key) -> Result<Option<TaskId>, LedgerError>;
    /// Whether any task of the key is to be published.
    fn has_unpublished(&self, key: &Key) -> Result<bool, LedgerError>;
}

/// Whether the database can be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DatabaseLink {
    /// The first attempt to reach it is under way. Requests wait for its outcome.
    Starting,
    /// It cannot be reached, or this ledger is not registered.
    Away { why: String },
    /// This ledger is registered with this epoch.
    Ready { epoch: i64 },
}

/// The requests of all runs, and the claims of this ledger that the end of no task releases.
#[derive(Debug)]
pub(super) struct FleetClaims {
    link: DatabaseLink,
    /// The last epoch in which the ledger was registered.
    epoch: Option<i64>,
    /// In the order of their arrival.
    requests: BTreeMap<RunNumber, PendingRun>,
    /// Claims to be settled once no request of their key is pending: the task that each names.
    unsettled: HashMap<Key, TaskId>,
    /// The keys whose claims are looked at once the publication under way has ended.
    kept: HashSet<Key>,
    /// The keys of calls that are made again.
    repeats: RepeatedCalls,
    calls: VecDeque<ClaimCall>,
}

impl FleetClaims {
    pub(super) fn new() -> FleetClaims {
        FleetClaims {
            link: DatabaseLink::Starting,
            epoch: None,
            requests: BTreeMap::new(),
            unsettled: HashMap::new(),
            kept: HashSet::new(),
            repeats: RepeatedCalls::default(),
            calls: VecDeque::new(),
        }
    }

    /// The calls that have been decided since the last time, to be begun in this order.
    pub(super) fn take_calls(&mut self) -> Vec<ClaimCall> {
        self.calls.drain(..).collect()
    }

    /// For which task each claim of this ledger is, if it is needed: the holder in the ledger, or a run to
    /// which the key was granted. Claims of other tasks are released when the ledger is reconciled with the
    /// database.
    pub(super) fn needed(
        &self,
        claims: &[ClaimedKey],
        ledger: &impl LocalKeys,
    ) -> Result<Vec<ClaimedKey>, LedgerError> {
        let granted = |key: &Key| self.of_key(key).find(|r| r.stage == Stage::Granted);
        let mut needed = Vec::new();
        for ClaimedKey { key, .. } in claims {
            let holder = ledger.holder(key)?.or_else(|| granted(key).map(|r| r.asked.task.clone()));
            needed.extend(holder.map(|task| ClaimedKey { key: key.clone(), task }));
        }
        Ok(needed)
    }

    /// The keys that a publication must not free: those that runs ask for or were granted, and those `held`
    /// by tasks in the ledger. Call it when the publication is sent, and [`FleetClaims::published`] after it.
    pub(super) fn keys_to_keep(&mut self, held: Vec<Key>) -> Vec<Key> {
        let keys: HashSet<Key> = self.pending_keys().chain(held).collect();
        self.kept.extend(keys.iter().cloned());
        keys.into_iter().collect()
    }

    /// Whether the ledger was registered in another epoch before.
    pub(super) fn is_of_other_epoch(&self, epoch: i64) -> bool {
        self.epoch.is_some_and(|before| before != epoch)
    }

    /// The publication has ended. A key that it kept although no run needs it any longer is released.
    pub(super) fn published(&mut self) {
        let kept = std::mem::take(&mut self.kept);
        if kept.iter().any(|key| !self.is_pending(key)) {
            self.compare();
        }
    }

    /// Compares all claims of this ledger with its tasks, when the database answers.
    fn compare(&mut self) {
        if matches!(self.link, DatabaseLink::Ready { .. }) {
            self.calls.push_back(ClaimCall::List);
        }
    }

    /// Does so, and asks again for the keys that runs wait for: the database may have forgotten that they do.
    pub(super) fn look(&mut self) {
        self.compare();
        let waiting = self.requests.values().filter(|r| r.stage == Stage::Waiting);
        let keys: HashSet<Key> = waiting.map(|r| r.asked.key.clone()).collect();
        keys.iter().for_each(|key| self.ask_again(key));
    }

    fn ask_again(&mut self, key: &Key) {
        self.queue_again(key);
        self.send(key);
    }

    /// A call failed, of this run if it was made for one, and the database answers. It is made again later.
    pub(super) fn failed(
        &mut self,
        number: Option<RunNumber>,
        subject: CallSubject,
        error: &dyn std::error::Error,
    ) {
        let is_lasting = self.repeats.failed(subject, Instant::now());
        let Some(request) = number.and_then(|number| self.requests.get_mut(&number)) else { return };
        request.stage = Stage::Queued;
        if is_lasting || request.is_in_line() {
            request.answer(HubAnswer::Away { why: crate::error::chain(error) });
        }
    }

    /// A call was answered.
    pub(super) fn succeeded(&mut self, subject: &CallSubject) {
        self.repeats.succeeded(subject);
    }

    /// When [`FleetClaims::repeat`] is to be called.
    pub(super) fn next_repeat(&self) -> Option<Instant> {
        self.repeats.next()
    }

    /// Decides again about the keys of calls that failed, and asks again for those of runs that replace a
    /// task: another one may hold the key now.
    pub(super) fn repeat(&mut self, now: Instant) {
        let mut has_failed = false;
        for (subject, is_failure) in self.repeats.due(now) {
            has_failed |= is_failure;
            let Some(key) = &subject.key else { continue };
            if subject.is_give_up() {
                self.give_up_unless_awaited(key);
            }
            self.ask_again(key);
        }
        if has_failed {
            self.compare();
        }
    }

    /// Whether the database can be asked has changed.
    pub(super) fn linked(&mut self, link: DatabaseLink) {
        if let DatabaseLink::Ready { epoch } = link {
            if self.is_of_other_epoch(epoch) {
                let _ = self.forget_grants();
            }
            self.epoch = Some(epoch);
        }
        let was_ready = matches!(self.link, DatabaseLink::Ready { .. });
        self.link = link;
        // Through this connection nothing was asked yet.
        for request in self.requests.values_mut().filter(|r| r.stage != Stage::Granted) {
            request.stage = Stage::Queued;
        }
        self.repeats = RepeatedCalls::default();
        match &self.link {
            DatabaseLink::Ready { .. } => {
                self.compare();
                let keys: HashSet<Key> = self.requests.values().map(|r| r.asked.key.clone()).collect();
                keys.iter().for_each(|key| self.send(key));
            }
            DatabaseLink::Away { .. } | DatabaseLink::Starting => {
                if was_ready {
                    // The list of claims that the next connection reads has them.
                    self.calls.clear();
                    let granted: HashSet<Key> = self.pending_keys().collect();
                    self.unsettled.retain(|key, _| granted.contains(key));
                }
                let numbers: Vec<RunNumber> = self.requests.keys().copied().collect();
                numbers.into_iter().for_each(|number| self.answer_if_away(number));
            }
        }
    }

    /// What was granted in an epoch that is over is not held any longer: these runs ask again. Returns their
    /// number.
    pub(super) fn forget_grants(&mut self) -> usize {
        let before = self.requests.len();
        self.requests.retain(|_, request| request.stage != Stage::Granted);
        self.unsettled.clear();
        before - self.requests.len()
    }

    /// A run asks, or its connection has ended.
    pub(super) fn run_event(&mut self, event: RunEvent, ledger: &impl LocalKeys) -> Result<(), LedgerError> {
        match event {
            RunEvent::Asked(number, asked, answers) => {
                let key = asked.key.clone();
                self.requests.insert(number, PendingRun::new(asked, answers));
                self.answer_if_away(number);
                self.send(&key);
                Ok(())
            }
            RunEvent::Ended(number) => {
                let Some(ended) = self.requests.remove(&number) else { return Ok(()) };
                let key = ended.asked.key;
                if ended.stage == Stage::Waiting {
                    self.give_up_unless_awaited(&key);
                }
                let settled = self.settle(&key, ledger);
                self.send(&key);
                settled
            }
        }
    }

    /// The database can grant these keys now, for which this ledger waits.
    pub(super) fn free(&mut self, keys: &[Key]) {
        for key in keys {
            self.give_up_unless_awaited(key);
            self.queue_again(key);
            self.send(key);
        }
    }

    /// The database does not know any longer that these runs wait.
    fn queue_again(&mut self, key: &Key) {
        for request in self.requests.values_mut() {
            if request.asked.key == *key && request.stage == Stage::Waiting {
                request.stage = Stage::Queued;
                request.waits = request.asked.if_held == WhenHeld::Wait;
            }
        }
    }

    /// Otherwise the key would be reserved for this ledger.
    fn give_up_unless_awaited(&mut self, key: &Key) {
        let is_awaited = |r: &PendingRun| r.waits && r.stage != Stage::Granted;
        if !self.of_key(key).any(is_awaited) {
            self.calls.push_back(ClaimCall::GiveUp { key: key.clone() });
        }
    }

    /// The answer of the database to [`ClaimCall::Take`].
    pub(super) fn taken(
        &mut self,
        number: RunNumber,
        request: &KeyRequest,
        answer: TakeAnswer,
        ledger: &impl LocalKeys,
    ) -> Result<(), LedgerError> {
        let key = &request.key;
        let result = match answer {
            TakeAnswer::Granted { task, elsewhere, session_lost } => {
                self.unsettled.insert(key.clone(), task);
                self.queue_again(key);
                let stale = stale_session(elsewhere, session_lost, || ledger.has_unpublished(key));
                match (self.requests.get_mut(&number), stale) {
                    (Some(run), Ok(stale_session)) => {
                        run.stage = Stage::Granted;
                        run.answer(HubAnswer::Granted { stale_session });
                        self.name_holder(key, ledger).map(drop)
                    }
                    (Some(_), Err(e)) => {
                        self.refused(number, &e, None);
                        self.settle(key, ledger)
                    }
                    // It ended while the database was asked.
                    (None, _) => self.settle(key, ledger),
                }
            }
            TakeAnswer::Held(holder) => {
                self.held(number, request, holder);
                self.settle(key, ledger)
            }
        };
        self.send(key);
        result
    }

    /// Another ledger has the key, or it is this ledger's and others get their turn first.
    fn held(&mut self, number: RunNumber, request: &KeyRequest, holder: KeyHolder) {
        let key = &request.key;
        let Some(run) = self.requests.get_mut(&number) else {
            return self.give_up_unless_awaited(key);
        };
        run.tell(&holder);
        match (run.asked.if_held, run.waits) {
            (WhenHeld::Refuse, _) => drop(self.requests.remove(&number)),
            (WhenHeld::Wait, _) => run.stage = Stage::Waiting,
            (WhenHeld::Replace, true) => {
                run.stage = Stage::Waiting;
                self.calls.push_back(match run.order() {
                    Some(order) => ClaimCall::CheckOrder { key: key.clone(), order },
                    None => ClaimCall::Cancel { key: key.clone() },
                });
                let cancel = ClaimCall::Cancel { key: key.clone() };
                self.repeats.soon(cancel.subject(), Instant::now());
            }
            // Only a ledger that waits for a key may cancel its holder.
            (WhenHeld::Replace, false) => {
                run.waits = true;
                run.stage = Stage::Queued;
            }
        }
    }

    /// A task on another host will be cancelled for the runs that replace the holder of the key.
    pub(super) fn ordered(&mut self, key: &Key, order: &HolderCancel) {
        for run in self.requests.values_mut().filter(|r| r.asked.key == *key) {
            run.ordered = Some(order.clone());
        }
    }

    /// What came of an order. A task that is not known there may begin, and one that has ended may have left
    /// the key to another one: the holder is ordered again.
    pub(super) fn checked(&mut self, key: &Key, order: i64, result: &str) {
        let is_known = !result.starts_with("no such") && result != "has ended";
        let why = result.strip_prefix("refused: ");
        if is_known && why.is_none() {
            return;
        }
        for run in self.requests.values_mut().filter(|r| r.asked.key == *key && r.order() == Some(order)) {
            run.ordered = None;
            why.iter().for_each(|why| run.refuse_holder(why));
        }
    }

    /// Whether the run of this task has the key, or asks for it, so that its row may follow.
    pub(super) fn is_beginning(&self, task: &TaskId) -> bool {
        self.requests.values().any(|r| r.asked.task == *task && r.is_pending())
    }

    /// The database or the ledger refuses a request: the run is refused.
    pub(super) fn refused(&mut self, number: RunNumber, error: &dyn std::error::Error, hint: Option<String>) {
        if let Some(request) = self.requests.remove(&number) {
            request.answer(HubAnswer::Refused { why: crate::error::chain(error), hint });
            // The next one may be behind it.
            self.send(&request.asked.key);
        }
    }

    /// The claims of this ledger, as the database lists them.
    pub(super) fn listed(
        &mut self,
        claims: Vec<ClaimedKey>,
        ledger: &impl LocalKeys,
    ) -> Result<(), LedgerError> {
        let mut missing = ledger.running()?;
        missing.retain(|running| claims.iter().all(|claim| claim.key != running.key));
        for ClaimedKey { key, task } in claims {
            if !self.is_pending(&key) {
                self.unsettled.insert(key.clone(), task);
                self.settle(&key, ledger)?;
            }
        }
        let is_asked = |key: &Key| self.of_key(key).any(|r| r.stage == Stage::Sent);
        missing.retain(|running| !is_asked(&running.key));
        self.calls.extend(missing.into_iter().map(|request| ClaimCall::Assert { request }));
        Ok(())
    }

    /// Decides what becomes of the claim on a key, once no request for it is pending.
    fn settle(&mut self, key: &Key, ledger: &impl LocalKeys) -> Result<(), LedgerError> {
        if !matches!(self.link, DatabaseLink::Ready { .. }) {
            return Ok(());
        }
        // Other hosts cancel the task that the claim names, also while further runs here have the key.
        let is_named = self.name_holder(key, ledger)?;
        if self.is_pending(key) {
            return Ok(());
        }
        if is_named {
            self.unsettled.remove(key);
            return Ok(());
        }
        let Some(task) = self.unsettled.remove(key) else { return Ok(()) };
        let key = key.clone();
        match ledger.unpublished_end(&key)? {
            None => self.calls.push_back(ClaimCall::Release { key, task }),
            // Publishing its end releases the claim, together with its session.
            Some(last) if last == task => {}
            // The session of the last task goes first.
            Some(_) => drop(self.kept.insert(key)),
        }
        Ok(())
    }

    /// Lets the claim name the task that holds the key in the ledger, if there is one.
    fn name_holder(&mut self, key: &Key, ledger: &impl LocalKeys) -> Result<bool, LedgerError> {
        let Some(named) = self.unsettled.get_mut(key) else { return Ok(false) };
        let Some(holder) = ledger.holder(key)? else { return Ok(false) };
        if *named != holder {
            *named = holder.clone();
            self.calls.push_back(ClaimCall::Repoint { key: key.clone(), task: holder });
        }
        Ok(true)
    }

    /// Sends the requests for a key that can be sent: those that do not wait, and the first that waits.
    fn send(&mut self, key: &Key) {
        if !matches!(self.link, DatabaseLink::Ready { .. }) {
            return;
        }
        // What the first in line waits for.
        let mut first: Option<Option<KeyHolder>> = None;
        for (number, request) in self.requests.iter_mut().filter(|(_, r)| r.asked.key == *key) {
            if request.stage == Stage::Queued {
                match &first {
                    Some(holder) if request.is_in_line() => request.tell_in_line(holder.as_ref()),
                    _ => {
                        request.stage = Stage::Sent;
                        let (number, request, wait) = (*number, request.asked.clone(), request.waits);
                        self.calls.push_back(ClaimCall::Take { number, request, wait });
                    }
                }
            }
            if request.is_in_line() {
                first.get_or_insert_with(|| request.awaited().cloned());
            }
        }
    }

    fn answer_if_away(&mut self, number: RunNumber) {
        let DatabaseLink::Away { why } = &self.link else { return };
        if let Some(request) = self.requests.get(&number).filter(|r| r.stage == Stage::Queued) {
            request.answer(HubAnswer::Away { why: why.clone() });
        }
    }

    fn pending_keys(&self) -> impl Iterator<Item = Key> {
        self.requests.values().filter(|r| r.is_pending()).map(|r| r.asked.key.clone())
    }

    fn of_key(&self, key: &Key) -> impl Iterator<Item = &PendingRun> {
        self.requests.values().filter(move |r| r.asked.key == *key)
    }

    /// Whether a run has the key, or may get it at any moment.
    fn is_pending(&self, key: &Key) -> bool {
        self.of_key(key).any(PendingRun::is_pending)
    }
}

/// Why the session of the key in this ledger is not to be resumed. The database does not know yet what the
/// ledger has not published.
fn stale_session(
    elsewhere: Option<String>,
    is_lost: bool,
    has_unpublished: impl FnOnce() -> Result<bool, LedgerError>,
) -> Result<Option<StaleSession>, LedgerError> {
    Ok(match elsewhere {
        Some(host) if !has_unpublished()? => Some(StaleSession::Elsewhere { host }),
        _ => is_lost.then_some(StaleSession::Lost),
    })
}

#[cfg(test)]
mod tests;
