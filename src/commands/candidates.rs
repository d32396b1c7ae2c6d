//! Keys and ids for the completions of a shell, read from the ledger without ever delaying the shell.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::error::Error;
use crate::ledger::{self, Ledger};
use crate::task::{Task, TaskFilter};
use crate::view;

/// The time that a shell waits for the ledger, which may be locked, huge, or on a file system that hangs.
const PATIENCE: Duration = Duration::from_millis(100);
/// The newest tasks, whose ids and keys are offered.
const TASKS: usize = 500;

/// A word that a shell can complete.
pub struct Candidate {
    pub word: String,
    pub help: String,
}

/// The keys of the newest tasks.
pub fn keys(ledger: Option<&Path>) -> Vec<Candidate> {
    let mut keys = BTreeMap::new();
    for task in newest(ledger) {
        let help = help(&task);
        if let Some(key) = task.key {
            keys.entry(key.to_string()).or_insert(help);
        }
    }
    keys.into_iter().map(|(word, help)| Candidate { word, help }).collect()
}

/// The ids of the newest tasks, running ones first.
pub fn ids(ledger: Option<&Path>) -> Vec<Candidate> {
    newest(ledger).iter().map(|task| Candidate { word: task.id.to_string(), help: help(task) }).collect()
}

fn help(task: &Task) -> String {
    let key = task.key.as_ref().map(|key| format!(" {key}")).unwrap_or_default();
    view::one_line(&format!("{}{key}, {}", task.status, task.started_at)).into_owned()
}

/// The newest tasks, or none where the ledger cannot be read within [`PATIENCE`].
fn newest(ledger: Option<&Path>) -> Vec<Task> {
    let ledger: Option<PathBuf> = ledger.map(Path::to_owned);
    let (sender, tasks) = mpsc::channel();
    // The thread is not joined: the process exits while it may still wait.
    thread::spawn(move || sender.send(read(ledger.as_deref()).unwrap_or_default()));
    tasks.recv_timeout(PATIENCE).unwrap_or_default()
}

/// A ledger of another user is not read: root must not open it as root.
fn read(ledger: Option<&Path>) -> Result<Vec<Task>, Error> {
    let at = ledger::locate(ledger)?;
    let owner = std::fs::metadata(&at.file).map(|meta| meta.uid());
    if owner.ok() != Some(nix::unistd::geteuid().as_raw()) {
        return Ok(Vec::new());
    }
    let Some(ledger) = Ledger::open_read_only(&at)? else { return Ok(Vec::new()) };
    Ok(ledger.tasks(&TaskFilter { limit: Some(TASKS), ..TaskFilter::default() })?)
}
