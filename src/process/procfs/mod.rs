//! What `/proc` says about processes: their identity, a snapshot of all, and the marks of tasks.

pub mod dying;
pub mod identity;
pub mod locks;
pub mod mark;
pub mod snapshot;
