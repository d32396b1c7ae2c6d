//! The operator's commands: to look, to judge, to stop, to clean.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Subcommand};
use jiff::civil::{Date, Time};
use jiff::tz::Offset;
use jiff::{SignedDuration, Timestamp};

use super::generate::ForShell;
use super::{any_key, duration, limit, status};
use crate::clock;
use crate::commands::artifact;
use crate::commands::audit;
use crate::commands::cancel::{self, Which};
use crate::commands::doctor;
use crate::commands::list;
use crate::commands::prune;
use crate::commands::show;
use crate::commands::stats;
use crate::commands::timeline;
use crate::ledger::{GroupBy, TaskFilter};
use crate::task::{Key, Status};
use crate::view::{Code, Severity};

/// How long a task whose output is read along may be silent before that is a finding.
pub const STALE: Duration = Duration::from_secs(30 * 60);

// No doc comment: it would become the help of the command.
#[derive(Debug, Args)]
struct Whose {
    /// Only tasks under this key
    #[arg(long, value_parser = any_key)]
    key: Option<Key>,
    /// Only tasks about this repository
    #[arg(long)]
    repo: Option<String>,
    /// Only tasks of this persona, e.g. dev
    #[arg(long)]
    agent: Option<String>,
}

impl Whose {
    fn filter(self, since: Option<String>, limit: usize) -> TaskFilter {
        let Whose { key, repo, agent } = self;
        TaskFilter { status: None, key, repo, agent, since, limit: Some(limit) }
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  bookend list --status failure --since 2d\n  \
    bookend list --repo charles/claude-hooks --watch\n  \
    bookend list --jsonl --limit 1000 | jq .cost_usd")]
pub struct ListArgs {
    /// Only tasks of this status
    #[arg(long, value_name = "STATUS", value_parser = status)]
    status: Option<Status>,
    #[command(flatten)]
    whose: Whose,
    /// Only tasks started since: 2h, 3d, 2026-11-21, or a whole RFC 3339 time (a date is UTC)
    #[arg(long, value_name = "WHEN", value_parser = since)]
    since: Option<String>,
    /// At most this many
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = limit)]
    limit: usize,
    /// As one JSON object: {"ledger", "tasks": [...]}
    #[arg(long, conflicts_with = "jsonl")]
    json: bool,
    /// As JSON, one task a line
    #[arg(long)]
    jsonl: bool,
    /// Draw it again whenever something changes, until Ctrl-C
    #[arg(long, conflicts_with_all = ["json", "jsonl"])]
    watch: bool,
}

