//! The requests of runs for keys, and what each run knows.

use tokio::sync::mpsc::UnboundedSender;

use super::claim_calls::HolderCancel;
use crate::fleet::socket::{HubAnswer, KeyHolder, KeyRequest, WhenHeld};

/// How far a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// To be sent.
    Queued,
    /// The database has been asked.
    Sent,
    /// The database knows that this ledger waits for the key.
    Waiting,
    Granted,
}

/// What a run knows of what it waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum LastAnswer {
    Nothing,
    /// Other runs of this host are first.
    InLine,
    Holder(KeyHolder),
}

#[derive(Debug)]
pub(super) struct PendingRun {
    pub(super) asked: KeyRequest,
    pub(super) stage: Stage,
    /// The database is to know that it waits.
    pub(super) waits: bool,
    told: LastAnswer,
    /// The last order to cancel the holder on another host.
    pub(super) ordered: Option<HolderCancel>,
    answers: UnboundedSender<HubAnswer>,
}

impl PendingRun {
    pub(super) fn new(asked: KeyRequest, answers: UnboundedSender<HubAnswer>) -> PendingRun {
        let waits = asked.if_held == WhenHeld::Wait;
        PendingRun { asked, stage: Stage::Queued, waits, told: LastAnswer::Nothing, ordered: None, answers }
    }

    /// Whether it has the key, or may get it at any moment.
    pub(super) fn is_pending(&self) -> bool {
        matches!(self.stage, Stage::Sent | Stage::Granted)
    }

    pub(super) fn answer(&self, answer: HubAnswer) {
        // The run may have ended, which is reported.
        let _ = self.answers.send(answer);
    }

    pub(super) fn tell(&mut self, holder: &KeyHolder) {
        self.told = LastAnswer::Holder(holder.clone());
        self.answer(HubAnswer::Held(holder.clone()));
    }

    /// The run waits behind others of this host, the first of which waits for this holder. It is told once.
    pub(super) fn tell_in_line(&mut self, holder: Option<&KeyHolder>) {
        match (holder, &self.told) {
            (Some(holder), LastAnswer::Nothing | LastAnswer::InLine) => self.tell(holder),
            (None, LastAnswer::Nothing) => {
                self.told = LastAnswer::InLine;
                self.answer(HubAnswer::InLine);
            }
            _ => {}
        }
    }

    /// The order to cancel the holder that it was told, if there is one.
    pub(super) fn order(&self) -> Option<i64> {
        match (&self.told, &self.ordered) {
            (LastAnswer::Holder(holder), Some(ordered)) if holder.task == ordered.task => Some(ordered.order),
            _ => None,
        }
    }

    /// The holder cannot be cancelled.
    pub(super) fn refuse_holder(&self, why: &str) {
        if let LastAnswer::Holder(holder) = &self.told {
            self.answer(HubAnswer::NotCancelled { holder: holder.clone(), why: why.to_owned() });
        }
    }

    /// The holder on another host for which it waits.
    pub(super) fn awaited(&self) -> Option<&KeyHolder> {
        match &self.told {
            LastAnswer::Holder(holder) if self.stage == Stage::Waiting => Some(holder),
            _ => None,
        }
    }

    /// Requests of one key that wait are served one after the other.
    pub(super) fn is_in_line(&self) -> bool {
        self.asked.if_held == WhenHeld::Wait
    }
}
