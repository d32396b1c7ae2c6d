//! `bookend fleet`: creates, joins, shows and prunes a fleet, the hosts that share one PostgreSQL database.

#[cfg(feature = "fleet")]
mod database;
#[cfg(feature = "fleet")]
mod declare_lost;
#[cfg(feature = "fleet")]
mod init;
#[cfg(feature = "fleet")]
mod join;
#[cfg(feature = "fleet")]
mod leave;
mod options;
#[cfg(feature = "fleet")]
mod points;
#[cfg(feature = "fleet")]
mod prune;
#[cfg(feature = "fleet")]
mod status;

use std::path::Path;

pub use options::{
    DeclareLostOptions, FleetAction, FleetInitOptions, FleetJoinOptions, FleetPruneOptions,
    FleetStatusOptions,
};

use crate::error::Error;
use crate::ledger::Location;
use crate::view::Point;
#[cfg(not(feature = "fleet"))]
use crate::{fleet::continue_there, ledger::Ledger, view::Health};

/// The text for stdout.
///
/// # Errors
/// When the database or the ledger cannot be used, or what is asked for is refused.
#[cfg(feature = "fleet")]
pub fn fleet(action: &FleetAction, ledger: Option<&Path>) -> Result<String, Error> {
    match action {
        FleetAction::Init(options) => init::init(options),
        FleetAction::Join(options) => join::join(options, ledger),
        FleetAction::Leave { force } => leave::leave(*force, ledger),
        FleetAction::Status(options) => status::status(options, ledger),
        FleetAction::Prune(options) => prune::prune(options, ledger),
        FleetAction::DeclareLost(options) => declare_lost::declare_lost(options, ledger),
    }
}

/// Continues as the program that has the client of PostgreSQL.
///
/// # Errors
/// When that is impossible.
#[cfg(not(feature = "fleet"))]
pub fn fleet(_: &FleetAction, _: Option<&Path>) -> Result<String, Error> {
    Err(continue_there())
}

/// What `doctor` says about the fleet that a ledger is in.
#[cfg(feature = "fleet")]
pub fn points(at: &Location) -> Vec<Point> {
    points::of(at)
}

#[cfg(not(feature = "fleet"))]
pub fn points(at: &Location) -> Vec<Point> {
    let point = || {
        let text = continue_there().in_line();
        Point { name: "fleet".to_owned(), health: Health::Bad, text }
    };
    is_in_fleet(at).then(point).into_iter().collect()
}

#[cfg(not(feature = "fleet"))]
pub fn is_in_fleet(at: &Location) -> bool {
    Ledger::open_read_only(at).is_ok_and(|ledger| ledger.is_some_and(|ledger| ledger.fleet().is_some()))
}
