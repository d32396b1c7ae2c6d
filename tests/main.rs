//! The behaviour of the real binary. One integration binary; each file beside this one is one aspect.

mod adopt;
mod audit;
mod cancel;
mod descriptors;
mod docs;
mod exit;
mod harness;
mod inherit;
mod layout;
mod leftovers;
mod limits;
mod look;
mod operator;
mod orphans;
mod prune;
mod scale;
mod signals;
mod terminal;
