//! The rows of `task_history` and their moves, read and written.

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, named_params};
use serde_json::Value;

use super::live::LiveLock;
use crate::task::{Counts, Identity, NewTask, Status, Task, Transition};

/// What an id, or the beginning of one, names.
#[derive(Debug)]
pub enum Found {
    One(Box<Task>),
    None,
    /// The ids that begin like this, the first ten.
    Ambiguous(Vec<String>),
}

/// How the `--on-finish` command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    Delivered,
    Failed,
}

impl Delivery {
    fn as_str(self) -> &'static str {
        match self {
            Delivery::Delivered => "delivered",
            Delivery::Failed => "failed",
        }
    }
}

/// The columns in the order in which [`task_of_row`] reads them.
macro_rules! select {
    ($($rest:literal),+) => {
        concat!(
            "SELECT id, key, repo, issue_number, user, agent, agent_type, model, provider, status, reason,
             error, started_at, finished_at, duration_ms, cost_usd, session_cost_usd, turns, input_tokens,
             output_tokens, cache_read_tokens, cache_creation_tokens, artifacts, session_id, resumed_from,
             argv, cwd, live_slot, live_dev, live_ino, host, boot_id, pid_ns, supervisor_pid,
             supervisor_start, agent_pid, agent_start, cgroup, exit_code, term_signal, stop_signal,
             stop_sender_pid, stop_sender_uid, end_source, last_seen_at, oom_killed, cpu_ms, max_rss_kib,
             on_finish, delivery_status, delivery_attempts, delivered_at, retention_secs, cleanup_after,
             hinted_at, user_argv, run_options, leftovers, parent_id
             FROM task_history ",
            $($rest),+
        )
    };
}
pub(super) use select;

const SELECT_BY_ID: &str = select!("WHERE id = ?1");
const SELECT_HOLDER: &str = select!("WHERE status = 'running' AND key = ?1");
const SELECT_RUNNING_WITH_SESSION: &str = select!(
    "WHERE status = 'running' AND session_id = ?1 AND (provider IS ?2 OR provider IS NULL OR ?2 IS NULL)
     LIMIT 1"
);
const SELECT_LAST_OF_SESSION: &str = select!(
    "WHERE session_id = ?1 AND (provider IS ?2 OR provider IS NULL OR ?2 IS NULL)
     ORDER BY started_at DESC, rowid DESC LIMIT 1"
);
const SELECT_IDS_BY_PREFIX: &str =
    "SELECT id FROM task_history WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT 10";
const SELECT_LAST_SESSION_COST: &str = "
    SELECT session_cost_usd FROM task_history
    WHERE session_id = ?1 AND (provider IS ?2 OR provider IS NULL OR ?2 IS NULL)
      AND session_cost_usd IS NOT NULL
    ORDER BY started_at DESC, rowid DESC LIMIT 1";
const SELECT_TRANSITIONS: &str = "
    SELECT task_id, at, from_status, to_status, reason, by_pid, by_command
    FROM task_transition WHERE task_id = ?1 ORDER BY rowid";

const INSERT_TASK: &str = "
    INSERT INTO task_history
        (id, key, repo, issue_number, user, agent, agent_type, model, provider, status, started_at,
         session_id, resumed_from, argv, cwd, live_slot, live_dev, live_ino, host, boot_id, pid_ns,
         supervisor_pid, supervisor_start, agent_pid, agent_start, cgroup, last_seen_at, on_finish,
         retention_secs, user_argv, run_options, parent_id)
    VALUES
        (:id, :key, :repo, :issue_number, :user, :agent, :agent_type, :model, :provider, 'running',
         :started_at, :session_id, :resumed_from, :argv, :cwd, :live_slot, :live_dev, :live_ino, :host,
         :boot_id, :pid_ns, :supervisor_pid, :supervisor_start, :agent_pid, :agent_start, :cgroup,
         :started_at, :on_finish, :retention_secs, :user_argv, :run_options, :parent_id)";
const INSERT_TRANSITION: &str = "
    INSERT INTO task_transition (task_id, at, from_status, to_status, reason, by_pid, by_command)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
const UPDATE_PROGRESS: &str = "
    UPDATE task_history SET
        cost_usd = coalesce(:cost_usd, cost_usd),
        turns = coalesce(:turns, turns),
        input_tokens = coalesce(:input_tokens, input_tokens),
        output_tokens = coalesce(:output_tokens, output_tokens),
        cache_read_tokens = coalesce(:cache_read_tokens, cache_read_tokens),
        cache_creation_tokens = coalesce(:cache_creation_tokens, cache_creation_tokens),
        model = coalesce(:model, model),
        last_seen_at = :last_seen_at
    WHERE id = :id AND status = 'running'";
const UPDATE_DELIVERY: &str = "
    UPDATE task_history SET
        delivery_status = ?2,
        delivery_attempts = delivery_attempts + 1,
        delivered_at = CASE ?2 WHEN 'delivered' THEN ?3 ELSE delivered_at END
    WHERE id = ?1";

