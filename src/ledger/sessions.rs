//! The sessions of keys: linked, invalidated and restored.

use rusqlite::{Connection, OptionalExtension, Row};
use serde::{Deserialize, Serialize};

use super::busy::BRIEF;
use super::dialect::{self, AnyText, AnyTime};
use super::error::{Result, step};
use super::handle::Ledger;
use super::tasks;
use crate::task::resume::{LastTask, SessionUse, SessionVeto};
use crate::task::{
    Key, Provider, RecordedTime, Session, SessionId, SessionInvalidation, SessionTrust, Status, Task, TaskId,
    Time,
};

const SELECT_SESSION: &str = "
    SELECT key, session_id, provider, last_used_at, task_id, trusted FROM claude_sdk_sessions WHERE key = ?1";
const SELECT_SESSIONS: &str = "
    SELECT key, session_id, provider, last_used_at, task_id, trusted FROM claude_sdk_sessions ORDER BY key";
pub const SELECT_UNTRUSTED: &str = "
    SELECT key, session_id, provider, last_used_at, task_id, trusted FROM claude_sdk_sessions
    WHERE trusted = 0";
const SELECT_IS_RESTORED: &str = "
    SELECT 1 FROM claude_sdk_sessions
    WHERE session_id IN (?1, kept_session(?2, ?1)) AND (provider IS ?2 OR provider IS NULL OR ?2 IS NULL)
      AND trusted = 2 AND task_id IS ?3";
const SELECT_SESSIONS_TO_END: &str = "
    SELECT key, session_id, provider, last_used_at, task_id, trusted FROM claude_sdk_sessions
    WHERE session_id IN (?1, kept_session(?2, ?1)) AND (provider IS ?2 OR provider IS NULL OR ?2 IS NULL)
    UNION
    SELECT key, session_id, provider, last_used_at, task_id, trusted FROM claude_sdk_sessions
    WHERE key = ?3 AND task_id = ?4";
const UPSERT_SESSION: &str = "
    INSERT INTO claude_sdk_sessions (key, session_id, provider, last_used_at, task_id, trusted)
    VALUES (?1, kept_session(?3, ?2), ?3, kept_time('claude_sdk_sessions.last_used_at', ?4), ?5, ?6)
    ON CONFLICT (key) DO UPDATE SET
        session_id = excluded.session_id,
        provider = excluded.provider,
        last_used_at = excluded.last_used_at,
        task_id = excluded.task_id,
        trusted = excluded.trusted";
const UPDATE_TRUSTED: &str = "UPDATE claude_sdk_sessions SET trusted = ?2 WHERE key = ?1";
const DELETE_SESSION: &str = "DELETE FROM claude_sdk_sessions WHERE key = ?1";
const INSERT_INVALIDATION: &str = "
    INSERT INTO session_invalidation (key, session_id, provider, task_id, reason, at, last_used_at)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
const SELECT_INVALIDATIONS_OF_TASK: &str = "
    SELECT id, key, session_id, provider, task_id, reason, at, restored_at, last_used_at
    FROM session_invalidation WHERE task_id = ?1 ORDER BY id";
const SELECT_INVALIDATIONS_OF_KEY: &str = "
    SELECT id, key, session_id, provider, task_id, reason, at, restored_at, last_used_at
    FROM session_invalidation WHERE key = ?1 ORDER BY id";
const UPDATE_ALL_RESTORED: &str = "
    UPDATE session_invalidation SET restored_at = ?3
    WHERE session_id = ?1 AND (provider IS ?2 OR provider IS NULL OR ?2 IS NULL)
      AND restored_at IS NULL AND reason <> 'replaced'";
const SELECT_IS_INVALIDATED: &str = "
    SELECT 1 FROM session_invalidation
    WHERE session_id = ?1 AND key = ?2 AND task_id = ?3 AND restored_at IS NULL AND reason <> 'replaced'";
