//! One scan of all processes, shared by the sweeps of many tasks.

use std::collections::BTreeSet;
use std::time::Instant;

use super::error::SweepError;
use super::repeated::scan_all;
use super::scan::ProcessScan;
use super::sweep::{LeftoverSweep, RECHECK_INTERVAL, SweepStep};
use super::swept_task::SupervisorLookup;
use crate::process::procfs::mark::{LedgerFile, TaskMark};
use crate::task::TaskId;

/// One scan of all processes, and when the next one is due.
#[derive(Default)]
pub struct SharedScan {
    scan: Option<ProcessScan>,
    next_scan: Option<Instant>,
}

impl SharedScan {
    /// The ids of the tasks of `ledger` that have live processes of this user. If it is unclear which ledger
    /// a process names, its task is included.
    ///
    /// # Errors
    /// [`SweepError::Proc`].
    pub fn named_tasks(&mut self, ledger: &LedgerFile) -> Result<BTreeSet<TaskId>, SweepError> {
        Ok(self.read()?.named_tasks(ledger))
    }

    /// Whether a process of this user that carries the mark of the task `id` of `ledger` descends from the
    /// process `ancestor`.
    ///
    /// # Errors
    /// [`SweepError::Proc`].
    pub fn descends_from(
        &mut self,
        ancestor: i32,
        id: &TaskId,
        ledger: LedgerFile,
    ) -> Result<bool, SweepError> {
        Ok(self.read()?.descends_from(ancestor, &TaskMark::new(id, ledger)))
    }

    fn read(&mut self) -> Result<&mut ProcessScan, SweepError> {
        let scan = match self.scan.take() {
            Some(scan) => scan,
            None => ProcessScan::open().map_err(SweepError::Proc)?,
        };
        let scan = self.scan.insert(scan);
        scan.read().map_err(SweepError::Proc)?;
        Ok(scan)
    }

    /// Does for all `sweeps` what can be done now, without blocking, and returns the next step of each.
    ///
    /// # Errors
    /// [`SweepError`]; the sweeps are over then.
    pub fn step(
        &mut self,
        sweeps: &mut [&mut LeftoverSweep],
        now: Instant,
        supervisors: &dyn SupervisorLookup,
    ) -> Result<Vec<SweepStep>, SweepError> {
        let wants: Vec<bool> = sweeps.iter_mut().map(|s| s.needs_scan(now)).collect::<Result<_, _>>()?;
        // Processes end one after the other: one scan serves those that have ended and those that soon will.
        let all = sweeps.iter().zip(&wants).all(|(sweep, wants)| *wants || sweep.is_done());
        let next = self.next_scan.filter(|next| now < *next);
        let scans = wants.contains(&true) && (all || next.is_none());
        if scans {
            let wanting = sweeps.iter_mut().zip(&wants).filter(|(_, wants)| **wants);
            let mut wanting: Vec<&mut LeftoverSweep> = wanting.map(|(sweep, _)| &mut **sweep).collect();
            scan_all(&mut wanting, &mut self.scan, supervisors)?;
            self.next_scan = Some(Instant::now() + RECHECK_INTERVAL);
        }
        let advance = |(sweep, wants): (&mut &mut LeftoverSweep, bool)| match (wants && !scans, next) {
            (true, Some(next)) => SweepStep::Wait(next),
            _ => sweep.advance(now, wants),
        };
        Ok(sweeps.iter_mut().zip(wants).map(advance).collect())
    }
}
