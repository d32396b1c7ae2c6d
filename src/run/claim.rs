//! The claim: one running task per key and per session. A holder is waited for, replaced, settled or refused.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use crate::agent::{self, OutputMode, SessionPlace, SessionRequest};
use crate::error::{Error, Kind};
use crate::ledger::{Claim, Ledger};
use crate::process::leftovers::SweepStep;
use crate::process::procfs::identity;
use crate::process::terminal;
use crate::process::watch::{Watch, WatchEvent, WatchInterest, WatchSource};
use crate::recovery::batch::{self, RecoveryBatch, RecoveryOutcome};
use crate::recovery::{self, LostTask, SettleOutcome};
use crate::run::budget;
use crate::run::command::{AgentCommand, RunContext};
use crate::run::options::WhenBusy;
use crate::run::session::{self, Choice, Known, Refusal, StaleLink, StartInvalidation, Transcript};
use crate::stop;
use crate::sys::{self, ReceivedSignal};
use crate::task::resume::{LastTask, SessionUse};
use crate::task::{Key, NewTask, ProcessRecord, Session, SessionId, Signal, Task, TaskId};

/// How often a waiting run looks at the key again, at the latest.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The attempts of one run to claim its key and its session. A conflict is resolved without a transaction;
/// the next attempt decides again inside one.
pub(super) struct KeyClaim<'a> {
    context: &'a RunContext<'a>,
    /// The lost holder whose processes have been ended, and how it was settled.
    settled: Option<(LostTask, Option<SettleOutcome>)>,
    /// The holder that `--replace` has cancelled, so that it is signalled once.
    cancelled: Option<TaskId>,
    /// What the budget of the key does not count.
    uncounted: Option<String>,
    /// The last holder to which that signal was sent.
    replaced: Option<TaskId>,
}

/// What came of one attempt.
pub(super) enum Attempt {
    Claimed(Choice),
    Held(Conflict, Box<Task>),
}

/// What another task holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Conflict {
    Key(Key),
    /// The session that this run would resume, in use under another key or without one.
    Session(SessionId),
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Conflict::Key(key) => write!(f, "the key {key} is held by"),
            Conflict::Session(session) => write!(f, "session {session} is in use by"),
        }
    }
}

