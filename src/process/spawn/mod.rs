//! Starting a process: what it inherits from the caller, its environment, and the gate before its exec.

pub mod caller;
mod child;
pub mod environment;
pub mod gate;
mod launch;
