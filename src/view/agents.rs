//! The agents that bookend knows: the table of `agents list`, and the row that a recorded output makes.

use anstyle::{AnsiColor, Style};
use serde::Serialize;
use serde_json::Value;

use super::json::pretty;
use super::screen::Screen;
use super::table::{Cell, Column, Shrinks, table};
use super::text::{cells, one_line};

/// An agent, as `agents list` shows it.
#[derive(Debug, Default, Serialize)]
pub struct AgentLine {
    pub name: String,
    pub provider: Option<String>,
    pub programs: Vec<String>,
    pub packages: Vec<String>,
    /// The version of the agent against which its description was checked.
    pub checked: Option<String>,
    pub source: String,
    /// Why its declaration is refused.
    pub refused: Option<String>,
}

const COLUMNS: [Column; 5] = [
    Column { title: "NAME", right: false, shrinks: Shrinks::AtEnd(6), matters: 9 },
    Column { title: "PROVIDER", right: false, shrinks: Shrinks::AtEnd(6), matters: 3 },
    Column { title: "PROGRAMS", right: false, shrinks: Shrinks::AtEnd(8), matters: 7 },
    Column { title: "CHECKED", right: false, shrinks: Shrinks::Never, matters: 4 },
    Column { title: "SOURCE", right: false, shrinks: Shrinks::AtStart(12), matters: 8 },
];

pub fn agents(agents: &[AgentLine], screen: Screen) -> String {
    let rows: Vec<Vec<Cell>> = agents.iter().map(row).collect();
    let refused = agents.iter().filter_map(|agent| agent.refused.as_ref());
    let refused: String = refused.map(|why| format!("refused: {}\n", one_line(why))).collect();
    table(&COLUMNS, &rows, screen) + &refused
}

fn row(agent: &AgentLine) -> Vec<Cell> {
    let text = |text: &str| Cell::from(one_line(text).into_owned());
    let source = match agent.refused {
        None => text(&agent.source),
        Some(_) => Cell {
            text: one_line(&format!("{} (refused)", agent.source)).into_owned(),
            style: AnsiColor::Red.on_default(),
        },
    };
    vec![
        text(&agent.name),
        text(agent.provider.as_deref().unwrap_or_default()),
        text(&agent.programs.join(" ")),
        text(agent.checked.as_deref().unwrap_or_default()),
        source,
    ]
}

/// `{"agents": [{"name", "provider", "programs", …}]}`, and a newline.
pub fn agents_json(agents: &[AgentLine]) -> String {
    #[derive(Serialize)]
    struct Listing<'a> {
        agents: &'a [AgentLine],
    }
    pretty(&Listing { agents })
}

/// Names and values, one on each line; what is not known is `-`.
pub fn fields(fields: &[(&str, Value)], screen: Screen) -> String {
    let wide = fields.iter().map(|(name, _)| cells(name)).max().unwrap_or(0);
    let shown = |value: &Value| match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => one_line(text).into_owned(),
        other => other.to_string(),
    };
    let name = |name: &str| screen.paint(Style::new().bold(), &format!("{name:wide$}"));
    fields.iter().map(|(known_as, value)| format!("{}  {}\n", name(known_as), shown(value))).collect()
}
