//! Forwards signals to the agent: each that it has not received already, exactly once.

use crate::process::sentinel::Sentinel;
use crate::process::spawn::gate::Gated;
use crate::sys::ReceivedSignal;

/// The value that `bookend cancel` and `--replace` queue with SIGTERM: the operator ends this task.
pub const CANCEL: u64 = u64::from_be_bytes(*b"bookend!");

/// Whether the agent still needs a signal that reached us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignalDelivery {
    /// It was sent to us alone, so we forward it.
    Forward,
    /// It was sent to the whole process group, so the agent has received it.
    AlreadyDelivered,
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
        if reached && in_our_group(agent) {
            SignalDelivery::AlreadyDelivered
        } else {
            SignalDelivery::Forward
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
    let value = (received.code == libc::SI_QUEUE).then_some(received.value);
    if let Err(e) = agent.signal(received.signal, value) {
        tracing::warn!("could not forward {} to the agent: {e}", received.signal);
    }
}
