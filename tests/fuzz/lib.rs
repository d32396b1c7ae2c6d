//! The modules under fuzz, and what must hold of them, as a library for the targets.
#![allow(dead_code, unused_imports, reason = "the targets call a part of these modules only")]

#[path = "properties/mod.rs"]
pub mod fuzz;
#[path = "../../src"]
mod src {
    pub mod agent;
    pub mod clock;
    pub mod error;
    pub mod failpoint;
    #[path = "process/identity.rs"]
    pub mod identity;
    pub mod ledger;
    pub mod log;
    pub mod regular;
    pub mod session;
    pub mod sys;
    pub mod task;
}

pub use src::{agent, clock, error, failpoint, ledger, log, regular, session, sys, task};

pub mod process {
    //! Of the processes only what is parsed.
    pub use crate::src::identity;
}
