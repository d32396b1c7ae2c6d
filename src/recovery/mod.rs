//! Recovery: whether a task that the ledger calls running is, and the settling of one that is not.

pub mod batch;
pub mod liveness;
pub mod trust;

use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use jiff::SignedDuration;
use serde::Deserialize;
use tracing::{info, warn};

use crate::error::{Error, chain};
use crate::ledger::{Claim, FinishOutcome, Ledger, LedgerError, LiveEvidence};
use crate::log;
use crate::process::cgroup::oom;
use crate::process::leftovers::LeftoverSummary;
use crate::process::leftovers::{self, LeftoversPolicy, SparedReason};
use crate::process::procfs::dying;
use crate::process::procfs::identity::{self, ProcessHandle};
use crate::sys;
use crate::task::{
    Ending, InterruptReason, Key, ProcessIdentity, ProcessRecord, ProcessScope, SessionId, Status, Task,
    TaskEnd, TaskId, Time, Verdict,
};
use crate::view;

/// How long a task that cannot be judged is believed in: the default of `recover --ttl`.
pub const TTL: Duration = Duration::from_secs(24 * 60 * 60);
/// How long the children of a dead supervisor may take to notice, and a supervisor that has let go of its
/// lock to exit.
const LAST_BREATH: Duration = Duration::from_secs(1);
/// How often a lock is asked for again whose holder has no descriptor to wait for.
const RECHECK_INTERVAL: Duration = Duration::from_millis(10);

/// Judges a running row by what the kernel says of its live lock, else by its identity.
pub fn judge(lock: LiveEvidence, task: &Task) -> Verdict {
    judge_from(lock, task, &identity::place())
}

/// As [`judge`], for this process's own place.
fn judge_from(lock: LiveEvidence, task: &Task, here: &ProcessScope) -> Verdict {
    let lock = match lock {
        // An anonymous number identifies no device; and of another boot nobody can hold the lock any more.
        LiveEvidence::Renumbered { anonymous }
            if anonymous || task.boot_id.as_ref() != Some(&here.boot_id) =>
        {
            LiveEvidence::NoSlot
        }
        lock => lock,
    };
    let by_identity =
        || task.supervisor().map_or(Verdict::Unverifiable, |s| identity::judge(s, &place_of(task), here));
    verdict(lock, by_identity, same_host(task, here))
}

/// The table behind `judge`.
fn verdict(lock: LiveEvidence, identity: impl Fn() -> Verdict, same_host: bool) -> Verdict {
    match lock {
        LiveEvidence::Held => Verdict::Alive,
        LiveEvidence::OtherFile | LiveEvidence::Renumbered { .. } | LiveEvidence::Unreadable => {
            Verdict::Unverifiable
        }
        LiveEvidence::NoSlot => identity(),
        // The file may be shared with another machine, whose locks are not seen here.
        LiveEvidence::Free if !same_host => Verdict::Unverifiable,
        LiveEvidence::Free => match identity() {
            // It lives, and does not hold its lock: something is not as we think.
            Verdict::Alive => Verdict::Unverifiable,
            Verdict::Recycled => Verdict::Recycled,
            Verdict::Gone | Verdict::Unverifiable => Verdict::Gone,
        },
    }
}

fn place_of(task: &Task) -> ProcessScope {
    ProcessScope {
        host: task.host.clone().unwrap_or_default(),
        boot_id: task.boot_id.clone().unwrap_or_default(),
        pid_ns: task.pid_ns.unwrap_or_default(),
        cgroup: task.cgroup.clone(),
    }
}

/// What of the record of one of a task's processes can be compared from here.
fn comparable(recorded: ProcessRecord, task: &Task, here: &ProcessScope) -> ProcessRecord {
    identity::comparable(recorded, &place_of(task), here)
}

/// A task's supervisor, as far as its record can be compared from here.
pub fn comparable_supervisor(task: &Task) -> Option<ProcessRecord> {
    Some(comparable(task.supervisor()?, task, &identity::place()))
}

