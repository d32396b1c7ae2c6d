//! The timeline: one bar per task on a common time axis.

use anstyle::Style;
use jiff::tz::Offset;

use super::screen::Screen;
use super::tasks::{style, why};
use super::text::{cells, cut_start, duration, one_line, short_ids};
use crate::task::{Key, RecordedTime, Status, Task, Time, Verdict};

/// How the end of a bar is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    Seen,
    /// The task is running.
    Open,
    /// The end time is unknown: the bar ends when the task is last known to have run.
    Inferred,
}

/// A task on the axis, in milliseconds since 1970, cut to the shown range.
#[derive(Debug, Clone)]
pub struct TimelineSpan<'a> {
    pub task: &'a Task,
    pub id: &'a str,
    pub from: i64,
    pub to: i64,
    pub edge: Edge,
}

/// The tasks that ran between `since` and `now`, oldest first.
pub fn spans<'a>(
    tasks: &'a [Task],
    verdicts: &[Option<Verdict>],
    since: Time,
    now: Time,
) -> Vec<TimelineSpan<'a>> {
    let (since, now) = (since.unix_millis(), now.unix_millis());
    let at = |time: &RecordedTime| time.time().map(Time::unix_millis);
    let ids: Vec<&str> = tasks.iter().map(|t| t.id.as_str()).collect();
    let mut spans: Vec<TimelineSpan<'a>> = tasks
        .iter()
        .zip(verdicts)
        .zip(short_ids(&ids))
        .filter_map(|((task, verdict), id)| {
            let from = at(&task.started_at)?;
            let last = task.last_seen_at.as_ref().and_then(at);
            let (to, edge) = match (task.status, verdict, task.finished_at.as_ref().and_then(at)) {
                (Status::Running, Some(Verdict::Alive) | None, _) => (now, Edge::Open),
                (Status::Running, _, _) | (_, _, None) => (last.unwrap_or(from), Edge::Inferred),
                (_, _, Some(end)) => (end, Edge::Seen),
            };
            (to >= since).then(|| TimelineSpan {
                task,
                id,
                from: from.max(since),
                to: to.clamp(from.max(since), now.max(from)),
                edge,
            })
        })
        .collect();
    spans.sort_by_key(|s| (s.from, s.to));
    spans
}

/// The minimum width of the bars, in cells.
const LEAST_BAR: usize = 20;
/// The maximum width of the names, in cells.
const NAME: usize = 36;

/// Bars in the terminal; 100 cells wide without a terminal.
pub fn timeline(spans: &[TimelineSpan<'_>], since: Time, now: Time, screen: Screen) -> String {
    let width = screen.width.unwrap_or(100);
    let begin = spans.iter().map(|s| s.from).min().unwrap_or(since.unix_millis());
    let end = now.unix_millis().max(begin + 1);
    let name_of = |s: &TimelineSpan<'_>| {
        let what = s.task.key.as_ref().map(Key::as_str).or(s.task.agent.as_deref()).unwrap_or_default();
        format!("{} {}", one_line(s.id), one_line(what))
    };
    let names: Vec<String> = spans.iter().map(name_of).collect();
    let widest = names.iter().map(|n| cells(n)).max().unwrap_or(0);
    let name_width = widest.min(NAME).min(width.saturating_sub(LEAST_BAR + 1));
    let room = width.saturating_sub(name_width + 1).max(1);
    let cell = |ms: i64| ((ms - begin) as f64 / (end - begin) as f64 * room as f64) as usize;

    let mut text = " ".repeat(name_width + 1) + &axis(begin, end, room) + "\n";
    for (span, name) in spans.iter().zip(&names) {
        let from = cell(span.from).min(room - 1);
        let to = cell(span.to).clamp(from + 1, room);
        let tip = match span.edge {
            Edge::Seen => "█",
            Edge::Open => "▶",
            Edge::Inferred => "╳",
        };
        let bar = "█".repeat(to - from - 1) + tip;
        let name = cut_start(name, name_width);
        let padding = " ".repeat(name_width - cells(&name) + 1 + from);
        text.push_str(&format!("{name}{padding}{}\n", screen.paint(style(span.task.status), &bar)));
    }
    let legend = screen.paint(Style::new().dimmed(), "▶ running   ╳ end time unknown (UTC)");
    text + &legend + "\n"
}

