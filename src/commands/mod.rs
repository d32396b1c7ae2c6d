//! The commands: one command, one file.

pub mod adopt;
pub mod agents;
pub mod artifact;
pub mod audit;
pub mod backup;
pub mod cancel;
pub mod candidates;
pub mod deliver;
pub mod doctor;
pub mod find;
pub mod list;
pub mod logs;
pub mod man;
#[expect(dead_code, reason = "`bookend monitor` will use it")]
pub mod monitor {
    //! `bookend monitor`: settles lost tasks as they are lost.
    pub mod service;
}
pub mod overview;
pub mod prune;
pub mod recover;
pub mod redispatch;
pub mod resume;
pub mod session;
pub mod show;
pub mod stats;
pub mod system;
pub mod timeline;
pub mod units;
mod unknown;
pub mod wait;
