//! Work that remains after tasks have ended: hooks, reports and unsafe sessions.

use rusqlite::{Connection, OptionalExtension};
use serde::Serialize;

use super::error::{LedgerError, Result, step};
use super::handle::Ledger;
use super::tasks::{self, DeliveryStatus};
use super::{sessions, spool};
use crate::task::resume::SessionUse;
use crate::task::{Key, Session, SessionId, SessionInvalidation, SessionTrust, Task, TaskId, Time};

const UPDATE_BEGIN_DELIVERY: &str = "
    UPDATE task_history SET delivery_status = 'delivering', delivery_attempts = delivery_attempts + 1
    WHERE id = ?1 AND delivery_status = ?2 AND delivery_attempts = ?3
    RETURNING delivery_attempts";
const UPDATE_HINTED: &str = "
    UPDATE task_history SET hinted_at = ?2
    WHERE id = ?1 AND status = 'interrupted' AND hinted_at IS NULL";
const UPDATE_BEGIN_HINT: &str = "
    UPDATE task_history SET hint_attempts = hint_attempts + 1
    WHERE id = ?1 AND status = 'interrupted' AND hinted_at IS NULL
    RETURNING hint_attempts";
const UPDATE_TAKE_BACK_HINT: &str = "
    UPDATE task_history SET hint_attempts = hint_attempts - 1 WHERE id = ?1 AND hint_attempts > 0";
const UPDATE_RUNNING_ERROR: &str = "
    UPDATE task_history SET error = ?2 WHERE id = ?1 AND status = 'running'";

/// A session that must not be resumed, since its last task did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnsafeSession {
    pub key: Key,
    pub session_id: SessionId,
    pub why: String,
}

impl Ledger {
    /// The ended tasks whose `--on-finish` command has not run, or whose end was not recorded.
    pub fn undelivered(&self) -> Result<Vec<Task>> {
        tasks::undelivered(self.conn()).map_err(self.failed("looking for undelivered ends"))
    }

    /// Claims the delivery of a task's end, and returns the number of the attempt. `None`: another process
    /// has claimed it.
    pub fn begin_delivery(&mut self, task: &Task) -> Result<Option<i64>> {
        let was = task.delivery_status.as_deref();
        self.in_transaction("claiming a delivery", |conn| {
            conn.query_row(UPDATE_BEGIN_DELIVERY, (&task.id, was, task.delivery_attempts), |row| row.get(0))
                .optional()
        })
    }

    /// Records the result of `--on-finish`. `failed`: how it failed.
    pub fn delivery(
        &mut self,
        id: &TaskId,
        state: DeliveryStatus,
        failed: Option<&str>,
        at: Time,
    ) -> Result<()> {
        self.check_files("recording a delivery")?;
        match step("delivery.record").and_then(|()| tasks::delivery(self.conn(), id, state, failed, at)) {
            Ok(true) => Ok(()),
            Ok(false) => Err(LedgerError::NoSuchTask { id: id.to_owned(), path: self.at.file.clone() }),
            Err(e) => Err(self.failed("recording a delivery")(e)),
        }
    }

    /// The interrupted tasks that were not reported yet, oldest first.
    pub fn unhinted(&self) -> Result<Vec<Task>> {
        tasks::unhinted(self.conn()).map_err(self.failed("looking for interrupted tasks"))
    }

    /// Records that the report of an interrupted task is about to be passed to a command, and returns the
    /// number of the attempt. `None`: it was reported meanwhile.
    pub fn begin_hint(&mut self, id: &TaskId) -> Result<Option<i64>> {
        self.in_transaction("claiming a report", |conn| {
            conn.query_row(UPDATE_BEGIN_HINT, [id], |row| row.get(0)).optional()
        })
    }

    /// Undoes [`Ledger::begin_hint`] for an attempt that bookend itself interrupted.
    pub fn take_back_hint(&mut self, id: &TaskId) -> Result<()> {
        self.conn().execute(UPDATE_TAKE_BACK_HINT, [id]).map_err(self.failed("taking back a report"))?;
        Ok(())
    }

