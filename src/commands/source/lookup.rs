//! One task of a whole fleet: by its id, its key, or because it is the newest.

use super::super::find::{self, TaskChoice};
use super::task_source::TaskSource;
use crate::error::Error;
use crate::fleet::FleetHistory;
use crate::ledger::TaskLookup;
use crate::task::{FleetTask, Key, Task};

impl TaskSource {
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
        if let (None, Some(ledger), false) = (&found, self.ledger(), self.is_fleet()) {
            return find::choose_in(ledger, which).map(|task| self.own(task));
        }
        found.ok_or_else(|| find::not_found(which, &self.whole_name()))
    }

    /// What is known of a task of another host besides its row.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn history(&self, task: &Task) -> Result<FleetHistory, Error> {
        Ok(self.ask(|reader| reader.history(task))?.unwrap_or_default())
    }

    /// The task with this id, or the only one whose id begins with it.
    fn with_id(&self, id: &str) -> Result<Option<FleetTask>, Error> {
        let own = self.ledger().map_or(Ok(TaskLookup::None), |ledger| ledger.task(id))?;
        let mut found: Vec<FleetTask> = match own {
            TaskLookup::One(task) if task.id.as_str() == id => return Ok(Some(self.own(*task))),
            _ if !self.is_fleet() => return Ok(None),
            TaskLookup::One(task) => vec![self.own(*task)],
            TaskLookup::None => Vec::new(),
            TaskLookup::Ambiguous(ids) => {
                let ledger = self.ledger().into_iter();
                let rows = ledger.flat_map(|ledger| ids.iter().map(|id| ledger.task(id.as_str())));
                let one =
                    |lookup| if let TaskLookup::One(task) = lookup { Some(self.own(*task)) } else { None };
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

    fn newest(&self, key: Option<&Key>) -> Result<Option<FleetTask>, Error> {
        let own = self.ledger().map_or(Ok(None), |ledger| ledger.newest(key))?;
        let own = own.map(|task| self.own(task));
        let other = self.ask(|reader| reader.newest(key))?.flatten();
        Ok(match (own, other) {
            (Some(own), Some(other)) if other.task.started_at > own.task.started_at => Some(other),
            (own, other) => own.or(other),
        })
    }
}
