//! Turns what is read from the fleet's database into tasks and figures.
//!
//! Any host of the fleet may have written a value: one that no ledger holds hides neither its row nor others.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::task::{
    FleetFacts, FleetTask, GroupBy, Key, RecordedTime, SessionInvalidation, StatsGroup, Status,
    StatusTransition, Task, TaskId, TaskStats,
};

/// The columns without which a row is not shown. They hold text, whole numbers or times, so that any value
/// can be read.
const NEEDED: [&str; 14] = [
    "id",
    "key",
    "repo",
    "agent",
    "agent_type",
    "model",
    "host",
    "cwd",
    "status",
    "reason",
    "error",
    "started_at",
    "finished_at",
    "duration_ms",
];

/// A part of a list, and where the next one begins.
#[derive(Debug)]
pub struct FleetPage {
    pub tasks: Vec<FleetTask>,
    /// The last task of a page that is full.
    pub next: Option<FleetPlace>,
}

/// The place of a task in a list, as the database orders it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetPlace {
    pub(super) started_at: String,
    pub(super) id: String,
}

/// What the fleet knows about a task besides its row.
#[derive(Debug, Default, Deserialize)]
pub struct FleetHistory {
    pub transitions: Vec<StatusTransition>,
    pub invalidations: Vec<SessionInvalidation>,
    pub replaced_by: Option<TaskId>,
}

/// A running task whose key was held by another one.
#[derive(Debug, Deserialize)]
pub struct DoubleClaim {
    pub task: TaskId,
    pub host: String,
    pub key: Option<Key>,
    pub other_task: Option<TaskId>,
    pub other_host: Option<String>,
    pub at: RecordedTime,
    /// It still runs.
    pub is_running: bool,
}

/// What an audit asks the fleet for.
#[derive(Debug)]
pub struct FleetAudit {
    /// The running tasks whose hosts do not answer.
    pub unreachable: Vec<FleetTask>,
    /// The tasks that their hosts ended after the fleet had.
    pub late: Vec<FleetTask>,
    /// The tasks whose hooks failed, and those with contradictory times.
    pub unsettled: Vec<FleetTask>,
    pub double_claims: Vec<DoubleClaim>,
}

/// What came of an order to cancel a task.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum OrderAnswer {
    /// The task's host is to carry it out.
    Ordered {
        #[serde(rename = "order")]
        number: i64,
    },
    /// The task had ended.
    Ended { status: String },
    /// There is no such task.
    Unknown,
}

impl FleetPage {
    /// The page of these rows; `most`: a full page.
    pub(super) fn of(rows: Vec<Value>, most: usize) -> FleetPage {
        let next = if rows.len() < most { None } else { rows.last().and_then(FleetPlace::of) };
        FleetPage { tasks: tasks(rows), next }
    }
}

impl FleetPlace {
    fn of(row: &Value) -> Option<FleetPlace> {
        let text = |name: &str| row.get(name)?.as_str().map(str::to_owned);
        Some(FleetPlace { started_at: text("started_at")?, id: text("id")? })
    }
}

pub(super) fn tasks(rows: Vec<Value>) -> Vec<FleetTask> {
    rows.into_iter().filter_map(task).collect()
}

/// The task of a row. `None`: not even its id can be read.
fn task(row: Value) -> Option<FleetTask> {
    let Value::Object(mut row) = row else { return None };
    row.retain(|_, value| !value.is_null());
    let text = |value: Value| value.as_str().map(str::to_owned);
    let fleet = FleetFacts {
        node: row.remove("node").and_then(text).unwrap_or_default(),
        unreachable_since: row.remove("unreachable_since").and_then(text).map(recorded),
        late: row.remove("late"),
        is_elsewhere: true,
    };
    if let Some(word) = row.get("status").and_then(Value::as_str)
        && Status::parse(word).is_none()
    {
        // It is shown as the reason, and counts as a failure.
        let word = Value::from(word);
        row.entry("reason").or_insert(word);
    }
    let task = serde_json::from_value(Value::Object(row.clone())).or_else(|_| {
        row.retain(|name, _| NEEDED.contains(&name.as_str()));
        serde_json::from_value(Value::Object(row))
    });
    Some(FleetTask { task: with_times(task.ok()?), fleet: Some(fleet) })
}

/// PostgreSQL writes a time in the time zone of the session.
fn recorded(text: String) -> RecordedTime {
    normal(RecordedTime::recorded(text))
}

