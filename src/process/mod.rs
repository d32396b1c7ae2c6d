//! Processes: starting them behind the gate, watching them, stopping them, telling them apart.

pub mod capture;
pub mod cgroup;
pub mod escalation;
pub mod forward;
pub mod group;
pub mod leftovers;
pub mod procfs;
mod sentinel;
pub mod spawn;
pub mod terminal;
pub mod watch;
