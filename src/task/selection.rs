//! Which tasks a command selects, how it groups them, and the figures of a selection.

use super::ending::Status;
use super::ids::Key;
use super::record::{StatsGroup, Task};
use super::time::Time;

/// Which tasks to read. `None` and an empty list do not filter.
#[derive(Debug, Clone, Default)]
pub struct TaskFilter {
    pub statuses: Vec<Status>,
    pub key: Option<Key>,
    pub repo: Option<String>,
    /// The persona.
    pub agent: Option<String>,
    pub model: Option<String>,
    /// Started then or later.
    pub since: Option<Time>,
    /// Started before.
    pub until: Option<Time>,
    /// `None`: no limit.
    pub limit: Option<usize>,
}

impl TaskFilter {
    /// All tasks with this status.
    pub fn of(status: Status) -> TaskFilter {
        TaskFilter { statuses: vec![status], ..TaskFilter::default() }
    }

    /// Whether it excludes any tasks.
    pub fn selects(&self) -> bool {
        !self.statuses.is_empty()
            || self.key.is_some()
            || self.repo.is_some()
            || self.agent.is_some()
            || self.model.is_some()
            || self.since.is_some()
            || self.until.is_some()
    }

    /// Whether it selects this task, whatever its limit.
    pub fn takes(&self, task: &Task) -> bool {
        let is = |wanted: &Option<String>, has: &Option<String>| wanted.is_none() || wanted == has;
        let start = task.started_at.time();
        (self.statuses.is_empty() || self.statuses.contains(&task.status))
            && (self.key.is_none() || self.key == task.key)
            && is(&self.repo, &task.repo)
            && is(&self.agent, &task.agent)
            && is(&self.model, &task.model)
            && self.since.is_none_or(|since| start.is_some_and(|start| start >= since))
            && self.until.is_none_or(|until| start.is_some_and(|start| start < until))
    }

    pub fn takes_running(&self) -> bool {
        self.statuses.is_empty() || self.statuses.contains(&Status::Running)
    }

    /// The statuses of ended tasks that it takes; `None`: any.
    pub fn ended(&self) -> Option<Vec<Status>> {
        let ended = self.statuses.iter().copied().filter(|s| *s != Status::Running);
        (!self.statuses.is_empty()).then(|| ended.collect())
    }
}

/// The number of tasks that a filter selects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskCount {
    pub at_least: usize,
    pub is_exact: bool,
}

/// What tasks are grouped by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupBy {
    All,
    Agent,
    Repo,
    Key,
    Model,
    /// The day of their start, UTC.
    Day,
}

impl GroupBy {
    pub const EACH: [GroupBy; 6] =
        [GroupBy::All, GroupBy::Agent, GroupBy::Repo, GroupBy::Key, GroupBy::Model, GroupBy::Day];

    pub fn as_str(self) -> &'static str {
        match self {
            GroupBy::All => "all",
            GroupBy::Agent => "agent",
            GroupBy::Repo => "repo",
            GroupBy::Key => "key",
            GroupBy::Model => "model",
            GroupBy::Day => "day",
        }
    }
}

/// The figures of the largest groups, and of all selected tasks.
#[derive(Debug)]
pub struct TaskStats {
    pub groups: Vec<StatsGroup>,
    pub total: StatsGroup,
    /// There are more groups than the limit.
    pub has_more: bool,
}
