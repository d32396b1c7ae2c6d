//! Totals over many tasks, one row per group.

use rusqlite::{Row, named_params};

use super::dialect::{AnyInteger, AnyReal, AnyText};
use super::error::Result;
use super::handle::Ledger;
use crate::task::{StatsGroup, Time};

/// What tasks are grouped by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupBy {
    All,
    Agent,
    Repo,
    Key,
    Model,
    /// The day of their start, UTC.
    Day,
}

impl GroupBy {
    pub const EACH: [GroupBy; 6] =
        [GroupBy::All, GroupBy::Agent, GroupBy::Repo, GroupBy::Key, GroupBy::Model, GroupBy::Day];

    pub fn as_str(self) -> &'static str {
        match self {
            GroupBy::All => "all",
            GroupBy::Agent => "agent",
            GroupBy::Repo => "repo",
            GroupBy::Key => "key",
            GroupBy::Model => "model",
            GroupBy::Day => "day",
        }
    }
}

/// The sum of a column, without impossible values: they would make the sum infinite, or overflow it, which
/// SQLite reports as an error.
macro_rules! sum {
    ($column:literal, $most:literal) => {
        concat!("sum(iif(abs(", $column, " + 0.0) <= ", $most, ", ", $column, ", NULL))")
    };
}

/// Rows in which another program writes times in another format make up a group of their own.
macro_rules! sums {
    ($name:literal, $order:literal) => {
        concat!(
            "SELECT ",
            $name,
            ", count(*), sum(status = 'running'), sum(status = 'success'), sum(status = 'failure'),
               sum(status = 'cancelled'), sum(status = 'interrupted'), sum(status = 'aborted_no_skill'), ",
            sum!("cost_usd", "1e9"),
            ", ",
            sum!("duration_ms", "1e12"),
            ", ",
            sum!("input_tokens", "1e12"),
            ", ",
            sum!("output_tokens", "1e12"),
            ", ",
            sum!("cache_read_tokens", "1e12"),
            ", ",
            sum!("cache_creation_tokens", "1e12"),
            ", ",
            sum!("turns", "1e12"),
            " FROM task_history
             WHERE started_at >= coalesce(kept_time('task_history.started_at', :since), -9e999)
             GROUP BY 1 ORDER BY ",
            $order,
            " LIMIT :limit"
        )
    };
}

const SUM_ALL: &str = sums!("NULL", "1");
const SUM_BY_AGENT: &str = sums!("agent", "2 DESC, 1");
const SUM_BY_REPO: &str = sums!("repo", "2 DESC, 1");
const SUM_BY_KEY: &str = sums!("key", "2 DESC, 1");
const SUM_BY_MODEL: &str = sums!("model", "2 DESC, 1");
const SUM_BY_DAY: &str = sums!("substr(started_at, 1, 10)", "1 DESC");

impl Ledger {
    /// The largest groups first, days newest first.
    pub fn stats(&self, by: GroupBy, since: Option<Time>, limit: usize) -> Result<Vec<StatsGroup>> {
        let sql = match by {
            GroupBy::All => SUM_ALL,
            GroupBy::Agent => SUM_BY_AGENT,
            GroupBy::Repo => SUM_BY_REPO,
            GroupBy::Key => SUM_BY_KEY,
            GroupBy::Model => SUM_BY_MODEL,
            GroupBy::Day => SUM_BY_DAY,
        };
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let sums = || -> rusqlite::Result<Vec<StatsGroup>> {
            self.conn()
                .prepare(sql)?
                .query_map(named_params! { ":since": since, ":limit": limit }, group_of_row)?
                .collect()
        };
        sums().map_err(self.failed("adding up tasks"))
    }
}

fn group_of_row(row: &Row<'_>) -> rusqlite::Result<StatsGroup> {
    Ok(StatsGroup {
        name: row.get::<_, AnyText>(0)?.0,
        runs: row.get(1)?,
        running: row.get(2)?,
        success: row.get(3)?,
        failure: row.get(4)?,
        cancelled: row.get(5)?,
        interrupted: row.get(6)?,
        aborted_no_skill: row.get(7)?,
        cost_usd: row.get::<_, AnyReal>(8)?.0,
        duration_ms: row.get::<_, AnyInteger>(9)?.0,
        input_tokens: row.get::<_, AnyInteger>(10)?.0,
        output_tokens: row.get::<_, AnyInteger>(11)?.0,
        cache_read_tokens: row.get::<_, AnyInteger>(12)?.0,
        cache_creation_tokens: row.get::<_, AnyInteger>(13)?.0,
        turns: row.get::<_, AnyInteger>(14)?.0,
    })
}
