//! Figures of many tasks, one row per group.

use rusqlite::functions::{Aggregate, Context, FunctionFlags};
use rusqlite::{Connection, Row};

use super::dialect::{AnyInteger, AnyReal, AnyText};
use super::error::Result;
use super::filter::{TaskFilter, TaskIndex, bind, period, selected};
use super::handle::Ledger;
use crate::task::{StatsGroup, Status};

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

/// The columns that tasks are grouped by, in the order of [`group_of_row`]. One that is not asked for is the
/// same in all rows.
const GROUPED: [GroupBy; 5] = [GroupBy::Agent, GroupBy::Repo, GroupBy::Key, GroupBy::Model, GroupBy::Day];
const NAMES: [&str; 5] = [":by_agent", ":by_repo", ":by_key", ":by_model", ":by_day"];

/// A column without impossible values: they would make the sum infinite, or overflow it, which SQLite reports
/// as an error.
macro_rules! possible {
    ($column:literal, $most:literal) => {
        concat!("iif(abs(", $column, " + 0.0) <= ", $most, ", ", $column, ", NULL)")
    };
}

macro_rules! figures {
    () => {
        concat!(
            "count(*), sum(status = 'running'), sum(status = 'success'), sum(status = 'failure'),
               sum(status = 'cancelled'), sum(status = 'interrupted'), sum(status = 'aborted_no_skill'),
               sum(",
            possible!("cost_usd", "1e9"),
            "), sum(",
            possible!("duration_ms", "1e12"),
            "), sum(",
            possible!("input_tokens", "1e12"),
            "), sum(",
            possible!("output_tokens", "1e12"),
            "), sum(",
            possible!("cache_read_tokens", "1e12"),
            "), sum(",
            possible!("cache_creation_tokens", "1e12"),
            "), sum(",
            possible!("turns", "1e12"),
            "), percentiles(",
            possible!("cost_usd", "1e9"),
            "), percentiles(",
            possible!("duration_ms", "1e12"),
            ") FROM task_history WHERE "
        )
    };
}

/// The figures of the groups, and of all selected tasks.
macro_rules! grouped {
    ($by:literal) => {
        (
            concat!(
                "SELECT iif(:by_agent, agent, NULL), iif(:by_repo, repo, NULL), iif(:by_key, key, NULL),
                   iif(:by_model, model, NULL), iif(:by_day, substr(started_at, 1, 10), NULL), ",
                figures!(),
                $by,
                " AND ",
                period!(),
                " AND ",
                selected!(),
                " GROUP BY 1, 2, 3, 4, 5
                 ORDER BY iif(:by_newest, substr(started_at, 1, 10), NULL) DESC, count(*) DESC, 1, 2, 3, 4, 5
                 LIMIT :limit"
            ),
            concat!(
                "SELECT NULL, NULL, NULL, NULL, NULL, ",
                figures!(),
                $by,
                " AND ",
                period!(),
                " AND ",
                selected!()
            ),
        )
    };
}

/// Rows in which another program writes times in another format make up a group of their own.
const BY_START: (&str, &str) = grouped!("true");
const BY_KEY: (&str, &str) = grouped!("key = :key");
const BY_REPO: (&str, &str) = grouped!("repo = :repo");
const BY_AGENT: (&str, &str) = grouped!("agent = :agent");
/// With `:statuses` of one status, which is not `running` or `success`.
const BY_STATUS: (&str, &str) = grouped!("status NOT IN ('running', 'success') AND status = :status");

/// The figures of the largest groups, and of all selected tasks.
#[derive(Debug)]
pub struct TaskStats {
    pub groups: Vec<StatsGroup>,
    pub total: StatsGroup,
    /// There are more groups than the limit.
    pub has_more: bool,
}

impl Ledger {
    /// The largest groups first; if days come first, the newest ones.
    pub fn stats(&self, by: &[GroupBy], filter: &TaskFilter, limit: usize) -> Result<TaskStats> {
        let read = || -> rusqlite::Result<TaskStats> {
            let conn = self.conn();
            add_percentiles(conn)?;
            let (grouped, total) = statements(conn, filter)?;
            let mut groups = read(conn, grouped, by, filter, limit.saturating_add(1))?;
            let has_more = groups.len() > limit;
            groups.truncate(limit);
            let total = match (groups.as_slice(), has_more) {
                ([only], false) => only.clone(),
                _ => read(conn, total, &[], filter, 1)?.swap_remove(0),
            };
            Ok(TaskStats { groups, total: StatsGroup { names: Vec::new(), ..total }, has_more })
        };
        read().map_err(self.failed("adding up tasks"))
    }

    /// The figures of all selected tasks.
    pub fn total(&self, filter: &TaskFilter) -> Result<StatsGroup> {
        let read = || -> rusqlite::Result<StatsGroup> {
            let conn = self.conn();
            add_percentiles(conn)?;
            Ok(read(conn, statements(conn, filter)?.1, &[], filter, 1)?.swap_remove(0))
        };
        read().map_err(self.failed("adding up tasks"))
    }
}

/// The statements by the index with the fewest entries. Tasks of several statuses are found by their start.
fn statements(conn: &Connection, filter: &TaskFilter) -> rusqlite::Result<(&'static str, &'static str)> {
    Ok(match TaskIndex::best(conn, filter)? {
        TaskIndex::Key => BY_KEY,
        TaskIndex::Repo => BY_REPO,
        TaskIndex::Agent => BY_AGENT,
        TaskIndex::Status if filter.statuses.len() == 1 => BY_STATUS,
        TaskIndex::Status | TaskIndex::Start => BY_START,
    })
}

fn read(
    conn: &Connection,
    sql: &str,
    by: &[GroupBy],
    filter: &TaskFilter,
    limit: usize,
) -> rusqlite::Result<Vec<StatsGroup>> {
    let mut statement = conn.prepare(sql)?;
    filter.bind(&mut statement)?;
    for (column, name) in GROUPED.iter().zip(NAMES) {
        bind(&mut statement, name, &by.contains(column))?;
    }
    bind(&mut statement, ":by_newest", &(by.first() == Some(&GroupBy::Day)))?;
    bind(&mut statement, ":status", &filter.statuses.first().copied().map(Status::as_str))?;
    bind(&mut statement, ":limit", &i64::try_from(limit).unwrap_or(i64::MAX))?;
    statement.raw_query().mapped(|row| group_of_row(row, by)).collect()
}

fn group_of_row(row: &Row<'_>, by: &[GroupBy]) -> rusqlite::Result<StatsGroup> {
    let name = |column: &GroupBy| match GROUPED.iter().position(|grouped| grouped == column) {
        Some(index) => row.get::<_, AnyText>(index).map(|text| text.0),
        None => Ok(None),
    };
    let number = |index: usize| row.get::<_, Option<i64>>(index).map(Option::unwrap_or_default);
    let [cost_usd_median, cost_usd_p95] = percentiles(&row.get::<_, Vec<u8>>(19)?);
    let durations = percentiles(&row.get::<_, Vec<u8>>(20)?);
    let [duration_ms_median, duration_ms_p95] = durations.map(|ms| ms.map(|ms| ms.round() as i64));
    Ok(StatsGroup {
        names: by.iter().filter(|by| **by != GroupBy::All).map(name).collect::<rusqlite::Result<_>>()?,
        runs: number(5)?,
        running: number(6)?,
        success: number(7)?,
        failure: number(8)?,
        cancelled: number(9)?,
        interrupted: number(10)?,
        aborted_no_skill: number(11)?,
        cost_usd: row.get::<_, AnyReal>(12)?.0,
        duration_ms: row.get::<_, AnyInteger>(13)?.0,
        input_tokens: row.get::<_, AnyInteger>(14)?.0,
        output_tokens: row.get::<_, AnyInteger>(15)?.0,
        cache_read_tokens: row.get::<_, AnyInteger>(16)?.0,
        cache_creation_tokens: row.get::<_, AnyInteger>(17)?.0,
        turns: row.get::<_, AnyInteger>(18)?.0,
        cost_usd_median,
        cost_usd_p95,
        duration_ms_median,
        duration_ms_p95,
    })
}

/// `percentiles(x)`: the median and the 95th percentile of the known values, as two numbers in a blob.
struct Percentiles;

fn add_percentiles(conn: &Connection) -> rusqlite::Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
    conn.create_aggregate_function("percentiles", 1, flags, Percentiles)
}

