//! The modules under fuzz, and what must hold of them, as a library for the targets.
#![allow(dead_code, unused_imports, reason = "the targets call a part of these modules only")]

#[path = "properties/mod.rs"]
pub mod fuzz;
#[path = "../../src"]
mod src {
    pub mod agent;
    pub mod error;
    pub mod exit;
    pub mod failpoint;
    #[path = "process/procfs/identity.rs"]
    pub mod identity;
    pub mod ledger;
    pub mod log;
    #[path = "run/session.rs"]
    pub mod session;
    pub mod sys;
    pub mod task;
}

pub use src::{agent, error, exit, failpoint, ledger, log, sys, task};

pub mod run {
    //! Of a run only the choice of its session.
    pub use crate::src::session;
}

pub mod process {
    //! Of the processes only what is parsed.
    pub mod procfs {
        pub use crate::src::identity;
    }
}
