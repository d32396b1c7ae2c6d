//! Reading and writing the rows of `task_history` and their transitions.

use rusqlite::{Connection, OptionalExtension, Row, named_params};
use serde_json::Value;

use super::busy::BRIEF;
use super::dialect::{self, AnyTime, Dialect};
use super::error::Result;
use super::handle::Ledger;
use super::live::LiveLock;
use super::row::{select, status_of, task_of_row, unsettled};
use super::statement::execute;
use crate::task::{
    Key, NewTask, Provider, RecordedTime, SessionId, SessionTotals, Status, StatusTransition, Task, TaskId,
    Time, TokensScope, UsageCounts,
};

/// The result of looking up an id or the beginning of one.
#[derive(Debug)]
pub enum TaskLookup {
    One(Box<Task>),
    None,
    /// The first ten ids with this beginning.
    Ambiguous(Vec<TaskId>),
}

/// The progress of a running task, besides its counts.
#[derive(Debug, Clone, Copy)]
pub struct ProgressUpdate<'a> {
    pub session_totals: SessionTotals,
    pub model: Option<&'a str>,
    /// The tool call that has no result yet.
    pub tool_in_flight: Option<&'a str>,
    pub at: Time,
}

/// The state of the `--on-finish` command of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryStatus {
    /// It has not run yet.
    Pending,
    /// It was started; its end was not recorded.
    Delivering,
    Delivered,
    Failed,
}

impl DeliveryStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            DeliveryStatus::Pending => "pending",
            DeliveryStatus::Delivering => "delivering",
            DeliveryStatus::Delivered => "delivered",
            DeliveryStatus::Failed => "failed",
        }
    }
}

const SELECT_BY_ID: &str = select!("WHERE id = ?1");
const SELECT_HAS: &str = "SELECT EXISTS (SELECT 1 FROM task_history WHERE id = ?1)";
const SELECT_HOLDER: &str = select!("WHERE status = 'running' AND key = ?1");
const SELECT_LAST_OF_KEY: &str =
    select!("WHERE key = ?1 AND +status <> 'running' ORDER BY started_at DESC LIMIT 1");
const SELECT_RUNNING_WITH_SESSION: &str = select!(
    "WHERE status = 'running' AND session_id = ?1 AND (provider IS ?2 OR provider IS NULL OR ?2 IS NULL)
     LIMIT 1"
);
const SELECT_LAST_OF_SESSION: &str = select!(
    "WHERE session_id = ?1 AND (provider IS ?2 OR provider IS NULL OR ?2 IS NULL)
     ORDER BY started_at DESC, rowid DESC LIMIT 1"
);
const SELECT_NEWEST: &str = select!("ORDER BY started_at DESC, rowid DESC LIMIT 1");
const SELECT_NEWEST_OF_KEY: &str = select!("WHERE key = ?1 ORDER BY started_at DESC, rowid DESC LIMIT 1");
const SELECT_NEXT_USE: &str = "
    SELECT started_at FROM task_history
    WHERE session_id = ?1 AND started_at > (SELECT started_at FROM task_history WHERE id = ?2)
    ORDER BY started_at LIMIT 1";
const SELECT_REPLACED_BY: &str =
    "SELECT id FROM task_history WHERE key = ?1 AND replaces = ?2 ORDER BY started_at LIMIT 1";
const SELECT_IDS_BY_PREFIX: &str =
    "SELECT id FROM task_history WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT 10";
const SELECT_LAST_SESSION_TOTALS: &str = "
    SELECT session_cost_usd, session_tokens FROM task_history
    WHERE session_id = ?1 AND (provider IS ?2 OR provider IS NULL OR ?2 IS NULL)
      AND (session_cost_usd IS NOT NULL OR session_tokens IS NOT NULL)
    ORDER BY started_at DESC, rowid DESC LIMIT 1";
/// The nesting depth of task `?1`, counted through its parents, at most `?2`.
const SELECT_LEVELS: &str = "
    WITH RECURSIVE above (id, level) AS (
        SELECT ?1, 1
        UNION ALL
        SELECT parent_id, level + 1 FROM task_history JOIN above USING (id)
        WHERE parent_id IS NOT NULL AND level < ?2
    )
    SELECT max(level) FROM above";
