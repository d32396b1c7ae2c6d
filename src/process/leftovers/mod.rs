//! Finds the leftover processes of a task, and ends them.
//!
//! A leftover is recognised in three ways. It is below the supervisor, which is the subreaper of all that its
//! agent ever forked. Or it carries the task's mark in its environment, which also finds what outlives the
//! supervisor. Or it is in the task's own cgroup, where bookend could create one. If the agent is recorded,
//! its identity proves it too.

mod children;
mod classify;
mod error;
mod first_signal;
mod known_owners;
mod leftover;
mod policy;
mod repeated;
mod scan;
mod shared_scan;
mod signalled;
mod summary;
mod sweep;
mod swept_task;
mod tree;

pub use children::children;
pub use classify::SparedReason;
pub use leftover::DYING;
pub use policy::LeftoversPolicy;
pub use shared_scan::SharedScan;
pub use summary::LeftoverSummary;
#[cfg(test)]
pub use summary::SparedProcess;
pub use sweep::{LeftoverSweep, SweepStep, wait};
pub use swept_task::{SupervisorLookup, SweepOwner, SweptTask};
pub use tree::{ProcessTree, TreeSignal};

pub use crate::process::procfs::mark::LedgerFile;

#[cfg(test)]
mod tests;
