//! The table of `list`, one task per line.

use anstyle::{AnsiColor, Style};
use serde_json::Value;

use super::screen::Screen;
use super::table::{Cell, Column, Shrinks, table};
use super::text::{ago, duration, money, one_line, short_ids, since};
use crate::task::{Key, Status, Task, Time, Verdict};

const COLUMNS: [Column; 9] = [
    Column { title: "ID", right: false, shrinks: Shrinks::Never, matters: 9 },
    Column { title: "STATUS", right: false, shrinks: Shrinks::Never, matters: 8 },
    Column { title: "WHY", right: false, shrinks: Shrinks::AtEnd(8), matters: 5 },
    Column { title: "AGENT", right: false, shrinks: Shrinks::AtEnd(6), matters: 6 },
    Column { title: "KEY", right: false, shrinks: Shrinks::AtStart(10), matters: 7 },
    Column { title: "STARTED", right: true, shrinks: Shrinks::Never, matters: 4 },
    Column { title: "TIME", right: true, shrinks: Shrinks::Never, matters: 3 },
    Column { title: "TURNS", right: true, shrinks: Shrinks::Never, matters: 1 },
    Column { title: "COST", right: true, shrinks: Shrinks::Never, matters: 2 },
];

/// The tasks in the given order. `now`: for the age of running tasks.
///
/// `verdicts`: for each running task, in the same order, whether it is alive.
pub fn tasks(tasks: &[Task], verdicts: &[Option<Verdict>], now: Time, screen: Screen) -> String {
    let ids: Vec<&str> = tasks.iter().map(|t| t.id.as_str()).collect();
    let rows: Vec<Vec<Cell>> =
        tasks.iter().zip(verdicts).zip(short_ids(&ids)).map(|((t, v), id)| row(t, *v, id, now)).collect();
    table(&COLUMNS, &rows, screen)
}

fn row(task: &Task, verdict: Option<Verdict>, id: &str, now: Time) -> Vec<Cell> {
    let (why, style_of_why) = match verdict {
        Some(Verdict::Gone | Verdict::Recycled) => ("lost".to_owned(), AnsiColor::Red.on_default()),
        Some(Verdict::Unverifiable) => ("unverifiable".to_owned(), AnsiColor::Yellow.on_default()),
        Some(Verdict::Alive) | None if changed_nothing(task) => {
            ("no changes".to_owned(), Style::new().dimmed())
        }
        Some(Verdict::Alive) | None => (why(task), Style::new()),
    };
    let known = |text: Option<&str>| one_line(text.unwrap_or_default()).into_owned();
    vec![
        Cell::from(one_line(id).into_owned()),
        Cell { text: task.status.to_string(), style: style(task.status) },
        Cell { text: why, style: style_of_why },
        Cell::from(known(task.agent.as_deref())),
        Cell::from(known(task.key.as_ref().map(Key::as_str))),
        Cell::from(ago(&task.started_at, now)),
        Cell::from(time(task, now)),
        Cell::from(task.turns.map_or_else(String::new, |n| n.to_string())),
        Cell::from(task.cost_usd.map_or_else(String::new, money)),
    ]
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
