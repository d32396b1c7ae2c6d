//! `bookend monitor`: settles each lost task as soon as its supervisor dies. Nothing depends on it: what it
//! does not settle, the next recovery does.

mod attached_hub;
#[cfg(feature = "fleet")]
mod hub;
mod options;
pub mod service;

use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{info, warn};

pub use options::MonitorOptions;

use crate::commands::engine::{
    self, PeriodicCall, RecoveryEngine, RecoveryReport, ReportFormat, Reporter, SelectedTasks,
    SupervisorWatch,
};
use crate::error::{Error, Kind};
use crate::exit::Exit;
use crate::failpoint;
use crate::ledger::{self, Ledger, Location, MonitorLock};
use crate::process::spawn::caller::Caller;
use crate::process::watch::{Watch, WatchEvent};
use crate::stop;
use crate::sys;
use crate::task::Signal;
use attached_hub::AttachedHub;
use service::ServiceManager;

/// The first pause after an error of the ledger; each is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How long a monitor waits for its predecessor. A child that is to execute a hook has its descriptors until
/// then, so it keeps the byte of a killed monitor for a moment. systemd does not restart after exit code 75.
const HANDOVER: Duration = Duration::from_secs(2);
const HANDOVER_POLL: Duration = Duration::from_millis(10);
/// By how much the time to start is extended while the first recovery works.
const STARTING: Duration = Duration::from_secs(30);

/// Settles lost tasks until a stop signal arrives.
///
/// # Errors
/// When the ledger cannot be found, another monitor runs (75), or the kernel has no memory to watch with.
pub fn monitor(options: &MonitorOptions, ledger: Option<&Path>, caller: Caller) -> Result<Exit, Error> {
    // Each run that waits for a key of the fleet has a connection.
    #[cfg(feature = "fleet")]
    let caller = caller.with_raised_limit();
    let caller = &caller;
    let service = Arc::new(ServiceManager::from_environment());
    // Stop signals are read from the watch, so that a stop interrupts nothing halfway.
    let ignored = caller.mask.with(Signal::CHLD).with(Signal::PIPE);
    sys::set_mask(Signal::STOPS.into_iter().fold(ignored, sys::SignalSet::with));
    let at = ledger::locate(ledger)?;
    let mut watch = engine::watch()?;
    let mut monitor = Monitor {
        options,
        caller,
        at,
        lock: None,
        hub: AttachedHub::default(),
        pause: FIRST_PAUSE,
        failed_at: None,
        is_failure_reported: false,
        spool_was_replaced: false,
    };
    loop {
        let signal = match monitor.watch_ledger(&mut watch, &service) {
            Ok(Watched::Stopped(signal)) => Some(signal),
            Ok(Watched::Replaced) => None,
            Ok(Watched::Refused(e)) => return Err(e),
            Err(e) => monitor.wait_after(&e, &mut watch, &service)?,
        };
        if let Some(signal) = signal {
            failpoint::reached("monitor.stopping");
            service.stopping();
            monitor.hub.drain(&mut watch, &service);
            return Ok(Exit::Signal(signal));
        }
    }
}

/// The monitor of one ledger.
struct Monitor<'a> {
    options: &'a MonitorOptions,
    caller: &'a Caller,
    at: Location,
    /// Keeps a second monitor away.
    lock: Option<MonitorLock>,
    hub: AttachedHub,
    /// The pause after the next error.
    pause: Duration,
    /// When the pause after the last error ended.
    failed_at: Option<Instant>,
    /// It was reported that the monitor cannot use the ledger, and not yet that it can again.
    is_failure_reported: bool,
    /// The files of the ledger were replaced while it was watched.
    spool_was_replaced: bool,
}

/// Why the ledger is not watched any longer.
enum Watched {
    Stopped(Signal),
    /// A file of it was replaced.
    Replaced,
    /// It cannot be watched by this process.
    Refused(Error),
}