/// The same machine: the same boot, or the same name.
fn same_host(task: &Task, here: &ProcessScope) -> bool {
    let at = place_of(task);
    (!at.boot_id.is_empty() && at.boot_id == here.boot_id) || at.host.is_empty() || at.host == here.host
}

/// Where a supervisor stands.
enum SupervisorState {
    Judged(Verdict),
    Leaving(Leaving),
}

/// A supervisor on its way to its end. Its lock and its process go one after the other: the kernel closes the
/// files of an exiting process before that is a zombie, and after its memory is gone; a child that it had
/// forked holds the lock until it executes or exits.
struct Leaving {
    /// `None`: only a child is left.
    supervisor: Option<ProcessHandle>,
    /// It exits, or was sent SIGKILL.
    is_dying: bool,
}

impl Leaving {
    /// How long its end is waited for.
    fn patience(&self, grace: Duration) -> Duration {
        if self.is_dying { grace.saturating_add(leftovers::DYING) } else { LAST_BREATH }
    }
}

fn supervisor_state(ledger: &Ledger, task: &Task, here: &ProcessScope) -> Result<SupervisorState, Error> {
    let lock = ledger.evidence(task)?;
    let judged = || Ok(SupervisorState::Judged(judge_from(lock, task, here)));
    if !matches!(lock, LiveEvidence::Held | LiveEvidence::Free | LiveEvidence::NoSlot) {
        return judged();
    }
    let leaving = match judge_from(LiveEvidence::NoSlot, task, here) {
        Verdict::Alive => leaving(task, lock, here),
        Verdict::Gone | Verdict::Recycled if lock == LiveEvidence::Held => {
            Some(Leaving { supervisor: None, is_dying: false })
        }
        _ => None,
    };
    leaving.map_or_else(judged, |leaving| Ok(SupervisorState::Leaving(leaving)))
}

/// Whether a supervisor that lives is on its way to its end; `None`: it is not, or it has just come there.
fn leaving(task: &Task, lock: LiveEvidence, here: &ProcessScope) -> Option<Leaving> {
    let supervisor = identity::open_recorded(comparable(task.supervisor()?, task, here)).ok()??;
    let is_dying = is_dying(task);
    let leaves = is_dying || lock == LiveEvidence::Free;
    leaves.then_some(Leaving { supervisor: Some(supervisor), is_dying })
}

/// Whether the supervisor of a task exits, or was sent SIGKILL.
pub fn is_dying(task: &Task) -> bool {
    let supervisor = task.supervisor().map(|s| s.identity);
    let stat =
        supervisor.and_then(|s| identity::stat(s.pid).ok().flatten().filter(|now| now.identity() == s));
    stat.is_some_and(|stat| !stat.is_dead() && dying::is_dying(&stat))
}

/// What the live lock says of a task. The end of a supervisor that is on its way to it is waited for, for a
/// moment.
///
/// # Errors
/// When the ledger's `live` file cannot be asked.
pub fn evidence(ledger: &Ledger, task: &Task) -> Result<LiveEvidence, Error> {
    // Most often nothing has its pid any more, and nothing is to be waited for.
    let is_gone = || task.supervisor().is_some_and(|s| identity::presence(s) == Verdict::Gone);
    if ledger.evidence(task)? == LiveEvidence::Free && is_gone() {
        return Ok(LiveEvidence::Free);
    }
    let here = identity::place();
    let until = Instant::now() + LAST_BREATH;
    while let SupervisorState::Leaving(leaving) = supervisor_state(ledger, task, &here)? {
        let now = Instant::now();
        if now >= until {
            break;
        }
        let fds = leaving.supervisor.iter().map(AsFd::as_fd);
        let until = if leaving.supervisor.is_some() { until } else { until.min(now + RECHECK_INTERVAL) };
        leftovers::wait(fds, until).map_err(Error::from)?;
    }
    Ok(ledger.evidence(task)?)
}

