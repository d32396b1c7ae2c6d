//! The state of a recovery, and its beginning and end.

use std::collections::BTreeSet;
use std::time::Instant;

use super::periodic_call::PeriodicCall;
use super::report::{RecoveryReport, Reporter};
use super::scope::{RecoveryPolicy, SelectedTasks};
use super::supervisor_watch::SupervisorWatch;
use crate::error::Error;
use crate::helper::Helper;
use crate::ledger::{FollowUpLock, Ledger};
use crate::process::spawn::caller::Caller;
use crate::process::watch::Watch;
use crate::recovery::batch::RecoveryBatch;
use crate::sys::ReceivedSignal;
use crate::task::{Signal, TaskId};

/// One recovery at work: what it settles, waits for and reports.
pub struct RecoveryEngine<'a> {
    pub ledger: Ledger,
    pub watch: &'a mut Watch,
    pub policy: &'a RecoveryPolicy,
    pub caller: &'a Caller,
    /// The command, for `task_transition`.
    pub by: &'static str,
    pub reporter: Reporter,
    pub report: RecoveryReport,
    /// What `monitor` watches besides; `None`: only the tasks that were added are settled.
    pub supervisor_watch: Option<SupervisorWatch>,
    pub periodic_call: Option<PeriodicCall<'a>>,
    /// The tasks that are being settled; `None`: there is none.
    pub(super) batch: Option<RecoveryBatch>,
    /// When the batch is to be stepped, at the latest.
    pub(super) next_step: Option<Instant>,
    /// The tasks in the batch.
    pub(super) settling: BTreeSet<TaskId>,
    /// The running tasks that cannot be judged.
    pub(super) unverifiable: Vec<TaskId>,
    /// The tasks whose reports were printed and not yet recorded.
    pub(super) printed: Vec<TaskId>,
    /// Keeps other recoveries from reporting them too.
    pub(super) report_lock: Option<FollowUpLock>,
    /// The stop signal that bookend has received.
    pub stopped: Option<Signal>,
    /// Whether stop signals are read from the watch.
    pub heeds_stops: bool,
    /// Whether a hook or git runs, so that an error is kept for later.
    pub(super) is_attending: bool,
    /// Signals that the caller of bookend had blocked, for the next hook.
    pub(super) withheld: Vec<ReceivedSignal>,
    /// A file of the ledger was replaced: the ledger is to be opened again.
    pub is_replaced: bool,
    /// The ledger may have joined a fleet or left it.
    pub membership_changed: bool,
    /// What kept the engine from settling tasks while a hook ran.
    pub deferred_error: Option<Error>,
}

impl<'a> RecoveryEngine<'a> {
    /// An engine that has nothing to do.
    pub fn new(
        ledger: Ledger,
        watch: &'a mut Watch,
        (policy, by): (&'a RecoveryPolicy, &'static str),
        caller: &'a Caller,
        (reporter, report): (Reporter, RecoveryReport),
    ) -> RecoveryEngine<'a> {
        RecoveryEngine {
            ledger,
            watch,
            policy,
            caller,
            by,
            reporter,
            report,
            supervisor_watch: None,
            periodic_call: None,
            batch: None,
            next_step: None,
            settling: BTreeSet::new(),
            unverifiable: Vec::new(),
            printed: Vec::new(),
            report_lock: None,
            stopped: None,
            heeds_stops: false,
            is_attending: false,
            withheld: Vec::new(),
            is_replaced: false,
            membership_changed: false,
            deferred_error: None,
        }
    }

    /// Whether tasks are being settled.
    pub fn is_settling(&self) -> bool {
        !self.settling.is_empty()
    }

    /// Whether something is to be done before the next event.
    pub fn has_work(&self) -> bool {
        let follow_ups = self.supervisor_watch.as_ref().is_some_and(SupervisorWatch::has_ended);
        let scan = self.batch.is_some() && !self.is_settling();
        follow_ups || scan || !self.unverifiable.is_empty() || !self.report.is_empty()
    }

    /// The tasks whose hooks and reports may be due, once. `None`: there is none.
    pub fn take_ended(&mut self) -> Option<SelectedTasks> {
        self.supervisor_watch.as_mut()?.take_ended()
    }

    /// Whether no more hooks are to be started.
    pub fn is_interrupted(&self) -> bool {
        self.stopped.is_some() || self.deferred_error.is_some() || self.is_replaced
    }

    /// Waits for one event without a helper.
    ///
    /// # Errors
    /// As [`RecoveryEngine::turn`].
    pub fn turn_alone(&mut self, until: Option<Instant>) -> Result<(), Error> {
        self.turn(&mut None::<Helper>, until).map(drop)
    }

    pub(super) fn problem(&mut self, text: String) {
        self.reporter.line(&text);
        self.report.problems.push(text);
    }
}

/// A watch for a recovery.
///
/// # Errors
/// When the kernel has no room for a descriptor.
pub fn watch() -> Result<Watch, Error> {
    Watch::new().map_err(|e| Error::failed("watching hooks").caused_by(e))
}