const UPDATE_LEFTOVERS: &str = "UPDATE task_history SET leftovers = ?2 WHERE id = ?1";
const SELECT_SUPERVISED_BY: &str =
    select!("WHERE status = 'running' AND supervisor_pid = ?1 AND supervisor_start = ?2");

pub fn leftovers(conn: &Connection, id: &str, leftovers: &str) -> rusqlite::Result<usize> {
    conn.execute(UPDATE_LEFTOVERS, (id, leftovers))
}

pub fn supervised_by(conn: &Connection, supervisor: Identity) -> rusqlite::Result<Vec<Task>> {
    conn.prepare(SELECT_SUPERVISED_BY)?
        .query_map((supervisor.pid, supervisor.start.cast_signed()), task_of_row)?
        .collect()
}

pub fn by_id(conn: &Connection, id: &str) -> rusqlite::Result<Option<Task>> {
    conn.query_row(SELECT_BY_ID, [id], task_of_row).optional()
}

pub fn holder(conn: &Connection, key: &str) -> rusqlite::Result<Option<Task>> {
    conn.query_row(SELECT_HOLDER, [key], task_of_row).optional()
}

pub fn running_with_session(
    conn: &Connection,
    provider: Option<&str>,
    session_id: &str,
) -> rusqlite::Result<Option<Task>> {
    conn.query_row(SELECT_RUNNING_WITH_SESSION, (session_id, provider), task_of_row).optional()
}

pub fn last_user_of_session(
    conn: &Connection,
    provider: Option<&str>,
    session_id: &str,
) -> rusqlite::Result<Option<Task>> {
    conn.query_row(SELECT_LAST_OF_SESSION, (session_id, provider), task_of_row).optional()
}

pub fn last_session_cost(
    conn: &Connection,
    provider: Option<&str>,
    session_id: &str,
) -> rusqlite::Result<Option<f64>> {
    conn.query_row(SELECT_LAST_SESSION_COST, (session_id, provider), |row| row.get(0)).optional()
}

pub fn all(conn: &Connection, sql: &str, params: impl rusqlite::Params) -> rusqlite::Result<Vec<Task>> {
    conn.prepare(sql)?.query_map(params, task_of_row)?.collect()
}

pub fn find(conn: &Connection, id_or_prefix: &str) -> rusqlite::Result<Found> {
    if let Some(task) = by_id(conn, id_or_prefix)? {
        return Ok(Found::One(Box::new(task)));
    }
    let end = format!("{id_or_prefix}{}", char::MAX);
    let mut ids: Vec<String> = conn
        .prepare(SELECT_IDS_BY_PREFIX)?
        .query_map((id_or_prefix, end), |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    if ids.len() > 1 {
        return Ok(Found::Ambiguous(ids));
    }
    let task = match ids.pop() {
        Some(id) => by_id(conn, &id)?,
        None => None,
    };
    Ok(task.map_or(Found::None, |t| Found::One(Box::new(t))))
}

pub fn transitions(conn: &Connection, id: &str) -> rusqlite::Result<Vec<Transition>> {
    conn.prepare(SELECT_TRANSITIONS)?
        .query_map([id], |row| {
            Ok(Transition {
                task_id: row.get(0)?,
                at: row.get(1)?,
                from_status: match row.get::<_, Option<String>>(2)? {
                    Some(word) => Some(status_of(2, &word)?),
                    None => None,
                },
                to_status: status_of(3, &row.get::<_, String>(3)?)?,
                reason: row.get(4)?,
                by_pid: row.get(5)?,
                by_command: row.get(6)?,
            })
        })?
        .collect()
}

/// The `running` row and the line that says it came into being.
pub fn insert(conn: &Connection, task: &NewTask, live: &LiveLock, by: &str) -> rusqlite::Result<()> {
    conn.execute(
        INSERT_TASK,
        named_params! {
            ":id": task.id,
            ":key": task.key,
            ":repo": task.repo,
            ":issue_number": task.issue_number,
            ":user": task.user,
            ":agent": task.agent,
            ":agent_type": task.agent_type,
            ":model": task.model,
            ":provider": task.provider,
            ":started_at": task.started_at,
            ":session_id": task.session_id,
            ":resumed_from": task.resumed_from,
            ":argv": json_array(&task.argv),
            ":cwd": task.cwd.to_string_lossy(),
            ":live_slot": live.slot,
            ":live_dev": live.dev.cast_signed(),
            ":live_ino": live.ino.cast_signed(),
            ":host": task.place.host,
            ":boot_id": task.place.boot_id,
            ":pid_ns": task.place.pid_ns.cast_signed(),
            ":supervisor_pid": task.supervisor.pid,
            ":supervisor_start": task.supervisor.start.cast_signed(),
            ":agent_pid": task.agent_process.map(|a| a.pid),
            ":agent_start": task.agent_process.map(|a| a.start.cast_signed()),
            ":cgroup": task.place.cgroup,
            ":on_finish": task.on_finish,
            ":retention_secs": task.retention_secs,
            ":user_argv": json_array(&task.user_argv),
            ":run_options": task.run_options,
            ":parent_id": task.parent_id,
        },
    )?;
    let begin = Move { from: None, to: Status::Running, reason: None };
    record_move(conn, &task.id, &task.started_at, &begin, std::process::id(), by)
}

/// A change of status, for `task_transition`.
pub struct Move<'a> {
    pub from: Option<Status>,
    pub to: Status,
    pub reason: Option<&'a str>,
}

