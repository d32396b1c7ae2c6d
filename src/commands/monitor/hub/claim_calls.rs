//! What the hub asks of the database about keys: each call is one statement.

use std::mem::{Discriminant, discriminant};

use serde::Deserialize;
use serde_json::{Value, json};

use super::error::HubError;
use super::registration::Registration;
use super::server::RunNumber;
use crate::fleet::CallArgument;
use crate::fleet::socket::{KeyHolder, KeyRequest};
use crate::task::{Key, TaskId};

const TAKE: &str = "SELECT bookend.take($1, $2, $3, $4, $5, $6)";
const REPOINT: &str = "SELECT bookend.repoint($1, $2, $3, $4)";
const RELEASE: &str = "SELECT bookend.release($1, $2, $3, $4)";
const GIVE_UP: &str = "SELECT bookend.give_up_waiting($1, $2, $3)";
const CANCEL: &str = "SELECT bookend.order_cancel($1, $2, $3)";
const ORDER_RESULT: &str =
    "SELECT coalesce((SELECT to_jsonb(result) FROM bookend.cancel_order WHERE id = $1), 'null')";
const FINDING: &str = "SELECT bookend.finding($1, $2, $3, $4, $5)";
const CLAIMS: &str = "SELECT bookend.claims($1)";

/// A call that was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ClaimCall {
    Take {
        number: RunNumber,
        request: KeyRequest,
        wait: bool,
    },
    /// Claims the key of a task that runs already.
    Assert {
        request: KeyRequest,
    },
    /// The claim is for another task of this ledger from now on.
    Repoint {
        key: Key,
        task: TaskId,
    },
    Release {
        key: Key,
        task: TaskId,
    },
    GiveUp {
        key: Key,
    },
    /// Orders that the task which holds a key on another host is cancelled.
    Cancel {
        key: Key,
    },
    /// Asks what came of the order with this number.
    CheckOrder {
        key: Key,
        order: i64,
    },
    /// Lists the claims of this ledger.
    List,
}

/// What a call does with which key, whatever run or task it is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct CallSubject {
    /// `None`: all.
    pub(super) key: Option<Key>,
    kind: Discriminant<ClaimCall>,
}

impl CallSubject {
    pub(super) fn is_give_up(&self) -> bool {
        self.key.as_ref().is_some_and(|key| ClaimCall::GiveUp { key: key.clone() }.subject() == *self)
    }
}

/// The answer to [`ClaimCall::Take`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub(super) enum TakeAnswer {
    Granted {
        /// The task that the claim names: this one, or an earlier one of this ledger.
        task: TaskId,
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
    /// The order that the task which holds the key on another host is cancelled.
    Ordered(Key, HolderCancel),
    /// What came of the order with this number.
    Checked(Key, i64, String),
    Done,
}

/// An order to cancel a task of another ledger.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct HolderCancel {
    pub(super) task: TaskId,
    pub(super) order: i64,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum CancelAnswer {
    Ordered(HolderCancel),
    /// No other ledger holds the key.
    None {},
}

/// A call that failed, for a run if it was made for one.
#[derive(Debug)]
pub(super) struct FailedCall {
    pub(super) number: Option<RunNumber>,
    pub(super) error: HubError,
}

impl ClaimCall {
    pub(super) fn subject(&self) -> CallSubject {
        let key = match self {
            ClaimCall::Take { request, .. } | ClaimCall::Assert { request } => Some(&request.key),
            ClaimCall::Repoint { key, .. }
            | ClaimCall::Release { key, .. }
            | ClaimCall::GiveUp { key }
            | ClaimCall::Cancel { key }
            | ClaimCall::CheckOrder { key, .. } => Some(key),
            ClaimCall::List => None,
        };
        CallSubject { key: key.cloned(), kind: discriminant(self) }
    }

    /// Makes the call. It is sent when the future is polled for the first time.
    pub(super) async fn make(self, registration: &Registration) -> Result<ClaimAnswer, FailedCall> {
        let number = match &self {
            ClaimCall::Take { number, .. } => Some(*number),
            _ => None,
        };
        self.made(registration).await.map_err(|error| FailedCall { number, error })
    }

    async fn made(self, registration: &Registration) -> Result<ClaimAnswer, HubError> {
        let done = |_: Value| ClaimAnswer::Done;
        match self {
            ClaimCall::Take { number, request, wait } => {
                let answer = take(registration, &request, wait).await?;
                Ok(ClaimAnswer::Taken(number, request, answer))
            }
            ClaimCall::Assert { request } => {
                let holder = match take(registration, &request, false).await? {
                    TakeAnswer::Granted { .. } => None,
                    TakeAnswer::Held(holder) => Some(holder),
                };
                if let Some(holder) = &holder {
                    record_double_claim(registration, &request, holder).await?;
                }
                Ok(ClaimAnswer::Asserted(request, holder))
            }
            ClaimCall::Repoint { key, task } => {
                repoint(registration, &ClaimedKey { key, task }).await.map(|()| ClaimAnswer::Done)
            }
            ClaimCall::Release { key, task } => {
                registration.call(RELEASE, [key.as_str().into(), task.as_str().into()]).await.map(done)
            }
            ClaimCall::GiveUp { key } => registration.call(GIVE_UP, [key.as_str().into()]).await.map(done),
            ClaimCall::Cancel { key } => Ok(match registration.call(CANCEL, [key.as_str().into()]).await? {
                CancelAnswer::Ordered(order) => ClaimAnswer::Ordered(key, order),
                CancelAnswer::None {} => ClaimAnswer::Done,
            }),
            ClaimCall::CheckOrder { key, order } => {
                let result: Option<String> = registration.read(ORDER_RESULT, [order.into()]).await?;
                Ok(result.map_or(ClaimAnswer::Done, |result| ClaimAnswer::Checked(key, order, result)))
            }
            ClaimCall::List => claims(registration).await.map(ClaimAnswer::Listed),
        }
    }
}

/// The claims of this ledger.
pub(super) async fn claims(registration: &Registration) -> Result<Vec<ClaimedKey>, HubError> {
    registration.call_for_node(CLAIMS).await
}

/// Lets a claim be for this task from now on.
pub(super) async fn repoint(registration: &Registration, claim: &ClaimedKey) -> Result<(), HubError> {
    let arguments = [claim.key.as_str().into(), claim.task.as_str().into()];
    registration.call::<Value>(REPOINT, arguments).await.map(drop)
}

async fn take(registration: &Registration, request: &KeyRequest, wait: bool) -> Result<TakeAnswer, HubError> {
    let KeyRequest { key, task, slot, .. } = request;
    let arguments: [CallArgument; 4] =
        [key.as_str().into(), task.as_str().into(), (*slot).into(), wait.into()];
    registration.call(TAKE, arguments).await
}

async fn record_double_claim(
    registration: &Registration,
    request: &KeyRequest,
    holder: &KeyHolder,
) -> Result<(), HubError> {
    let detail = json!({"key": request.key, "other_task": holder.task, "other_host": holder.host});
    let arguments: [CallArgument; 3] = ["double_claim".into(), request.task.as_str().into(), detail.into()];
    registration.call::<Value>(FINDING, arguments).await.map(drop)
}
