//! Carries out cancel orders: asks the supervisor of a task of this ledger to end it.

use serde_json::Value;
use tracing::{debug, info};

use super::error::HubError;
use super::node::HubNode;
use super::registration::{CancelOrder, Registration};
use crate::error::chain;
use crate::failpoint;
use crate::ledger::{Ledger, LedgerError, LiveEvidence, TaskLookup};
use crate::recovery;
use crate::stop;
use crate::task::{Status, Task, TaskId};

const DONE: &str = "SELECT bookend.order_done($1, $2, $3, $4)";

/// Carries out the open orders of this node. One that is repeated, since the answer was lost, is only
/// answered again.
pub async fn carry_out(
    node: &HubNode,
    registration: &Registration,
    orders: &[CancelOrder],
) -> Result<(), HubError> {
    node.order_results.borrow_mut().retain(|id, _| orders.iter().any(|order| order.id == *id));
    for order in orders {
        let former = node.order_results.borrow().get(&order.id).cloned();
        let result = match former {
            Some(result) => result,
            None if node.claims.borrow().is_beginning(&order.task) => {
                node.has_early_order.set(true);
                continue;
            }
            None => match ask(&node.ledger.borrow(), &order.task) {
                Ok(result) => result,
                Err(e) => {
                    // The next renewal has the order again.
                    debug!("order {} is not carried out yet: {}", order.id, chain(&e));
                    continue;
                }
            },
        };
        node.order_results.borrow_mut().insert(order.id, result.clone());
        failpoint::reached("hub.ordered");
        registration.call::<Value>(DONE, [order.id.into(), result.as_str().into()]).await?;
    }
    Ok(())
}

/// Asks the supervisor of a task to end it. Returns what came of it, as `cancel` shows it.
fn ask(ledger: &Ledger, id: &TaskId) -> Result<String, LedgerError> {
    let task = match ledger.task(id.as_str())? {
        TaskLookup::One(task) if task.id == *id => task,
        _ => return Ok("no such task here".to_owned()),
    };
    if task.status != Status::Running {
        return Ok("has ended".to_owned());
    }
    Ok(match ask_to_end(ledger, &task) {
        EndRequest::Asked => {
            info!("task {id} is asked to end, as the fleet has ordered");
            "asked".to_owned()
        }
        EndRequest::HasEnded => "has ended".to_owned(),
        EndRequest::Refused(why) => format!("refused: {why}"),
    })
}

/// What came of asking the supervisor of a task to end.
pub(super) enum EndRequest {
    Asked,
    HasEnded,
    /// Why it cannot be asked.
    Refused(String),
}

/// Asks the supervisor of a running task to end.
pub(super) fn ask_to_end(ledger: &Ledger, task: &Task) -> EndRequest {
    match stop::ask_to_end(ledger, task) {
        Ok(Some(_)) => EndRequest::Asked,
        // It holds its lock, so it is alive: its pid belongs to another pid namespace.
        Ok(None) if matches!(recovery::evidence(ledger, task), Ok(LiveEvidence::Held)) => {
            EndRequest::Refused("it runs where its pid means another process (a container?)".to_owned())
        }
        Ok(None) => EndRequest::HasEnded,
        Err(e) => EndRequest::Refused(e.to_string()),
    }
}
