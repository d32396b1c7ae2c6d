//! The key of a run in a ledger of a fleet: the fleet grants it to the ledger before the run claims it there.
//!
//! A ledger may join a fleet or leave it while a run waits. The transaction of the claim decides: it claims
//! nothing unless the key was granted by the fleet in which the ledger is then.

use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tracing::warn;

use crate::error::{Error, Kind};
use crate::failpoint;
use crate::fleet::socket::{
    HubAnswer, HubConnection, KeyHolder, KeyRequest, RunMessage, StaleSession, WhenHeld,
};
use crate::ledger::{Claim, Ledger};
use crate::process::watch::Watch;
use crate::run::budget;
use crate::run::claim::wait_for_any;
use crate::run::command::RunContext;
use crate::run::options::WhenBusy;
use crate::run::session::StaleLink;
use crate::task::{Signal, TaskId};
use crate::view;

/// The first pause before a monitor that does not listen is tried again; each is twice as long.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(2);
/// How often a run that hears nothing from the monitor looks whether its ledger is still in the fleet.
const LOOK: Duration = Duration::from_secs(5);

/// The key that a run needs of the fleet.
pub(super) struct FleetKey<'a> {
    context: &'a RunContext<'a>,
    private_dir: PathBuf,
    /// `None`: the run has no key.
    request: Option<KeyRequest>,
    /// The fleet that the ledger is in, as it was read last. `None`: it is in no fleet.
    membership: Option<String>,
    /// A monitor is about to serve this run: the one before has granted the key, or the ledger has just
    /// joined.
    monitor_is_starting: bool,
    /// The monitor keeps the key for this ledger until it ends.
    granted: Option<HubConnection>,
    stale_session: Option<StaleLink>,
    /// The last message about what the run waits for.
    reported: String,
}

/// What a run waits for.
#[derive(Debug, PartialEq, Eq)]
enum Awaited {
    /// No monitor listens.
    Monitor,
    Answer,
    Database {
        why: String,
    },
    Holder(KeyHolder),
}

/// One request, from the connection to the grant.
struct Asking {
    hub: Option<HubConnection>,
    awaited: Awaited,
    /// `None`: the run waits for as long as it takes.
    until: Option<Instant>,
    /// The pause before the next attempt to reach a monitor.
    retry: Duration,
    /// The last attempt has found a monitor that listens.
    is_reached: bool,
}

impl Asking {
    fn next_retry(&mut self) -> Duration {
        let pause = self.retry;
        self.retry = (pause * 2).min(LONGEST_RETRY);
        pause
    }
}

