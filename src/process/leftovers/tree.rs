//! Sends a signal to all processes of a running agent, if its first process does not pass signals on.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tracing::debug;

use super::children::children_of;
use super::classify::ProcessClass;
use super::error::SweepError;
use super::leftover::{Leftover, SignalSent, send};
use super::repeated::MAX_SCANS;
use super::scan::ProcessScan;
use super::signalled::SignalledTree;
use super::sweep::LeftoverSweep;
use super::swept_task::{SupervisorLookup, SweptTask};
use crate::process::procfs::identity::{self, ProcessHandle, ProcessStat};
use crate::task::Signal;

/// How many ancestors of a process are read at most.
const DEEPEST: usize = 4096;

/// A signal for all processes of an agent.
#[derive(Debug, Clone, Copy)]
pub struct TreeSignal {
    pub signal: Signal,
    /// The value that was queued with it.
    pub value: Option<u64>,
    /// The process group whose members have received it already.
    pub reached_group: Option<i32>,
}

/// The processes that a running agent has started, found as a sweep finds its leftovers.
pub struct ProcessTree {
    task: SweptTask,
    signalled: Option<SignalledTree>,
}

impl ProcessTree {
    pub fn new(task: SweptTask) -> ProcessTree {
        ProcessTree { task, signalled: None }
    }

    /// Sends a signal to all processes but the agent's first one, which the caller signals before. It scans
    /// until no other is found, so a process that was forked meanwhile does not escape. A process that was
    /// forked after its parent had received the signal is left alone: it may be part of a clean end. Nothing
    /// escapes SIGKILL. A supervisor ends its own task, so it is never killed, and what is below it is left
    /// to it.
    ///
    /// # Errors
    /// [`SweepError::Proc`].
    pub fn signal(
        &mut self,
        signal: TreeSignal,
        supervisors: &dyn SupervisorLookup,
    ) -> Result<(), SweepError> {
        let sent = self.signalled.take().map(|s| s.sent).unwrap_or_default();
        let signalled = self.signalled.insert(SignalledTree { at: Instant::now(), sent });
        let mut sweep = LeftoverSweep::new(self.task.clone(), true, Duration::ZERO);
        let mut scan = ProcessScan::open().map_err(SweepError::Proc)?;
        let mut delivery = TreeDelivery { signal, children: HashMap::new() };
        for _ in 0..MAX_SCANS {
            scan.read().map_err(SweepError::Proc)?;
            sweep.add(&mut scan, supervisors);
            if !sweep.deliver(&mut delivery) {
                break;
            }
        }
        let stage = match signal.signal {
            Signal::TERM => SignalSent::Term,
            Signal::KILL => SignalSent::Kill,
            _ => return Ok(()),
        };
        let reached = sweep.found.iter().filter(|l| l.sent == SignalSent::Term);
        signalled.sent.extend(reached.map(|l| (l.stat.identity(), stage)));
        Ok(())
    }

    /// What the processes have received so far; `None`: no signal.
    pub fn signalled(&self) -> Option<SignalledTree> {
        self.signalled.clone()
    }
}

/// A signal on its way to the processes of a tree.
struct TreeDelivery {
    signal: TreeSignal,
    /// The children of each process right before it was sent the signal, as far as the kernel lists them.
    children: HashMap<i32, Vec<i32>>,
}

impl TreeDelivery {
    /// Whether the signal is for this process.
    fn is_for(&self, leftover: &Leftover) -> bool {
        let kills = self.signal.signal == Signal::KILL;
        let is_meant = match leftover.class {
            ProcessClass::Ours => true,
            ProcessClass::Supervisor => !kills,
            ProcessClass::Spared(_) | ProcessClass::Unreadable | ProcessClass::Exiting => false,
        };
        let siblings = self.children.get(&leftover.stat.ppid);
        let came_later = siblings.is_some_and(|before| !before.contains(&leftover.stat.pid));
        is_meant && leftover.sent == SignalSent::Nothing && leftover.is_awaited() && (kills || !came_later)
    }

    fn send(&mut self, handle: &ProcessHandle, now: &ProcessStat) -> SignalSent {
        let TreeSignal { signal, value, reached_group } = self.signal;
        let children = children_of(now.pid);
        if reached_group != Some(now.pgrp)
            && let Err(e) = send(handle, signal, value, now)
        {
            debug!("could not send {signal} to process {}: {e}", now.pid);
            return SignalSent::Refused;
        }
        if let Some(children) = children {
            self.children.insert(now.pid, children);
        }
        // Whatever the signal is: it is the only one of this delivery.
        SignalSent::Term
    }
}

impl LeftoverSweep {
    /// Sends a signal to each process that it is for and that has not received it. `false`: there is none.
    fn deliver(&mut self, delivery: &mut TreeDelivery) -> bool {
        let mut found = std::mem::take(&mut self.found);
        let mut any = false;
        for leftover in found.iter_mut().filter(|l| l.stat.identity() != self.task.agent) {
            if delivery.is_for(leftover) {
                any = true;
                self.deliver_to(leftover, delivery);
            }
        }
        self.found = found;
        any
    }

    /// Sends nothing if nothing proves at this moment what the process is.
    fn deliver_to(&self, leftover: &mut Leftover, delivery: &mut TreeDelivery) {
        let held = leftover.handle.take();
        let held = held.or_else(|| identity::open(&leftover.stat.identity()).ok().flatten());
        let Some(handle) = held else { return };
        if let Some(now) = self.may_signal(&handle).or_else(|| descendant(&handle)) {
            leftover.sent = delivery.send(&handle, &now);
        }
        leftover.handle = Some(handle);
    }
}

/// The present state of the process, if it descends from this one. Its ancestors are read twice: where both
/// are the same, no pid was reused in between, since a process whose parent ends gets another one.
fn descendant(handle: &ProcessHandle) -> Option<ProcessStat> {
    let id = handle.identity();
    let line = ancestry(id.pid)?;
    let is_same = |other: &[ProcessStat]| {
        line.iter().map(ProcessStat::identity).eq(other.iter().map(ProcessStat::identity))
    };
    line.first().copied().filter(|s| s.identity() == id && ancestry(id.pid).is_some_and(|l| is_same(&l)))
}

/// The process and its ancestors up to a child of this process; `None`: it does not descend from this one.
fn ancestry(pid: i32) -> Option<Vec<ProcessStat>> {
    let me = std::process::id().cast_signed();
    let mut line = vec![identity::stat(pid).ok()??];
    while let Some(last) = line.last().filter(|last| last.ppid != me) {
        if last.ppid <= 1 || line.len() == DEEPEST {
            return None;
        }
        line.push(identity::stat(last.ppid).ok()??);
    }
    Some(line)
}
