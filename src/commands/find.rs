//! Finds a task by its id or a unique prefix of it.

use crate::error::{Error, Kind};
use crate::ledger::{Ledger, Location, TaskLookup};
use crate::task::{Key, Task};
use crate::view;

/// The task that a command is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskChoice {
    /// The one with this id, or a unique prefix of it.
    Id(String),
    /// The newest one with this key.
    OfKey(Key),
    /// The one that was started last.
    Newest,
}

/// The task, and its ledger.
///
/// # Errors
/// When the ledger cannot be read, or no task or several tasks match.
pub fn find(which: &TaskChoice, at: &Location) -> Result<(Ledger, Task), Error> {
    let Some(ledger) = Ledger::open_read_only(at)? else {
        return Err(no_ledger(&nothing(which), at));
    };
    let task = choose_in(&ledger, which)?;
    Ok((ledger, task))
}

/// As [`find`], in a ledger that is open.
///
/// # Errors
/// When the ledger cannot be read, or no task or several tasks match.
pub fn choose_in(ledger: &Ledger, which: &TaskChoice) -> Result<Task, Error> {
    let newest = match which {
        TaskChoice::Id(id) => return find_in(ledger, id),
        TaskChoice::OfKey(key) => ledger.newest(Some(key))?,
        TaskChoice::Newest => ledger.newest(None)?,
    };
    newest.ok_or_else(|| {
        let message = format!("{} in the ledger {}", nothing(which), ledger.path().display());
        Error::new(Kind::Nothing, message)
            .hint(format!("run `{}` to see the tasks", view::suggestion(ledger.option(), "list")))
    })
}

/// The error for a task that is not there; `place` is as in `in LEDGER and its fleet`.
pub fn not_found(which: &TaskChoice, place: &str) -> Error {
    Error::new(Kind::Nothing, format!("{} {place}", nothing(which)))
}

/// The error for the beginning of the ids of several tasks.
pub fn ambiguous<'a>(id: &str, tasks: impl Iterator<Item = &'a Task>) -> Error {
    let line = |task: &Task| format!("{}  {}  {}", task.id, task.status, task.started_at);
    let tasks = tasks.map(line).collect::<Vec<_>>().join("\n  ");
    Error::usage(format!("several task ids begin with {id:?}:\n  {tasks}")).hint("use more of the id")
}

/// The text of the error for a task that does not exist.
pub fn nothing(which: &TaskChoice) -> String {
    match which {
        TaskChoice::Id(id) => format!("no task {id}"),
        TaskChoice::OfKey(key) => format!("no task with the key {key}"),
        TaskChoice::Newest => "no task".to_owned(),
    }
}

/// The error of a command that needs a ledger where there is none; `nothing` is what it has not found.
pub fn no_ledger(nothing: &str, at: &Location) -> Error {
    let path = at.file.display();
    Error::new(Kind::Nothing, format!("{nothing}: there is no ledger yet at {path}"))
        .hint("the first run creates it; if the ledger is elsewhere, name it with --ledger FILE")
}

/// What is said about a running task whose supervisor was killed.
pub fn killed(ledger: &Ledger) -> String {
    let recover = view::suggestion(ledger.option(), "recover");
    format!("its supervisor was killed; settle the task with: {recover}")
}

/// The task with this id or prefix, in a ledger that is open.
///
/// # Errors
/// When the ledger cannot be read, or no task or several tasks match.
pub fn find_in(ledger: &Ledger, id: &str) -> Result<Task, Error> {
    match ledger.task(id)? {
        TaskLookup::One(task) => Ok(*task),
        TaskLookup::None => {
            let message = format!("no task {id} in the ledger {}", ledger.path().display());
            let suggest = |what: &str| view::suggestion(ledger.option(), what);
            let hint = match ledger.fleet() {
                None => format!("run `{}` to see the ids", suggest("list")),
                Some(_) => format!(
                    "if it is a task of another host, use the same command there; `{}` names the host, and \
                     `{}` shows the ids",
                    suggest(&format!("show {}", view::operand(id))),
                    suggest("list")
                ),
            };
            Err(Error::new(Kind::Nothing, message).hint(hint))
        }
        TaskLookup::Ambiguous(ids) => {
            let tasks = ids.iter().filter_map(|id| match ledger.task(id.as_str()) {
                Ok(TaskLookup::One(task)) => Some(*task),
                _ => None,
            });
            Err(ambiguous(id, tasks.collect::<Vec<_>>().iter()))
        }
    }
}