/// What is known of a task's agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentState {
    /// It has ended, or nothing says that it runs.
    Ended,
    /// It runs, and may be signalled.
    Runs,
    /// It runs as another user, whose processes we may not signal.
    OutOfReach,
    /// A process with its pid exists, and nothing says whether that is the agent.
    Unverified,
}

/// What became of a task's agent, as far as the kernel tells.
pub fn agent_state(task: &Task) -> AgentState {
    agent_state_from(task, &identity::place())
}

/// As [`agent_state`], for this process's own place.
fn agent_state_from(task: &Task, here: &ProcessScope) -> AgentState {
    let was_seen_to_end = task.exit_code.is_some() || task.term_signal.is_some();
    let is_here = || identity::may_be_here(&place_of(task), here);
    let Some(agent) = task.agent_process().filter(|_| !was_seen_to_end && is_here()) else {
        return AgentState::Ended;
    };
    match identity::presence(comparable(agent, task, here)) {
        Verdict::Gone | Verdict::Recycled => AgentState::Ended,
        Verdict::Unverifiable => AgentState::Unverified,
        Verdict::Alive if identity::may_be_signalled(agent.identity.pid) == Some(false) => {
            AgentState::OutOfReach
        }
        Verdict::Alive => AgentState::Runs,
    }
}

/// Whether an ended task still has its key, since its agent runs or may run. One that cannot be verified has
/// it for [`TTL`], unless `recover` released it.
pub fn keeps_key(task: &Task) -> bool {
    match agent_state(task) {
        AgentState::Ended => false,
        AgentState::Runs | AgentState::OutOfReach => true,
        AgentState::Unverified => {
            let is_given_up = task.agent_released_at.is_some()
                || task.reason.as_deref() == Some(InterruptReason::Ttl.as_str());
            !is_given_up && !has_expired(task, TTL)
        }
    }
}

/// `bookend recover --ledger FILE --ttl 0 ID`: ends the doubt about one task, by the operator's word.
pub fn release_command(ledger: &Ledger, task: &Task) -> String {
    view::suggestion(ledger.option(), &format!("recover --ttl 0 {}", view::operand(task.id.as_str())))
}

/// Whether a task that cannot be judged from here has given no sign of life for longer than `ttl`, by the
/// wall clock.
pub fn has_expired(task: &Task, ttl: Duration) -> bool {
    let last = task.last_seen_at.as_ref().max(task.hinted_at.as_ref()).unwrap_or(&task.started_at);
    let Some(last) = last.time() else { return false };
    let ttl = SignedDuration::try_from(ttl).unwrap_or(SignedDuration::MAX);
    Time::now().timestamp().duration_since(last.timestamp()) > ttl
}

/// A task whose supervisor is gone, its processes ended; or one that cannot be judged and is too old to wait
/// for.
pub struct LostTask {
    task: Task,
    here: Rc<ProcessScope>,
    leftovers: Option<LeftoverSummary>,
    expired: bool,
    /// That its agent may still run, and what to do about it.
    agent_may_run: Option<String>,
}

/// What came of marking a lost task.
#[derive(Debug)]
pub enum SettleOutcome {
    Interrupted {
        reason: InterruptReason,
        /// The session that is not to be resumed.
        invalidated: Option<SessionId>,
    },
    /// Its supervisor had seen its end, which waited in the spool.
    Seen(Status),
    /// Its end waits in the spool and cannot be read now: none is inferred.
    Unread(LedgerError),
    /// Another command has ended it meanwhile, or it is not lost.
    Untouched,
}

