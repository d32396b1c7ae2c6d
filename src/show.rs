//! `bookend show`: all that the ledger knows of one task.

use std::path::Path;

use jiff::Timestamp;

use crate::error::{Error, Kind};
use crate::ledger::{self, Found, Ledger, Location};
use crate::task::Task;
use crate::view::{self, History, Screen};

/// What `bookend show` was asked for.
#[derive(Debug)]
pub struct Request {
    /// The task's id, or enough of its beginning.
    pub id: String,
    pub json: bool,
}

/// The text for stdout.
///
/// # Errors
/// When the ledger cannot be read, no task has such an id, or several have.
pub fn show(request: &Request, ledger: Option<&Path>) -> Result<String, Error> {
    let at = ledger::locate(ledger)?;
    let (ledger, task) = find(&request.id, &at)?;
    let history = history(&ledger, &task)?;
    Ok(if request.json {
        view::detail_json(&task, &history)
    } else {
        view::detail(&task, &history, Timestamp::now(), Screen::of(&std::io::stdout()))
    })
}

/// The task of an id, or of the beginning of one, with the ledger that it was read from.
///
/// # Errors
/// When the ledger cannot be read, no task has such an id, or several have.
pub fn find(id: &str, at: &Location) -> Result<(Ledger, Task), Error> {
    let path = at.file.display();
    let Some(ledger) = Ledger::open_read_only(at)? else {
        let message = format!("no task {id}: there is no ledger yet at {path}");
        return Err(Error::new(Kind::Nothing, message));
    };
    let task = match ledger.task(id)? {
        Found::One(task) => *task,
        Found::None => {
            let message = format!("no task {id} in the ledger {path}");
            return Err(Error::new(Kind::Nothing, message).hint("bookend list shows the ids"));
        }
        Found::Ambiguous(ids) => {
            let message = format!("several tasks begin with {id:?}:\n  {}", ids.join("\n  "));
            return Err(Error::usage(message).hint("give more of the id"));
        }
    };
    Ok((ledger, task))
}

fn history(ledger: &Ledger, task: &Task) -> ledger::Result<History> {
    Ok(History {
        transitions: ledger.transitions(&task.id)?,
        session: match &task.key {
            Some(key) => ledger.session_of_key(key)?,
            None => None,
        },
        invalidations: ledger.invalidations_of_task(&task.id)?,
    })
}