impl<'a> KeyClaim<'a> {
    pub(super) fn new(context: &'a RunContext<'a>) -> KeyClaim<'a> {
        KeyClaim { context, settled: None, cancelled: None, replaced: None, uncounted: None }
    }

    /// The task that was cancelled for this run.
    pub(super) fn replaced(&self) -> Option<&TaskId> {
        self.replaced.as_ref()
    }

    /// Claims the key and chooses the session, in the transaction of `claim`. `stale`: why
    /// the fleet does not let the session be resumed.
    ///
    /// # Errors
    /// When the ledger cannot be read, the budget of the key is spent (77), or resuming the requested session
    /// is unsafe (78).
    pub(super) fn attempt(&mut self, claim: &Claim<'_>, stale: Option<&StaleLink>) -> Result<Attempt, Error> {
        // Before the holder: a run that is refused waits for no task and cancels none.
        self.uncounted = budget::check(claim, self.context)?;
        match (self.holder(claim)?, &self.context.command.key) {
            (Some(holder), Some(key)) => Ok(Attempt::Held(Conflict::Key(key.clone()), Box::new(holder))),
            _ => choose_session(claim, self.context, stale),
        }
    }

    /// The task that holds the key: the running one, or the last one if its agent has outlived it, which
    /// happens where the agent has become another user's. A lost holder whose processes have been ended is
    /// settled here, in the claim's transaction.
    fn holder(&mut self, claim: &Claim<'_>) -> Result<Option<Task>, Error> {
        if let Some((lost, outcome)) = &mut self.settled {
            *outcome = match lost.settle(claim, "run")? {
                SettleOutcome::UnreadableSpool(e) => return Err(e.into()),
                settled => Some(settled),
            };
        }
        let Some(key) = &self.context.command.key else { return Ok(None) };
        Ok(match claim.holder(key)? {
            None => claim.last_of_key(key)?.filter(recovery::keeps_key),
            holder => holder,
        })
    }

    /// Reports the holder that was settled with this claim, and what the budget does not count. Call it once
    /// the claim is durable.
    pub(super) fn report(&self, ledger: &Ledger) {
        if let Some(uncounted) = &self.uncounted {
            warn!("{uncounted}");
        }
        let Some((lost, Some(outcome))) = &self.settled else { return };
        match outcome {
            SettleOutcome::Interrupted { .. } => warn!("settled {}", lost.describe()),
            SettleOutcome::FromSpool(status) => {
                warn!("task {} had ended as {status}: recorded from the spool", lost.id())
            }
            SettleOutcome::UnreadableSpool(_) | SettleOutcome::Unchanged => {}
        }
        lost.close(ledger, outcome);
    }

    /// Refuses the run, waits for the holder, cancels it or settles it. `Some`: bookend received a stop
    /// signal meanwhile, and there is no task yet.
    ///
    /// # Errors
    /// Exit code 75 when the key stays held, or the session in use.
    pub(super) fn resolve(
        &mut self,
        ledger: &mut Ledger,
        watch: &mut Watch,
        conflict: &Conflict,
        holder: Task,
    ) -> Result<Option<Signal>, Error> {
        let busy = |what: String, hint: &str| {
            Error::new(Kind::Busy, format!("{conflict} {}{what}", name(&holder)))
                .hint(format!("{hint}; nothing was executed"))
        };
        let outcome = match self.recover(ledger, watch, holder.clone())? {
            Recovered::Outcome(outcome) => *outcome,
            Recovered::Stopped(signal) => return Ok(Some(signal)),
        };
        match (outcome, self.context.options.when_busy, conflict) {
            (RecoveryOutcome::Lost(lost), ..) => self.settle_lost(ledger, watch, conflict, lost),
            (RecoveryOutcome::Stuck(lost, why), ..) => {
                ledger.note_error(lost.id(), &why)?;
                Err(busy(format!(": {why}"), "end them, then try again"))
            }
            (RecoveryOutcome::Unverifiable(_), ..) => Err(busy(
                ", which cannot be judged from here".to_owned(),
                &format!(
                    "look for it where it was started, or run under another key or ledger; \
                     if it has ended: {}",
                    recovery::release_command(ledger, &holder)
                ),
            )),
            (RecoveryOutcome::Alive(_), WhenBusy::Wait, _) => wait(watch, holder.supervisor()),
            (RecoveryOutcome::Alive(_), WhenBusy::Refuse, Conflict::Key(_)) => {
                Err(busy(String::new(), "--wait waits for it, --replace cancels it and runs"))
            }
            (RecoveryOutcome::Alive(_), WhenBusy::Replace, Conflict::Key(_)) => {
                self.cancel(ledger, &holder)?;
                wait(watch, holder.supervisor())
            }
            (RecoveryOutcome::Alive(_), WhenBusy::Refuse | WhenBusy::Replace, Conflict::Session(_)) => {
                Err(busy(String::new(), "--wait waits for it, --fresh starts without it"))
            }
        }
    }

    /// Settles a lost holder in this claim, unless its agent may still run: then the claim waits or is
    /// refused, and the holder is settled without it.
    fn settle_lost(
        &mut self,
        ledger: &mut Ledger,
        watch: &mut Watch,
        conflict: &Conflict,
        lost: LostTask,
    ) -> Result<Option<Signal>, Error> {
        let may_run = lost.agent_may_run().filter(|_| recovery::keeps_key(lost.task()));
        let Some(agent_may_run) = may_run.map(str::to_owned) else {
            self.settled = Some((lost, None));
            return Ok(None);
        };
        let (named, agent) = (name(lost.task()), lost.task().agent_process());
        batch::settle(ledger, vec![lost], "run")?;
        match self.context.options.when_busy {
            WhenBusy::Wait => wait(watch, agent),
            WhenBusy::Refuse | WhenBusy::Replace => {
                Err(Error::new(Kind::Busy, format!("{conflict} {named}: {agent_may_run}"))
                    .hint("nothing was executed"))
            }
        }
    }

    /// Reaches a verdict on the holder. If it is lost, ends its processes.
    fn recover(&self, ledger: &Ledger, watch: &mut Watch, holder: Task) -> Result<Recovered, Error> {
        let mut batch = RecoveryBatch::new(ledger, self.context.options.grace);
        batch.add(holder, Instant::now());
        loop {
            let (mut outcomes, step) = batch.step(ledger, Instant::now())?;
            if let Some(outcome) = outcomes.pop() {
                return Ok(Recovered::Outcome(Box::new(outcome)));
            }
            let until = match step {
                SweepStep::Wait(until) => until,
                SweepStep::Done => Instant::now(),
            };
            if let Some(signal) = wait_for_any(watch, batch.fds(), Some(until))? {
                return Ok(Recovered::Stopped(signal));
            }
        }
    }

    fn cancel(&mut self, ledger: &Ledger, holder: &Task) -> Result<(), Error> {
        if self.cancelled.as_ref() == Some(&holder.id) {
            return Ok(());
        }
        let failed = |e: std::io::Error| {
            Error::new(Kind::Busy, format!("cancelling {}", name(holder)))
                .caused_by(e)
                .hint("nothing was executed; end it yourself, or use --wait")
        };
        if stop::ask_to_end(ledger, holder).map_err(failed)?.is_some() {
            info!("cancelling {}", name(holder));
            self.replaced = Some(holder.id.clone());
        }
        self.cancelled = Some(holder.id.clone());
        Ok(())
    }
}

