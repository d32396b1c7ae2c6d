//! `bookend` without a command: what runs, what ended last, and whether there are problems.

use std::path::Path;
use std::time::Duration;

use jiff::tz::TimeZone;

use crate::commands::audit;
use crate::commands::list;
use crate::commands::source::TaskSource;
use crate::commands::system;
use crate::error::Error;
use crate::exit::Exit;
use crate::ledger::{self, ChosenBy, Ledger, Location};
use crate::sys::stdout::print;
use crate::task::{Status, TaskFilter, Time};
use crate::view::{self, Screen, TaskColumn};

/// How many ended tasks are shown.
const ENDED: usize = 5;

/// # Errors
/// When the ledger cannot be read.
pub fn overview(ledger: Option<&Path>, stale_after: Duration) -> Result<Exit, Error> {
    let at = ledger::locate(ledger)?;
    let path = at.file.to_string_lossy();
    let path = view::one_line(&path);
    let screen = Screen::of(&std::io::stdout());
    let source = TaskSource::here(&at)?;
    let Some(ledger) = source.ledger() else {
        print(&format!("{}\nThere is no ledger yet at {path}\n{}", first_steps(&at), system::line(&at)))?;
        return Ok(Exit::Code(0));
    };
    let running = ledger.running()?;
    let shown = TaskFilter { limit: Some(running.len() + ENDED), ..TaskFilter::default() };
    let tasks = source.tasks(&shown)?;
    let runs = tasks.iter().take_while(|row| row.task.status == Status::Running).count();
    let tasks = list::listed(&source, tasks)?;
    let now = Time::now();
    let mut text = String::new();
    for (title, range) in [("Running", 0..runs), ("Ended last", runs..tasks.len())] {
        text += &view::title(title, screen);
        text += &match range.is_empty() {
            true => "nothing\n".to_owned(),
            false => view::tasks(&tasks[range], &TaskColumn::LIST, now, screen),
        };
        text.push('\n');
    }
    text += &today(ledger, now)?;
    let findings = audit::findings(ledger, stale_after)?;
    text += &view::audit_summary(&findings, 0);
    if !findings.is_empty() {
        text += &format!("; see: {}", view::suggestion(ledger.option(), "audit"));
    }
    text.push('\n');
    text += &format!("Ledger: {path}; more: bookend --help\n");
    print(&text)?;
    Ok(Exit::Code(0))
}

/// `today: 14 runs, 2 failed, $3.20`: the tasks that started on this day, local time.
fn today(ledger: &Ledger, now: Time) -> Result<String, Error> {
    let today = TaskFilter { since: Some(now.day_begin(&TimeZone::system())), ..TaskFilter::default() };
    let sum = ledger.stats(&[], &today, 1)?.total;
    let runs = if sum.runs == 1 { "run" } else { "runs" };
    let failed = sum.failure + sum.aborted_no_skill + sum.interrupted;
    let cost = sum.cost_usd.map_or_else(String::new, |cost| format!(", {}", view::money(cost)));
    Ok(format!("today: {} {runs}, {failed} failed{cost}\n", sum.runs))
}

fn first_steps(at: &Location) -> String {
    let command = |what: &str| view::suggestion(at.option(), what);
    let run = match at.chosen_by {
        ChosenBy::System => "systemctl start bookend@NAME".to_owned(),
        _ => command("run") + " -- claude -p 'say hello'",
    };
    let steps = [
        (run, "run an agent"),
        (command("list"), "see its row"),
        (command("doctor"), "see how bookend is set up"),
        ("bookend --help".to_owned(), "see all commands"),
    ];
    let wide = steps.iter().map(|(command, _)| command.len()).max().unwrap_or(0);
    let line = |(command, what): &(String, &str)| format!("  {command:wide$}    {what}\n");
    let steps: String = steps.iter().map(line).collect();
    format!("bookend records every coding-agent run in SQLite. Nothing has run yet.\n\n{steps}")
}
