//! The fleet: many hosts whose tasks and keys meet in one PostgreSQL database. The client of that database.

#[cfg(feature = "fleet")]
mod answer;
#[cfg(feature = "fleet")]
mod argument;
#[cfg(feature = "fleet")]
mod connection;
mod database_ledger;
#[cfg(feature = "fleet")]
mod error;
#[cfg(feature = "fleet")]
mod membership;
#[cfg(feature = "fleet")]
mod migrate;
#[cfg(feature = "fleet")]
mod node;
#[cfg(feature = "fleet")]
mod password;
#[cfg(feature = "fleet")]
mod private_files;
#[cfg(feature = "fleet")]
mod roles;
#[cfg(feature = "fleet")]
mod schema;
#[cfg(feature = "fleet")]
mod service;
pub mod socket;
#[cfg(feature = "fleet")]
mod target;
#[cfg(feature = "fleet")]
mod tls;
#[cfg(feature = "fleet")]
mod url;

#[cfg(feature = "fleet")]
#[allow(unused_imports, reason = "for the orders and the keys of the fleet, which are being built")]
pub use self::connection::{FleetNotification, FleetNotifications};
pub use self::database_ledger::is_database_url;
#[cfg(feature = "fleet")]
pub use self::{
    argument::CallArgument,
    connection::{ConnectOptions, FleetConnection, block_on},
    error::FleetError,
    membership::FleetMembership,
    node::{FleetNode, NodeState},
    roles::host_role,
    schema::SCHEMA_VERSION,
    url::{DatabaseUrl, UrlError},
};
