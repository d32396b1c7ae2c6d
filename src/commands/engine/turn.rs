//! One turn of the engine: it waits for one event and acts on it. While a hook or git runs, the engine turns
//! too, so that neither delays the settling of another task.

use std::time::Instant;

use super::periodic_call::PeriodicCall;
use super::recovery_engine::RecoveryEngine;
use super::supervisor_watch::SupervisorWatch;
use crate::error::Error;
use crate::helper::{Attendant, Helper, Waited};
use crate::ledger::Ledger;
use crate::process::watch::{WatchEvent, WatchInterest, WatchSource};
use crate::recovery::batch::RecoveryBatch;
use crate::stop;
use crate::sys::{self, ChildChange, SignalSet};
use crate::task::Signal;

impl RecoveryEngine<'_> {
    /// Waits for one event, at most until `until`, and acts on it. `Some`: bookend received this stop signal.
    ///
    /// # Errors
    /// When the ledger or `/proc` cannot be read, the ledger cannot be written, or the kernel has no memory
    /// left to watch with.
    pub fn turn(
        &mut self,
        helper: &mut Option<Helper>,
        until: Option<Instant>,
    ) -> Result<Option<Signal>, Error> {
        let event = self.await_event(helper.as_ref(), until)?;
        self.periodic_call.iter_mut().for_each(PeriodicCall::call_if_due);
        match event {
            WatchEvent::Child { pid, change: ChildChange::Ended(exit), .. } => {
                helper.iter_mut().filter(|h| h.child.pid == pid).for_each(|h| h.ended = Some(exit));
            }
            WatchEvent::Ready(WatchSource::HelperReport) => {
                helper.iter_mut().for_each(|h| h.start_error = h.child.read_report().err());
            }
            WatchEvent::Signal(received) if !self.heeds_stops => self.withheld.push(received),
            WatchEvent::Signal(received) if stop::stop_of(&received).is_some() => {
                self.stopped.get_or_insert(received.signal);
                return Ok(Some(received.signal));
            }
            WatchEvent::Child { .. }
            | WatchEvent::Signal(_)
            | WatchEvent::Ready(_)
            | WatchEvent::Deadline => {}
        }
        if self.deferred_error.is_none() {
            match self.advance(event) {
                // A hook is not abandoned for what concerns other tasks.
                Err(e) if self.is_attending => self.deferred_error = Some(e),
                done => done?,
            }
        }
        Ok(None)
    }

    fn await_event(&mut self, helper: Option<&Helper>, until: Option<Instant>) -> Result<WatchEvent, Error> {
        let mut interests = Vec::new();
        let report = helper.and_then(|h| h.child.report());
        interests.extend(report.map(|fd| WatchInterest { source: WatchSource::HelperReport, fd }));
        let mut due = vec![until, self.periodic_call.as_ref().map(|periodic_call| periodic_call.due)];
        if self.deferred_error.is_none() {
            let (supervisor_watch, batch) = (self.supervisor_watch.as_ref(), self.batch.as_ref());
            due.extend([self.next_step, supervisor_watch.and_then(SupervisorWatch::due)]);
            interests.extend(supervisor_watch.into_iter().flat_map(SupervisorWatch::interests));
            let processes = batch.into_iter().flat_map(RecoveryBatch::fds);
            interests.extend(processes.map(|fd| WatchInterest { source: WatchSource::Leftover, fd }));
        }
        let deadline = due.into_iter().flatten().min();
        self.watch.next(&interests, deadline).map_err(stop::watching)
    }

    /// Settles what the event and the clock allow.
    fn advance(&mut self, event: WatchEvent) -> Result<(), Error> {
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= Instant::now());
        let is_seen = matches!(event, WatchEvent::Ready(WatchSource::LedgerChange | WatchSource::Supervisor));
        if is_seen || is_due(self.supervisor_watch.as_ref().and_then(|l| l.due())) {
            self.handle_changes()?;
        }
        if event == WatchEvent::Ready(WatchSource::Leftover) || is_due(self.next_step) {
            self.step()?;
        }
        Ok(())
    }

    /// Runs `work`, in which helpers run. Meanwhile stop signals are blocked, and read by the turns.
    pub(super) fn attending<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> T {
        let former = sys::set_mask(SignalSet::ALL);
        sys::set_mask(Signal::STOPS.into_iter().fold(former, SignalSet::with));
        let heeded = std::mem::replace(&mut self.heeds_stops, true);
        self.is_attending = true;
        self.watch.put_back(std::mem::take(&mut self.withheld));
        let done = work(self);
        self.is_attending = false;
        self.heeds_stops = heeded;
        sys::set_mask(former);
        done
    }
}

impl Attendant for RecoveryEngine<'_> {
    fn ledger(&mut self) -> &mut Ledger {
        &mut self.ledger
    }

    fn is_stopping(&self) -> bool {
        self.stopped.is_some()
    }

    fn wait(&mut self, helper: &mut Option<Helper>, until: Option<Instant>) -> Result<Waited, Error> {
        loop {
            if helper.as_ref().is_some_and(|h| h.ended.is_some()) {
                return Ok(Waited::Ended);
            }
            if let Some(signal) = self.turn(helper, until)? {
                return Ok(Waited::Stop(signal));
            }
            let is_late = until.is_some_and(|at| at <= Instant::now());
            if is_late && helper.as_ref().is_none_or(|h| h.ended.is_none()) {
                return Ok(Waited::Deadline);
            }
        }
    }
}
