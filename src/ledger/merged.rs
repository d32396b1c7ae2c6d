//! What became of the records in the spool, and how it is reported.

use std::fmt;
use std::path::PathBuf;

use tracing::{info, warn};

use super::error::LedgerError;
use crate::error::chain;
use crate::task::{SessionId, Status, TaskId};

/// A record from the spool, and what became of it.
#[derive(Debug)]
pub struct MergedRecord {
    /// `None`: the record cannot be read.
    pub task: Option<TaskId>,
    pub outcome: MergeOutcome,
}

/// What became of a spooled record.
#[derive(Debug)]
pub enum MergeOutcome {
    Applied {
        status: Status,
        invalidated: Option<SessionId>,
    },
    /// Its row already had another ending. The record was moved away.
    AlreadyTerminal {
        status: Status,
        kept: PathBuf,
    },
    /// The ledger has no such row. The record was moved away.
    NoRow {
        kept: PathBuf,
    },
    /// Not a record, or one of an unknown version. It was moved away.
    Unreadable {
        why: String,
        kept: PathBuf,
    },
    /// The ledger cannot take it now either. It stays in the spool.
    Waits(LedgerError),
}

impl MergedRecord {
    /// Whether the ledger could not take the record, which stays in the spool.
    pub fn waits(&self) -> bool {
        matches!(self.outcome, MergeOutcome::Waits(_))
    }

    /// Whether the record is in the ledger now.
    pub fn is_applied(&self) -> bool {
        matches!(self.outcome, MergeOutcome::Applied { .. })
    }
}

impl fmt::Display for MergedRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let task = self.task.as_ref().map_or("of unknown id", TaskId::as_str);
        match &self.outcome {
            MergeOutcome::Applied { status, invalidated } => {
                write!(f, "recorded the end of task {task} ({status}) from the spool")?;
                match invalidated {
                    Some(session) => write!(f, "; session {session} is invalidated"),
                    None => Ok(()),
                }
            }
            MergeOutcome::AlreadyTerminal { status, kept } => write!(
                f,
                "task {task} had already ended as {status}; its spooled record was moved to {}",
                kept.display()
            ),
            MergeOutcome::NoRow { kept } => write!(
                f,
                "a spooled record names task {task}, which is not in the ledger; it was moved to {}",
                kept.display()
            ),
            MergeOutcome::Unreadable { why, kept } => {
                write!(f, "a spooled record cannot be read ({why}); it was moved to {}", kept.display())
            }
            MergeOutcome::Waits(e) => {
                write!(f, "the record of task {task} stays in the spool: {}", chain(e))
            }
        }
    }
}

/// Logs what became of the records in the spool: a merge as information, anything else as a warning.
pub fn report_merged(merged: &[MergedRecord]) {
    for record in merged {
        let task = record.task.as_ref().map(TaskId::as_str);
        match record.is_applied() {
            true => info!(TASK_ID = task, "{record}"),
            false => warn!(TASK_ID = task, "{record}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_says_what_became_of_a_record_and_where_it_is() {
        let kept = || PathBuf::from("/spool/t.kept.json");
        let status = Status::Failure;
        let record = |outcome| MergedRecord { task: Some(TaskId::recorded("t")), outcome };
        let applied = |invalidated| record(MergeOutcome::Applied { status, invalidated });
        assert_eq!(applied(None).to_string(), "recorded the end of task t (failure) from the spool");
        let invalidated = applied(Some(SessionId::recorded("s1")));
        assert!(invalidated.is_applied());
        assert!(invalidated.to_string().ends_with("; session s1 is invalidated"), "{invalidated}");
        let failed = LedgerError::NoSuchTask { id: TaskId::recorded("t"), path: kept() };
        let why = "it is truncated".to_owned();
        for (outcome, words) in [
            (MergeOutcome::AlreadyTerminal { status, kept: kept() }, ["as failure", "/spool/t.kept.json"]),
            (MergeOutcome::NoRow { kept: kept() }, ["task t", "/spool/t.kept.json"]),
            (MergeOutcome::Unreadable { why, kept: kept() }, ["it is truncated", "/spool/t.kept.json"]),
            (MergeOutcome::Waits(failed), ["task t", "stays in the spool"]),
        ] {
            let record = record(outcome);
            let text = record.to_string();
            assert!(!record.is_applied() && words.iter().all(|w| text.contains(w)), "{text}");
        }
    }
}
