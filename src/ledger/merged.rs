//! What became of the records in the spool.

use std::path::PathBuf;

use super::error::LedgerError;
use crate::task::{SessionId, Status, TaskId};

/// A record that waited in the spool, and what became of it.
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
        /// The session that is not to be resumed any more.
        invalidated: Option<SessionId>,
    },
    /// Its row had another ending already: the record is kept beside.
    AlreadyTerminal { status: Status, kept: PathBuf },
    /// The ledger has no such row: the record is kept beside.
    NoRow { kept: PathBuf },
    /// No record, or none of a known version: kept beside.
    Unreadable { why: String, kept: PathBuf },
    /// The ledger cannot take it now either: it goes on waiting.
    Waits(LedgerError),
}
