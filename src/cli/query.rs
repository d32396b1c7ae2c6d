//! The arguments of the commands that inspect tasks, and of the smaller commands.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Subcommand};

use super::selection::{Selection, Source};
use super::shell::ForShell;
use super::values::{any_key, code, column, duration, group, limit, severity};
use crate::commands::artifact;
use crate::commands::audit;
use crate::commands::cancel::{self, CancelTarget};
use crate::commands::doctor;
use crate::commands::list;
use crate::commands::prune;
use crate::commands::stats;
use crate::commands::timeline;
use crate::commands::units;
use crate::commands::wait::{self, WaitTarget};
use crate::task::{GroupBy, Key};
use crate::view::{Code, Severity, TaskColumn};

/// How long a captured task may print nothing before `audit` reports it.
pub const STALE: Duration = Duration::from_secs(30 * 60);

#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    selection: Selection,
    /// Show at most this many tasks [default: 20 in a table]
    #[arg(long, value_name = "N", value_parser = limit)]
    limit: Option<usize>,
    /// Show these columns, in this order
    #[arg(
        long,
        value_name = "COLUMN",
        value_delimiter = ',',
        value_parser = column(),
        conflicts_with_all = ["json", "jsonl"]
    )]
    columns: Vec<TaskColumn>,
    /// Print one JSON object: {"ledger", "tasks": [...]}
    #[arg(long, conflicts_with = "jsonl")]
    json: bool,
    /// Print one JSON object per line, one per task
    #[arg(long)]
    jsonl: bool,
    #[command(flatten)]
    source: Source,
    /// Redraw the table when something changes
    ///
    /// It shows the time, the tokens, the cost and the current tool of running tasks. Ctrl-C ends it.
    #[arg(long, conflicts_with_all = ["json", "jsonl"])]
    watch: bool,
}

impl ListArgs {
    pub fn request(self) -> list::ListOptions {
        let output = match (self.json, self.jsonl) {
            (true, _) => list::Output::Json,
            (_, true) => list::Output::JsonLines,
            _ => list::Output::Table,
        };
        let limit = self.limit.or((output == list::Output::Table).then_some(list::TABLE_LIMIT));
        list::ListOptions {
            filter: self.selection.filter(limit),
            columns: self.columns,
            output,
            watch: self.watch,
            here: self.source.here,
        }
    }
}

// `ps --failed` is what it says: nothing is hidden from a command line, only from the help.
#[derive(Debug, Args)]
#[command(mut_arg("status", |status| status.default_value("running").hide(true)))]
#[command(mut_arg("failed", |failed| failed.hide(true)))]
pub struct PsArgs {
    #[command(flatten)]
    pub list: ListArgs,
}

#[derive(Debug, Args)]
pub struct AuditArgs {
    /// Show only findings of this severity
    #[arg(long, value_parser = severity())]
    severity: Option<Severity>,
    /// Show only findings with this code
    #[arg(long, value_parser = code())]
    code: Option<Code>,
    /// Show at most this many findings
    #[arg(long, value_name = "N", value_parser = limit)]
    limit: Option<usize>,
    /// Exit with 1 if there is a finding this severe
    ///
    /// Findings that --severity, --code and --limit leave out count too.
    #[arg(long, value_name = "SEVERITY", value_parser = severity())]
    fail_on: Option<Severity>,
    /// Report a task without output for this long
    #[arg(long, value_name = "DURATION", default_value = "30m", value_parser = duration)]
    stale_after: Duration,
    #[command(flatten)]
    source: Source,
    /// Print JSON: {"summary", "shown", "findings": [...]}
    #[arg(long)]
    json: bool,
}

impl AuditArgs {
    pub fn request(self) -> audit::AuditOptions {
        audit::AuditOptions {
            severity: self.severity,
            code: self.code,
            limit: self.limit,
            fail_on: self.fail_on,
            stale_after: self.stale_after,
            json: self.json,
            here: self.source.here,
        }
    }
}

#[derive(Debug, Args)]
pub struct ArtifactArgs {
    #[command(subcommand)]
    command: ArtifactCommand,
}

#[derive(Debug, Subcommand)]
enum ArtifactCommand {
    /// Record a file, a directory or a URL of the task
    Add {
        /// Path that exists, or a URL
        #[arg(required = true, value_name = "PATH|URL")]
        what: Vec<String>,
        /// Task id [default: the task that this command runs inside]
        #[arg(long, value_name = "ID")]
        task: Option<String>,
    },
}

impl ArtifactArgs {
    pub fn request(self) -> artifact::ArtifactOptions {
        let ArtifactCommand::Add { what, task } = self.command;
        artifact::ArtifactOptions { what, task }
    }
}

