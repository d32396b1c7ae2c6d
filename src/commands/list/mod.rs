//! `bookend list`: lists tasks, running ones first, then the newest.

mod brief;
mod table;
mod watch;

use std::path::Path;

pub use table::{ListOptions, Output, TABLE_LIMIT, listed, verdicts};

use crate::error::Error;
use crate::exit::Exit;
use crate::ledger::{self, Ledger, Location};
use crate::sys::stdout::print;
use crate::task::TaskFilter;
use crate::view::{self, Screen, TaskColumn};
use table::TaskTable;

/// Lists the tasks. A missing ledger counts as one without tasks.
///
/// # Errors
/// When the ledger cannot be chosen or read, or stdout cannot be written.
pub fn list(options: &ListOptions, ledger: Option<&Path>) -> Result<Exit, Error> {
    let at = ledger::locate(ledger)?;
    if options.watch {
        return watch::watch(options, &at);
    }
    let ledger = Ledger::open_read_only(&at)?;
    match options.output {
        Output::Json => json(ledger.as_ref(), &at, &options.filter)?,
        Output::JsonLines => json_lines(ledger.as_ref(), &options.filter)?,
        Output::Table => {
            let listing = TaskTable::read(ledger.as_ref(), &options.filter)?;
            let screen = Screen::of(&std::io::stdout());
            print(&listing.table(ledger.as_ref(), &at, options, &TaskColumn::LIST, screen)?)?;
        }
    }
    Ok(Exit::Code(0))
}

/// Each page is printed before the next one is read: a long history takes no more memory than a short one.
fn json(ledger: Option<&Ledger>, at: &Location, filter: &TaskFilter) -> Result<(), Error> {
    let mut listing = view::JsonListing::default();
    print(&listing.begin(&at.file.to_string_lossy()))?;
    for page in ledger.into_iter().flat_map(|ledger| ledger.pages(filter)) {
        print(&listing.tasks(&page?))?;
    }
    print(listing.end())
}

fn json_lines(ledger: Option<&Ledger>, filter: &TaskFilter) -> Result<(), Error> {
    for page in ledger.into_iter().flat_map(|ledger| ledger.pages(filter)) {
        print(&view::tasks_json_lines(&page?))?;
    }
    Ok(())
}
