//! The claim: one live task a key. Who holds it, whether that task is alive, and how its way is cleared.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use crate::error::{Error, Kind};
use crate::ledger::{Claim, Ledger};
use crate::process::leftovers::SweepStep;
use crate::process::procfs::identity;
use crate::process::terminal;
use crate::process::watch::{Watch, WatchEvent, WatchInterest, WatchSource};
use crate::recovery::batch::{self, RecoveryBatch, RecoveryOutcome};
use crate::recovery::{self, LostTask, SettleOutcome};
use crate::run::options::WhenBusy;
use crate::stop;
use crate::sys::{self, ReceivedSignal};
use crate::task::{Key, ProcessRecord, SessionId, Task, TaskId};

/// How often a run that waits looks again, at most.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The way to a key and its session: what stood in it is cleared without a transaction, then judged again
/// inside one.
pub struct Way {
    when_busy: WhenBusy,
    grace: Duration,
    /// The lost holder whose processes have been ended, and what its mark came to.
    cleared: Option<(LostTask, Option<SettleOutcome>)>,
    /// The holder that was told to end, so that it is told once.
    told: Option<TaskId>,
}

/// What a task is in the way of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hold {
    Key(Key),
    /// It uses the session that this run would go on with, under another key or none.
    Session(SessionId),
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Hold::Key(key) => write!(f, "the key {key} is held by"),
            Hold::Session(session) => write!(f, "session {session} is in use by"),
        }
    }
}

impl Way {
    pub fn new(when_busy: WhenBusy, grace: Duration) -> Way {
        Way { when_busy, grace, cleared: None, told: None }
    }

    /// The task that holds `key`: the one that runs, or the last one if its agent has outlived it, which
    /// happens where that has become another user's. A dead one that was cleared is marked here, in the
    /// claim's transaction.
    ///
    /// # Errors
    /// When the ledger does not tell, or does not take the mark.
    pub fn look(&mut self, claim: &Claim<'_>, key: Option<&Key>) -> Result<Option<Task>, Error> {
        if let Some((lost, marked)) = &mut self.cleared {
            *marked = match lost.mark(claim, "run")? {
                SettleOutcome::Unread(e) => return Err(e.into()),
                outcome => Some(outcome),
            };
        }
        let Some(key) = key else { return Ok(None) };
        Ok(match claim.holder(key)? {
            None => claim.last_of_key(key)?.filter(recovery::keeps_key),
            holder => holder,
        })
    }

    /// The claim is durable: says which predecessor was settled with it.
    pub fn report(&self, ledger: &Ledger) {
        let Some((lost, Some(marked))) = &self.cleared else { return };
        match marked {
            SettleOutcome::Interrupted { .. } => warn!("settled {}", lost.describe()),
            SettleOutcome::Seen(status) => {
                warn!("task {} had ended as {status}: recorded from the spool", lost.id())
            }
            SettleOutcome::Unread(_) | SettleOutcome::Untouched => {}
        }
        lost.close(ledger, marked);
    }

    /// Refuses, waits for, replaces or settles the holder. `Some`: a stop signal came meanwhile, and there is
    /// no task yet.
    ///
    /// # Errors
    /// 75 when the key stays held, or the session in use.
    pub fn clear(
        &mut self,
        ledger: &mut Ledger,
        watch: &mut Watch,
        hold: &Hold,
        holder: Task,
    ) -> Result<Option<i32>, Error> {
        let refused = |hint: &str| {
            Error::new(Kind::Busy, format!("{hold} {}", name(&holder)))
                .hint(format!("{hint}; nothing was executed"))
        };
        let outcome = match self.recover(ledger, watch, holder.clone())? {
            Recovered::Outcome(outcome) => *outcome,
            Recovered::Stopped(signal) => return Ok(Some(signal)),
        };
        match (outcome, self.when_busy, hold) {
            (RecoveryOutcome::Lost(lost), ..) => self.settle_lost(ledger, watch, hold, lost),
            (RecoveryOutcome::Stuck(lost, why), ..) => {
                ledger.note_error(lost.id(), &why)?;
                Err(Error::new(Kind::Busy, format!("{hold} {}: {why}", name(&holder)))
                    .hint("end them, then try again; nothing was executed"))
            }
            (RecoveryOutcome::Unverifiable(_), ..) => Err(Error::new(
                Kind::Busy,
                format!("{hold} {}, which cannot be judged from here", name(&holder)),
            )
            .hint(format!(
                "look for it where it was started, or run under another key or ledger; if it has ended: {}; \
                 nothing was executed",
                recovery::release_command(ledger, &holder)
            ))),
            (RecoveryOutcome::Alive(_), WhenBusy::Wait, _) => self.wait(watch, holder.supervisor()),
            (RecoveryOutcome::Alive(_), WhenBusy::Refuse, Hold::Key(_)) => {
                Err(refused("--wait waits for it, --replace cancels it and runs"))
            }
            (RecoveryOutcome::Alive(_), WhenBusy::Replace, Hold::Key(_)) => {
                self.cancel(ledger, &holder)?;
                self.wait(watch, holder.supervisor())
            }
            (RecoveryOutcome::Alive(_), WhenBusy::Refuse | WhenBusy::Replace, Hold::Session(_)) => {
                Err(refused("--wait waits for it, --fresh starts without it"))
            }
        }
    }