pub fn record_move(
    conn: &Connection,
    id: &str,
    at: &str,
    change: &Move<'_>,
    by_pid: u32,
    by: &str,
) -> rusqlite::Result<()> {
    conn.execute(
        INSERT_TRANSITION,
        (id, at, change.from.map(Status::as_str), change.to.as_str(), change.reason, by_pid, by),
    )?;
    Ok(())
}

pub fn progress(
    conn: &Connection,
    id: &str,
    counts: &Counts,
    model: Option<&str>,
    last_seen_at: &str,
) -> rusqlite::Result<()> {
    conn.prepare_cached(UPDATE_PROGRESS)?.execute(named_params! {
        ":id": id,
        ":cost_usd": counts.cost_usd,
        ":turns": counts.turns,
        ":input_tokens": counts.input_tokens,
        ":output_tokens": counts.output_tokens,
        ":cache_read_tokens": counts.cache_read_tokens,
        ":cache_creation_tokens": counts.cache_creation_tokens,
        ":model": model,
        ":last_seen_at": last_seen_at,
    })?;
    Ok(())
}

/// Whether there is such a task.
pub fn delivery(conn: &Connection, id: &str, state: Delivery, at: &str) -> rusqlite::Result<bool> {
    Ok(conn.execute(UPDATE_DELIVERY, (id, state.as_str(), at))? == 1)
}

pub fn status_of(column: usize, word: &str) -> rusqlite::Result<Status> {
    Status::parse(word).ok_or_else(|| {
        let why = format!("{word:?} is no status of a task");
        rusqlite::Error::FromSqlConversionFailure(column, Type::Text, why.into())
    })
}

fn json_array(words: &[String]) -> String {
    Value::from(words).to_string()
}

pub fn task_of_row(row: &Row<'_>) -> rusqlite::Result<Task> {
    let mut column = 0..;
    macro_rules! next {
        () => {
            row.get(column.next().unwrap_or_default())?
        };
    }
    Ok(Task {
        id: next!(),
        key: next!(),
        repo: next!(),
        issue_number: next!(),
        user: next!(),
        agent: next!(),
        agent_type: next!(),
        model: next!(),
        provider: next!(),
        status: {
            let word: String = next!();
            status_of(9, &word)?
        },
        reason: next!(),
        error: next!(),
        started_at: next!(),
        finished_at: next!(),
        duration_ms: next!(),
        cost_usd: next!(),
        session_cost_usd: next!(),
        turns: next!(),
        input_tokens: next!(),
        output_tokens: next!(),
        cache_read_tokens: next!(),
        cache_creation_tokens: next!(),
        artifacts: json(next!()),
        session_id: next!(),
        resumed_from: next!(),
        argv: words(next!()),
        cwd: next!(),
        live_slot: next!(),
        live_dev: unsigned(next!()),
        live_ino: unsigned(next!()),
        host: next!(),
        boot_id: next!(),
        pid_ns: unsigned(next!()),
        supervisor_pid: next!(),
        supervisor_start: unsigned(next!()),
        agent_pid: next!(),
        agent_start: unsigned(next!()),
        cgroup: next!(),
        exit_code: next!(),
        term_signal: next!(),
        stop_signal: next!(),
        stop_sender_pid: next!(),
        stop_sender_uid: next!(),
        end_source: next!(),
        last_seen_at: next!(),
        oom_killed: next!(),
        cpu_ms: next!(),
        max_rss_kib: next!(),
        on_finish: json(next!()),
        delivery_status: next!(),
        delivery_attempts: next!(),
        delivered_at: next!(),
        retention_secs: next!(),
        cleanup_after: next!(),
        hinted_at: next!(),
        user_argv: words(next!()),
        run_options: json(next!()),
        leftovers: json(next!()),
        parent_id: next!(),
    })
}

/// 64-bit numbers of the kernel are kept by their bits: SQLite's integers are signed.
fn unsigned(number: Option<i64>) -> Option<u64> {
    number.map(i64::cast_unsigned)
}

/// What is no JSON was written by somebody else: it is shown as the text it is.
fn json(text: Option<String>) -> Option<Value> {
    text.map(|t| serde_json::from_str(&t).unwrap_or(Value::String(t)))
}

fn words(text: Option<String>) -> Option<Vec<String>> {
    text.map(|t| serde_json::from_str(&t).unwrap_or_else(|_| vec![t]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_query_grows_with_history_but_by_what_it_returns() {
        super::super::tests::each_uses_an_index(&[
            SELECT_BY_ID,
            SELECT_HOLDER,
            SELECT_RUNNING_WITH_SESSION,
            SELECT_LAST_OF_SESSION,
            SELECT_IDS_BY_PREFIX,
            SELECT_LAST_SESSION_COST,
            SELECT_TRANSITIONS,
        ]);
    }
}
