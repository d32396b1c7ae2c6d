//! The table of `list`, one task per line.

use anstyle::{AnsiColor, Style};
use serde_json::Value;

use super::screen::Screen;
use super::table::{Cell, Column, Shrinks, table};
use super::text::{ago, count, cut, duration, money, one_line, short_ids, since, when};
use crate::task::{FleetTask, Key, RecordedTime, SessionId, Status, Task, Time, Verdict};

/// A task as listed.
#[derive(Debug, Clone)]
pub struct ListedTask {
    pub row: FleetTask,
    /// The verdict on a running task.
    pub verdict: Option<Verdict>,
    /// Its command in a few words.
    pub command: String,
}

/// A column of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskColumn {
    Id,
    Status,
    Why,
    Agent,
    Key,
    Host,
    Repo,
    Issue,
    User,
    Model,
    Started,
    Time,
    Turns,
    Tokens,
    Cost,
    Tool,
    Session,
    Cwd,
    Command,
}

use TaskColumn as C;

impl TaskColumn {
    pub const ALL: [TaskColumn; 19] = [
        C::Id,
        C::Status,
        C::Why,
        C::Agent,
        C::Key,
        C::Host,
        C::Repo,
        C::Issue,
        C::User,
        C::Model,
        C::Started,
        C::Time,
        C::Turns,
        C::Tokens,
        C::Cost,
        C::Tool,
        C::Session,
        C::Cwd,
        C::Command,
    ];

    /// The columns of `list` in a fleet.
    pub const LIST_OF_HOSTS: [TaskColumn; 11] = [
        C::Id,
        C::Status,
        C::Why,
        C::Host,
        C::Agent,
        C::Key,
        C::Started,
        C::Time,
        C::Turns,
        C::Cost,
        C::Command,
    ];

    /// The columns of `list`.
    pub const LIST: [TaskColumn; 10] =
        [C::Id, C::Status, C::Why, C::Agent, C::Key, C::Started, C::Time, C::Turns, C::Cost, C::Command];

    /// The columns of `list --watch`: what changes while a task runs.
    pub const WATCH: [TaskColumn; 10] =
        [C::Id, C::Status, C::Why, C::Agent, C::Key, C::Time, C::Tokens, C::Cost, C::Tool, C::Command];

    /// As `WATCH`, with the host of each task.
    pub const WATCH_OF_HOSTS: [TaskColumn; 11] = [
        C::Id,
        C::Status,
        C::Why,
        C::Host,
        C::Agent,
        C::Key,
        C::Time,
        C::Tokens,
        C::Cost,
        C::Tool,
        C::Command,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            C::Id => "id",
            C::Status => "status",
            C::Why => "why",
            C::Agent => "agent",
            C::Key => "key",
            C::Host => "host",
            C::Repo => "repo",
            C::Issue => "issue",
            C::User => "user",
            C::Model => "model",
            C::Started => "started",
            C::Time => "time",
            C::Turns => "turns",
            C::Tokens => "tokens",
            C::Cost => "cost",
            C::Tool => "tool",
            C::Session => "session",
            C::Cwd => "cwd",
            C::Command => "command",
        }
    }

    fn column(self) -> Column {
        let (title, right, shrinks, matters) = match self {
            C::Id => ("ID", false, Shrinks::Never, 20),
            C::Status => ("STATUS", false, Shrinks::Never, 19),
            C::Why => ("WHY", false, Shrinks::AtEnd(8), 15),
            C::Agent => ("AGENT", false, Shrinks::AtEnd(6), 13),
            C::Key => ("KEY", false, Shrinks::AtStart(10), 18),
            C::Host => ("HOST", false, Shrinks::AtEnd(6), 17),
            C::Repo => ("REPO", false, Shrinks::AtStart(10), 4),
            C::Issue => ("ISSUE", true, Shrinks::Never, 3),
            C::User => ("USER", false, Shrinks::AtEnd(6), 2),
            C::Model => ("MODEL", false, Shrinks::AtEnd(8), 5),
            C::Started => ("STARTED", true, Shrinks::Never, 12),
            C::Time => ("TIME", true, Shrinks::Never, 14),
            C::Turns => ("TURNS", true, Shrinks::Never, 6),
            C::Tokens => ("TOKENS", true, Shrinks::Never, 9),
            C::Cost => ("COST", true, Shrinks::Never, 11),
            C::Tool => ("TOOL", false, Shrinks::AtEnd(8), 10),
            C::Session => ("SESSION", false, Shrinks::AtEnd(8), 1),
            C::Cwd => ("CWD", false, Shrinks::AtStart(10), 7),
            C::Command => ("COMMAND", false, Shrinks::AtEnd(16), 16),
        };
        Column { title, right, shrinks, matters }
    }

    fn cell(self, listed: &ListedTask, id: &str, now: Time, screen: Screen) -> Cell {
        let task = &listed.row.task;
        let known = |text: Option<&str>| one_line(text.unwrap_or_default()).into_owned();
        let text = match self {
            C::Id => one_line(id).into_owned(),
            C::Status => return Cell { text: task.status.to_string(), style: style(task.status) },
            C::Why => return why_cell(&listed.row, listed.verdict),
            C::Agent => known(task.agent.as_deref()),
            C::Key => known(task.key.as_ref().map(Key::as_str)),
            C::Host => known(task.host.as_deref()),
            C::Repo => known(task.repo.as_deref()),
            C::Issue => task.issue_number.map_or_else(String::new, |n| format!("#{n}")),
            C::User => known(task.user.as_deref()),
            C::Model => known(task.model.as_deref()),
            C::Started => ago(&task.started_at, now),
            C::Time => time(task, now),
            C::Turns => task.turns.map_or_else(String::new, |n| n.to_string()),
            C::Tokens => all_tokens(task).map_or_else(String::new, count),
            C::Cost => task.cost_usd.map_or_else(String::new, money),
            C::Tool => known(task.tool_in_flight.as_deref()),
            C::Session => known(task.session_id.as_ref().map(SessionId::as_str)),
            C::Cwd => known(task.cwd.as_deref()),
            // A pipe gets a line that a person can read, not a whole prompt.
            C::Command => cut(&one_line(&listed.command), screen.width.unwrap_or(80)).into_owned(),
        };
        Cell::from(text)
    }
}

