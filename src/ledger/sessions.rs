//! Which conversation a key continues, and which ones may never be continued.

use rusqlite::{Connection, OptionalExtension, Row};
use serde::{Deserialize, Serialize};

use super::dialect::{self, AnyText, AnyTime};
use crate::task::{Invalidation, Session};

const SELECT_SESSION: &str = "
    SELECT key, session_id, provider, last_used_at, task_id FROM claude_sdk_sessions WHERE key = ?1";
const SELECT_SESSIONS_TO_END: &str = "
    SELECT key, session_id, provider, last_used_at, task_id FROM claude_sdk_sessions
    WHERE session_id IN (?1, kept_session(?2, ?1)) AND (provider IS ?2 OR provider IS NULL OR ?2 IS NULL)
    UNION
    SELECT key, session_id, provider, last_used_at, task_id FROM claude_sdk_sessions
    WHERE key = ?3 AND task_id = ?4";
const UPSERT_SESSION: &str = "
    INSERT INTO claude_sdk_sessions (key, session_id, provider, last_used_at, task_id)
    VALUES (?1, kept_session(?3, ?2), ?3, kept_time('claude_sdk_sessions.last_used_at', ?4), ?5)
    ON CONFLICT (key) DO UPDATE SET
        session_id = excluded.session_id,
        provider = excluded.provider,
        last_used_at = excluded.last_used_at,
        task_id = excluded.task_id";
const DELETE_SESSION: &str = "DELETE FROM claude_sdk_sessions WHERE key = ?1";
const INSERT_INVALIDATION: &str = "
    INSERT INTO session_invalidation (key, session_id, provider, task_id, reason, at, last_used_at)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
const SELECT_INVALIDATIONS_OF_TASK: &str = "
    SELECT id, key, session_id, provider, task_id, reason, at, restored_at, last_used_at
    FROM session_invalidation WHERE task_id = ?1 ORDER BY id";
const SELECT_IS_WITHDRAWN: &str = "
    SELECT 1 FROM session_invalidation
    WHERE session_id = ?1 AND key = ?2 AND at >= ?3 AND restored_at IS NULL AND reason <> 'replaced'";
const UPDATE_RESTORED: &str = "
    UPDATE session_invalidation SET restored_at = ?4
    WHERE task_id = ?1 AND key = ?2 AND session_id = ?3 AND reason = 'replaced' AND restored_at IS NULL";
const UPDATE_TASK_SESSION: &str = "
    UPDATE task_history SET session_id = ?2 WHERE id = ?1 AND status = 'running'";
const UPDATE_FORMER: &str = "UPDATE task_history SET former_session = ?2 WHERE id = ?1";

/// Why a session row gave way to another one of the same key.
const REPLACED: &str = "replaced";

/// The session row that a task's link displaced, kept in the task's row.
#[derive(Debug, Serialize, Deserialize)]
struct Former {
    session_id: String,
    provider: Option<String>,
    last_used_at: Option<String>,
    task_id: Option<String>,
}

/// A conversation as a task uses it.
#[derive(Debug, Clone, Copy)]
pub struct Used<'a> {
    pub task: &'a str,
    pub key: Option<&'a str>,
    pub provider: Option<&'a str>,
    pub at: &'a str,
}

pub fn of_key(conn: &Connection, key: &str) -> rusqlite::Result<Option<Session>> {
    conn.query_row(SELECT_SESSION, [key], session_of_row).optional()
}