/// A later success is that of a task inserted later, since clocks are set. A session that a user only did not
/// want to resume was not unsafe.
const SELECT_VETO: &str = "
    SELECT i.task_id, i.reason FROM session_invalidation i
    LEFT JOIN task_history u ON u.id = i.task_id
    WHERE i.session_id = ?1 AND (i.provider IS ?2 OR i.provider IS NULL OR ?2 IS NULL)
      AND i.restored_at IS NULL AND i.reason NOT IN ('replaced', 'fresh', 'no_transcript', 'other_agent',
                                                        'elsewhere')
      AND NOT EXISTS (
          SELECT 1 FROM task_history t
          WHERE t.session_id IN (?1, kept_session(?2, ?1)) AND t.status = 'success'
            AND (t.provider IS ?2 OR t.provider IS NULL OR ?2 IS NULL) AND t.rowid > u.rowid)
    ORDER BY i.id DESC LIMIT 1";
const SELECT_IS_CLOSED: &str = "
    SELECT 1 FROM session_invalidation WHERE session_id = ?1 AND task_id = ?2 AND reason <> 'replaced'";
const UPDATE_RESTORED: &str = "
    UPDATE session_invalidation SET restored_at = ?4
    WHERE task_id = ?1 AND key = ?2 AND session_id = ?3 AND restored_at IS NULL";
const UPDATE_TASK_SESSION: &str = "
    UPDATE task_history SET session_id = ?2 WHERE id = ?1 AND status = 'running'";
const UPDATE_FORMER: &str = "UPDATE task_history SET former_session = ?2 WHERE id = ?1";

/// The reason when a key gets another session.
const REPLACED: &str = "replaced";

/// The session row that a task displaced, stored with the task.
#[derive(Debug, Serialize, Deserialize)]
struct DisplacedSession {
    session_id: SessionId,
    provider: Option<Provider>,
    last_used_at: Option<RecordedTime>,
    task_id: Option<TaskId>,
    #[serde(default)]
    trusted: i64,
}

/// The use of a session by a task.
#[derive(Debug, Clone, Copy)]
pub struct SessionUser<'a> {
    pub task: &'a TaskId,
    pub key: Option<&'a Key>,
    pub provider: Option<&'a Provider>,
    pub at: Time,
}

pub fn of_key(conn: &Connection, key: &Key) -> rusqlite::Result<Option<Session>> {
    conn.query_row(SELECT_SESSION, [key], session_of_row).optional()
}

/// Every key's session, by key.
pub fn all(conn: &Connection) -> rusqlite::Result<Vec<Session>> {
    conn.prepare(SELECT_SESSIONS)?.query_map([], session_of_row)?.collect()
}

/// The sessions whose last task is not known to have succeeded.
pub fn untrusted(conn: &Connection) -> rusqlite::Result<Vec<Session>> {
    conn.prepare(SELECT_UNTRUSTED)?.query_map([], session_of_row)?.collect()
}

/// The last use of a session. `linked`: the task that the row of the key names as its last user.
pub fn last_use(
    conn: &Connection,
    provider: Option<&Provider>,
    session_id: &SessionId,
    linked: Option<&TaskId>,
) -> rusqlite::Result<SessionUse> {
    let mut task = tasks::running_with_session(conn, provider, session_id)?;
    if task.is_none() {
        task = tasks::last_user_of_session(conn, provider, session_id)?;
    }
    // A task of another program may not record its session. If it recorded another one, it did not use this
    // one.
    let linked = linked.map(|id| tasks::by_id(conn, id)).transpose()?.flatten();
    if let Some(linked) = linked.filter(|t| t.session_id.is_none()) {
        let is_newer = |t: &Task| t.status != Status::Running && linked.started_at > t.started_at;
        if task.as_ref().is_none_or(is_newer) {
            task = Some(linked);
        }
    }
    let user = task.as_ref().map(|t| &t.id);
    let holds = |sql| conn.query_row(sql, (session_id, provider, user), |_| Ok(())).optional();
    let mut restored = holds(SELECT_IS_RESTORED)?.is_some();
    let veto = |row: &Row<'_>| Ok(SessionVeto { task_id: row.get(0)?, reason: row.get(1)? });
    let veto = conn.query_row(SELECT_VETO, (session_id, provider), veto).optional()?;
    if let (None, Some(user), false) = (&veto, user, restored) {
        // The invalidation by the last task no longer holds, so the session was restored.
        restored = conn.query_row(SELECT_IS_CLOSED, (session_id, user), |_| Ok(())).optional()?.is_some();
    }
    Ok(SessionUse { session: session_id.clone(), last: task.map(LastTask::from), restored, veto })
}

