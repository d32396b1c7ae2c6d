//! Settles lost tasks: one state machine per task, all over one scan of all processes. It never blocks; its
//! caller waits for its descriptors.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tracing::warn;

use super::agent_state::{AgentState, agent_may_run, agent_state_from};
use super::host::{comparable, is_of_another_boot};
use super::lost_task::{LostTask, SettleOutcome};
use super::supervisors::LedgerSupervisors;
use super::trust::OwnershipEvidence;
use super::verdict::{ExitingSupervisor, RECHECK_INTERVAL, SupervisorState, judge_from, supervisor_state};
use crate::error::Error;
use crate::failpoint;
use crate::ledger::Ledger;
use crate::process::leftovers::LeftoverSummary;
use crate::process::leftovers::{self, LedgerFile, LeftoverSweep, SharedScan, SweepStep};
use crate::process::procfs::identity::{self, ProcessHandle};
use crate::task::{ProcessScope, Signal, Task, TaskId, Verdict};

/// How long tasks are settled in one transaction. Running supervisors give up partial writes after 250 ms.
const TRANSACTION: Duration = Duration::from_millis(50);

/// What a task turned out to be, after its processes were dealt with.
pub enum RecoveryOutcome {
    /// Its supervisor is alive.
    Alive(Task),
    /// It cannot be verified from here.
    Unverifiable(Task),
    /// Nothing of it is alive: it may be settled.
    Lost(LostTask),
    /// It cannot be settled, since one of its processes did not end, and why.
    Stuck(LostTask, String),
}

impl RecoveryOutcome {
    /// The id of its task.
    pub fn id(&self) -> &TaskId {
        match self {
            RecoveryOutcome::Alive(task) | RecoveryOutcome::Unverifiable(task) => &task.id,
            RecoveryOutcome::Lost(task) | RecoveryOutcome::Stuck(task, _) => task.id(),
        }
    }
}

/// The tasks that are being settled.
pub struct RecoveryBatch {
    here: Rc<ProcessScope>,
    grace: Duration,
    ledger: LedgerFile,
    evidence: OwnershipEvidence,
    scan: SharedScan,
    tasks: Vec<TaskRecovery>,
}

struct TaskRecovery {
    task: Task,
    since: Instant,
    state: RecoveryState,
}

enum RecoveryState {
    /// Its supervisor is to be checked.
    New,
    /// Its supervisor is exiting.
    Exiting(ExitingSupervisor),
    /// Its processes are being ended.
    Sweeping(Box<LeftoverSweep>),
    /// Its agent, which the scan did not show or could not read, is being ended.
    EndingAgent(AgentTermination, LeftoverSummary),
}

/// The termination of an agent that is proven by its recorded identity alone.
struct AgentTermination {
    agent: ProcessHandle,
    is_killed: bool,
    until: Instant,
}

impl AgentTermination {
    /// Sends SIGTERM, and SIGCONT, since a stopped process acts on SIGTERM only when it is continued.
    fn begin(agent: ProcessHandle, until: Instant) -> io::Result<AgentTermination> {
        agent.signal(Signal::TERM)?;
        agent.signal(Signal::CONT)?;
        Ok(AgentTermination { agent, is_killed: false, until })
    }

    /// Sends SIGKILL when it is due; `true`: there is nothing more to wait for.
    fn step(&mut self, now: Instant) -> bool {
        if self.agent.wait(Duration::ZERO).unwrap_or(true) {
            return true;
        }
        if now >= self.until && !self.is_killed {
            self.is_killed = true;
            self.until = now + leftovers::DYING;
            return self.agent.signal(Signal::KILL).is_err();
        }
        now >= self.until
    }
}

impl RecoveryBatch {
    pub fn new(ledger: &Ledger, grace: Duration) -> RecoveryBatch {
        RecoveryBatch {
            here: Rc::new(identity::place()),
            grace,
            ledger: LedgerFile::at(ledger.path()),
            evidence: OwnershipEvidence::of(ledger),
            scan: SharedScan::default(),
            tasks: Vec::new(),
        }
    }

    /// The place of this process, read once.
    pub fn here(&self) -> Rc<ProcessScope> {
        Rc::clone(&self.here)
    }