const SELECT_TRANSITIONS: &str = "
    SELECT task_id, at, from_status, to_status, reason, by_pid, by_command
    FROM task_transition WHERE task_id = ?1 ORDER BY n";

/// OR FAIL and no SQL function: any error rolls back the whole transaction, so SQLite need not copy each page
/// for undoing this statement alone.
const INSERT_TASK: &str = "
    INSERT OR FAIL INTO task_history
        (id, key, repo, issue_number, user, agent, agent_type, model, provider, status, started_at,
         session_id, resumed_from, argv, cwd, live_slot, live_dev, live_ino, host, boot_id, pid_ns,
         supervisor_pid, supervisor_start, supervisor_pidfd, agent_pid, agent_start, agent_pidfd, cgroup,
         last_seen_at, on_finish,
         retention_secs, user_argv, run_options, parent_id, oom_kills_before, session_untracked,
         tokens_scope, replaces, reason,
         error, finished_at, duration_ms, cost_usd, turns, input_tokens, output_tokens, cache_read_tokens,
         cache_creation_tokens, artifacts)
    VALUES
        (:id, :key, :repo, :issue_number, :user, :agent, :agent_type, :model, :provider, 'running',
         :started_at, :session_id, :resumed_from, :argv, :cwd,
         :live_slot, :live_dev, :live_ino, :host, :boot_id, :pid_ns, :supervisor_pid, :supervisor_start,
         :supervisor_pidfd, :agent_pid, :agent_start, :agent_pidfd, :cgroup, :last_seen_at, :on_finish,
         :retention_secs, :user_argv, :run_options, :parent_id, :oom_kills_before, :session_untracked,
         :tokens_scope, :replaces,
         -- Named although nothing is known of them: another program's table may have defaults for them.
         NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)";
const INSERT_TRANSITION: &str = "
    INSERT INTO task_transition (task_id, n, at, from_status, to_status, reason, by_pid, by_command)
    VALUES (?1, (SELECT coalesce(max(n), 0) + 1 FROM task_transition WHERE task_id = ?1),
            ?2, ?3, ?4, ?5, ?6, ?7)";
const UPDATE_PROGRESS: &str = "
    UPDATE task_history SET
        cost_usd = coalesce(:cost_usd, cost_usd),
        session_cost_usd = coalesce(:session_cost_usd, session_cost_usd),
        session_tokens = coalesce(:session_tokens, session_tokens),
        turns = coalesce(:turns, turns),
        input_tokens = coalesce(:input_tokens, input_tokens),
        output_tokens = coalesce(:output_tokens, output_tokens),
        cache_read_tokens = coalesce(:cache_read_tokens, cache_read_tokens),
        cache_creation_tokens = coalesce(:cache_creation_tokens, cache_creation_tokens),
        model = coalesce(:model, model),
        tool_in_flight = :tool_in_flight,
        last_seen_at = :last_seen_at
    WHERE id = :id AND status = 'running'";
const UPDATE_DELIVERY: &str = "
    UPDATE task_history SET
        delivery_status = ?2,
        delivered_at = CASE ?2 WHEN 'delivered' THEN ?3 ELSE delivered_at END,
        delivery_error = ?4
    WHERE id = ?1";

const UPDATE_LEFTOVERS: &str = "UPDATE task_history SET leftovers = ?2 WHERE id = ?1";
const UPDATE_AGENT_RELEASED: &str = "
    UPDATE task_history SET agent_released_at = ?2
    WHERE id = ?1 AND status <> 'running' AND agent_released_at IS NULL";
const SELECT_UNDELIVERED: &str =
    // A row of another program has no command to deliver.
    select!(
        "WHERE ",
        unsettled!(),
        " AND delivery_status IN ('pending', 'delivering') AND on_finish IS NOT NULL ORDER BY started_at"
    );
const SELECT_UNHINTED: &str =
    select!("WHERE ", unsettled!(), " AND +status = 'interrupted' AND hinted_at IS NULL ORDER BY started_at");

