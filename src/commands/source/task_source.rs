//! A ledger, with the database of its fleet.

use std::cell::RefCell;
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
    /// `None`: the ledger does not say, or others may have written it.
    url: Option<String>,
    /// `None`: the database did not answer at the start.
    reader: Option<FleetReader>,
    /// Why it does not answer.
    away: RefCell<Option<String>>,
    use_of: FleetUse,
}

/// What a command does if the database does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FleetUse {
    /// It warns, and shows the tasks of this host.
    Read,
    /// It asks again later, and says itself what that means.
    Follow,
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
            return Ok(if here { source } else { source.with_fleet(FleetUse::Read) });
        };
        if here {
            return Err(Error::usage("--here shows the tasks of a ledger, and --ledger names a database"));
        }
        TaskSource::of_database(url, FleetUse::Read)
    }

    pub(super) fn of_database(url: &str, use_of: FleetUse) -> Result<TaskSource, Error> {
        let reader = Some(use_of.connect(url)?);
        let (node, url) = (String::new(), Some(url.to_owned()));
        let fleet = FleetSide { node, url, reader, away: RefCell::default(), use_of };
        let name = view::one_line(fleet.url.as_deref().unwrap_or_default()).into_owned();
        Ok(TaskSource { name, at: None, ledger: None, fleet: Some(fleet) })
    }

    /// The ledger alone.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn here(at: &Location) -> Result<TaskSource, Error> {
        Ok(TaskSource::of_ledger(at, Ledger::open_read_only(at)?))
    }

    pub(super) fn of_ledger(at: &Location, ledger: Option<Ledger>) -> TaskSource {
        let name = view::one_line(&at.file.to_string_lossy()).into_owned();
        TaskSource { name, ledger, at: Some(at.clone()), fleet: None }
    }

    pub(super) fn with_fleet(self, use_of: FleetUse) -> TaskSource {
        let Some(ledger) = &self.ledger else { return self };
        let Some(setting) = ledger.fleet() else { return self };
        let (mut node, mut url) = (String::new(), None);
        let connected = FleetMembership::parse(setting)
            .map_err(|e| Error::failed("the setting of the fleet in the ledger cannot be read").caused_by(e))
            .and_then(|membership| {
                node = membership.node.to_string();
                // Another user who can write to the ledger could have this user's password sent elsewhere.
                match ledger.distrust() {
                    Some(distrust) => Err(Error::failed(distrust.why)),
                    None => use_of.connect(url.insert(membership.url)),
                }
            });
        let mut fleet = FleetSide { node, url, reader: None, away: RefCell::default(), use_of };
        match connected {
            Ok(reader) => fleet.reader = Some(reader),
            Err(e) => fleet.note_away(&e),
        }
        TaskSource { fleet: Some(fleet), ..self }
    }

    /// The path of the ledger or the URL of the database, on one line.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The path of the ledger or the URL of the database, as it is.
    pub fn place(&self) -> String {
        self.at.as_ref().map_or_else(|| self.name.clone(), |at| at.file.to_string_lossy().into_owned())
    }

    /// The path and whether others were asked, for a message that nothing was found.
    pub fn whole_name(&self) -> String {
        match (&self.at, &self.fleet) {
            (Some(_), Some(_)) if self.away().is_none() => format!("in {} and its fleet", self.name),
            (Some(_), _) => format!("in the ledger {}", self.name),
            (None, _) => format!("in {}", self.name),
        }
    }

    /// The path that the option of another command names.
    pub fn option(&self) -> Option<&Path> {
        self.at.as_ref()?.option()
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
        let Some(fleet) = self.fleet.as_ref().filter(|fleet| fleet.away.borrow().is_none()) else {
            return Ok(None);
        };
        let Some(reader) = &fleet.reader else { return Ok(None) };
        match ask(reader) {
            Ok(answer) => Ok(Some(answer)),
            Err(e) if self.at.is_none() && fleet.use_of == FleetUse::Read => Err(e),
            Err(e) => {
                fleet.note_away(&e);
                Ok(None)
            }
        }
    }

    /// Why the database does not answer.
    pub fn away(&self) -> Option<String> {
        self.fleet.as_ref()?.away.borrow().clone()
    }

    /// Connects to the database again if it has not answered.
    pub fn refresh(&mut self) {
        let Some(fleet) = &mut self.fleet else { return };
        let Some(url) = fleet.url.as_ref().filter(|_| fleet.away.get_mut().is_some()) else { return };
        match fleet.use_of.connect(url) {
            Ok(reader) => {
                fleet.reader = Some(reader);
                fleet.away.take();
            }
            Err(e) => fleet.note_away(&e),
        }
    }

    /// The database of the fleet, to follow its changes.
    pub(super) fn database(&self) -> Option<&str> {
        self.fleet.as_ref()?.url.as_deref()
    }
}

impl FleetUse {
    fn connect(self, url: &str) -> Result<FleetReader, Error> {
        match self {
            FleetUse::Read => FleetReader::connect(url),
            FleetUse::Follow => FleetReader::connect_to_follow(url),
        }
    }
}

impl FleetSide {
    fn note_away(&self, why: &Error) {
        if self.use_of == FleetUse::Read {
            warn_of_rows_of_this_host(why);
        }
        self.away.replace(Some(crate::error::chain(why)));
    }
}

fn warn_of_rows_of_this_host(why: &Error) {
    let why = crate::error::chain(why);
    log::warn(
        &format!("only tasks of this host are shown: {why}"),
        "--here shows them without asking the fleet",
    );
}
