//! The errors of the ledger, each with a hint that says what to do next.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::ffi;
use thiserror::Error;

use crate::failpoint;
use crate::shell::{quoted_path, suggestion};
use crate::task::{Key, TaskId};

pub type Result<T> = std::result::Result<T, LedgerError>;

/// A failure of the ledger or of the files beside it. [`LedgerError::hint`] says what to do about it.
#[derive(Debug, Error)]
pub enum LedgerError {
    #[error("choosing the ledger: uid {uid} has no home directory")]
    NoHome { uid: u32 },

    /// The URL is not part of the message, as it may hold a password.
    #[error("{chosen_by} names the database of a fleet; this command needs a ledger, which is a file")]
    NotAFile { chosen_by: &'static str },

    #[error("{path} is a directory; the ledger is a file", path = .path.display())]
    IsDirectory { path: PathBuf },

    #[error("{doing} {path}", path = .path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },

    #[error(
        "{path} belongs to uid {owner}, not to you (uid {uid}): its owner could replace the ledger",
        path = .path.display()
    )]
    ForeignDirectory { path: PathBuf, owner: u32, uid: u32 },

    #[error(
        "the directory {path} is writable by all users (mode {mode:04o}), who could replace the ledger",
        path = .path.display()
    )]
    WorldWritable { path: PathBuf, mode: u32 },

    #[error(
        "the directory {path} is writable by its group (mode {mode:04o}), whose members could replace the \
         ledger",
        path = .path.display()
    )]
    GroupWritable { path: PathBuf, mode: u32 },

    #[error("{path} was replaced while it was being opened", path = .path.display())]
    Swapped { path: PathBuf },

    #[error("{path} is a symbolic link, which bookend does not follow there", path = .path.display())]
    Symlink { path: PathBuf },

    #[error("{path} is not {wanted}", path = .path.display())]
    WrongType { path: PathBuf, wanted: &'static str },

    #[error("{path} belongs to uid {owner}, not to you (uid {uid})", path = .path.display())]
    ForeignFile { path: PathBuf, owner: u32, uid: u32 },

    #[error("SQLite {found} is linked; versions before 3.51.3 can corrupt a ledger")]
    SqliteTooOld { found: &'static str },

    #[error(
        "the ledger {path} has version {ledger}; this bookend supports versions up to {program}",
        path = .path.display()
    )]
    Newer { path: PathBuf, ledger: i64, program: i64 },

    #[error(
        "the ledger {path} has version {ledger}; this bookend reads version {program}",
        path = .path.display()
    )]
    Older { path: PathBuf, ledger: i64, program: i64 },

    #[error("{path} is not a bookend ledger: {why}", path = .path.display())]
    NotALedger { path: PathBuf, why: &'static str },

    #[error(
        "{path} is not used: {name} in it is a view or a virtual table, not a table, and reading it could \
         execute any SQL",
        path = .path.display()
    )]
    StandIn { path: PathBuf, name: String },

    #[error("{path} cannot be adopted: {why}; the file is unchanged", path = .path.display())]
    NotAdoptable { path: PathBuf, why: String },

    #[error(
        "{doing} in the ledger {path}: other processes kept it locked for {waited:?}",
        path = .path.display()
    )]
    Busy { doing: &'static str, path: PathBuf, waited: Duration },

    #[error("the ledger {path} already has a task {id}", path = .path.display())]
    TaskExists { id: TaskId, path: PathBuf },

    #[error("another task is running under the key {key} in the ledger {path}", path = .path.display())]
    KeyBusy { key: Key, path: PathBuf },

    #[error("there is no task {id} in the ledger {path}", path = .path.display())]
    NoSuchTask { id: TaskId, path: PathBuf },

    #[error("the task id {id} is too long to name a file")]
    IdTooLong { id: TaskId },

    #[error("{why}; nothing was executed or changed")]
    OtherName { why: String, hint: String },

    #[error(
        "{doing} in the ledger {path}: fdatasync of {path}-wal failed, so a power failure may undo what was \
         written",
        path = .path.display()
    )]
    Unsynced { doing: &'static str, path: PathBuf, source: io::Error },

    #[error(
        "{doing} in the ledger {path}: {damage} while bookend had it open, so what is written to it now \
         would be lost",
        path = .path.display()
    )]
    Replaced { doing: &'static str, path: PathBuf, damage: &'static str },

    #[error("{doing} in the ledger {path}", path = .path.display())]
    Database {
        doing: &'static str,
        path: PathBuf,
        /// `None`: only a closer look can say.
        remedy: Option<&'static str>,
        source: SqliteError,
    },
}

/// What SQLite reported. It has no source of its own: rusqlite's repeats the message as an error code.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct SqliteError(pub(super) Box<rusqlite::Error>);

pub(super) const SIZE_LIMIT: &str =
    "the limit on the size of files is reached: raise it (ulimit -f, LimitFSIZE=)";

pub(super) const DESCRIPTOR_LIMIT: &str =
    "the limit on open files is reached: raise it (ulimit -n, LimitNOFILE=)";

fn io_hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EMFILE) => return DESCRIPTOR_LIMIT,
        Some(libc::ENFILE) => return "raise the limit on open files of the machine (sysctl fs.file-max)",
        _ => {}
    }
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "free some space there",
        io::ErrorKind::PermissionDenied => {
            "check its owner and mode, or name a ledger elsewhere with --ledger FILE"
        }
        io::ErrorKind::AlreadyExists => "name a file that does not exist yet",
        io::ErrorKind::FileTooLarge => SIZE_LIMIT,
        io::ErrorKind::ReadOnlyFilesystem => "name a ledger elsewhere with --ledger FILE",
        _ => "check the path, or name a ledger elsewhere with --ledger FILE",
    }
}

