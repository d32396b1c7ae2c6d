//! Reading a row of `task_history` as a task.

use std::cmp::Ordering;

use rusqlite::Row;
use rusqlite::types::Value;
use serde_json::Value as Json;

use super::dialect::{self, AnyInteger, AnyReal, AnyText, AnyTime};
use crate::task::{SessionId, Status, Task, TaskId};

/// The columns in the order in which [`task_of_row`] reads them. Of a text longer than 1 MiB only the length
/// is read, which SQLite knows without reading the text. A column that bookend acts on counts as missing
/// then.
macro_rules! select {
    (@text $column:literal) => {
        concat!(
            "iif(octet_length(", $column, ") > 1048576,
                 '(' || octet_length(", $column, ") || ' bytes, too long to be read)', ", $column, "), "
        )
    };
    (@data $column:literal) => {
        concat!("iif(octet_length(", $column, ") > 1048576, NULL, ", $column, "), ")
    };
    (@columns) => {
        concat!(
            "id, ",
            select!(@text "key"),
            select!(@text "repo"),
            "issue_number, user, ",
            select!(@text "agent"),
            "agent_type, ",
            select!(@text "model"),
            "provider, status, ",
            select!(@text "reason"),
            select!(@text "error"),
            "started_at, finished_at, duration_ms, cost_usd, session_cost_usd, session_tokens, turns, ",
            "input_tokens, output_tokens, cache_read_tokens, cache_creation_tokens, ",
            select!(@text "artifacts"),
            select!(@data "session_id"),
            "resumed_from, ",
            select!(@text "argv"),
            select!(@text "cwd"),
            "live_slot, live_dev, live_ino, host, boot_id, pid_ns, supervisor_pid, ",
            "supervisor_start, supervisor_pidfd, agent_pid, agent_start, agent_pidfd, ",
            "agent_released_at, cgroup, exit_code, term_signal, stop_signal, stop_sender_pid, ",
            "stop_sender_uid, end_source, last_seen_at, oom_killed, cpu_ms, max_rss_kib, ",
            select!(@data "on_finish"),
            "delivery_status, delivery_attempts, delivered_at, retention_secs, cleanup_after, ",
            "hinted_at, hint_attempts, ",
            select!(@data "user_argv"),
            select!(@data "run_options"),
            select!(@text "leftovers"),
            "parent_id, oom_kills_before, ",
            select!(@text "tool_in_flight"),
            "context_lost, session_untracked, transcript_seen, tokens_scope, session_kept, ",
            "limit_resets_at, replaces, delivery_error"
        )
    };
    // With the place of each row in the order of a list, see [`Place`].
    (@placed $($rest:expr),+) => {
        concat!("SELECT ", select!(@columns), ", started_at, rowid FROM task_history ", $($rest),+)
    };
    ($($rest:expr),+) => {
        concat!("SELECT ", select!(@columns), " FROM task_history ", $($rest),+)
    };
}
pub(super) use select;

/// The place of a task in a list by start time.
#[derive(Debug, Clone, PartialEq)]
pub struct Place {
    /// As stored: text, or a number in an adopted file.
    pub started_at: Value,
    pub rowid: i64,
}

/// A row of `select!(@placed …)`.
pub fn placed_task_of_row(row: &Row<'_>) -> rusqlite::Result<(Place, Task)> {
    let columns = row.as_ref().column_count();
    let place = Place { started_at: row.get(columns - 2)?, rowid: row.get(columns - 1)? };
    Ok((place, task_of_row(row)?))
}

impl Place {
    /// SQLite's order of times, then of rows.
    pub fn order(&self, other: &Place) -> Ordering {
        let number = |value: &Value| match value {
            Value::Integer(n) => Some(*n as f64),
            Value::Real(n) => Some(*n),
            Value::Null | Value::Text(_) | Value::Blob(_) => None,
        };
        let times = match (&self.started_at, &other.started_at) {
            (Value::Text(a), Value::Text(b)) => a.cmp(b),
            (a, b) => match (number(a), number(b)) {
                (Some(a), Some(b)) => a.total_cmp(&b),
                (a, b) => a.is_none().cmp(&b.is_none()),
            },
        };
        times.then(self.rowid.cmp(&other.rowid))
    }
}

/// The condition of the index `task_history_unsettled`, word for word: otherwise SQLite does not use the
/// index.
macro_rules! unsettled {
    () => {
        "(
    delivery_status IN ('pending', 'delivering', 'failed')
    OR (status = 'interrupted' AND hinted_at IS NULL)
    OR (status <> 'running' AND cleanup_after IS NULL AND live_slot IS NOT NULL)
    OR finished_at < started_at
    OR (finished_at IS NULL AND status NOT IN ('running', 'interrupted'))
    OR (finished_at IS NOT NULL AND status = 'running')
) IS TRUE"
    };
}
pub(super) use unsettled;

