//! `bookend stats`: counts, endings and costs of runs by agent, repo, key, model or day.

use std::path::Path;

use crate::commands::find;
use crate::error::Error;
use crate::exit::Exit;
use crate::ledger::{self, GroupBy, Ledger};
use crate::sys::stdout::print;
use crate::task::Time;
use crate::view::{self, Screen};

/// The options of `bookend stats`.
#[derive(Debug)]
pub struct StatsOptions {
    pub by: GroupBy,
    /// Started then or later.
    pub since: Option<Time>,
    pub limit: usize,
    pub json: bool,
}

/// # Errors
/// When the ledger cannot be read, or stdout not be written.
pub fn stats(options: &StatsOptions, ledger: Option<&Path>) -> Result<Exit, Error> {
    let at = ledger::locate(ledger)?;
    let path = at.file.display();
    let Some(ledger) = Ledger::open_read_only(&at)? else {
        return Err(find::no_ledger("no tasks", &at));
    };
    let groups = ledger.stats(options.by, options.since, options.limit)?;
    print(&match options.json {
        true => view::stats_json(options.by.as_str(), &groups),
        false if groups.is_empty() => format!("no such tasks in {}\n", view::one_line(&path.to_string())),
        false => view::stats(options.by.as_str(), &groups, Screen::of(&std::io::stdout())),
    })?;
    Ok(Exit::Code(0))
}