fn normal(time: RecordedTime) -> RecordedTime {
    time.time().map_or(time, RecordedTime::At)
}

fn with_times(task: Task) -> Task {
    Task {
        started_at: normal(task.started_at),
        finished_at: task.finished_at.map(normal),
        agent_released_at: task.agent_released_at.map(normal),
        last_seen_at: task.last_seen_at.map(normal),
        delivered_at: task.delivered_at.map(normal),
        cleanup_after: task.cleanup_after.map(normal),
        hinted_at: task.hinted_at.map(normal),
        limit_resets_at: task.limit_resets_at.map(normal),
        ..task
    }
}

/// A group as the database returns it.
#[derive(Debug, Deserialize)]
pub(super) struct FleetGroup {
    is_total: bool,
    by: Map<String, Value>,
    costs: Option<[Option<f64>; 2]>,
    times: Option<[Option<f64>; 2]>,
    #[serde(flatten)]
    figures: StatsGroup,
}

impl FleetGroup {
    fn named(self, by: &[GroupBy]) -> StatsGroup {
        let name = |by: &GroupBy| self.by.get(by.as_str()).and_then(Value::as_str).map(str::to_owned);
        let [cost_usd_median, cost_usd_p95] = self.costs.unwrap_or_default();
        let [duration_ms_median, duration_ms_p95] =
            self.times.unwrap_or_default().map(|ms| ms.map(|ms| ms.round() as i64));
        let names = match self.is_total {
            true => Vec::new(),
            false => by.iter().filter(|by| **by != GroupBy::All).map(name).collect(),
        };
        StatsGroup {
            names,
            cost_usd_median,
            cost_usd_p95,
            duration_ms_median,
            duration_ms_p95,
            ..self.figures
        }
    }
}

/// The figures of at most `limit` groups. The total is one of the groups that the database returned.
pub(super) fn stats(groups: Vec<FleetGroup>, by: &[GroupBy], limit: usize) -> TaskStats {
    let (total, groups): (Vec<_>, Vec<_>) = groups.into_iter().partition(|group| group.is_total);
    let total = total.into_iter().next().map_or_else(StatsGroup::default, |total| total.named(by));
    let has_more = groups.len() > limit;
    let groups = groups.into_iter().take(limit).map(|group| group.named(by)).collect();
    TaskStats { groups, total, has_more }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_time_of_any_zone_is_the_same_time() {
        let row = json!({"id": "a", "status": "success", "started_at": "2026-11-30T13:00:00.25+01:00",
            "node": "n", "last_seen_at": "infinity", "key": null});
        let read = task(row).unwrap();
        assert_eq!(read.task.started_at.to_string(), "2026-11-30T12:00:00.250Z");
        assert_eq!(read.task.last_seen_at.map(|t| t.to_string()).as_deref(), Some("infinity"));
        assert_eq!((read.task.key, read.task.delivery_attempts), (None, 0));
    }

    #[test]
    fn a_value_that_no_ledger_holds_hides_neither_its_row_nor_others() {
        let row = |other: Value| {
            let mut row = json!({"id": "a", "status": "running", "started_at": "2026-11-30T13:00:00Z"});
            row.as_object_mut().unwrap().extend(other.as_object().unwrap().clone());
            row
        };
        let odd = [
            json!({"supervisor_start": -1}),
            json!({"argv": {"a": 1}}),
            json!({"cost_usd": "NaN"}),
            json!({"exit_code": 1_u64 << 40}),
            json!({"status": "resting"}),
        ];
        let rows: Vec<Value> = odd.into_iter().map(row).chain([json!(1), json!({"id": "b"})]).collect();
        let read = tasks(rows);
        assert_eq!(read.len(), 5);
        assert!(read.iter().all(|t| t.task.id == "a" && t.is_elsewhere()));
        assert_eq!((read[4].task.status, read[4].task.reason.as_deref()), (Status::Failure, Some("resting")));
    }

    #[test]
    fn a_page_that_is_not_full_is_the_last_one() {
        let rows = |n: usize| (0..n).map(|n| json!({"id": n.to_string(), "started_at": "x"})).collect();
        assert_eq!(FleetPage::of(rows(2), 3).next, None);
        let next = FleetPage::of(rows(3), 3).next.unwrap();
        assert_eq!((next.id.as_str(), next.started_at.as_str()), ("2", "x"));
    }
}