/// The verdict on a holder, or the signal that stopped the run before there was one.
enum Recovered {
    Outcome(Box<RecoveryOutcome>),
    Stopped(Signal),
}

/// Waits for the holder's process to exit, for at most [`POLL_INTERVAL`].
fn wait(watch: &mut Watch, holder: Option<ProcessRecord>) -> Result<Option<Signal>, Error> {
    let handle = holder.and_then(|h| identity::open_recorded(h).ok().flatten());
    wait_for_any(watch, handle.iter().map(AsFd::as_fd), Some(Instant::now() + POLL_INTERVAL))
}

/// Waits until one of `fds` is readable, or until that time. `Some`: bookend received this stop signal.
pub(super) fn wait_for_any<'f>(
    watch: &mut Watch,
    fds: impl Iterator<Item = BorrowedFd<'f>>,
    until: Option<Instant>,
) -> Result<Option<Signal>, Error> {
    let interests: Vec<_> = fds.map(|fd| WatchInterest { source: WatchSource::Holder, fd }).collect();
    let mut for_the_agent = Vec::new();
    let stopped = loop {
        match watch.next(&interests, until).map_err(stop::watching)? {
            WatchEvent::Deadline | WatchEvent::Ready(_) => break None,
            WatchEvent::Signal(received) if stop::stop_of(&received).is_some() => {
                break Some(received.signal);
            }
            // There is no agent yet that the signal could stop, and the shell watches bookend.
            WatchEvent::Signal(ReceivedSignal { signal: Signal::TSTP, .. }) if terminal::may_stop() => {
                sys::raise_unblocked(Signal::TSTP);
            }
            WatchEvent::Signal(received) => for_the_agent.push(received),
            WatchEvent::Child { .. } => {}
        }
    };
    watch.put_back(for_the_agent);
    Ok(stopped)
}

/// `task 019… (pid 4711, since 2026-…)`.
fn name(task: &Task) -> String {
    let pid = task.supervisor_pid.map_or_else(|| "unknown".to_owned(), |p| p.to_string());
    format!("task {} (pid {pid}, since {})", task.id, task.started_at)
}