impl Monitor<'_> {
    /// Opens the ledger, settles all that is lost, and then what is lost from now on.
    fn watch_ledger(&mut self, watch: &mut Watch, service: &Arc<ServiceManager>) -> Result<Watched, Error> {
        self.hub.begin(&self.at, service, self.caller);
        let (ledger, merged) = match Ledger::open(&self.at) {
            Err(e) if self.lock.is_none() && !e.may_pass() => return Ok(Watched::Refused(e.into())),
            opened => opened?,
        };
        if let Some(refused) = self.hold(&ledger)? {
            return Ok(Watched::Refused(refused));
        }
        let format = if self.options.json { ReportFormat::JsonLine } else { ReportFormat::Lines };
        let report = self.report();
        let policy = (&self.options.policy, "monitor");
        let mut engine =
            RecoveryEngine::new(ledger, watch, policy, self.caller, (Reporter::new(format), report));
        engine.heeds_stops = true;
        let is_ready = Cell::new(false);
        let call = || {
            service.alive();
            if !is_ready.get() {
                service.extend(STARTING);
            }
        };
        let watchdog = service.watchdog();
        engine.periodic_call =
            Some(PeriodicCall::begin(watchdog.unwrap_or(STARTING).min(STARTING) / 2, &call));
        // Before the first look at the tasks: an end between the two is seen.
        engine.supervisor_watch = Some(SupervisorWatch::over(&engine.ledger, self.spool_was_replaced));
        failpoint::reached("monitor.armed");
        engine.report_spool(&merged);
        let all = SelectedTasks(Vec::new());
        engine.add_all(&all)?;
        engine.settle(&all)?;
        if engine.stopped.is_none() {
            engine.invalidate_sessions()?;
            self.hub.follow(&self.at, engine.ledger.fleet(), service, self.caller);
            service.ready(&self.status(&engine));
            if std::mem::take(&mut self.is_failure_reported) {
                info!("the monitor uses the ledger {} again", self.at.file.display());
            }
            failpoint::reached("monitor.ready");
            is_ready.set(true);
            engine.periodic_call = watchdog.map(|interval| PeriodicCall::begin(interval, &call));
        }
        self.settle_until_stopped(&mut engine, service)
    }

    /// Settles what is lost from now on, and does what remains after a task was settled.
    fn settle_until_stopped(
        &mut self,
        engine: &mut RecoveryEngine<'_>,
        service: &Arc<ServiceManager>,
    ) -> Result<Watched, Error> {
        loop {
            if engine.has_work() {
                self.end_round(engine)?;
            } else if let Some(signal) = engine.stopped {
                return Ok(Watched::Stopped(signal));
            } else if engine.is_replaced {
                info!(
                    "a file of the ledger {} was replaced; bookend opens the ledger again",
                    self.at.file.display()
                );
                self.spool_was_replaced = true;
                self.hub.end();
                return Ok(Watched::Replaced);
            } else if std::mem::take(&mut engine.membership_changed) {
                let setting = engine.ledger.refresh_fleet()?;
                self.hub.follow(&self.at, setting, service, self.caller);
            } else {
                service.status(&self.status(engine));
                engine.turn_alone(None)?;
            }
        }
    }

    /// Takes the byte of the monitor in the file `live`, which may be another file than before. `Some`:
    /// another process has it.
    fn hold(&mut self, ledger: &Ledger) -> Result<Option<Error>, Error> {
        let until = Instant::now() + HANDOVER;
        self.lock = None;
        loop {
            self.lock = ledger.hold_monitor()?;
            if self.lock.is_some() || Instant::now() >= until {
                break;
            }
            std::thread::sleep(HANDOVER_POLL);
        }
        let message = format!("another monitor watches the ledger {}", self.at.file.display());
        let refused = Error::new(Kind::Busy, message)
            .hint("it settles the lost tasks; to run this one instead, stop it first");
        Ok(self.lock.is_none().then_some(refused))
    }

    fn report(&self) -> RecoveryReport {
        RecoveryReport { ledger: self.at.file.clone(), ..RecoveryReport::default() }
    }

    fn status(&self, engine: &RecoveryEngine<'_>) -> String {
        let sees_files = engine.supervisor_watch.as_ref().is_some_and(SupervisorWatch::sees_files);
        let how = if sees_files { "" } else { " one by one, since inotify is not available" };
        format!("watching the tasks in {}{how}", self.at.file.display())
    }

    /// Reports tasks that cannot be judged, runs hooks, prints what was done, and gives back memory.
    fn end_round(&self, engine: &mut RecoveryEngine<'_>) -> Result<(), Error> {
        engine.expire_unverifiable()?;
        if let Some(ended) = engine.take_ended() {
            engine.clean_slots_of(&ended);
            if !engine.is_interrupted() {
                engine.deliver(&ended)?;
            }
            if !engine.is_interrupted() {
                engine.report_interrupted(&ended)?;
            }
        }
        if !engine.report.is_empty() {
            engine.report.conclude();
            engine.reporter.end(&engine.report);
            engine.record_reports()?;
        }
        engine.report = self.report();
        engine.rest();
        engine.deferred_error.take().map_or(Ok(()), Err)
    }

    /// Waits after an error. `Some`: this stop signal arrived.
    fn wait_after(
        &mut self,
        e: &Error,
        watch: &mut Watch,
        service: &Arc<ServiceManager>,
    ) -> Result<Option<Signal>, Error> {
        let text = e.in_line();
        // Errors that follow one another are reported once.
        if self.failed_at.is_none_or(|at| at.elapsed() > 2 * LONGEST_PAUSE) {
            self.pause = FIRST_PAUSE;
            self.is_failure_reported = true;
            warn!("the monitor cannot use the ledger {} and tries again: {text}", self.at.file.display());
        }
        // A start that waits for this would hold up the machine's boot.
        service.ready(&format!("not watching {}: {text}", self.at.file.display()));
        service.alive();
        let pause = service.watchdog().map_or(self.pause, |longest| self.pause.min(longest));
        let until = Instant::now() + pause;
        self.failed_at = Some(until);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        loop {
            match watch.next(&[], Some(until)).map_err(stop::watching)? {
                WatchEvent::Signal(received) if stop::stop_of(&received).is_some() => {
                    return Ok(Some(received.signal));
                }
                WatchEvent::Deadline => return Ok(None),
                WatchEvent::Signal(_) | WatchEvent::Child { .. } | WatchEvent::Ready(_) => {}
            }
        }
    }
}
