//! The fuzzed modules of bookend and their properties, as a library for the fuzz targets.
#![allow(dead_code, unused_imports, reason = "the targets call only a part of these modules")]

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
    pub mod shell;
    pub mod sys;
    pub mod task;
}

pub use src::{agent, error, exit, failpoint, ledger, log, shell, sys, task};

pub mod run {
    //! The part of `run` that chooses the session.
    pub use crate::src::session;
}

pub mod process {
    //! The part of `process` that parses `/proc`.
    pub mod procfs {
        pub use crate::src::identity;
    }
}
