//! Which processes supervise a task, asked of the ledger once for each scan.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::iter;

use super::trust::OwnershipEvidence;
use crate::ledger::Ledger;
use crate::process::leftovers::SupervisorLookup;
use crate::process::procfs::identity::{self, ProcessStat};
use crate::task::{ProcessIdentity, ProcessScope, RecordedProcesses};

/// How many ancestors of a process are read at most.
const DEEPEST: usize = 4096;

/// The supervisors of a ledger, as they were when [`SupervisorLookup::recorded`] was called last.
pub struct LedgerSupervisors<'a> {
    evidence: &'a OwnershipEvidence,
    ledger: &'a Ledger,
    here: &'a ProcessScope,
    /// Those that running rows name. `None`: not read yet, or the rows prove nothing or cannot be read.
    named: RefCell<Option<HashSet<ProcessIdentity>>>,
    answers: RefCell<HashMap<ProcessIdentity, bool>>,
}

impl<'a> LedgerSupervisors<'a> {
    pub fn new(
        evidence: &'a OwnershipEvidence,
        ledger: &'a Ledger,
        here: &'a ProcessScope,
    ) -> LedgerSupervisors<'a> {
        let (named, answers) = (RefCell::default(), RefCell::default());
        LedgerSupervisors { evidence, ledger, here, named, answers }
    }

    /// Whether a live supervisor is among the ancestors of a process.
    pub fn are_above(&self, process: ProcessIdentity) -> bool {
        if self.named.borrow().is_none() {
            self.recorded();
        }
        let parent = |pid: i32| identity::stat(pid).ok().flatten();
        let line = iter::successors(parent(process.pid), |below| parent(below.ppid));
        line.skip(1).take(DEEPEST).any(|above| self.is_supervisor(&above))
    }
}

impl SupervisorLookup for LedgerSupervisors<'_> {
    fn is_supervisor(&self, stat: &ProcessStat) -> bool {
        let process = stat.identity();
        let is_named = self.named.borrow().as_ref().is_none_or(|named| named.contains(&process));
        let ask = || self.evidence.is_supervisor(self.ledger, stat);
        is_named && *self.answers.borrow_mut().entry(process).or_insert_with(ask)
    }

    fn recorded(&self) -> Vec<RecordedProcesses> {
        self.answers.borrow_mut().clear();
        let read = match self.evidence {
            OwnershipEvidence::Rows => self.ledger.running_processes(self.here).ok(),
            OwnershipEvidence::Kernel(_) => None,
        };
        let named = read.as_ref().map(|rows| rows.iter().map(|r| r.supervisor).collect());
        *self.named.borrow_mut() = named;
        read.unwrap_or_default()
    }
}
