//! `list --watch`: draws the table again when the ledger changes, and each second while a task runs.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::table::{ListOptions, TaskTable};
use crate::commands::source::TaskSource;
use crate::error::Error;
use crate::exit::Exit;
use crate::fleet::FleetChanges;
use crate::ledger::Ledger;
use crate::process::watch::{Watch, WatchEvent, WatchInterest, WatchSource};
use crate::sys::stdout::print;
use crate::sys::{self, SignalSet};
use crate::task::{Signal, TaskFilter};
use crate::view::{self, Screen, TaskColumn};

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
pub fn watch(options: &ListOptions, ledger: Option<&Path>) -> Result<Exit, Error> {
    let source = TaskSource::open_to_follow(ledger, options.here)?;
    let changes = source.changes();
    let mut table = WatchedTable {
        options,
        named: ledger,
        source,
        changes,
        file: None,
        version: None,
        listing: TaskTable::default(),
    };
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
    /// As `--ledger` names it.
    named: Option<&'a Path>,
    source: TaskSource,
    /// Reports changes on other hosts.
    changes: Option<FleetChanges>,
    /// The device and the inode of the file that is open.
    file: Option<(u64, u64)>,
    version: Option<i64>,
    listing: TaskTable,
}

impl WatchedTable<'_> {
    /// Reads the tasks again if the ledger has changed; returns whether it has.
    fn read(&mut self, filter: &TaskFilter, is_due: bool) -> Result<bool, Error> {
        let is_other = self.follow_file()?;
        let version = self.source.ledger().map(Ledger::version).transpose()?;
        let is_due = is_due || is_other || version != self.version;
        let has_changed = self.changes.as_mut().is_some_and(FleetChanges::take);
        if !is_due && !has_changed {
            return Ok(false);
        }
        let away = self.source.away();
        self.source.refresh();
        self.version = version;
        let listing = TaskTable::read(&self.source, filter)?;
        // Where nothing is notified, the fleet is looked at every few seconds.
        let is_other = listing != self.listing || away != self.source.away();
        self.listing = listing;
        Ok(is_due || is_other)
    }

    /// Opens the ledger again if it was removed or replaced, which reports no change. Returns whether it was.
    fn follow_file(&mut self) -> Result<bool, Error> {
        let Some(at) = self.source.at() else { return Ok(false) };
        let file = fs::metadata(&at.file).ok().map(|meta| (meta.dev(), meta.ino()));
        let is_other = file != self.file;
        if self.source.ledger().is_none() || (is_other && self.file.is_some()) {
            self.source = TaskSource::open_to_follow(self.named, self.options.here)?;
            self.changes = self.source.changes();
        }
        self.file = file;
        Ok(is_other)
    }

    fn text(&self) -> Result<String, Error> {
        let screen = Screen::of(&std::io::stdout());
        let usual = if self.source.is_fleet() { &TaskColumn::WATCH_OF_HOSTS[..] } else { &TaskColumn::WATCH };
        let table = self.listing.table(&self.source, self.options, usual, screen)?;
        let away = self
            .source
            .away()
            .map(|why| format!("only tasks of this host are shown: {}\n", view::one_line(&why)));
        Ok(table + &away.unwrap_or_default())
    }
}

fn on_terminal(table: &mut WatchedTable<'_>, mut watch: Watch, last: &mut String) -> Result<Exit, Error> {
    let mut fitting = 0;
    loop {
        let others = OTHER_LINES + usize::from(table.source.away().is_some());
        let now_fitting = rows().unwrap_or(usize::MAX).saturating_sub(others).max(1);
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
        match wait(&mut watch, table.changes.as_ref())? {
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
        match wait(&mut watch, table.changes.as_ref())? {
            Some(Signal::TSTP) => sys::raise_unblocked(Signal::TSTP),
            Some(signal) => return Ok(Exit::Signal(signal)),
            None => {}
        }
    }
}

/// Waits for the next check; `Some`: the signal that stops or ends the command.
fn wait(watch: &mut Watch, changes: Option<&FleetChanges>) -> Result<Option<Signal>, Error> {
    let until = Instant::now() + INTERVAL;
    let interest =
        |changes| WatchInterest { source: WatchSource::FleetChange, fd: FleetChanges::as_fd(changes) };
    let interest: Vec<_> = changes.into_iter().map(interest).collect();
    loop {
        let event = watch.next(&interest, Some(until)).map_err(|e| Error::failed("waiting").caused_by(e))?;
        match event {
            WatchEvent::Deadline | WatchEvent::Ready(_) => return Ok(None),
            WatchEvent::Signal(received) => match received.signal {
                Signal::WINCH | Signal::CONT => return Ok(None),
                Signal::CHLD | Signal::TTIN | Signal::TTOU => {}
                signal => return Ok(Some(signal)),
            },
            WatchEvent::Child { .. } => {}
        }
    }
}

/// The lines of the terminal that stdout is; `None`: it is none.
fn rows() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    // 0: a terminal that does not know its size.
    Some(if size.ws_row == 0 { 24 } else { usize::from(size.ws_row) })
}
