//! Thin, safe wrappers around the system calls that no crate wraps in the way bookend needs them.
//!
//! All `unsafe` code of the program is here and in `process/spawn/gate.rs`. `just sanitize` runs it under
//! AddressSanitizer, including what the child does between clone and exec. A SAFETY comment that says
//! "Unseen" marks what AddressSanitizer cannot check, and why: there the argument is the only proof.

mod child;
mod environ;
pub mod files;
mod link;
mod memory;
mod pidfd;
#[cfg(feature = "fleet")]
mod readiness;
mod sentinel;
mod signal;
pub mod socket;
mod stdio;
pub mod stdout;
mod user;

pub use child::{ChildChange, ResourceUsage, exit_now, forbid_core, wait_any};
pub use environ::{environment, environment_with, forget_variable, hide_arguments};
pub use files::{data_version, has_moved, memory_file};
pub use memory::{ready_heap, trim_memory};
pub use pidfd::{NO_PIDFD_SIGNALS, pidfd_signals_work, pidfd_user, send_signal, signal_child};
#[cfg(feature = "fleet")]
pub use readiness::await_readable;
pub use sentinel::{end_sentinel, signals_seen, start_sentinel};
pub use signal::{
    ReceivedSignal, SignalSet, ignore_raw, is_ignored, raise_unblocked, read_signal, set_disposition,
    set_mask, set_mask_raw, signalfd_all,
};
pub use stdio::{
    close_inherited, give_up_terminal, keep_only_stdio, occupy_closed_stdio, replace_stdio, stdio,
};
pub use user::{is_elevated, user_name};
