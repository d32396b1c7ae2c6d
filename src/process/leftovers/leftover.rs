//! One leftover process: what it is, what it was sent, and whether it has ended.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use super::classify::ProcessClass;
use crate::process::procfs::dying;
use crate::process::procfs::identity::{self, ProcessHandle, ProcessStat};
use crate::sys;
use crate::task::Signal;

/// How long a process may take to end before it is reported as surviving.
pub(super) const SETTLE: Duration = Duration::from_secs(2);

/// The same for a process that was sent SIGKILL or exits: it ends, but two seconds are short if a hundred
/// others exit before it, or if it has much memory to release.
pub const DYING: Duration = Duration::from_secs(10);

/// Which signal a process has been sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SignalSent {
    Nothing,
    Term,
    Kill,
    /// The kernel does not permit it.
    Refused,
}

/// A process that concerns the task.
pub(super) struct Leftover {
    pub(super) stat: ProcessStat,
    pub(super) class: ProcessClass,
    /// Held while its end is waited for; `None` also if there was no free descriptor.
    pub(super) handle: Option<ProcessHandle>,
    pub(super) sent: SignalSent,
    pub(super) has_ended: bool,
}

impl Leftover {
    /// Whether its end is worth waiting for.
    pub(super) fn is_awaited(&self) -> bool {
        let is_to_end =
            matches!(self.class, ProcessClass::Ours | ProcessClass::Supervisor | ProcessClass::Exiting);
        !self.has_ended && self.sent != SignalSent::Refused && is_to_end
    }

    /// The signal to send when leftovers get `stage`, unless the process has been sent it already.
    pub(super) fn due(&self, stage: SignalSent) -> Option<Signal> {
        match (stage, self.class) {
            (_, ProcessClass::Exiting) | (SignalSent::Nothing, _) => None,
            (SignalSent::Kill, ProcessClass::Ours) => (self.sent != SignalSent::Kill).then_some(Signal::KILL),
            _ => (self.sent == SignalSent::Nothing).then_some(Signal::TERM),
        }
    }

    /// Whether it exits or was sent SIGKILL, by us or by another process.
    pub(super) fn is_dying(&self) -> bool {
        self.sent == SignalSent::Kill
            || identity::stat(self.stat.pid).is_ok_and(|now| now.is_some_and(|now| dying::is_dying(&now)))
    }
}

/// Sends `signal`, with `value` if there is one, to a process whose
/// present state is `now`.
pub(super) fn send(
    handle: &ProcessHandle,
    signal: Signal,
    value: Option<u64>,
    now: &ProcessStat,
) -> io::Result<bool> {
    let sent = sys::send_signal(handle.as_fd(), signal, value)?;
    // A stopped process would not act on SIGTERM before the grace period is over.
    if sent && signal == Signal::TERM && now.state == 'T' {
        handle.signal(Signal::CONT)?;
    }
    Ok(sent)
}

/// Whether a process has ended. If `/proc` cannot be read, it counts as alive.
pub(super) fn has_ended(stat: &ProcessStat) -> bool {
    identity::of(stat.pid).is_ok_and(|now| now != Some(stat.identity()))
}
