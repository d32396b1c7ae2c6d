//! The reports of interrupted tasks: printed, or passed to `--on-interrupted`.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::PathBuf;

use tracing::{debug, warn};

use super::deliveries::ATTEMPTS;
use super::post_mortem::{post_mortem, survey, uncommitted};
use super::recovery_engine::RecoveryEngine;
use super::scope::SelectedTasks;
use crate::error::Error;
use crate::failpoint;
use crate::hook::{self, Hook, HookEnd};
use crate::ledger::FollowUp;
use crate::task::{Task, TaskId, Time};

impl RecoveryEngine<'_> {
    /// Reports each interrupted task that was not reported yet, also one that ended itself on a clean
    /// restart. [`RecoveryEngine::record_reports`] records those that were only printed.
    ///
    /// # Errors
    /// When the ledger cannot be read or written.
    pub fn report_interrupted(&mut self, selected: &SelectedTasks) -> Result<(), Error> {
        let mut due = self.unreported(selected)?;
        let ids: Vec<&TaskId> = due.iter().map(|task| &task.id).collect();
        let (lock, taken) = self.ledger.lock_follow_ups(FollowUp::Report, &ids)?;
        let (ours, theirs): (Vec<_>, Vec<_>) =
            due.iter().map(|t| t.id.clone()).zip(taken).partition(|(_, taken)| *taken);
        let ours: BTreeSet<TaskId> = ours.into_iter().map(|(id, _)| id).collect();
        // The other process may die before it has reported them.
        if let Some(supervisor_watch) = &mut self.supervisor_watch {
            theirs.iter().for_each(|(id, _)| supervisor_watch.retry(id));
        }
        // Without those that another process reported before it released its lock.
        due = self.unreported(selected)?;
        due.retain(|task| ours.contains(&task.id));
        let mut survey = survey(self.caller);
        for task in due {
            let uncommitted = self.attending(|engine| uncommitted(&task, &mut survey, engine))?;
            let hint = post_mortem(&self.ledger, task, uncommitted)?;
            self.reporter.post_mortem(&hint);
            failpoint::reached("recover.hinting");
            match &self.policy.on_interrupted {
                // The stop signal arrived while git ran: the next recovery passes the report on.
                Some(_) if self.stopped.is_some() => {}
                Some(command) => self.pass_on(command, &hint.task)?,
                None => self.printed.push(hint.task.id.clone()),
            }
            self.report.hints.push(hint);
            if self.is_interrupted() {
                break;
            }
        }
        self.report_lock = Some(lock);
        Ok(())
    }

    /// The tasks to report. One whose supervisor is still alive is reported by a later recovery.
    fn unreported(&mut self, selected: &SelectedTasks) -> Result<Vec<Task>, Error> {
        let mut due = Vec::new();
        for task in selected.only(self.ledger.unhinted()?) {
            let waits = self
                .supervisor_watch
                .as_ref()
                .is_some_and(|supervisor_watch| supervisor_watch.reports_later(&task.id));
            if !waits && !self.is_supervised(&task)? {
                due.push(task);
            }
        }
        Ok(due)
    }

    /// Passes one report to the `--on-interrupted` command: three times at most, whether it fails or is
    /// interrupted.
    fn pass_on(&mut self, command: &OsStr, task: &Task) -> Result<(), Error> {
        let id = &task.id;
        let Some(attempt) = self.ledger.begin_hint(id)? else { return Ok(()) };
        failpoint::reached("recover.handing");
        let done = if attempt > ATTEMPTS {
            HookEnd::Failed(format!("was interrupted {ATTEMPTS} times"))
        } else {
            let cwd = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
            let limit = hook::limit(self.policy.hook_timeout);
            let hook = Hook { command, cwd: &cwd, attempt: None, limit };
            let caller = self.caller;
            self.attending(|engine| hook::run(&hook, task, caller, engine))?
        };
        failpoint::reached("recover.handed");
        let how = match done {
            HookEnd::Done => return Ok(self.ledger.hinted(std::slice::from_ref(id), Time::now())?),
            HookEnd::Interrupted(signal) => {
                self.ledger.take_back_hint(id)?;
                format!("was interrupted by {signal}")
            }
            HookEnd::Failed(how) => how,
        };
        let next = match &mut self.supervisor_watch {
            _ if attempt >= ATTEMPTS && self.stopped.is_none() => {
                self.ledger.hinted(std::slice::from_ref(id), Time::now())?;
                "it is not run again"
            }
            Some(supervisor_watch) if self.stopped.is_none() => {
                supervisor_watch.report_later(id);
                "it is run again in a minute"
            }
            _ => "the next recovery tries again",
        };
        self.problem(format!("the --on-interrupted command {how} for task {id}; {next}"));
        Ok(())
    }

    /// Records the printed tasks as reported, in one commit. A crash before this repeats reports and loses
    /// none.
    ///
    /// # Errors
    /// When the ledger cannot be written.
    pub fn record_reports(&mut self) -> Result<(), Error> {
        failpoint::reached("recover.reported");
        let printed = std::mem::take(&mut self.printed);
        match self.reporter.failed.take() {
            None => self.ledger.hinted(&printed, Time::now())?,
            Some(e) if printed.is_empty() => {
                debug!("standard output does not take the report: {e}");
            }
            Some(e) => {
                let tasks = match printed.len() {
                    1 => "1 interrupted task".to_owned(),
                    n => format!("{n} interrupted tasks"),
                };
                let next = match &mut self.supervisor_watch {
                    Some(supervisor_watch) => {
                        printed.iter().for_each(|id| supervisor_watch.report_later(id));
                        "it is printed again in a minute"
                    }
                    None => "the next recovery prints it again",
                };
                let problem = format!("the report of {tasks} could not be printed: {e}; {next}");
                warn!("{problem}");
                self.report.problems.push(problem);
            }
        }
        self.report_lock = None;
        Ok(())
    }
}
