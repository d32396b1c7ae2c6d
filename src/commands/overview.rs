//! `bookend` without a command: what runs, what ended last, and whether there are problems.

use std::path::Path;
use std::time::Duration;

use crate::commands::audit;
use crate::commands::list;
use crate::commands::system;
use crate::error::Error;
use crate::exit::Exit;
use crate::ledger::{self, ChosenBy, Ledger, Location, TaskFilter};
use crate::sys::stdout::print;
use crate::task::{Status, Time};
use crate::view::{self, Screen};

/// How many ended tasks are shown.
const ENDED: usize = 5;

/// # Errors
/// When the ledger cannot be read.
pub fn overview(ledger: Option<&Path>, stale_after: Duration) -> Result<Exit, Error> {
    let at = ledger::locate(ledger)?;
    let path = at.file.to_string_lossy();
    let path = view::one_line(&path);
    let screen = Screen::of(&std::io::stdout());
    let Some(ledger) = Ledger::open_read_only(&at)? else {
        print(&format!("{}\nThere is no ledger yet at {path}\n{}", first_steps(&at), system::line(&at)))?;
        return Ok(Exit::Code(0));
    };
    let running = ledger.running()?;
    let shown = TaskFilter { limit: Some(running.len() + ENDED), ..TaskFilter::default() };
    let mut tasks = ledger.tasks(&shown)?;
    let runs = tasks.iter().take_while(|t| t.status == Status::Running).count();
    let verdicts = list::verdicts(&ledger, &mut tasks)?;
    let now = Time::now();
    let mut text = String::new();
    for (title, range) in [("Running", 0..runs), ("Ended last", runs..tasks.len())] {
        text += &view::title(title, screen);
        text += &match range.is_empty() {
            true => "nothing\n".to_owned(),
            false => view::tasks(&tasks[range.clone()], &verdicts[range], now, screen),
        };
        text.push('\n');
    }
    let findings = audit::findings(&ledger, stale_after)?;
    text += &view::audit_summary(&findings, 0);
    if !findings.is_empty() {
        text += &format!("; see: {}", view::suggestion(ledger.option(), "audit"));
    }
    text.push('\n');
    text += &format!("Ledger: {path}; more: bookend --help\n");
    print(&text)?;
    Ok(Exit::Code(0))
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
