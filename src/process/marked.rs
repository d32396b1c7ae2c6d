//! Which tasks have processes at all: one look at every environment, by the mark alone.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use super::mark::{LedgerFile, Mark, Whose};
use super::table::{Proc, Table};

/// The ids of the tasks of the ledger at `path` of which processes of this user live. Where it cannot be told
/// which ledger a process means, its task counts too.
///
/// # Errors
/// `/proc` is not mounted, or is another pid namespace's.
pub fn tasks(path: &Path) -> io::Result<BTreeSet<String>> {
    let user = rustix::process::geteuid().as_raw();
    let ledger = LedgerFile::at(path);
    let mut proc = Proc::open()?;
    let mut table = Table::default();
    proc.read(&mut table)?;
    let living = table.rows().iter().filter(|s| !s.is_dead() && !s.is_kernel_thread());
    Ok(living.filter_map(|s| proc.marked_id(s.pid, user, &ledger)).collect())
}

/// Whether a process of this user that carries the mark of the task `id` of the ledger at `path` descends
/// from the process `ancestor`.
///
/// # Errors
/// As [`tasks`].
pub fn descends_from(ancestor: i32, id: &str, path: &Path) -> io::Result<bool> {
    let user = rustix::process::geteuid().as_raw();
    let whose = Whose::new(id, path);
    let mut proc = Proc::open()?;
    let mut table = Table::default();
    proc.read(&mut table)?;
    let rows = table.rows();
    let below = (0..rows.len()).filter(|i| table.above(*i).any(|above| rows[above].pid == ancestor));
    let mut marks = below.map(|i| proc.mark(rows[i].pid, &whose, |owner| owner == user));
    Ok(marks.any(|found| found == (Mark::Carried, Some(user))))
}