pub fn invalidations_of_task(conn: &Connection, task: &TaskId) -> rusqlite::Result<Vec<SessionInvalidation>> {
    conn.prepare(SELECT_INVALIDATIONS_OF_TASK)?.query_map([task], invalidation_of_row)?.collect()
}

/// The invalidations of a key, oldest first.
pub fn invalidations_of_key(conn: &Connection, key: &Key) -> rusqlite::Result<Vec<SessionInvalidation>> {
    conn.prepare(SELECT_INVALIDATIONS_OF_KEY)?.query_map([key], invalidation_of_row)?.collect()
}

fn invalidation_of_row(row: &Row<'_>) -> rusqlite::Result<SessionInvalidation> {
    Ok(SessionInvalidation {
        id: row.get(0)?,
        key: row.get(1)?,
        session_id: row.get(2)?,
        provider: row.get(3)?,
        task_id: row.get(4)?,
        reason: row.get(5)?,
        at: row.get(6)?,
        restored_at: row.get(7)?,
        last_used_at: row.get(8)?,
    })
}

/// The result of restoring a session.
#[derive(Debug)]
pub enum RestoreOutcome {
    Done(Session),
    /// The key has no invalidated session.
    Nothing,
    /// This task is running under the key or with the session.
    InUse(TaskId),
    /// The key has another session now.
    Superseded(Session),
}

/// Restores the last invalidated session of `key` for an operator.
pub fn restore(conn: &Connection, key: &Key, at: Time) -> rusqlite::Result<RestoreOutcome> {
    if let Some(session) = of_key(conn, key)? {
        return Ok(RestoreOutcome::Superseded(session));
    }
    if let Some(task) = tasks::holder(conn, key)? {
        return Ok(RestoreOutcome::InUse(task.id));
    }
    let invalidated = invalidations_of_key(conn, key)?
        .into_iter()
        .rfind(|i| i.restored_at.is_none() && i.reason != REPLACED);
    let Some(i) = invalidated else { return Ok(RestoreOutcome::Nothing) };
    let provider = i.provider.as_ref();
    let last = last_use(conn, provider, &i.session_id, i.task_id.as_ref())?;
    if let Some(task) = last.running() {
        return Ok(RestoreOutcome::InUse(task.clone()));
    }
    let user = last.last.map(|t| t.id);
    conn.execute(
        UPSERT_SESSION,
        (key, &i.session_id, provider, &i.last_used_at, &user, SessionTrust::Operator.as_number()),
    )?;
    conn.execute(UPDATE_ALL_RESTORED, (&i.session_id, provider, at))?;
    Ok(of_key(conn, key)?.map_or(RestoreOutcome::Nothing, RestoreOutcome::Done))
}

/// Invalidates the session of a key, and returns whether there was one.
pub fn invalidate(
    conn: &Connection,
    key: &Key,
    reason: &str,
    task: Option<&TaskId>,
    at: Time,
) -> rusqlite::Result<bool> {
    let Some(session) = of_key(conn, key)? else {
        return Ok(false);
    };
    invalidate_session(conn, &session, reason, task, at)?;
    Ok(true)
}

