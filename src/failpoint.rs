//! Points at which a test can kill bookend or make it fail; none without the feature `failpoints`.
//!
//! `BOOKEND_FAILPOINT=name:kill` ends the process there by SIGKILL, `name:io` makes the step fail by an I/O
//! error, `name:panic` makes it panic.

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
        Some((point, "panic")) if point == name => panic!("asked for at {name}"),
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
