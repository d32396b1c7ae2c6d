//! What a recovery reports about worktrees of lost tasks: each is read once, and all share one limit.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::ask::Git;
use super::changes::{Changes, Filters};
use super::worktree::Worktree;
use crate::error::Error;
use crate::helper::Attendant;

/// The number of uncommitted files where a task ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uncommitted {
    /// There is no worktree here.
    NoWorktree,
    /// git did not answer.
    Unknown,
    Files(u64),
}

pub struct Survey<'a> {
    git: Git<'a>,
    known: HashMap<PathBuf, Uncommitted>,
}

impl<'a> Survey<'a> {
    pub fn new(git: Git<'a>) -> Survey<'a> {
        Survey { git, known: HashMap::new() }
    }

    /// # Errors
    /// As [`Attendant::wait`].
    pub fn uncommitted(&mut self, cwd: &Path, attendant: &mut dyn Attendant) -> Result<Uncommitted, Error> {
        let Some(worktree) = cwd.canonicalize().ok().and_then(|cwd| Worktree::around(&cwd)) else {
            return Ok(Uncommitted::NoWorktree);
        };
        if let Some(known) = self.known.get(&worktree.top) {
            return Ok(*known);
        }
        let changes = match Filters::of(&worktree, &mut self.git, attendant)? {
            Ok(filters) => Changes::of(&worktree, &filters, &mut self.git, attendant)?,
            Err(_) => None,
        };
        let count = changes.and_then(|c| c.known()).map_or(Uncommitted::Unknown, Uncommitted::Files);
        self.known.insert(worktree.top, count);
        Ok(count)
    }
}
