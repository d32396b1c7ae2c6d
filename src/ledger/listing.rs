//! Which tasks are listed, and in what order: what runs first, then what ended, each newest first.

use rusqlite::{Connection, named_params};

use super::tasks::{self, select};
use super::{Ledger, Result};
use crate::task::{Key, Status, Task};

/// Which tasks to read. `None` leaves a question open.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub status: Option<Status>,
    pub key: Option<Key>,
    pub repo: Option<String>,
    /// The persona.
    pub agent: Option<String>,
    /// Started then or later: RFC 3339, UTC, milliseconds.
    pub since: Option<String>,
    /// `None`: all of them.
    pub limit: Option<usize>,
}

impl Filter {
    /// Whether it lets some tasks through and others not.
    pub fn selects(&self) -> bool {
        self.status.is_some()
            || self.key.is_some()
            || self.repo.is_some()
            || self.agent.is_some()
            || self.since.is_some()
    }
}

/// Without `:since`, from below every time, whether the column holds text or numbers.
/// The columns behind a `+` are only compared: the index is chosen by the one before them.
macro_rules! listed {
    ($by:literal) => {
        select!(
            "WHERE ",
            $by,
            " AND (:status IS NULL OR +status = :status)
             AND (:key IS NULL OR +key = :key)
             AND (:repo IS NULL OR +repo = :repo)
             AND (:agent IS NULL OR +agent = :agent)
             AND started_at >= coalesce(kept_time('task_history.started_at', :since), -9e999)
             ORDER BY started_at DESC, rowid DESC LIMIT :limit"
        )
    };
}

const SELECT_RUNNING: &str = listed!("status = 'running'");
const SELECT_ENDED: &str = listed!("status <> 'running'");
const SELECT_ENDED_BY_KEY: &str = listed!("status <> 'running' AND key = :key");
const SELECT_ENDED_BY_REPO: &str = listed!("status <> 'running' AND repo = :repo");
const SELECT_ENDED_BY_AGENT: &str = listed!("status <> 'running' AND agent = :agent");
const SELECT_ENDED_BY_STATUS: &str = listed!("status NOT IN ('running', 'success') AND status = :status");
/// Started before, ended since.
const SELECT_ENDED_SINCE: &str = select!(
    "WHERE status <> 'running' AND last_seen_at >= :since
     AND (:key IS NULL OR +key = :key)
     AND (:repo IS NULL OR +repo = :repo)
     AND (:agent IS NULL OR +agent = :agent)
     AND started_at < kept_time('task_history.started_at', :since)
     ORDER BY last_seen_at DESC LIMIT :limit"
);
const DATA_VERSION: &str = "PRAGMA data_version";

impl Ledger {
    /// The running tasks first, then those that ended, each newest first.
    pub fn tasks(&self, filter: &Filter) -> Result<Vec<Task>> {
        list(self.conn(), filter).map_err(self.failed("reading tasks"))
    }

    /// Those that ran at `filter.since` or later, whenever they started.
    pub fn tasks_in_flight_since(&self, filter: &Filter) -> Result<Vec<Task>> {
        let read = || -> rusqlite::Result<Vec<Task>> {
            let running = Filter { status: Some(Status::Running), since: None, ..filter.clone() };
            let mut tasks = list(self.conn(), &running)?;
            tasks.extend(list(self.conn(), filter)?.into_iter().filter(|t| t.status != Status::Running));
            tasks.extend(tasks::all(
                self.conn(),
                SELECT_ENDED_SINCE,
                named_params! {
                    ":since": filter.since,
                    ":key": filter.key,
                    ":repo": filter.repo,
                    ":agent": filter.agent,
                    ":limit": filter.limit.map_or(i64::MAX, |n| i64::try_from(n).unwrap_or(i64::MAX)),
                },
            )?);
            Ok(tasks)
        };
        read().map_err(self.failed("reading what was in flight"))
    }

    /// A number that differs from the one before if somebody has changed the ledger meanwhile. It is read
    /// from shared memory.
    pub fn version(&self) -> Result<i64> {
        self.conn()
            .query_row(DATA_VERSION, [], |row| row.get(0))
            .map_err(self.failed("looking whether it has changed"))
    }
}

fn list(conn: &Connection, filter: &Filter) -> rusqlite::Result<Vec<Task>> {
    let limit = filter.limit.map_or(i64::MAX, |n| i64::try_from(n).unwrap_or(i64::MAX));
    let read = |sql: &str, limit: i64| {
        tasks::all(
            conn,
            sql,
            named_params! {
                ":status": filter.status.map(Status::as_str),
                ":key": filter.key,
                ":repo": filter.repo,
                ":agent": filter.agent,
                ":since": filter.since,
                ":limit": limit,
            },
        )
    };
    let mut tasks = match filter.status {
        None | Some(Status::Running) => read(SELECT_RUNNING, limit)?,
        Some(_) => Vec::new(),
    };
    let left = limit.saturating_sub(tasks.len() as i64);
    if filter.status != Some(Status::Running) && left > 0 {
        tasks.extend(read(
            match filter {
                Filter { key: Some(_), .. } => SELECT_ENDED_BY_KEY,
                Filter { repo: Some(_), .. } => SELECT_ENDED_BY_REPO,
                Filter { agent: Some(_), .. } => SELECT_ENDED_BY_AGENT,
                // Those that ended well are the many: they are met soon among all.
                Filter { status: Some(status), .. } if *status != Status::Success => SELECT_ENDED_BY_STATUS,
                _ => SELECT_ENDED,
            },
            left,
        )?);
    }
    Ok(tasks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_listing_grows_with_history_but_by_what_it_returns() {
        super::super::tests::each_uses_an_index(&[
            SELECT_RUNNING,
            SELECT_ENDED,
            SELECT_ENDED_BY_KEY,
            SELECT_ENDED_BY_REPO,
            SELECT_ENDED_BY_AGENT,
            SELECT_ENDED_BY_STATUS,
            SELECT_ENDED_SINCE,
        ]);
    }
}
