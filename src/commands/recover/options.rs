//! What `bookend recover` was asked for.

use tracing::level_filters::LevelFilter;

use crate::commands::engine::RecoveryPolicy;

/// The options of `bookend recover`.
#[derive(Debug)]
pub struct RecoverOptions {
    /// Only these tasks, by id or a prefix of one; all if it is empty.
    pub ids: Vec<String>,
    pub policy: RecoveryPolicy,
    /// Runs no hook and reports nothing; a later recovery does.
    pub settle_only: bool,
    pub dry_run: bool,
    pub json: bool,
    pub level: LevelFilter,
}