pub fn set_leftovers(conn: &Connection, id: &TaskId, leftovers: &str) -> rusqlite::Result<usize> {
    conn.execute(UPDATE_LEFTOVERS, (id, leftovers))
}

/// Returns whether the row was changed: the task has ended, and its agent was not released before.
pub fn release_agent(conn: &Connection, id: &TaskId, at: Time) -> rusqlite::Result<bool> {
    Ok(conn.execute(UPDATE_AGENT_RELEASED, (id, at))? == 1)
}

pub fn undelivered(conn: &Connection) -> rusqlite::Result<Vec<Task>> {
    all(conn, SELECT_UNDELIVERED, [])
}

pub fn unhinted(conn: &Connection) -> rusqlite::Result<Vec<Task>> {
    all(conn, SELECT_UNHINTED, [])
}

pub fn by_id(conn: &Connection, id: &TaskId) -> rusqlite::Result<Option<Task>> {
    conn.prepare_cached(SELECT_BY_ID)?.query_row([id], task_of_row).optional()
}

pub fn holder(conn: &Connection, key: &Key) -> rusqlite::Result<Option<Task>> {
    conn.query_row(SELECT_HOLDER, [key], task_of_row).optional()
}

pub fn last_of_key(conn: &Connection, key: &Key) -> rusqlite::Result<Option<Task>> {
    conn.query_row(SELECT_LAST_OF_KEY, [key], task_of_row).optional()
}

pub fn running_with_session(
    conn: &Connection,
    provider: Option<&Provider>,
    session_id: &SessionId,
) -> rusqlite::Result<Option<Task>> {
    conn.query_row(SELECT_RUNNING_WITH_SESSION, (session_id, provider), task_of_row).optional()
}

pub fn last_user_of_session(
    conn: &Connection,
    provider: Option<&Provider>,
    session_id: &SessionId,
) -> rusqlite::Result<Option<Task>> {
    let last =
        |id: &SessionId| conn.query_row(SELECT_LAST_OF_SESSION, (id, provider), task_of_row).optional();
    // Another program may have written the provider before the id.
    let theirs = dialect::prefixed(provider, session_id).map(|id| last(&id)).transpose()?.flatten();
    Ok(match (last(session_id)?, theirs) {
        (Some(ours), Some(theirs)) if theirs.started_at > ours.started_at => Some(theirs),
        (ours, theirs) => ours.or(theirs),
    })
}

pub fn levels(conn: &Connection, task: &TaskId, most: u32) -> rusqlite::Result<u32> {
    conn.query_row(SELECT_LEVELS, (task, most), |row| row.get(0))
}

pub fn last_session_totals(
    conn: &Connection,
    provider: Option<&Provider>,
    session_id: &SessionId,
) -> rusqlite::Result<SessionTotals> {
    let totals = |row: &Row<'_>| Ok(SessionTotals { cost_usd: row.get(0)?, tokens: row.get(1)? });
    let last = conn.query_row(SELECT_LAST_SESSION_TOTALS, (session_id, provider), totals).optional()?;
    Ok(last.unwrap_or_default())
}

pub fn all(conn: &Connection, sql: &str, params: impl rusqlite::Params) -> rusqlite::Result<Vec<Task>> {
    conn.prepare(sql)?.query_map(params, task_of_row)?.collect()
}

