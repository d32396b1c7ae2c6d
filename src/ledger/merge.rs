//! Merging the spool: its records are written to their rows.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::ending::{self, EndedBy, FinishOutcome};
use super::error::{LedgerError, Result, step};
use super::handle::Ledger;
use super::location::Location;
use super::merged::{MergeOutcome, MergedRecord};
#[cfg(test)]
use super::spool::SpoolSlot;
use super::spool::{self, WaitingContent, record};
use crate::task::{TaskEnd, TaskId};

impl Ledger {
    /// Reserves disk space for the record of a task, before the task is committed.
    #[cfg(test)]
    pub fn spool_slot(&self, id: &TaskId) -> Result<SpoolSlot> {
        SpoolSlot::reserve(&self.spool_dir, id)
    }

    /// The records in the spool.
    pub fn spooled(&self) -> Result<Vec<PathBuf>> {
        spool::waiting(&self.spool_dir)
    }

    /// The end of this task that waits in the spool. `None`, too, for a reader that may not look there.
    pub fn spooled_end(&self, id: &TaskId) -> Result<Option<TaskEnd>> {
        match spool::waiting_for(&self.spool_dir, id) {
            Err(LedgerError::Io { .. }) => Ok(None),
            read => read,
        }
    }

    /// Whether the spool holds the slot of a task.
    pub fn has_slot(&self, id: &TaskId) -> bool {
        spool::has_slot(&self.spool_dir, id)
    }

    /// Removes the slot of a lost task from the spool, and its record if that `is_merged`.
    pub fn clear_spool(&self, id: &TaskId, is_merged: bool) -> Result<()> {
        spool::clear(&self.spool_dir, id, is_merged)
    }

    /// Writes the records in the spool to their rows, in the order in which the tasks ended. A record that
    /// cannot be merged is moved away and reported.
    pub fn merge_spool(&mut self) -> Result<Vec<MergedRecord>> {
        let paths = spool::waiting(&self.spool_dir)?;
        if paths.is_empty() {
            return Ok(Vec::new());
        }
        Ok(spool::read_all(paths).into_iter().map(|record| self.merge(record)).collect())
    }

    fn merge(&mut self, waiting: spool::WaitingRecord) -> MergedRecord {
        let path = waiting.path;
        let (task, outcome) = match waiting.content {
            WaitingContent::Record(record) => {
                let outcome = self.merge_record(&path, &record);
                (Some(record.task), outcome)
            }
            WaitingContent::Unreadable(why) => {
                let outcome = spool::keep(&path).map(|kept| MergeOutcome::Unreadable { why, kept });
                (None, outcome)
            }
            WaitingContent::Failed(e) => (None, Err(LedgerError::io("reading the spooled record", &path, e))),
        };
        MergedRecord { task, outcome: outcome.unwrap_or_else(MergeOutcome::Waits) }
    }

    fn merge_record(&mut self, path: &Path, record: &record::SpooledEnd) -> Result<MergeOutcome> {
        let by = EndedBy { pid: record.by_pid, command: &record.by_command };
        let (task, ended) = (&record.task, &record.ended);
        let dialect = Arc::clone(&self.dialect);
        let finished = self.in_transaction("merging a spooled record", |conn| {
            match ending::end(conn, &dialect, task, ended, by)? {
                // It was merged before, and its file was not removed: a crash in between, or another process
                // that merges.
                FinishOutcome::AlreadyTerminal(_) if ending::is_merged(conn, task, ended)? => {
                    Ok(FinishOutcome::Done { invalidated: None })
                }
                other => Ok(other),
            }
            .and_then(|finished| step("merge.written").map(|()| finished))
        })?;
        step("merge.committed").map_err(self.failed("merging a spooled record"))?;
        Ok(match finished {
            FinishOutcome::Done { invalidated } => {
                spool::remove(path)?;
                MergeOutcome::Applied { status: ended.ending.status(), invalidated }
            }
            FinishOutcome::AlreadyTerminal(status) => {
                MergeOutcome::AlreadyTerminal { status, kept: spool::keep(path)? }
            }
            FinishOutcome::NoRow => MergeOutcome::NoRow { kept: spool::keep(path)? },
        })
    }
}

/// The records in the spool of a ledger that may not exist.
pub fn records_in_spool(at: &Location) -> Result<Vec<PathBuf>> {
    spool::waiting(&at.private_dir().join("spool"))
}
