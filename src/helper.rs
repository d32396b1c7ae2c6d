//! Running a helper: a command beside the agent (`--prepare`, git, a hook).

use std::ffi::{CString, OsStr};
use std::os::fd::OwnedFd;
use std::time::Instant;

use crate::error::Error;
use crate::exit::Exit;
use crate::ledger::Ledger;
use crate::process::spawn::gate::{Gated, Launch, StartError};
use crate::process::watch::{Watch, WatchEvent, WatchInterest, WatchSource};
use crate::stop;
use crate::sys::{self, ChildChange, SignalSet};
use crate::task::Signal;

/// Bytes of a helper's output that are kept.
const TAIL: usize = 4096;

/// The process of a helper.
pub struct Helper {
    pub child: Gated,
    pub output: Option<OwnedFd>,
    /// The end of its output.
    pub tail: Vec<u8>,
    pub start_error: Option<StartError>,
    pub ended: Option<Exit>,
}

impl Helper {
    pub fn new(child: Gated, output: Option<OwnedFd>) -> Helper {
        Helper { child, output, tail: Vec::new(), start_error: None, ended: None }
    }

    pub fn read_output(&mut self) {
        let mut chunk = [0u8; TAIL];
        while let Some(output) = &self.output {
            match nix::unistd::read(output, &mut chunk) {
                Ok(0) => self.output = None,
                Ok(n) => {
                    self.tail.extend_from_slice(&chunk[..n]);
                    self.tail.drain(..self.tail.len().saturating_sub(TAIL));
                }
                Err(nix::errno::Errno::EINTR) => {}
                Err(nix::errno::Errno::EAGAIN) => break,
                Err(_) => self.output = None,
            }
        }
    }
}

/// Waits for a helper, beside its own work.
pub trait Attendant {
    fn ledger(&mut self) -> &mut Ledger;

    /// bookend has received a stop signal, and starts no more hooks.
    fn is_stopping(&self) -> bool;

    /// Waits until the helper has exited, bookend receives a stop signal, or `until`.
    ///
    /// # Errors
    /// When the kernel has no memory left to watch with.
    fn wait(&mut self, helper: &mut Option<Helper>, until: Option<Instant>) -> Result<Waited, Error>;
}

/// What ended a wait for a helper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waited {
    Ended,
    /// bookend received this stop signal.
    Stop(Signal),
    Deadline,
}

/// Whether to wait longer for a helper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Until then; `None`: until it exits.
    Until(Option<Instant>),
    GiveUp,
}

/// Opens the gate of a helper, and waits for it. `next` decides after each stop signal and each deadline.
/// `None`: the attendant has lost the helper.
///
/// # Errors
/// As [`Attendant::wait`].
pub fn attend(
    mut child: Gated,
    output: Option<OwnedFd>,
    mut wait: Wait,
    attendant: &mut dyn Attendant,
    next: &mut dyn FnMut(&Gated, Waited) -> Wait,
) -> Result<Option<Helper>, Error> {
    child.open();
    let mut helper = Some(Helper::new(child, output));
    while let Wait::Until(until) = wait {
        let waited = attendant.wait(&mut helper, until)?;
        let Some(helper) = &mut helper else { break };
        if helper.ended.is_some() || waited == Waited::Ended {
            helper.read_output();
            break;
        }
        wait = next(&helper.child, waited);
    }
    Ok(helper)
}

/// A command that does nothing else while a hook runs. While this exists, stop signals are blocked, and read
/// by [`Attendant::wait`].
pub struct Idle<'a> {
    pub ledger: &'a mut Ledger,
    pub watch: &'a mut Watch,
    /// The stop signal that bookend has received.
    pub stopped: Option<Signal>,
    former: SignalSet,
}

impl<'a> Idle<'a> {
    pub fn new(ledger: &'a mut Ledger, watch: &'a mut Watch) -> Idle<'a> {
        let former = sys::set_mask(SignalSet::ALL);
        sys::set_mask(Signal::STOPS.into_iter().fold(former, SignalSet::with));
        Idle { ledger, watch, stopped: None, former }
    }
}

impl Drop for Idle<'_> {
    fn drop(&mut self) {
        sys::set_mask(self.former);
    }
}

impl Attendant for Idle<'_> {
    fn ledger(&mut self) -> &mut Ledger {
        self.ledger
    }

    fn is_stopping(&self) -> bool {
        self.stopped.is_some()
    }

    fn wait(&mut self, hook: &mut Option<Helper>, until: Option<Instant>) -> Result<Waited, Error> {
        loop {
            if hook.as_ref().is_some_and(|h| h.ended.is_some()) {
                return Ok(Waited::Ended);
            }
            let report = hook.as_ref().and_then(|h| h.child.report());
            let interests: Vec<_> = report
                .into_iter()
                .map(|fd| WatchInterest { source: WatchSource::HelperReport, fd })
                .collect();
            match self.watch.next(&interests, until).map_err(stop::watching)? {
                WatchEvent::Child { pid, change: ChildChange::Ended(exit), .. } => {
                    hook.iter_mut().filter(|h| h.child.pid == pid).for_each(|h| h.ended = Some(exit));
                }
                WatchEvent::Ready(_) => {
                    hook.iter_mut().for_each(|h| h.start_error = h.child.read_report().err());
                }
                WatchEvent::Deadline => return Ok(Waited::Deadline),
                WatchEvent::Signal(received) if stop::stop_of(&received).is_some() => {
                    self.stopped.get_or_insert(received.signal);
                    return Ok(Waited::Stop(received.signal));
                }
                WatchEvent::Child { .. } | WatchEvent::Signal(_) => {}
            }
        }
    }
}

/// A command line that the shell reads.
pub fn shell(command: &OsStr, env: Vec<CString>) -> std::io::Result<Launch> {
    Launch::new(&[OsStr::new("/bin/sh"), OsStr::new("-c"), command], env)
}

pub fn dev_null() -> std::io::Result<OwnedFd> {
    Ok(std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?.into())
}
