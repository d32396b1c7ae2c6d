//! Waiting in a tokio runtime until a descriptor is readable.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a descriptor with the runtime of the caller.
///
/// # Errors
/// When the kernel has no room for another descriptor in its set.
pub fn await_readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd names one open descriptor, always the same, until it is dropped, which `AsyncFd`
    // does only after it has left the runtime.
    let registered = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
    Ok(registered?)
}
