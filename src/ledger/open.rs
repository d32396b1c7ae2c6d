//! Opening the ledger for a run, for other writers and for readers.

use super::connect::{self, RequiredOwner};
use super::error::{LedgerError, Result};
use super::handle::Ledger;
use super::location::Location;
use super::merged::MergedRecord;
use super::other_name::{self, OtherName};
use super::wal::WriteAheadLog;
use crate::failpoint;
use crate::log;

impl Ledger {
    /// Opens the ledger for writing; creates it, or brings its tables up to date, where necessary. Merges the
    /// records in the spool and returns what became of each, for [`report_merged`](super::report_merged).
    pub fn open(at: &Location) -> Result<(Ledger, Vec<MergedRecord>)> {
        warn_of_other_name(at);
        Ledger::open_for_writing(at)
    }

    /// As [`Ledger::open`], for a new run: a file that may have a second name is refused.
    pub fn open_for_run(at: &Location) -> Result<(Ledger, Vec<MergedRecord>)> {
        other_name::refuse_other_name(&at.file)?;
        Ledger::open_for_writing(at)
    }

    fn open_for_writing(at: &Location) -> Result<(Ledger, Vec<MergedRecord>)> {
        let opened = connect::read_write(at)?;
        let mut ledger = Ledger::over(opened.opened, opened.log, at);
        ledger.was_shared = opened.was_shared;
        failpoint::hit("open.ready").map_err(|e| LedgerError::io("opening", &at.file, e))?;
        let merged = ledger.merge_spool()?;
        Ok((ledger, merged))
    }

    /// Opens the ledger for reading, and creates, changes or migrates nothing. `None`: it does not exist.
    pub fn open_read_only(at: &Location) -> Result<Option<Ledger>> {
        Ledger::read_only(at, RequiredOwner::Anyone)
    }

    /// As [`Ledger::open_read_only`], for commands that act on the rows: the ledger must belong to the
    /// caller.
    pub fn open_own_read_only(at: &Location) -> Result<Option<Ledger>> {
        Ledger::read_only(at, RequiredOwner::Caller)
    }

    fn read_only(at: &Location, whose: RequiredOwner) -> Result<Option<Ledger>> {
        warn_of_other_name(at);
        let opened = connect::read_only(at, whose)?;
        Ok(opened.map(|opened| Ledger::over(opened, WriteAheadLog::default(), at)))
    }
}

/// Warns only: ends, recovery and readers must work while a backup program holds a hard link.
fn warn_of_other_name(at: &Location) {
    if let Some(other) = OtherName::of(&at.file) {
        log::warn(&other.explain(&at.file), &other.hint(&at.file));
    }
}
