//! What a run changed in its worktree: the state before the agent, compared with the state after it.

use std::path::Path;

use serde_json::{Value, json};
use tracing::debug;

use super::ask::{Git, NoAnswer};
use super::changes::{Changes, Filters, GitHistory};
use super::worktree::{Head, Position, Worktree};
use crate::error::{Error, chain};
use crate::helper::Attendant;
use crate::task::TaskId;

/// A worktree as it was before the agent started.
#[derive(Debug)]
pub struct Baseline {
    worktree: Worktree,
    position: Position,
}

impl Baseline {
    /// Reads a few small files. `None`: `cwd`, an absolute path without links, is not in a worktree.
    pub fn of(cwd: &Path) -> Option<Baseline> {
        let worktree = Worktree::around(cwd)?;
        Some(Baseline { position: worktree.position(), worktree })
    }

    /// Lets git read its settings meanwhile. Until `record` is called, the attendant must not wait for
    /// another helper.
    pub fn begin(&self, git: &mut Git<'_>) {
        git.begin(&self.worktree.top);
    }

    /// Records the state of the worktree as an artifact of task `id`. A failure does not change the task's
    /// ending.
    ///
    /// # Errors
    /// As [`Attendant::wait`].
    pub fn record(&self, id: &TaskId, git: &mut Git<'_>, attendant: &mut dyn Attendant) -> Result<(), Error> {
        let Some(artifact) = self.artifact(git, attendant)? else { return Ok(()) };
        if let Err(e) = attendant.ledger().note_artifact(id, &artifact) {
            debug!("recording the worktree of task {id}: {}", chain(&e));
        }
        Ok(())
    }

    /// `None`: nothing is known.
    fn artifact(&self, git: &mut Git<'_>, attendant: &mut dyn Attendant) -> Result<Option<Value>, Error> {
        let before = &self.position;
        let now = self.worktree.position();
        let filters = Filters::of(&self.worktree, git, attendant)?;
        let history = match filters {
            Err(NoAnswer::Hung) => GitHistory::unasked(before, &now),
            _ => GitHistory::between(before, &now, &self.worktree, git, attendant)?,
        };
        let changes = match &filters {
            Ok(filters) if !history.hung => Changes::of(&self.worktree, filters, git, attendant)?,
            _ => None,
        };
        if now.head.is_none() && before.head.is_none() && changes.is_none() {
            return Ok(None);
        }
        let known = changes.as_ref();
        Ok(Some(json!({
            "kind": "git",
            "branch_before": before.branch,
            "branch": now.branch,
            "head_before": before.head.as_ref().and_then(Head::id),
            "head": now.head.as_ref().and_then(Head::id),
            "commits": history.commits,
            "changed": history.changed.as_ref().map(|names| names.count),
            "changed_files": history.changed.as_ref().map(|names| &names.first),
            "uncommitted": known.and_then(Changes::known),
            "uncommitted_files": known.map(|c| &c.uncommitted.first),
            "unknown": known.map(|c| c.unknown.count),
            "unknown_files": known.map(|c| &c.unknown.first),
        })))
    }
}
