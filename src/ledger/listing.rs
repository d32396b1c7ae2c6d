//! Lists tasks: the running ones first, then the ended ones, each newest first.

use std::borrow::Cow;
use std::collections::HashSet;

use rusqlite::Connection;

use super::error::Result;
use super::filter::{TaskIndex, bind, period, selected};
use super::handle::Ledger;
use super::row::{Place, placed_task_of_row, select};
use crate::task::{Status, Task, TaskCount, TaskFilter, TaskId};

/// The tasks that are read at once. Neither memory nor a transaction lasts longer than for one such page.
const PAGE: i64 = 64;

/// `:after` and `:after_row` are the place of the last task of the page before.
macro_rules! listed {
    ($by:literal) => {
        select!(
            @placed
            "WHERE ",
            $by,
            " AND started_at >= coalesce(kept_time('task_history.started_at', :since), -9e999)
             AND started_at <= coalesce(:after, kept_time('task_history.started_at', :until), x'ff')
             AND +started_at < coalesce(kept_time('task_history.started_at', :until), x'ff')
             AND (:after IS NULL OR +started_at < :after OR +rowid < :after_row)
             AND ",
            selected!(),
            " ORDER BY started_at DESC, rowid DESC LIMIT :limit"
        )
    };
}

const SELECT_RUNNING: &str = listed!("status = 'running'");
const SELECT_ENDED: &str = listed!("status <> 'running'");
const SELECT_ENDED_BY_KEY: &str = listed!("status <> 'running' AND key = :key");
const SELECT_ENDED_BY_REPO: &str = listed!("status <> 'running' AND repo = :repo");
const SELECT_ENDED_BY_AGENT: &str = listed!("status <> 'running' AND agent = :agent");
const SELECT_ENDED_BY_STATUS: &str = listed!("status NOT IN ('running', 'success') AND status = :status");
/// Started before `:since`, ended then or later: on that day, or on another day than it started. The second
/// condition is that of the index in `migrations/004.sql`, word for word; otherwise SQLite does not use it.
const SELECT_ENDED_SINCE: &str = select!(
    "WHERE rowid IN (
        SELECT rowid FROM task_history
        WHERE status <> 'running' AND last_seen_at >= :since AND last_seen_at < substr(:since, 1, 10) || '~'
          AND started_at < kept_time('task_history.started_at', :since)
        UNION ALL
        SELECT rowid FROM task_history
        WHERE last_seen_at > substr(started_at, 1, 10) || '~' AND last_seen_at >= :since
          AND started_at < kept_time('task_history.started_at', :since))
     AND +status <> 'running'
     AND +started_at < coalesce(kept_time('task_history.started_at', :until), x'ff')
     AND ",
    selected!(),
    " ORDER BY last_seen_at DESC LIMIT :limit"
);

/// The entries of an index that are examined to count tasks.
const COUNTED: i64 = 1000;

/// How many tasks are selected among the first entries of an index, and how many entries were examined.
macro_rules! counted {
    ($by:literal) => {
        concat!(
            "SELECT coalesce(sum(taken), 0), count(*) FROM (SELECT ",
            selected!(),
            " AS taken FROM task_history WHERE ",
            $by,
            " AND ",
            period!(),
            " LIMIT :limit)"
        )
    };
}

const COUNT_RUNNING: &str = counted!("status = 'running'");
// Of all statuses: unless the filter names some, the index has all that is needed, and no row is read.
const COUNT_BY_START: &str = counted!("true");
const COUNT_BY_KEY: &str = counted!("key = :key");
const COUNT_BY_REPO: &str = counted!("repo = :repo");
const COUNT_BY_AGENT: &str = counted!("agent = :agent");
const COUNT_BY_STATUS: &str = counted!("status NOT IN ('running', 'success') AND status = :status");

const DATA_VERSION: &str = "PRAGMA data_version";

impl Ledger {
    /// The running tasks first, then those that ended, each newest first.
    pub fn tasks(&self, filter: &TaskFilter) -> Result<Vec<Task>> {
        let mut tasks = Vec::new();
        for page in self.pages(filter) {
            tasks.extend(page?);
        }
        Ok(tasks)
    }