    /// The ids of the tasks with live processes, by their marks.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn named_tasks(&mut self) -> Result<impl Iterator<Item = TaskId> + use<>, Error> {
        Ok(self.scan.named_tasks(&self.ledger).map_err(Error::from)?.into_iter())
    }

    /// Adds a task that the ledger calls running, or one that has ended and whose leftovers are to be ended.
    pub fn add(&mut self, mut task: Task, now: Instant) {
        self.evidence.redact(&mut task);
        self.tasks.push(TaskRecovery { task, since: now, state: RecoveryState::New });
    }

    /// Does what can be done now; returns the tasks that are finished.
    ///
    /// # Errors
    /// When the ledger's live locks or /proc cannot be read.
    pub fn step(
        &mut self,
        ledger: &Ledger,
        now: Instant,
    ) -> Result<(Vec<RecoveryOutcome>, SweepStep), Error> {
        let (mut outcomes, mut next) = (Vec::new(), None);
        let supervisors = LedgerSupervisors::new(&self.evidence, ledger, &self.here);
        let wait = |next: &mut Option<Instant>, at: Instant| *next = Some(next.map_or(at, |n| n.min(at)));
        for recovery in std::mem::take(&mut self.tasks) {
            match self.judge(ledger, recovery, &supervisors, now)? {
                RecoveryProgress::Finished(outcome) => outcomes.push(outcome),
                RecoveryProgress::Waits(recovery, at) => {
                    at.inspect(|at| wait(&mut next, *at));
                    self.tasks.push(recovery);
                }
            }
        }
        let mut sweeps: Vec<&mut LeftoverSweep> =
            self.tasks.iter_mut().filter_map(TaskRecovery::sweep).collect();
        let steps = self
            .scan
            .step(&mut sweeps, Instant::now(), &supervisors)
            .map_err(|e| Error::failed("ending what lost tasks left running").caused_by(e))?;
        let mut steps = steps.into_iter();
        for mut recovery in std::mem::take(&mut self.tasks) {
            match recovery.sweep().and_then(|_| steps.next()) {
                Some(SweepStep::Done) => match self.swept(ledger, recovery, now) {
                    RecoveryProgress::Finished(outcome) => outcomes.push(outcome),
                    RecoveryProgress::Waits(recovery, at) => {
                        at.inspect(|at| wait(&mut next, *at));
                        self.tasks.push(recovery);
                    }
                },
                Some(SweepStep::Wait(at)) => {
                    wait(&mut next, at);
                    self.tasks.push(recovery);
                }
                None => self.tasks.push(recovery),
            }
        }
        Ok((outcomes, next.map_or(SweepStep::Done, SweepStep::Wait)))
    }

    /// What becomes readable when an awaited process ends.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let supervisors = self.tasks.iter().filter_map(|t| match &t.state {
            RecoveryState::Exiting(exiting) => exiting.supervisor.as_ref().map(AsFd::as_fd),
            RecoveryState::EndingAgent(end, _) => Some(end.agent.as_fd()),
            _ => None,
        });
        let sweeps = self.tasks.iter().filter_map(|t| match &t.state {
            RecoveryState::Sweeping(sweep) => Some(sweep.fds()),
            _ => None,
        });
        supervisors.chain(sweeps.flatten())
    }

    /// Continues from the supervisor of a task to its processes.
    fn judge(
        &self,
        ledger: &Ledger,
        recovery: TaskRecovery,
        supervisors: &LedgerSupervisors<'_>,
        now: Instant,
    ) -> Result<RecoveryProgress, Error> {
        let TaskRecovery { task, since, state } = recovery;
        match state {
            RecoveryState::New | RecoveryState::Exiting(_) => {}
            RecoveryState::Sweeping(_) => {
                return Ok(RecoveryProgress::Waits(TaskRecovery { task, since, state }, None));
            }
            RecoveryState::EndingAgent(mut end, summary) => {
                if end.step(now) {
                    return Ok(RecoveryProgress::Finished(self.finish(ledger, task, Some(summary))));
                }
                let until = Some(end.until);
                let state = RecoveryState::EndingAgent(end, summary);
                return Ok(RecoveryProgress::Waits(TaskRecovery { task, since, state }, until));
            }
        }
        let has_ended = task.status.is_terminal();
        let verdict = match supervisor_state(ledger, &task, &self.here)? {
            SupervisorState::Judged(verdict) => verdict,
            SupervisorState::Exiting(exiting) => {
                let until = since + exiting.patience(self.grace);
                if now < until {
                    let again = exiting.supervisor.is_none();
                    let at = if again { until.min(now + RECHECK_INTERVAL) } else { until };
                    let state = RecoveryState::Exiting(exiting);
                    return Ok(RecoveryProgress::Waits(TaskRecovery { task, since, state }, Some(at)));
                }
                if exiting.is_dying {
                    return Ok(RecoveryProgress::Finished(self.stuck_supervisor(task)));
                }
                judge_from(ledger.evidence(&task)?, &task, &self.here)
            }
        };
        Ok(match verdict {
            Verdict::Alive => RecoveryProgress::Finished(RecoveryOutcome::Alive(task)),
            Verdict::Unverifiable if !has_ended => {
                RecoveryProgress::Finished(RecoveryOutcome::Unverifiable(task))
            }
            _ => match self.sweep_of(&task) {
                Some(mut sweep) => {
                    self.signal_agent(&task, &mut sweep, supervisors, now);
                    let state = RecoveryState::Sweeping(Box::new(sweep));
                    RecoveryProgress::Waits(TaskRecovery { task, since, state }, None)
                }
                None => {
                    RecoveryProgress::Finished(RecoveryOutcome::Lost(LostTask::unswept(task, self.here())))
                }
            },
        })
    }

    /// The sweep of a task's processes. `None`: after a reboot nothing can be left.
    fn sweep_of(&self, task: &Task) -> Option<LeftoverSweep> {
        let agent = match &self.evidence {
            OwnershipEvidence::Kernel(_) => None,
            OwnershipEvidence::Rows => {
                Some(task.agent_process().filter(|_| !is_of_another_boot(task, &self.here))?)
            }
        };
        let swept = self.evidence.leftovers_of(self.ledger.clone(), task, agent.map(|a| a.identity));
        Some(LeftoverSweep::new(swept, true, self.grace))
    }

    /// Signals the agent of a lost task before the first scan, unless it is below a supervisor: then the
    /// sweep decides whether to spare it.
    fn signal_agent(
        &self,
        task: &Task,
        sweep: &mut LeftoverSweep,
        supervisors: &LedgerSupervisors<'_>,
        now: Instant,
    ) {
        let runs = !task.status.is_terminal() && agent_state_from(task, &self.here) == AgentState::Runs;
        let Some(agent) = task.agent_process().filter(|_| runs) else { return };
        if !supervisors.are_above(agent.identity) {
            sweep.signal_agent(now);
        }
    }

    /// Continues from the processes that the scan showed to an agent that it did not show.
    fn swept(&self, ledger: &Ledger, recovery: TaskRecovery, now: Instant) -> RecoveryProgress {
        let TaskRecovery { task, since, state } = recovery;
        let RecoveryState::Sweeping(sweep) = state else {
            return RecoveryProgress::Finished(self.finish(ledger, task, None));
        };
        sweep.cgroup().inspect(|cgroup| cgroup.remove());
        let mut summary = sweep.summary();
        let state = agent_state_from(&task, &self.here);
        if let Some(pid) = task.agent_pid.filter(|_| state != AgentState::Ended) {
            summary.count_hidden(pid);
        }
        match self.agent_to_end(&task, state, &summary, now) {
            Some(end) => {
                let until = Some(end.until);
                let state = RecoveryState::EndingAgent(end, summary);
                RecoveryProgress::Waits(TaskRecovery { task, since, state }, until)
            }
            None => RecoveryProgress::Finished(self.finish(ledger, task, Some(summary))),
        }
    }

    /// Begins to end an agent that the sweep spared, although its recorded identity proves it and it may be
    /// signalled.
    fn agent_to_end(
        &self,
        task: &Task,
        state: AgentState,
        summary: &LeftoverSummary,
        now: Instant,
    ) -> Option<AgentTermination> {
        let agent = comparable(task.agent_process()?, task, &self.here);
        let pid = agent.identity.pid;
        // A ledger of another user proves nothing to root.
        let is_ours = self.ledger.is_owned_by(nix::unistd::geteuid().as_raw());
        if state != AgentState::Runs || !summary.spares_unread(pid) || !is_ours {
            return None;
        }
        let agent = identity::open_recorded(agent).ok()??;
        AgentTermination::begin(agent, now + self.grace)
            .inspect_err(|e| warn!("ending the agent of task {} (pid {pid}): {e}", task.id))
            .ok()
    }

    /// The outcome, after its processes were dealt with.
    fn finish(&self, ledger: &Ledger, task: Task, leftovers: Option<LeftoverSummary>) -> RecoveryOutcome {
        let mut lost = LostTask::unswept(task, self.here());
        lost.leftovers = leftovers;
        if let (Some(summary), Some(pid)) = (&mut lost.leftovers, lost.task.agent_pid) {
            let state = agent_state_from(&lost.task, &self.here);
            if summary.spares_unread(pid) {
                match state {
                    AgentState::Ended => summary.note_end(pid),
                    AgentState::Runs if !summary.survivors.contains(&pid) => summary.survivors.push(pid),
                    _ => {}
                }
            }
            lost.agent_may_run = agent_may_run(ledger, &lost.task, state);
            if lost.agent_may_run.is_some() {
                summary.survivors.retain(|p| *p != pid);
            }
        }
        match lost.stuck() {
            Some(why) => RecoveryOutcome::Stuck(lost, why),
            None => RecoveryOutcome::Lost(lost),
        }
    }

    /// The outcome for a supervisor that was killed but has not ended.
    fn stuck_supervisor(&self, task: Task) -> RecoveryOutcome {
        let pid = task.supervisor_pid.unwrap_or_default();
        let state = identity::stat(pid).ok().flatten().map_or('?', |s| s.state);
        let why = format!("its supervisor (pid {pid}) was killed but has not ended (state {state})");
        RecoveryOutcome::Stuck(LostTask::unswept(task, self.here()), why)
    }
}

/// Whether a task is finished.
enum RecoveryProgress {
    Finished(RecoveryOutcome),
    /// It is checked again at this time at the latest; `None`: its sweep says when.
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

/// Marks lost tasks as interrupted, as many in a transaction as time allows, and returns the outcome of each.
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
            let outcome = task.settle(&claim, by)?;
            settled.push((task, outcome));
        }
        claim.commit()?;
        failpoint::reached("recover.marked");
        settled[first..].iter().for_each(|(task, outcome)| task.close(ledger, outcome));
    }
    Ok(settled)
}
