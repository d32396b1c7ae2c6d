//! The behaviour of the real binary. One integration binary; each file beside this one is one aspect.

mod adopt;
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
mod recover;
mod signals;
mod standins;
mod terminal;