/// The status of a row. An unknown word of another program counts as a failure, so that no session is resumed
/// because of it.
pub fn status_of(word: &str) -> Status {
    Status::parse(word).unwrap_or(Status::Failure)
}

fn bare(session_id: SessionId) -> SessionId {
    SessionId::recorded(dialect::bare(session_id.as_str()))
}

pub fn task_of_row(row: &Row<'_>) -> rusqlite::Result<Task> {
    let mut column = 0..;
    let word;
    macro_rules! next {
        () => {
            row.get(column.next().unwrap_or_default())?
        };
        // A column in which another program may have stored any type.
        ($any:ident) => {
            row.get::<_, $any>(column.next().unwrap_or_default())?.0
        };
    }
    Ok(Task {
        id: row
            .get::<_, Option<TaskId>>(column.next().unwrap_or_default())?
            .unwrap_or_else(|| TaskId::recorded("")),
        key: next!(),
        repo: next!(AnyText),
        issue_number: next!(AnyInteger),
        user: next!(AnyText),
        agent: next!(AnyText),
        agent_type: next!(AnyText),
        model: next!(AnyText),
        provider: next!(),
        status: {
            word = next!(AnyText).unwrap_or_default();
            status_of(&word)
        },
        reason: next!(AnyText).or_else(|| Status::parse(&word).is_none().then(|| word.clone())),
        error: next!(AnyText),
        started_at: next!(AnyTime).unwrap_or_default(),
        finished_at: next!(AnyTime),
        duration_ms: next!(AnyInteger),
        cost_usd: next!(AnyReal),
        session_cost_usd: next!(AnyReal),
        session_tokens: json(next!(AnyText)),
        turns: next!(AnyInteger),
        input_tokens: next!(AnyInteger),
        output_tokens: next!(AnyInteger),
        cache_read_tokens: next!(AnyInteger),
        cache_creation_tokens: next!(AnyInteger),
        artifacts: json(next!(AnyText)),
        session_id: row.get::<_, Option<_>>(column.next().unwrap_or_default())?.map(bare),
        resumed_from: row.get::<_, Option<_>>(column.next().unwrap_or_default())?.map(bare),
        argv: words(next!(AnyText)),
        cwd: next!(AnyText),
        live_slot: next!(),
        live_dev: unsigned(next!()),
        live_ino: unsigned(next!()),
        host: next!(),
        boot_id: next!(),
        pid_ns: unsigned(next!()),
        supervisor_pid: next!(),
        supervisor_start: unsigned(next!()),
        supervisor_pidfd: unsigned(next!()),
        agent_pid: next!(),
        agent_start: unsigned(next!()),
        agent_pidfd: unsigned(next!()),
        agent_released_at: next!(AnyTime),
        cgroup: next!(),
        exit_code: next!(),
        term_signal: next!(),
        stop_signal: next!(),
        stop_sender_pid: next!(),
        stop_sender_uid: next!(),
        end_source: next!(),
        last_seen_at: next!(AnyTime),
        oom_killed: next!(),
        cpu_ms: next!(),
        max_rss_kib: next!(),
        on_finish: json(next!()),
        delivery_status: next!(),
        delivery_attempts: next!(),
        delivered_at: next!(AnyTime),
        retention_secs: next!(),
        cleanup_after: next!(AnyTime),
        hinted_at: next!(AnyTime),
        hint_attempts: next!(),
        user_argv: words(next!()),
        run_options: json(next!()),
        leftovers: json(next!()),
        parent_id: next!(),
        oom_kills_before: unsigned(next!()),
        tool_in_flight: next!(),
        context_lost: next!(),
        session_untracked: next!(),
        transcript_seen: next!(),
        tokens_scope: next!(),
        session_kept: next!(),
        limit_resets_at: next!(AnyTime),
        replaces: next!(),
        delivery_error: next!(),
    })
}

/// Unsigned 64-bit numbers are stored bit by bit in SQLite's signed integers.
fn unsigned(number: Option<i64>) -> Option<u64> {
    number.map(i64::cast_unsigned)
}

/// A text that is not JSON comes from another program and is shown as text.
fn json(text: Option<String>) -> Option<Json> {
    text.map(|t| serde_json::from_str(&t).unwrap_or(Json::String(t)))
}

fn words(text: Option<String>) -> Option<Vec<String>> {
    text.map(|t| serde_json::from_str(&t).unwrap_or_else(|_| vec![t]))
}
