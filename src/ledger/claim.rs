//! A claim: one transaction that checks the holder of a key, ends it if it is lost, and writes the new row.

use std::borrow::Cow;
use std::path::Path;

use rusqlite::{ErrorCode, Transaction, TransactionBehavior};

use super::diagnosis::database_error;
use super::dialect::Dialect;
use super::ending::{self, EndedBy, FinishOutcome};
use super::error::{LedgerError, Result, step};
use super::fleet;
use super::handle::Ledger;
use super::live::{LiveEvidence, LiveLock, LiveLocks};
use super::membership::ReadMembership;
use super::sessions::{self, SessionUser};
use super::spending::{self, KeySpending};
use super::spool::{self, SpoolSlot};
use super::tasks;
use super::wal::WriteAheadLog;
use crate::log::Silence;
use crate::task::resume::SessionUse;
use crate::task::{Key, NewTask, Provider, Session, SessionId, SessionTotals, Task, TaskEnd, TaskId, Time};

/// The write lock of the ledger, from `BEGIN IMMEDIATE` on. Dropping it without [`Claim::commit`] changes
/// nothing.
pub struct Claim<'a> {
    tx: Transaction<'a>,
    file: &'a Path,
    log: &'a WriteAheadLog,
    dialect: &'a Dialect,
    spool_dir: &'a Path,
    live: &'a LiveLocks,
    membership: &'a ReadMembership,
    _silence: Silence,
}

