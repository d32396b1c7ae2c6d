//! The settling of lost tasks, and the invalidation of unsafe sessions.

use std::time::Instant;

use tracing::debug;

use super::recovery_engine::RecoveryEngine;
use super::report::{SpoolReport, UnsettledTask, interrupted};
use super::scope::{SelectedTasks, running};
use crate::error::{Error, chain};
use crate::failpoint;
use crate::ledger::{Ledger, MergedRecord, TaskLookup};
use crate::process::leftovers::SweepStep;
use crate::recovery::batch::{self, RecoveryBatch, RecoveryOutcome};
use crate::recovery::{self, AgentState, LostTask, SettleOutcome};
use crate::sys;
use crate::task::{Task, Time};

impl RecoveryEngine<'_> {
    /// Merges the spool.
    ///
    /// # Errors
    /// When the spool cannot be read.
    pub fn merge_spool(&mut self) -> Result<(), Error> {
        let merged = self.ledger.merge_spool()?;
        self.report_spool(&merged);
        Ok(())
    }

    /// Reports what became of records in the spool. `monitor` reports once that the ledger does not take
    /// them.
    pub fn report_spool(&mut self, merged: &[MergedRecord]) {
        let any_waits = merged.iter().any(MergedRecord::waits);
        let is_new = self
            .supervisor_watch
            .as_mut()
            .is_none_or(|supervisor_watch| supervisor_watch.note_waiting_records(any_waits));
        for record in merged.iter().filter(|record| is_new || !record.waits()) {
            let text = record.to_string();
            self.reporter.line(&text);
            self.report.spool.push(SpoolReport {
                task: record.task.clone(),
                merged: record.is_applied(),
                text,
            });
        }
    }

    /// Adds every running task, and those that have ended and whose processes still run: their supervisors
    /// died or failed after they had written the ending and before they had ended the leftovers.
    ///
    /// # Errors
    /// When the ledger or `/proc` cannot be read.
    pub fn add_all(&mut self, selected: &SelectedTasks) -> Result<(), Error> {
        for task in running(&self.ledger, selected)? {
            self.add(task);
        }
        for id in self.batch().named_tasks()? {
            if let TaskLookup::One(task) = self.ledger.task(id.as_str())?
                && task.id == id
                && selected.has(&id)
                && recovery::ends_leftovers(&task)
            {
                self.add(*task);
            }
        }
        failpoint::reached("recover.judged");
        Ok(())
    }

    /// Adds a task that the ledger calls running, or one that has ended and whose leftovers are to be ended.
    pub fn add(&mut self, task: Task) {
        if self.settling.insert(task.id.clone()) {
            let now = Instant::now();
            self.batch().add(task, now);
            self.next_step = Some(now);
        }
    }

    fn batch(&mut self) -> &mut RecoveryBatch {
        let (ledger, grace) = (&self.ledger, self.policy.grace);
        self.batch.get_or_insert_with(|| {
            if let Err(e) = ledger.expect_many() {
                debug!("{}", chain(&e));
            }
            RecoveryBatch::new(ledger, grace)
        })
    }

    /// Settles the tasks that were added, and those that cannot be judged.
    ///
    /// # Errors
    /// As [`RecoveryEngine::turn`].
    pub fn settle(&mut self, selected: &SelectedTasks) -> Result<(), Error> {
        self.drive()?;
        if self.unverifiable.is_empty() || self.stopped.is_some() {
            return Ok(());
        }
        // An exiting supervisor is alive without its lock. If it could not write the ending, the spool
        // already has it.
        self.merge_spool()?;
        let doubtful = std::mem::take(&mut self.unverifiable);
        for task in running(&self.ledger, selected)?.into_iter().filter(|t| doubtful.contains(&t.id)) {
            self.add(task);
        }
        self.drive()?;
        self.expire()
    }

    /// Settles or reports the tasks that could not be judged.
    ///
    /// # Errors
    /// When the ledger cannot be read or written.
    pub fn expire_unverifiable(&mut self) -> Result<(), Error> {
        if self.unverifiable.is_empty() { Ok(()) } else { self.expire() }
    }

    /// Gives back the memory of the last scan, unless tasks are being settled. Whether there was any.
    pub fn drop_scan(&mut self) -> bool {
        let has_scan = self.batch.is_some() && !self.is_settling();
        if has_scan {
            (self.batch, self.next_step) = (None, None);
        }
        has_scan
    }

    /// Gives back memory after tasks were settled.
    pub fn rest(&mut self) {
        if self.drop_scan() {
            if let Err(e) = self.ledger.rest() {
                debug!("{}", chain(&e));
            }
            sys::trim_memory();
        }
    }

    /// Turns until none of the tasks is left that are being settled now, or a stop signal arrives.
    fn drive(&mut self) -> Result<(), Error> {
        let now = self.settling.clone();
        while self.stopped.is_none() && !self.settling.is_disjoint(&now) {
            self.turn_alone(None)?;
        }
        Ok(())
    }

    /// Steps the tasks that are being settled.
    pub(super) fn step(&mut self) -> Result<(), Error> {
        let Some(batch) = &mut self.batch else { return Ok(()) };
        let (outcomes, step) = batch.step(&self.ledger, Instant::now())?;
        self.next_step = match step {
            SweepStep::Done => None,
            SweepStep::Wait(until) => Some(until),
        };
        let mut lost = Vec::new();
        for outcome in outcomes {
            self.settling.remove(outcome.id());
            match outcome {
                RecoveryOutcome::Alive(task) => {
                    self.report.alive += usize::from(!task.status.is_terminal());
                    self.supervisor_watch
                        .iter_mut()
                        .for_each(|supervisor_watch| supervisor_watch.keep(&task, &self.ledger));
                }
                RecoveryOutcome::Unverifiable(task) => self.unverifiable.push(task.id),
                RecoveryOutcome::Lost(task) | RecoveryOutcome::Stuck(task, _) if task.has_ended() => {
                    self.note_leftovers(&task)?;
                    self.supervisor_watch
                        .iter_mut()
                        .for_each(|supervisor_watch| supervisor_watch.ended(task.id()));
                }
                RecoveryOutcome::Lost(task) => lost.push(task),
                RecoveryOutcome::Stuck(task, why) => self.leave_open(&task, why)?,
            }
        }
        self.settle_lost(lost)
    }

    /// Marks lost tasks as interrupted, which frees their keys.
    fn settle_lost(&mut self, lost: Vec<LostTask>) -> Result<(), Error> {
        if lost.is_empty() {
            return Ok(());
        }
        failpoint::reached("recover.ended");
        for (task, outcome) in batch::settle(&mut self.ledger, lost, self.by)? {
            match outcome {
                SettleOutcome::Interrupted { reason, .. } => {
                    self.report.interrupted.push(interrupted(task.task(), reason))
                }
                SettleOutcome::FromSpool(status) => {
                    let id = task.id();
                    let text = format!("recorded the end of task {id} ({status}) from the spool");
                    self.reporter.line(&text);
                    self.report.spool.push(SpoolReport { task: Some(id.clone()), merged: true, text });
                }
                SettleOutcome::UnreadableSpool(error) => {
                    self.leave_open(&task, Error::from(error).in_line())?;
                    continue;
                }
                SettleOutcome::Unchanged => {
                    self.supervisor_watch
                        .iter_mut()
                        .for_each(|supervisor_watch| supervisor_watch.check_again(task.id()));
                    continue;
                }
            }
            self.supervisor_watch.iter_mut().for_each(|supervisor_watch| supervisor_watch.ended(task.id()));
        }
        Ok(())
    }

    /// Of the running tasks that cannot be judged, settles those that have expired, and reports the others.
    pub(super) fn expire(&mut self) -> Result<(), Error> {
        let ids = std::mem::take(&mut self.unverifiable);
        let mut expired = Vec::new();
        for id in ids {
            let TaskLookup::One(task) = self.ledger.task(id.as_str())? else { continue };
            if task.id != id || task.status.is_terminal() {
                continue;
            }
            if recovery::has_expired(&task, self.policy.ttl) {
                let here = self.batch().here();
                expired.push(LostTask::expired(*task, here));
                continue;
            }
            let is_new = self
                .supervisor_watch
                .as_mut()
                .is_none_or(|supervisor_watch| supervisor_watch.check_later(&task));
            if is_new {
                let why = unverifiable(&self.ledger, &task);
                self.reporter.line(&format!("task {} {why}", task.id));
                self.report.unverifiable.push(UnsettledTask { id: task.id, key: task.key, why });
            }
        }
        self.settle_lost(expired)
    }

    /// Records what became of the leftovers of a task that had ended.
    fn note_leftovers(&mut self, task: &LostTask) -> Result<(), Error> {
        let Some(leftovers) = task.leftovers().filter(|l| l.found > 0) else { return Ok(()) };
        let id = task.id();
        self.reporter.line(&format!("task {id} had ended; leftover processes ended: {}", leftovers.ended));
        if let Ok(text) = serde_json::to_string(leftovers) {
            self.ledger.leftovers(id, &text)?;
        }
        if !task.survivors().is_empty() {
            let problem = format!("processes of task {id} could not be ended: {:?}", task.survivors());
            self.reporter.line(&problem);
            self.report.problems.push(problem);
        }
        Ok(())
    }

    /// Releases the keys of the named tasks whose agents cannot be verified and have expired (`--ttl`).
    ///
    /// # Errors
    /// When the ledger cannot be read or written.
    pub fn release_agents(&mut self, selected: &SelectedTasks) -> Result<(), Error> {
        for id in &selected.0 {
            let TaskLookup::One(task) = self.ledger.task(id.as_str())? else { continue };
            if !task.status.is_terminal() {
                continue;
            }
            match recovery::agent_state(&task) {
                AgentState::Unverified if recovery::has_expired(&task, self.policy.ttl) => {
                    if self.ledger.release_agent(id, Time::now())? {
                        self.reporter.line(&format!("task {id}: its agent no longer keeps the key busy"));
                    }
                }
                AgentState::Runs | AgentState::OutOfReach => {
                    let pid = task.agent_pid.unwrap_or_default();
                    let problem = format!("the agent of task {id} still runs; end it: kill {pid}");
                    self.reporter.line(&problem);
                    self.report.problems.push(problem);
                }
                AgentState::Unverified | AgentState::Ended => {}
            }
        }
        Ok(())
    }

    /// Removes the slots of these tasks, except for those that a supervisor holds.
    pub fn clean_slots_of(&mut self, selected: &SelectedTasks) {
        let cleaned = match selected.are_all() {
            true => recovery::sweep_spool(&mut self.ledger),
            false => recovery::sweep_slots(&mut self.ledger, selected.0.clone()),
        };
        if let Err(e) = cleaned {
            self.problem(e.in_line());
        }
    }

    fn leave_open(&mut self, lost: &LostTask, why: String) -> Result<(), Error> {
        if self
            .supervisor_watch
            .as_mut()
            .is_some_and(|supervisor_watch| !supervisor_watch.check_later(lost.task()))
        {
            return Ok(());
        }
        self.ledger.note_error(lost.id(), &why)?;
        self.reporter.line(&format!("task {} stays running: {why}", lost.id()));
        let key = lost.task().key.clone();
        self.report.stuck.push(UnsettledTask { id: lost.id().clone(), key, why });
        Ok(())
    }

    /// Invalidates every session that must not be resumed.
    ///
    /// # Errors
    /// When the ledger cannot be read or written.
    pub fn invalidate_sessions(&mut self) -> Result<(), Error> {
        self.report.sessions = self.ledger.invalidate_unsafe_sessions(Time::now())?;
        for s in &self.report.sessions {
            let text = format!("key {}: session {} invalidated: {}", s.key, s.session_id, s.why);
            self.reporter.line(&text);
        }
        Ok(())
    }
}

/// Why a task stays `running` that cannot be judged, and the command that settles it.
pub fn unverifiable(ledger: &Ledger, task: &Task) -> String {
    let command = recovery::release_command(ledger, task);
    format!("cannot be judged from here: it is settled when older than --ttl; if it has ended: {command}")
}
