//! The modules under fuzz, and what must hold of them, as a library for the targets.
#![allow(dead_code, unused_imports, reason = "the targets call a part of these modules only")]

#[path = "properties/mod.rs"]
pub mod fuzz;
#[path = "../../src"]
mod src {
    pub mod agent;
    pub mod error;
    pub mod failpoint;
    #[path = "process/identity.rs"]
    pub mod identity;
    pub mod ledger;
    pub mod regular;
    pub mod session;
    pub mod task;
}

pub use src::{agent, error, failpoint, ledger, regular, session, task};

pub mod process {
    //! Of the processes only what is parsed.
    pub use crate::src::identity;
}
