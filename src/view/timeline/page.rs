//! The timeline as a page that loads nothing else, with the details of a run under the pointer.

use std::fmt::Write as _;

use super::super::tasks::{unreachable, why};
use super::super::text::{cut, cut_middle, cut_start, duration, money, one_line};
use super::axis::{LINES_PER_AXIS, TimeAxis};
use super::lanes::{BarOutcome, Lane, LaneRun, LaneTotal, TaskLanes};

const PAGE: &str = include_str!("page.html");
/// The limit of a text on the page, in cells.
const LONGEST: usize = 400;
/// How much of the end of a key is always shown, in cells.
const KEY_END: usize = 10;

/// Light and dark; `ledger` is the path of the ledger.
pub fn timeline_html(lanes: &TaskLanes<'_>, ledger: &str) -> String {
    let total = lanes.total.figures();
    let total: Vec<String> = total.into_iter().filter(|figure| !figure.is_empty()).collect();
    let axis = lanes.axis;
    let mut sections = String::new();
    for lanes in lanes.lanes.chunks(LINES_PER_AXIS) {
        let rows: String = lanes.iter().map(|lane| row(lane, axis)).collect();
        let _ = write!(sections, "<section>\n{}{rows}</section>\n", ticks(axis));
    }
    PAGE.replace("{{TOTAL}}", &total.join(" · "))
        .replace("{{LEGEND}}", &legend(lanes))
        .replace("{{PERIOD}}", &axis.period())
        .replace("{{GRID}}", &grid(axis))
        .replace("{{LEDGER}}", &html(ledger))
        .replace("{{LANES}}", &sections)
}

/// The step between the times of the axis.
fn step(axis: TimeAxis) -> i64 {
    axis.step(6)
}

/// The vertical lines at the times of the axis.
fn grid(axis: TimeAxis) -> String {
    let first = axis.ticks(step(axis)).next().unwrap_or(axis.begin);
    let part = step(axis) as f64 / axis.length() as f64 * 100.0;
    format!("--first: {:.3}%; --part: {part:.3}%", axis.share(first) * 100.0)
}

/// The axis. In a narrow window every second time is left out, unless there are only two.
fn ticks(axis: TimeAxis) -> String {
    let mut times: Vec<i64> = axis.ticks(step(axis)).collect();
    if times.is_empty() {
        times.push(axis.begin);
    }
    let tick = |(nth, ms): (usize, &i64)| {
        let class = if nth % 2 == 0 || times.len() == 2 { "tick" } else { "tick minor" };
        let at = axis.share(*ms) * 100.0;
        format!(
            "<span class=\"{class}\" style=\"--at:{at:.3}%\">{}</span>",
            axis.label(*ms, step(axis), true)
        )
    };
    let ticks: String = times.iter().enumerate().map(tick).collect();
    format!("<div class=\"axis\"><div class=\"ticks\">{ticks}</div></div>\n")
}

fn legend(lanes: &TaskLanes<'_>) -> String {
    let entry = |(outcome, runs): (BarOutcome, usize)| {
        let name = outcome.as_str();
        format!("<span><i class=\"{name}\">{}</i>{runs} {name}</span>", outcome.symbol())
    };
    let mut legend: String = lanes.outcomes().into_iter().map(entry).collect();
    if lanes.has_unknown_ends() {
        legend.push_str("<span><i class=\"interrupted unknown\"></i>end time unknown</span>");
    }
    legend
}

fn row(lane: &Lane<'_>, axis: TimeAxis) -> String {
    let lines = lane.lines.iter().map(|runs| {
        let bars: String = runs.iter().map(|run| bar(run, axis)).collect();
        format!("<div class=\"line\">{bars}</div>")
    });
    format!(
        "<div class=\"row\">{}{}<div class=\"lane\">{}</div></div>\n",
        label(lane),
        figure_cells(&lane.total),
        lines.collect::<String>()
    )
}

