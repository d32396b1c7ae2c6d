//! What `bookend monitor` was asked for.

use tracing::level_filters::LevelFilter;

use crate::commands::engine::RecoveryPolicy;

/// The options of `bookend monitor`.
#[derive(Debug)]
pub struct MonitorOptions {
    pub policy: RecoveryPolicy,
    pub json: bool,
    pub level: LevelFilter,
}
