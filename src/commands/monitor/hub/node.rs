//! The node that a ledger is in its fleet: what the tasks of the hub share.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use super::claims::FleetClaims;
use super::command::HubCommand;
use super::error::HubError;
use super::registration::Registration;
use crate::commands::monitor::service::ServiceManager;
use crate::error::chain;
use crate::fleet::socket::HubStatus;
use crate::fleet::{DatabaseUrl, FleetError, FleetMembership};
use crate::ledger::{self, Ledger, Location};
use crate::task::Time;
use crate::view;

/// How long a run that writes its row is waited for, before the hub tries again.
const LONGEST_CLAIM: Duration = Duration::from_secs(5);

/// A ledger's node in a fleet. Everything of it is used on the hub's thread only.
pub struct HubNode {
    pub membership: FleetMembership,
    pub url: DatabaseUrl,
    /// Never borrowed across an await.
    pub ledger: RefCell<Ledger>,
    pub private_dir: PathBuf,
    pub claims: RefCell<FleetClaims>,
    /// The claims have calls to be made.
    pub claims_changed: Notify,
    /// The lease is to be renewed now: the database is waited for, or has news.
    pub renew_now: Notify,
    /// What came of open orders, by their numbers, until the database has it.
    pub order_results: RefCell<HashMap<i64, String>>,
    /// An order is for a task whose run is beginning: it is carried out once the run has its row.
    pub has_early_order: Cell<bool>,
    /// Another monitor has taken the lease, and this one has not registered since.
    pub was_superseded: Cell<bool>,
    /// Nothing is left to be published of the time in which the database could not be used.
    pub has_caught_up: Cell<bool>,
    /// Whether the database can be used now.
    pub link: watch::Sender<HubLink>,
    /// The same, for those who ask.
    pub status: watch::Sender<HubStatus>,
    command: watch::Receiver<HubCommand>,
    pub service: Arc<ServiceManager>,
    /// The command that makes the ledger a new node.
    join_anew: String,
}

/// The state of the connection to the fleet's database.
#[derive(Clone)]
pub enum HubLink {
    /// The first attempt to register has not ended.
    Connecting,
    /// Registered, and what runs is compared.
    Up(Rc<Registration>),
    Away {
        why: String,
        since: Time,
    },
}

impl HubNode {
    /// Opens the ledger. `None`: it is in no fleet.
    pub fn open(
        at: &Location,
        command: watch::Receiver<HubCommand>,
        service: Arc<ServiceManager>,
    ) -> Result<Option<HubNode>, HubError> {
        let (mut ledger, merged) = Ledger::open(at)?;
        ledger::report_merged(&merged);
        let Some(setting) = ledger.fleet() else { return Ok(None) };
        let membership = FleetMembership::parse(setting).map_err(HubError::Setting)?;
        let url = DatabaseUrl::parse(&membership.url).map_err(HubError::Url)?;
        if let Some(distrust) = ledger.distrust() {
            return Err(HubError::Distrusted(distrust.why));
        }
        // The rows of runs to which the hub before this one has granted keys are in the ledger then.
        ledger.await_claims(LONGEST_CLAIM)?;
        let join = format!("fleet join --new-node {}", view::quoted(&url.to_string()));
        let join_anew = view::suggestion(at.option(), &join);
        let node = HubNode {
            membership,
            url,
            ledger: RefCell::new(ledger),
            private_dir: at.private_dir(),
            claims: RefCell::new(FleetClaims::new()),
            claims_changed: Notify::new(),
            renew_now: Notify::new(),
            order_results: RefCell::default(),
            has_early_order: Cell::new(false),
            was_superseded: Cell::new(false),
            has_caught_up: Cell::new(false),
            link: watch::Sender::new(HubLink::Connecting),
            status: watch::Sender::new(HubStatus::Connecting),
            command,
            service,
            join_anew,
        };
        node.service.fleet_status(&format!("connecting to {}", node.url));
        Ok(Some(node))
    }

    /// Whether the ledger is still this node. One that has left is not registered again.
    pub fn is_member(&self) -> Result<bool, HubError> {
        let mut ledger = self.ledger.borrow_mut();
        let setting = ledger.refresh_fleet()?;
        Ok(setting.is_some_and(|setting| FleetMembership::parse(setting).is_ok_and(|m| m == self.membership)))
    }

    /// The node registers again at once.
    pub fn note_connecting(&self) {
        self.status.send_replace(HubStatus::Connecting);
        self.link.send_replace(HubLink::Connecting);
    }

    /// The database can be used from now on.
    pub fn note_up(&self, registration: Rc<Registration>) {
        let server = registration.server();
        if let HubLink::Away { since, .. } = &*self.link.borrow() {
            info!("publishing to {server} again, which was not possible since {since}");
        }
        self.service.fleet_status(&format!("publishing what is new to {server}"));
        self.status.send_replace(HubStatus::Connected);
        self.link.send_replace(HubLink::Up(registration));
    }

    /// What was to be published when the database could be used again is.
    pub fn note_caught_up(&self, registration: &Registration) {
        if !self.has_caught_up.replace(true) {
            self.service.fleet_status(&format!("publishing to {}", registration.server()));
        }
    }

    /// The database cannot be used now. It is reported once until it can be used again.
    pub fn note_away(&self, error: &HubError) {
        let former = match &*self.link.borrow() {
            HubLink::Away { since, .. } => Some(*since),
            HubLink::Connecting | HubLink::Up(_) => None,
        };
        let (why, since) = (chain(error), former.unwrap_or_else(Time::now));
        let hint = self.hint(error);
        if former.is_none() {
            let later = "tasks are published later; runs under a key need the fleet to start";
            warn!(hint = hint.as_deref().unwrap_or(later), "the fleet's database cannot be used: {why}");
        }
        self.service.fleet_status(&match error {
            HubError::Fleet(e) if e.is_away() => {
                format!("PostgreSQL at {} not reachable since {since}", self.url)
            }
            _ => why.clone(),
        });
        self.status.send_replace(HubStatus::Away { since, why: why.clone(), hint });
        self.link.send_replace(HubLink::Away { why, since });
    }

    /// What the user can do so that the database can be used.
    fn hint(&self, error: &HubError) -> Option<String> {
        match error {
            HubError::Refused(_) | HubError::Fleet(FleetError::Restored { .. }) => {
                Some(format!("stop the monitor, run `{}`, and start the monitor again", self.join_anew))
            }
            error => error.hint(),
        }
    }

    /// Waits until the monitor gives the command to stop.
    pub async fn stopping(&self) -> HubCommand {
        let mut command = self.command.clone();
        let stop = command.wait_for(|command| *command != HubCommand::Run).await;
        // The monitor's end of the channel is gone: it ends.
        stop.map_or(HubCommand::Quit, |command| *command)
    }

    /// Waits until the monitor gives the command to stop at once.
    pub async fn quitting(&self) {
        let mut command = self.command.clone();
        let _ = command.wait_for(|command| *command == HubCommand::Quit).await;
    }

    /// Waits, but not longer than until the monitor gives a command to stop. `true`: it did.
    pub async fn pause(&self, pause: Duration) -> bool {
        tokio::time::timeout(pause, self.stopping()).await.is_ok()
    }
}
