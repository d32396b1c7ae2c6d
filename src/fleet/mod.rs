//! The client of a fleet's database: a PostgreSQL database with the tasks and the keys of many hosts.

#[cfg(feature = "fleet")]
mod answer;
#[cfg(feature = "fleet")]
mod argument;
mod changes;
#[cfg(feature = "fleet")]
mod connection;
#[cfg(feature = "fleet")]
mod error;
mod membership;
#[cfg(feature = "fleet")]
mod migrate;
#[cfg(not(feature = "fleet"))]
mod no_reader;
#[cfg(feature = "fleet")]
mod node;
#[cfg(not(feature = "fleet"))]
mod other_program;
#[cfg(feature = "fleet")]
mod password;
#[cfg(feature = "fleet")]
mod private_files;
#[cfg(feature = "fleet")]
mod queries;
#[cfg(feature = "fleet")]
mod reader;
#[cfg(feature = "fleet")]
mod roles;
#[cfg_attr(not(feature = "fleet"), allow(dead_code, reason = "only the reader fills these"))]
mod rows;
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

pub use self::changes::FleetChanges;
pub use self::membership::FleetMembership;
#[cfg(feature = "fleet")]
pub use self::reader::FleetReader;
pub use self::rows::{DoubleClaim, FleetAudit, FleetHistory, FleetPlace, OrderAnswer};
#[cfg(feature = "fleet")]
pub use self::{
    argument::CallArgument,
    connection::{ConnectOptions, FleetConnection, block_on},
    error::FleetError,
    node::{FleetNode, NodeState},
    roles::host_role,
    schema::SCHEMA_VERSION,
    url::{DatabaseUrl, UrlError},
};
#[cfg(not(feature = "fleet"))]
pub use self::{no_reader::AbsentReader as FleetReader, other_program::continue_there};