/// Chooses the session to resume, by what the ledger says in this transaction.
fn choose_session(
    claim: &Claim<'_>,
    context: &RunContext<'_>,
    stale: Option<&StaleLink>,
) -> Result<Attempt, Error> {
    let RunContext { options, command, .. } = context;
    let linked = match (&command.key, command.adapter.tracks_sessions()) {
        (Some(key), true) => claim.session(key)?.map(|s| linked_use(claim, command, s)).transpose()?,
        _ => None,
    };
    let (linked, other_agent) = linked.unzip();
    let users = named_session(command).map(|id| last_use(claim, command, id, None)).transpose()?;
    let transcript = linked.as_ref().map_or(Transcript::Usable, |l| {
        let exists = agent::has_conversation(command.adapter, &command.cwd, &l.session);
        Transcript::judge(
            exists,
            l.last.as_ref().and_then(|t| t.transcript_seen),
            matches!(command.place, SessionPlace::Elsewhere(_)),
        )
    });
    let at_terminal = || std::io::IsTerminal::is_terminal(&sys::stdio(0));
    let chosen = session::choose(&Known {
        asked: &command.asked.session,
        fresh: options.fresh,
        new_id: command.adapter.can_assign().then(SessionId::random),
        linked: linked.as_ref(),
        other_agent: other_agent.flatten().as_deref(),
        stale: stale.filter(|_| command.adapter.tracks_sessions()),
        transcript,
        users: users.as_ref(),
        allow_unsafe: options.allow_unsafe_resume,
        attended: command.asked.mode == OutputMode::Interactive && at_terminal(),
    });
    match chosen {
        Ok(choice) => Ok(Attempt::Claimed(choice)),
        Err(Refusal::InUse { session, task }) => {
            let task = claim.task(&task)?.ok_or_else(|| Error::failed(format!("task {task} vanished")))?;
            Ok(Attempt::Held(Conflict::Session(session), Box::new(task)))
        }
        Err(Refusal::Unsafe { session, why }) => {
            Err(Error::new(Kind::UnsafeResume, format!("resuming session {session} is not safe: {why}"))
                .hint("start a fresh one, or use --allow-unsafe-resume; nothing was executed"))
        }
    }
}

/// The session that the agent's own arguments resume, `--continue` resolved.
fn named_session(command: &AgentCommand) -> Option<SessionId> {
    let asked = match &command.asked.session {
        SessionRequest::Background(asked) => asked,
        asked => asked,
    };
    match asked {
        SessionRequest::Resume(id) | SessionRequest::Fork(Some(id), _) => Some(id.clone()),
        SessionRequest::Continue | SessionRequest::Fork(None, _) => command.adapter.most_recent(&command.cwd),
        _ => None,
    }
}

/// The last task that used the session of the key, and the agent of the session if it is not the run's.
fn linked_use(
    claim: &Claim<'_>,
    command: &AgentCommand,
    session: Session,
) -> Result<(SessionUse, Option<String>), Error> {
    let Session { session_id, task_id, provider, .. } = session;
    let linked = last_use(claim, command, session_id.clone(), task_id.as_ref())?;
    // A task with another provider is not among the users of the session.
    let last = match (&linked.last, &task_id) {
        (Some(last), _) => Some(last.clone()),
        (None, Some(task)) => claim.task(task)?.map(LastTask::from),
        (None, None) => None,
    };
    let agent = last.and_then(|last| last.agent_type).filter(|a| a != command.adapter.agent_type());
    let linked = match agent {
        Some(_) => claim.last_use(provider.as_ref(), &session_id, task_id.as_ref())?,
        None => linked,
    };
    Ok((linked, agent))
}

/// The last task that used `session`. `linked`: the task that linked it to the key.
fn last_use(
    claim: &Claim<'_>,
    command: &AgentCommand,
    session: SessionId,
    linked: Option<&TaskId>,
) -> Result<SessionUse, Error> {
    Ok(claim.last_use(command.provider.as_ref(), &session, linked)?)
}

/// Links the chosen session to the key, and invalidates the one that it replaces.
///
/// # Errors
/// When the ledger cannot be written.
pub(super) fn link_session(claim: &Claim<'_>, row: &NewTask, choice: &Choice) -> Result<(), Error> {
    let Some(key) = &row.key else { return Ok(()) };
    match choice.invalidate {
        Some(StartInvalidation { reason, was_safe: true }) => {
            claim.invalidate_session_for_start(key, reason, &row.id, row.started_at)?;
        }
        Some(StartInvalidation { reason, was_safe: false }) => {
            claim.invalidate_session(key, reason, Some(&row.id), row.started_at)?;
        }
        None => {}
    }
    if let Some(session) = &choice.session {
        claim.link_session(key, row.provider.as_ref(), session, &row.id, row.started_at)?;
    }
    Ok(())
}
