//! The hub: the thread of the monitor that holds the connections to the fleet's database.
//!
//! [`Hub`] is the monitor's handle. In the thread a tokio runtime runs a few tasks that share one `HubNode`:
//! the ledger, and the state of the connection. None of them borrows the ledger across an await. The monitor
//! itself never waits for the hub, except when it stops.

mod bound_socket;
mod claim_calls;
mod claims;
mod command;
mod error;
mod facts;
mod keys;
mod lease;
mod local_keys;
mod node;
mod notices;
mod orders;
mod pending;
mod publication;
mod reconcile;
mod registration;
mod repeats;
mod rows;
mod rows_watch;
mod server;
mod thread;

pub use command::HubCommand;
pub use lease::DRAIN;
pub use thread::Hub;
