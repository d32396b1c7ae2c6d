//! After an outage: compares what runs here with what the database says.

use serde::Deserialize;
use tracing::{info, warn};

use super::claim_calls;
use super::error::HubError;
use super::node::HubNode;
use super::orders::{self, EndRequest};
use super::registration::Registration;
use crate::failpoint;
use crate::ledger::Ledger;
use crate::task::{Status, TaskFilter, TaskId};

const RUNNING: &str = "
    SELECT coalesce(jsonb_agg(id), '[]') FROM bookend.task_history WHERE node = $1 AND status = 'running'";
const RECONCILE: &str = "SELECT bookend.reconcile($1, $2, $3, $4)";

#[derive(Debug, Deserialize)]
struct ReconcileAnswer {
    rebooted: Vec<TaskId>,
    unknown: Vec<TaskId>,
    released: Vec<String>,
}

/// Ends in the database what does not run here any more, but for what is still to be published: real ends
/// win. No run can be granted a key meanwhile.
pub async fn reconcile(node: &HubNode, registration: &Registration) -> Result<(), HubError> {
    let claims = claim_calls::claims(registration).await?;
    let needed = node.claims.borrow().needed(&claims, &*node.ledger.borrow())?;
    for claim in needed.iter().filter(|claim| !claims.contains(claim)) {
        claim_calls::repoint(registration, claim).await?;
    }
    failpoint::reached("hub.reconciling");
    let mut known: Vec<TaskId> = registration.call_for_node(RUNNING).await?;
    known.extend(claims.into_iter().map(|claim| claim.task));
    let state = node.ledger.borrow().outbox_state(known)?;
    let running = state.open.into_iter().chain(needed.into_iter().map(|claim| claim.task));
    let running: Vec<String> = running.map(|id| id.to_string()).collect();
    let answer: ReconcileAnswer =
        registration.call(RECONCILE, [running.into(), state.max_rev.into()]).await?;
    for id in answer.rebooted.iter().chain(&answer.unknown) {
        info!("the fleet called task {id} running, and it does not run here: it is interrupted there");
    }
    if !answer.released.is_empty() {
        info!("no task here has the keys {}: they are free in the fleet", answer.released.join(", "));
    }
    Ok(())
}

/// Asks the supervisors of all runs under a key to end: other hosts may have their keys by now.
pub fn stop_keyed_runs(ledger: &Ledger) -> Result<(), HubError> {
    let running = ledger.tasks(&TaskFilter::of(Status::Running))?;
    for task in running.iter().filter(|task| task.key.is_some()) {
        match orders::ask_to_end(ledger, task) {
            EndRequest::Asked => warn!(
                "this host was declared lost, and its keys were released: task {} is asked to end",
                task.id
            ),
            EndRequest::HasEnded => {}
            EndRequest::Refused(why) => warn!(
                "this host was declared lost, and its keys were released: task {} cannot be asked to end, \
                 since {why}",
                task.id
            ),
        }
    }
    Ok(())
}
