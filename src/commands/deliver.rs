//! `bookend deliver`: runs `--on-finish` commands that were interrupted, that failed, or that are to run
//! again.

use std::path::Path;
use std::time::Duration;

use tracing::level_filters::LevelFilter;

use crate::commands::find;
use crate::error::Error;
use crate::exit::Exit;
use crate::exit::exit_code;
use crate::helper::{Attendant, Idle};
use crate::hook;
use crate::ledger::{self, DeliveryStatus, FollowUp, Ledger, LiveEvidence, TakenLock};
use crate::process::spawn::caller::Caller;
use crate::process::watch::Watch;
use crate::recovery;
use crate::recovery::trust;
use crate::sys;
use crate::sys::stdout::print;
use crate::task::{Signal, Status, Task, Verdict};
use crate::view;

/// What `bookend deliver` was asked for.
#[derive(Debug)]
pub struct DeliverOptions {
    pub which: DeliverTarget,
    /// Also what was delivered.
    pub again: bool,
    /// Instead of what each task was given.
    pub hook_timeout: Option<Duration>,
    pub level: LevelFilter,
}

/// The tasks whose commands are to run.
#[derive(Debug)]
pub enum DeliverTarget {
    /// Those whose command was not run yet or was interrupted.
    Due,
    Failed,
    /// Their ids, or enough of their beginnings.
    Ids(Vec<String>),
}

/// What came of one delivery.
pub enum Delivered {
    /// It was run, and recorded like this.
    As(DeliveryStatus),
    /// Its supervisor lives, or another process delivers it, or has.
    ByAnother,
    /// Whether another process delivers it cannot be judged from here: in words, and what to do about it.
    Unverifiable(String),
    /// It must not be run: in words.
    Refused(String),
}

/// Runs the commands, and prints for each task what came of it.
///
/// # Errors
/// When the ledger cannot be read or written, or a task cannot be delivered.
pub fn deliver(options: &DeliverOptions, ledger: Option<&Path>, caller: &Caller) -> Result<Exit, Error> {
    // As for `recover`: a signal may end this at any point where no hook runs.
    sys::set_mask(caller.mask.with(Signal::CHLD).with(Signal::PIPE));
    let at = ledger::locate(ledger)?;
    if !at.file.exists() {
        return Err(find::no_ledger("nothing to deliver", &at));
    }
    let (mut ledger, merged) = Ledger::open(&at)?;
    ledger::report_merged(&merged);
    let mut watch = Watch::new().map_err(|e| Error::failed("watching hooks").caused_by(e))?;
    let mut all_delivered = true;
    for task in chosen(&ledger, options)? {
        recovery::evidence(&ledger, &task)?;
        let timeout = options.hook_timeout;
        let mut idle = Idle::new(&mut ledger, &mut watch);
        let delivered = deliver_one(&mut idle, &task, recovery::TTL, timeout, caller)?;
        let stopped = idle.stopped;
        drop(idle);
        let text = match &delivered {
            Delivered::As(state) => state.as_str().to_owned(),
            Delivered::Unverifiable(why) => format!("not run: {why}"),
            Delivered::ByAnother => "another process delivers it".to_owned(),
            Delivered::Refused(why) => format!("not run: {why}"),
        };
        all_delivered &= matches!(delivered, Delivered::As(DeliveryStatus::Delivered));
        print(&format!("task {}: {}\n", view::one_line(task.id.as_str()), view::one_line(&text)))?;
        if let Some(signal) = stopped {
            return Ok(Exit::Signal(signal));
        }
    }
    Ok(Exit::Code(if all_delivered { 0 } else { exit_code::UNSETTLED }))
}

fn chosen(ledger: &Ledger, options: &DeliverOptions) -> Result<Vec<Task>, Error> {
    match &options.which {
        DeliverTarget::Due => Ok(ledger.undelivered()?),
        DeliverTarget::Failed => Ok(ledger.delivery_failed()?),
        DeliverTarget::Ids(ids) => ids.iter().map(|id| named(ledger, id, options.again)).collect(),
    }
}

fn named(ledger: &Ledger, id: &str, again: bool) -> Result<Task, Error> {
    let task = find::find_in(ledger, id)?;
    let refused = |why: &str| Error::usage(format!("task {}: {why}; nothing was run", task.id));
    if task.status == Status::Running {
        return Err(refused("it is still running").hint("--on-finish runs when it has ended"));
    }
    match task.delivery_status.as_deref() {
        None => Err(refused("it was started without --on-finish")),
        Some("delivered") if !again => {
            Err(refused("it was delivered already").hint("--again delivers it once more"))
        }
        Some(_) => Ok(task),
    }
}

/// Runs the `--on-finish` command of one ended task, while no other process does. `ttl`: how long after its
/// end a task is left to a supervisor that cannot be judged from here.
///
/// # Errors
/// When the ledger cannot be read or written, or the kernel has no memory left to watch with.
pub fn deliver_one(
    attendant: &mut dyn Attendant,
    task: &Task,
    ttl: Duration,
    timeout: Option<Duration>,
    caller: &Caller,
) -> Result<Delivered, Error> {
    let ledger = attendant.ledger();
    // Held for as long as the hook runs, as its own supervisor would.
    let _live = match ledger.take_live(task)? {
        TakenLock::Yes(lock) => Some(lock),
        TakenLock::Held => return Ok(Delivered::ByAnother),
        TakenLock::Elsewhere => match (recovery::judge(LiveEvidence::NoSlot, task), ledger.evidence(task)?) {
            (Verdict::Gone | Verdict::Recycled, _) => None,
            (Verdict::Alive, _) | (_, LiveEvidence::Held) => return Ok(Delivered::ByAnother),
            (Verdict::Unverifiable, _) if recovery::has_expired(task, ttl) => None,
            (Verdict::Unverifiable, _) => return Ok(Delivered::Unverifiable(doubtful(ledger, task))),
        },
    };
    // The live lock may be another boot's: this one is always ours.
    let (_lock, taken) = ledger.lock_follow_ups(FollowUp::Delivery, &[&task.id])?;
    if taken != [true] {
        return Ok(Delivered::ByAnother);
    }
    if let Some(distrust) = ledger.distrust() {
        let (why, remedy) = (&distrust.why, trust::remedy(&distrust));
        return Ok(Delivered::Refused(format!("{why}; {remedy}")));
    }
    let state = hook::deliver(task, None, timeout, caller, attendant)?;
    Ok(state.map_or(Delivered::ByAnother, Delivered::As))
}

/// Why the command of a task is left to a supervisor that cannot be judged, and what to do about it.
fn doubtful(ledger: &Ledger, task: &Task) -> String {
    let command = recovery::release_command(ledger, task);
    format!("its supervisor cannot be judged from here and may still run it; if it has ended: {command}")
}
