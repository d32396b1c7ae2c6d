//! Where the reading commands find tasks: in the ledger, and in the fleet that it is in.
//!
//! The rows of this host come from its ledger, which is always up to date, and all others from the database of
//! the fleet.

mod fresh;
mod merged;

use std::cell::Cell;
use std::path::Path;

use super::find::{self, TaskChoice};
use crate::error::Error;
use crate::fleet::{FleetAudit, FleetHistory, FleetMembership, FleetReader};
use crate::ledger::{self, Ledger, Location, TaskLookup};
use crate::log;
use crate::recovery::liveness;
use crate::task::{FleetFacts, FleetTask, GroupBy, Task, TaskCount, TaskFilter, TaskId, TaskStats, Verdict};
use crate::view;
use fresh::FreshTasks;

/// The tasks that are counted at most.
const COUNTED: usize = 1000;

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

    /// The selected tasks, running ones first, each newest first.
    ///
    /// # Errors
    /// When the ledger cannot be read, or the database if it is alone.
    pub fn tasks(&self, filter: &TaskFilter) -> Result<Vec<FleetTask>, Error> {
        let mut tasks = Vec::new();
        for page in self.pages(filter) {
            tasks.extend(page?);
        }
        Ok(tasks)
    }

    /// As [`TaskSource::tasks`], page by page.
    pub fn pages<'a>(
        &'a self,
        filter: &'a TaskFilter,
    ) -> Box<dyn Iterator<Item = Result<Vec<FleetTask>, Error>> + 'a> {
        if self.is_fleet() {
            return Box::new(merged::pages(self, filter));
        }
        let pages = self.ledger.iter().flat_map(|ledger| ledger.pages(filter));
        Box::new(pages.map(|page| Ok(page?.into_iter().map(|task| self.own(task)).collect())))
    }

    /// How many tasks are selected, whatever the limit.
    ///
    /// # Errors
    /// As for [`TaskSource::tasks`].
    pub fn count(&self, filter: &TaskFilter) -> Result<TaskCount, Error> {
        if self.is_fleet() {
            let fresh = FreshTasks::of(self.ledger.as_ref())?;
            let counted = self.ask(|reader| reader.count(filter, &fresh.ids, COUNTED + 1))?;
            if let Some(counted) = counted {
                let at_least = counted + fresh.tasks.iter().filter(|task| filter.takes(task)).count();
                return Ok(TaskCount { at_least, is_exact: counted <= COUNTED && fresh.are_all });
            }
        }
        match &self.ledger {
            Some(ledger) => Ok(ledger.count(filter)?),
            None => Ok(TaskCount { at_least: 0, is_exact: true }),
        }
    }

    /// The tasks that ran at `filter.since` or later, whenever they started.
    ///
    /// # Errors
    /// As for [`TaskSource::tasks`].
    pub fn in_flight_since(&self, filter: &TaskFilter) -> Result<Vec<FleetTask>, Error> {
        let own = self.ledger.as_ref().map_or_else(|| Ok(Vec::new()), |l| l.tasks_in_flight_since(filter))?;
        let mut tasks: Vec<FleetTask> = own.into_iter().map(|task| self.own(task)).collect();
        if let Some(others) = self.ask(|reader| reader.in_flight_since(filter))? {
            for task in others {
                if !self.has(&task.task.id)? {
                    tasks.push(task);
                }
            }
            tasks.sort_by(|a, b| b.task.started_at.cmp(&a.task.started_at));
            tasks.truncate(filter.limit.unwrap_or(usize::MAX));
        }
        Ok(tasks)
    }

    /// The figures of the selected tasks.
    ///
    /// # Errors
    /// As for [`TaskSource::tasks`].
    pub fn stats(&self, by: &[GroupBy], filter: &TaskFilter, limit: usize) -> Result<TaskStats, Error> {
        if self.is_fleet() {
            let fresh = FreshTasks::of(self.ledger.as_ref())?;
            let selected: Vec<&Task> = fresh.tasks.iter().filter(|task| filter.takes(task)).collect();
            let stats = self.ask(|reader| reader.stats((by, limit), filter, &fresh.ids, &selected))?;
            if let Some(stats) = stats {
                fresh.warn_of_the_rest();
                return Ok(stats);
            }
        }
        match &self.ledger {
            Some(ledger) => Ok(ledger.stats(by, filter, limit)?),
            None => Err(Error::failed("there is neither a ledger nor a database")),
        }
    }

    /// The task that a command is about: one of this host first, then one of the fleet.
    ///
    /// # Errors
    /// When no task or several tasks match, and as for [`TaskSource::tasks`].
    pub fn find(&self, which: &TaskChoice) -> Result<FleetTask, Error> {
        let found = match which {
            TaskChoice::Id(id) => self.with_id(id)?,
            TaskChoice::OfKey(key) => self.newest(Some(key))?,
            TaskChoice::Newest => self.newest(None)?,
        };
        if let (None, Some(ledger), false) = (&found, &self.ledger, self.is_fleet()) {
            return find::choose_in(ledger, which).map(|task| self.own(task));
        }
        found.ok_or_else(|| find::not_found(which, &self.name))
    }

    /// What is known of a task of another host besides its row.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn history(&self, task: &Task) -> Result<FleetHistory, Error> {
        Ok(self.ask(|reader| reader.history(task))?.unwrap_or_default())
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

    fn own(&self, task: Task) -> FleetTask {
        let facts = |fleet: &FleetSide| FleetFacts {
            node: fleet.node.clone(),
            unreachable_since: None,
            late: None,
            is_elsewhere: false,
        };
        FleetTask { task, fleet: self.fleet.as_ref().map(facts) }
    }

    /// Asks the database. `None`: there is none, or it does not answer and the ledger does.
    fn ask<T>(&self, ask: impl FnOnce(&FleetReader) -> Result<T, Error>) -> Result<Option<T>, Error> {
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

    /// The task with this id, or the only one whose id begins with it.
    fn with_id(&self, id: &str) -> Result<Option<FleetTask>, Error> {
        let own = self.ledger.as_ref().map_or(Ok(TaskLookup::None), |ledger| ledger.task(id))?;
        let mut found: Vec<FleetTask> = match own {
            TaskLookup::One(task) if task.id.as_str() == id => return Ok(Some(self.own(*task))),
            _ if !self.is_fleet() => return Ok(None),
            TaskLookup::One(task) => vec![self.own(*task)],
            TaskLookup::None => Vec::new(),
            TaskLookup::Ambiguous(ids) => {
                let ledger = self.ledger.iter();
                let rows = ledger.flat_map(|ledger| ids.iter().map(|id| ledger.task(id.as_str())));
                let one = |lookup| if let TaskLookup::One(task) = lookup { Some(self.own(*task)) } else { None };
                rows.filter_map(|row| row.map(one).transpose()).collect::<Result<_, _>>()?
            }
        };
        for task in self.ask(|reader| reader.with_prefix(id))?.unwrap_or_default() {
            if task.task.id.as_str() == id {
                return Ok(Some(task));
            }
            if !self.has(&task.task.id)? {
                found.push(task);
            }
        }
        match found.len() {
            0 | 1 => Ok(found.pop()),
            _ => Err(find::ambiguous(id, found.iter().map(|row| &row.task))),
        }
    }

    fn newest(&self, key: Option<&crate::task::Key>) -> Result<Option<FleetTask>, Error> {
        let own = self.ledger.as_ref().map_or(Ok(None), |ledger| ledger.newest(key))?;
        let own = own.map(|task| self.own(task));
        let other = self.ask(|reader| reader.newest(key))?.flatten();
        Ok(match (own, other) {
            (Some(own), Some(other)) if other.task.started_at > own.task.started_at => Some(other),
            (own, other) => own.or(other),
        })
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