/// That the agent of a task that is settled may still run, and what to do about it; `None`: it has ended, or
/// is reported as a survivor.
fn agent_may_run(ledger: &Ledger, task: &Task, state: AgentState) -> Option<String> {
    let pid = task.agent_pid?;
    let key = task.key.as_ref().map(|key| format!("the key {key} stays busy until it has ended"));
    let key = |otherwise: &str| key.map_or_else(String::new, |k| format!("; {k}{otherwise}"));
    Some(match state {
        AgentState::Ended | AgentState::Runs => return None,
        AgentState::OutOfReach => {
            let user = identity::user(pid).map_or_else(|| "another user".to_owned(), sys::user_name);
            format!(
                "its agent (pid {pid}) runs as {user}, whose processes uid {} may not signal: it was not \
                 ended and may still run{}; end it as that user or as root: kill {pid}",
                nix::unistd::geteuid(),
                key("")
            )
        }
        AgentState::Unverified => format!(
            "its agent (pid {pid}) may still run: a process with that pid exists, and /proc hides whether it \
             is the agent{}; if it is not: {}",
            key(", at most 24 hours"),
            release_command(ledger, task)
        ),
    })
}

/// Whether the machine is known to have been booted since the task ran.
fn is_of_another_boot(task: &Task, here: &ProcessScope) -> bool {
    let then = task.boot_id.as_deref().filter(|id| !id.is_empty());
    then.is_some_and(|then| !here.boot_id.is_empty() && then != here.boot_id)
}

/// What `--leftovers` said when a task ran.
pub fn leftovers_policy(task: &Task) -> LeftoversPolicy {
    let option = task.run_options.as_ref().and_then(|o| o.get("leftovers"));
    option.and_then(|o| LeftoversPolicy::deserialize(o).ok()).unwrap_or(LeftoversPolicy::Auto)
}

/// Whether what a task left running is to be ended: it has ended, and its `--leftovers` says so.
pub fn leaves_no_process(task: &Task) -> bool {
    task.status.is_terminal() && leftovers_policy(task).ends(task.status == Status::Success)
}

/// Whether this process supervises a task of this ledger.
pub fn holds_live_lock(ledger: &Ledger, process: ProcessIdentity) -> bool {
    ledger.supervised_by(process).unwrap_or_default()
}

impl LostTask {
    /// A task that cannot be judged and is too old to wait for. Nothing of it is touched but its row: what
    /// runs there may be anybody's.
    pub fn expired(task: Task, here: Rc<ProcessScope>) -> LostTask {
        LostTask { expired: true, ..LostTask::found(task, here) }
    }

    /// A lost task of which nothing has been touched.
    pub fn found(task: Task, here: Rc<ProcessScope>) -> LostTask {
        LostTask { task, here, leftovers: None, expired: false, agent_may_run: None }
    }

    pub fn task(&self) -> &Task {
        &self.task
    }

    pub fn id(&self) -> &TaskId {
        &self.task.id
    }

    /// Whether its end was recorded before.
    pub fn has_ended(&self) -> bool {
        self.task.status.is_terminal()
    }

    /// What was found of it and what became of that; `None`: nothing was looked for.
    pub fn leftovers(&self) -> Option<&LeftoverSummary> {
        self.leftovers.as_ref()
    }

    /// Processes of it that could not be ended.
    pub fn survivors(&self) -> &[i32] {
        self.leftovers.as_ref().map_or(&[], |l| &l.survivors)
    }

    /// That its agent may still run although its task is settled, and what to do about it.
    pub fn agent_may_run(&self) -> Option<&str> {
        self.agent_may_run.as_deref()
    }

