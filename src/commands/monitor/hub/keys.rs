//! Serves the runs of the ledger that ask for keys: makes the calls that
//! [`FleetClaims`](super::claims::FleetClaims) decides.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, warn};

use super::bound_socket::BoundSocket;
use super::claim_calls::{CallSubject, ClaimAnswer, ClaimCall, FailedCall};
use super::claims::DatabaseLink;
use super::error::HubError;
use super::node::{HubLink, HubNode};
use super::registration::Registration;
use super::server::{RunEvent, RunNumber, SocketServer};
use crate::error::chain;
use crate::failpoint;
use crate::ledger::LedgerError;

/// The time between two looks at all claims: an answer may have been lost with its connection.
const LOOK: Duration = Duration::from_secs(30);

/// What came of a call that was made through a registration, and what that was.
type Outcome = (Rc<Registration>, CallSubject, Result<ClaimAnswer, FailedCall>);

/// Serves until the hub ends.
///
/// # Errors
/// When the socket cannot be watched.
pub(super) async fn serve(node: &Rc<HubNode>, socket: &BoundSocket) -> Result<(), HubError> {
    let (events, mut asked) = unbounded_channel();
    let (outcomes, mut answered) = unbounded_channel::<Outcome>();
    let _server =
        SocketServer::start(&node.private_dir, socket, &node.membership, node.status.subscribe(), events)?;
    let mut link = node.link.subscribe();
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let next_repeat = node.claims.borrow().next_repeat();
        let done = tokio::select! {
            Some(event) = asked.recv() => run_event(node, event),
            Some(outcome) = answered.recv() => conclude(node, outcome),
            () = until(next_repeat) => {
                node.claims.borrow_mut().repeat(Instant::now());
                Ok(())
            }
            _ = link.changed() => {
                let state = state_of(&link.borrow_and_update());
                node.claims.borrow_mut().linked(state);
                Ok(())
            }
            _ = look.tick() => {
                node.claims.borrow_mut().look();
                Ok(())
            }
            () = node.claims_changed.notified() => Ok(()),
        };
        if let Err(e) = done {
            // The next look decides again.
            debug!("{}", chain(&e));
        }
        begin_calls(node, &outcomes);
    }
}

/// Waits until then. `None`: for ever.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

fn run_event(node: &HubNode, event: RunEvent) -> Result<(), LedgerError> {
    if matches!(event, RunEvent::Ended(_)) && node.has_early_order.take() {
        node.renew_now.notify_one();
    }
    node.claims.borrow_mut().run_event(event, &*node.ledger.borrow())
}

fn state_of(link: &HubLink) -> DatabaseLink {
    match link {
        HubLink::Connecting => DatabaseLink::Starting,
        HubLink::Up(registration) => DatabaseLink::Ready { epoch: registration.epoch() },
        HubLink::Away { why, .. } => DatabaseLink::Away { why: why.clone() },
    }
}

/// Begins the calls that were decided, each before anything else is sent.
fn begin_calls(node: &Rc<HubNode>, outcomes: &UnboundedSender<Outcome>) {
    let calls = node.claims.borrow_mut().take_calls();
    let HubLink::Up(registration) = node.link.borrow().clone() else { return };
    for call in calls {
        if matches!(call, ClaimCall::Release { .. }) {
            failpoint::reached("hub.releasing");
        }
        let (registration, outcomes) = (Rc::clone(&registration), outcomes.clone());
        let subject = call.subject();
        begin(async move {
            let outcome = call.make(&registration).await;
            // The receiver is gone while the hub ends.
            let _ = outcomes.send((registration, subject, outcome));
        });
    }
}

/// Polls the future at once, which sends its request, and lets it go on in the background.
fn begin(future: impl Future<Output = ()> + 'static) {
    let mut future: Pin<Box<dyn Future<Output = ()>>> = Box::pin(future);
    if future.as_mut().poll(&mut Context::from_waker(Waker::noop())) == Poll::Pending {
        tokio::task::spawn_local(future);
    }
}

fn conclude(node: &HubNode, (registration, subject, outcome): Outcome) -> Result<(), LedgerError> {
    // What an earlier connection answered is asked again through this one.
    if !matches!(&*node.link.borrow(), HubLink::Up(now) if Rc::ptr_eq(now, &registration)) {
        return Ok(());
    }
    if outcome.is_ok() {
        node.claims.borrow_mut().succeeded(&subject);
    }
    match outcome {
        Ok(ClaimAnswer::Taken(number, request, answer)) => {
            failpoint::reached("hub.taken");
            node.claims.borrow_mut().taken(number, &request, answer, &*node.ledger.borrow())
        }
        Ok(ClaimAnswer::Listed(claims)) => node.claims.borrow_mut().listed(claims, &*node.ledger.borrow()),
        Ok(ClaimAnswer::Asserted(request, Some(holder))) => {
            warn!(
                "task {} runs under the key {}, which task {} on host {} holds in the fleet: both may run",
                request.task, request.key, holder.task, holder.host
            );
            Ok(())
        }
        Ok(ClaimAnswer::Ordered(key, order)) => {
            node.claims.borrow_mut().ordered(&key, &order);
            Ok(())
        }
        Ok(ClaimAnswer::Checked(key, order, result)) => {
            node.claims.borrow_mut().checked(&key, order, &result);
            Ok(())
        }
        Ok(ClaimAnswer::Asserted(_, None) | ClaimAnswer::Done) => Ok(()),
        Err(FailedCall { number, error }) => {
            note_failure(node, &registration, number, subject, error);
            Ok(())
        }
    }
}

/// An error of the connection or the epoch ends the registration, and everything is asked again through the
/// next one. One that the server gives and that passes is of the call alone, which is made again. Any other
/// is the run's.
fn note_failure(
    node: &HubNode,
    registration: &Registration,
    number: Option<RunNumber>,
    subject: CallSubject,
    error: HubError,
) {
    match (error, number) {
        (HubError::Fleet(e), _) if e.is_of_call() => {
            debug!("the claims of this ledger in the fleet: {}", chain(&e));
            node.claims.borrow_mut().failed(number, subject, &e);
            // The server may be shutting down.
            node.renew_now.notify_one();
        }
        (e, _) if e.is_over_epoch() || e.is_away() => registration.fail(e),
        (e, Some(number)) => node.claims.borrow_mut().refused(number, &e, e.hint()),
        (e, None) => warn!("the claims of this ledger in the fleet: {}", chain(&e)),
    }
}