/// The tasks in the given order, with these columns as far as they fit. `now`: for the age of running tasks.
pub fn tasks(tasks: &[ListedTask], columns: &[TaskColumn], now: Time, screen: Screen) -> String {
    let described: Vec<Column> = columns.iter().map(|c| c.column()).collect();
    table(&described, &rows(tasks, columns, now, screen), screen)
}

/// As [`tasks`], with columns that were asked for: the first ones matter most, and none is left out for being
/// empty.
pub fn tasks_in_columns(tasks: &[ListedTask], columns: &[TaskColumn], now: Time, screen: Screen) -> String {
    let matters = |place: usize| u8::try_from(columns.len() - place).unwrap_or(u8::MAX);
    let described: Vec<Column> =
        columns.iter().enumerate().map(|(nth, c)| Column { matters: matters(nth), ..c.column() }).collect();
    let mut rows = rows(tasks, columns, now, screen);
    for cell in rows.iter_mut().flatten().filter(|cell| cell.text.is_empty()) {
        "-".clone_into(&mut cell.text);
    }
    table(&described, &rows, screen)
}

fn rows(tasks: &[ListedTask], columns: &[TaskColumn], now: Time, screen: Screen) -> Vec<Vec<Cell>> {
    let ids: Vec<&str> = tasks.iter().map(|listed| listed.row.task.id.as_str()).collect();
    let row = |(listed, id): (&ListedTask, &str)| {
        columns.iter().map(|column| column.cell(listed, id, now, screen)).collect()
    };
    tasks.iter().zip(short_ids(&ids)).map(row).collect()
}

fn why_cell(row: &FleetTask, verdict: Option<Verdict>) -> Cell {
    if let Some(since) = row.unreachable_since() {
        return Cell { text: unreachable(since), style: AnsiColor::Yellow.on_default() };
    }
    let task = &row.task;
    let (text, style) = match verdict {
        Some(Verdict::Gone | Verdict::Recycled) => ("lost".to_owned(), AnsiColor::Red.on_default()),
        Some(Verdict::Unverifiable) => ("unverifiable".to_owned(), AnsiColor::Yellow.on_default()),
        Some(Verdict::Alive) | None if changed_nothing(task) => {
            ("no changes".to_owned(), Style::new().dimmed())
        }
        Some(Verdict::Alive) | None => (why(task), Style::new()),
    };
    Cell { text, style }
}

/// What is said about a running task whose host does not answer.
pub fn unreachable(since: &RecordedTime) -> String {
    let since = since.time().map_or_else(|| when(since), |time| format!("{:.0}", time.timestamp()));
    format!("unreachable since {since}")
}

/// All tokens, as far as they are known.
fn all_tokens(task: &Task) -> Option<i64> {
    let counts = [task.input_tokens, task.output_tokens, task.cache_read_tokens, task.cache_creation_tokens];
    counts.into_iter().flatten().reduce(i64::saturating_add)
}

pub fn style(status: Status) -> Style {
    let colour = match status {
        Status::Running => AnsiColor::Cyan,
        Status::Success => AnsiColor::Green,
        Status::Failure | Status::AbortedNoSkill => AnsiColor::Red,
        Status::Cancelled | Status::Interrupted => AnsiColor::Yellow,
    };
    colour.on_default()
}

/// The shortest text that says why it ended, or where it runs.
pub fn why(task: &Task) -> String {
    let reason = task.reason.as_deref().unwrap_or_default();
    match (task.status, task.exit_code, task.term_signal) {
        (Status::Running, ..) => task.agent_pid.map_or_else(String::new, |pid| format!("pid {pid}")),
        (Status::Success, ..) => String::new(),
        (Status::Failure, Some(code), _) if reason == "exit" => format!("exit {code}"),
        (Status::Failure, _, Some(signal)) if reason == "signal" => signal.to_string(),
        (Status::Interrupted, ..) if reason == "signal" => {
            task.stop_signal.map_or_else(|| reason.to_owned(), |s| s.to_string())
        }
        (Status::AbortedNoSkill, ..) => format!("no skill {}", one_line(reason)),
        _ => one_line(reason).into_owned(),
    }
}

/// Whether it succeeded in a git worktree that is clean and has the same HEAD as before.
pub fn changed_nothing(task: &Task) -> bool {
    let artifacts = task.artifacts.as_ref().and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let is_zero = |git: &Value, name: &str| git.get(name).and_then(Value::as_i64) == Some(0);
    let is_same = |git: &Value, before: &str, now: &str| {
        // Rows of earlier versions lack the branch before the run.
        git.get(before).is_none_or(|before| Some(before) == git.get(now))
    };
    let is_clean = |git: &Value| {
        git.get("kind").and_then(Value::as_str) == Some("git")
            && is_same(git, "head_before", "head")
            && is_same(git, "branch_before", "branch")
            && is_zero(git, "commits")
            && is_zero(git, "uncommitted")
    };
    task.status == Status::Success && !artifacts.is_empty() && artifacts.iter().all(is_clean)
}

fn time(task: &Task, now: Time) -> String {
    let ms = match task.status {
        Status::Running => since(&task.started_at, now),
        _ => task.duration_ms,
    };
    ms.map_or_else(String::new, duration)
}
