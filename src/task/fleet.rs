//! A task as the reading commands show it: its row, and what its fleet knows about it.

use serde::Serialize;
use serde_json::Value;

use super::record::Task;
use super::time::RecordedTime;

/// A row, of this host or of another one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FleetTask {
    #[serde(flatten)]
    pub task: Task,
    /// `None`: the ledger is in no fleet.
    #[serde(flatten)]
    pub fleet: Option<FleetFacts>,
}

/// What a fleet knows about a task besides its row.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FleetFacts {
    /// The node whose row it is.
    pub node: String,
    /// Since when the host of a running task has not answered.
    pub unreachable_since: Option<RecordedTime>,
    /// How the task ended, as its host reported it after the fleet had ended it.
    pub late: Option<Value>,
    /// The row comes from another host, which bookend does not trust to name commands, paths or processes.
    #[serde(skip)]
    pub is_elsewhere: bool,
}

impl FleetTask {
    pub fn is_elsewhere(&self) -> bool {
        self.fleet.as_ref().is_some_and(|fleet| fleet.is_elsewhere)
    }

    pub fn unreachable_since(&self) -> Option<&RecordedTime> {
        self.fleet.as_ref()?.unreachable_since.as_ref()
    }
}