    /// Why it cannot be settled: `its supervisor is gone, but …`.
    pub fn stuck(&self) -> Option<String> {
        let spared = self.leftovers.as_ref().map_or(&[][..], |l| &l.spared);
        if let Some(kept) = spared.iter().find(|s| s.why == SparedReason::Supervised) {
            return Some(format!(
                "its row names no living supervisor, but one lives above pid {} of it: others may write to \
                 the ledger",
                kept.pid
            ));
        }
        let named = |pid: &i32| match spared.iter().find(|s| s.pid == *pid).map(|s| s.why) {
            Some(SparedReason::Unreadable) => {
                format!("pid {pid}, whose environment cannot be read (it may run as another user)")
            }
            Some(SparedReason::UnknownLedger) => {
                format!("pid {pid}, which names a ledger that is not there (this one may have been moved)")
            }
            Some(SparedReason::Dying) => {
                let state = spared.iter().find(|s| s.pid == *pid).and_then(|s| s.state).unwrap_or('?');
                format!("pid {pid}, which is being killed and does not end (state {state})")
            }
            Some(
                SparedReason::Terminal
                | SparedReason::Unmarked
                | SparedReason::Supervisor
                | SparedReason::Supervised
                | SparedReason::Detached
                | SparedReason::Hidden,
            )
            | None => {
                format!("pid {pid}")
            }
        };
        let survivors: Vec<String> = self.survivors().iter().map(named).collect();
        (!survivors.is_empty()).then(|| {
            let survivors = survivors.join("; ");
            let why = match sys::pidfd_signals_work() {
                true => String::new(),
                false => format!(" ({}; end them yourself)", sys::NO_PIDFD_SIGNALS),
            };
            format!("its supervisor is gone, but processes of it could not be ended: {survivors}{why}")
        })
    }

    /// `task 019…, running since …, which died without a word (2 processes of it ended)`.
    pub fn describe(&self) -> String {
        let ended = self.leftovers.as_ref().map_or(0, |l| l.ended);
        let also = match ended {
            0 => String::new(),
            n => format!("; of what it left running, {n} ended"),
        };
        format!(
            "task {}, running since {}, which died without a word{also}",
            self.task.id, self.task.started_at
        )
    }

    /// As far as the kernel tells.
    pub fn reason(&self) -> InterruptReason {
        if self.expired {
            InterruptReason::Ttl
        } else if is_of_another_boot(&self.task, &self.here) {
            InterruptReason::Rebooted
        } else if self.oom_killed() == Some(true) {
            InterruptReason::Oom
        } else {
            InterruptReason::SupervisorLost
        }
    }

    /// Whether the OOM killer struck in its cgroup while it ran; `None`: the kernel does not tell.
    fn oom_killed(&self) -> Option<bool> {
        if self.expired || is_of_another_boot(&self.task, &self.here) {
            return None;
        }
        oom::struck_since(self.task.cgroup.as_deref(), self.task.oom_kills_before)
    }

    /// How it died, in words.
    fn how(&self, reason: InterruptReason) -> String {
        let pid = |pid: Option<i32>| pid.map_or_else(String::new, |p| format!(" (pid {p})"));
        let (supervisor, agent) = (pid(self.task.supervisor_pid), pid(self.task.agent_pid));
        let still_ran = |l: &LeftoverSummary| self.task.agent_pid.is_some_and(|p| l.pids.contains(&p));
        let agents = match &self.leftovers {
            _ if self.agent_may_run.is_some() => self.agent_may_run.clone().unwrap_or_default(),
            Some(l) if still_ran(l) => format!("its agent{agent} still ran and was ended"),
            Some(_) => format!("its agent{agent} was gone too"),
            None => String::new(),
        };
        match reason {
            InterruptReason::Rebooted => "the machine was booted anew while it ran".to_owned(),
            InterruptReason::Oom => {
                format!(
                    "its supervisor{supervisor} was gone after the OOM killer struck in its cgroup; {agents}"
                )
            }
            InterruptReason::Ttl => {
                let last = self.task.last_seen_at.as_ref().unwrap_or(&self.task.started_at);
                format!("it cannot be judged from here, and gave no sign of life since {last}")
            }
            InterruptReason::SupervisorLost | InterruptReason::Signal if agents.is_empty() => {
                format!("its supervisor{supervisor} was gone without a word")
            }
            InterruptReason::SupervisorLost | InterruptReason::Signal => {
                format!("its supervisor{supervisor} was gone without a word; {agents}")
            }
        }
    }