#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("which").required(true).args(["ids", "key", "all"]),
)]
pub struct CancelArgs {
    /// Task ids, or unique prefixes of them
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// Cancel the task that runs with this key
    #[arg(long, value_parser = any_key)]
    key: Option<Key>,
    /// Cancel every running task
    ///
    /// The task that this command runs inside is not cancelled.
    #[arg(long)]
    all: bool,
    /// Wait at most this long [default: until they end]
    ///
    /// 0: do not wait.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    wait: Option<Duration>,
}

impl CancelArgs {
    pub fn request(self) -> cancel::CancelOptions {
        let which = match (self.key, self.all) {
            (Some(key), _) => CancelTarget::Key(key),
            (None, true) => CancelTarget::All,
            (None, false) => CancelTarget::Ids(self.ids),
        };
        cancel::CancelOptions { which, wait: self.wait }
    }
}

#[derive(Debug, Args)]
pub struct WaitArgs {
    /// Task ids, or unique prefixes of them
    #[arg(value_name = "ID", conflicts_with = "key")]
    ids: Vec<String>,
    /// Wait for the task with this key
    ///
    /// The one that runs, otherwise the last one that did.
    #[arg(long, value_parser = any_key)]
    key: Option<Key>,
    /// Exit with 124 after this long
    ///
    /// 0: do not wait.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    timeout: Option<Duration>,
}

impl WaitArgs {
    pub fn request(self) -> wait::WaitOptions {
        let which = match (self.key, self.ids.is_empty()) {
            (Some(key), _) => WaitTarget::Key(key),
            (None, true) => WaitTarget::Running,
            (None, false) => WaitTarget::Ids(self.ids),
        };
        wait::WaitOptions { which, timeout: self.timeout }
    }
}

#[derive(Debug, Args)]
pub struct PruneArgs {
    /// Keep every task this long after its end
    ///
    /// It replaces the period that `run --retention` set for each task, 365d by default, whether that is
    /// longer or shorter.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    retention: Option<Duration>,
    /// Print the number of tasks; delete nothing
    #[arg(long)]
    dry_run: bool,
    /// Return the space to the file system
    ///
    /// Other commands that write to the ledger wait meanwhile.
    #[arg(long)]
    vacuum: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl PruneArgs {
    pub fn request(self) -> prune::PruneOptions {
        prune::PruneOptions {
            retention: self.retention,
            dry_run: self.dry_run,
            vacuum: self.vacuum,
            json: self.json,
        }
    }
}

#[derive(Debug, Args)]
pub struct StatsArgs {
    /// Group the tasks by this, or by several such as agent,model
    #[arg(
        long,
        value_name = "WHAT",
        default_value = "agent",
        value_delimiter = ',',
        value_parser = group()
    )]
    by: Vec<GroupBy>,
    #[command(flatten)]
    selection: Selection,
    /// Show at most this many groups
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = limit)]
    limit: usize,
    #[command(flatten)]
    source: Source,
    /// Print one JSON object: {"by", "groups": [...], "total"}
    #[arg(long)]
    json: bool,
}

impl StatsArgs {
    pub fn request(self) -> stats::StatsOptions {
        stats::StatsOptions {
            by: self.by,
            filter: self.selection.filter(None),
            limit: self.limit,
            json: self.json,
            here: self.source.here,
        }
    }
}

#[derive(Debug, Args)]
#[command(mut_arg("since", |since| since.default_value("24h").help("Show tasks that ran since then")))]
pub struct TimelineArgs {
    #[command(flatten)]
    selection: Selection,
    /// Show at most this many tasks, the newest
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = limit)]
    limit: usize,
    #[command(flatten)]
    source: Source,
    /// Write an HTML page to this file
    ///
    /// The page loads nothing else.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

impl TimelineArgs {
    pub fn request(self) -> timeline::TimelineOptions {
        timeline::TimelineOptions {
            filter: self.selection.filter(Some(self.limit)),
            html: self.html,
            here: self.source.here,
        }
    }
}

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Print one JSON object: {"healthy", "points": [...]}
    #[arg(long)]
    json: bool,
}

impl DoctorArgs {
    pub fn request(self) -> doctor::DoctorOptions {
        doctor::DoctorOptions { json: self.json }
    }
}

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// Shell to complete for
    #[arg(value_name = "SHELL")]
    pub shell: ForShell,
}

#[derive(Debug, Args)]
pub struct ManArgs {
    /// Command [default: bookend itself]
    pub command: Option<String>,
    /// Write all pages to this directory
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    pub dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct UnitsArgs {
    /// Print the units of a user manager, for your own tasks
    #[arg(long)]
    user: bool,
    /// Write them to this directory
    ///
    /// /etc/systemd/system or ~/.config/systemd/user. Run `systemctl daemon-reload` afterwards.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl UnitsArgs {
    pub fn request(self) -> units::UnitsOptions {
        units::UnitsOptions { user: self.user, dir: self.dir }
    }
}
