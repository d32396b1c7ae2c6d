//! One recovery at work: it settles lost tasks and invalidates unsafe sessions.

use std::time::Instant;

use super::options::{RecoverOptions, SelectedTasks, running};
use super::report::{RecoveryReport, Reporter, SpoolReport, UnsettledTask, interrupted};
use crate::error::Error;
use crate::failpoint;
use crate::git::Survey;
use crate::ledger::{FollowUpLock, Ledger, MergedRecord, TaskLookup};
use crate::process::leftovers::{self, SweepStep};
use crate::process::spawn::caller::Caller;
use crate::process::watch::Watch;
use crate::recovery::batch::{self, RecoveryBatch, RecoveryOutcome};
use crate::recovery::{self, AgentState, LostTask, SettleOutcome};
use crate::task::{Signal, Task, TaskId, Time};

/// One recovery at work.
pub(super) struct Recovery<'a> {
    pub(super) ledger: Ledger,
    pub(super) selected: SelectedTasks,
    pub(super) watch: Watch,
    pub(super) survey: Survey<'a>,
    pub(super) options: &'a RecoverOptions,
    pub(super) caller: &'a Caller,
    pub(super) reporter: &'a mut Reporter,
    pub(super) report: &'a mut RecoveryReport,
    /// The tasks whose reports were printed and not yet recorded.
    pub(super) printed: Vec<TaskId>,
    /// Keeps other recoveries from reporting them too.
    pub(super) report_lock: Option<FollowUpLock>,
    /// The stop signal that arrived while a hook ran.
    pub(super) stopped: Option<Signal>,
}

