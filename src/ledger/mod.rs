//! The ledger: one SQLite file that records what ran, how it ended, and which session may be resumed.
//!
//! Modules above this one use tasks, sessions, claims and endings; SQL and the types of the database stay in
//! here.

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
mod filter;
mod fleet;
mod followups;
mod handle;
mod limits;
mod listing;
mod live;
mod location;
mod membership;
mod merge;
mod merged;
mod open;
mod other_name;
mod prune;
mod published;
mod row;
mod schema;
mod sessions;
mod spending;
mod spool;
mod statement;
mod stats;
mod supervised;
mod tasks;
#[cfg(test)]
pub mod tests;
mod trust;
mod wal;
mod watch;

pub use adopt::{AdoptionOutcome, AdoptionSummary, JournalMode, adopt};
pub use claim::Claim;
pub use connect::SQLITE;
pub use ending::FinishOutcome;
pub use error::{LedgerError, Result};
#[cfg(feature = "fleet")]
pub use fleet::{DirtyTask, RunningKey, UnpublishedTask};
pub use followups::UnsafeSession;
pub use handle::Ledger;
pub use live::{FollowUp, FollowUpLock, LiveEvidence, LiveLock, MonitorLock, TakenLock};
pub use location::{ChosenBy, Location, database_url, locate};
pub use merge::records_in_spool;
#[cfg(test)]
pub use merged::MergeOutcome;
pub use merged::{MergedRecord, report_merged};
pub use prune::{PruneScope, PruneSummary};
pub use sessions::RestoreOutcome;
pub use spending::KeySpending;
#[cfg(any(test, fuzzing))]
pub use spool::fuzz;
pub use spool::{HeldSlot, SpoolSlot};
pub use tasks::{DeliveryStatus, ProgressUpdate, TaskLookup};
pub use trust::{ALLOW_SHARED_DIR, Distrust, distrust};
pub use watch::{LedgerEvent, LedgerWatch, WatchScope};
