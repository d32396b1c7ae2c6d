//! The claim: one live task a key. Who holds it, whether that task is alive, and how its way is cleared.

use std::fmt;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use crate::cancel;
use crate::error::{Error, Kind};
use crate::ledger::{Claim, Ledger};
use crate::process::identity;
use crate::process::terminal;
use crate::process::watch::{Event, Interest, Source, Watch};
use crate::recovery::{self, Dead, Marked};
use crate::run::WhenBusy;
use crate::supervise;
use crate::sys::{self, Received};
use crate::task::{ProcessRecord, Task, Verdict};

/// How often a run that waits looks again, at most.
const LOOK: Duration = Duration::from_secs(1);

/// The way to a key and its session: what stood in it is cleared without a transaction, then judged again
/// inside one.
pub struct Way {
    when_busy: WhenBusy,
    grace: Duration,
    /// The dead holder whose processes have been ended, and what its mark came to.
    cleared: Option<(Dead, Option<Marked>)>,
    /// The holder that was told to end, so that it is told once.
    told: Option<String>,
}

/// What a task is in the way of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hold {
    Key(String),
    /// It uses the session that this run would go on with, under another key or none.
    Session(String),
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
    pub fn look(&mut self, claim: &Claim<'_>, key: Option<&str>) -> Result<Option<Task>, Error> {
        if let Some((dead, marked)) = &mut self.cleared {
            *marked = Some(dead.mark(claim, "run")?);
        }
        let Some(key) = key else { return Ok(None) };
        Ok(match claim.holder(key)? {
            None => claim.last_of_key(key)?.filter(recovery::keeps_key),
            holder => holder,
        })
    }

    /// The claim is durable: says which predecessor was settled with it.
    pub fn report(&self, ledger: &Ledger) {
        let Some((dead, Some(marked))) = &self.cleared else { return };
        match marked {
            Marked::Interrupted(_) => warn!("settled {}", dead.describe()),
            Marked::Seen(status) => {
                warn!("task {} had ended as {status}: recorded from the spool", dead.id())
            }
            Marked::Untouched => {}
        }
        dead.tidy(ledger, marked);
    }

    /// Refuses, waits, replaces or buries the holder. `Some`: a stop signal came meanwhile, and there is
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
        match (recovery::judge(recovery::evidence(ledger, &holder)?, &holder), self.when_busy, hold) {
            (Verdict::Gone | Verdict::Recycled, ..) => self.end_dead(ledger, watch, hold, holder),
            (Verdict::Unverifiable, ..) => Err(Error::new(
                Kind::Busy,
                format!("{hold} {}, which cannot be judged from here", name(&holder)),
            )
            .hint(format!(
                "look for it where it was started, or run under another key or ledger; if it has ended: {}; \
                 nothing was executed",
                recovery::release_command(ledger, &holder)
            ))),
            (Verdict::Alive, WhenBusy::Wait, _) => self.wait(watch, holder.supervisor()),
            (Verdict::Alive, WhenBusy::Refuse, Hold::Key(_)) => {
                Err(refused("--wait waits for it, --replace cancels it and runs"))
            }
            (Verdict::Alive, WhenBusy::Replace, Hold::Key(_)) => {
                self.cancel(ledger, &holder)?;
                self.wait(watch, holder.supervisor())
            }
            (Verdict::Alive, WhenBusy::Refuse | WhenBusy::Replace, Hold::Session(_)) => {
                Err(refused("--wait waits for it, --fresh starts without it"))
            }
        }
    }

    fn end_dead(
        &mut self,
        ledger: &mut Ledger,
        watch: &mut Watch,
        hold: &Hold,
        holder: Task,
    ) -> Result<Option<i32>, Error> {
        let named = name(&holder);
        let Some(dead) = recovery::end_leftovers(ledger, vec![holder], self.grace)?.pop() else {
            return Ok(None);
        };
        if let Some(stuck) = dead.stuck() {
            ledger.note_error(dead.id(), &stuck)?;
            return Err(Error::new(Kind::Busy, format!("{hold} {named}: {stuck}"))
                .hint("end them, then try again; nothing was executed"));
        }
        let Some(agent_may_run) = dead.agent_may_run().filter(|_| recovery::keeps_key(dead.task())) else {
            self.cleared = Some((dead, None));
            return Ok(None);
        };
        // This claim waits or is refused, so the holder is settled without it.
        let claim = ledger.claim()?;
        let marked = dead.mark(&claim, "run")?;
        claim.commit()?;
        dead.tidy(ledger, &marked);
        match self.when_busy {
            WhenBusy::Wait => self.wait(watch, dead.task().agent_process()),
            WhenBusy::Refuse | WhenBusy::Replace => {
                Err(Error::new(Kind::Busy, format!("{hold} {named}: {agent_may_run}"))
                    .hint("nothing was executed"))
            }
        }
    }

    fn cancel(&mut self, ledger: &Ledger, holder: &Task) -> Result<(), Error> {
        if self.told.as_ref() == Some(&holder.id) {
            return Ok(());
        }
        let failed = |e: std::io::Error| {
            Error::new(Kind::Busy, format!("cancelling {}: {e}", name(holder)))
                .hint("nothing was executed; end it yourself, or use --wait")
        };
        if cancel::ask_to_end(ledger, holder).map_err(failed)?.is_some() {
            info!("cancelling {}", name(holder));
        }
        self.told = Some(holder.id.clone());
        Ok(())
    }

    /// Waits until the holder's process is gone, or for one look's time.
    fn wait(&self, watch: &mut Watch, holder: Option<ProcessRecord>) -> Result<Option<i32>, Error> {
        let handle = holder.and_then(|h| identity::open_recorded(h).ok().flatten());
        let interests: Vec<_> =
            handle.iter().map(|h| Interest { source: Source::Holder, fd: h.as_fd() }).collect();
        let until = Instant::now() + LOOK;
        let mut for_the_agent = Vec::new();
        let stopped = loop {
            match watch.next(&interests, Some(until)).map_err(supervise::watching)? {
                Event::Deadline | Event::Ready(_) => break None,
                Event::Signal(received) if supervise::stop_of(&received).is_some() => {
                    break Some(received.signal);
                }
                // There is no agent yet that could stop, and the shell looks at us.
                Event::Signal(Received { signal: libc::SIGTSTP, .. }) if terminal::may_stop() => {
                    sys::raise_unblocked(libc::SIGTSTP);
                }
                Event::Signal(received) => for_the_agent.push(received),
                Event::Child { .. } => {}
            }
        };
        watch.put_back(for_the_agent);
        Ok(stopped)
    }
}

/// `task 019… (pid 4711, since 2026-…)`.
fn name(task: &Task) -> String {
    let pid = task.supervisor_pid.map_or_else(|| "unknown".to_owned(), |p| p.to_string());
    format!("task {} (pid {pid}, since {})", task.id, task.started_at)
}
