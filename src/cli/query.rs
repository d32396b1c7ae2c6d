//! The arguments of the commands that inspect tasks, and of the smaller commands.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Subcommand};

use super::shell::ForShell;
use super::values::{any_key, code, duration, group, limit, severity, since, status};
use crate::commands::artifact;
use crate::commands::audit;
use crate::commands::cancel::{self, CancelTarget};
use crate::commands::doctor;
use crate::commands::list;
use crate::commands::prune;
use crate::commands::show;
use crate::commands::stats;
use crate::commands::timeline;
use crate::commands::wait::{self, WaitTarget};
use crate::ledger::{GroupBy, TaskFilter};
use crate::task::{Key, Status, Time};
use crate::view::{Code, Severity};

/// How long a captured task may print nothing before `audit` reports it.
pub const STALE: Duration = Duration::from_secs(30 * 60);

// No doc comment: it would become the help of the command.
#[derive(Debug, Args)]
struct Selection {
    /// Show only tasks with this key
    #[arg(long, value_parser = any_key)]
    key: Option<Key>,
    /// Show only tasks of this repository
    #[arg(long)]
    repo: Option<String>,
    /// Show only tasks of this persona, e.g. dev
    #[arg(long)]
    agent: Option<String>,
}

impl Selection {
    fn filter(self, since: Option<Time>, limit: usize) -> TaskFilter {
        let Selection { key, repo, agent } = self;
        TaskFilter { status: None, key, repo, agent, since, limit: Some(limit) }
    }
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// Show only tasks with this status
    #[arg(long, value_name = "STATUS", value_parser = status())]
    status: Option<Status>,
    #[command(flatten)]
    selection: Selection,
    /// Show only tasks started since then
    ///
    /// A duration such as 2h or 3d, a date (UTC), or an RFC 3339 time.
    #[arg(long, value_name = "WHEN", value_parser = since)]
    since: Option<Time>,
    /// Show at most this many tasks
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = limit)]
    limit: usize,
    /// Print one JSON object: {"ledger", "tasks": [...]}
    #[arg(long, conflicts_with = "jsonl")]
    json: bool,
    /// Print one JSON object per line, one per task
    #[arg(long)]
    jsonl: bool,
    /// Redraw the table when something changes
    #[arg(long, conflicts_with_all = ["json", "jsonl"])]
    watch: bool,
}

impl ListArgs {
    pub fn request(self) -> list::ListOptions {
        list::ListOptions {
            filter: TaskFilter { status: self.status, ..self.selection.filter(self.since, self.limit) },
            output: match (self.json, self.jsonl) {
                (true, _) => list::Output::Json,
                (_, true) => list::Output::JsonLines,
                _ => list::Output::Table,
            },
            watch: self.watch,
        }
    }
}

#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Task id, or a unique prefix of it
    id: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl ShowArgs {
    pub fn request(self) -> show::ShowOptions {
        show::ShowOptions { id: self.id, json: self.json }
    }
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
    /// Delete tasks that ended this long ago
    ///
    /// By default each task's own --retention decides (365d).
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
    /// Group the tasks by this
    #[arg(long, value_name = "WHAT", default_value = "agent", value_parser = group())]
    by: GroupBy,
    /// Count only tasks started since then
    ///
    /// A duration such as 2h or 30d, a date (UTC), or an RFC 3339 time.
    #[arg(long, value_name = "WHEN", value_parser = since)]
    since: Option<Time>,
    /// Show at most this many groups
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = limit)]
    limit: usize,
    /// Print one JSON object: {"by", "groups": [...]}
    #[arg(long)]
    json: bool,
}

impl StatsArgs {
    pub fn request(self) -> stats::StatsOptions {
        stats::StatsOptions { by: self.by, since: self.since, limit: self.limit, json: self.json }
    }
}

#[derive(Debug, Args)]
pub struct TimelineArgs {
    /// Show tasks that ran since then
    ///
    /// A duration such as 2h or 3d, a date (UTC), or an RFC 3339 time.
    #[arg(long, value_name = "WHEN", default_value = "24h", value_parser = since)]
    since: Time,
    #[command(flatten)]
    selection: Selection,
    /// Show at most this many tasks, the newest
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = limit)]
    limit: usize,
    /// Write an HTML page to this file
    ///
    /// The page loads nothing else.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

impl TimelineArgs {
    pub fn request(self) -> timeline::TimelineOptions {
        timeline::TimelineOptions {
            filter: self.selection.filter(Some(self.since), self.limit),
            html: self.html,
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
