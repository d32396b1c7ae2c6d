//! A registration: this node's lease for one epoch, and the connection through which it writes.

use std::cell::RefCell;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use uuid::Uuid;

use super::error::HubError;
use super::facts::NodeFacts;
use crate::failpoint;
use crate::fleet::{CallArgument, ConnectOptions, DatabaseUrl, FleetConnection};
use crate::task::{Key, TaskId};

const VERSION: &str = "SELECT bookend.version()";
const REGISTER: &str = "SELECT bookend.register($1, $2, $3, $4)";
const RENEW: &str = "SELECT bookend.renew($1, $2, $3)";
const STOPPED: &str = "SELECT bookend.stopped($1, $2)";

/// How long connecting and one call may take.
const CONNECT: ConnectOptions =
    ConnectOptions { timeout: Duration::from_secs(10), call_timeout: Duration::from_secs(30), listen: &[] };

/// A lease of this node.
pub struct Registration {
    connection: FleetConnection,
    node: Uuid,
    epoch: i64,
    /// Only calls with the last one change anything.
    number: i64,
    instance: Uuid,
    pub settings: FleetSettings,
    /// The node had been declared lost, and other hosts may have its keys.
    pub was_lost: bool,
    /// The highest number of a change of this node that the database has.
    pub max_rev: i64,
    /// Why it is over, although its lease may still be renewed.
    failure: RefCell<Option<HubError>>,
    failed: Notify,
}

/// The settings of the fleet.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct FleetSettings {
    renew_ms: u64,
    /// Whether command lines are published, which may hold prompts.
    pub publish_argv: bool,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
enum RegisterAnswer {
    Ok { registration: i64, epoch: i64, was_lost: bool, max_rev: i64 },
    Watch { seq: i64, wait_ms: u64 },
    Refused { text: String },
}

/// An order to cancel a task of this ledger.
#[derive(Debug, Deserialize)]
pub struct CancelOrder {
    pub id: i64,
    pub task: TaskId,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
enum RenewAnswer {
    Ok {
        /// The keys for which this node waits, and that it can take now.
        free: Vec<Key>,
        /// What this node is to cancel.
        orders: Vec<CancelOrder>,
        /// The highest number of a change of this node that the database has.
        max_rev: i64,
    },
    Superseded,
    Lost,
}

impl FleetSettings {
    /// The time between two renewals of the lease.
    pub fn renewal(&self) -> Duration {
        Duration::from_millis(self.renew_ms.max(10))
    }
}

impl Registration {
    /// Connects and registers. If the file or the boot is another one than before, it first waits whether
    /// another monitor renews the lease of this node, and calls `waiting` with the time that this takes.
    pub async fn begin(
        url: &DatabaseUrl,
        node: Uuid,
        facts: &NodeFacts,
        waiting: impl Fn(Duration),
    ) -> Result<Registration, HubError> {
        let connection = FleetConnection::connect(url, CONNECT).await?;
        let settings: FleetSettings = connection.call(VERSION, &[]).await?;
        let instance = Uuid::new_v4();
        let mut seen = None;
        loop {
            let arguments = [node.into(), serde_json::json!(facts).into(), instance.into(), seen.into()];
            match connection.call(REGISTER, &arguments).await? {
                RegisterAnswer::Ok { registration, epoch, was_lost, max_rev } => {
                    failpoint::reached("hub.registered");
                    return Ok(Registration {
                        connection,
                        node,
                        epoch,
                        number: registration,
                        instance,
                        settings,
                        was_lost,
                        max_rev,
                        failure: RefCell::default(),
                        failed: Notify::new(),
                    });
                }
                RegisterAnswer::Watch { seq, wait_ms } => {
                    seen = Some(seq);
                    let wait = Duration::from_millis(wait_ms);
                    waiting(wait);
                    tokio::time::sleep(wait).await;
                }
                RegisterAnswer::Refused { text } => return Err(HubError::Refused(text)),
            }
        }
    }

    /// Calls a function whose first parameters are the node and its registration: `$1` and `$2`.
    pub async fn call<T: DeserializeOwned>(
        &self,
        sql: &'static str,
        arguments: impl IntoIterator<Item = CallArgument>,
    ) -> Result<T, HubError> {
        let own = [self.node.into(), self.number.into()];
        let arguments: Vec<CallArgument> = own.into_iter().chain(arguments).collect();
        Ok(self.connection.call(sql, &arguments).await?)
    }

    /// Reads something.
    pub async fn read<T: DeserializeOwned>(
        &self,
        sql: &'static str,
        arguments: impl IntoIterator<Item = CallArgument>,
    ) -> Result<T, HubError> {
        let arguments: Vec<CallArgument> = arguments.into_iter().collect();
        Ok(self.connection.call(sql, &arguments).await?)
    }

    /// Calls a function whose only parameter is the node.
    pub async fn call_for_node<T: DeserializeOwned>(&self, sql: &'static str) -> Result<T, HubError> {
        Ok(self.connection.call(sql, &[self.node.into()]).await?)
    }

    /// Renews the lease. Returns the keys for which this node waits, and that it can take now, and the open
    /// orders for it. A database that lacks what was acknowledged was restored: behind a pooler, the
    /// connection may have outlived that.
    pub async fn renew(&self, acknowledged: i64) -> Result<(Vec<Key>, Vec<CancelOrder>), HubError> {
        match self.call(RENEW, [self.instance.into()]).await? {
            RenewAnswer::Ok { max_rev, .. } if max_rev < acknowledged => Err(HubError::DatabaseRestored),
            RenewAnswer::Ok { free, orders, .. } => Ok((free, orders)),
            RenewAnswer::Superseded | RenewAnswer::Lost => Err(HubError::Superseded),
        }
    }

    /// Ends it after a call has failed that has to be made again: through the next one.
    pub fn fail(&self, why: HubError) {
        self.failure.replace(Some(why));
        self.failed.notify_one();
    }

    /// Waits until [`Registration::fail`] ends it.
    pub async fn failed(&self) -> HubError {
        loop {
            if let Some(why) = self.failure.take() {
                return why;
            }
            self.failed.notified().await;
        }
    }

    /// Says that the monitor stops: a node without tasks and claims is not unreachable then.
    pub async fn stop(&self) -> Result<(), HubError> {
        self.call::<serde_json::Value>(STOPPED, []).await.map(drop)
    }

    /// The epoch for which this node is registered.
    pub fn epoch(&self) -> i64 {
        self.epoch
    }

    /// The server, for messages.
    pub fn server(&self) -> &str {
        self.connection.server()
    }
}
