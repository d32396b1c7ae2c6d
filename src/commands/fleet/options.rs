//! What `bookend fleet` is asked for.

use std::time::Duration;

/// A command of `bookend fleet`.
#[derive(Debug)]
#[cfg_attr(not(feature = "fleet"), expect(dead_code, reason = "the other program reads them"))]
pub enum FleetAction {
    Init(FleetInitOptions),
    Join(FleetJoinOptions),
    Leave {
        /// Although tasks run, are not published, or PostgreSQL is not reachable.
        force: bool,
    },
    Status(FleetStatusOptions),
    Prune(FleetPruneOptions),
    DeclareLost(DeclareLostOptions),
}

impl FleetAction {
    /// Whether it changes the ledger.
    pub fn acts_on_ledger(&self) -> bool {
        matches!(self, FleetAction::Join(_) | FleetAction::Leave { .. })
    }
}

#[derive(Debug)]
#[cfg_attr(not(feature = "fleet"), expect(dead_code, reason = "the other program reads them"))]
pub struct FleetInitOptions {
    pub url: String,
    /// The hosts that get a role each.
    pub hosts: Vec<String>,
    /// Whether hosts publish command lines and prompts; unchanged without.
    pub publish_argv: Option<bool>,
}

#[derive(Debug)]
#[cfg_attr(not(feature = "fleet"), expect(dead_code, reason = "the other program reads them"))]
pub struct FleetJoinOptions {
    pub url: String,
    /// The ledger is a copy, or was restored: it becomes another node.
    pub new_node: bool,
}

#[derive(Debug)]
#[cfg_attr(not(feature = "fleet"), expect(dead_code, reason = "the other program reads them"))]
pub struct FleetStatusOptions {
    pub json: bool,
}

#[derive(Debug)]
#[cfg_attr(not(feature = "fleet"), expect(dead_code, reason = "the other program reads them"))]
pub struct FleetPruneOptions {
    pub older_than: Duration,
    pub dry_run: bool,
    pub json: bool,
}

#[derive(Debug)]
#[cfg_attr(not(feature = "fleet"), expect(dead_code, reason = "the other program reads them"))]
pub struct DeclareLostOptions {
    /// The name of the host, or the id of its node.
    pub host: String,
    /// A person vouches that the machine is off.
    pub yes: bool,
    pub json: bool,
}
