//! Continues this process as the other build of bookend, which has the client of PostgreSQL.

use std::env;
use std::ffi::{CString, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::execve;

use crate::error::Error;

const NAME: &str = "bookend-fleet";
/// Where it is, from the directory of this program: where a build leaves it, and where the package has it.
const PLACES: [&str; 2] = [NAME, "../libexec/bookend/bookend-fleet"];

/// Executes the other program in the place of this one, with the arguments and the environment with which
/// this process was started. Returns why that is impossible.
pub fn continue_there() -> Error {
    let lacks = "this bookend was built without the feature `fleet`";
    match execute() {
        Ok(()) => Error::failed(format!("{lacks}, and the program {NAME}, which has it, is not installed"))
            .hint("install the Debian package, or build all of it: `cargo install --path . --locked`"),
        Err(e) => Error::failed(format!("{lacks}: executing {NAME}, which has it")).caused_by(e),
    }
}

/// Returns if there is no such program.
fn execute() -> io::Result<()> {
    let own = env::current_exe()?;
    // A program of that name without the client would execute itself without end.
    if own.file_name().is_some_and(|name| name == NAME) {
        return Ok(());
    }
    let directory = own.parent().unwrap_or(Path::new("/"));
    let args: Vec<CString> = env::args_os().filter_map(c_string).collect();
    // As it was at the start: a monitor has removed the variables of systemd from its own.
    let environment = fs::read("/proc/self/environ")?;
    let entries = environment.split(|byte| *byte == 0).filter(|entry| !entry.is_empty());
    let entries: Vec<CString> = entries.filter_map(|entry| CString::new(entry).ok()).collect();
    for place in PLACES {
        let Some(file) = c_string(directory.join(place).into_os_string()) else { continue };
        match execve(&file, &args, &entries) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

fn c_string(text: OsString) -> Option<CString> {
    CString::new(text.into_vec()).ok()
}
