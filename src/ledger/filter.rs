//! Which tasks a command selects, as conditions in SQL.

use rusqlite::{Connection, Statement, ToSql, named_params};

use crate::task::{Key, Status, TaskFilter};

impl TaskFilter {
    pub(super) fn sql_limit(&self) -> i64 {
        self.limit.map_or(i64::MAX, |n| i64::try_from(n).unwrap_or(i64::MAX))
    }

    /// Binds the values of [`selected`] and [`period`], as far as the statement has them.
    pub(super) fn bind(&self, statement: &mut Statement<'_>) -> rusqlite::Result<()> {
        let words = self.statuses.iter().map(|s| format!("{s},")).collect::<String>();
        let statuses = (!words.is_empty()).then(|| format!(",{words}"));
        bind(statement, ":statuses", &statuses)?;
        bind(statement, ":key", &self.key)?;
        bind(statement, ":repo", &self.repo)?;
        bind(statement, ":agent", &self.agent)?;
        bind(statement, ":model", &self.model)?;
        bind(statement, ":since", &self.since)?;
        bind(statement, ":until", &self.until)
    }
}

/// Binds one value, if the statement has a parameter of this name.
pub(super) fn bind(statement: &mut Statement<'_>, name: &str, value: &dyn ToSql) -> rusqlite::Result<()> {
    match statement.parameter_index(name)? {
        Some(index) => statement.raw_bind_parameter(index, value),
        None => Ok(()),
    }
}

/// The conditions of a filter. A column behind `+` is only compared: SQLite uses the index of another column.
macro_rules! selected {
    () => {
        "(:statuses IS NULL OR instr(:statuses, ',' || +status || ',') > 0)
             AND (:key IS NULL OR +key = :key)
             AND (:repo IS NULL OR +repo = :repo)
             AND (:agent IS NULL OR +agent = :agent)
             AND (:model IS NULL OR +model = :model)"
    };
}
pub(super) use selected;

/// Without `:since` and `:until` the bounds are below and above every time, whether the column holds text or
/// numbers: SQLite orders numbers before texts, and texts before blobs.
macro_rules! period {
    () => {
        "started_at >= coalesce(kept_time('task_history.started_at', :since), -9e999)
             AND started_at < coalesce(kept_time('task_history.started_at', :until), x'ff')"
    };
}
pub(super) use period;

/// The index by which ended tasks are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TaskIndex {
    Start,
    Key,
    Repo,
    Agent,
    /// One range for each status.
    Status,
}

/// How many of the listed tasks an index holds, up to a limit.
macro_rules! counted {
    ($by:literal) => {
        concat!(
            "SELECT count(*) FROM (SELECT 1 FROM task_history WHERE ",
            $by,
            " AND ",
            period!(),
            " LIMIT :most)"
        )
    };
}

const COUNT_BY_KEY: &str = counted!("key = :value");
const COUNT_BY_REPO: &str = counted!("repo = :value");
const COUNT_BY_AGENT: &str = counted!("agent = :value");
const COUNT_BY_STATUS: &str = counted!("status NOT IN ('running', 'success') AND status = :value");

#[cfg(test)]
pub(super) const COUNTS: [&str; 4] = [COUNT_BY_KEY, COUNT_BY_REPO, COUNT_BY_AGENT, COUNT_BY_STATUS];

/// Beyond this number of entries, counting costs more than a better choice saves.
const MOST_COUNTED: i64 = 1000;

impl TaskIndex {
    /// The index with the fewest entries for this filter.
    pub(super) fn best(conn: &Connection, filter: &TaskFilter) -> rusqlite::Result<TaskIndex> {
        let mut usable = usable(filter);
        if usable.len() <= 1 {
            return Ok(usable.pop().map_or(TaskIndex::Start, |(index, ..)| index));
        }
        let (mut fewest, mut best) = (MOST_COUNTED, usable[0].0);
        for (index, sql, values) in usable {
            let mut entries = 0;
            for value in values {
                let params = named_params! {
                    ":value": value,
                    ":since": filter.since,
                    ":until": filter.until,
                    ":most": fewest - entries,
                };
                entries += conn.prepare_cached(sql)?.query_row(params, |row| row.get::<_, i64>(0))?;
            }
            if entries < fewest {
                (fewest, best) = (entries, index);
            }
        }
        Ok(best)
    }
}

/// The indexes that a filter can use, each with the statement that counts its entries and the values to
/// count.
fn usable(filter: &TaskFilter) -> Vec<(TaskIndex, &'static str, Vec<&str>)> {
    // Most tasks succeed: `success` has no index, and the first such tasks are found soon by their start.
    let statuses = filter.ended().filter(|all| !all.contains(&Status::Success)).unwrap_or_default();
    let all = [
        (TaskIndex::Key, COUNT_BY_KEY, Vec::from_iter(filter.key.as_ref().map(Key::as_str))),
        (TaskIndex::Repo, COUNT_BY_REPO, Vec::from_iter(filter.repo.as_deref())),
        (TaskIndex::Agent, COUNT_BY_AGENT, Vec::from_iter(filter.agent.as_deref())),
        (TaskIndex::Status, COUNT_BY_STATUS, statuses.into_iter().map(Status::as_str).collect()),
    ];
    all.into_iter().filter(|(.., values)| !values.is_empty()).collect()
}
