//! Ending a task: the terminal row, its session and its transition, in one transaction.

use jiff::SignedDuration;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, named_params};

use super::dialect::Dialect;
use super::error::{Result, step};
use super::handle::Ledger;
use super::row;
use super::sessions::{self, SessionUser};
use super::statement::execute;
use super::tasks::{self, StatusChange};
use crate::exit::Exit;
use crate::task::{EndSource, Ending, KeepSession, Key, Provider, SessionId, Status, TaskEnd, TaskId, Time};

const SELECT_OPEN: &str = "
    SELECT status, key, provider, session_id, former_session, retention_secs
    FROM task_history WHERE id = ?1";
const SELECT_ENDED: &str = "
    SELECT status, reason, finished_at IS kept_time('task_history.finished_at', ?2), end_source
    FROM task_history WHERE id = ?1";
const UPDATE_ENDED: &str = "
    UPDATE task_history SET
        status = :status,
        reason = :reason,
        error = :error,
        finished_at = :finished_at,
        last_seen_at = coalesce(:last_seen_at, last_seen_at),
        duration_ms = :duration_ms,
        cost_usd = coalesce(:cost_usd, cost_usd),
        session_cost_usd = coalesce(:session_cost_usd, session_cost_usd),
        session_tokens = coalesce(:session_tokens, session_tokens),
        turns = coalesce(:turns, turns),
        input_tokens = coalesce(:input_tokens, input_tokens),
        output_tokens = coalesce(:output_tokens, output_tokens),
        cache_read_tokens = coalesce(:cache_read_tokens, cache_read_tokens),
        cache_creation_tokens = coalesce(:cache_creation_tokens, cache_creation_tokens),
        model = coalesce(:model, model),
        session_id = :session_id,
        exit_code = :exit_code,
        term_signal = :term_signal,
        stop_signal = :stop_signal,
        stop_sender_pid = :stop_sender_pid,
        stop_sender_uid = :stop_sender_uid,
        end_source = :end_source,
        tool_in_flight = CASE WHEN :end_source = 'recovery' THEN tool_in_flight ELSE :tool_in_flight END,
        context_lost = CASE WHEN :context_lost THEN 1 ELSE context_lost END,
        transcript_seen = :transcript_seen,
        session_kept = :session_kept,
        limit_resets_at = :limit_resets_at,
        oom_killed = :oom_killed,
        cpu_ms = :cpu_ms,
        max_rss_kib = :max_rss_kib,
        leftovers = :leftovers,
        delivery_status = CASE WHEN on_finish IS NOT NULL THEN 'pending' END,
        cleanup_after = :cleanup_after
    WHERE id = :id AND status = 'running'";

/// The result of ending a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FinishOutcome {
    Done {
        /// The session that was invalidated.
        invalidated: Option<SessionId>,
    },
    /// It had already ended; nothing was changed.
    AlreadyTerminal(Status),
    /// The row does not exist.
    NoRow,
}

/// The process that ends a task, for `task_transition`.
#[derive(Debug, Clone, Copy)]
pub struct EndedBy<'a> {
    pub pid: u32,
    pub command: &'a str,
}

struct Open {
    status: Status,
    key: Option<Key>,
    provider: Option<Provider>,
    session_id: Option<SessionId>,
    former_session: Option<String>,
    retention_secs: Option<i64>,
}

/// Ends a task, in the transaction of the caller.
pub fn end(
    conn: &Connection,
    dialect: &Dialect,
    id: &TaskId,
    ended: &TaskEnd,
    by: EndedBy<'_>,
) -> rusqlite::Result<FinishOutcome> {
    let open = conn
        .prepare_cached(SELECT_OPEN)?
        .query_row([id], |row| {
            Ok(Open {
                status: row::status_of(&row.get::<_, String>(0)?),
                key: row.get(1)?,
                provider: row.get(2)?,
                session_id: row.get(3)?,
                former_session: row.get(4)?,
                retention_secs: row.get(5)?,
            })
        })
        .optional()?;
    let Some(open) = open else {
        return Ok(FinishOutcome::NoRow);
    };
    if !open.status.may_become(ended.ending.status()) {
        return Ok(FinishOutcome::AlreadyTerminal(open.status));
    }
    let at = ended.finished_at.unwrap_or_else(Time::now);
    let session_id = ended.session_id.as_ref().or(open.session_id.as_ref());
    update(conn, dialect, id, ended, &open, session_id, at)?;
    step("end.updated")?;
    let used = SessionUser { task: id, key: open.key.as_ref(), provider: open.provider.as_ref(), at };
    let mut invalidated = None;
    if !ended.executed {
        sessions::unlink(conn, &used, open.former_session.as_deref())?;
    } else if ended.ending == Ending::Success || ended.session_kept.is_some() {
        sessions::keep(conn, &used, session_id)?;
    } else if ended.ending != Ending::Backgrounded {
        invalidated = sessions::end_badly(conn, &used, session_id, &invalidation_reason(&ended.ending))?;
    }
    let change =
        StatusChange { from: Some(open.status), to: ended.ending.status(), reason: ended.ending.reason() };
    tasks::record_move(conn, id, at, &change, by.pid, by.command)?;
    Ok(FinishOutcome::Done { invalidated })
}

