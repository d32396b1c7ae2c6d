//! `bookend timeline`: shows when tasks ran, in the terminal or as an HTML page.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::commands::source::TaskSource;
use crate::error::Error;
use crate::exit::Exit;
use crate::sys::stdout::print;
use crate::task::{TaskFilter, Time};
use crate::view::{self, Screen};

/// The options of `bookend timeline`.
#[derive(Debug)]
pub struct TimelineOptions {
    /// What ran at that time or later: `filter.since` is always set.
    pub filter: TaskFilter,
    pub html: Option<PathBuf>,
    /// Only the tasks of this ledger.
    pub here: bool,
}

/// # Errors
/// When the ledger cannot be read, or the page not be written.
pub fn timeline(options: &TimelineOptions, ledger: Option<&Path>) -> Result<Exit, Error> {
    let source = TaskSource::open(ledger, options.here)?;
    source.require("no tasks")?;
    let mut tasks = source.in_flight_since(&options.filter)?;
    let verdicts = source.verdicts(&mut tasks)?;
    let now = Time::now();
    let now = options.filter.until.map_or(now, |until| until.min(now));
    let since = options.filter.since.unwrap_or(now);
    let lanes = view::lanes(&tasks, &verdicts, since, now);
    let runs = lanes.total.runs;
    let limited = if tasks.len() == options.filter.limit.unwrap_or(usize::MAX) {
        format!("the newest {runs} (--limit N)\n")
    } else {
        String::new()
    };
    match &options.html {
        None if runs == 0 => print(&format!("nothing ran in that period in {}\n", source.name()))?,
        None => print(&(view::timeline(&lanes, Screen::of(&io::stdout())) + &limited))?,
        Some(file) => {
            write_page(file, &view::timeline_html(&lanes, source.name()))?;
            let file = file.to_string_lossy();
            let tasks = if runs == 1 { "task" } else { "tasks" };
            print(&format!("{runs} {tasks} in {}\n{limited}", view::one_line(&file)))?;
        }
    }
    Ok(Exit::Code(0))
}

/// Writes the page under a temporary name and renames it to `file`, so that no link is followed and no reader
/// sees half a page. A new file is private; a replaced file keeps its mode.
fn write_page(file: &Path, page: &str) -> Result<(), Error> {
    let failed =
        |e: io::Error| Error::failed(format!("writing the timeline to {}", file.display())).caused_by(e);
    let mode = match fs::symlink_metadata(file) {
        Ok(meta) if meta.is_file() => meta.mode() & 0o777,
        Ok(meta) => {
            let what = if meta.is_symlink() { "a symbolic link" } else { "not a regular file" };
            let message = format!("writing the timeline to {}: it is {what}", file.display());
            return Err(Error::failed(message).hint("name a regular file, or one that does not exist"));
        }
        Err(e) if e.kind() == ErrorKind::NotFound => 0o600,
        Err(e) => return Err(failed(e)),
    };
    let directory = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut draft = tempfile::Builder::new().prefix(".bookend-").tempfile_in(directory).map_err(failed)?;
    draft.write_all(page.as_bytes()).map_err(failed)?;
    draft.as_file().set_permissions(Permissions::from_mode(mode)).map_err(failed)?;
    draft.persist(file).map_err(|e| failed(e.error))?;
    Ok(())
}
