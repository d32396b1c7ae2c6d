//! Recovery: whether a task that the ledger calls running is alive, and the settling of one that is not.

mod agent_state;
pub mod batch;
mod host;
pub mod liveness;
mod lost_task;
mod policy;
mod slots;
mod supervisors;
pub mod trust;
mod verdict;

pub use agent_state::{AgentState, agent_state, keeps_key};
pub use host::comparable_supervisor;
pub use lost_task::{LostTask, SettleOutcome};
pub use policy::{TTL, ends_leftovers, has_expired, release_command};
pub use slots::{sweep_slots, sweep_spool};
pub use verdict::{evidence, is_dying, judge};

#[cfg(test)]
mod tests;
