//! The ledger: one SQLite file that says what ran, how it ended, and which conversation may go on.
//!
//! Nothing above this module sees SQL or a type of the database: it speaks of tasks, sessions, claims and
//! endings.

mod adopt;
mod artifacts;
mod audit;
mod backup;
mod busy;
mod claim;
mod columns;
mod connect;
mod copy;
mod create;
mod diagnosis;
mod dialect;
mod directories;
mod ending;
mod error;
mod file_check;
mod files;
mod followups;
mod handle;
mod limits;
mod listing;
mod live;
mod location;
mod merge;
mod merged;
mod open;
mod other_name;
mod prune;
mod row;
mod schema;
mod sessions;
mod spool;
mod statement;
mod stats;
mod tasks;
#[cfg(test)]
pub mod tests;
mod trust;
mod wal;

pub use adopt::{Adopted, Adoption, Journal, adopt};
pub use claim::Claim;
pub use connect::SQLITE;
pub use ending::Finished;
pub use error::{LedgerError, Result};
pub use followups::Withdrawn;
pub use handle::Ledger;
pub use listing::Filter;
pub use live::{Aftermath, AftermathLock, LiveEvidence, LiveLock, Taken};
pub use location::{ChosenBy, Location, locate};
pub use merge::records_in_spool;
pub use merged::{MergeOutcome, Merged};
pub use prune::{Due, Pruned};
pub use sessions::{LastUse, Restored};
pub use spool::SpoolSlot;
#[cfg(any(test, fuzzing))]
pub use spool::fuzz;
pub use stats::GroupBy;
pub use tasks::{Delivery, Found, Seen};
pub use trust::{ALLOW_SHARED_DIR, Distrust, distrust};
