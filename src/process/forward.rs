//! Forwards signals to the agent: each that it has not received already, exactly once.

use crate::process::sentinel::Sentinel;
use crate::process::spawn::gate::Gated;
use crate::sys::ReceivedSignal;

/// The value that `bookend cancel` and `--replace` queue with SIGTERM: the operator ends this task.
pub const CANCEL: u64 = u64::from_be_bytes(*b"bookend!");

/// Who received a signal that reached us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignalDelivery {
    /// We alone, so we forward it.
    UsAlone,
    /// Our whole process group, so we forward it to those of the agent's processes that are not in it.
    OurGroup,
    /// The agent sent it, or our own work caused it.
    Ignore,
}

pub struct Forward {
    sentinel: Sentinel,
}

impl Forward {
    /// Call it as soon as the agent's process exists.
    pub fn start() -> Forward {
        Forward { sentinel: Sentinel::start() }
    }

    pub fn sentinel(&self) -> Option<i32> {
        self.sentinel.pid()
    }

    /// `more`: further signals with the same number are queued.
    pub fn delivery(&mut self, received: &ReceivedSignal, agent: i32, more: bool) -> SignalDelivery {
        let reached = self.sentinel.saw(received, more);
        let from = received.sender.pid;
        if !received.is_from_kernel() && (from == agent || from == std::process::id() as i32) {
            return SignalDelivery::Ignore;
        }
        if reached { SignalDelivery::OurGroup } else { SignalDelivery::UsAlone }
    }
}

impl SignalDelivery {
    /// Whether the agent's first process still needs the signal.
    pub fn misses(self, agent: i32) -> bool {
        match self {
            SignalDelivery::UsAlone => true,
            SignalDelivery::OurGroup => !in_our_group(agent),
            SignalDelivery::Ignore => false,
        }
    }
}

/// An agent that has moved to another process group does not receive what is sent to ours.
fn in_our_group(agent: i32) -> bool {
    let agent = nix::unistd::Pid::from_raw(agent);
    nix::unistd::getpgid(Some(agent)).is_ok_and(|group| group == nix::unistd::getpgrp())
}

/// Sends the agent a signal as it arrived, with its value. An agent that has ended gets none, nor does one
/// that has changed its user so that we may not signal it.
pub fn forward(agent: &Gated, received: &ReceivedSignal) {
    if let Err(e) = agent.signal(received.signal, received.queued_value()) {
        tracing::warn!("could not forward {} to the agent: {e}", received.signal);
    }
}
