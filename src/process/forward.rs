//! Forwarding: which signals the agent still has to be given, each exactly once.

use crate::process::sentinel::Witness;
use crate::process::spawn::gate::Gated;
use crate::sys::Received;
use crate::task::signal_name;

/// Queued with SIGTERM by `bookend cancel` and `--replace`: the operator wants this task to end.
pub const CANCEL: u64 = u64::from_be_bytes(*b"bookend!");

/// Whose a signal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It came to us alone: the agent must get it from us.
    Forward,
    /// It came to the whole group: the agent has had it.
    Reached,
    /// The agent's own, or a by-product of our own work: nobody's business.
    Noise,
}

pub struct Forward {
    witness: Witness,
}

impl Forward {
    /// Call it as soon as the agent's process exists.
    pub fn start() -> Forward {
        Forward { witness: Witness::start() }
    }

    pub fn witness(&self) -> Option<i32> {
        self.witness.pid()
    }

    /// `more`: others of its number wait behind it.
    pub fn fate(&mut self, received: &Received, agent: i32, more: bool) -> Fate {
        let reached = self.witness.saw(received, more);
        let from = received.sender.pid;
        if !received.is_from_kernel() && (from == agent || from == std::process::id() as i32) {
            return Fate::Noise;
        }
        if reached && in_our_group(agent) { Fate::Reached } else { Fate::Forward }
    }
}

/// An agent that moved to a group of its own gets nothing that is sent to ours.
fn in_our_group(agent: i32) -> bool {
    let agent = nix::unistd::Pid::from_raw(agent);
    nix::unistd::getpgid(Some(agent)).is_ok_and(|group| group == nix::unistd::getpgrp())
}

/// Gives the agent a signal as it came. An agent that is gone, or that changed its user so that we may
/// not signal it, gets none.
pub fn forward(agent: &Gated, received: &Received) {
    let value = (received.code == libc::SI_QUEUE).then_some(received.value);
    if let Err(e) = agent.signal(received.signal, value) {
        tracing::warn!("could not forward {} to the agent: {e}", signal_name(received.signal));
    }
}
