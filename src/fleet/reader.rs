//! Reads the tasks of a whole fleet, for a command that shows them.

use std::fmt;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::argument::CallArgument;
use super::connection::{self, ConnectOptions, FleetConnection};
use super::error::FleetError;
use super::queries;
use super::rows::{self, FleetAudit, FleetHistory, FleetPage, FleetPlace, OrderAnswer};
use super::url::DatabaseUrl;
use crate::error::Error;
use crate::task::{FleetTask, GroupBy, Key, Task, TaskFilter, TaskId, TaskStats, Time};

/// A connection on which tasks are read, one statement at a time.
pub struct FleetReader {
    connection: FleetConnection,
    /// It drives the connection, so it is dropped after it.
    runtime: Runtime,
}

impl fmt::Debug for FleetReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetReader").field("server", &self.connection.server()).finish()
    }
}

impl FleetReader {
    /// Connects, or gives up after three seconds.
    pub fn connect(url: &str) -> Result<FleetReader, Error> {
        FleetReader::connect_with(url, ConnectOptions::default())
    }

    /// As [`FleetReader::connect`], for a command that asks again later: each answer may take a few seconds.
    pub fn connect_to_follow(url: &str) -> Result<FleetReader, Error> {
        let call_timeout = Duration::from_secs(5);
        FleetReader::connect_with(url, ConnectOptions { call_timeout, ..ConnectOptions::default() })
    }

    fn connect_with(url: &str, options: ConnectOptions) -> Result<FleetReader, Error> {
        let url = DatabaseUrl::parse(url).map_err(FleetError::from)?;
        let runtime = connection::runtime().map_err(FleetError::from)?;
        match runtime.block_on(FleetConnection::connect(&url, options)) {
            Ok(connection) => Ok(FleetReader { connection, runtime }),
            Err(e) => {
                runtime.shutdown_background();
                Err(e.into())
            }
        }
    }

    /// A page of the running or of the ended tasks, newest first.
    pub fn page(
        &self,
        filter: &TaskFilter,
        is_running: bool,
        after: Option<&FleetPlace>,
        most: usize,
    ) -> Result<FleetPage, Error> {
        let mut arguments = selected(filter);
        arguments.extend([
            is_running.into(),
            after.map(|place| place.started_at.as_str()).into(),
            after.map(|place| place.id.as_str()).into(),
            number(most).into(),
        ]);
        Ok(FleetPage::of(self.rows(queries::PAGE, &arguments)?, most))
    }

    /// How many tasks are selected, besides these ones, up to `most`.
    pub fn count(&self, filter: &TaskFilter, besides: &[TaskId], most: usize) -> Result<usize, Error> {
        let mut arguments = selected(filter);
        arguments.extend([ids(besides).into(), number(most).into()]);
        self.one(queries::COUNT, &arguments)
    }

    /// The tasks that ran at `filter.since` or later, whenever they started.
    pub fn in_flight_since(&self, filter: &TaskFilter) -> Result<Vec<FleetTask>, Error> {
        let mut arguments = selected(filter);
        arguments.push(filter.limit.map_or(i64::MAX, number).into());
        Ok(rows::tasks(self.rows(queries::IN_FLIGHT, &arguments)?))
    }

    /// The first ten tasks whose ids begin with this text.
    pub fn with_prefix(&self, prefix: &str) -> Result<Vec<FleetTask>, Error> {
        let end = format!("{prefix}{}", char::MAX);
        let arguments = [prefix.into(), end.as_str().into()];
        Ok(rows::tasks(self.rows(queries::BY_PREFIX, &arguments)?))
    }

    /// The task with this id.
    pub fn task(&self, id: &TaskId) -> Result<Option<FleetTask>, Error> {
        Ok(rows::tasks(self.rows(queries::BY_ID, &[id.as_str().into()])?).pop())
    }

    /// Orders that the task's host cancels it, as an operator.
    pub fn order_cancel(&self, id: &TaskId) -> Result<OrderAnswer, Error> {
        let arguments = [id.as_str().into()];
        let called = self.connection.call(queries::CANCEL, &arguments);
        self.runtime.block_on(called).map_err(|e| e.of_operator(self.connection.user()))
    }

