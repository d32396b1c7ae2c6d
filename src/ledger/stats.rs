//! Figures of many tasks, one row per group.

use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::functions::{Aggregate, Context, FunctionFlags};
use rusqlite::{Connection, Row};

use super::dialect::{AnyInteger, AnyReal, AnyText};
use super::error::Result;
use super::filter::{TaskIndex, bind, period, selected};
use super::handle::Ledger;
use crate::task::{GroupBy, StatsGroup, Status, TaskFilter, TaskStats};

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

/// The day of a time. Only a column in another format than bookend's needs the slower function.
macro_rules! day {
    () => {
        "iif(started_at GLOB '[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]*', substr(started_at, 1, 10),
             recorded_day(started_at))"
    };
}

macro_rules! grouped {
    ($by:literal) => {
        concat!(
            "SELECT iif(:by_agent, agent, NULL), iif(:by_repo, repo, NULL), iif(:by_key, key, NULL),
               iif(:by_model, model, NULL), iif(:by_day, ",
            day!(),
            ", NULL), count(*),
               sum(status = 'running'), sum(status = 'success'), sum(status = 'failure'),
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
            "), percentiles_of_cost(",
            possible!("cost_usd", "1e9"),
            "), percentiles_of_time(",
            possible!("duration_ms", "1e12"),
            ") FROM task_history WHERE ",
            $by,
            " AND ",
            period!(),
            " AND ",
            selected!(),
            " GROUP BY 1, 2, 3, 4, 5
             ORDER BY iif(:by_newest, ",
            day!(),
            ", NULL) DESC, count(*) DESC, 1, 2, 3, 4, 5"
        )
    };
}

const BY_START: &str = grouped!("true");
const BY_KEY: &str = grouped!("key = :key");
const BY_REPO: &str = grouped!("repo = :repo");
const BY_AGENT: &str = grouped!("agent = :agent");
/// For one status, which is not `running` or `success`.
const BY_STATUS: &str = grouped!("status NOT IN ('running', 'success') AND status = :status");

impl Ledger {
    /// The largest groups first; if days come first, the newest ones. All groups are read for the total, and
    /// the first ones are kept.
    pub fn stats(&self, by: &[GroupBy], filter: &TaskFilter, limit: usize) -> Result<TaskStats> {
        read(self.conn(), by, filter, limit).map_err(self.failed("adding up tasks"))
    }
}

/// The statement by the index with the fewest entries. Tasks of several statuses are found by their start.
fn statement(conn: &Connection, filter: &TaskFilter) -> rusqlite::Result<&'static str> {
    Ok(match TaskIndex::best(conn, filter)? {
        TaskIndex::Key => BY_KEY,
        TaskIndex::Repo => BY_REPO,
        TaskIndex::Agent => BY_AGENT,
        TaskIndex::Status if filter.statuses.len() == 1 => BY_STATUS,
        TaskIndex::Status | TaskIndex::Start => BY_START,
    })
}

fn read(conn: &Connection, by: &[GroupBy], filter: &TaskFilter, limit: usize) -> rusqlite::Result<TaskStats> {
    let costs = Percentiles::register(conn, "percentiles_of_cost")?;
    let times = Percentiles::register(conn, "percentiles_of_time")?;
    let mut statement = conn.prepare(statement(conn, filter)?)?;
    filter.bind(&mut statement)?;
    for (column, name) in GROUPED.iter().zip(NAMES) {
        bind(&mut statement, name, &by.contains(column))?;
    }
    bind(&mut statement, ":by_newest", &(by.first() == Some(&GroupBy::Day)))?;
    bind(&mut statement, ":status", &filter.statuses.first().copied().map(Status::as_str))?;
    let mut stats = TaskStats { groups: Vec::new(), total: StatsGroup::default(), has_more: false };
    for group in statement.raw_query().mapped(|row| group_of_row(row, by)) {
        let group = group?;
        stats.total.add(&group);
        match stats.groups.len() < limit {
            true => stats.groups.push(group),
            false => stats.has_more = true,
        }
    }
    let [median, p95] = percentiles(&costs.of_all());
    (stats.total.cost_usd_median, stats.total.cost_usd_p95) = (median, p95);
    let [median, p95] = percentiles(&times.of_all()).map(|ms| ms.map(|ms| ms.round() as i64));
    (stats.total.duration_ms_median, stats.total.duration_ms_p95) = (median, p95);
    Ok(stats)
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

/// An SQL function: the median and the 95th percentile of the known values, as two numbers in a blob.
#[derive(Clone, Default)]
struct Percentiles {
    /// The values of all groups that are complete.
    all: Arc<Mutex<Vec<f64>>>,
}

impl Percentiles {
    fn register(conn: &Connection, name: &str) -> rusqlite::Result<Percentiles> {
        let percentiles = Percentiles::default();
        let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
        conn.create_aggregate_function(name, 1, flags, percentiles.clone())?;
        Ok(percentiles)
    }

    fn of_all(&self) -> Vec<u8> {
        blob(&mut self.all.lock().unwrap_or_else(PoisonError::into_inner))
    }
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
        self.all.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&values);
        Ok(blob(&mut values))
    }
}

fn blob(values: &mut [f64]) -> Vec<u8> {
    values.sort_unstable_by(f64::total_cmp);
    let found = [0.5, 0.95].iter().filter_map(|share| percentile(values, *share));
    found.flat_map(f64::to_le_bytes).collect()
}

/// The value below which this share of the sorted values lies; between two values, the line through them.
fn percentile(sorted: &[f64], share: f64) -> Option<f64> {
    let place = share * (sorted.len().checked_sub(1)? as f64);
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    Some(below + (above - below) * place.fract())
}

/// The numbers of a [`blob`].
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
        for sql in [BY_KEY, BY_REPO, BY_AGENT, BY_STATUS] {
            // The groups are sorted, whatever they are read by.
            let read = sql.split(" GROUP BY").next().unwrap();
            each_uses_an_index(&[&read
                .replace("percentiles_of_cost(", "max(")
                .replace("percentiles_of_time(", "max(")]);
        }
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