pub fn invalidate_session(
    conn: &Connection,
    session: &Session,
    reason: &str,
    task: Option<&TaskId>,
    at: Time,
) -> rusqlite::Result<()> {
    conn.execute(DELETE_SESSION, [&session.key])?;
    record_invalidation(conn, session, reason, task, at)
}

fn record_invalidation(
    conn: &Connection,
    session: &Session,
    reason: &str,
    task: Option<&TaskId>,
    at: Time,
) -> rusqlite::Result<()> {
    conn.execute(
        INSERT_INVALIDATION,
        (&session.key, &session.session_id, &session.provider, task, reason, at, &session.last_used_at),
    )?;
    Ok(())
}

/// Links a session to the key for a task that starts, and records the displaced session with the task.
pub fn link(
    conn: &Connection,
    used: &SessionUser<'_>,
    key: &Key,
    session_id: &SessionId,
) -> rusqlite::Result<()> {
    if let Some(former) = of_key(conn, key)? {
        remember(conn, used, &former)?;
    }
    point(conn, used, key, session_id)
}

/// Invalidates the session of the key for a task that starts, and records it with the task.
pub fn invalidate_for_start(
    conn: &Connection,
    used: &SessionUser<'_>,
    key: &Key,
    reason: &str,
) -> rusqlite::Result<()> {
    let Some(former) = of_key(conn, key)? else { return Ok(()) };
    remember(conn, used, &former)?;
    invalidate_session(conn, &former, reason, Some(used.task), used.at)
}

fn remember(conn: &Connection, used: &SessionUser<'_>, former: &Session) -> rusqlite::Result<()> {
    let former = DisplacedSession {
        session_id: former.session_id.clone(),
        provider: former.provider.clone(),
        last_used_at: former.last_used_at.clone(),
        task_id: former.task_id.clone(),
        trusted: former.trust.as_number(),
    };
    conn.execute(UPDATE_FORMER, (used.task, serde_json::to_string(&former).ok()))?;
    Ok(())
}

/// Records the session that the agent reported, with the running task and with the key.
pub fn seen(conn: &Connection, used: &SessionUser<'_>, session_id: &SessionId) -> rusqlite::Result<bool> {
    if conn.execute(UPDATE_TASK_SESSION, (used.task, session_id))? == 0 {
        return Ok(false);
    }
    if let Some(key) = used.key {
        point(conn, used, key, session_id)?;
    }
    Ok(true)
}

/// Links the session and the task to the key, in place of another session.
fn point(
    conn: &Connection,
    used: &SessionUser<'_>,
    key: &Key,
    session_id: &SessionId,
) -> rusqlite::Result<()> {
    if let Some(former) = of_key(conn, key)?
        && former.session_id != *session_id
    {
        record_invalidation(conn, &former, REPLACED, Some(used.task), used.at)?;
    }
    conn.execute(
        UPSERT_SESSION,
        (key, session_id, used.provider, used.at, used.task, SessionTrust::None.as_number()),
    )?;
    Ok(())
}

/// Keeps the session after a success or with `--keep-session`, unless an operator invalidated it meanwhile.
/// The invalidation of a session in use names the task that uses it.
pub fn keep(
    conn: &Connection,
    used: &SessionUser<'_>,
    session_id: Option<&SessionId>,
) -> rusqlite::Result<()> {
    let (Some(key), Some(session_id)) = (used.key, session_id) else {
        return Ok(());
    };
    let invalidated =
        conn.query_row(SELECT_IS_INVALIDATED, (session_id, key, used.task), |_| Ok(())).optional()?;
    if invalidated.is_none() {
        point(conn, used, key, session_id)?;
        trust(conn, key, SessionTrust::Task)?;
    }
    Ok(())
}

/// Marks the session of the key as safe to resume.
pub fn trust(conn: &Connection, key: &Key, trust: SessionTrust) -> rusqlite::Result<()> {
    conn.execute(UPDATE_TRUSTED, (key, trust.as_number()))?;
    Ok(())
}