    /// As [`Ledger::tasks`], page by page. A task that ends meanwhile is listed once.
    pub fn pages<'a>(&'a self, filter: &'a TaskFilter) -> TaskPages<'a> {
        self.pages_by(Cow::Borrowed(filter))
    }

    /// As [`Ledger::pages`], of a filter that the pages keep.
    pub fn pages_of(&self, filter: TaskFilter) -> TaskPages<'_> {
        self.pages_by(Cow::Owned(filter))
    }

    fn pages_by<'a>(&'a self, filter: Cow<'a, TaskFilter>) -> TaskPages<'a> {
        let (next, left) = (NextPage::Running, filter.sql_limit());
        TaskPages { ledger: self, filter, next, left, running: HashSet::new() }
    }

    /// Counts the tasks that a filter selects, whatever its limit. Of a long history only a part is examined.
    pub fn count(&self, filter: &TaskFilter) -> Result<TaskCount> {
        count(self.conn(), filter).map_err(self.failed("counting tasks"))
    }

    /// The tasks that ran at `filter.since` or later, whenever they started.
    pub fn tasks_in_flight_since(&self, filter: &TaskFilter) -> Result<Vec<Task>> {
        let mut tasks = Vec::new();
        if filter.takes_running() {
            let running = TaskFilter { since: None, statuses: vec![Status::Running], ..filter.clone() };
            tasks = self.tasks(&running)?;
        }
        tasks.extend(self.tasks(filter)?.into_iter().filter(|t| t.status != Status::Running));
        let ended = || -> rusqlite::Result<Vec<Task>> {
            let mut statement = self.conn().prepare(SELECT_ENDED_SINCE)?;
            filter.bind(&mut statement)?;
            bind(&mut statement, ":limit", &filter.sql_limit())?;
            statement.raw_query().mapped(super::row::task_of_row).collect()
        };
        tasks.extend(ended().map_err(self.failed("reading the tasks in flight"))?);
        Ok(tasks)
    }

    /// A number that changes when another process writes to the ledger. SQLite reads it from shared memory.
    pub fn version(&self) -> Result<i64> {
        self.conn()
            .query_row(DATA_VERSION, [], |row| row.get(0))
            .map_err(self.failed("checking whether it has changed"))
    }
}

/// The pages of a list.
pub struct TaskPages<'a> {
    ledger: &'a Ledger,
    filter: Cow<'a, TaskFilter>,
    next: NextPage,
    /// How many tasks the limit still allows.
    left: i64,
    /// The tasks that were listed as running.
    running: HashSet<TaskId>,
}

enum NextPage {
    Running,
    /// The ended tasks after this place, by this index once it is chosen.
    Ended(Option<TaskIndex>, Option<Place>),
    None,
}

impl Iterator for TaskPages<'_> {
    type Item = Result<Vec<Task>>;

    fn next(&mut self) -> Option<Result<Vec<Task>>> {
        let page = loop {
            if self.left <= 0 {
                return None;
            }
            match self.read() {
                Ok(Some(page)) if page.is_empty() => {}
                other => break other.transpose()?,
            }
        };
        if page.is_err() {
            self.next = NextPage::None;
        }
        Some(page.map_err(self.ledger.failed("reading tasks")))
    }
}

impl TaskPages<'_> {
    /// The next page, which may be empty; `None`: there is none.
    fn read(&mut self) -> rusqlite::Result<Option<Vec<Task>>> {
        let (conn, filter) = (self.ledger.conn(), self.filter.as_ref());
        let mut page = match std::mem::replace(&mut self.next, NextPage::None) {
            NextPage::None => return Ok(None),
            NextPage::Running => {
                let is_for_running = filter.ended().is_some_and(|statuses| statuses.is_empty());
                if !is_for_running {
                    self.next = NextPage::Ended(None, None);
                }
                match filter.takes_running() {
                    true => {
                        read(conn, SELECT_RUNNING, filter, &Range { limit: self.left, ..Range::default() })?
                    }
                    false => Vec::new(),
                }
            }
            NextPage::Ended(index, after) => {
                let index = index.map_or_else(|| TaskIndex::best(conn, filter), Ok)?;
                let limit = self.left.min(PAGE);
                let page = ended(conn, index, filter, after.as_ref(), limit)?;
                if page.len() as i64 == limit {
                    self.next = NextPage::Ended(Some(index), page.last().map(|(place, _)| place.clone()));
                }
                page
            }
        };
        page.retain(|(_, task)| !self.running.contains(&task.id));
        let running = page.iter().filter(|(_, task)| task.status == Status::Running);
        self.running.extend(running.map(|(_, task)| task.id.clone()));
        self.left -= page.len() as i64;
        Ok(Some(page.into_iter().map(|(_, task)| task).collect()))
    }
}

