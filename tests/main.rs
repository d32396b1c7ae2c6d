//! The behaviour of the real binary. One integration binary; each file beside this one is one aspect.

mod adapters;
mod adopt;
mod capture;
mod crash;
mod descriptors;
mod docs;
mod exit;
mod harness;
mod identities;
mod inherit;
mod keys;
mod layout;
mod ledger;
mod leftovers;
mod limits;
mod look;
mod orphans;
mod recover;
mod run;
mod sessions;
mod signals;
mod spool;
mod standins;
mod start;
mod status;
mod terminal;