pub fn find(conn: &Connection, id_or_prefix: &str) -> rusqlite::Result<TaskLookup> {
    if let Some(task) = by_id(conn, &TaskId::recorded(id_or_prefix))? {
        return Ok(TaskLookup::One(Box::new(task)));
    }
    let end = format!("{id_or_prefix}{}", char::MAX);
    let mut ids: Vec<TaskId> = conn
        .prepare(SELECT_IDS_BY_PREFIX)?
        .query_map((id_or_prefix, end), |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    if ids.len() > 1 {
        return Ok(TaskLookup::Ambiguous(ids));
    }
    let task = match ids.pop() {
        Some(id) => by_id(conn, &id)?,
        None => None,
    };
    Ok(task.map_or(TaskLookup::None, |t| TaskLookup::One(Box::new(t))))
}

pub fn transitions(conn: &Connection, id: &TaskId) -> rusqlite::Result<Vec<StatusTransition>> {
    conn.prepare(SELECT_TRANSITIONS)?
        .query_map([id], |row| {
            Ok(StatusTransition {
                task_id: row.get(0)?,
                at: row.get(1)?,
                from_status: row.get::<_, Option<String>>(2)?.as_deref().map(status_of),
                to_status: status_of(&row.get::<_, String>(3)?),
                reason: row.get(4)?,
                by_pid: row.get(5)?,
                by_command: row.get(6)?,
            })
        })?
        .collect()
}

/// Writes the `running` row and its first transition.
pub fn insert(
    conn: &Connection,
    dialect: &Dialect,
    task: &NewTask,
    live: &LiveLock,
    by: &str,
) -> rusqlite::Result<()> {
    execute(
        &mut conn.prepare(INSERT_TASK)?,
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
            ":started_at": dialect.time("task_history.started_at", task.started_at),
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
            ":supervisor_pid": task.supervisor.identity.pid,
            ":supervisor_start": task.supervisor.identity.start.cast_signed(),
            ":supervisor_pidfd": task.supervisor.pidfd_inode.map(u64::cast_signed),
            ":agent_pid": task.agent_process.map(|a| a.identity.pid),
            ":agent_start": task.agent_process.map(|a| a.identity.start.cast_signed()),
            ":agent_pidfd": task.agent_process.and_then(|a| a.pidfd_inode).map(u64::cast_signed),
            ":cgroup": task.place.cgroup,
            ":last_seen_at": task.started_at,
            ":on_finish": task.on_finish,
            ":retention_secs": task.retention_secs,
            ":user_argv": json_array(&task.user_argv),
            ":run_options": task.run_options,
            ":parent_id": task.parent_id,
            ":oom_kills_before": task.oom_kills_before.map(u64::cast_signed),
            ":session_untracked": task.session_untracked,
            ":tokens_scope": task.tokens_scope.map(TokensScope::as_str),
            ":replaces": task.replaces,
        },
    )?;
    let begin = StatusChange { from: None, to: Status::Running, reason: None };
    record_move(conn, &task.id, task.started_at, &begin, std::process::id(), by)
}

/// A change of status, for `task_transition`.
pub struct StatusChange<'a> {
    pub from: Option<Status>,
    pub to: Status,
    pub reason: Option<&'a str>,
}

pub fn record_move(
    conn: &Connection,
    id: &TaskId,
    at: Time,
    change: &StatusChange<'_>,
    by_pid: u32,
    by: &str,
) -> rusqlite::Result<()> {
    conn.prepare_cached(INSERT_TRANSITION)?.execute((
        id,
        at,
        change.from.map(Status::as_str),
        change.to.as_str(),
        change.reason,
        by_pid,
        by,
    ))?;
    Ok(())
}

pub fn progress(
    conn: &Connection,
    id: &TaskId,
    counts: &UsageCounts,
    seen: &ProgressUpdate<'_>,
) -> rusqlite::Result<()> {
    let values = named_params! {
        ":cost_usd": counts.cost_usd,
        ":session_cost_usd": seen.session_totals.cost_usd,
        ":session_tokens": seen.session_totals.tokens,
        ":turns": counts.turns,
        ":input_tokens": counts.input_tokens,
        ":output_tokens": counts.output_tokens,
        ":cache_read_tokens": counts.cache_read_tokens,
        ":cache_creation_tokens": counts.cache_creation_tokens,
        ":model": seen.model,
        ":tool_in_flight": seen.tool_in_flight,
        ":last_seen_at": seen.at,
        ":id": id,
    };
    execute(&mut *conn.prepare_cached(UPDATE_PROGRESS)?, values).map(drop)
}

/// Returns whether the task exists. `failed`: how the command failed.
pub fn delivery(
    conn: &Connection,
    id: &TaskId,
    state: DeliveryStatus,
    failed: Option<&str>,
    at: Time,
) -> rusqlite::Result<bool> {
    Ok(conn.execute(UPDATE_DELIVERY, (id, state.as_str(), at, failed))? == 1)
}

