//! Points at which a test can kill bookend or make its I/O fail; none without the feature `failpoints`.
//!
//! `BOOKEND_FAILPOINT=name:kill` ends the process there by SIGKILL; `name:io` makes the step fail.

use std::io;

/// # Errors
/// Where the environment asks for an I/O error.
#[cfg(feature = "failpoints")]
pub fn hit(name: &str) -> io::Result<()> {
    let Ok(wanted) = std::env::var("BOOKEND_FAILPOINT") else { return Ok(()) };
    match wanted.rsplit_once(':') {
        Some((point, "kill")) if point == name => {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            Ok(())
        }
        Some((point, "io")) if point == name => Err(io::Error::from_raw_os_error(libc::EIO)),
        _ => Ok(()),
    }
}

/// Nothing ever fails here.
///
/// # Errors
/// None.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn hit(_: &str) -> io::Result<()> {
    Ok(())
}
