//! Where the tasks of the system units are, for someone whose own ledger is empty.

use std::path::Path;

use crate::ledger::Location;
use crate::task::SYSTEM_LEDGER;
use crate::view;

/// The command that lists the tasks of the system units. `None`: there are no such units, or the caller has
/// named a ledger.
pub fn command(at: &Location) -> Option<String> {
    let ledger = Path::new(SYSTEM_LEDGER);
    let exists = || ledger.parent().is_some_and(Path::is_dir);
    (at.is_own() && at.file != ledger && exists()).then(|| view::suggestion(Some(ledger), "list"))
}

/// The same as a line, or nothing.
pub fn line(at: &Location) -> String {
    command(at).map(|command| format!("system units: {command}\n")).unwrap_or_default()
}
