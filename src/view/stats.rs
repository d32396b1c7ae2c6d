//! Statistics by group: a table with a bar for the share of each group.

use anstyle::Style;
use serde::Serialize;

use super::json::pretty;
use super::screen::Screen;
use super::table::{Cell, Column, Shrinks, table};
use super::text::{count, duration, money, one_line};
use crate::task::StatsGroup;

/// The width of the longest bar, in cells.
const BAR: usize = 20;

/// The columns after the names of the groups.
const FIGURES: [Column; 12] = [
    Column { title: "RUNS", right: true, shrinks: Shrinks::Never, matters: 12 },
    Column { title: "", right: false, shrinks: Shrinks::Never, matters: 1 },
    Column { title: "SUCCESS", right: true, shrinks: Shrinks::Never, matters: 11 },
    Column { title: "FAILED", right: true, shrinks: Shrinks::Never, matters: 9 },
    Column { title: "STOPPED", right: true, shrinks: Shrinks::Never, matters: 4 },
    Column { title: "COST", right: true, shrinks: Shrinks::Never, matters: 10 },
    Column { title: "MEDIAN COST", right: true, shrinks: Shrinks::Never, matters: 7 },
    Column { title: "P95 COST", right: true, shrinks: Shrinks::Never, matters: 3 },
    Column { title: "TOKENS", right: true, shrinks: Shrinks::Never, matters: 5 },
    Column { title: "TIME", right: true, shrinks: Shrinks::Never, matters: 6 },
    Column { title: "MEDIAN TIME", right: true, shrinks: Shrinks::Never, matters: 8 },
    Column { title: "P95 TIME", right: true, shrinks: Shrinks::Never, matters: 2 },
];

/// One group per line, then the total if there are several. `by`: what they are grouped by.
pub fn stats(by: &[&'static str], groups: &[StatsGroup], total: &StatsGroup, screen: Screen) -> String {
    let titles: Vec<&'static str> = by.iter().filter_map(|by| title(by)).collect();
    let most = groups.iter().map(|g| g.runs).max().unwrap_or(0);
    let mut rows: Vec<Vec<Cell>> = groups.iter().map(|g| row(g, most)).collect();
    if groups.len() > 1 {
        let names = titles.iter().enumerate().map(|(nth, _)| if nth == 0 { "total" } else { "" });
        let names = names.map(|name| Cell { text: name.to_owned(), style: Style::new().bold() });
        rows.push(names.chain(figures(total, 0)).collect());
    }
    let name = |title: &'static str| {
        // As in `list`, the end of a key or a repository says more than its start.
        let shrinks =
            if ["REPO", "KEY"].contains(&title) { Shrinks::AtStart(10) } else { Shrinks::AtEnd(10) };
        Column { title, right: false, shrinks, matters: 20 }
    };
    let columns: Vec<Column> = titles.iter().copied().map(name).chain(FIGURES).collect();
    table(&columns, &rows, screen)
}

/// The title of the names; `None`: all tasks are one group, which has no name.
fn title(by: &str) -> Option<&'static str> {
    Some(match by {
        "agent" => "AGENT",
        "repo" => "REPO",
        "key" => "KEY",
        "model" => "MODEL",
        "day" => "DAY",
        _ => return None,
    })
}

fn row(group: &StatsGroup, most: i64) -> Vec<Cell> {
    group.names.iter().map(|name| Cell::from(shown(name.as_deref()))).chain(figures(group, most)).collect()
}

/// The name of a group; tasks without one are a group too.
fn shown(name: Option<&str>) -> String {
    name.map_or_else(|| "(none)".to_owned(), |name| one_line(name).into_owned())
}

fn figures(group: &StatsGroup, most: i64) -> impl Iterator<Item = Cell> {
    let tokens =
        [group.input_tokens, group.output_tokens, group.cache_read_tokens, group.cache_creation_tokens];
    let tokens = tokens.into_iter().flatten().reduce(i64::saturating_add);
    let dollars = |usd: Option<f64>| usd.map_or_else(String::new, money);
    let time = |ms: Option<i64>| ms.map_or_else(String::new, duration);
    [
        count(group.runs),
        bar(group.runs, most),
        success_rate(group).map_or_else(String::new, |r| format!("{:.0} %", r * 100.0)),
        count(group.failure + group.aborted_no_skill),
        count(group.cancelled + group.interrupted),
        dollars(group.cost_usd),
        dollars(group.cost_usd_median),
        dollars(group.cost_usd_p95),
        tokens.map_or_else(String::new, count),
        time(group.duration_ms),
        time(group.duration_ms_median),
        time(group.duration_ms_p95),
    ]
    .into_iter()
    .map(Cell::from)
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

/// `{"by", "groups": [...], "total"}`, and a newline.
pub fn stats_json(by: &[&str], groups: &[StatsGroup], total: &StatsGroup) -> String {
    #[derive(Serialize)]
    struct Line<'a> {
        name: Option<String>,
        #[serde(flatten)]
        group: &'a StatsGroup,
        success_rate: Option<f64>,
    }
    #[derive(Serialize)]
    struct Report<'a> {
        by: String,
        groups: Vec<Line<'a>>,
        total: Line<'a>,
    }
    let line = |group| Line { name: joined(group), group, success_rate: success_rate(group) };
    let groups = groups.iter().map(line).collect();
    pretty(&Report { by: by.join(","), groups, total: line(total) })
}

/// The names of a group in one text.
fn joined(group: &StatsGroup) -> Option<String> {
    match group.names.as_slice() {
        [] => None,
        [name] => name.clone(),
        names => Some(names.iter().map(|n| n.as_deref().unwrap_or("(none)")).collect::<Vec<_>>().join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_repository_is_kept() {
        let group =
            |repo: &str| StatsGroup { names: vec![Some(repo.to_owned())], runs: 1, ..StatsGroup::default() };
        let groups = ["owner/a-long-repository-1", "owner/a-long-repository-2"].map(group);
        let screen = Screen { width: Some(34), colour: false };
        let table = stats(&["repo"], &groups, &StatsGroup::default(), screen);
        assert!(table.contains("…pository-1 ") && table.contains("…pository-2 "), "{table}");
    }

    #[test]
    fn a_bar_is_as_long_as_its_share_and_visible_for_any_share() {
        assert_eq!(bar(10, 10), "█".repeat(BAR));
        assert_eq!(bar(5, 10), "█".repeat(BAR / 2));
        assert_eq!(bar(1, 1_000_000), "▏");
        assert_eq!(bar(0, 10), "");
    }
}
