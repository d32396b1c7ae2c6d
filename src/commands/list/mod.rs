//! `bookend list`: lists tasks, running ones first, then the newest.

mod brief;
mod table;
mod watch;

use std::path::Path;

pub use table::{ListOptions, Output, TABLE_LIMIT, listed};

use crate::commands::source::TaskSource;
use crate::error::Error;
use crate::exit::Exit;
use crate::sys::stdout::print;
use crate::task::TaskFilter;
use crate::view::{self, Screen, TaskColumn};
use table::TaskTable;

/// Lists the tasks of the fleet that the ledger is in. A missing ledger counts as one without tasks.
///
/// # Errors
/// When the ledger cannot be chosen or read, or stdout cannot be written.
pub fn list(options: &ListOptions, ledger: Option<&Path>) -> Result<Exit, Error> {
    if options.watch {
        return watch::watch(options, ledger);
    }
    let source = TaskSource::open(ledger, options.here)?;
    match options.output {
        Output::Json => json(&source, &options.filter)?,
        Output::JsonLines => json_lines(&source, &options.filter)?,
        Output::Table => {
            let listing = TaskTable::read(&source, &options.filter)?;
            let usual = if source.is_fleet() { &TaskColumn::LIST_OF_HOSTS[..] } else { &TaskColumn::LIST };
            let screen = Screen::of(&std::io::stdout());
            print(&listing.table(&source, options, usual, screen)?)?;
        }
    }
    Ok(Exit::Code(0))
}

/// Each page is printed before the next one is read: a long history takes no more memory than a short one.
fn json(source: &TaskSource, filter: &TaskFilter) -> Result<(), Error> {
    let mut listing = view::JsonListing::default();
    print(&listing.begin(&source.place()))?;
    for page in source.pages(filter) {
        print(&listing.tasks(&page?))?;
    }
    print(listing.end())
}

fn json_lines(source: &TaskSource, filter: &TaskFilter) -> Result<(), Error> {
    for page in source.pages(filter) {
        print(&view::tasks_json_lines(&page?))?;
    }
    Ok(())
}
