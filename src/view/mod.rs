//! Text and JSON for tasks and sessions: tables, pages and the recovery report.
//!
//! This module turns values into text. It does not read a ledger, inspect processes or print.

mod agents;
mod audit;
mod detail;
mod hint;
mod json;
mod log;
#[cfg(feature = "fleet")]
mod nodes;
mod points;
mod screen;
mod sessions;
mod stats;
mod table;
mod tasks;
mod text;
mod timeline;

pub use crate::shell::{command_line, operand, quoted, suggestion};
pub use agents::{AgentLine, agents, agents_json, fields};
pub use audit::{Code, Finding, Severity, audit, audit_json, audit_summary};
pub use detail::{Further, History, detail};
pub use hint::{Hint, PREFIX};
pub use json::{json_line, pretty};
pub use log::{LogBlock, log_block};
#[cfg(feature = "fleet")]
pub use nodes::{NodeLine, nodes};
pub use points::{Health, Point, points, points_json};
pub use screen::Screen;
pub use sessions::{SessionState, session, sessions};
pub use stats::{stats, stats_json};
pub use tasks::{ListedTask, TaskColumn, tasks, tasks_in_columns, unreachable, why};
#[cfg(feature = "fleet")]
pub use text::ago;
pub use text::{duration, harmless_json, money, one_line, short_ids, since, when};
pub use timeline::{lanes, timeline, timeline_html};

use serde::Serialize;

use crate::task::FleetTask;

/// The title line of a table.
pub fn title(text: &str, screen: Screen) -> String {
    screen.paint(anstyle::Style::new().underline(), text) + "\n"
}

/// `{"ledger": path, "tasks": [...]}` and a newline, in parts.
#[derive(Debug, Default)]
pub struct JsonListing {
    /// Whether a task has been printed.
    has_tasks: bool,
}

impl JsonListing {
    pub fn begin(&self, ledger: &str) -> String {
        format!("{{\n  \"ledger\": {},\n  \"tasks\": [", json_line(&ledger).trim_end())
    }

    pub fn tasks(&mut self, tasks: &[FleetTask]) -> String {
        let mut text = String::new();
        for task in tasks {
            text += if self.has_tasks { ",\n    " } else { "\n    " };
            // Line breaks in strings are escaped.
            text += &pretty(task).trim_end().replace('\n', "\n    ");
            self.has_tasks = true;
        }
        text
    }

    pub fn end(self) -> &'static str {
        if self.has_tasks { "\n  ]\n}\n" } else { "]\n}\n" }
    }
}

/// One task per line.
pub fn tasks_json_lines(tasks: &[FleetTask]) -> String {
    tasks.iter().map(json_line).collect()
}

/// `{"task", "transitions", "session", "invalidations"}`, and a newline.
pub fn detail_json(task: &FleetTask, history: &History) -> String {
    #[derive(Serialize)]
    struct Page<'a> {
        task: &'a FleetTask,
        #[serde(flatten)]
        history: &'a History,
    }
    pretty(&Page { task, history })
}
