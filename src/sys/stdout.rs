//! Writing the output of a command to stdout.

use std::io::{ErrorKind, Write};

use crate::error::{Error, Kind};

/// Writes `text` out at once.
///
/// # Errors
/// When it cannot be written. A closed pipe has its own kind: bookend then ends by SIGPIPE, as a filter does.
pub fn print(text: &str) -> Result<(), Error> {
    print_bytes(text.as_bytes())
}

/// As [`print()`], for what may not be text.
///
/// # Errors
/// As [`print()`].
pub fn print_bytes(bytes: &[u8]) -> Result<(), Error> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|e| match e.kind() {
        ErrorKind::BrokenPipe => Error::new(Kind::ReaderGone, "the process reading stdout has exited"),
        _ => Error::failed("writing to stdout").caused_by(e),
    })
}