/// The key, the agents, and the hosts of a fleet. A key that does not fit is cut before its end, which has
/// the number of the issue.
fn label(lane: &Lane<'_>) -> String {
    let mut agents = lane.agents.join(", ");
    if !lane.hosts.is_empty() {
        agents = format!("{agents} on {}", lane.hosts.join(", "));
    }
    let agents = html(&cut(&one_line(&agents), LONGEST));
    let Some(key) = lane.key else {
        let agent = format!("<span class=\"agent\">{agents}</span>");
        return format!("<div class=\"label\" title=\"no key, agent {agents}\">{agent}</div>");
    };
    let key = one_line(key);
    let key = cut_middle(&key, LONGEST);
    let end = cut_start(&key, KEY_END + 1);
    let end = end.strip_prefix('…').unwrap_or(&end);
    let begin = key.strip_suffix(end).unwrap_or_default();
    let (begin, end) = (html(begin), html(end));
    let parts = format!("<span class=\"begin\">{begin}</span><span class=\"end\">{end}</span>");
    let key = format!("<span class=\"key\">{parts}</span>");
    let title = format!("key {begin}{end}, agent {agents}");
    format!("<div class=\"label\" title=\"{title}\">{key}<span class=\"agent\">{agents}</span></div>")
}

fn figure_cells(total: &LaneTotal) -> String {
    let [runs, time, cost] = total.figures();
    format!("<div class=\"total\"><span>{runs}</span><span>{time}</span><span>{cost}</span></div>")
}

fn bar(run: &LaneRun<'_>, axis: TimeAxis) -> String {
    let (from, to) = (axis.share(run.from) * 100.0, axis.share(run.to) * 100.0);
    let details: Vec<String> = details(run).iter().map(|line| html(&cut(&one_line(line), LONGEST))).collect();
    format!(
        "<span class=\"bar {}{}\" tabindex=\"0\" style=\"--at:{from:.3}%;--long:{:.3}%\"><i>{}</i></span>\
         <span class=\"tip\" style=\"--at:{from:.3}%\">{}</span>",
        run.outcome.as_str(),
        if run.is_end_known { "" } else { " unknown" },
        to - from,
        run.outcome.symbol(),
        details.join("<br>"),
    )
}

fn details(run: &LaneRun<'_>) -> Vec<String> {
    let task = run.task;
    let why = match run.unreachable_since {
        Some(since) => unreachable(since),
        None if run.outcome == BarOutcome::Lost => "lost".to_owned(),
        None => why(task),
    };
    let status = if why.is_empty() { task.status.to_string() } else { format!("{} ({why})", task.status) };
    let end = match &task.finished_at {
        _ if run.outcome == BarOutcome::Running => "still running".to_owned(),
        _ if run.unreachable_since.is_some() => "its host does not answer".to_owned(),
        Some(at) if run.is_end_known => format!("finished {at}"),
        _ => "end time unknown".to_owned(),
    };
    let mut lines = vec![task.id.to_string(), status, format!("started {}", task.started_at), end];
    lines.push(format!("ran {}", duration(run.ms)));
    lines.extend(task.key.as_ref().map(|k| format!("key {k}")));
    lines.extend(task.agent.as_ref().map(|a| format!("agent {a}")));
    lines.extend(run.host.map(|host| format!("host {host}")));
    lines.extend(task.cost_usd.map(|c| format!("cost {}", money(c))));
    lines.extend(task.error.as_ref().map(|e| e.lines().take(3).collect::<Vec<_>>().join(" ")));
    lines
}

/// Text for the page, as content or in an attribute. Braces are escaped too: a text cannot name a place of
/// the page that is filled later.
fn html(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in one_line(text).chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            '{' => safe.push_str("&#123;"),
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
        let safe = html("<script>alert('x')</script>&\"\u{202e}{{LANES}}");
        assert!(!safe.contains(['<', '>', '"', '\'', '{', '\u{202e}']), "{safe}");
    }
}
