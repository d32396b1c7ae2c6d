//! The timeline as text: a table of the lanes, with their bars at its right.

use anstyle::{AnsiColor, Style};

use super::super::screen::Screen;
use super::super::table::{Cell, Column, Shrinks, table};
use super::super::text::{cells, cut, one_line};
use super::axis::{LINES_PER_AXIS, TimeAxis};
use super::lanes::{BarOutcome, Lane, LaneRun, LaneTotal, TaskLanes};

const COLUMNS: [Column; 6] = [
    Column { title: "KEY", right: false, shrinks: Shrinks::InMiddle(12), matters: 9 },
    Column { title: "AGENT", right: false, shrinks: Shrinks::AtEnd(6), matters: 6 },
    Column { title: "HOST", right: false, shrinks: Shrinks::AtEnd(6), matters: 4 },
    Column { title: "RUNS", right: true, shrinks: Shrinks::Never, matters: 8 },
    Column { title: "TIME", right: true, shrinks: Shrinks::Never, matters: 7 },
    Column { title: "COST", right: true, shrinks: Shrinks::Never, matters: 5 },
];

/// The lanes with their bars, a total and a legend; 100 cells wide without a terminal.
pub fn timeline(lanes: &TaskLanes<'_>, screen: Screen) -> String {
    let width = screen.width.unwrap_or(100);
    let least_bars = (width * 3 / 10).max(10);
    let left = Screen { width: Some(width.saturating_sub(least_bars + 2)), colour: false };
    let (rows, bars) = rows(lanes, (width / 8).max(6));
    let left = table(&COLUMNS, &rows, left);
    let left_width = left.lines().map(cells).max().unwrap_or(0);
    let room = width.saturating_sub(left_width + 2).max(1);
    let beside = |left: &str, right: &str| {
        let padding = " ".repeat(left_width - cells(left) + 2);
        format!("{left}{padding}{right}").trim_end().to_owned() + "\n"
    };

    let mut left = left.lines();
    let titles = beside(left.next().unwrap_or_default(), &axis(lanes.axis, room));
    let titles = screen.paint(Style::new().bold(), titles.trim_end()) + "\n";
    let mut text = String::new();
    for (nth, (left, runs)) in left.zip(&bars).enumerate() {
        if nth % LINES_PER_AXIS == 0 {
            text.push_str(&titles);
        }
        text.push_str(&beside(left, &line(runs, lanes.axis, room, screen)));
    }
    text + &screen.paint(Style::new().dimmed(), &wrapped(&legend(lanes), width)) + "\n"
}

/// The cells of each line, with agents and hosts of at most this width, and its bars. If there are several
/// lanes, the total is the last line.
fn rows<'l, 'a>(lanes: &'l TaskLanes<'a>, agents: usize) -> (Vec<Vec<Cell>>, Vec<&'l [LaneRun<'a>]>) {
    let mut rows = Vec::new();
    let mut bars = Vec::new();
    for lane in &lanes.lanes {
        for (nth, line) in lane.lines.iter().enumerate() {
            rows.push(if nth == 0 { names(lane, agents) } else { vec![Cell::default(); COLUMNS.len()] });
            bars.push(line.as_slice());
        }
    }
    if lanes.lanes.len() > 1 {
        rows.push(cells_of(["total".to_owned(), String::new(), String::new()], &lanes.total));
        bars.push(&[]);
    }
    (rows, bars)
}

fn names(lane: &Lane<'_>, width: usize) -> Vec<Cell> {
    let key = lane.key.map_or_else(|| "-".to_owned(), |key| one_line(key).into_owned());
    let [agents, hosts] =
        [&lane.agents, &lane.hosts].map(|all| cut(&one_line(&all.join(", ")), width).into_owned());
    cells_of([key, agents, hosts], &lane.total)
}

fn cells_of(names: [String; 3], total: &LaneTotal) -> Vec<Cell> {
    let [runs, time, cost] = total.figures();
    let runs = runs.split(' ').next().unwrap_or_default().to_owned();
    names.into_iter().chain([runs, time, cost]).map(Cell::from).collect()
}

/// The cell of a time.
fn cell(axis: TimeAxis, ms: i64, room: usize) -> usize {
    (axis.share(ms) * room as f64) as usize
}

