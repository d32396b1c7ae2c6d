//! Where the reading commands find tasks: in the ledger, and in the fleet that it is in.
//!
//! The rows of this host come from its ledger, which is always up to date, and all others from the database
//! of the fleet.

mod figures;
mod followed;
mod fresh;
mod lookup;
mod merged;
mod task_source;

pub use task_source::TaskSource;
