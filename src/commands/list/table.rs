//! The table of `list`: the tasks, their columns, and how many tasks it leaves out.

use super::brief;
use crate::commands::system;
use crate::error::Error;
use crate::ledger::{Ledger, Location};
use crate::recovery::liveness;
use crate::task::{Task, TaskFilter, Time, Verdict};
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
}

/// The output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    Table,
    Json,
    JsonLines,
}

/// The tasks of a table as they were read.
#[derive(Default)]
pub struct TaskTable {
    tasks: Vec<Task>,
    /// `20 of 33`, if the limit left tasks out.
    left_out: Option<String>,
}

impl TaskTable {
    pub fn read(ledger: Option<&Ledger>, filter: &TaskFilter) -> Result<TaskTable, Error> {
        let Some(ledger) = ledger else { return Ok(TaskTable::default()) };
        let tasks = ledger.tasks(filter)?;
        let left_out = left_out(ledger, filter, tasks.len())?;
        Ok(TaskTable { tasks, left_out })
    }

    /// The table, or a line that says why it is empty.
    pub fn table(
        &self,
        ledger: Option<&Ledger>,
        at: &Location,
        options: &ListOptions,
        usual: &[TaskColumn],
        screen: Screen,
    ) -> Result<String, Error> {
        let path = at.file.to_string_lossy();
        let path = view::one_line(&path);
        let Some(ledger) = ledger else {
            return Ok(format!("no tasks: there is no ledger yet at {path}\n{}", system::line(at)));
        };
        if self.tasks.is_empty() {
            return Ok(match options.filter.selects() {
                true => format!("no such tasks in {path}\n"),
                false => format!("no tasks in {path}\n{}", system::line(at)),
            });
        }
        let tasks = listed(ledger, self.tasks.clone())?;
        let text = match options.columns.as_slice() {
            [] => view::tasks(&tasks, usual, Time::now(), screen),
            chosen => view::tasks_in_columns(&tasks, chosen, Time::now(), screen),
        };
        let remedy = if options.watch { "" } else { " (--limit N)" };
        Ok(text + &self.left_out.as_ref().map_or_else(String::new, |shown| format!("{shown}{remedy}\n")))
    }
}

fn left_out(ledger: &Ledger, filter: &TaskFilter, shown: usize) -> Result<Option<String>, Error> {
    if filter.limit.is_none_or(|limit| shown < limit) {
        return Ok(None);
    }
    let all = ledger.count(filter)?;
    Ok(match all.is_exact {
        true => (all.at_least > shown).then(|| format!("{shown} of {}", all.at_least)),
        false => Some(format!("{shown} of more than {}", all.at_least.max(shown))),
    })
}

/// The tasks with what a table says about them besides their rows.
///
/// # Errors
/// When the live locks cannot be read.
pub fn listed(ledger: &Ledger, mut tasks: Vec<Task>) -> Result<Vec<ListedTask>, Error> {
    let verdicts = verdicts(ledger, &mut tasks)?;
    let listed = tasks.into_iter().zip(verdicts);
    Ok(listed.map(|(task, verdict)| ListedTask { command: brief::command(&task), task, verdict }).collect())
}

/// The verdict on each running task. A task that has ended meanwhile is read again.
///
/// # Errors
/// When the live locks cannot be read.
pub fn verdicts(ledger: &Ledger, tasks: &mut [Task]) -> Result<Vec<Option<Verdict>>, Error> {
    tasks.iter_mut().map(|task| liveness::verdict(ledger, task)).collect()
}
