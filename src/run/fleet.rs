//! The key of a run in a ledger of a fleet: the fleet grants it to the ledger before the run claims it there.

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

/// How often a run tries to reach a monitor that does not listen.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// The key that a run needs of the fleet.
pub(super) struct FleetKey<'a> {
    context: &'a RunContext<'a>,
    private_dir: PathBuf,
    /// `None`: the run has no key, or its ledger is in no fleet.
    request: Option<KeyRequest>,
    /// The monitor keeps the key for this ledger until it ends.
    granted: Option<HubConnection>,
    stale_session: Option<StaleLink>,
    /// The last message about what the run waits for.
    reported: String,
}

/// What a run waits for.
#[derive(Debug, PartialEq, Eq)]
enum Awaited {
    /// No monitor has been reached.
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
}

impl<'a> FleetKey<'a> {
    pub(super) fn new(context: &'a RunContext<'a>, ledger: &Ledger) -> FleetKey<'a> {
        let key = context.command.key.clone().filter(|_| ledger.fleet().is_some());
        let request = key.map(|key| KeyRequest {
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
        let Some(request) = self.request.clone().filter(|_| !self.is_granted()) else { return Ok(None) };
        // A run that is refused waits for no task and cancels none.
        if self.context.options.budget.is_some() {
            budget::check(&ledger.claim()?, self.context)?;
        }
        // A monitor that has granted the key and closed the connection starts anew.
        let awaited = if self.granted.take().is_some() { Awaited::Answer } else { Awaited::Monitor };
        let mut asking = Asking { hub: None, awaited, until: Some(self.deadline()) };
        loop {
            if let Some(granted) = self.ask(&mut asking, &request)? {
                self.granted = Some(granted);
                failpoint::reached("run.granted");
                return Ok(None);
            }
            self.check_deadline(&mut asking)?;
            let retry = asking.hub.is_none().then(|| Instant::now() + RETRY_INTERVAL);
            let until = retry.into_iter().chain(asking.until).min();
            if let Some(signal) = wait_for_any(watch, asking.hub.iter().map(AsFd::as_fd), until)? {
                return Ok(Some(signal));
            }
        }
    }

    /// Whether the key is this ledger's. Asked in the transaction of `_claim`: a monitor that does not know
    /// what the one before it has granted locks the ledger once, before it releases any key.
    pub(super) fn is_held(&self, _claim: &Claim<'_>) -> bool {
        self.request.is_none() || self.is_granted()
    }

    fn is_granted(&self) -> bool {
        self.granted.as_ref().is_some_and(HubConnection::is_open)
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.context.options.fleet_timeout
    }

    /// Sends the request if it was not sent, and reads what was answered. `Some`: the key was granted.
    fn ask(&mut self, asking: &mut Asking, request: &KeyRequest) -> Result<Option<HubConnection>, Error> {
        let mut hub = match asking.hub.take() {
            Some(hub) => hub,
            None => match HubConnection::open(&self.private_dir, &RunMessage::Take(request.clone())) {
                Ok(hub) => hub,
                Err(e) => return self.unreached(asking, e).map(|()| None),
            },
        };
        if asking.awaited == Awaited::Monitor {
            asking.awaited = Awaited::Answer;
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
                Ok(HubAnswer::Refused { why, hint }) => return Err(self.refused_for_good(&why, hint)),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                // The monitor has ended. The next one is asked again.
                Err(_) => return Ok(None),
            }
        }
        asking.hub = Some(hub);
        Ok(None)
    }

    /// No connection came about. A monitor that starts anew is waited for.
    fn unreached(&mut self, asking: &mut Asking, e: std::io::Error) -> Result<(), Error> {
        match e.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused if asking.awaited == Awaited::Monitor => {
                self.await_further(asking, Awaited::Monitor)
            }
            // The monitor has just ended, or more runs connect than it has accepted.
            ErrorKind::NotFound
            | ErrorKind::ConnectionRefused
            | ErrorKind::BrokenPipe
            | ErrorKind::ConnectionReset
            | ErrorKind::WouldBlock => Ok(()),
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
        let if_off = format!("if that is switched off for good: `{declare}`");
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
