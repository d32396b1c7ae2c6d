//! What the hub asks of the database about keys: each call is one statement.

use serde::Deserialize;

use super::server::RunNumber;
use crate::fleet::socket::{KeyHolder, KeyRequest};
use crate::fleet::{CallArgument, FleetConnection, FleetError};
use crate::task::{Key, TaskId};

/// A call that was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ClaimCall {
    Take { number: RunNumber, request: KeyRequest, wait: bool },
    /// Claims the key of a task that runs already.
    Assert { request: KeyRequest },
    /// The claim is for another task of this ledger from now on.
    Repoint { key: Key, task: TaskId },
    Release { key: Key, task: TaskId },
    GiveUp { key: Key },
    /// Orders that the task which holds a key on another host is cancelled.
    Cancel { key: Key },
    /// Lists the claims of this ledger.
    List,
}

/// The answer to [`ClaimCall::Take`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub(super) enum TakeAnswer {
    Granted {
        elsewhere: Option<String>,
        session_lost: bool,
    },
    Held(KeyHolder),
}

/// A claim of this ledger.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct ClaimedKey {
    pub(super) key: Key,
    pub(super) task: TaskId,
}

/// What came of a call.
#[derive(Debug)]
pub(super) enum ClaimAnswer {
    Taken(RunNumber, KeyRequest, TakeAnswer),
    Listed(Vec<ClaimedKey>),
    /// The claim on the key of a running task was taken, or its holder on another host.
    Asserted(KeyRequest, Option<KeyHolder>),
    Done,
}

/// A call that failed, for a run if it was made for one.
#[derive(Debug)]
pub(super) struct FailedCall {
    pub(super) number: Option<RunNumber>,
    pub(super) error: FleetError,
}

/// A node in one epoch, on whose behalf calls are made.
#[derive(Debug, Clone, Copy)]
pub(super) struct RegisteredNode {
    pub(super) id: uuid::Uuid,
    pub(super) epoch: i64,
}

impl ClaimCall {
    /// Makes the call. It is sent when the future is polled for the first time.
    pub(super) async fn make(
        self,
        connection: &FleetConnection,
        node: RegisteredNode,
    ) -> Result<ClaimAnswer, FailedCall> {
        let number = match &self {
            ClaimCall::Take { number, .. } => Some(*number),
            _ => None,
        };
        self.made(connection, node).await.map_err(|error| FailedCall { number, error })
    }

    async fn made(self, connection: &FleetConnection, node: RegisteredNode) -> Result<ClaimAnswer, FleetError> {
        let of_key = |key: &Key| [node.id.into(), node.epoch.into(), key.as_str().into()];
        let of_task = |key: &Key, task: &TaskId| {
            [node.id.into(), node.epoch.into(), key.as_str().into(), task.as_str().into()]
        };
        let done = |_: serde_json::Value| ClaimAnswer::Done;
        match self {
            ClaimCall::Take { number, request, wait } => {
                let answer = take(connection, node, &request, wait).await?;
                Ok(ClaimAnswer::Taken(number, request, answer))
            }
            ClaimCall::Assert { request } => {
                let holder = match take(connection, node, &request, false).await? {
                    TakeAnswer::Granted { .. } => None,
                    TakeAnswer::Held(holder) => Some(holder),
                };
                if let Some(holder) = &holder {
                    record_double_claim(connection, node, &request, holder).await?;
                }
                Ok(ClaimAnswer::Asserted(request, holder))
            }
            ClaimCall::Repoint { key, task } => {
                let sql = "SELECT bookend.repoint($1, $2, $3, $4)";
                connection.call(sql, &of_task(&key, &task)).await.map(done)
            }
            ClaimCall::Release { key, task } => {
                let sql = "SELECT bookend.release($1, $2, $3, $4)";
                connection.call(sql, &of_task(&key, &task)).await.map(done)
            }
            ClaimCall::GiveUp { key } => {
                connection.call("SELECT bookend.give_up_waiting($1, $2, $3)", &of_key(&key)).await.map(done)
            }
            ClaimCall::Cancel { key } => {
                connection.call("SELECT bookend.order_cancel($1, $2, $3)", &of_key(&key)).await.map(done)
            }
            ClaimCall::List => {
                connection.call("SELECT bookend.claims($1)", &[node.id.into()]).await.map(ClaimAnswer::Listed)
            }
        }
    }
}

async fn take(
    connection: &FleetConnection,
    node: RegisteredNode,
    request: &KeyRequest,
    wait: bool,
) -> Result<TakeAnswer, FleetError> {
    let arguments: [CallArgument; 6] = [
        node.id.into(),
        node.epoch.into(),
        request.key.as_str().into(),
        request.task.as_str().into(),
        request.slot.into(),
        wait.into(),
    ];
    connection.call("SELECT bookend.take($1, $2, $3, $4, $5, $6)", &arguments).await
}

async fn record_double_claim(
    connection: &FleetConnection,
    node: RegisteredNode,
    request: &KeyRequest,
    holder: &KeyHolder,
) -> Result<(), FleetError> {
    let detail = serde_json::json!({"key": request.key, "other_task": holder.task, "other_host": holder.host});
    let arguments: [CallArgument; 5] = [
        node.id.into(),
        node.epoch.into(),
        "double_claim".into(),
        request.task.as_str().into(),
        detail.into(),
    ];
    let sql = "SELECT bookend.finding($1, $2, $3, $4, $5)";
    connection.call::<serde_json::Value>(sql, &arguments).await.map(drop)
}
