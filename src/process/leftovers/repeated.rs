//! Scans again until nothing new is found, for the sweeps of many tasks at once.

use std::time::Instant;

use super::error::SweepError;
use super::scan::ProcessScan;
use super::sweep::{LeftoverSweep, SweepPhase, SweepStep};
use super::swept_task::{SupervisorLookup, SweepOwner};
use crate::task::RecordedProcesses;

/// How many scans one step makes at most: what forks faster is found by the next step.
pub(super) const MAX_SCANS: usize = 16;

impl LeftoverSweep {
    /// Scans until two scans in a row find nothing new. Sends nothing.
    ///
    /// # Errors
    /// [`SweepError::Proc`].
    pub fn scan(&mut self, supervisors: &dyn SupervisorLookup) -> Result<(), SweepError> {
        let mut scan = self.scan.take();
        let scanned = scan_all(&mut [self], &mut scan, supervisors);
        self.scan = scan;
        scanned
    }

    /// Does what can be done now, without blocking.
    ///
    /// # Errors
    /// [`SweepError`]; the sweep is over then.
    pub fn step(
        &mut self,
        now: Instant,
        supervisors: &dyn SupervisorLookup,
    ) -> Result<SweepStep, SweepError> {
        let scans = self.needs_scan(now)?;
        if scans {
            self.scan(supervisors)?;
        }
        Ok(self.advance(now, scans))
    }
}

/// Scans for the leftovers of all `sweeps` at once, for each until two scans in a row find nothing new: /proc
/// is read as often for many tasks as for one. The first scan reads all processes, the others only what may
/// have changed.
pub(super) fn scan_all(
    sweeps: &mut [&mut LeftoverSweep],
    scan: &mut Option<ProcessScan>,
    supervisors: &dyn SupervisorLookup,
) -> Result<(), SweepError> {
    // Counting is not worth reading all of /proc at the end of each successful run: only the mark could still
    // be on a process that an unrelated daemon started, and `audit` shows that.
    let is_done = |s: &&mut LeftoverSweep| !s.ends && s.is_childless();
    let mut empty: Vec<u32> = sweeps.iter().map(|s| if is_done(s) { 2 } else { 0 }).collect();
    // What was read before a task began to be swept shows what its supervisor could still change.
    let since = sweeps.iter().map(|s| s.since).max();
    for n in 0..MAX_SCANS {
        if empty.iter().all(|n| *n == 2) {
            break;
        }
        let scan = match scan {
            Some(scan) => scan,
            None => scan.insert(ProcessScan::open().map_err(SweepError::Proc)?),
        };
        match n {
            0 => scan.refresh(since),
            _ => scan.update(),
        }
        .map_err(SweepError::Proc)?;
        scan.search(sweeps.iter().map(|s| s.task.agent.start), recorded(sweeps, supervisors));
        for (sweep, empty) in sweeps.iter_mut().zip(&mut empty).filter(|(_, empty)| **empty < 2) {
            let is_new = sweep.add(scan, supervisors);
            // A process that is executing another program shows no mark for a moment.
            let counts = u32::from(!scan.is_one_executing());
            *empty = if is_new { 0 } else { *empty + counts };
        }
    }
    for sweep in sweeps.iter_mut().filter(|s| s.is_new()) {
        sweep.phase = SweepPhase::Scanned;
    }
    Ok(())
}

/// What the rows name, if that is worth a statement: the supervisor of a task reads only what is younger than
/// its own agent.
fn recorded(sweeps: &[&mut LeftoverSweep], supervisors: &dyn SupervisorLookup) -> Vec<RecordedProcesses> {
    let is_recovery = |s: &&mut LeftoverSweep| !matches!(s.task.owner, SweepOwner::Supervisor { .. });
    if sweeps.iter().any(is_recovery) { supervisors.recorded() } else { Vec::new() }
}