/// As many round times as fit, each right of its mark.
fn axis(axis: TimeAxis, room: usize) -> String {
    let label = |ms, step| format!("│{}", axis.label(ms, step, false));
    let widest = cells(&label(axis.begin, axis.step(room / 8)));
    let step = axis.step(room / (widest + 2));
    let mut line = String::new();
    for ms in axis.ticks(step) {
        let (label, column) = (label(ms, step), cell(axis, ms, room));
        let taken = cells(&line);
        if column + cells(&label) <= room && (column > taken || taken == 0) {
            line.push_str(&" ".repeat(column - taken));
            line.push_str(&label);
        }
    }
    if line.is_empty() { label(axis.begin, step).chars().take(room).collect() } else { line }
}

/// The bars of runs that do not overlap. A bar ends with the symbol of its outcome. Where several runs share
/// a cell, symbols are shown rather than bars, and failures rather than successes.
fn line(runs: &[LaneRun<'_>], axis: TimeAxis, room: usize, screen: Screen) -> String {
    let mut line = vec![None; room];
    for run in runs {
        let from = cell(axis, run.from, room).min(room - 1);
        let end = cell(axis, run.to, room).clamp(from + 1, room) - 1;
        let body = if run.is_end_known { '━' } else { '╍' };
        for cell in &mut line[from..end] {
            *cell = (*cell).max(Some((false, run.outcome, body)));
        }
        line[end] = line[end].max(Some((true, run.outcome, run.outcome.symbol())));
    }
    let same = |a: &Option<(bool, BarOutcome, char)>, b: &Option<(bool, BarOutcome, char)>| {
        a.map(|(_, outcome, _)| outcome) == b.map(|(_, outcome, _)| outcome)
    };
    let paint = |part: &[Option<(bool, BarOutcome, char)>]| {
        let text: String = part.iter().map(|cell| cell.map_or(' ', |(_, _, c)| c)).collect();
        part[0].map_or(text.clone(), |(_, outcome, _)| screen.paint(style(outcome), &text))
    };
    line.chunk_by(same).map(paint).collect()
}

fn style(outcome: BarOutcome) -> Style {
    let colour = match outcome {
        BarOutcome::Running => AnsiColor::Cyan,
        BarOutcome::Success => AnsiColor::Green,
        BarOutcome::Failure => AnsiColor::Red,
        BarOutcome::Cancelled | BarOutcome::Interrupted | BarOutcome::Lost | BarOutcome::Unreachable => {
            AnsiColor::Yellow
        }
    };
    colour.on_default()
}

/// The symbols that occur and how often, and the time zone.
fn legend(lanes: &TaskLanes<'_>) -> Vec<String> {
    let outcomes = lanes.outcomes().into_iter();
    let mut legend: Vec<String> =
        outcomes.map(|(outcome, runs)| format!("{} {runs} {}", outcome.symbol(), outcome.as_str())).collect();
    if lanes.has_unknown_ends() {
        legend.push("╍ end time unknown".to_owned());
    }
    legend.push("times are UTC".to_owned());
    legend
}

/// The parts, with as many on each line as fit.
fn wrapped(parts: &[String], width: usize) -> String {
    let mut text = String::new();
    let mut taken = 0;
    for part in parts {
        if taken > 0 {
            let fits = taken + 3 + cells(part) <= width;
            text.push_str(if fits { "   " } else { "\n" });
            taken = if fits { taken + 3 } else { 0 };
        }
        text.push_str(part);
        taken += cells(part);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_axis_fits_its_room() {
        for room in 1..150 {
            for hours in [1, 30, 100] {
                let text = axis(TimeAxis { begin: 1_000_000, end: 1_000_000 + hours * 3_600_000 }, room);
                assert!((1..=room).contains(&cells(&text)), "{room}: {text}");
            }
        }
    }

    #[test]
    fn a_legend_is_wrapped_between_its_parts() {
        let parts = ["a b".to_owned(), "c".to_owned(), "d e".to_owned()];
        assert_eq!(wrapped(&parts, 80), "a b   c   d e");
        assert_eq!(wrapped(&parts, 7), "a b   c\nd e");
        assert_eq!(wrapped(&parts, 1), "a b\nc\nd e");
    }
}
