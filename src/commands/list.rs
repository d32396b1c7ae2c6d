//! `bookend list`: lists tasks, running ones first, then the newest.

use std::path::Path;
use std::time::Duration;

use crate::commands::system;
use crate::error::Error;
use crate::exit::Exit;
use crate::ledger::{self, Ledger, Location, TaskFilter};
use crate::recovery::liveness;
use crate::sys::stdout::print;
use crate::task::{Task, Time, Verdict};
use crate::view::{self, Screen};

/// The minimum time between two redraws of a watched list.
const LOOK: Duration = Duration::from_secs(1);
/// Lines that a watched table leaves free: its titles, and the line of the cursor.
const FREE_LINES: usize = 2;

/// The options of `bookend list`.
#[derive(Debug)]
pub struct ListOptions {
    pub filter: TaskFilter,
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

/// Lists the tasks. A missing ledger counts as one without tasks.
///
/// # Errors
/// When the ledger cannot be chosen or read, or stdout cannot be written.
pub fn list(options: &ListOptions, ledger: Option<&Path>) -> Result<Exit, Error> {
    let at = ledger::locate(ledger)?;
    if options.watch {
        return watch(options, &at);
    }
    let ledger = Ledger::open_read_only(&at)?;
    let mut tasks = read(ledger.as_ref(), &options.filter)?;
    let path = at.file.to_string_lossy();
    print(&match options.output {
        Output::Json => view::tasks_json(&path, &tasks),
        Output::JsonLines => view::tasks_json_lines(&tasks),
        Output::Table => table(ledger.as_ref(), &at, &options.filter, &mut tasks)?,
    })?;
    Ok(Exit::Code(0))
}

fn read(ledger: Option<&Ledger>, filter: &TaskFilter) -> Result<Vec<Task>, Error> {
    Ok(ledger.map(|l| l.tasks(filter)).transpose()?.unwrap_or_default())
}

/// The table, or a line that says why it is empty.
fn table(
    ledger: Option<&Ledger>,
    at: &Location,
    filter: &TaskFilter,
    tasks: &mut [Task],
) -> Result<String, Error> {
    let path = at.file.to_string_lossy();
    let path = view::one_line(&path);
    let Some(ledger) = ledger else {
        return Ok(format!("no tasks: there is no ledger yet at {path}\n{}", system::line(at)));
    };
    if tasks.is_empty() {
        return Ok(match filter.selects() {
            true => format!("no such tasks in {path}\n"),
            false => format!("no tasks in {path}\n{}", system::line(at)),
        });
    }
    let verdicts = verdicts(ledger, tasks)?;
    Ok(view::tasks(tasks, &verdicts, Time::now(), Screen::of(&std::io::stdout())))
}

/// The verdict on each running task. A task that has ended meanwhile is read again.
///
/// # Errors
/// When the live locks cannot be read.
pub fn verdicts(ledger: &Ledger, tasks: &mut [Task]) -> Result<Vec<Option<Verdict>>, Error> {
    tasks.iter_mut().map(|task| liveness::verdict(ledger, task)).collect()
}

/// Redraws the table whenever the ledger has changed, and each second while a task runs. SQLite keeps the
/// change counter in shared memory, so checking it does not touch the disk.
fn watch(options: &ListOptions, at: &Location) -> Result<Exit, Error> {
    let mut ledger = None;
    let mut seen = None;
    let mut tasks = Vec::new();
    let mut shown = String::new();
    loop {
        if ledger.is_none() {
            ledger = Ledger::open_read_only(at)?;
        }
        let rows = rustix::termios::tcgetwinsize(std::io::stdout()).ok().map(|s| usize::from(s.ws_row));
        let version = ledger.as_ref().map(Ledger::version).transpose()?;
        if version != seen || version.is_none() {
            seen = version;
            tasks = read(ledger.as_ref(), &options.filter)?;
        }
        let fitting = rows.filter(|r| *r > 0).map_or(usize::MAX, |r| r.saturating_sub(FREE_LINES).max(1));
        let fitting = tasks.len().min(fitting);
        let text = table(ledger.as_ref(), at, &options.filter, &mut tasks[..fitting])?;
        if text != shown {
            print(&match rows {
                // From the upper left corner, clearing the rest of each line and of the screen.
                Some(_) => format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n")),
                None => format!("{text}\n"),
            })?;
            shown = text;
        }
        std::thread::sleep(LOOK);
    }
}
