//! Processes: starting them behind the gate, watching them, stopping them, telling them apart.

pub mod caller;
pub mod capture;
pub mod cgroup;
pub mod dying;
pub mod environment;
pub mod forward;
pub mod gate;
pub mod group;
pub mod identity;
pub mod leftovers;
pub mod locks;
pub mod mark;
pub mod oom;
mod scan;
mod sorting;
pub mod stop;
mod table;
pub mod terminal;
pub mod watch;
mod witness;