/// What a statement reads besides the filter.
#[derive(Default)]
struct Range<'a> {
    status: Option<Status>,
    after: Option<&'a Place>,
    limit: i64,
}

/// A page of the ended tasks. Each status has its own range of the index, and the ranges are merged.
fn ended(
    conn: &Connection,
    index: TaskIndex,
    filter: &TaskFilter,
    after: Option<&Place>,
    limit: i64,
) -> rusqlite::Result<Vec<(Place, Task)>> {
    let one = Range { status: None, after, limit };
    let mut page = match index {
        TaskIndex::Start => read(conn, SELECT_ENDED, filter, &one)?,
        TaskIndex::Key => read(conn, SELECT_ENDED_BY_KEY, filter, &one)?,
        TaskIndex::Repo => read(conn, SELECT_ENDED_BY_REPO, filter, &one)?,
        TaskIndex::Agent => read(conn, SELECT_ENDED_BY_AGENT, filter, &one)?,
        TaskIndex::Status => {
            let mut all = Vec::new();
            for status in filter.ended().unwrap_or_default() {
                let range = Range { status: Some(status), ..one };
                all.extend(read(conn, SELECT_ENDED_BY_STATUS, filter, &range)?);
            }
            all.sort_by(|(a, _), (b, _)| b.order(a));
            all
        }
    };
    page.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(page)
}

fn read(
    conn: &Connection,
    sql: &str,
    filter: &TaskFilter,
    range: &Range<'_>,
) -> rusqlite::Result<Vec<(Place, Task)>> {
    let mut statement = conn.prepare_cached(sql)?;
    filter.bind(&mut statement)?;
    bind(&mut statement, ":status", &range.status.map(Status::as_str))?;
    bind(&mut statement, ":after", &range.after.map(|place| &place.started_at))?;
    bind(&mut statement, ":after_row", &range.after.map(|place| place.rowid))?;
    bind(&mut statement, ":limit", &range.limit)?;
    statement.raw_query().mapped(placed_task_of_row).collect()
}

fn count(conn: &Connection, filter: &TaskFilter) -> rusqlite::Result<TaskCount> {
    let mut total = TaskCount { at_least: 0, is_exact: true };
    let mut add = |sql: &str, status: Option<Status>| -> rusqlite::Result<()> {
        let mut statement = conn.prepare_cached(sql)?;
        filter.bind(&mut statement)?;
        bind(&mut statement, ":status", &status.map(Status::as_str))?;
        bind(&mut statement, ":limit", &COUNTED)?;
        let mut rows = statement.raw_query();
        if let Some(row) = rows.next()? {
            let (taken, examined): (i64, i64) = (row.get(0)?, row.get(1)?);
            total.at_least += usize::try_from(taken).unwrap_or_default();
            total.is_exact &= examined < COUNTED;
        }
        Ok(())
    };
    let statuses = filter.ended();
    let index = match statuses.as_ref().is_some_and(Vec::is_empty) {
        true => TaskIndex::Status,
        false => TaskIndex::best(conn, filter)?,
    };
    match index {
        TaskIndex::Start => add(COUNT_BY_START, None)?,
        TaskIndex::Key => add(COUNT_BY_KEY, None)?,
        TaskIndex::Repo => add(COUNT_BY_REPO, None)?,
        TaskIndex::Agent => add(COUNT_BY_AGENT, None)?,
        TaskIndex::Status => {
            if filter.takes_running() {
                add(COUNT_RUNNING, None)?;
            }
            for status in statuses.unwrap_or_default() {
                add(COUNT_BY_STATUS, Some(status))?;
            }
        }
    }
    Ok(total)
}

#[cfg(test)]
mod tests;
