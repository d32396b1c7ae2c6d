//! `bookend timeline`: what ran when, as bars in the terminal or as a page of its own.

use std::path::{Path, PathBuf};

use crate::clock;
use crate::error::{Error, Kind};
use crate::ledger::{self, Filter, Ledger};
use crate::list;
use crate::run::Leave;
use crate::stdout::print;
use crate::view::{self, Screen};

/// What `bookend timeline` was asked for.
#[derive(Debug)]
pub struct Request {
    /// What ran at that time or later: `filter.since` is always set.
    pub filter: Filter,
    pub html: Option<PathBuf>,
}

/// # Errors
/// When the ledger cannot be read, or the page not be written.
pub fn timeline(request: &Request, ledger: Option<&Path>) -> Result<Leave, Error> {
    let at = ledger::locate(ledger)?;
    let path = at.file.to_string_lossy();
    let path = view::one_line(&path);
    let Some(ledger) = Ledger::open_read_only(&at)? else {
        return Err(Error::new(Kind::Nothing, format!("no tasks: there is no ledger yet at {path}")));
    };
    let mut tasks = ledger.tasks_in_flight_since(&request.filter)?;
    let verdicts = list::verdicts(&ledger, &mut tasks)?;
    let now = clock::timestamp();
    let since = request.filter.since.as_deref().and_then(|s| s.parse().ok()).unwrap_or(now);
    let spans = view::spans(&tasks, &verdicts, since, now);
    match &request.html {
        None if spans.is_empty() => print(&format!("nothing ran in that time, says {path}\n"))?,
        None => print(&view::timeline(&spans, since, now, Screen::of(&std::io::stdout())))?,
        Some(file) => {
            let page = view::timeline_html(&spans, since, now, &path);
            std::fs::write(file, page)
                .map_err(|e| Error::failed(format!("writing the timeline to {}: {e}", file.display())))?;
            let file = file.to_string_lossy();
            print(&format!("{} tasks in {}\n", spans.len(), view::one_line(&file)))?;
        }
    }
    Ok(Leave::Code(0))
}