impl<'a> FleetKey<'a> {
    pub(super) fn new(context: &'a RunContext<'a>, ledger: &Ledger) -> FleetKey<'a> {
        let request = context.command.key.clone().map(|key| KeyRequest {
            key,
            task: context.options.id.clone().unwrap_or_else(TaskId::random),
            slot: context.live.slot,
            if_held: match context.options.when_busy {
                WhenBusy::Refuse => WhenHeld::Refuse,
                WhenBusy::Wait => WhenHeld::Wait,
                WhenBusy::Replace => WhenHeld::Replace,
            },
        });
        let private_dir = context.location.private_dir();
        FleetKey {
            context,
            private_dir,
            request,
            membership: ledger.fleet().map(str::to_owned),
            monitor_is_starting: false,
            granted: None,
            stale_session: None,
            reported: String::new(),
        }
    }

    /// The id of the task to which the key is granted.
    pub(super) fn task(&self) -> Option<&TaskId> {
        self.request.as_ref().map(|request| &request.task)
    }

    /// Why the session of the key in this ledger is not to be resumed.
    pub(super) fn stale_session(&self) -> Option<&StaleLink> {
        self.stale_session.as_ref()
    }

    /// Asks for the key, unless this ledger has it. `Some`: bookend received a stop signal meanwhile.
    ///
    /// # Errors
    /// Exit code 75 when a task on another host holds the key, 125 when the fleet does not answer.
    pub(super) fn take(&mut self, ledger: &mut Ledger, watch: &mut Watch) -> Result<Option<Signal>, Error> {
        if self.is_granted() {
            return Ok(None);
        }
        let (Some(request), Some(fleet)) = (self.request.clone(), self.membership.clone()) else {
            return Ok(None);
        };
        // A run that is refused waits for no task and cancels none.
        if self.context.options.budget.is_some() {
            budget::check(&ledger.claim()?, self.context)?;
        }
        let mut asking = self.begin();
        let message = RunMessage::Take { fleet, request };
        loop {
            if let Some(granted) = self.ask(&mut asking, &message)? {
                self.granted = Some(granted);
                failpoint::reached("run.granted");
                return Ok(None);
            }
            self.check_deadline(&mut asking)?;
            let now = Instant::now();
            let look = now + if asking.hub.is_some() { LOOK } else { asking.next_retry() };
            let until = asking.until.map_or(look, |until| until.min(look));
            if let Some(signal) = wait_for_any(watch, asking.hub.iter().map(AsFd::as_fd), Some(until))? {
                return Ok(Some(signal));
            }
            if (asking.hub.is_none() || Instant::now() >= until) && self.moves(ledger.refresh_fleet()?) {
                return self.take(ledger, watch);
            }
        }
    }

    fn begin(&mut self) -> Asking {
        self.monitor_is_starting |= self.granted.take().is_some();
        Asking {
            hub: None,
            awaited: if self.monitor_is_starting { Awaited::Answer } else { Awaited::Monitor },
            until: Some(self.deadline()),
            retry: FIRST_RETRY,
            is_reached: false,
        }
    }

    /// Whether this ledger may claim the key. `false`: [`FleetKey::take`] is to ask for it. A monitor that
    /// does not know what the one before it has granted locks the ledger once, before it releases any key.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub(super) fn is_held(&mut self, claim: &Claim<'_>) -> Result<bool, Error> {
        if self.request.is_none() {
            return Ok(true);
        }
        self.moves(claim.fleet()?.as_deref());
        Ok(self.membership.is_none() || self.is_granted())
    }

    /// Takes note of the fleet in which the ledger is now. `true`: it is another one, or none. What was
    /// granted or answered before counts no longer.
    fn moves(&mut self, fleet: Option<&str>) -> bool {
        if self.membership.as_deref() == fleet {
            return false;
        }
        self.membership = fleet.map(str::to_owned);
        (self.granted, self.stale_session, self.monitor_is_starting) = (None, None, true);
        true
    }

    fn is_granted(&self) -> bool {
        self.granted.as_ref().is_some_and(HubConnection::is_open)
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.context.options.fleet_timeout
    }

    /// Sends the request if it was not sent, and reads what was answered. `Some`: the key was granted.
    fn ask(&mut self, asking: &mut Asking, message: &RunMessage) -> Result<Option<HubConnection>, Error> {
        let mut hub = match asking.hub.take() {
            Some(hub) => hub,
            None => match HubConnection::open(&self.private_dir, message) {
                Ok(hub) => hub,
                Err(e) => return self.unreached(asking, e).map(|()| None),
            },
        };
        asking.is_reached = true;
        if asking.awaited == Awaited::Monitor {
            self.await_answer(asking);
        }
        loop {
            match hub.answer() {
                Ok(HubAnswer::Granted { stale_session }) => {
                    self.stale_session = stale_session.map(link_of);
                    return Ok(Some(hub));
                }
                Ok(HubAnswer::Held(holder)) => self.await_further(asking, Awaited::Holder(holder))?,
                Ok(HubAnswer::NotCancelled { holder, why }) => return Err(self.not_cancelled(&holder, &why)),
                // As where no fleet is, such a run reports nothing.
                Ok(HubAnswer::InLine) => asking.until = None,
                Ok(HubAnswer::Away { why }) => self.await_further(asking, Awaited::Database { why })?,
                // Only commands ask for that.
                Ok(HubAnswer::Status(_)) => {}
                Ok(HubAnswer::Refused { why, hint }) => return Err(self.refused_for_good(&why, hint)),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                // The monitor has ended. The next one is asked again.
                Err(_) => {
                    self.await_answer(asking);
                    return Ok(None);
                }
            }
        }
        asking.hub = Some(hub);
        Ok(None)
    }

    /// What was reported before counts no longer. Also a run that waits for as long as it takes says so when
    /// there is no answer for a while.
    fn await_answer(&self, asking: &mut Asking) {
        asking.awaited = Awaited::Answer;
        asking.until.get_or_insert_with(|| self.deadline());
    }

    /// No connection came about. A monitor that starts anew is waited for.
    fn unreached(&mut self, asking: &mut Asking, e: std::io::Error) -> Result<(), Error> {
        match e.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
                asking.is_reached = false;
                match asking.awaited {
                    Awaited::Monitor => self.await_further(asking, Awaited::Monitor),
                    _ => Ok(()),
                }
            }
            // The monitor has just ended, or more runs connect than it has accepted.
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::WouldBlock => {
                asking.is_reached = true;
                Ok(())
            }
            _ => Err(Error::failed(format!("asking the monitor of {}", self.ledger()))
                .caused_by(e)
                .hint("nothing was executed")),
        }
    }

    /// Reports what the run waits for now, or refuses the run if it does not wait for that.
    fn await_further(&mut self, asking: &mut Asking, awaited: Awaited) -> Result<(), Error> {
        match (self.context.options.when_busy, &awaited) {
            (WhenBusy::Wait, _) => asking.until = None,
            (WhenBusy::Replace, Awaited::Holder(_)) => {
                // The holder has this long to end.
                if !matches!(asking.awaited, Awaited::Holder(_)) {
                    asking.until = Some(self.deadline());
                }
            }
            (WhenBusy::Replace | WhenBusy::Refuse, _) => return Err(self.refused(&awaited)),
        }
        self.report(self.waiting(&awaited));
        asking.awaited = awaited;
        Ok(())
    }

    /// Refuses the run once its time is over, unless it waits for as long as it takes.
    fn check_deadline(&mut self, asking: &mut Asking) -> Result<(), Error> {
        if asking.until.is_none_or(|until| Instant::now() < until) {
            return Ok(());
        }
        if asking.awaited == Awaited::Answer && !asking.is_reached {
            asking.awaited = Awaited::Monitor;
        }
        if self.context.options.when_busy != WhenBusy::Wait {
            return Err(self.refused(&asking.awaited));
        }
        self.report(self.waiting(&asking.awaited));
        asking.until = None;
        Ok(())
    }

    fn report(&mut self, waiting: String) {
        if self.reported != waiting {
            warn!("{waiting}");
            self.reported = waiting;
        }
    }
}

