//! The options that select tasks, the same for every command that has them.

use clap::Args;

use super::values::{any_key, moment, status};
use crate::task::{Key, Status, TaskFilter, Time};

/// What `--failed` selects.
const FAILED: [Status; 3] = [Status::Failure, Status::AbortedNoSkill, Status::Interrupted];

// No doc comment: it would become the help of the command.
#[derive(Debug, Args)]
pub(super) struct Selection {
    /// Select tasks with one of these statuses
    #[arg(long, value_name = "STATUS", value_delimiter = ',', value_parser = status())]
    status: Vec<Status>,
    /// Select tasks that went wrong
    ///
    /// The same as --status failure,aborted_no_skill,interrupted.
    #[arg(long, conflicts_with = "status")]
    failed: bool,
    /// Select tasks with this key
    #[arg(long, value_parser = any_key)]
    key: Option<Key>,
    /// Select tasks of this repository
    #[arg(long)]
    repo: Option<String>,
    /// Select tasks of this persona, e.g. dev
    #[arg(long)]
    agent: Option<String>,
    /// Select tasks of this model
    #[arg(long)]
    model: Option<String>,
    /// Select tasks started since then
    ///
    /// A duration such as 2h or 3d, today, yesterday, a date, or a time such as 09:30 or 2026-11-21T09:30.
    /// Times without a zone are local.
    #[arg(long, value_name = "WHEN", value_parser = moment)]
    since: Option<Time>,
    /// Select tasks started before then
    #[arg(long, value_name = "WHEN", value_parser = moment)]
    until: Option<Time>,
}

// No doc comment: it would become the help of the command.
#[derive(Debug, Args)]
pub(super) struct Source {
    /// Show only the tasks of this ledger, not of its fleet
    #[arg(long)]
    pub(super) here: bool,
}

impl Selection {
    pub(super) fn filter(self, limit: Option<usize>) -> TaskFilter {
        let Selection { status, failed, key, repo, agent, model, since, until } = self;
        let statuses = if failed { FAILED.to_vec() } else { status };
        TaskFilter { statuses, key, repo, agent, model, since, until, limit }
    }
}