fn update(
    conn: &Connection,
    dialect: &Dialect,
    id: &TaskId,
    ended: &TaskEnd,
    open: &Open,
    session_id: Option<&SessionId>,
    at: Time,
) -> rusqlite::Result<()> {
    let (exit_code, term_signal) = match ended.exit {
        Some(Exit::Code(code)) => (Some(code), None),
        Some(Exit::Signal(signal)) => (None, Some(signal)),
        None => (None, None),
    };
    let finished_at = ended.finished_at.map(|t| dialect.time("task_history.finished_at", t));
    let values = named_params! {
        ":status": ended.ending.status().as_str(),
        ":reason": ended.ending.reason(),
        ":error": ended.error,
        ":finished_at": finished_at,
        ":last_seen_at": ended.finished_at,
        ":duration_ms": ended.duration_ms,
        ":cost_usd": ended.counts.cost_usd,
        ":session_cost_usd": ended.session_totals.cost_usd,
        ":session_tokens": ended.session_totals.tokens,
        ":turns": ended.counts.turns,
        ":input_tokens": ended.counts.input_tokens,
        ":output_tokens": ended.counts.output_tokens,
        ":cache_read_tokens": ended.counts.cache_read_tokens,
        ":cache_creation_tokens": ended.counts.cache_creation_tokens,
        ":model": ended.model,
        // A task whose agent never executed used no session, so its failure invalidates none.
        ":session_id": session_id.filter(|_| ended.executed),
        ":exit_code": exit_code,
        ":term_signal": term_signal,
        ":stop_signal": ended.stop_signal,
        ":stop_sender_pid": ended.stop_sender.map(|s| s.pid),
        ":stop_sender_uid": ended.stop_sender.map(|s| s.uid),
        ":end_source": ended.source.as_str(),
        ":tool_in_flight": ended.tool_in_flight,
        ":context_lost": ended.context_lost,
        ":transcript_seen": ended.transcript_seen,
        ":session_kept": ended.session_kept.map(KeepSession::as_str),
        ":limit_resets_at": ended.limit_resets_at,
        ":oom_killed": ended.oom_killed,
        ":cpu_ms": ended.cpu_ms,
        ":max_rss_kib": ended.max_rss_kib,
        ":leftovers": ended.leftovers,
        ":cleanup_after": open.retention_secs.map(|secs| at.plus(SignedDuration::from_secs(secs))),
        ":id": id,
    };
    execute(&mut *conn.prepare_cached(UPDATE_ENDED)?, values).map(drop)
}

/// Prepares the statements of [`end`].
pub fn expect(conn: &Connection) -> rusqlite::Result<()> {
    [SELECT_OPEN, UPDATE_ENDED].iter().try_for_each(|sql| conn.prepare_cached(sql).map(drop))
}

/// Whether the row already has this ending: from the spool, or from a commit that was reported as failed and
/// had succeeded.
pub fn is_merged(conn: &Connection, id: &TaskId, ended: &TaskEnd) -> rusqlite::Result<bool> {
    type Words = (String, Option<String>, bool, Option<String>);
    let row: Option<Words> = conn
        .query_row(SELECT_ENDED, (id, &ended.finished_at), |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })
        .optional()?;
    Ok(row.is_some_and(|(status, reason, is_same_time, source)| {
        status == ended.ending.status().as_str()
            && reason.as_deref() == ended.ending.reason()
            && is_same_time
            && source.as_deref() != Some(EndSource::Recovery.as_str())
    }))
}

/// The reason recorded with an invalidated session.
fn invalidation_reason(ending: &Ending) -> String {
    match ending.reason() {
        Some(reason) => format!("{}: {reason}", ending.status()),
        None => ending.status().to_string(),
    }
}

impl Ledger {
    /// Prepares [`Ledger::finish`], so that it takes less time.
    pub fn expect_end(&self) {
        // Errors are reported by `finish`, where they occur again.
        if self.check_files("preparing to end a task").is_ok() {
            let _ = expect(&self.conn);
        }
    }

    /// Ends a running task: its terminal row, its session and its transition, in one commit. `by` is the
    /// command that ends it.
    pub fn finish(&mut self, id: &TaskId, ended: &TaskEnd, by: &str) -> Result<FinishOutcome> {
        let by = EndedBy { pid: std::process::id(), command: by };
        let dialect = Arc::clone(&self.dialect);
        let finished = self.in_transaction("ending a task", |conn| {
            step("end.begun")?;
            let finished = end(conn, &dialect, id, ended, by)?;
            step("end.written").map(|()| finished)
        })?;
        step("end.committed").map(|()| finished).map_err(self.failed("ending a task"))
    }
}
