//! What the options of a task and of a recovery permit: how long a task is believed, and what becomes of its
//! leftovers.

use std::time::Duration;

use jiff::SignedDuration;
use serde::Deserialize;

use crate::ledger::Ledger;
use crate::process::leftovers::LeftoversPolicy;
use crate::task::{ProcessIdentity, Status, Task, Time};
use crate::view;

/// How long a task that cannot be verified counts as running: the default of `recover --ttl`.
pub const TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// `bookend recover --ledger FILE --ttl 0 ID`, by which the operator declares that a task has ended.
pub fn release_command(ledger: &Ledger, task: &Task) -> String {
    view::suggestion(ledger.option(), &format!("recover --ttl 0 {}", view::operand(task.id.as_str())))
}

/// Whether the last time at which a task is known to have run is longer ago than `ttl`, by the wall clock.
pub fn has_expired(task: &Task, ttl: Duration) -> bool {
    let last = task.last_seen_at.as_ref().max(task.hinted_at.as_ref()).unwrap_or(&task.started_at);
    let Some(last) = last.time() else { return false };
    let ttl = SignedDuration::try_from(ttl).unwrap_or(SignedDuration::MAX);
    Time::now().timestamp().duration_since(last.timestamp()) > ttl
}

/// The `--leftovers` of a task.
pub(super) fn leftovers_policy(task: &Task) -> LeftoversPolicy {
    let option = task.run_options.as_ref().and_then(|o| o.get("leftovers"));
    option.and_then(|o| LeftoversPolicy::deserialize(o).ok()).unwrap_or(LeftoversPolicy::Auto)
}

/// Whether the leftovers of a task are to be ended: it has ended, and its `--leftovers` says so.
pub fn ends_leftovers(task: &Task) -> bool {
    task.status.is_terminal() && leftovers_policy(task).ends(task.status == Status::Success)
}

/// Whether this process supervises a task of this ledger.
pub(super) fn holds_live_lock(ledger: &Ledger, process: ProcessIdentity) -> bool {
    ledger.supervised_by(process).unwrap_or_default()
}
