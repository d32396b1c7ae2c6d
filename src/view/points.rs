//! The checks of `doctor`, one line each.

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use super::json::pretty;
use super::screen::Screen;
use super::text::{cells, one_line};

/// The result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    Fine,
    /// It works, but needs attention.
    Odd,
    /// It does not work.
    Bad,
    /// It is missing, and is optional.
    Absent,
}

/// One check.
#[derive(Debug, Serialize)]
pub struct Point {
    pub name: String,
    pub health: Health,
    pub text: String,
}

pub fn points(points: &[Point], screen: Screen) -> String {
    let wide = points.iter().map(|p| cells(&p.name)).max().unwrap_or(0);
    points.iter().map(|p| line(p, wide, screen)).collect()
}

fn line(point: &Point, wide: usize, screen: Screen) -> String {
    let (word, style) = match point.health {
        Health::Fine => ("ok", AnsiColor::Green.on_default()),
        Health::Odd => ("warn", AnsiColor::Yellow.on_default()),
        Health::Bad => ("FAIL", AnsiColor::Red.on_default().bold()),
        Health::Absent => ("-", Style::new().dimmed()),
    };
    let padding = " ".repeat(4 - word.len());
    format!("{}{padding}  {:wide$}  {}\n", screen.paint(style, word), point.name, one_line(&point.text))
}

/// `{"healthy", "points": [{"name", "health", "text"}]}`, and a newline.
pub fn points_json(points: &[Point]) -> String {
    #[derive(Serialize)]
    struct Report<'a> {
        healthy: bool,
        points: &'a [Point],
    }
    pretty(&Report { healthy: points.iter().all(|p| p.health != Health::Bad), points })
}