impl ListArgs {
    pub fn request(self) -> list::Request {
        list::Request {
            filter: TaskFilter { status: self.status, ..self.whose.filter(self.since, self.limit) },
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
#[command(after_help = "Examples:\n  bookend show 019ab3\n  bookend show 019ab3 --json | jq .task.error")]
pub struct ShowArgs {
    /// The task's id, or enough of its beginning
    id: String,
    /// As one JSON object
    #[arg(long)]
    json: bool,
}

impl ShowArgs {
    pub fn request(self) -> show::Request {
        show::Request { id: self.id, json: self.json }
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  bookend audit\n  bookend audit --fail-on error || bookend recover\n  \
    bookend audit --code orphan_process --json")]
pub struct AuditArgs {
    /// Show only findings this severe: warn, error
    #[arg(long, value_parser = severity)]
    severity: Option<Severity>,
    /// Show only findings of this code
    #[arg(long, value_parser = code)]
    code: Option<Code>,
    /// Show at most this many
    #[arg(long, value_name = "N", value_parser = limit)]
    limit: Option<usize>,
    /// Exit with 1 if anything this severe was found, shown or not: warn, error
    #[arg(long, value_name = "SEVERITY", value_parser = severity)]
    fail_on: Option<Severity>,
    /// How long a task whose output is read along may be silent
    #[arg(long, value_name = "DURATION", default_value = "30m", value_parser = duration)]
    stale_after: Duration,
    /// As one JSON object: {"summary", "shown", "findings": [...]}
    #[arg(long)]
    json: bool,
}

impl AuditArgs {
    pub fn request(self) -> audit::Request {
        audit::Request {
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
    /// Note a file, a directory or a URL with the task, from inside its run
    #[command(after_help = "Example:\n  bookend artifact add report.html https://example.org/pull/7")]
    Add {
        /// A path that exists, or a URL
        #[arg(required = true, value_name = "PATH|URL")]
        what: Vec<String>,
        /// Another task than the one around this command
        #[arg(long, value_name = "ID")]
        task: Option<String>,
    },
}

impl ArtifactArgs {
    pub fn request(self) -> artifact::Request {
        let ArtifactCommand::Add { what, task } = self.command;
        artifact::Request { what, task }
    }
}

#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("which").required(true).args(["ids", "key", "all"]),
    after_help = "Examples:\n  bookend cancel 019ab3\n  bookend cancel --key nightly\n  bookend cancel --all"
)]
pub struct CancelArgs {
    /// The tasks' ids, or enough of their beginnings
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// The task that runs under this key
    #[arg(long, value_parser = any_key)]
    key: Option<Key>,
    /// Every task that runs, but for the one that this command runs inside
    #[arg(long)]
    all: bool,
    /// Wait this long at most (0: not at all) [default: until they have ended]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    wait: Option<Duration>,
}

impl CancelArgs {
    pub fn request(self) -> cancel::Request {
        let which = match (self.key, self.all) {
            (Some(key), _) => Which::Key(key),
            (None, true) => Which::All,
            (None, false) => Which::Ids(self.ids),
        };
        cancel::Request { which, wait: self.wait }
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  bookend prune --dry-run\n  bookend prune --retention 90d --vacuum")]
pub struct PruneArgs {
    /// Remove all that ended so long ago [default: what each task was given, 365d]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    retention: Option<Duration>,
    /// Only say how many
    #[arg(long)]
    dry_run: bool,
    /// Give the room back to the file system; others wait meanwhile
    #[arg(long)]
    vacuum: bool,
    /// As one JSON object
    #[arg(long)]
    json: bool,
}

impl PruneArgs {
    pub fn request(self) -> prune::Request {
        prune::Request {
            retention: self.retention,
            dry_run: self.dry_run,
            vacuum: self.vacuum,
            json: self.json,
        }
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  bookend stats --by repo --since 30d\n  bookend stats --by day --json")]
pub struct StatsArgs {
    /// What to group by: all, agent, repo, key, model, day
    #[arg(long, value_name = "WHAT", default_value = "agent", value_parser = by)]
    by: GroupBy,
    /// Only tasks started since: 2h, 30d, 2026-11-21, or a whole RFC 3339 time (a date is UTC)
    #[arg(long, value_name = "WHEN", value_parser = since)]
    since: Option<String>,
    /// At most this many groups
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = limit)]
    limit: usize,
    /// As one JSON object: {"by", "groups": [...]}
    #[arg(long)]
    json: bool,
}

impl StatsArgs {
    pub fn request(self) -> stats::Request {
        stats::Request { by: self.by, since: self.since, limit: self.limit, json: self.json }
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  bookend timeline --since 2h\n  bookend timeline --html page.html")]
pub struct TimelineArgs {
    /// What was in flight since: 2h, 3d, 2026-11-21, or a whole RFC 3339 time (a date is UTC)
    #[arg(long, value_name = "WHEN", default_value = "24h", value_parser = since)]
    since: String,
    #[command(flatten)]
    whose: Whose,
    /// At most this many, the newest
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = limit)]
    limit: usize,
    /// Write a page that needs nothing else, instead
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

impl TimelineArgs {
    pub fn request(self) -> timeline::Request {
        timeline::Request { filter: self.whose.filter(Some(self.since), self.limit), html: self.html }
    }
}

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// As one JSON object: {"healthy", "points": [...]}
    #[arg(long)]
    json: bool,
}

impl DoctorArgs {
    pub fn request(self) -> doctor::Request {
        doctor::Request { json: self.json }
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  bookend completions bash >/etc/bash_completion.d/bookend\n  \
    bookend completions zsh >~/.zfunc/_bookend\n  \
    bookend completions fish >~/.config/fish/completions/bookend.fish")]
pub struct CompletionsArgs {
    #[arg(value_name = "SHELL")]
    pub shell: ForShell,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  bookend man run | man -l -\n  bookend man --dir ~/.local/share/man/man1"
)]
pub struct ManArgs {
    /// The command it is about [default: bookend itself]
    pub command: Option<String>,
    /// Write the pages of all commands there instead
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    pub dir: Option<PathBuf>,
}

fn by(word: &str) -> Result<GroupBy, String> {
    GroupBy::EACH
        .into_iter()
        .find(|b| b.as_str() == word)
        .ok_or_else(|| format!("group by one of: {}", GroupBy::EACH.map(GroupBy::as_str).join(", ")))
}

fn severity(word: &str) -> Result<Severity, String> {
    [Severity::Warn, Severity::Error]
        .into_iter()
        .find(|s| s.as_str() == word)
        .ok_or_else(|| "a severity is warn or error".to_owned())
}

fn code(word: &str) -> Result<Code, String> {
    Code::parse(word).ok_or_else(|| format!("a code is one of: {}", Code::ALL.map(Code::as_str).join(", ")))
}

/// A time as the ledger writes it: so long ago, a date, or a time.
fn since(text: &str) -> Result<String, String> {
    let time = if let Ok(time) = text.parse::<Timestamp>() {
        Some(time)
    } else if let Ok(date) = text.parse::<Date>() {
        Offset::UTC.to_timestamp(date.to_datetime(Time::midnight())).ok()
    } else {
        let ago = duration(text)
            .map_err(|_| "write it like 30m, 2h, 3d, 2026-11-21 or 2026-11-21T12:00:00Z".to_owned())?;
        let ago = SignedDuration::try_from(ago).unwrap_or(SignedDuration::MAX);
        clock::timestamp().checked_sub(ago).ok()
    };
    Ok(format!("{:.3}", time.unwrap_or(Timestamp::UNIX_EPOCH)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_takes_ages_dates_and_times() {
        assert_eq!(since("2026-11-21").as_deref(), Ok("2026-11-21T00:00:00.000Z"));
        assert_eq!(since("2026-11-21T12:00:00+01:00").as_deref(), Ok("2026-11-21T11:00:00.000Z"));
        assert!(since("2h").is_ok_and(|t| t < format!("{:.3}", clock::timestamp())));
        assert!(since("yesterday").is_err());
    }
}
