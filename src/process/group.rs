//! The process group that a child of ours leads: a signal for all of it, and its end.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getpgid};

use crate::process::procfs::identity::{self, Handle};
use crate::process::procfs::table::{Proc, Table};
use crate::process::spawn::gate::Gated;

/// Sends `signal` to the group that `child` leads, or to `child` alone before it leads one. `child` must not
/// have been reaped: until then its number means it and its group.
pub fn signal(child: &Gated, signal: i32) {
    match Signal::try_from(signal) {
        Ok(signal) if leads_group(child) => drop(killpg(Pid::from_raw(child.pid), signal)),
        _ => drop(child.signal(signal, None)),
    }
}

/// Whether `child`, which has not been reaped, leads a process group: it does once it is past the gate.
fn leads_group(child: &Gated) -> bool {
    let leader = Pid::from_raw(child.pid);
    child.pid > 1 && getpgid(Some(leader)) == Ok(leader)
}

/// The members of a group whose leader may end, and be reaped, before they do.
pub struct Members {
    group: i32,
    held: Vec<Handle>,
}

impl Members {
    /// Those of the group that `child`, which has not been reaped, leads now. What `/proc` hides is left out.
    pub fn of(child: &Gated) -> Members {
        let mut table = Table::default();
        if let Ok(mut proc) = Proc::open() {
            drop(proc.read(&mut table));
        }
        let members = table.rows().iter().filter(|s| s.pgrp == child.pid && s.pid != child.pid);
        let held = members.filter_map(|s| identity::open(&s.identity()).ok().flatten()).collect();
        Members { group: child.pid, held }
    }

    /// Waits for their ends until `until`, then kills what is left of the group.
    pub fn end(self, until: Instant) {
        let left = |until: Instant| until.saturating_duration_since(Instant::now());
        let alive = self.held.iter().filter(|h| !h.wait(left(until)).unwrap_or(false));
        // While one that was in the group is still in it, the number cannot mean another group.
        let is_in_it = |h: &&Handle| {
            let now = identity::stat(h.identity().pid).ok().flatten();
            now.is_some_and(|s| s.identity() == h.identity() && s.pgrp == self.group)
        };
        if let Some(member) = alive.collect::<Vec<_>>().into_iter().find(is_in_it)
            && self.group > 1
        {
            let _ = killpg(Pid::from_raw(self.group), Signal::SIGKILL);
            drop(member.wait(Duration::from_secs(1)));
        }
    }
}
