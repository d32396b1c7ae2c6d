//! `list --watch`: draws the table again when the ledger changes, and each second while a task runs.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use super::table::{ListOptions, TaskTable};
use crate::commands::source::TaskSource;
use crate::error::Error;
use crate::exit::Exit;
use crate::ledger::{Ledger, Location};
use crate::process::watch::{Watch, WatchEvent};
use crate::sys::stdout::print;
use crate::sys::{self, SignalSet};
use crate::task::{Signal, TaskFilter};
use crate::view::{Screen, TaskColumn};

/// The time between two checks. SQLite keeps the change counter of the ledger in shared memory, so a check
/// does not touch the disk.
const INTERVAL: Duration = Duration::from_secs(1);
/// Lines of a screen that are not tasks: the titles, the count of tasks, and the line of the cursor.
const OTHER_LINES: usize = 3;

/// The alternate screen and no cursor: the lines above the command stay as they were.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// Runs until a signal ends it, as Ctrl-C does. The last table stays on the terminal. Without a terminal, the
/// table is printed whenever the ledger has changed.
///
/// # Errors
/// When the ledger cannot be read or stdout not be written.
pub fn watch(options: &ListOptions, at: &Location) -> Result<Exit, Error> {
    let source = TaskSource::here(at)?;
    let mut table =
        WatchedTable { options, at, source, file: None, version: None, listing: TaskTable::default() };
    sys::set_mask(SignalSet::ALL);
    let watch = Watch::new().map_err(|e| Error::failed("watching for signals").caused_by(e))?;
    let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    match rows().filter(|_| !is_dumb) {
        Some(_) => {
            print(ENTER)?;
            let mut last = String::new();
            let ended = on_terminal(&mut table, watch, &mut last);
            // A terminal that has hung up takes nothing.
            let _ = print(&format!("{LEAVE}{last}"));
            ended
        }
        None => in_pipe(&mut table, watch),
    }
}

struct WatchedTable<'a> {
    options: &'a ListOptions,
    at: &'a Location,
    source: TaskSource,
    /// The device and the inode of the file that is open.
    file: Option<(u64, u64)>,
    version: Option<i64>,
    listing: TaskTable,
}

impl WatchedTable<'_> {
    /// Reads the tasks again if the ledger has changed; returns whether it has.
    fn read(&mut self, filter: &TaskFilter, is_due: bool) -> Result<bool, Error> {
        let file = fs::metadata(&self.at.file).ok().map(|meta| (meta.dev(), meta.ino()));
        // A ledger that was removed or replaced reports no change.
        let is_other = file != self.file;
        if self.source.ledger().is_none() || is_other {
            (self.source, self.file) = (TaskSource::here(self.at)?, file);
        }
        let version = self.source.ledger().map(Ledger::version).transpose()?;
        if version == self.version && !is_due && !is_other {
            return Ok(false);
        }
        self.version = version;
        self.listing = TaskTable::read(&self.source, filter)?;
        Ok(true)
    }

    fn text(&self) -> Result<String, Error> {
        let screen = Screen::of(&std::io::stdout());
        self.listing.table(&self.source, self.options, &TaskColumn::WATCH, screen)
    }
}

fn on_terminal(table: &mut WatchedTable<'_>, mut watch: Watch, last: &mut String) -> Result<Exit, Error> {
    let mut fitting = 0;
    loop {
        let now_fitting = rows().unwrap_or(usize::MAX).saturating_sub(OTHER_LINES).max(1);
        let limit = table.options.filter.limit.map_or(now_fitting, |limit| limit.min(now_fitting));
        let filter = TaskFilter { limit: Some(limit), ..table.options.filter.clone() };
        table.read(&filter, now_fitting != fitting)?;
        fitting = now_fitting;
        let text = table.text()?;
        if text != *last {
            // From the upper left corner, clearing the rest of each line and of the screen.
            print(&format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n")))?;
            *last = text;
        }
        match wait(&mut watch)? {
            Some(Signal::TSTP) => {
                print(LEAVE)?;
                sys::raise_unblocked(Signal::TSTP);
                print(ENTER)?;
                last.clear();
            }
            Some(signal) => return Ok(Exit::Signal(signal)),
            None => {}
        }
    }
}

fn in_pipe(table: &mut WatchedTable<'_>, mut watch: Watch) -> Result<Exit, Error> {
    let mut is_first = true;
    loop {
        if table.read(&table.options.filter, is_first)? {
            print(&format!("{}\n", table.text()?))?;
        }
        is_first = false;
        match wait(&mut watch)? {
            Some(Signal::TSTP) => sys::raise_unblocked(Signal::TSTP),
            Some(signal) => return Ok(Exit::Signal(signal)),
            None => {}
        }
    }
}

/// Waits for the next check; `Some`: the signal that stops or ends the command.
fn wait(watch: &mut Watch) -> Result<Option<Signal>, Error> {
    let until = Instant::now() + INTERVAL;
    loop {
        let event = watch.next(&[], Some(until)).map_err(|e| Error::failed("waiting").caused_by(e))?;
        match event {
            WatchEvent::Deadline => return Ok(None),
            WatchEvent::Signal(received) => match received.signal {
                Signal::WINCH | Signal::CONT => return Ok(None),
                Signal::CHLD | Signal::TTIN | Signal::TTOU => {}
                signal => return Ok(Some(signal)),
            },
            WatchEvent::Child { .. } | WatchEvent::Ready(_) => {}
        }
    }
}

/// The lines of the terminal that stdout is; `None`: it is none.
fn rows() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    // 0: a terminal that does not know its size.
    Some(if size.ws_row == 0 { 24 } else { usize::from(size.ws_row) })
}