/// Invalidates the session of a run that did not succeed, under every key that names it, and returns it.
pub fn end_badly(
    conn: &Connection,
    used: &SessionUser<'_>,
    session_id: Option<&SessionId>,
    reason: &str,
) -> rusqlite::Result<Option<SessionId>> {
    let named: Vec<Session> = conn
        .prepare(SELECT_SESSIONS_TO_END)?
        .query_map((session_id, used.provider, used.key, used.task), session_of_row)?
        .collect::<rusqlite::Result<_>>()?;
    for session in &named {
        invalidate_session(conn, session, reason, Some(used.task), used.at)?;
    }
    match session_id {
        Some(id) if !named.iter().any(|s| s.session_id == *id) => {
            // No key names it; the invalidation is recorded all the same.
            conn.execute(
                INSERT_INVALIDATION,
                (used.key, id, used.provider, used.task, reason, used.at, None::<&str>),
            )?;
            Ok(Some(id.to_owned()))
        }
        Some(id) => Ok(Some(id.to_owned())),
        None => Ok(named.into_iter().next().map(|s| s.session_id)),
    }
}

/// Restores the session that the link displaced: the agent never executed, so no session was used.
pub fn unlink(conn: &Connection, used: &SessionUser<'_>, former: Option<&str>) -> rusqlite::Result<()> {
    let Some(key) = used.key else {
        return Ok(());
    };
    // A link that another task has made since stays.
    if of_key(conn, key)?.is_some_and(|s| s.task_id.as_ref() != Some(used.task)) {
        return Ok(());
    }
    match former.and_then(|json| serde_json::from_str::<DisplacedSession>(json).ok()) {
        Some(f) => {
            conn.execute(
                UPSERT_SESSION,
                (key, &f.session_id, &f.provider, &f.last_used_at, &f.task_id, f.trusted),
            )?;
            conn.execute(UPDATE_RESTORED, (used.task, key, &f.session_id, used.at))?;
        }
        None => {
            conn.execute(DELETE_SESSION, [key])?;
        }
    }
    Ok(())
}

pub fn session_of_row(row: &Row<'_>) -> rusqlite::Result<Session> {
    let session_id = row.get::<_, AnyText>(1)?.0.unwrap_or_default();
    Ok(Session {
        key: row.get(0)?,
        session_id: SessionId::recorded(dialect::bare(&session_id)),
        provider: row.get(2)?,
        last_used_at: row.get::<_, AnyTime>(3)?.0,
        task_id: row.get(4)?,
        trust: SessionTrust::from_number(row.get(5)?),
    })
}

impl Ledger {
    /// Records the session that the agent reported, durably, with the task and with the key, in place of
    /// another session. Ended tasks are not changed. Waits for a locked ledger as briefly as
    /// [`Ledger::progress`].
    pub fn session_seen(
        &mut self,
        task: &TaskId,
        key: Option<&Key>,
        provider: Option<&Provider>,
        session_id: &SessionId,
        at: Time,
    ) -> Result<()> {
        let used = SessionUser { task, key, provider, at };
        self.briefly(BRIEF, |ledger| {
            ledger.in_transaction("writing a task's session", |conn| {
                seen(conn, &used, session_id)?;
                step("session.written")
            })
        })?;
        step("session.committed").map_err(self.failed("writing a task's session"))
    }

    pub fn session_of_key(&self, key: &Key) -> Result<Option<Session>> {
        of_key(self.conn(), key).map_err(self.failed("reading the session of the key"))
    }

    /// The sessions that the start or the end of a task invalidated.
    pub fn invalidations_of_task(&self, id: &TaskId) -> Result<Vec<SessionInvalidation>> {
        invalidations_of_task(self.conn(), id)
            .map_err(self.failed("reading the invalidated sessions of a task"))
    }
}
