//! The ledger: one SQLite file that says what ran, how it ended, and which conversation may go on.
//!
//! Nothing above this module sees SQL or a type of the database: it speaks of tasks, sessions, claims and
//! endings.

mod adopt;
mod aftermath;
mod artifacts;
mod audit;
mod backup;
mod claim;
mod columns;
mod dialect;
mod ending;
mod error;
mod files;
mod limits;
mod listing;
mod live;
mod location;
mod open;
mod prune;
mod sessions;
mod spool;
mod statement;
mod stats;
mod tasks;
#[cfg(test)]
pub mod tests;
mod trust;
mod wal;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, TransactionBehavior};

use crate::clock;
use crate::failpoint;
use crate::log;
use crate::task::{
    Counts, Ended, Identity, Invalidation, Key, Provider, Session, SessionId, Status, Task, TaskId,
    Transition,
};
use dialect::Dialect;
use ending::By;
use error::step;
use limits::Budget;
use live::{Live, LiveFile};
use location::OtherName;
use open::Whose;
use spool::Content;
use wal::Log;

pub use adopt::{Adopted, Adoption, Journal, adopt};
pub use aftermath::Withdrawn;
pub use claim::Claim;
pub use ending::Finished;
pub use error::{LedgerError, Result};
pub use listing::Filter;
pub use live::{Aftermath, AftermathLock, LiveEvidence, LiveLock, Taken};
pub use location::{ChosenBy, Location, locate};
pub use prune::{Due, Pruned};
pub use sessions::{LastUse, Restored};
pub use spool::SpoolSlot;
#[cfg(any(test, fuzzing))]
pub use spool::fuzz;
pub use stats::GroupBy;
pub use tasks::{Delivery, Found, Seen};
pub use trust::{ALLOW_SHARED_DIR, Distrust, distrust};

/// The version of the SQLite that is built in.
pub const SQLITE: &str = match rusqlite::ffi::SQLITE_VERSION.to_str() {
    Ok(version) => version,
    Err(_) => "of unknown version",
};

/// How long a write waits for a locked ledger that is not worth keeping the run's loop from its work.
const BRIEF: Duration = Duration::from_millis(250);

/// 8 MiB of pages. A run has 256 KiB of them.
const MANY_PAGES: &str = "PRAGMA cache_size = -8192";

/// An opened ledger.
#[derive(Debug)]
pub struct Ledger {
    conn: Connection,
    log: Log,
    dialect: Arc<Dialect>,
    at: Location,
    live: Live,
    spool_dir: PathBuf,
    merged: Vec<Merged>,
    /// Others could write to the ledger when it was opened.
    was_shared: Option<Distrust>,
    budget: Budget,
}

/// A record that waited in the spool, and what became of it.
#[derive(Debug)]
pub struct Merged {
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

impl Ledger {
    /// Opens the ledger for writing; makes it, or brings its tables up to date, if need be. What waits in
    /// the spool is merged, see [`Ledger::merged`].
    pub fn open(at: &Location) -> Result<Ledger> {
        warn_of_other_name(at);
        Ledger::open_for_writing(at)
    }

    /// As [`Ledger::open`], for what starts new work: a file that may have another name is refused.
    pub fn open_for_run(at: &Location) -> Result<Ledger> {
        location::refuse_other_name(&at.file)?;
        Ledger::open_for_writing(at)
    }

    fn open_for_writing(at: &Location) -> Result<Ledger> {
        let opened = open::read_write(at)?;
        let mut ledger = Ledger::over((opened.conn, opened.dialect, opened.budget), opened.log, at);
        ledger.was_shared = opened.was_shared;
        failpoint::hit("open.ready").map_err(|e| LedgerError::io("opening", &at.file, e))?;
        ledger.merged = ledger.merge_spool()?;
        Ok(ledger)
    }

    /// Opens the ledger for reading: nothing is made, changed or migrated. `None`: there is none.
    pub fn open_read_only(at: &Location) -> Result<Option<Ledger>> {
        Ledger::read_only(at, Whose::Anybodys)
    }

    /// As [`Ledger::open_read_only`], for acting upon what the rows say: the ledger has to be the caller's.
    pub fn open_own_read_only(at: &Location) -> Result<Option<Ledger>> {
        Ledger::read_only(at, Whose::Mine)
    }

    fn read_only(at: &Location, whose: Whose) -> Result<Option<Ledger>> {
        warn_of_other_name(at);
        let opened = open::read_only(at, whose)?;
        Ok(opened.map(|opened| Ledger::over(opened, Log::default(), at)))
    }

