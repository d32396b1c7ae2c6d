//! Settling lost tasks: a state machine for each, many side by side over one scan of all processes. It blocks
//! nowhere; a loop owns it and waits for its descriptors.

use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::{
    Leaving, LostTask, RECHECK_INTERVAL, SettleOutcome, SupervisorState, holds_live_lock, supervisor_state,
};
use crate::error::Error;
use crate::failpoint;
use crate::ledger::Ledger;
use crate::process::cgroup::Cgroup;
use crate::process::identity::{self, Stat};
use crate::process::leftovers::{self, LedgerFile, LeftoverSweep, Seat, SharedScan, Step};
use crate::task::{Place, Task, Verdict};

/// How long marks are gathered in one transaction. Running supervisors give up partial writes after 250 ms.
const TRANSACTION: Duration = Duration::from_millis(50);

/// What a task turned out to be, once all that can be done about its processes is done.
pub enum RecoveryOutcome {
    /// Its supervisor lives.
    Alive(Task),
    /// It cannot be judged from here.
    Unverifiable(Task),
    /// Nothing of it lives: it may be marked.
    Lost(LostTask),
    /// Why it cannot be settled: something of it did not end.
    Stuck(LostTask, String),
}

/// Many tasks on their way to being settled.
pub struct RecoveryBatch {
    here: Rc<Place>,
    grace: Duration,
    ledger: LedgerFile,
    scan: SharedScan,
    tasks: Vec<TaskRecovery>,
}

struct TaskRecovery {
    task: Task,
    since: Instant,
    state: RecoveryState,
}

enum RecoveryState {
    /// Whether its supervisor lives is to be asked.
    New,
    /// Its supervisor is on its way to its end.
    Leaving(Leaving),
    /// Its processes are ended.
    Sweeping(Box<LeftoverSweep>),
}

impl RecoveryBatch {
    pub fn new(ledger: &Ledger, grace: Duration) -> RecoveryBatch {
        RecoveryBatch {
            here: Rc::new(identity::place()),
            grace,
            ledger: LedgerFile::at(ledger.path()),
            scan: SharedScan::default(),
            tasks: Vec::new(),
        }
    }

    /// The place of this process, read once.
    pub fn here(&self) -> Rc<Place> {
        Rc::clone(&self.here)
    }

