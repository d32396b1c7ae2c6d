//! What is left to go by where others may write to the ledger: what the kernel shows of processes.

use std::io;

use crate::ledger::{Distrust, Ledger};
use crate::process::locks::{self, Locked};
use crate::process::marked;
use crate::view;

/// What the owner of a ledger does so that its rows are trusted.
pub fn remedy(distrust: &Distrust) -> String {
    match distrust.fix {
        Some(command) => format!("{command} {}", view::quoted(&distrust.path.to_string_lossy())),
        None => "check who has written to it".to_owned(),
    }
}

/// Whether the process `pid` is seen to supervise the task `id`: it holds a lock on the ledger's `live` file,
/// and a process of this user with the task's mark descends from it. The row is not asked.
///
/// # Errors
/// When `/proc` or the `live` file cannot be read.
pub fn supervises(ledger: &Ledger, pid: i32, id: &str) -> io::Result<bool> {
    let holds = live_bytes(ledger).is_some_and(|locked| locks::holds(pid, &locked) == Some(true));
    Ok(holds && marked::descends_from(pid, id, ledger.path())?)
}

fn live_bytes(ledger: &Ledger) -> Option<Locked> {
    let (dev, ino, bytes) = ledger.live_bytes().ok()??;
    Some(Locked { dev, ino, bytes })
}