/// The messages.
impl FleetKey<'_> {
    fn key(&self) -> &str {
        self.context.command.key.as_ref().map_or("", |key| key.as_str())
    }

    fn ledger(&self) -> String {
        format!("the ledger {}", self.context.location.file.display())
    }

    fn not_claimed(&self) -> String {
        format!("the key {} cannot be claimed in the fleet:", self.key())
    }

    fn timeout(&self) -> String {
        humantime::format_duration(self.context.options.fleet_timeout).to_string()
    }

    fn waiting(&self, awaited: &Awaited) -> String {
        match awaited {
            Awaited::Monitor => {
                format!("waiting for a monitor of {}, whose keys are held in a fleet", self.ledger())
            }
            Awaited::Answer => {
                format!("the monitor of {} has not answered for {}; waiting", self.ledger(), self.timeout())
            }
            Awaited::Database { why } => format!("{} {why}; waiting", self.not_claimed()),
            Awaited::Holder(holder) => match self.context.options.when_busy {
                WhenBusy::Replace => {
                    format!("cancelling {}, which holds the key {}", name(holder), self.key())
                }
                _ => format!("waiting for {}, which holds the key {}", name(holder), self.key()),
            },
        }
    }

    fn refused(&self, awaited: &Awaited) -> Error {
        let failed = match awaited {
            Awaited::Monitor => {
                format!("no monitor of {} runs, and its keys are held in a fleet", self.ledger())
            }
            Awaited::Answer => format!(
                "{} the monitor of {} did not answer within {}",
                self.not_claimed(),
                self.ledger(),
                self.timeout()
            ),
            Awaited::Database { why } => format!("{} {why}", self.not_claimed()),
            Awaited::Holder(holder) => return self.busy(holder),
        };
        let start = view::suggestion(self.context.location.option(), "monitor");
        Error::failed(failed).hint(match awaited {
            Awaited::Monitor => {
                format!("start the service bookend-monitor or `{start}`, or use --wait; nothing was executed")
            }
            _ => "--wait waits until it can be claimed; nothing was executed".to_owned(),
        })
    }

    fn refused_for_good(&self, why: &str, hint: Option<String>) -> Error {
        let hint = hint.map(|hint| format!("{hint}; ")).unwrap_or_default();
        Error::failed(format!("{} {why}", self.not_claimed())).hint(format!("{hint}nothing was executed"))
    }

    fn not_cancelled(&self, holder: &KeyHolder, why: &str) -> Error {
        let message =
            format!("the key {} is held by {}, which cannot be cancelled: {why}", self.key(), name(holder));
        Error::new(Kind::Busy, message)
            .hint("cancel it where it was started, or use --wait; nothing was executed")
    }

    fn busy(&self, holder: &KeyHolder) -> Error {
        let replaces = self.context.options.when_busy == WhenBusy::Replace;
        let still = if replaces {
            format!(", {} after the order to cancel it", self.timeout())
        } else {
            String::new()
        };
        let message = format!("the key {} is held by {}{still}", self.key(), name(holder));
        let declare = format!("fleet declare-lost {}", view::operand(&holder.host));
        let declare = view::suggestion(self.context.location.option(), &declare);
        let if_off = format!("if the host is off for good: `{declare}`");
        let hint = match (holder.unreachable_since, replaces) {
            (Some(_), true) => {
                format!("the order stands: its host cancels it when it is back; {if_off}")
            }
            (Some(_), false) => {
                format!("the key is free when its host is back and the task has ended; {if_off}")
            }
            (None, true) => "--wait waits for its end".to_owned(),
            (None, false) => "--wait waits for it, --replace cancels it and runs".to_owned(),
        };
        Error::new(Kind::Busy, message).hint(format!("{hint}; nothing was executed"))
    }
}

fn link_of(stale: StaleSession) -> StaleLink {
    match stale {
        StaleSession::Elsewhere { host } => {
            StaleLink { reason: "elsewhere", why: format!("it was last used on host {host}") }
        }
        StaleSession::Lost => {
            StaleLink { reason: "host_lost", why: "the task that used it was declared lost".to_owned() }
        }
    }
}

/// `task 019… on host build-7 (since 2026-…, unreachable since 2026-…)`.
fn name(holder: &KeyHolder) -> String {
    let unreachable = holder.unreachable_since.map(|at| format!(", unreachable since {at}"));
    let unreachable = unreachable.unwrap_or_default();
    format!("task {} on host {} (since {}{unreachable})", holder.task, holder.host, holder.since)
}
