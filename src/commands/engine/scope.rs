//! Which tasks a recovery is about, and what its options permit.

use std::ffi::OsString;
use std::time::Duration;

use crate::commands::find;
use crate::error::Error;
use crate::ledger::Ledger;
use crate::task::{Status, Task, TaskFilter, TaskId};

/// How lost tasks are settled and reported.
#[derive(Debug)]
pub struct RecoveryPolicy {
    /// After this long, a task that cannot be judged counts as lost.
    pub ttl: Duration,
    /// Time between SIGTERM and SIGKILL for leftover processes.
    pub grace: Duration,
    pub on_interrupted: Option<OsString>,
    /// Overrides the limit of each task.
    pub hook_timeout: Option<Duration>,
}

/// The full ids of the tasks to recover; empty: all tasks.
pub struct SelectedTasks(pub Vec<TaskId>);

impl SelectedTasks {
    pub fn resolve(ledger: &Ledger, ids: &[String]) -> Result<SelectedTasks, Error> {
        ids.iter().map(|id| Ok(find::find_in(ledger, id)?.id)).collect::<Result<_, _>>().map(SelectedTasks)
    }

    pub fn are_all(&self) -> bool {
        self.0.is_empty()
    }

    pub fn has(&self, id: &TaskId) -> bool {
        self.are_all() || self.0.iter().any(|selected| selected == id)
    }

    pub fn only(&self, tasks: Vec<Task>) -> Vec<Task> {
        tasks.into_iter().filter(|task| self.has(&task.id)).collect()
    }
}

/// The selected tasks that the ledger calls running.
///
/// # Errors
/// When the ledger cannot be read.
pub fn running(ledger: &Ledger, selected: &SelectedTasks) -> Result<Vec<Task>, Error> {
    Ok(selected.only(ledger.tasks(&TaskFilter::of(Status::Running))?))
}
