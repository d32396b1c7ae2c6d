//! The behaviour of the real binary. One integration binary; each file beside this one is one aspect.

mod descriptors;
mod exit;
mod harness;
mod inherit;
mod layout;
mod signals;
mod terminal;
