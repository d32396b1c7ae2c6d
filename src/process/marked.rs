//! Whether a process of a task is where it is said to be.

use std::io;
use std::path::Path;

use super::mark::{LedgerFile, Mark, TaskMark};
use super::table::{Proc, Table};

/// Whether a process of this user that carries the mark of the task `id` of the ledger at `path` descends
/// from the process `ancestor`.
///
/// # Errors
/// `/proc` is not mounted, or is another pid namespace's.
pub fn descends_from(ancestor: i32, id: &str, path: &Path) -> io::Result<bool> {
    let user = rustix::process::geteuid().as_raw();
    let mark = TaskMark::new(id, LedgerFile::at(path));
    let mut proc = Proc::open()?;
    let mut table = Table::default();
    proc.read(&mut table)?;
    let rows = table.rows();
    let below = (0..rows.len()).filter(|i| table.above(*i).any(|above| rows[above].pid == ancestor));
    let mut marks = below.map(|i| proc.mark(rows[i].pid, &mark, |owner| owner == user));
    Ok(marks.any(|found| found == (Mark::Carried, Some(user))))
}