    /// Records, in one commit, that these interrupted tasks were reported.
    pub fn hinted(&mut self, ids: &[TaskId], at: Time) -> Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        self.in_transaction("recording reports", |conn| {
            let mut update = conn.prepare_cached(UPDATE_HINTED)?;
            ids.iter().try_for_each(|id| update.execute((id, at)).map(drop))
        })
    }

    /// The tasks that have a slot in the spool.
    pub fn slots(&self) -> Result<Vec<TaskId>> {
        spool::slots(&self.spool_dir)
    }

    /// Removes the slots of these tasks, unless they run.
    pub fn remove_slots(&mut self, ids: &[TaskId]) -> Result<()> {
        let dir = self.spool_dir.clone();
        // While this process holds the write lock, no process is between reserving a slot and committing its
        // task.
        let removed: Result<()> = self.in_transaction("sweeping the spool", |conn| {
            for id in ids {
                let is_over = tasks::by_id(conn, id)?.is_none_or(|task| task.status.is_terminal());
                if is_over && let Err(e) = spool::clear(&dir, id, false) {
                    return Ok(Err(e));
                }
            }
            Ok(Ok(()))
        })?;
        removed
    }

    /// Records with a running task why it could not be settled.
    pub fn note_error(&mut self, id: &TaskId, error: &str) -> Result<()> {
        self.conn()
            .execute(UPDATE_RUNNING_ERROR, (id, error))
            .map_err(self.failed("noting why a task could not be settled"))?;
        Ok(())
    }

    /// Every key's session, by key.
    pub fn sessions(&self) -> Result<Vec<Session>> {
        sessions::all(self.conn()).map_err(self.failed("reading the sessions"))
    }

    /// The running task under a key.
    pub fn holder(&self, key: &Key) -> Result<Option<Task>> {
        tasks::holder(self.conn(), key).map_err(self.failed("looking for the holder of the key"))
    }

    /// The last use of a key's session.
    pub fn last_use(&self, session: &Session) -> Result<SessionUse> {
        last_use(self.conn(), session).map_err(self.failed("looking for the last user of a session"))
    }

    /// The invalidations of a key, oldest first.
    pub fn invalidations_of_key(&self, key: &Key) -> Result<Vec<SessionInvalidation>> {
        sessions::invalidations_of_key(self.conn(), key)
            .map_err(self.failed("reading the invalidated sessions of a key"))
    }

    /// Restores the last invalidated session of a key for an operator.
    pub fn restore_session(&mut self, key: &Key, at: Time) -> Result<sessions::RestoreOutcome> {
        self.in_transaction("restoring a session", |conn| sessions::restore(conn, key, at))
    }

    /// The sessions that are unsafe now, whichever program wrote them. Sessions of running tasks are not.
    pub fn unsafe_sessions(&self) -> Result<Vec<UnsafeSession>> {
        let judge = || sessions::untrusted(self.conn())?.iter().map(|s| judge(self.conn(), s)).collect();
        let verdicts: rusqlite::Result<Vec<_>> = judge();
        let verdicts = verdicts.map_err(self.failed("looking for unsafe sessions"))?;
        Ok(verdicts
            .into_iter()
            .filter_map(|v| if let SessionVerdict::Unsafe(w) = v { Some(w) } else { None })
            .collect())
    }

    /// Invalidates every unsafe session.
    pub fn invalidate_unsafe_sessions(&mut self, at: Time) -> Result<Vec<UnsafeSession>> {
        // Usually there is none: then other writers do not have to wait.
        let any = sessions::untrusted(self.conn()).map_err(self.failed("looking for unsafe sessions"))?;
        if any.is_empty() {
            return Ok(Vec::new());
        }
        self.in_transaction("invalidating unsafe sessions", |conn| {
            let mut invalidated = Vec::new();
            for session in sessions::untrusted(conn)? {
                match judge(conn, &session)? {
                    SessionVerdict::Running => {}
                    SessionVerdict::Safe => sessions::trust(conn, &session.key, SessionTrust::Task)?,
                    SessionVerdict::Unsafe(w) => {
                        sessions::invalidate_session(conn, &session, &w.why, session.task_id.as_ref(), at)?;
                        invalidated.push(w);
                    }
                }
            }
            step("sessions.withdrawn").map(|()| invalidated)
        })
    }
}

enum SessionVerdict {
    Safe,
    Running,
    Unsafe(UnsafeSession),
}

fn judge(conn: &Connection, session: &Session) -> rusqlite::Result<SessionVerdict> {
    let last = last_use(conn, session)?;
    if last.may_be_resumed() {
        return Ok(SessionVerdict::Safe);
    }
    if last.running().is_some() {
        return Ok(SessionVerdict::Running);
    }
    let why = last.why_not();
    let (key, session_id) = (session.key.clone(), session.session_id.clone());
    Ok(SessionVerdict::Unsafe(UnsafeSession { key, session_id, why }))
}

fn last_use(conn: &Connection, session: &Session) -> rusqlite::Result<SessionUse> {
    let provider = session.provider.as_ref();
    sessions::last_use(conn, provider, &session.session_id, session.task_id.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_untrusted_sessions_are_read() {
        let conn = Connection::open_in_memory().unwrap();
        super::super::schema::make_tables(&conn).unwrap();
        let sql = format!("EXPLAIN QUERY PLAN {}", sessions::SELECT_UNTRUSTED);
        let plan: String = conn.query_row(&sql, [], |row| row.get(3)).unwrap();
        assert!(plan.contains("claude_sdk_sessions_untrusted"), "{plan}");
    }
}
