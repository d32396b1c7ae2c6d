//! What the processes of an agent received before they became leftovers.

use std::time::Instant;

use super::leftover::SignalSent;
use crate::task::ProcessIdentity;

/// The signals that all processes of an agent have received.
#[derive(Debug, Clone)]
pub struct SignalledTree {
    /// When the last one was sent.
    pub(super) at: Instant,
    /// The processes that have received SIGTERM or SIGKILL.
    pub(super) sent: Vec<(ProcessIdentity, SignalSent)>,
}
