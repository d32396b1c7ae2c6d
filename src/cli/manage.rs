//! The commands that settle: what died, its sessions, its next run; and the adoption of a database.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Subcommand};

use super::{any_key, duration, level, when_busy};
use crate::commands::deliver::{self, Which};
use crate::commands::recover;
use crate::commands::redispatch;
use crate::commands::session;
use crate::task::Key;

#[derive(Debug, Args)]
pub struct RecoverArgs {
    /// Settle only these tasks; each id may be shortened while it is unique
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// End a task that cannot be judged from here this long after its last sign of life
    #[arg(
        long,
        env = "BOOKEND_TTL",
        value_name = "DURATION",
        value_parser = duration,
        default_value = "24h",
    )]
    ttl: Duration,
    /// How long left-over processes are given between SIGTERM and SIGKILL
    #[arg(
        long,
        env = "BOOKEND_GRACE",
        value_name = "DURATION",
        value_parser = duration,
        default_value = "10s",
    )]
    grace: Duration,
    /// A shell command to run for each interrupted task, with its row as JSON on stdin; at most three times
    #[arg(long, env = "BOOKEND_ON_INTERRUPTED", value_name = "CMD")]
    on_interrupted: Option<OsString>,
    /// End a hook after this long (0: never) [default: what the task was given, else 60s]
    #[arg(long, env = "BOOKEND_HOOK_TIMEOUT", value_name = "DURATION", value_parser = duration)]
    hook_timeout: Option<Duration>,
    /// Mark lost tasks and end their processes; run no hooks and print no reports
    #[arg(long, conflicts_with = "on_interrupted")]
    settle_only: bool,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// As one JSON object
    #[arg(long)]
    json: bool,
    /// Say nothing on stderr but errors
    #[arg(short, long, conflicts_with = "verbose")]
    quiet: bool,
    /// Say on stderr what bookend does; twice: in detail
    #[arg(short, long, action = ArgAction::Count)]
    verbose: u8,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  bookend deliver --failed\n  bookend deliver 019ab3 --hook-timeout 5m")]
pub struct DeliverArgs {
    /// Ids of the tasks; each may be shortened while it is unique
    #[arg(value_name = "ID", conflicts_with = "failed")]
    ids: Vec<String>,
    /// Run the commands that failed
    #[arg(long)]
    failed: bool,
    /// Run the command again even if it succeeded
    #[arg(long, requires = "ids")]
    again: bool,
    /// End a command after this long (0: never) [default: what the task was given, else 60s]
    #[arg(long, env = "BOOKEND_HOOK_TIMEOUT", value_name = "DURATION", value_parser = duration)]
    hook_timeout: Option<Duration>,
    /// Say nothing on stderr but errors
    #[arg(short, long, conflicts_with = "verbose")]
    quiet: bool,
    /// Say on stderr what bookend does; twice: in detail
    #[arg(short, long, action = ArgAction::Count)]
    verbose: u8,
}

#[derive(Debug, Args)]
pub struct RedispatchArgs {
    /// The task's id, or enough of its beginning
    id: String,
    /// The prompt that came on its stdin comes again, on this command's
    #[arg(long)]
    stdin: bool,
    /// Wait for the task that holds the key, instead of leaving with 75
    #[arg(long)]
    wait: bool,
    /// Cancel the task that holds the key, then run
    #[arg(long, conflicts_with = "wait")]
    replace: bool,
    /// Say nothing but errors
    #[arg(short, long, conflicts_with = "verbose")]
    quiet: bool,
    /// Say what bookend does; twice: in detail
    #[arg(short, long, action = ArgAction::Count)]
    verbose: u8,
}

#[derive(Debug, Subcommand)]
pub enum SessionCommand {
    /// Show every key's session, and whether it may be resumed
    List {
        /// As one JSON object: {"ledger", "sessions": [...]}
        #[arg(long)]
        json: bool,
    },
    /// Show a key's session, and those that were taken away from it
    Show {
        #[arg(value_parser = any_key)]
        key: Key,
        /// As one JSON object: {"key", "session", "invalidations"}
        #[arg(long)]
        json: bool,
    },
    /// Print the id that may be resumed now, or leave with 1 and say why not
    ///
    /// For scripts that start an agent without bookend: only if the session's last task ended well and no
    /// live process holds it.
    ResumeId {
        #[arg(value_parser = any_key)]
        key: Key,
        /// As one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Take a key's session out of use
    Invalidate {
        #[arg(value_parser = any_key)]
        key: Key,
        /// Why, for the record
        #[arg(long, default_value = session::BY_OPERATOR)]
        reason: String,
        /// As one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Bring back the session that was withdrawn last from a key, although its last task did not end well
    Restore {
        #[arg(value_parser = any_key)]
        key: Key,
        /// As one JSON object
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub struct AdoptArgs {
    /// The SQLite file that has the tables
    pub file: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  bookend backup ledger-$(date +%F).db")]
pub struct BackupArgs {
    /// The file to create; it must not exist
    pub file: PathBuf,
}

impl RecoverArgs {
    pub fn request(self) -> recover::Request {
        recover::Request {
            ids: self.ids,
            ttl: self.ttl,
            grace: self.grace,
            on_interrupted: self.on_interrupted.filter(|c| !c.is_empty()),
            hook_timeout: self.hook_timeout,
            settle_only: self.settle_only,
            dry_run: self.dry_run,
            json: self.json,
            level: level(self.quiet, self.verbose),
        }
    }
}

impl DeliverArgs {
    pub fn request(self) -> deliver::Request {
        let which = match (self.failed, self.ids.is_empty()) {
            (true, _) => Which::Failed,
            (false, true) => Which::Due,
            (false, false) => Which::Ids(self.ids),
        };
        deliver::Request {
            which,
            again: self.again,
            hook_timeout: self.hook_timeout,
            level: level(self.quiet, self.verbose),
        }
    }
}

impl RedispatchArgs {
    pub fn request(self) -> redispatch::Request {
        redispatch::Request {
            id: self.id,
            stdin: self.stdin,
            when_busy: when_busy(self.wait, self.replace),
            level: level(self.quiet, self.verbose),
        }
    }
}

impl SessionCommand {
    pub fn request(self) -> session::Request {
        match self {
            SessionCommand::List { json } => session::Request::List { json },
            SessionCommand::Show { key, json } => session::Request::Show { key, json },
            SessionCommand::ResumeId { key, json } => session::Request::ResumeId { key, json },
            SessionCommand::Invalidate { key, reason, json } => {
                session::Request::Invalidate { key, reason, json }
            }
            SessionCommand::Restore { key, json } => session::Request::Restore { key, json },
        }
    }
}