impl Recovery<'_> {
    pub(super) fn report_spool(&mut self, merged: &[MergedRecord]) {
        for record in merged {
            let text = record.to_string();
            self.reporter.line(&text);
            self.report.spool.push(SpoolReport {
                task: record.task.clone(),
                merged: record.is_applied(),
                text,
            });
        }
    }

    /// Settles every lost task, and ends the leftovers of tasks whose supervisors died or failed after they
    /// had written the ending and before they had ended the leftovers.
    pub(super) fn settle(&mut self) -> Result<(), Error> {
        let mut batch = RecoveryBatch::new(&self.ledger, self.options.grace);
        let now = Instant::now();
        for task in running(&self.ledger, &self.selected)? {
            batch.add(task, now);
        }
        for id in batch.named_tasks()? {
            if let TaskLookup::One(task) = self.ledger.task(id.as_str())?
                && task.id == id
                && self.selected.has(&id)
                && recovery::ends_leftovers(&task)
            {
                batch.add(*task, now);
            }
        }
        failpoint::reached("recover.judged");
        let unverifiable = self.drive(&mut batch)?;
        if unverifiable.is_empty() {
            return Ok(());
        }
        // An exiting supervisor is alive without its lock. If it could not write the ending, the spool
        // already has it.
        let merged = self.ledger.merge_spool()?;
        self.report_spool(&merged);
        for task in
            running(&self.ledger, &self.selected)?.into_iter().filter(|t| unverifiable.contains(&t.id))
        {
            batch.add(task, Instant::now());
        }
        let unverifiable = self.drive(&mut batch)?;
        self.expire(unverifiable, &batch)
    }

    /// Steps the batch until it is done; returns the tasks that cannot be judged.
    fn drive(&mut self, batch: &mut RecoveryBatch) -> Result<Vec<TaskId>, Error> {
        let mut unverifiable = Vec::new();
        loop {
            let (outcomes, step) = batch.step(&self.ledger, Instant::now())?;
            let mut lost = Vec::new();
            for outcome in outcomes {
                match outcome {
                    RecoveryOutcome::Alive(task) if task.status.is_terminal() => {}
                    RecoveryOutcome::Alive(_) => self.report.alive += 1,
                    RecoveryOutcome::Unverifiable(task) => unverifiable.push(task.id),
                    RecoveryOutcome::Lost(task) | RecoveryOutcome::Stuck(task, _) if task.has_ended() => {
                        self.note_leftovers(&task)?;
                    }
                    RecoveryOutcome::Lost(task) => lost.push(task),
                    RecoveryOutcome::Stuck(task, why) => self.leave_open(&task, why)?,
                }
            }
            self.settle_lost(lost)?;
            match step {
                SweepStep::Done => return Ok(unverifiable),
                SweepStep::Wait(until) => leftovers::wait(batch.fds(), until).map_err(Error::from)?,
            }
        }
    }

    /// Marks lost tasks as interrupted, which frees their keys.
    fn settle_lost(&mut self, lost: Vec<LostTask>) -> Result<(), Error> {
        if lost.is_empty() {
            return Ok(());
        }
        failpoint::reached("recover.ended");
        for (task, outcome) in batch::settle(&mut self.ledger, lost, "recover")? {
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
                    self.leave_open(&task, Error::from(error).in_line())?
                }
                SettleOutcome::Unchanged => {}
            }
        }
        Ok(())
    }

    /// Of the running tasks that cannot be judged, settles those that have expired, and reports the others.
    fn expire(&mut self, ids: Vec<TaskId>, batch: &RecoveryBatch) -> Result<(), Error> {
        let tasks = running(&self.ledger, &self.selected)?.into_iter().filter(|t| ids.contains(&t.id));
        let (expired, kept): (Vec<Task>, Vec<Task>) =
            tasks.partition(|task| recovery::has_expired(task, self.options.ttl));
        for task in kept {
            let why = unverifiable(&self.ledger, &task);
            self.reporter.line(&format!("task {} {why}", task.id));
            self.report.unverifiable.push(UnsettledTask { id: task.id, key: task.key, why });
        }
        self.settle_lost(expired.into_iter().map(|task| LostTask::expired(task, batch.here())).collect())
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
    pub(super) fn release_agents(&mut self) -> Result<(), Error> {
        for id in &self.selected.0 {
            let TaskLookup::One(task) = self.ledger.task(id.as_str())? else { continue };
            if !task.status.is_terminal() {
                continue;
            }
            match recovery::agent_state(&task) {
                AgentState::Unverified if recovery::has_expired(&task, self.options.ttl) => {
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

    pub(super) fn clean_spool(&mut self) {
        if let Err(e) = recovery::sweep_spool(&mut self.ledger) {
            let problem = e.in_line();
            self.reporter.line(&problem);
            self.report.problems.push(problem);
        }
    }

    fn leave_open(&mut self, lost: &LostTask, why: String) -> Result<(), Error> {
        self.ledger.note_error(lost.id(), &why)?;
        self.reporter.line(&format!("task {} stays running: {why}", lost.id()));
        let key = lost.task().key.clone();
        self.report.stuck.push(UnsettledTask { id: lost.id().clone(), key, why });
        Ok(())
    }

    pub(super) fn invalidate_sessions(&mut self) -> Result<(), Error> {
        self.report.sessions = self.ledger.invalidate_unsafe_sessions(Time::now())?;
        for s in &self.report.sessions {
            let text = format!("key {}: session {} invalidated: {}", s.key, s.session_id, s.why);
            self.reporter.line(&text);
        }
        Ok(())
    }

    pub(super) fn problem(&mut self, text: String) {
        self.reporter.line(&text);
        self.report.problems.push(text);
    }
}

pub(super) fn watch() -> Result<Watch, Error> {
    Watch::new().map_err(|e| Error::failed("watching hooks").caused_by(e))
}

/// Why a task stays `running` that cannot be judged, and the command that settles it.
pub(super) fn unverifiable(ledger: &Ledger, task: &Task) -> String {
    let command = recovery::release_command(ledger, task);
    format!("cannot be judged from here: it is settled when older than --ttl; if it has ended: {command}")
}
