//! What became of the endings that were in the spool, in words.

use tracing::{info, warn};

use crate::error::chain;
use crate::ledger::{Ledger, MergeOutcome, MergedRecord};
use crate::task::TaskId;

/// What became of one spooled record, and whether that is as expected.
pub fn describe_merged(merged: &MergedRecord) -> (String, bool) {
    let task = merged.task.as_ref().map(TaskId::as_str).unwrap_or("of unknown name");
    match &merged.outcome {
        MergeOutcome::Applied { status, invalidated } => {
            let session = invalidated.as_ref().map(|s| format!("; session {s} invalidated"));
            let session = session.unwrap_or_default();
            (format!("the ending of task {task} ({status}) is recorded from the spool{session}"), true)
        }
        MergeOutcome::AlreadyTerminal { status, kept } => {
            let kept = kept.display();
            (
                format!("task {task} had already ended as {status}; its spooled ending is kept in {kept}"),
                false,
            )
        }
        MergeOutcome::NoRow { kept } => {
            let kept = kept.display();
            (
                format!(
                    "a spooled ending belongs to task {task}, which is not in the ledger; it is kept in {kept}"
                ),
                false,
            )
        }
        MergeOutcome::Unreadable { why, kept } => {
            (format!("a spooled ending cannot be read ({why}); it is kept in {}", kept.display()), false)
        }
        MergeOutcome::Waits(e) => {
            (format!("the ending of task {task} stays in the spool: {}", chain(e)), false)
        }
    }
}

/// Logs what became of the records that were in the spool when the ledger was opened.
pub fn report_merged(ledger: &Ledger) {
    for merged in ledger.merged() {
        match describe_merged(merged) {
            (text, true) => info!("{text}"),
            (text, false) => warn!("{text}"),
        }
    }
}
