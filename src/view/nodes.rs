//! The nodes of a fleet: the table of `fleet status`.

use anstyle::{AnsiColor, Style};

use super::screen::Screen;
use super::table::{Cell, Column, Shrinks, table};
use super::text::one_line;

/// A node, as `fleet status` shows it.
#[derive(Debug)]
pub struct NodeLine {
    pub host: String,
    /// Where several nodes have the host's name: which one.
    pub node: String,
    pub state: String,
    pub is_reachable: bool,
    pub running: i64,
    pub claims: i64,
    pub waiting: i64,
    pub version: String,
}

const COLUMNS: [Column; 7] = [
    Column { title: "HOST", right: false, shrinks: Shrinks::AtEnd(8), matters: 9 },
    Column { title: "NODE", right: false, shrinks: Shrinks::Never, matters: 3 },
    Column { title: "STATE", right: false, shrinks: Shrinks::AtEnd(11), matters: 8 },
    Column { title: "RUNNING", right: true, shrinks: Shrinks::Never, matters: 7 },
    Column { title: "CLAIMS", right: true, shrinks: Shrinks::Never, matters: 6 },
    Column { title: "WAITING", right: true, shrinks: Shrinks::Never, matters: 5 },
    Column { title: "VERSION", right: false, shrinks: Shrinks::AtEnd(5), matters: 2 },
];

pub fn nodes(nodes: &[NodeLine], screen: Screen) -> String {
    let rows: Vec<Vec<Cell>> = nodes.iter().map(row).collect();
    table(&COLUMNS, &rows, screen)
}

fn row(node: &NodeLine) -> Vec<Cell> {
    let text = |text: &str| Cell::from(one_line(text).into_owned());
    let style = if node.is_reachable { Style::new() } else { AnsiColor::Yellow.on_default() };
    vec![
        text(&node.host),
        text(&node.node),
        Cell { text: one_line(&node.state).into_owned(), style },
        Cell::from(node.running.to_string()),
        Cell::from(node.claims.to_string()),
        Cell::from(node.waiting.to_string()),
        text(&node.version),
    ]
}