impl Aggregate<Vec<f64>, Vec<u8>> for Percentiles {
    fn init(&self, _: &mut Context<'_>) -> rusqlite::Result<Vec<f64>> {
        Ok(Vec::new())
    }

    fn step(&self, ctx: &mut Context<'_>, values: &mut Vec<f64>) -> rusqlite::Result<()> {
        values.extend(ctx.get::<AnyReal>(0)?.0);
        Ok(())
    }

    fn finalize(&self, _: &mut Context<'_>, values: Option<Vec<f64>>) -> rusqlite::Result<Vec<u8>> {
        let mut values = values.unwrap_or_default();
        values.sort_unstable_by(f64::total_cmp);
        let found = [0.5, 0.95].iter().filter_map(|share| percentile(&values, *share));
        Ok(found.flat_map(f64::to_le_bytes).collect())
    }
}

/// The value below which this share of the sorted values lies; between two values, the line through them.
fn percentile(sorted: &[f64], share: f64) -> Option<f64> {
    let place = share * (sorted.len().checked_sub(1)? as f64);
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    Some(below + (above - below) * place.fract())
}

/// The numbers of a blob of [`Percentiles`].
fn percentiles(blob: &[u8]) -> [Option<f64>; 2] {
    let (numbers, _) = blob.as_chunks::<8>();
    [0, 1].map(|nth| numbers.get(nth).map(|bytes| f64::from_le_bytes(*bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::ledger::tests::each_uses_an_index;

    #[test]
    fn figures_of_a_selection_use_an_index() {
        let totals = [BY_KEY, BY_REPO, BY_AGENT, BY_STATUS].map(|(_, total)| total);
        each_uses_an_index(
            &totals.map(|sql| sql.replace("percentiles(", "max(")).each_ref().map(String::as_str),
        );
    }

    #[test]
    fn percentiles_lie_between_the_values_beside_them() {
        assert_eq!(percentile(&[], 0.5), None);
        assert_eq!(percentile(&[3.0], 0.95), Some(3.0));
        assert_eq!(percentile(&[1.0, 2.0], 0.5), Some(1.5));
        let hundred: Vec<f64> = (0..=100).map(f64::from).collect();
        assert_eq!([0.5, 0.95].map(|share| percentile(&hundred, share)), [Some(50.0), Some(95.0)]);
    }
}