    fn over(opened: (Connection, Arc<Dialect>, Budget), log: Log, at: &Location) -> Ledger {
        let (conn, dialect, budget) = opened;
        let private = at.private_dir();
        Ledger {
            conn,
            log,
            dialect,
            at: at.clone(),
            live: Live::at(private.join("live")),
            spool_dir: private.join("spool"),
            merged: Vec::new(),
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

    /// Why no command of the rows is executed, and nothing that they say of processes acted upon: others
    /// may have written them.
    pub fn distrust(&self) -> Option<Distrust> {
        self.was_shared.clone().or_else(|| trust::distrust(&self.at))
    }

    fn failed(&self, doing: &'static str) -> impl FnOnce(rusqlite::Error) -> LedgerError {
        move |e| self.log.error(doing, &self.at.file, e)
    }

    /// The connection, for an operation that begins.
    fn conn(&self) -> &Connection {
        self.budget.renew();
        &self.conn
    }

    /// Refuses to go on with files that are not those that were opened, before they are used.
    fn check_files(&self, doing: &'static str) -> Result<()> {
        match self.log.damage(self.conn()) {
            Some(damage) => Err(LedgerError::Replaced { doing, path: self.at.file.clone(), damage }),
            None => Ok(()),
        }
    }

    /// Makes ready for [`Ledger::finish`], so that it takes less time then.
    pub fn expect_end(&self) {
        // What fails here fails there too, and is told there.
        if self.check_files("preparing to end a task").is_ok() {
            let _ = ending::expect(&self.conn);
        }
    }

    /// Makes room in memory for the pages of many tasks that are settled in one transaction: else SQLite
    /// writes them to the log before the commit, and again after it reads them back.
    pub fn expect_many(&self) -> Result<()> {
        self.conn.execute_batch(MANY_PAGES).map_err(self.failed("making the page cache larger"))
    }

    /// Gives back the memory of cached pages, before a long wait.
    pub fn rest(&self) -> Result<()> {
        self.conn.flush_prepared_statement_cache();
        self.conn.execute_batch("PRAGMA shrink_memory").map_err(self.failed("giving back memory"))
    }

    // Writing.

    /// Takes the write lock: nobody else changes the ledger until the claim is committed or dropped.
    pub fn claim(&mut self) -> Result<Claim<'_>> {
        self.check_files("claiming")?;
        let file = self.at.file.as_path();
        let tx = self
            .conn
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .and_then(|tx| step("claim.begun").map(|()| tx))
            .map_err(|e| LedgerError::sql("claiming", file, e))?;
        Ok(Claim::new(tx, file, (&self.log, &self.dialect), &self.spool_dir, &self.live))
    }

    /// Writes what the run has used so far; a task that has ended is left alone. `None` never overwrites.
    /// It does not wait long for a locked ledger: signals and output would wait with it. Nor for the disk,
    /// which a hundred agents that talk would keep busy: a power cut may take the last of it back, and
    /// nothing else.
    pub fn progress(&mut self, id: &TaskId, counts: &Counts, seen: &Seen<'_>) -> Result<()> {
        self.check_files("writing a task's progress")?;
        self.log.set_lax(true);
        let wrote = self.briefly(BRIEF, |ledger| {
            let wrote = tasks::progress(&ledger.conn, id, counts, seen);
            wrote.map_err(ledger.failed("writing a task's progress"))
        });
        self.log.set_lax(false);
        self.keep_log_short();
        wrote
    }

    fn briefly<T>(&mut self, longest: Duration, work: impl FnOnce(&mut Ledger) -> Result<T>) -> Result<T> {
        let wait = |ledger: &mut Ledger, longest| {
            let set = ledger.conn.busy_handler(Some(open::patience(longest)));
            set.map_err(ledger.failed("setting how long to wait"))
        };
        wait(self, longest)?;
        let done = work(self);
        wait(self, open::busy_patience())?;
        done
    }

    /// What was written stands, whatever becomes of the log: the next writer tries again.
    fn keep_log_short(&mut self) {
        if self.log.is_long() {
            let emptied = self.briefly(wal::PATIENCE, |ledger| {
                wal::empty(&ledger.conn).map_err(ledger.failed("emptying the log"))
            });
            if let Err(e) = emptied {
                tracing::debug!("{}", crate::error::chain(&e));
            }
        }
    }

    /// The agent has named its session: durable in the task's row, and under the key, when this returns.
    /// Another session that the key named gives way. A task that has ended is left alone. It waits as long
    /// as [`Ledger::progress`] does.
    pub fn session_seen(
        &mut self,
        task: &TaskId,
        key: Option<&Key>,
        provider: Option<&Provider>,
        session_id: &SessionId,
        at: &str,
    ) -> Result<()> {
        let used = sessions::Used { task, key, provider, at };
        self.briefly(BRIEF, |ledger| {
            ledger.in_transaction("writing a task's session", |conn| {
                sessions::seen(conn, &used, session_id)?;
                step("session.written")
            })
        })?;
        step("session.committed").map_err(self.failed("writing a task's session"))
    }

    /// Ends a task: its terminal row, the verdict on its session, the transition, in one commit. It only
    /// ever updates a running row. `by` is the command that ends it.
    pub fn finish(&mut self, id: &TaskId, ended: &Ended, by: &str) -> Result<Finished> {
        let by = By { pid: std::process::id(), command: by };
        let dialect = Arc::clone(&self.dialect);
        let finished = self.in_transaction("ending a task", |conn| {
            step("end.begun")?;
            let finished = ending::end(conn, &dialect, id, ended, by)?;
            step("end.written").map(|()| finished)
        })?;
        step("end.committed").map(|()| finished).map_err(self.failed("ending a task"))
    }

    fn in_transaction<T>(
        &mut self,
        doing: &'static str,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T> {
        self.check_files(doing)?;
        let apply = || {
            let tx = self.conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let done = work(&tx)?;
            tx.commit()?;
            Ok(done)
        };
        let done = apply().map_err(|e| self.log.error(doing, &self.at.file, e))?;
        self.keep_log_short();
        Ok(done)
    }

    // Reading.

    /// The task of an id, or of the beginning of one.
    pub fn task(&self, id_or_prefix: &str) -> Result<Found> {
        self.check_files("reading a task")?;
        tasks::find(self.conn(), id_or_prefix).map_err(self.failed("reading a task"))
    }

    /// A task's changes of status, in order.
    pub fn transitions(&self, id: &TaskId) -> Result<Vec<Transition>> {
        tasks::transitions(self.conn(), id).map_err(self.failed("reading a task's transitions"))
    }

    pub fn session_of_key(&self, key: &Key) -> Result<Option<Session>> {
        sessions::of_key(self.conn(), key).map_err(self.failed("reading the session of the key"))
    }

    /// The sessions that a task's end, or its start, took out of use.
    pub fn invalidations_of_task(&self, id: &TaskId) -> Result<Vec<Invalidation>> {
        sessions::invalidations_of_task(self.conn(), id)
            .map_err(self.failed("reading the invalidated sessions of a task"))
    }

    // The live lock.

    /// Takes a live lock in a slot of its own, for a task that is about to be inserted.
    pub fn hold_live(&self) -> Result<LiveLock> {
        let lock = LiveFile::open(&self.live.path)?.hold(&self.live.path)?;
        failpoint::hit("live.held")
            .map(|()| lock)
            .map_err(|e| LedgerError::io("taking a live lock in", &self.live.path, e))
    }

    /// What the kernel says of a task's live lock now.
    pub fn evidence(&self, task: &Task) -> Result<LiveEvidence> {
        self.live.evidence(task)
    }

    /// Takes the live lock of a task that has ended, so that nobody else finishes what it left undone.
    pub fn take_live(&self, task: &Task) -> Result<Taken> {
        self.live.take(task)
    }

    /// Takes the aftermath of tasks upon us: for each whether it is ours, else another process is at it.
    pub fn take_aftermath(&self, what: Aftermath, ids: &[&TaskId]) -> Result<(AftermathLock, Vec<bool>)> {
        self.live.take_aftermath(what, ids)
    }

    /// Device and inode of the file `live`, and the bytes of it that supervisors lock.
    pub fn live_bytes(&self) -> Result<Option<(u64, u64, Range<i64>)>> {
        Ok(self.live.file()?.map(|live| (live.dev, live.ino, 0..live::SLOTS)))
    }

    // The spool.

    /// Takes room on the disk for a task's terminal record, before the task is committed.
    #[cfg(test)]
    pub fn spool_slot(&self, id: &TaskId) -> Result<SpoolSlot> {
        SpoolSlot::reserve(&self.spool_dir, id)
    }

    /// Whether this process supervises a running task of this ledger and holds its live lock.
    pub fn supervised_by(&self, supervisor: Identity) -> Result<bool> {
        self.check_files("looking for the task of a supervisor")?;
        let tasks = tasks::supervised_by(self.conn(), supervisor)
            .map_err(self.failed("looking for the task of a supervisor"))?;
        for task in &tasks {
            if self.evidence(task)? == LiveEvidence::Held {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Records what became of a task's left-overs after its end.
    pub fn leftovers(&mut self, id: &TaskId, leftovers: &str) -> Result<()> {
        self.check_files("recording leftover processes")?;
        tasks::leftovers(self.conn(), id, leftovers).map_err(self.failed("recording leftover processes"))?;
        Ok(())
    }

    /// Records that the agent of an ended task is no longer counted: it does not keep the key.
    pub fn release_agent(&mut self, id: &TaskId, at: &str) -> Result<bool> {
        tasks::release_agent(self.conn(), id, at).map_err(self.failed("releasing the agent of a task"))
    }

    /// The records that wait in the spool.
    pub fn spooled(&self) -> Result<Vec<PathBuf>> {
        spool::waiting(&self.spool_dir)
    }

    /// What became of the records that waited when this ledger was opened.
    pub fn merged(&self) -> &[Merged] {
        &self.merged
    }

    /// Removes what a dead task has in the spool: its slot, and its record if that `is_merged`.
    pub fn clear_spool(&self, id: &TaskId, is_merged: bool) -> Result<()> {
        spool::clear(&self.spool_dir, id, is_merged)
    }

    /// Brings the waiting records into their rows, in the order in which the tasks ended. One that cannot
    /// be merged is kept beside and reported.
    pub fn merge_spool(&mut self) -> Result<Vec<Merged>> {
        let paths = spool::waiting(&self.spool_dir)?;
        if paths.is_empty() {
            return Ok(Vec::new());
        }
        Ok(spool::read_all(paths).into_iter().map(|record| self.merge(record)).collect())
    }

    fn merge(&mut self, waiting: spool::Waiting) -> Merged {
        let path = waiting.path;
        let (task, outcome) = match waiting.content {
            Content::Record(record) => {
                let outcome = self.merge_record(&path, &record);
                (Some(record.task), outcome)
            }
            Content::Unreadable(why) => {
                let outcome = spool::keep(&path).map(|kept| MergeOutcome::Unreadable { why, kept });
                (None, outcome)
            }
            Content::Failed(e) => (None, Err(LedgerError::io("reading the spooled record", &path, e))),
        };
        Merged { task, outcome: outcome.unwrap_or_else(MergeOutcome::Waits) }
    }

    fn merge_record(&mut self, path: &Path, record: &spool::Spooled) -> Result<MergeOutcome> {
        let by = By { pid: record.by_pid, command: &record.by_command };
        let (task, ended) = (&record.task, &record.ended);
        let dialect = Arc::clone(&self.dialect);
        let finished = self.in_transaction("merging a spooled record", |conn| {
            match ending::end(conn, &dialect, task, ended, by)? {
                // Merged before, and its file was not removed: a crash in between, or another merger.
                Finished::AlreadyTerminal(_) if ending::is_merged(conn, task, ended)? => {
                    Ok(Finished::Done { invalidated: None })
                }
                other => Ok(other),
            }
            .and_then(|finished| step("merge.written").map(|()| finished))
        })?;
        step("merge.committed").map_err(self.failed("merging a spooled record"))?;
        Ok(match finished {
            Finished::Done { invalidated } => {
                spool::remove(path)?;
                MergeOutcome::Applied { status: ended.ending.status(), invalidated }
            }
            Finished::AlreadyTerminal(status) => {
                MergeOutcome::AlreadyTerminal { status, kept: spool::keep(path)? }
            }
            Finished::NoRow => MergeOutcome::NoRow { kept: spool::keep(path)? },
        })
    }
}

/// The records that wait beside a ledger, which may be missing.
pub fn records_in_spool(at: &Location) -> Result<Vec<PathBuf>> {
    spool::waiting(&at.private_dir().join("spool"))
}

/// Ends, recovery and readers go on: a backup that makes a hard link must not cost an end.
fn warn_of_other_name(at: &Location) {
    if let Some(other) = OtherName::of(&at.file) {
        log::warn(&other.explain(&at.file), &other.hint(&at.file));
    }
}

/// Now, RFC 3339, UTC, milliseconds.
fn now() -> String {
    text(clock::timestamp())
}

fn text(time: Timestamp) -> String {
    format!("{time:.3}")
}
