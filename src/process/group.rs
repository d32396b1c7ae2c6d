//! The process group that a child of ours leads: signalling it, and ending its members.

use std::time::{Duration, Instant};

use nix::sys::signal::killpg;
use nix::unistd::{Pid, getpgid};

use crate::process::procfs::identity::{self, ProcessHandle};
use crate::process::procfs::snapshot::{ProcFs, ProcessSnapshot};
use crate::process::spawn::gate::Gated;
use crate::task::Signal;

/// Sends `signal` to the group that `child` leads, or to `child` alone while it does not lead one yet.
/// `child` must not have been reaped: until then nothing else can have its pid.
pub fn signal(child: &Gated, signal: Signal) {
    let leader = Pid::from_raw(child.pid);
    let leads = child.pid > 1 && getpgid(Some(leader)) == Ok(leader);
    // nix has no real-time signals; a group is ended by standard ones.
    match nix::sys::signal::Signal::try_from(signal.number()).ok().filter(|_| leads) {
        Some(signal) => drop(killpg(leader, signal)),
        None => drop(child.signal(signal, None)),
    }
}

/// The members of a group whose leader may end, and be reaped, before them.
pub struct GroupMembers {
    group: i32,
    held: Vec<ProcessHandle>,
}

impl GroupMembers {
    /// The members of the group that `child`, which has not been reaped, leads now. Processes that `/proc`
    /// hides are missing.
    pub fn of(child: &Gated) -> GroupMembers {
        let mut snapshot = ProcessSnapshot::default();
        if let Ok(mut proc) = ProcFs::open() {
            drop(proc.read(&mut snapshot));
        }
        let members = snapshot.rows().iter().filter(|s| s.pgrp == child.pid && s.pid != child.pid);
        let held = members.filter_map(|s| identity::open(&s.identity()).ok().flatten()).collect();
        GroupMembers { group: child.pid, held }
    }

    /// Waits until `until` for the members to end, then kills those that are left.
    pub fn end(self, until: Instant) {
        let left = |until: Instant| until.saturating_duration_since(Instant::now());
        let alive = self.held.iter().filter(|h| !h.wait(left(until)).unwrap_or(false));
        // While a former member is still in the group, no other group can have its number.
        let is_in_it = |h: &&ProcessHandle| {
            let now = identity::stat(h.identity().pid).ok().flatten();
            now.is_some_and(|s| s.identity() == h.identity() && s.pgrp == self.group)
        };
        if let Some(member) = alive.collect::<Vec<_>>().into_iter().find(is_in_it) {
            let _ = killpg(Pid::from_raw(self.group), nix::sys::signal::Signal::SIGKILL);
            drop(member.wait(Duration::from_secs(1)));
        }
    }
}