/// A fail point inside a transaction: a test ends bookend there, or makes SQLite fail as a broken disk does.
pub(super) fn step(point: &'static str) -> rusqlite::Result<()> {
    failpoint::hit(point).map_err(|e| {
        let code = ffi::Error::new(ffi::SQLITE_IOERR);
        rusqlite::Error::SqliteFailure(code, Some(e.to_string()))
    })
}

impl From<LedgerError> for crate::error::Error {
    fn from(e: LedgerError) -> crate::error::Error {
        use crate::error::Kind;
        let kind = match e {
            LedgerError::TaskExists { .. } | LedgerError::IdTooLong { .. } | LedgerError::NotAFile { .. } => {
                Kind::Usage
            }
            LedgerError::KeyBusy { .. } => Kind::Busy,
            _ => Kind::Failed,
        };
        let hint = e.hint();
        let error = crate::error::Error::new(kind, e);
        match hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

impl LedgerError {
    /// Whether the same call may succeed later, without anything being changed here.
    pub fn may_pass(&self) -> bool {
        let is_damaged = |e: &SqliteError| {
            let code = e.0.sqlite_error_code();
            matches!(code, Some(ffi::ErrorCode::NotADatabase | ffi::ErrorCode::DatabaseCorrupt))
        };
        match self {
            LedgerError::Database { source, .. } => !is_damaged(source),
            LedgerError::Io { .. }
            | LedgerError::Busy { .. }
            | LedgerError::Swapped { .. }
            | LedgerError::Unsynced { .. }
            | LedgerError::Replaced { .. } => true,
            _ => false,
        }
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            LedgerError::NoHome { .. } => "name the file with --ledger FILE or BOOKEND_LEDGER".to_owned(),
            LedgerError::NotAFile { .. } => {
                "only list, ps, show, stats, timeline, audit, wait, cancel, fleet status, fleet prune and \
                 fleet declare-lost take the URL of a database"
                    .to_owned()
            }
            LedgerError::IsDirectory { path } => {
                format!("name a file in it, such as --ledger {}", quoted_path(&path.join("bookend.db")))
            }
            LedgerError::Io { source, .. } => io_hint(source).to_owned(),
            LedgerError::ForeignDirectory { .. } => {
                "run bookend as the owner, or name a ledger elsewhere with --ledger FILE".to_owned()
            }
            LedgerError::WorldWritable { path, .. } => format!(
                "run `chmod o-w {}`, or name a ledger elsewhere with --ledger FILE; if you trust everyone \
                 who can write there (a Kubernetes emptyDir), keep the ledger in a directory of its own \
                 below it and set BOOKEND_ALLOW_SHARED_DIR=1",
                quoted_path(path)
            ),
            LedgerError::GroupWritable { path, .. } => {
                format!(
                    "run `chmod g-w {}`, or name a ledger elsewhere with --ledger FILE",
                    quoted_path(path)
                )
            }
            LedgerError::Swapped { .. } => "find out what replaces it, then try again".to_owned(),
            LedgerError::Symlink { .. } => {
                "remove the link, or name the file that it points to with --ledger FILE".to_owned()
            }
            LedgerError::WrongType { .. } => {
                "move it away, or name a ledger elsewhere with --ledger FILE".to_owned()
            }
            LedgerError::ForeignFile { .. } => {
                "run bookend as the owner, or name a ledger of your own with --ledger FILE".to_owned()
            }
            LedgerError::SqliteTooOld { .. } => "build bookend with its bundled SQLite".to_owned(),
            LedgerError::Newer { .. } => "use the newer bookend".to_owned(),
            LedgerError::Older { path, .. } => {
                format!("run `{}` to bring it up to date", suggestion(Some(path), "recover"))
            }
            LedgerError::NotALedger { .. } | LedgerError::StandIn { .. } => {
                "name another file with --ledger FILE or BOOKEND_LEDGER".to_owned()
            }
            LedgerError::Busy { path, .. } => format!(
                "run `fuser {}` to find the program that holds it open in a transaction, then try again",
                quoted_path(path)
            ),
            LedgerError::TaskExists { .. } => "use another --id, or none".to_owned(),
            LedgerError::IdTooLong { .. } => "use a shorter --id, or none".to_owned(),
            LedgerError::OtherName { hint, .. } => hint.clone(),
            LedgerError::Unsynced { .. } => "check the disk and the kernel log (`dmesg`)".to_owned(),
            LedgerError::Replaced { .. } => {
                "restore the file, or let the next command create a new ledger".to_owned()
            }
            LedgerError::Database { remedy: Some(remedy), .. } => (*remedy).to_owned(),
            LedgerError::Database { path, .. } => format!(
                "run `{}` to see which file this is and what is wrong with it",
                suggestion(Some(path), "doctor")
            ),
            LedgerError::NotAdoptable { .. }
            | LedgerError::KeyBusy { .. }
            | LedgerError::NoSuchTask { .. } => return None,
        })
    }

    pub(super) fn io(doing: &'static str, path: &Path, source: io::Error) -> LedgerError {
        LedgerError::Io { doing, path: path.to_owned(), source }
    }
}