pub fn invalidations_of_task(conn: &Connection, task: &str) -> rusqlite::Result<Vec<Invalidation>> {
    conn.prepare(SELECT_INVALIDATIONS_OF_TASK)?
        .query_map([task], |row| {
            Ok(Invalidation {
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
        })?
        .collect()
}

/// Takes the session of a key out of use. Whether there was one.
pub fn invalidate(
    conn: &Connection,
    key: &str,
    reason: &str,
    task: Option<&str>,
    at: &str,
) -> rusqlite::Result<bool> {
    let Some(session) = of_key(conn, key)? else {
        return Ok(false);
    };
    withdraw(conn, &session, reason, task, at)?;
    Ok(true)
}

fn withdraw(
    conn: &Connection,
    session: &Session,
    reason: &str,
    task: Option<&str>,
    at: &str,
) -> rusqlite::Result<()> {
    conn.execute(DELETE_SESSION, [&session.key])?;
    record_invalidation(conn, session, reason, task, at)
}

fn record_invalidation(
    conn: &Connection,
    session: &Session,
    reason: &str,
    task: Option<&str>,
    at: &str,
) -> rusqlite::Result<()> {
    conn.execute(
        INSERT_INVALIDATION,
        (&session.key, &session.session_id, &session.provider, task, reason, at, &session.last_used_at),
    )?;
    Ok(())
}

/// Gives the key's session to a task that starts, and remembers in the task's row what was there before.
pub fn link(conn: &Connection, used: &Used<'_>, key: &str, session_id: &str) -> rusqlite::Result<()> {
    if let Some(former) = of_key(conn, key)? {
        let former = Former {
            session_id: former.session_id,
            provider: former.provider,
            last_used_at: former.last_used_at,
            task_id: former.task_id,
        };
        conn.execute(UPDATE_FORMER, (used.task, serde_json::to_string(&former).ok()))?;
    }
    point(conn, used, key, session_id)
}

/// The agent has named its session: the running row knows it from now on, and so does the key.
pub fn seen(conn: &Connection, used: &Used<'_>, session_id: &str) -> rusqlite::Result<bool> {
    if conn.execute(UPDATE_TASK_SESSION, (used.task, session_id))? == 0 {
        return Ok(false);
    }
    if let Some(key) = used.key {
        point(conn, used, key, session_id)?;
    }
    Ok(true)
}

/// The key names this session and this task; another session that it named gives way.
fn point(conn: &Connection, used: &Used<'_>, key: &str, session_id: &str) -> rusqlite::Result<()> {
    if let Some(former) = of_key(conn, key)?
        && former.session_id != session_id
    {
        record_invalidation(conn, &former, REPLACED, Some(used.task), used.at)?;
    }
    conn.execute(UPSERT_SESSION, (key, session_id, used.provider, used.at, used.task))?;
    Ok(())
}

/// The run succeeded: its key goes on with this session, unless an operator withdrew it meanwhile.
pub fn keep(
    conn: &Connection,
    used: &Used<'_>,
    session_id: Option<&str>,
    started_at: &str,
) -> rusqlite::Result<()> {
    let (Some(key), Some(session_id)) = (used.key, session_id) else {
        return Ok(());
    };
    let withdrawn =
        conn.query_row(SELECT_IS_WITHDRAWN, (session_id, key, started_at), |_| Ok(())).optional()?;
    if withdrawn.is_none() {
        point(conn, used, key, session_id)?;
    }
    Ok(())
}

/// The run did not succeed: its session is withdrawn from every key that names it. Which session, if any.
pub fn end_badly(
    conn: &Connection,
    used: &Used<'_>,
    session_id: Option<&str>,
    reason: &str,
) -> rusqlite::Result<Option<String>> {
    let named: Vec<Session> = conn
        .prepare(SELECT_SESSIONS_TO_END)?
        .query_map((session_id, used.provider, used.key, used.task), session_of_row)?
        .collect::<rusqlite::Result<_>>()?;
    for session in &named {
        withdraw(conn, session, reason, Some(used.task), used.at)?;
    }
    match session_id {
        Some(id) if !named.iter().any(|s| s.session_id == id) => {
            // No key names it; that it is not to be resumed is recorded all the same.
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

/// The agent never executed, so nothing was said to any session: what the link displaced comes back.
pub fn unlink(conn: &Connection, used: &Used<'_>, former: Option<&str>) -> rusqlite::Result<()> {
    let Some(key) = used.key else {
        return Ok(());
    };
    let linked = of_key(conn, key)?.filter(|s| s.task_id.as_deref() == Some(used.task));
    if linked.is_none() {
        return Ok(());
    }
    match former.and_then(|json| serde_json::from_str::<Former>(json).ok()) {
        Some(f) => {
            conn.execute(UPSERT_SESSION, (key, &f.session_id, &f.provider, &f.last_used_at, &f.task_id))?;
            conn.execute(UPDATE_RESTORED, (used.task, key, &f.session_id, used.at))?;
        }
        None => {
            conn.execute(DELETE_SESSION, [key])?;
        }
    }
    Ok(())
}

fn session_of_row(row: &Row<'_>) -> rusqlite::Result<Session> {
    let session_id = row.get::<_, AnyText>(1)?.0.unwrap_or_default();
    Ok(Session {
        key: row.get(0)?,
        session_id: dialect::bare(&session_id).to_owned(),
        provider: row.get::<_, AnyText>(2)?.0,
        last_used_at: row.get::<_, AnyTime>(3)?.0,
        task_id: row.get::<_, AnyText>(4)?.0,
    })
}
