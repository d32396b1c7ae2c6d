//! The arguments of the commands that maintain the ledger.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Subcommand};
use tracing::level_filters::LevelFilter;

use super::run_again::RunAgainArgs;
use super::values::{any_key, duration, level};
use crate::commands::deliver::{self, DeliverTarget};
use crate::commands::engine::RecoveryPolicy;
use crate::commands::monitor;
use crate::commands::recover;
use crate::commands::redispatch;
use crate::commands::session;
use crate::task::Key;

// The options that `recover` and `monitor` share. A doc comment would replace the text of their help.
#[derive(Debug, Args)]
struct PolicyArgs {
    /// Mark an unverifiable task after this long
    ///
    /// Counted from the last time at which the task is known to have run. A task is unverifiable if it
    /// belongs to another host or pid namespace.
    #[arg(
        long,
        env = "BOOKEND_TTL",
        value_name = "DURATION",
        value_parser = duration,
        default_value = "24h",
    )]
    ttl: Duration,
    /// Time between SIGTERM and SIGKILL for leftover processes
    #[arg(
        long,
        env = "BOOKEND_GRACE",
        value_name = "DURATION",
        value_parser = duration,
        default_value = "10s",
    )]
    grace: Duration,
    /// Run a shell command for each interrupted task
    ///
    /// It gets the same as an --on-finish command, and is started at most three times.
    #[arg(long, env = "BOOKEND_ON_INTERRUPTED", value_name = "CMD")]
    on_interrupted: Option<OsString>,
    /// Stop a hook after this long [default: the task's, or 60s]
    ///
    /// 0: never.
    #[arg(long, env = "BOOKEND_HOOK_TIMEOUT", value_name = "DURATION", value_parser = duration)]
    hook_timeout: Option<Duration>,
}

#[derive(Debug, Args)]
struct MessageArgs {
    /// Print errors only on stderr
    #[arg(short, long, conflicts_with = "verbose")]
    quiet: bool,
    /// Print on stderr what bookend does; twice: in detail
    #[arg(short, long, action = ArgAction::Count)]
    verbose: u8,
}

impl MessageArgs {
    fn level(&self) -> LevelFilter {
        level(self.quiet, self.verbose)
    }
}

#[derive(Debug, Args)]
pub struct MonitorArgs {
    #[command(flatten)]
    policy: PolicyArgs,
    /// Print each report as one line of JSON
    ///
    /// The fields are those of `recover --json`.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    messages: MessageArgs,
}

#[derive(Debug, Args)]
pub struct RecoverArgs {
    /// Task ids, or unique prefixes of them [default: all]
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    #[command(flatten)]
    policy: PolicyArgs,
    /// Mark lost tasks and end their processes only
    ///
    /// No hook is run and nothing is reported.
    #[arg(long, conflicts_with = "on_interrupted")]
    settle_only: bool,
    /// Print what would be done; do nothing
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    messages: MessageArgs,
}

#[derive(Debug, Args)]
pub struct DeliverArgs {
    /// Task ids, or unique prefixes of them
    #[arg(value_name = "ID", conflicts_with = "failed")]
    ids: Vec<String>,
    /// Run the commands that failed
    #[arg(long)]
    failed: bool,
    /// Run a command even if it has succeeded
    #[arg(long, requires = "ids")]
    again: bool,
    /// Stop a command after this long [default: the task's or 60s]
    ///
    /// 0: never.
    #[arg(long, env = "BOOKEND_HOOK_TIMEOUT", value_name = "DURATION", value_parser = duration)]
    hook_timeout: Option<Duration>,
    #[command(flatten)]
    messages: MessageArgs,
}

#[derive(Debug, Args)]
pub struct RedispatchArgs {
    /// Task id, or a unique prefix of it
    id: String,
    /// Read the prompt from stdin
    ///
    /// For a task whose prompt came on stdin: the row does not hold it.
    #[arg(long)]
    stdin: bool,
    #[command(flatten)]
    again: RunAgainArgs,
}

#[derive(Debug, Subcommand)]
pub enum SessionCommand {
    /// List the sessions, and whether they may be resumed
    List {
        /// Print one JSON object: {"ledger", "sessions": [...]}
        #[arg(long)]
        json: bool,
    },
    /// Show the session of a key, and its invalidated ones
    Show {
        /// Key of the session
        #[arg(value_parser = any_key)]
        key: Key,
        /// Print one JSON object: {"key", "session", "invalidations"}
        #[arg(long)]
        json: bool,
    },
    /// Print the session id that may be resumed now
    ///
    /// For scripts that start an agent without bookend. Exits with 1, and says why, unless the last task of
    /// the session succeeded and no live process holds it.
    ResumeId {
        /// Key of the session
        #[arg(value_parser = any_key)]
        key: Key,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Invalidate the session of a key
    Invalidate {
        /// Key of the session
        #[arg(value_parser = any_key)]
        key: Key,
        /// Reason to record
        #[arg(long, default_value = session::BY_OPERATOR)]
        reason: String,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Restore the session that was invalidated last
    ///
    /// The next run with the key resumes it, although its last task did not succeed.
    Restore {
        /// Key of the session
        #[arg(value_parser = any_key)]
        key: Key,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub struct AdoptArgs {
    /// SQLite file that has the tables
    pub file: PathBuf,
}

#[derive(Debug, Args)]
pub struct BackupArgs {
    /// File to create; it must not exist
    pub file: PathBuf,
}

impl PolicyArgs {
    fn policy(self) -> RecoveryPolicy {
        RecoveryPolicy {
            ttl: self.ttl,
            grace: self.grace,
            on_interrupted: self.on_interrupted.filter(|c| !c.is_empty()),
            hook_timeout: self.hook_timeout,
        }
    }
}

impl MonitorArgs {
    pub fn request(self) -> monitor::MonitorOptions {
        monitor::MonitorOptions {
            policy: self.policy.policy(),
            json: self.json,
            level: self.messages.level(),
        }
    }
}

impl RecoverArgs {
    pub fn request(self) -> recover::RecoverOptions {
        recover::RecoverOptions {
            ids: self.ids,
            policy: self.policy.policy(),
            settle_only: self.settle_only,
            dry_run: self.dry_run,
            json: self.json,
            level: self.messages.level(),
        }
    }
}

impl DeliverArgs {
    pub fn request(self) -> deliver::DeliverOptions {
        let which = match (self.failed, self.ids.is_empty()) {
            (true, _) => DeliverTarget::Failed,
            (false, true) => DeliverTarget::Due,
            (false, false) => DeliverTarget::Ids(self.ids),
        };
        deliver::DeliverOptions {
            which,
            again: self.again,
            hook_timeout: self.hook_timeout,
            level: self.messages.level(),
        }
    }
}

impl RedispatchArgs {
    pub fn request(self) -> redispatch::RedispatchOptions {
        redispatch::RedispatchOptions {
            id: self.id,
            stdin: self.stdin,
            when_busy: self.again.when_busy(),
            level: self.again.level(),
        }
    }
}

impl SessionCommand {
    pub fn request(self) -> session::SessionAction {
        match self {
            SessionCommand::List { json } => session::SessionAction::List { json },
            SessionCommand::Show { key, json } => session::SessionAction::Show { key, json },
            SessionCommand::ResumeId { key, json } => session::SessionAction::ResumeId { key, json },
            SessionCommand::Invalidate { key, reason, json } => {
                session::SessionAction::Invalidate { key, reason, json }
            }
            SessionCommand::Restore { key, json } => session::SessionAction::Restore { key, json },
        }
    }
}