    /// What came of an order; `None` while it is open.
    pub fn order_result(&self, number: i64) -> Result<Option<String>, Error> {
        self.one(queries::ORDER_RESULT, &[number.into()])
    }

    /// The task that was started last, of those with this key if there is one.
    pub fn newest(&self, key: Option<&Key>) -> Result<Option<FleetTask>, Error> {
        let newest = self.rows(queries::NEWEST, &[key.map(Key::as_str).into()])?;
        Ok(rows::tasks(newest).pop())
    }

    /// What is known of a task besides its row.
    pub fn history(&self, task: &Task) -> Result<FleetHistory, Error> {
        let key = task.key.as_ref().map(Key::as_str);
        self.one(queries::HISTORY, &[task.id.as_str().into(), key.into()])
    }

    /// The figures of the selected tasks. `fresh` are tasks of this host that the database may not have, or
    /// not as they are now; `besides` are their ids, and those of others that are not to be counted.
    pub fn stats(
        &self,
        (by, limit): (&[GroupBy], usize),
        filter: &TaskFilter,
        besides: &[TaskId],
        fresh: &[&Task],
    ) -> Result<TaskStats, Error> {
        let mut arguments = selected(filter);
        let words = by.iter().map(|by| by.as_str().to_owned()).collect::<Vec<_>>();
        arguments.extend([
            ids(besides).into(),
            fresh.iter().map(|task| figures(task)).collect::<Value>().into(),
            words.into(),
            (by.first() == Some(&GroupBy::Day)).into(),
            // The total, and one more to know whether there are more.
            number(limit.saturating_add(2)).into(),
        ]);
        Ok(rows::stats(self.rows(queries::STATS, &arguments)?, by, limit))
    }

    /// What an audit asks for.
    pub fn audit(&self) -> Result<FleetAudit, Error> {
        let tasks = |sql| Ok::<_, Error>(rows::tasks(self.rows(sql, &[])?));
        Ok(FleetAudit {
            unreachable: tasks(queries::UNREACHABLE)?,
            late: tasks(queries::LATE)?,
            unsettled: tasks(queries::UNSETTLED)?,
            double_claims: self.rows(queries::DOUBLE_CLAIMS, &[])?,
        })
    }

    fn rows<T: DeserializeOwned>(
        &self,
        sql: &'static str,
        arguments: &[CallArgument],
    ) -> Result<Vec<T>, Error> {
        Ok(self.runtime.block_on(self.connection.rows(sql, arguments))?)
    }

    fn one<T: DeserializeOwned>(&self, sql: &'static str, arguments: &[CallArgument]) -> Result<T, Error> {
        Ok(self.runtime.block_on(self.connection.call(sql, arguments))?)
    }
}

/// The parameters of a filter, $1 to $7.
fn selected(filter: &TaskFilter) -> Vec<CallArgument> {
    let statuses: Vec<String> = filter.statuses.iter().map(ToString::to_string).collect();
    let [since, until] = [filter.since, filter.until].map(|time| time.map(moment));
    vec![
        statuses.into(),
        filter.key.as_ref().map(Key::as_str).into(),
        filter.repo.as_deref().into(),
        filter.agent.as_deref().into(),
        filter.model.as_deref().into(),
        since.as_deref().into(),
        until.as_deref().into(),
    ]
}

/// A time for PostgreSQL, which writes the years before 1 otherwise.
fn moment(time: Time) -> String {
    let text = time.to_string();
    let is_early = text.starts_with(['-']) || text.starts_with("0000");
    if is_early { "-infinity".to_owned() } else { text }
}

fn number(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn ids(ids: &[TaskId]) -> Vec<String> {
    ids.iter().map(ToString::to_string).collect()
}

/// What figures are made of.
fn figures(task: &Task) -> Value {
    json!({
        "status": task.status,
        "started_at": task.started_at.time().map(moment),
        "agent": task.agent,
        "repo": task.repo,
        "key": task.key,
        "model": task.model,
        "cost_usd": task.cost_usd,
        "duration_ms": task.duration_ms,
        "turns": task.turns,
        "input_tokens": task.input_tokens,
        "output_tokens": task.output_tokens,
        "cache_read_tokens": task.cache_read_tokens,
        "cache_creation_tokens": task.cache_creation_tokens,
    })
}
