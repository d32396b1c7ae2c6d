//! `bookend adopt`: makes an existing database the ledger. The program that owns it keeps working.

use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::ledger::{self, AdoptionOutcome, AdoptionSummary, JournalMode, Location};
use crate::recovery::trust;
use crate::view;

/// The options of `bookend adopt`.
#[derive(Debug)]
pub struct AdoptOptions {
    pub file: PathBuf,
}

/// Adopts the database and reports the result.
///
/// # Errors
/// When it cannot be adopted: it is unchanged then.
pub fn adopt(options: &AdoptOptions) -> Result<String, Error> {
    let at = ledger::locate(Some(&options.file))?;
    let text = match ledger::adopt(&at)? {
        AdoptionOutcome::Done(adopted) => told(&at.file, &adopted),
        AdoptionOutcome::Already { since, journal } => {
            let file = at.file.to_string_lossy();
            let (file, since) = (view::one_line(&file), view::when(&since));
            format!("{file} was adopted at {since}: nothing to do\n{}", explained(journal))
        }
    };
    Ok(text + &shared(&at))
}

/// What does not work while other users may write to the file, and the command that changes that.
fn shared(at: &Location) -> String {
    let Some(distrust) = ledger::distrust(at) else { return String::new() };
    let (why, remedy) = (view::one_line(&distrust.why).into_owned(), trust::remedy(&distrust));
    format!("{why}: bookend executes no command that its rows name\nto change that: {remedy}\n")
}

fn told(file: &Path, a: &AdoptionSummary) -> String {
    let (file, backup) = (file.to_string_lossy(), a.backup.to_string_lossy());
    format!(
        "adopted {}: {} and {}, {} of them linked to their last task\nbackup: {}\n{}\
         use it with: bookend --ledger {} list\n",
        view::one_line(&file),
        count(a.tasks, "task"),
        count(a.sessions, "session"),
        a.linked,
        view::one_line(&backup),
        explained(a.journal),
        view::one_line(&view::quoted(&file)),
    )
}

/// Why the file does not use WAL, if so.
fn explained(journal: JournalMode) -> &'static str {
    match journal {
        JournalMode::Wal => "",
        JournalMode::SharedReaders => {
            "journal mode: unchanged, because other users read the file and could not open a WAL beside it\n"
        }
        JournalMode::InUse => {
            "journal mode: unchanged, because the file is in use; adopt it again to switch it to WAL\n"
        }
    }
}

fn count(n: i64, what: &str) -> String {
    match n {
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    }
}
