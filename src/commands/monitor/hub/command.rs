//! What the monitor tells its hub to do.

/// What the monitor wants of its hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HubCommand {
    Run,
    /// Publish what is left, and end.
    Drain,
    /// End at once.
    Quit,
}
