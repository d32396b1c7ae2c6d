//! The lease: registers the node, renews it, and does so again after each outage.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::timeout;
use tracing::warn;

use super::command::HubCommand;
use super::error::HubError;
use super::facts::NodeFacts;
use super::node::HubNode;
use super::publication::Publication;
use super::registration::Registration;
use super::{notices, orders};
use crate::failpoint;
use crate::fleet::FleetError;

/// The first pause before PostgreSQL is tried again; each is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How long a monitor that stops goes on publishing.
pub const DRAIN: Duration = Duration::from_secs(10);
/// The first pause of a node that has to register again: another monitor may do so too.
const AGAIN: Duration = Duration::from_millis(100);

/// Keeps the node registered until the monitor stops the hub.
///
/// # Errors
/// When the ledger is to be opened again.
pub async fn keep(node: &Rc<HubNode>) -> Result<(), HubError> {
    let mut pause = FIRST_PAUSE;
    loop {
        let ended = tokio::select! {
            biased;
            () = node.quitting() => return Ok(()),
            ended = hold(node) => ended,
        };
        if node.has_caught_up.take() {
            pause = FIRST_PAUSE;
        }
        match ended {
            Ok(()) => return Ok(()),
            Err(e) if e.is_of_ledger() => return Err(e),
            Err(e) if e.is_over_epoch() => {
                node.was_superseded.set(!matches!(e, HubError::DatabaseRestored));
                node.note_connecting();
                if node.pause(AGAIN).await {
                    return Ok(());
                }
                continue;
            }
            Err(e) => node.note_away(&e),
        }
        if node.pause(pause.mul_f64(0.75 + rand_fraction() / 2.0)).await {
            return Ok(());
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Registers and holds the lease until an error, or until all is published after the command to drain.
async fn hold(node: &Rc<HubNode>) -> Result<(), HubError> {
    if !node.is_member()? {
        return Ok(());
    }
    let was_superseded = node.was_superseded.get();
    let facts = NodeFacts::of(&node.ledger.borrow(), node.membership.ledger, was_superseded)?;
    let begin = Registration::begin(&node.url, node.membership.node, &facts, |wait| note_waiting(node, wait));
    let begun = tokio::select! {
        _ = node.stopping() => return Ok(()),
        begun = begin => begun?,
    };
    node.was_superseded.set(false);
    let registration = Rc::new(begun);
    let mut publication = Publication::of(node, &registration);
    let stop = tokio::select! {
        e = renew(node, &registration) => return Err(e),
        why = registration.failed() => return Err(why),
        never = notices::follow(node) => match never {},
        e = publication.run() => return Err(e),
        stop = node.stopping() => stop,
    };
    if stop == HubCommand::Drain {
        failpoint::reached("hub.draining");
        let drained = timeout(DRAIN, async {
            publication.publish_all().await?;
            publication.note_all().await?;
            registration.stop().await
        });
        match drained.await {
            Ok(done) => done?,
            Err(_) => warn!("not all tasks were published within {DRAIN:?}; the next monitor goes on"),
        }
    }
    Ok(())
}

/// The status explains why runs under a key get no answer meanwhile.
fn note_waiting(node: &HubNode, wait: Duration) {
    let seconds = wait.as_secs_f64().ceil();
    let status = format!("waiting {seconds} s whether another machine renews the lease of this node");
    node.service.fleet_status(&status);
}

/// Renews the lease at its interval.
async fn renew(node: &HubNode, registration: &Registration) -> HubError {
    let interval = registration.settings.renewal();
    loop {
        // Later the node would count as unreachable.
        let within = interval * 3;
        let silent = || FleetError::Silent { server: registration.server().to_owned(), within };
        let renewed = async {
            let acknowledged = node.ledger.borrow().acknowledged()?;
            let (free, orders) = registration.renew(acknowledged).await?;
            orders::carry_out(node, registration, &orders).await?;
            Ok(free)
        };
        match timeout(within, renewed).await {
            Ok(Ok(free)) if free.is_empty() => {}
            Ok(Ok(free)) => {
                node.claims.borrow_mut().free(&free);
                node.claims_changed.notify_one();
            }
            Ok(Err(e)) => return e,
            Err(_) => return silent().into(),
        }
        // Whether it was asked for or the interval has passed: it is time.
        let _ = timeout(interval, node.renew_now.notified()).await;
    }
}

/// A random number from 0 to 1: hosts that lost the same server do not return at the same moment.
fn rand_fraction() -> f64 {
    f64::from(uuid::Uuid::new_v4().as_fields().0) / f64::from(u32::MAX)
}