/// `11-21`, `12:00` and `:59` of a time in milliseconds, UTC.
fn day_and_time(ms: i64) -> (String, String, String) {
    let time = Offset::UTC.to_datetime(Time::from_unix_millis(ms).unwrap_or(Time::UNIX_EPOCH).timestamp());
    (
        format!("{:02}-{:02}", time.month(), time.day()),
        format!("{:02}:{:02}", time.hour(), time.minute()),
        format!(":{:02}", time.second()),
    )
}

/// The first and the last time, with as many in between as fit.
fn axis(begin: i64, end: i64, room: usize) -> String {
    let at = |ms: i64| {
        let (day, minute, second) = day_and_time(ms);
        if end - begin > 36 * 3_600_000 { format!("{day} {minute}") } else { minute + &second }
    };
    let label = cells(&at(begin));
    let many = (room / (label + 4)).clamp(1, 6);
    let mut line = String::new();
    for n in 0..many {
        let column = room * n / many;
        let ms = begin + (end - begin) * n as i64 / many as i64;
        let gap = column.saturating_sub(cells(&line));
        line.push_str(&" ".repeat(gap));
        line.push_str(&at(ms));
    }
    line
}

const PAGE: &str = include_str!("timeline.html");

/// A self-contained page, light and dark, with details under the pointer.
pub fn timeline_html(spans: &[TimelineSpan<'_>], since: Time, now: Time, ledger: &str) -> String {
    let begin = spans.iter().map(|s| s.from).min().unwrap_or(since.unix_millis());
    let end = now.unix_millis().max(begin + 1);
    let share = |ms: i64| (ms - begin) as f64 / (end - begin) as f64 * 100.0;
    let mut bars = String::new();
    for span in spans {
        let task = span.task;
        let edge = match span.edge {
            Edge::Seen => "seen",
            Edge::Open => "open",
            Edge::Inferred => "inferred",
        };
        let what = task.key.as_ref().map(Key::as_str).or(task.agent.as_deref()).unwrap_or_default();
        let details = details(span);
        bars.push_str(&format!(
            "<div class=\"row\" tabindex=\"0\"><span class=\"name\">{} {}</span><span class=\"lane\">\
             <span class=\"bar {} {edge}\" style=\"left:min({:.3}%, 100% - 3px);width:{:.3}%\"></span></span>\
             <span class=\"tip\">{}</span></div>\n",
            html(span.id),
            html(what),
            task.status,
            share(span.from),
            share(span.to) - share(span.from),
            details.iter().map(|d| html(d)).collect::<Vec<_>>().join("<br>"),
        ));
    }
    let ticks: String = (0..=4)
        .map(|n| {
            let ms = begin + (end - begin) * n / 4;
            let (day, minute, second) = day_and_time(ms);
            let text = format!("{day} {minute}{second}");
            format!("<span class=\"tick\" style=\"left:{:.3}%\">{text}</span>", share(ms))
        })
        .collect();
    // Data is inserted last, so that placeholders in it are not replaced.
    PAGE.replace("{{TICKS}}", &ticks)
        .replace("{{COUNT}}", &spans.len().to_string())
        .replace("{{LEDGER}}", &html(ledger))
        .replace("{{BARS}}", &bars)
}

fn details(span: &TimelineSpan<'_>) -> Vec<String> {
    let task = span.task;
    let why = why(task);
    let status = if why.is_empty() { task.status.to_string() } else { format!("{} ({why})", task.status) };
    let end = match span.edge {
        Edge::Seen => match &task.finished_at {
            Some(at) => format!("finished {at}"),
            None => "finished ?".to_owned(),
        },
        Edge::Open => "still running".to_owned(),
        Edge::Inferred => "end time unknown".to_owned(),
    };
    let mut lines = vec![task.id.to_string(), status, format!("started {}", task.started_at), end];
    lines.push(format!("ran {}", duration(task.duration_ms.unwrap_or(span.to - span.from))));
    lines.extend(task.key.as_ref().map(|k| format!("key {k}")));
    lines.extend(task.agent.as_ref().map(|a| format!("agent {a}")));
    lines.extend(task.cost_usd.map(|c| format!("cost {}", super::text::money(c))));
    lines.extend(task.error.as_ref().map(|e| e.lines().take(3).collect::<Vec<_>>().join(" ")));
    lines
}

fn html(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in one_line(text).chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_escaped_in_the_page() {
        let safe = html("<script>alert('x')</script>&\"\u{202e}");
        assert!(!safe.contains(['<', '>', '"', '\'', '\u{202e}']), "{safe}");
    }

    #[test]
    fn the_axis_fits_its_room() {
        for room in 12..120 {
            assert!(cells(&axis(0, 3_600_000, room)) <= room.max(12), "{room}");
        }
    }
}