    /// The ids of the tasks of which processes live, by their marks.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn named_tasks(&mut self) -> Result<impl Iterator<Item = String> + use<>, Error> {
        Ok(self.scan.named_tasks(&self.ledger).map_err(Error::failed)?.into_iter())
    }

    /// Takes charge of a task that the ledger calls running, or of the processes of one that has ended.
    pub fn add(&mut self, task: Task, now: Instant) {
        self.tasks.push(TaskRecovery { task, since: now, state: RecoveryState::New });
    }

    /// Does what can be done now; gives the tasks of which nothing more is to be done here.
    ///
    /// # Errors
    /// When the ledger's live locks or /proc cannot be read.
    pub fn step(&mut self, ledger: &Ledger, now: Instant) -> Result<(Vec<RecoveryOutcome>, Step), Error> {
        let (mut outcomes, mut next) = (Vec::new(), None);
        let wait = |next: &mut Option<Instant>, at: Instant| *next = Some(next.map_or(at, |n| n.min(at)));
        for recovery in std::mem::take(&mut self.tasks) {
            match self.judge(ledger, recovery, now)? {
                Judged::Over(outcome) => outcomes.push(outcome),
                Judged::Waits(recovery, at) => {
                    at.inspect(|at| wait(&mut next, *at));
                    self.tasks.push(recovery);
                }
            }
        }
        let mut sweeps: Vec<&mut LeftoverSweep> =
            self.tasks.iter_mut().filter_map(TaskRecovery::sweep).collect();
        let steps = self
            .scan
            .step(&mut sweeps, Instant::now(), &|stat: &Stat| holds_live_lock(ledger, stat.identity()))
            .map_err(|e| Error::failed(format!("ending what lost tasks left running: {e}")))?;
        let mut steps = steps.into_iter();
        for mut recovery in std::mem::take(&mut self.tasks) {
            match recovery.sweep().and_then(|_| steps.next()) {
                Some(Step::Done) => outcomes.push(self.swept(recovery)),
                Some(Step::Wait(at)) => {
                    wait(&mut next, at);
                    self.tasks.push(recovery);
                }
                None => self.tasks.push(recovery),
            }
        }
        Ok((outcomes, next.map_or(Step::Done, Step::Wait)))
    }

    /// What becomes readable when one that is waited for ends.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let supervisors = self.tasks.iter().filter_map(|t| match &t.state {
            RecoveryState::Leaving(leaving) => leaving.supervisor.as_ref().map(AsFd::as_fd),
            _ => None,
        });
        let sweeps = self.tasks.iter().filter_map(|t| match &t.state {
            RecoveryState::Sweeping(sweep) => Some(sweep.fds()),
            _ => None,
        });
        supervisors.chain(sweeps.flatten())
    }

    /// Goes on from the supervisor of a task to its processes.
    fn judge(&self, ledger: &Ledger, recovery: TaskRecovery, now: Instant) -> Result<Judged, Error> {
        if matches!(recovery.state, RecoveryState::Sweeping(_)) {
            return Ok(Judged::Waits(recovery, None));
        }
        let TaskRecovery { task, since, .. } = recovery;
        let has_ended = task.status.is_terminal();
        let verdict = match supervisor_state(ledger, &task, &self.here)? {
            SupervisorState::Judged(verdict) => verdict,
            SupervisorState::Leaving(leaving) => {
                let until = since + leaving.patience(self.grace);
                if now < until {
                    let again = leaving.supervisor.is_none();
                    let at = if again { until.min(now + RECHECK_INTERVAL) } else { until };
                    let state = RecoveryState::Leaving(leaving);
                    return Ok(Judged::Waits(TaskRecovery { task, since, state }, Some(at)));
                }
                if leaving.is_dying {
                    return Ok(Judged::Over(self.undying(task)));
                }
                super::judge_from(ledger.evidence(&task)?, &task, &self.here)
            }
        };
        Ok(match verdict {
            Verdict::Alive => Judged::Over(RecoveryOutcome::Alive(task)),
            Verdict::Unverifiable if !has_ended => Judged::Over(RecoveryOutcome::Unverifiable(task)),
            _ => match self.sweep_of(&task) {
                Some(sweep) => {
                    let state = RecoveryState::Sweeping(Box::new(sweep));
                    Judged::Waits(TaskRecovery { task, since, state }, None)
                }
                None => Judged::Over(RecoveryOutcome::Lost(LostTask::found(task, self.here()))),
            },
        })
    }

    /// The sweep of a task's processes. `None`: of another boot nothing can be left.
    fn sweep_of(&self, task: &Task) -> Option<LeftoverSweep> {
        let agent = task.agent_process().filter(|_| task.boot_id.as_ref() == Some(&self.here.boot_id))?;
        let cgroup = Cgroup::of(&task.id, task.live_slot, task.cgroup.as_deref());
        let (id, ledger) = (task.id.clone(), self.ledger.clone());
        let swept = leftovers::Task { id, ledger, agent, agent_tty: 0, seat: Seat::Stranger, cgroup };
        Some(LeftoverSweep::new(swept, true, self.grace))
    }

    /// Its sweep is done.
    fn swept(&self, recovery: TaskRecovery) -> RecoveryOutcome {
        let leftovers = match &recovery.state {
            RecoveryState::Sweeping(sweep) => {
                sweep.cgroup().inspect(|cgroup| cgroup.remove());
                Some(sweep.summary())
            }
            _ => None,
        };
        let lost = LostTask { leftovers, ..LostTask::found(recovery.task, self.here()) };
        match lost.stuck() {
            Some(why) => RecoveryOutcome::Stuck(lost, why),
            None => RecoveryOutcome::Lost(lost),
        }
    }

    /// Its supervisor was killed and does not end.
    fn undying(&self, task: Task) -> RecoveryOutcome {
        let pid = task.supervisor_pid.unwrap_or_default();
        let state = identity::stat(pid).ok().flatten().map_or('?', |s| s.state);
        let why = format!("its supervisor (pid {pid}) is being killed and does not end (state {state})");
        RecoveryOutcome::Stuck(LostTask::found(task, self.here()), why)
    }
}

/// Where a task stands once its supervisor was asked for.
enum Judged {
    Over(RecoveryOutcome),
    /// At this time at the latest it is asked for again; `None`: it has a sweep.
    Waits(TaskRecovery, Option<Instant>),
}

impl TaskRecovery {
    fn sweep(&mut self) -> Option<&mut LeftoverSweep> {
        match &mut self.state {
            RecoveryState::Sweeping(sweep) => Some(sweep),
            _ => None,
        }
    }
}

/// Marks lost tasks, as many in a transaction as its time allows, and says what came of each.
///
/// # Errors
/// When the ledger does not take it. What was committed by then stands.
pub fn settle(
    ledger: &mut Ledger,
    lost: Vec<LostTask>,
    by: &str,
) -> Result<Vec<(LostTask, SettleOutcome)>, Error> {
    let mut settled = Vec::with_capacity(lost.len());
    let mut lost = lost.into_iter().peekable();
    while lost.peek().is_some() {
        let first = settled.len();
        let began = Instant::now();
        let claim = ledger.claim()?;
        while began.elapsed() < TRANSACTION
            && let Some(task) = lost.next()
        {
            let outcome = task.mark(&claim, by)?;
            settled.push((task, outcome));
        }
        claim.commit()?;
        failpoint::reached("recover.marked");
        settled[first..].iter().for_each(|(task, outcome)| task.tidy(ledger, outcome));
    }
    Ok(settled)
}
