//! `bookend prune`: deletes tasks past their retention period.

use std::path::Path;
use std::time::Duration;

use jiff::SignedDuration;

use crate::commands::find;
use crate::error::Error;
use crate::exit::Exit;
use crate::ledger::{self, Ledger, PruneScope, PruneSummary};
use crate::sys::stdout::print;
use crate::view;

/// The options of `bookend prune`.
#[derive(Debug)]
pub struct PruneOptions {
    /// Replaces the retention period of each task.
    pub retention: Option<Duration>,
    pub dry_run: bool,
    pub vacuum: bool,
    pub json: bool,
}

/// # Errors
/// When the ledger cannot be opened for writing, or stdout not be written.
pub fn prune(options: &PruneOptions, ledger: Option<&Path>) -> Result<Exit, Error> {
    let at = ledger::locate(ledger)?;
    let path = at.file.display();
    let due = match options.retention {
        None => PruneScope::Cleanup,
        Some(retention) => {
            PruneScope::Older(SignedDuration::try_from(retention).unwrap_or(SignedDuration::MAX))
        }
    };
    let opened = match options.dry_run {
        true => Ledger::open_read_only(&at)?,
        // Pruning does not create a ledger.
        false if !at.file.exists() => None,
        false => {
            let (ledger, merged) = Ledger::open(&at)?;
            ledger::report_merged(&merged);
            Some(ledger)
        }
    };
    let Some(mut ledger) = opened else {
        return Err(find::no_ledger("nothing to prune", &at));
    };
    if !options.dry_run {
        ledger.set_missing_cleanup()?;
    }
    let pruned = ledger.prune(&due, options.dry_run)?;
    // Opening the ledger for writing has merged them.
    let spooled = if options.dry_run { ledger.spooled()?.len() } else { 0 };
    if options.vacuum && !options.dry_run {
        ledger.vacuum()?;
    }
    print(&match options.json {
        true => json(&pruned, options.dry_run),
        false => text(&pruned, options, spooled, &view::one_line(&path.to_string())),
    })?;
    Ok(Exit::Code(0))
}

fn text(pruned: &PruneSummary, options: &PruneOptions, spooled: usize, path: &str) -> String {
    let removed = if options.dry_run { "would be removed" } else { "removed" };
    let early = part(pruned.removed_early, pruned.removed, "within");
    let mut text = format!("{} {removed} from {path}{early}\n", tasks(pruned.removed));
    if pruned.kept_for_retention > 0 {
        let late = part(pruned.kept_late, pruned.kept_for_retention, "past");
        let by = match (options.retention, pruned.kept_for_retention) {
            (Some(_), _) => "--retention",
            (None, 1) => "its own retention period",
            (None, _) => "their own retention period",
        };
        text += &format!("{} kept by {by}{late}\n", tasks(pruned.kept_for_retention));
    }
    if pruned.kept_for_session > 0 {
        text += &format!("{} kept: a key resumes the session\n", tasks(pruned.kept_for_session));
    }
    if pruned.kept_undelivered > 0 {
        text +=
            &format!("{} kept: --on-finish or a recovery report is due\n", tasks(pruned.kept_undelivered));
    }
    if pruned.kept_unpublished > 0 {
        text += &format!("{} kept: not yet published to the fleet\n", tasks(pruned.kept_unpublished));
    }
    match spooled {
        0 => {}
        1 => text += "1 end waits in the spool: its task is not counted\n",
        n => text += &format!("{n} ends wait in the spool: their tasks are not counted\n"),
    }
    text
}

fn tasks(n: u64) -> String {
    if n == 1 { "1 task".to_owned() } else { format!("{n} tasks") }
}

/// The part of the tasks to which --retention does what their own retention period would not do.
fn part(n: u64, of: u64, what: &str) -> String {
    match (n, of) {
        (0, _) => String::new(),
        (1, 1) => format!(", {what} its own retention period"),
        (1, _) => format!(", 1 of them {what} its own retention period"),
        (n, _) => format!(", {n} of them {what} their own retention period"),
    }
}

fn json(pruned: &PruneSummary, dry: bool) -> String {
    let report = serde_json::json!({
        "dry_run": dry,
        "removed": pruned.removed,
        "removed_early": pruned.removed_early,
        "kept_for_retention": pruned.kept_for_retention,
        "kept_late": pruned.kept_late,
        "kept_for_session": pruned.kept_for_session,
        "kept_undelivered": pruned.kept_undelivered,
        "kept_unpublished": pruned.kept_unpublished,
        "longest_hold_ms": pruned.longest_hold.as_secs_f64() * 1e3,
    });
    format!("{report}\n")
}
