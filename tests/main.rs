//! The behaviour of the real binary. One integration binary; each file beside this one is one aspect.

mod adopt;
mod descriptors;
mod docs;
mod exit;
mod harness;
mod identities;
mod inherit;
mod layout;
mod leftovers;
mod limits;
mod look;
mod orphans;
mod recover;
mod sessions;
mod signals;
mod spool;
mod standins;
mod terminal;