    /// Settles a lost holder in this claim, unless its agent may still run: then the claim waits or is
    /// refused, and the holder is settled without it.
    fn settle_lost(
        &mut self,
        ledger: &mut Ledger,
        watch: &mut Watch,
        hold: &Hold,
        lost: LostTask,
    ) -> Result<Option<i32>, Error> {
        let may_run = lost.agent_may_run().filter(|_| recovery::keeps_key(lost.task()));
        let Some(agent_may_run) = may_run.map(str::to_owned) else {
            self.cleared = Some((lost, None));
            return Ok(None);
        };
        let (named, agent) = (name(lost.task()), lost.task().agent_process());
        batch::settle(ledger, vec![lost], "run")?;
        match self.when_busy {
            WhenBusy::Wait => self.wait(watch, agent),
            WhenBusy::Refuse | WhenBusy::Replace => {
                Err(Error::new(Kind::Busy, format!("{hold} {named}: {agent_may_run}"))
                    .hint("nothing was executed"))
            }
        }
    }

    /// Judges the holder; if it is lost, ends its processes.
    fn recover(&self, ledger: &Ledger, watch: &mut Watch, holder: Task) -> Result<Recovered, Error> {
        let mut batch = RecoveryBatch::new(ledger, self.grace);
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
            if let Some(signal) = attend(watch, batch.fds(), until)? {
                return Ok(Recovered::Stopped(signal));
            }
        }
    }

    fn cancel(&mut self, ledger: &Ledger, holder: &Task) -> Result<(), Error> {
        if self.told.as_ref() == Some(&holder.id) {
            return Ok(());
        }
        let failed = |e: std::io::Error| {
            Error::new(Kind::Busy, format!("cancelling {}", name(holder)))
                .caused_by(e)
                .hint("nothing was executed; end it yourself, or use --wait")
        };
        if stop::ask_to_end(ledger, holder).map_err(failed)?.is_some() {
            info!("cancelling {}", name(holder));
        }
        self.told = Some(holder.id.clone());
        Ok(())
    }

    /// Waits until the holder's process is gone, for at most [`POLL_INTERVAL`].
    fn wait(&self, watch: &mut Watch, holder: Option<ProcessRecord>) -> Result<Option<i32>, Error> {
        let handle = holder.and_then(|h| identity::open_recorded(h).ok().flatten());
        attend(watch, handle.iter().map(AsFd::as_fd), Instant::now() + POLL_INTERVAL)
    }
}

/// What became of the holder, or the signal that stopped the run meanwhile.
enum Recovered {
    Outcome(Box<RecoveryOutcome>),
    Stopped(i32),
}

/// Waits until one of `fds` is readable, at most until then. `Some`: a stop signal came.
fn attend<'a>(
    watch: &mut Watch,
    fds: impl Iterator<Item = BorrowedFd<'a>>,
    until: Instant,
) -> Result<Option<i32>, Error> {
    let interests: Vec<_> = fds.map(|fd| WatchInterest { source: WatchSource::Holder, fd }).collect();
    let mut for_the_agent = Vec::new();
    let stopped = loop {
        match watch.next(&interests, Some(until)).map_err(stop::watching)? {
            WatchEvent::Deadline | WatchEvent::Ready(_) => break None,
            WatchEvent::Signal(received) if stop::stop_of(&received).is_some() => {
                break Some(received.signal);
            }
            // There is no agent yet that could stop, and the shell looks at us.
            WatchEvent::Signal(ReceivedSignal { signal: libc::SIGTSTP, .. }) if terminal::may_stop() => {
                sys::raise_unblocked(libc::SIGTSTP);
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
