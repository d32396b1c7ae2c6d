//! A ledger, with the database of its fleet.

use std::cell::Cell;
use std::path::Path;

use super::super::find;
use crate::error::Error;
use crate::fleet::{FleetAudit, FleetMembership, FleetReader};
use crate::ledger::{self, Ledger, Location};
use crate::log;
use crate::recovery::liveness;
use crate::task::{FleetFacts, FleetTask, Task, TaskId, Verdict};
use crate::view;

/// A ledger, the database of a fleet, or both.
#[derive(Debug)]
pub struct TaskSource {
    /// The path of the ledger, or the URL of the database, as it is shown.
    name: String,
    /// `None`: the database alone.
    at: Option<Location>,
    /// `None`: it does not exist yet.
    ledger: Option<Ledger>,
    fleet: Option<FleetSide>,
}

#[derive(Debug)]
struct FleetSide {
    /// This host's node.
    node: String,
    /// `None`: the database did not answer at the start.
    reader: Option<FleetReader>,
    /// It does not answer any more.
    is_gone: Cell<bool>,
}

impl TaskSource {
    /// The ledger with its fleet, or the database that the option names. `here`: the ledger alone.
    ///
    /// # Errors
    /// When the ledger cannot be chosen or read, or the named database not be reached.
    pub fn open(ledger: Option<&Path>, here: bool) -> Result<TaskSource, Error> {
        let Some(url) = ledger.and_then(ledger::database_url) else {
            let at = ledger::locate(ledger)?;
            let source = TaskSource::here(&at)?;
            return Ok(if here { source } else { source.with_fleet() });
        };
        if here {
            return Err(Error::usage("--here shows the tasks of a ledger, and --ledger names a database"));
        }
        let fleet = FleetSide::of(String::new(), Some(FleetReader::connect(url)?));
        Ok(TaskSource { name: view::one_line(url).into_owned(), at: None, ledger: None, fleet: Some(fleet) })
    }

    /// The ledger alone.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn here(at: &Location) -> Result<TaskSource, Error> {
        let name = view::one_line(&at.file.to_string_lossy()).into_owned();
        Ok(TaskSource { name, ledger: Ledger::open_read_only(at)?, at: Some(at.clone()), fleet: None })
    }

    fn with_fleet(self) -> TaskSource {
        let Some(ledger) = &self.ledger else { return self };
        let Some(setting) = ledger.fleet() else { return self };
        let mut node = String::new();
        let connected = FleetMembership::parse(setting)
            .map_err(|e| Error::failed("the setting of the fleet in the ledger cannot be read").caused_by(e))
            .and_then(|membership| {
                node = membership.node.to_string();
                // Whoever may write to the ledger would choose who gets this user's password.
                match ledger.distrust() {
                    Some(distrust) => Err(Error::failed(distrust.why)),
                    None => FleetReader::connect(&membership.url),
                }
            });
        let reader = connected.map_err(|e| warn_of_rows_of_this_host(&e)).ok();
        TaskSource { fleet: Some(FleetSide::of(node, reader)), ..self }
    }

    /// The path of the ledger or the URL of the database, on one line.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The path of the ledger or the URL of the database, as it is.
    pub fn place(&self) -> String {
        self.at.as_ref().map_or_else(|| self.name.clone(), |at| at.file.to_string_lossy().into_owned())
    }

    /// The ledger's place; `None`: there is only the database.
    pub fn at(&self) -> Option<&Location> {
        self.at.as_ref()
    }

    /// `None`: there is only the database, or the ledger does not exist yet.
    pub fn ledger(&self) -> Option<&Ledger> {
        self.ledger.as_ref()
    }

    /// Whether tasks of several hosts may be shown.
    pub fn is_fleet(&self) -> bool {
        self.fleet.is_some()
    }

    /// Fails if there is nothing to read from.
    ///
    /// # Errors
    /// When the ledger does not exist.
    pub fn require(&self, nothing: &str) -> Result<(), Error> {
        match &self.at {
            Some(at) if self.ledger.is_none() => Err(find::no_ledger(nothing, at)),
            _ => Ok(()),
        }
    }

    /// What an audit asks the fleet for; `None`: there is none, or it does not answer.
    ///
    /// # Errors
    /// As for [`TaskSource::tasks`].
    pub fn audit(&self) -> Result<Option<FleetAudit>, Error> {
        self.ask(FleetReader::audit)
    }

    /// The verdict on each running task of this host. A task that has ended meanwhile is read again.
    ///
    /// # Errors
    /// When the live locks cannot be read.
    pub fn verdicts(&self, tasks: &mut [FleetTask]) -> Result<Vec<Option<Verdict>>, Error> {
        let verdict = |row: &mut FleetTask| match &self.ledger {
            Some(ledger) if !row.is_elsewhere() => liveness::verdict(ledger, &mut row.task),
            _ => Ok(None),
        };
        tasks.iter_mut().map(verdict).collect()
    }

    /// Whether the ledger has the row of this task.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn has(&self, id: &TaskId) -> Result<bool, Error> {
        match &self.ledger {
            Some(ledger) => Ok(ledger.has_task(id)?),
            None => Ok(false),
        }
    }

    pub(super) fn own(&self, task: Task) -> FleetTask {
        let facts = |fleet: &FleetSide| FleetFacts {
            node: fleet.node.clone(),
            unreachable_since: None,
            late: None,
            is_elsewhere: false,
        };
        FleetTask { task, fleet: self.fleet.as_ref().map(facts) }
    }

    /// Asks the database. `None`: there is none, or it does not answer and the ledger does.
    pub(super) fn ask<T>(
        &self,
        ask: impl FnOnce(&FleetReader) -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        let Some(fleet) = self.fleet.as_ref().filter(|fleet| !fleet.is_gone.get()) else { return Ok(None) };
        let Some(reader) = &fleet.reader else { return Ok(None) };
        match ask(reader) {
            Ok(answer) => Ok(Some(answer)),
            Err(e) if self.at.is_none() => Err(e),
            Err(e) => {
                warn_of_rows_of_this_host(&e);
                fleet.is_gone.set(true);
                Ok(None)
            }
        }
    }
}

impl FleetSide {
    fn of(node: String, reader: Option<FleetReader>) -> FleetSide {
        FleetSide { node, reader, is_gone: Cell::new(false) }
    }
}

fn warn_of_rows_of_this_host(why: &Error) {
    let why = crate::error::chain(why);
    log::warn(
        &format!("only tasks of this host are shown: {why}"),
        "--here shows them without asking the fleet",
    );
}
