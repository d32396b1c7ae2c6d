//! The claim: one live task a key. Who holds it, whether that task is alive, and how its way is cleared.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use crate::cancel;
use crate::error::{Error, Kind};
use crate::ledger::{Claim, Ledger};
use crate::process::identity::{self, Handle};
use crate::process::watch::{Event, Interest, Source, Watch};
use crate::recovery::{self, Dead};
use crate::run::WhenBusy;
use crate::supervise;
use crate::task::{Task, Verdict};

/// How often a run that waits looks again, at most.
const LOOK: Duration = Duration::from_secs(1);

/// The way to a key: what stood in it is cleared without a transaction, then judged again inside one.
pub struct Way {
    when_busy: WhenBusy,
    grace: Duration,
    /// The dead holder whose processes have been ended.
    cleared: Option<Dead>,
    /// The holder that was told to end, so that it is told once.
    told: Option<String>,
}

/// What a look at the key found.
pub enum Look {
    Free,
    Held(Box<Task>),
}

impl Way {
    pub fn new(when_busy: WhenBusy, grace: Duration) -> Way {
        Way { when_busy, grace, cleared: None, told: None }
    }

    /// Looks who holds `key`. A dead holder that was cleared is marked here, in the claim's transaction.
    pub fn look(&mut self, claim: &Claim<'_>, key: &str) -> Result<Look, Error> {
        let Some(holder) = claim.holder(key)? else { return Ok(Look::Free) };
        if let Some(dead) = self.cleared.take_if(|d| d.id() == holder.id) {
            warn!("settled {}", dead.describe());
            dead.mark(claim)?;
            return Ok(Look::Free);
        }
        Ok(Look::Held(Box::new(holder)))
    }

    /// Refuses, waits, replaces or buries the holder. `Some`: a stop signal came meanwhile, and there is
    /// no task yet.
    ///
    /// # Errors
    /// 75 when the key stays held.
    pub fn clear(
        &mut self,
        ledger: &Ledger,
        watch: &mut Watch,
        key: &str,
        holder: Task,
    ) -> Result<Option<i32>, Error> {
        match recovery::judge(ledger, &holder)? {
            Verdict::Gone | Verdict::Recycled => {
                let dead = recovery::end_leftovers(ledger, holder, self.grace)?;
                if dead.survivors().is_empty() {
                    self.cleared = Some(dead);
                    return Ok(None);
                }
                Err(Error::new(
                    Kind::Busy,
                    format!(
                        "the key {key} is held by task {}, whose supervisor is gone but whose processes \
                         could not be ended: {}",
                        dead.id(),
                        dead.survivors_text()
                    ),
                )
                .hint("end them, then try again; nothing was executed"))
            }
            Verdict::Unverifiable => Err(Error::new(
                Kind::Busy,
                format!("the key {key} is held by {}, which cannot be judged from here", name(&holder)),
            )
            .hint(
                "look for it where it was started, or run under another key or ledger; nothing was executed",
            )),
            Verdict::Alive => match self.when_busy {
                WhenBusy::Refuse => {
                    Err(Error::new(Kind::Busy, format!("the key {key} is held by {}", name(&holder)))
                        .hint("--wait waits for it, --replace cancels it and runs; nothing was executed"))
                }
                WhenBusy::Wait => self.wait(watch, &holder),
                WhenBusy::Replace => {
                    self.cancel(&holder)?;
                    self.wait(watch, &holder)
                }
            },
        }
    }

    fn cancel(&mut self, holder: &Task) -> Result<(), Error> {
        if self.told.as_ref() == Some(&holder.id) {
            return Ok(());
        }
        let failed = |e: std::io::Error| {
            Error::new(Kind::Busy, format!("cancelling {}: {e}", name(holder)))
                .hint("nothing was executed; end it yourself, or use --wait")
        };
        if cancel::ask_to_end(holder).map_err(failed)?.is_some() {
            info!("cancelling {}", name(holder));
        }
        self.told = Some(holder.id.clone());
        Ok(())
    }

    /// Waits until the holder's supervisor is gone, or for one look's time.
    fn wait(&self, watch: &mut Watch, holder: &Task) -> Result<Option<i32>, Error> {
        let handle = open(holder).ok().flatten();
        let interests: Vec<_> =
            handle.iter().map(|h| Interest { source: Source::Holder, fd: h.as_fd() }).collect();
        let until = Instant::now() + LOOK;
        loop {
            match watch.next(&interests, Some(until)).map_err(supervise::watching)? {
                Event::Deadline | Event::Ready(_) => return Ok(None),
                Event::Signal(received) => {
                    if supervise::stop_of(&received).is_some() {
                        return Ok(Some(received.signal));
                    }
                }
                Event::Child { .. } => {}
            }
        }
    }
}

fn open(holder: &Task) -> std::io::Result<Option<Handle>> {
    holder.supervisor().map_or(Ok(None), |s| identity::open(&s))
}

/// `task 019… (pid 4711, since 2026-…)`.
fn name(task: &Task) -> String {
    let pid = task.supervisor_pid.map_or_else(|| "unknown".to_owned(), |p| p.to_string());
    format!("task {} (pid {pid}, since {})", task.id, task.started_at)
}
