//! Sources for commands that follow tasks: what they show changes while they run.

use std::path::Path;

use super::task_source::{FleetUse, TaskSource};
use crate::commands::find::{self, TaskChoice};
use crate::error::{Error, Kind};
use crate::fleet::{FleetChanges, OrderAnswer};
use crate::ledger::{self, Ledger, Location};
use crate::task::{FleetTask, Key, TaskId};

/// How a command opens the ledger.
type OpenLedger = fn(&Location) -> ledger::Result<Option<Ledger>>;

impl TaskSource {
    /// As [`TaskSource::open`], for a command that goes on although the database does not answer.
    ///
    /// # Errors
    /// As for [`TaskSource::open`].
    pub fn open_to_follow(ledger: Option<&Path>, here: bool) -> Result<TaskSource, Error> {
        match ledger.and_then(ledger::database_url) {
            Some(url) if !here => TaskSource::of_database(url, FleetUse::Follow),
            _ => Ok(match TaskSource::open(ledger, true)? {
                source if here => source,
                source => source.with_fleet(FleetUse::Follow),
            }),
        }
    }

    /// For a command about these tasks, or about the task of this key: the ledger alone if it has them, so
    /// that the database is asked only for tasks of other hosts.
    ///
    /// # Errors
    /// As for [`TaskSource::open`].
    pub fn of_tasks(
        ledger: Option<&Path>,
        open: OpenLedger,
        ids: &[String],
        key: Option<&Key>,
    ) -> Result<TaskSource, Error> {
        if let Some(url) = ledger.and_then(ledger::database_url) {
            return TaskSource::of_database(url, FleetUse::Follow);
        }
        let at = ledger::locate(ledger)?;
        let source = TaskSource::of_ledger(&at, open(&at)?);
        let has_all = match source.ledger() {
            None => true,
            Some(ledger) => {
                let mut has_all = true;
                for id in ids {
                    has_all &= ledger.has_task(&TaskId::recorded(id.clone()))?;
                }
                has_all
                    && key.map_or(Ok(true), |key| ledger.running_holder(key).map(|task| task.is_some()))?
            }
        };
        Ok(if has_all { source } else { source.with_fleet(FleetUse::Follow) })
    }

    /// As [`TaskSource::find`]. Without the database, it cannot be told whether another host has the task.
    ///
    /// # Errors
    /// As for [`TaskSource::find`].
    pub fn find_of_tasks(&self, which: &TaskChoice) -> Result<FleetTask, Error> {
        self.find(which).map_err(|e| match e.kind {
            Kind::Nothing => self.not_asked(&find::nothing(which)).unwrap_or(e),
            _ => e,
        })
    }

    /// The error that the ledger has no such task, if the database does not answer: another host may have it.
    pub fn not_asked(&self, nothing: &str) -> Option<Error> {
        let why = self.away()?;
        Some(Error::failed(format!("{nothing} in {}, and the fleet cannot be asked: {why}", self.name())))
    }

    /// The row of a task of another host. `None`: there is none, or the database does not answer.
    pub fn elsewhere(&self, id: &TaskId) -> Option<FleetTask> {
        self.ask(|reader| reader.task(id)).ok().flatten().flatten()
    }

    /// Orders that the host of a task cancels it. Unlike other questions, this one fails if it is not
    /// answered.
    ///
    /// # Errors
    /// When this user may not order it, or the database does not answer.
    pub fn order_cancel(&self, id: &TaskId) -> Result<OrderAnswer, Error> {
        let mut refused = None;
        let answer = self.ask(|reader| match reader.order_cancel(id) {
            Ok(answer) => Ok(Some(answer)),
            Err(e) => {
                refused = Some(e);
                Ok(None)
            }
        })?;
        let why = self.away().unwrap_or_else(|| "there is none".to_owned());
        let away = || Error::failed(format!("the fleet cannot be asked: {why}"));
        answer.flatten().ok_or_else(|| refused.unwrap_or_else(away))
    }

    /// What came of an order. `None`: it is open, or the database does not answer.
    pub fn order_result(&self, number: i64) -> Option<String> {
        self.ask(|reader| reader.order_result(number)).ok().flatten().flatten()
    }

    /// Reports when tasks of the fleet may have changed. `None`: there is no fleet.
    pub fn changes(&self) -> Option<FleetChanges> {
        FleetChanges::of(self.database()?).ok()
    }
}
