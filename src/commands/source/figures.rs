//! Counts and figures of a whole fleet, and what ran in a period.

use super::fresh::FreshTasks;
use super::task_source::TaskSource;
use crate::error::Error;
use crate::task::{FleetTask, GroupBy, Task, TaskCount, TaskFilter, TaskStats};

/// The tasks that are counted at most.
const COUNTED: usize = 1000;

impl TaskSource {
    /// How many tasks are selected, whatever the limit.
    ///
    /// # Errors
    /// As for [`TaskSource::tasks`].
    pub fn count(&self, filter: &TaskFilter) -> Result<TaskCount, Error> {
        if self.is_fleet() {
            let fresh = FreshTasks::of(self.ledger())?;
            let counted = self.ask(|reader| reader.count(filter, &fresh.ids, COUNTED + 1))?;
            if let Some(counted) = counted {
                let at_least = counted + fresh.tasks.iter().filter(|task| filter.takes(task)).count();
                let is_exact = counted <= COUNTED && fresh.are_all;
                let at_least = if is_exact { at_least } else { at_least.min(COUNTED) };
                return Ok(TaskCount { at_least, is_exact });
            }
        }
        match self.ledger() {
            Some(ledger) => Ok(ledger.count(filter)?),
            None => Ok(TaskCount { at_least: 0, is_exact: true }),
        }
    }

    /// The tasks that ran at `filter.since` or later, whenever they started.
    ///
    /// # Errors
    /// As for [`TaskSource::tasks`].
    pub fn in_flight_since(&self, filter: &TaskFilter) -> Result<Vec<FleetTask>, Error> {
        let own = self.ledger().map_or_else(|| Ok(Vec::new()), |l| l.tasks_in_flight_since(filter))?;
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
            let fresh = FreshTasks::of(self.ledger())?;
            let selected: Vec<&Task> = fresh.tasks.iter().filter(|task| filter.takes(task)).collect();
            let stats = self.ask(|reader| reader.stats((by, limit), filter, &fresh.ids, &selected))?;
            if let Some(stats) = stats {
                fresh.warn_of_the_rest();
                return Ok(stats);
            }
        }
        match self.ledger() {
            Some(ledger) => Ok(ledger.stats(by, filter, limit)?),
            None => Err(Error::failed("there is neither a ledger nor a database")),
        }
    }
}
