//! `bookend adopt`: an existing database becomes the ledger, and the program that owns it goes on working.

use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::ledger::{self, Adopted, Adoption, Journal};

/// What `bookend adopt` was asked for.
#[derive(Debug)]
pub struct Request {
    pub file: PathBuf,
}

/// Adopts the database and says what came of it.
///
/// # Errors
/// When it cannot be adopted; then it is as it was.
pub fn adopt(request: &Request) -> Result<String, Error> {
    let at = ledger::locate(Some(&request.file))?;
    Ok(match ledger::adopt(&at)? {
        Adoption::Done(adopted) => told(&at.file, &adopted),
        Adoption::Already { since, journal } => {
            format!("{} was adopted at {since}: nothing to do\n{}", at.file.display(), explained(journal))
        }
    })
}

fn told(file: &Path, a: &Adopted) -> String {
    let file = file.display();
    format!(
        "adopted {file}: {} and {}, {} of them linked to their last task\nbackup: {}\n{}\
         use it with: bookend --ledger {file} list\n",
        count(a.tasks, "task"),
        count(a.sessions, "session"),
        a.linked,
        a.backup.display(),
        explained(a.journal),
    )
}

/// Why the file does not use WAL, if it does not.
fn explained(journal: Journal) -> &'static str {
    match journal {
        Journal::Wal => "",
        Journal::SharedReaders => {
            "journal mode: left as it was, since others read the file and could not open a WAL beside it\n"
        }
        Journal::InUse => {
            "journal mode: left as it was, since the file is in use; adopt it again to switch it to WAL\n"
        }
    }
}

fn count(n: i64, what: &str) -> String {
    match n {
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    }
}
