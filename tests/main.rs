//! The behaviour of the real binary. One integration binary; each file beside this one is one aspect.

mod descriptors;
mod docs;
mod exit;
mod harness;
mod inherit;
mod layout;
mod leftovers;
mod limits;
mod look;
mod orphans;
mod signals;
mod start;
mod terminal;
