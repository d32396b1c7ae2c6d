//! The commands of the monitor to its hub.

/// What the hub is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HubCommand {
    Run,
    /// Publish what is left, and end.
    Drain,
    /// End at once.
    Quit,
}
