//! `bookend backup`: copies the ledger while other processes write to it.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use crate::commands::find;
use crate::error::Error;
use crate::ledger::{self, Ledger, LedgerError};
use crate::{sys, view};

/// The options of `bookend backup`.
#[derive(Debug)]
pub struct BackupOptions {
    pub file: PathBuf,
}

/// Copies the ledger into a new file and reports its path.
///
/// # Errors
/// When there is no ledger, it cannot be read, or the file exists or cannot be written.
pub fn backup(options: &BackupOptions, ledger: Option<&Path>) -> Result<String, Error> {
    let at = ledger::locate(ledger)?;
    let from = at.file.display();
    let Some(ledger) = Ledger::open_read_only(&at)? else {
        return Err(find::no_ledger("no backup", &at));
    };
    let to = std::path::absolute(&options.file)
        .map_err(|e| Error::failed(format!("the path {}", options.file.display())).caused_by(e))?;
    ledger.back_up(&to).map_err(explained)?;
    let said = format!("backed up {from} to {}", to.display());
    Ok(format!("{}\n", view::one_line(&said)))
}

/// An error with advice about the new file, not about the ledger.
fn explained(error: LedgerError) -> Error {
    let hint = match &error {
        LedgerError::Io { source, .. } => match source.kind() {
            ErrorKind::PermissionDenied => {
                Some(format!("name a file in a directory of {}", sys::user_name(geteuid().as_raw())))
            }
            ErrorKind::NotFound | ErrorKind::NotADirectory => {
                Some("name a file in a directory that exists".to_owned())
            }
            ErrorKind::ReadOnlyFilesystem => Some("name a file elsewhere".to_owned()),
            _ => None,
        },
        _ => None,
    };
    let error = Error::from(error);
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}