impl Claim<'_> {
    fn failed(&self, doing: &'static str) -> impl FnOnce(rusqlite::Error) -> LedgerError {
        move |e| self.log.error(doing, self.file, e)
    }

    /// The fleet that the ledger is in, as of this transaction: it may have joined one or left it since it
    /// was opened. Nothing is read unless something was written since.
    pub fn fleet(&self) -> Result<Option<Cow<'_, str>>> {
        if self.membership.is_current(&self.tx) {
            return Ok(self.membership.setting.as_deref().map(Cow::from));
        }
        let read = fleet::read(&self.tx).map_err(self.failed("reading which fleet it is in"))?;
        Ok(read.setting.map(Cow::from))
    }

    /// The running task under a key.
    pub fn holder(&self, key: &Key) -> Result<Option<Task>> {
        tasks::holder(&self.tx, key).map_err(self.failed("looking for the holder of the key"))
    }

    /// The last task that has ended under a key.
    pub fn last_of_key(&self, key: &Key) -> Result<Option<Task>> {
        tasks::last_of_key(&self.tx, key).map_err(self.failed("looking for the last task of the key"))
    }

    /// The last use of a session under any key. `linked`: the task that a key names as its last user.
    pub fn last_use(
        &self,
        provider: Option<&Provider>,
        session_id: &SessionId,
        linked: Option<&TaskId>,
    ) -> Result<SessionUse> {
        sessions::last_use(&self.tx, provider, session_id, linked)
            .map_err(self.failed("looking for the last user of the session"))
    }

    /// What the kernel reports about a task's live lock now.
    pub fn evidence(&self, task: &Task) -> Result<LiveEvidence> {
        self.live.evidence(task)
    }

    /// The totals that the agent last reported for this session.
    pub fn last_session_totals(
        &self,
        provider: Option<&Provider>,
        session_id: &SessionId,
    ) -> Result<SessionTotals> {
        tasks::last_session_totals(&self.tx, provider, session_id)
            .map_err(self.failed("reading the totals of the session"))
    }

    /// What the tasks of a key have cost that started then or later.
    pub fn spending(&self, key: &Key, since: Time) -> Result<KeySpending> {
        let since = self.dialect.time("task_history.started_at", since);
        spending::of_key(&self.tx, key, &since).map_err(self.failed("adding up the costs of the key"))
    }

    pub fn session(&self, key: &Key) -> Result<Option<Session>> {
        sessions::of_key(&self.tx, key).map_err(self.failed("reading the session of the key"))
    }

    pub fn task(&self, id: &TaskId) -> Result<Option<Task>> {
        tasks::by_id(&self.tx, id).map_err(self.failed("reading a task"))
    }

    /// The nesting depth of `task`, counted through its parents, at most `most`.
    pub fn levels(&self, task: &TaskId, most: u32) -> Result<u32> {
        tasks::levels(&self.tx, task, most).map_err(self.failed("counting the tasks above this one"))
    }

    /// Invalidates the session of a key, and returns whether there was one. `session restore` undoes it.
    pub fn invalidate_session(
        &self,
        key: &Key,
        reason: &str,
        task: Option<&TaskId>,
        at: Time,
    ) -> Result<bool> {
        sessions::invalidate(&self.tx, key, reason, task, at)
            .map_err(self.failed("invalidating the session of the key"))
    }

    /// The ending of this task in the spool.
    pub fn spooled(&self, id: &TaskId) -> Result<Option<TaskEnd>> {
        spool::waiting_for(self.spool_dir, id)
    }

    /// As [`Ledger::finish`], within this claim.
    pub fn end(&self, id: &TaskId, ended: &TaskEnd, by: &str) -> Result<FinishOutcome> {
        let by = EndedBy { pid: std::process::id(), command: by };
        ending::end(&self.tx, self.dialect, id, ended, by)
            .and_then(|finished| step("mark.ended").map(|()| finished))
            .map_err(self.failed("ending a task"))
    }

    /// Invalidates the session of a key for a task that has been inserted. It is restored if the agent never
    /// executes.
    pub fn invalidate_session_for_start(
        &self,
        key: &Key,
        reason: &str,
        task: &TaskId,
        at: Time,
    ) -> Result<()> {
        let used = SessionUser { task, key: Some(key), provider: None, at };
        sessions::invalidate_for_start(&self.tx, &used, key, reason)
            .map_err(self.failed("invalidating the session of the key"))
    }

    /// Writes the `running` row.
    pub fn insert(&self, task: &NewTask, live: &LiveLock, by: &str) -> Result<()> {
        let clash = |e: &rusqlite::Error| e.sqlite_error_code() == Some(ErrorCode::ConstraintViolation);
        match tasks::insert(&self.tx, self.dialect, task, live, by) {
            Err(e) if clash(&e) => Err(if self.task(&task.id)?.is_some() {
                LedgerError::TaskExists { id: task.id.clone(), path: self.file.to_owned() }
            } else if let Some(key) = task.key.clone() {
                LedgerError::KeyBusy { key, path: self.file.to_owned() }
            } else {
                self.failed("writing the running row")(e)
            }),
            other => {
                other.and_then(|()| step("claim.inserted")).map_err(self.failed("writing the running row"))
            }
        }
    }

    /// Links a session to the key for a task that has been inserted. The session that it displaces is
    /// restored if the agent never executes.
    pub fn link_session(
        &self,
        key: &Key,
        provider: Option<&Provider>,
        session_id: &SessionId,
        task: &TaskId,
        at: Time,
    ) -> Result<()> {
        let used = SessionUser { task, key: Some(key), provider, at };
        sessions::link(&self.tx, &used, key, session_id)
            .and_then(|()| step("claim.linked"))
            .map_err(self.failed("linking the session"))
    }

    /// Reserves disk space for the ending of a task, before its row is committed.
    pub fn spool_slot(&self, id: &TaskId) -> Result<SpoolSlot> {
        SpoolSlot::reserve(self.spool_dir, id)
    }

    /// Commits all of it durably.
    pub fn commit(self) -> Result<()> {
        let (file, log) = (self.file, self.log);
        step("claim.commit")
            .and_then(|()| self.tx.commit())
            .and_then(|()| step("claim.committed"))
            .map_err(|e| log.error("committing the claim", file, e))
    }
}

impl Ledger {
    /// Takes the write lock: no other process changes the ledger until the claim is committed or dropped.
    pub fn claim(&mut self) -> Result<Claim<'_>> {
        self.check_files("claiming")?;
        let file = self.at.file.as_path();
        let tx = self
            .conn
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .and_then(|tx| step("claim.begun").map(|()| tx))
            .map_err(|e| database_error("claiming", file, e))?;
        Ok(Claim {
            tx,
            file,
            log: &self.log,
            dialect: &self.dialect,
            spool_dir: &self.spool_dir,
            live: &self.live,
            membership: &self.fleet,
            _silence: Silence::begin(),
        })
    }
}
