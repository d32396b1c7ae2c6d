//! An open ledger. Each operation checks its files first and runs in one transaction.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};

use super::busy;
use super::connect::{FEW_PAGES, OpenedLedger};
use super::dialect::Dialect;
use super::error::{LedgerError, Result};
use super::limits::CpuBudget;
use super::live::{
    FollowUp, FollowUpLock, LiveEvidence, LiveFile, LiveLock, LiveLocks, MonitorLock, SLOTS, TakenLock,
};
use super::location::Location;
use super::membership::ReadMembership;
use super::published::PublishedChanges;
use super::trust::{self, Distrust};
use super::wal::{self, WriteAheadLog};
use crate::failpoint;
use crate::log::Silence;
use crate::task::{Task, TaskId};

/// 8 MiB of pages.
const MANY_PAGES: &str = "PRAGMA cache_size = -8192";

/// An open ledger.
#[derive(Debug)]
pub struct Ledger {
    pub(super) conn: Connection,
    pub(super) log: WriteAheadLog,
    pub(super) dialect: Arc<Dialect>,
    pub(super) at: Location,
    pub(super) live: LiveLocks,
    pub(super) spool_dir: PathBuf,
    /// The fleet that it is in, as text that this module does not read.
    pub(super) fleet: ReadMembership,
    pub(super) published: PublishedChanges,
    /// Other users could write to the ledger when it was opened.
    pub(super) was_shared: Option<Distrust>,
    pub(super) budget: CpuBudget,
}

impl Ledger {
    pub(super) fn over(opened: OpenedLedger, log: WriteAheadLog, at: &Location) -> Ledger {
        let OpenedLedger { conn, dialect, fleet, budget } = opened;
        let private = at.private_dir();
        Ledger {
            conn,
            log,
            dialect,
            at: at.clone(),
            live: LiveLocks::at(private.join("live")),
            spool_dir: private.join("spool"),
            fleet,
            published: PublishedChanges::default(),
            was_shared: None,
            budget,
        }
    }

    pub fn path(&self) -> &Path {
        &self.at.file
    }

    /// As [`Location::option`].
    pub fn option(&self) -> Option<&Path> {
        self.at.option()
    }

    /// Why commands in the rows are not executed and processes in them not signalled: other users may have
    /// written them.
    pub fn distrust(&self) -> Option<Distrust> {
        self.was_shared.clone().or_else(|| trust::distrust(&self.at))
    }

    pub(super) fn failed(&self, doing: &'static str) -> impl FnOnce(rusqlite::Error) -> LedgerError {
        move |e| self.log.error(doing, &self.at.file, e)
    }

    /// The connection, for a new operation.
    pub(super) fn conn(&self) -> &Connection {
        self.budget.renew();
        &self.conn
    }

    /// Fails if the files are no longer those that were opened.
    pub(super) fn check_files(&self, doing: &'static str) -> Result<()> {
        match self.log.damage(self.conn()) {
            Some(damage) => {
                Err(LedgerError::Replaced { doing, path: self.at.file.clone(), damage: damage.as_str() })
            }
            None => Ok(()),
        }
    }

    /// Enlarges the page cache for settling many tasks in one transaction. Otherwise SQLite writes pages to
    /// the log before the commit and reads them back.
    pub fn expect_many(&self) -> Result<()> {
        self.conn.execute_batch(MANY_PAGES).map_err(self.failed("making the page cache larger"))
    }

    /// Frees the memory of cached pages, before a long wait, and makes the page cache small again.
    pub fn rest(&self) -> Result<()> {
        self.conn.flush_prepared_statement_cache();
        let given_back = |_| self.conn.execute_batch("PRAGMA shrink_memory");
        self.conn.execute_batch(FEW_PAGES).and_then(given_back).map_err(self.failed("giving back memory"))
    }

    pub(super) fn briefly<T>(
        &mut self,
        longest: Duration,
        work: impl FnOnce(&mut Ledger) -> Result<T>,
    ) -> Result<T> {
        let wait = |ledger: &mut Ledger, longest| {
            let set = ledger.conn.busy_handler(Some(busy::handler(longest)));
            set.map_err(ledger.failed("setting how long to wait"))
        };
        wait(self, longest)?;
        let done = work(self);
        wait(self, busy::patience())?;
        done
    }

    /// If this fails the data is written all the same, and the next writer tries again.
    pub(super) fn keep_log_short(&mut self) {
        if self.log.is_long() {
            let emptied = self.briefly(wal::PATIENCE, |ledger| {
                wal::empty(&ledger.conn).map_err(ledger.failed("emptying the log"))
            });
            if let Err(e) = emptied {
                tracing::debug!("{}", crate::error::chain(&e));
            }
        }
    }

    pub(super) fn in_transaction<T>(
        &mut self,
        doing: &'static str,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T> {
        self.check_files(doing)?;
        let apply = || {
            let tx = self.conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let _silence = Silence::begin();
            let done = work(&tx)?;
            tx.commit()?;
            Ok(done)
        };
        let done = apply().map_err(|e| self.log.error(doing, &self.at.file, e))?;
        self.keep_log_short();
        Ok(done)
    }
}

/// The live locks.
impl Ledger {
    /// Takes a live lock in a new slot, for a task that is about to be inserted.
    pub fn hold_live(&self) -> Result<LiveLock> {
        let lock = LiveFile::open(&self.live.path)?.hold(&self.live.path)?;
        failpoint::hit("live.held")
            .map(|()| lock)
            .map_err(|e| LedgerError::io("taking a live lock in", &self.live.path, e))
    }

    /// What the kernel reports about a task's live lock now.
    pub fn evidence(&self, task: &Task) -> Result<LiveEvidence> {
        self.live.evidence(task)
    }

    /// Takes the live lock of a task that has ended, so that only this process finishes it.
    pub fn take_live(&self, task: &Task) -> Result<TakenLock> {
        self.live.take(task)
    }

    /// Locks one kind of follow-up for these tasks, and returns for each whether this process holds it now.
    pub fn lock_follow_ups(&self, what: FollowUp, ids: &[&TaskId]) -> Result<(FollowUpLock, Vec<bool>)> {
        self.live.lock_follow_ups(what, ids)
    }

    /// Makes this process the monitor of the ledger; `None`: another process is.
    pub fn hold_monitor(&self) -> Result<Option<MonitorLock>> {
        self.live.hold_monitor()
    }

    /// Whether another process is the monitor of the ledger.
    pub fn has_monitor(&self) -> Result<bool> {
        self.live.has_monitor()
    }

    /// Device and inode of the file `live`, and the range of bytes that supervisors lock.
    pub fn live_bytes(&self) -> Result<Option<(u64, u64, Range<i64>)>> {
        Ok(self.live.file()?.map(|live| (live.dev, live.ino, 0..SLOTS)))
    }
}
