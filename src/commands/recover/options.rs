//! What `bookend recover` was asked for, and which tasks it is about.

use std::ffi::OsString;
use std::time::Duration;

use tracing::level_filters::LevelFilter;

use crate::commands::find;
use crate::error::Error;
use crate::ledger::{Ledger, TaskFilter};
use crate::task::{Status, Task, TaskId};

/// The options of `bookend recover`.
#[derive(Debug)]
pub struct RecoverOptions {
    /// Only these tasks, by id or a prefix of one; all if it is empty.
    pub ids: Vec<String>,
    pub ttl: Duration,
    pub grace: Duration,
    pub on_interrupted: Option<OsString>,
    /// Overrides the limit of each task.
    pub hook_timeout: Option<Duration>,
    /// Runs no hook and reports nothing; a later recovery does.
    pub settle_only: bool,
    pub dry_run: bool,
    pub json: bool,
    pub level: LevelFilter,
}

/// The full ids of the tasks to recover; empty: all tasks.
pub(super) struct SelectedTasks(pub(super) Vec<TaskId>);

impl SelectedTasks {
    pub(super) fn resolve(ledger: &Ledger, ids: &[String]) -> Result<SelectedTasks, Error> {
        ids.iter().map(|id| Ok(find::find_in(ledger, id)?.id)).collect::<Result<_, _>>().map(SelectedTasks)
    }

    pub(super) fn are_all(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn has(&self, id: &TaskId) -> bool {
        self.are_all() || self.0.iter().any(|selected| selected == id)
    }

    pub(super) fn only(&self, tasks: Vec<Task>) -> Vec<Task> {
        tasks.into_iter().filter(|task| self.has(&task.id)).collect()
    }
}

/// The selected tasks that the ledger calls running.
pub(super) fn running(ledger: &Ledger, selected: &SelectedTasks) -> Result<Vec<Task>, Error> {
    Ok(selected.only(ledger.tasks(&TaskFilter::of(Status::Running))?))
}
