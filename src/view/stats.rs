//! Statistics by group: a table with a bar for the share of each group.

use serde::Serialize;

use super::json::pretty;
use super::screen::Screen;
use super::table::{Cell, Column, Shrinks, table};
use super::text::{count, duration, money, one_line};
use crate::task::StatsGroup;

/// The width of the longest bar, in cells.
const BAR: usize = 20;

const COLUMNS: [Column; 9] = [
    Column { title: "", right: false, shrinks: Shrinks::AtEnd(10), matters: 9 },
    Column { title: "RUNS", right: true, shrinks: Shrinks::Never, matters: 8 },
    Column { title: "", right: false, shrinks: Shrinks::Never, matters: 2 },
    Column { title: "SUCCESS", right: true, shrinks: Shrinks::Never, matters: 7 },
    Column { title: "FAILED", right: true, shrinks: Shrinks::Never, matters: 5 },
    Column { title: "STOPPED", right: true, shrinks: Shrinks::Never, matters: 3 },
    Column { title: "COST", right: true, shrinks: Shrinks::Never, matters: 6 },
    Column { title: "TOKENS", right: true, shrinks: Shrinks::Never, matters: 4 },
    Column { title: "TIME", right: true, shrinks: Shrinks::Never, matters: 1 },
];

/// One group per line. `by`: what they are grouped by.
pub fn stats(by: &'static str, groups: &[StatsGroup], screen: Screen) -> String {
    let most = groups.iter().map(|g| g.runs).max().unwrap_or(0);
    let rows: Vec<Vec<Cell>> = groups.iter().map(|g| row(by, g, most)).collect();
    let mut columns = COLUMNS;
    columns[0].title = match by {
        "agent" => "AGENT",
        "repo" => "REPO",
        "key" => "KEY",
        "model" => "MODEL",
        "day" => "DAY",
        _ => "",
    };
    table(&columns, &rows, screen)
}

fn row(by: &str, group: &StatsGroup, most: i64) -> Vec<Cell> {
    let name = match &group.name {
        Some(name) => one_line(name).into_owned(),
        None if by == "all" => "all".to_owned(),
        None => "(none)".to_owned(),
    };
    let tokens =
        [group.input_tokens, group.output_tokens, group.cache_read_tokens, group.cache_creation_tokens];
    let tokens = tokens.into_iter().flatten().reduce(i64::saturating_add);
    vec![
        Cell::from(name),
        Cell::from(count(group.runs)),
        Cell::from(bar(group.runs, most)),
        Cell::from(success_rate(group).map_or_else(String::new, |r| format!("{:.0} %", r * 100.0))),
        Cell::from(count(group.failure + group.aborted_no_skill)),
        Cell::from(count(group.cancelled + group.interrupted)),
        Cell::from(group.cost_usd.map_or_else(String::new, money)),
        Cell::from(tokens.map_or_else(String::new, count)),
        Cell::from(group.duration_ms.map_or_else(String::new, duration)),
    ]
}

/// The share of successes among the tasks that have ended.
fn success_rate(group: &StatsGroup) -> Option<f64> {
    let ended = group.runs - group.running;
    (ended > 0).then(|| group.success as f64 / ended as f64)
}

/// A bar whose length is `part` of `most`, in eighths of a cell.
fn bar(part: i64, most: i64) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    if part <= 0 || most <= 0 {
        return String::new();
    }
    let eighths = ((part as f64 / most as f64) * (BAR * 8) as f64).round().max(1.0) as usize;
    "█".repeat(eighths / 8) + EIGHTHS[eighths % 8]
}

/// `{"by", "groups": [...]}`, and a newline.
pub fn stats_json(by: &str, groups: &[StatsGroup]) -> String {
    #[derive(Serialize)]
    struct Line<'a> {
        #[serde(flatten)]
        group: &'a StatsGroup,
        success_rate: Option<f64>,
    }
    #[derive(Serialize)]
    struct Report<'a> {
        by: &'a str,
        groups: Vec<Line<'a>>,
    }
    let groups = groups.iter().map(|group| Line { group, success_rate: success_rate(group) }).collect();
    pretty(&Report { by, groups })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_its_share_and_visible_for_any_share() {
        assert_eq!(bar(10, 10), "█".repeat(BAR));
        assert_eq!(bar(5, 10), "█".repeat(BAR / 2));
        assert_eq!(bar(1, 1_000_000), "▏");
        assert_eq!(bar(0, 10), "");
    }
}