    /// Judges once more and marks, inside the transaction of the command `by`.
    ///
    /// # Errors
    /// When the ledger does not take it.
    pub fn mark(&self, claim: &Claim<'_>, by: &str) -> Result<SettleOutcome, Error> {
        let id = &self.task.id;
        let Some(task) = claim.task(id)?.filter(|t| t.status == Status::Running) else {
            return Ok(SettleOutcome::Untouched);
        };
        // An ending that waits in the spool was seen, and wins over what is inferred here. Its supervisor
        // wrote it before it let go of the live lock, so it is there by now or will never be.
        match claim.spooled(id) {
            Ok(None) => {}
            Ok(Some(seen)) => {
                claim.end(id, &seen, by)?;
                return Ok(SettleOutcome::Seen(seen.ending.status()));
            }
            Err(e) => return Ok(SettleOutcome::Unread(e)),
        }
        let now = judge_from(claim.evidence(&task)?, &task, &self.here);
        let may_be_marked = match now {
            Verdict::Gone | Verdict::Recycled => true,
            Verdict::Unverifiable => self.expired,
            Verdict::Alive => false,
        };
        if !may_be_marked {
            return Ok(SettleOutcome::Untouched);
        }
        let reason = self.reason();
        let leftovers = self.leftovers.as_ref().filter(|l| l.found > 0);
        // Nobody saw the end: `last_seen_at` says until when it surely lived.
        let ended = TaskEnd {
            error: Some(self.how(reason)),
            oom_killed: self.oom_killed(),
            leftovers: leftovers.and_then(|l| serde_json::to_string(l).ok()),
            executed: true,
            ..TaskEnd::unknown(Ending::Interrupted(reason))
        };
        match claim.end(id, &ended, by)? {
            FinishOutcome::Done { invalidated } => Ok(SettleOutcome::Interrupted { reason, invalidated }),
            FinishOutcome::AlreadyTerminal(_) | FinishOutcome::NoRow => Ok(SettleOutcome::Untouched),
        }
    }

    /// Logs what became of the task and removes its files from the spool. Call it once the mark is durable:
    /// nothing is logged in a transaction.
    pub fn close(&self, ledger: &Ledger, marked: &SettleOutcome) {
        let merged = match marked {
            SettleOutcome::Interrupted { reason, invalidated } => {
                log::about_another(|| self.log_interrupted(*reason, invalidated.as_ref()));
                // The supervisor of an expired task may live, and need its room.
                if self.expired {
                    return;
                }
                false
            }
            SettleOutcome::Seen(_) => true,
            SettleOutcome::Unread(_) | SettleOutcome::Untouched => return,
        };
        if let Err(e) = ledger.clear_spool(&self.task.id, merged) {
            warn!(hint = e.hint(), "{}", chain(&e));
        }
    }

    fn log_interrupted(&self, reason: InterruptReason, invalidated: Option<&SessionId>) {
        let task = &self.task;
        info!(
            MESSAGE_ID = log::id::INTERRUPTED,
            TASK_ID = task.id.as_str(),
            KEY = task.key.as_ref().map(Key::as_str),
            STATUS = Status::Interrupted.as_str(),
            REASON = reason.as_str(),
            SESSION_ID = task.session_id.as_ref().map(SessionId::as_str),
            "task {} is interrupted: {}",
            task.id,
            self.how(reason)
        );
        if let Some(session) = invalidated {
            info!(
                MESSAGE_ID = log::id::SESSION_INVALIDATED,
                TASK_ID = task.id.as_str(),
                KEY = task.key.as_ref().map(Key::as_str),
                SESSION_ID = session.as_str(),
                "session {session} is not to be resumed: task {} was interrupted",
                task.id
            );
        }
    }
}

#[cfg(test)]
mod tests;