fn json_array(words: &[String]) -> String {
    Value::from(words).to_string()
}

impl Ledger {
    /// Writes the progress of a running task; ended tasks are not changed, and `None` overwrites nothing. It
    /// waits only briefly for a locked ledger, so that signals and output are not delayed, and does not wait
    /// for the disk: a power failure may undo the last progress.
    pub fn progress(&mut self, id: &TaskId, counts: &UsageCounts, seen: &ProgressUpdate<'_>) -> Result<()> {
        self.check_files("writing a task's progress")?;
        self.log.set_lax(true);
        let wrote = self.briefly(BRIEF, |ledger| {
            let wrote = progress(&ledger.conn, id, counts, seen);
            wrote.map_err(ledger.failed("writing a task's progress"))
        });
        self.log.set_lax(false);
        self.keep_log_short();
        wrote
    }

    /// Looks up a task by its id or the beginning of it.
    pub fn task(&self, id_or_prefix: &str) -> Result<TaskLookup> {
        self.check_files("reading a task")?;
        find(self.conn(), id_or_prefix).map_err(self.failed("reading a task"))
    }

    /// Whether there is a row with this id.
    pub fn has_task(&self, id: &TaskId) -> Result<bool> {
        let find = || self.conn().prepare_cached(SELECT_HAS)?.query_row([id], |row| row.get(0));
        find().map_err(self.failed("looking for a task"))
    }

    /// The task that was started last, of those with this key if there is one.
    pub fn newest(&self, key: Option<&Key>) -> Result<Option<Task>> {
        let read = || match key {
            Some(key) => self.conn().query_row(SELECT_NEWEST_OF_KEY, [key], task_of_row),
            None => self.conn().query_row(SELECT_NEWEST, [], task_of_row),
        };
        read().optional().map_err(self.failed("looking for the newest task"))
    }

    /// The start of the next task that used the session of this one.
    pub fn next_use(&self, id: &TaskId, session: &SessionId) -> Result<Option<RecordedTime>> {
        let read = || self.conn().query_row(SELECT_NEXT_USE, (session, id), |row| row.get(0)).optional();
        read().map(|at| at.and_then(|AnyTime(at)| at)).map_err(self.failed("looking for the next task"))
    }

    /// The task for which `--replace` cancelled this one.
    pub fn replaced_by(&self, task: &Task) -> Result<Option<TaskId>> {
        let read = || self.conn().query_row(SELECT_REPLACED_BY, (&task.key, &task.id), |row| row.get(0));
        read().optional().map_err(self.failed("looking for the task that replaced this one"))
    }

    /// A task's changes of status, in order.
    pub fn transitions(&self, id: &TaskId) -> Result<Vec<StatusTransition>> {
        transitions(self.conn(), id).map_err(self.failed("reading a task's transitions"))
    }

    /// Records what became of the leftover processes of a task after its end.
    pub fn leftovers(&mut self, id: &TaskId, leftovers: &str) -> Result<()> {
        self.check_files("recording leftover processes")?;
        set_leftovers(self.conn(), id, leftovers).map_err(self.failed("recording leftover processes"))?;
        Ok(())
    }

    /// Records that the agent of an ended task no longer holds the key.
    pub fn release_agent(&mut self, id: &TaskId, at: Time) -> Result<bool> {
        release_agent(self.conn(), id, at).map_err(self.failed("releasing the agent of a task"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_query_uses_an_index() {
        super::super::tests::each_uses_an_index(&[
            SELECT_BY_ID,
            SELECT_HOLDER,
            SELECT_LAST_OF_KEY,
            SELECT_RUNNING_WITH_SESSION,
            SELECT_LAST_OF_SESSION,
            SELECT_IDS_BY_PREFIX,
            SELECT_LAST_SESSION_TOTALS,
            SELECT_TRANSITIONS,
            SELECT_UNDELIVERED,
            SELECT_UNHINTED,
        ]);
    }
}
