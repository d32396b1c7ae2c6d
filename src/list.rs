//! `bookend list`: which tasks there are, what runs first, then the newest.

use std::path::Path;

use jiff::Timestamp;

use crate::error::Error;
use crate::ledger::{self, Filter, Ledger};
use crate::task::Status;
use crate::view::{self, Screen};

/// What `bookend list` was asked for.
#[derive(Debug)]
pub struct Request {
    pub status: Option<Status>,
    pub key: Option<String>,
    pub limit: usize,
    pub output: Output,
}

/// How it is to be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    Table,
    Json,
    JsonLines,
}

/// The text for stdout. A ledger that does not exist yet is one without tasks.
///
/// # Errors
/// When the ledger cannot be chosen or read.
pub fn list(request: &Request, ledger: Option<&Path>) -> Result<String, Error> {
    let at = ledger::locate(ledger)?;
    let opened = Ledger::open_read_only(&at)?;
    let filter = Filter { status: request.status, key: request.key.clone(), limit: Some(request.limit) };
    let tasks = match &opened {
        Some(ledger) => ledger.tasks(&filter)?,
        None => Vec::new(),
    };
    let path = at.file.to_string_lossy();
    Ok(match request.output {
        Output::Json => view::tasks_json(&path, &tasks),
        Output::JsonLines => view::tasks_json_lines(&tasks),
        Output::Table if opened.is_none() => {
            format!("no tasks: there is no ledger yet at {}\n", view::one_line(&path))
        }
        Output::Table if tasks.is_empty() => {
            let what =
                if filter.status.is_some() || filter.key.is_some() { "no such tasks" } else { "no tasks" };
            format!("{what} in {}\n", view::one_line(&path))
        }
        Output::Table => view::tasks(&tasks, Timestamp::now(), Screen::of(&std::io::stdout())),
    })
}
