//! The table of `list`: the tasks, their columns, and how many tasks it leaves out.

use super::brief;
use crate::commands::source::TaskSource;
use crate::commands::system;
use crate::error::Error;
use crate::task::{FleetTask, TaskFilter, Time};
use crate::view::{self, ListedTask, Screen, TaskColumn};

/// How many tasks a table shows without `--limit`.
pub const TABLE_LIMIT: usize = 20;

/// The options of `bookend list`.
#[derive(Debug, Clone)]
pub struct ListOptions {
    pub filter: TaskFilter,
    /// Empty: the usual ones.
    pub columns: Vec<TaskColumn>,
    pub output: Output,
    pub watch: bool,
    /// Only the tasks of this ledger.
    pub here: bool,
}

/// The output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    Table,
    Json,
    JsonLines,
}

/// The tasks of a table as they were read.
#[derive(Default, PartialEq)]
pub struct TaskTable {
    tasks: Vec<FleetTask>,
    /// `20 of 33`, if the limit left tasks out.
    left_out: Option<String>,
}

impl TaskTable {
    pub fn read(source: &TaskSource, filter: &TaskFilter) -> Result<TaskTable, Error> {
        let tasks = source.tasks(filter)?;
        let left_out = left_out(source, filter, tasks.len())?;
        Ok(TaskTable { tasks, left_out })
    }

    /// The table, or a line that says why it is empty.
    pub fn table(
        &self,
        source: &TaskSource,
        options: &ListOptions,
        usual: &[TaskColumn],
        screen: Screen,
    ) -> Result<String, Error> {
        let name = source.name();
        let system = || source.at().map_or_else(String::new, system::line);
        if source.at().is_some() && source.ledger().is_none() {
            return Ok(format!("no tasks: there is no ledger yet at {name}\n{}", system()));
        }
        if self.tasks.is_empty() {
            return Ok(match options.filter.selects() {
                true => format!("no such tasks in {name}\n"),
                false => format!("no tasks in {name}\n{}", system()),
            });
        }
        let tasks = listed(source, self.tasks.clone())?;
        let text = match options.columns.as_slice() {
            [] => view::tasks(&tasks, usual, Time::now(), screen),
            chosen => view::tasks_in_columns(&tasks, chosen, Time::now(), screen),
        };
        let remedy = if options.watch { "" } else { " (--limit N)" };
        Ok(text + &self.left_out.as_ref().map_or_else(String::new, |shown| format!("{shown}{remedy}\n")))
    }
}

fn left_out(source: &TaskSource, filter: &TaskFilter, shown: usize) -> Result<Option<String>, Error> {
    if filter.limit.is_none_or(|limit| shown < limit) {
        return Ok(None);
    }
    let all = source.count(filter)?;
    Ok(match all.is_exact {
        true => (all.at_least > shown).then(|| format!("{shown} of {}", all.at_least)),
        false => Some(format!("{shown} of more than {}", all.at_least.max(shown))),
    })
}

/// The tasks with what a table says about them besides their rows.
///
/// # Errors
/// When the live locks cannot be read.
pub fn listed(source: &TaskSource, mut tasks: Vec<FleetTask>) -> Result<Vec<ListedTask>, Error> {
    let verdicts = source.verdicts(&mut tasks)?;
    let listed = tasks.into_iter().zip(verdicts);
    Ok(listed.map(|(row, verdict)| ListedTask { command: command(&row), row, verdict }).collect())
}

/// The words of another host are not those of an agent that this one knows.
fn command(row: &FleetTask) -> String {
    if row.is_elsewhere() { brief::whole_command(&row.task) } else { brief::command(&row.task) }
}
