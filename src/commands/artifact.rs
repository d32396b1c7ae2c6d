//! `bookend artifact add`: an agent records what it produced.

use std::path::Path;

use serde_json::{Value, json};

use crate::error::{Error, Kind};
use crate::exit::Exit;
use crate::ledger::{self, Ledger, TaskLookup};
use crate::process::spawn::environment::MARK;
use crate::task::Time;
use crate::view;

/// The options of `bookend artifact add`.
#[derive(Debug)]
pub struct ArtifactOptions {
    /// Paths and URLs.
    pub what: Vec<String>,
    /// The task; `None`: the one that this command runs inside.
    pub task: Option<String>,
}

/// # Errors
/// Outside a task, when a path does not exist, or when the ledger does not take it.
pub fn add(options: &ArtifactOptions, ledger: Option<&Path>) -> Result<Exit, Error> {
    let id = match (&options.task, std::env::var(MARK)) {
        (Some(id), _) => id.clone(),
        (None, Ok(id)) => id,
        (None, Err(_)) => {
            return Err(Error::usage("adding an artifact: this command does not run inside a task")
                .hint("call it from inside a run, or name the task with --task ID"));
        }
    };
    let artifacts = options.what.iter().map(|w| artifact(w)).collect::<Result<Vec<_>, _>>()?;
    let at = ledger::locate(ledger)?;
    let (mut ledger, merged) = Ledger::open(&at)?;
    ledger::report_merged(&merged);
    let id = match ledger.task(&id)? {
        TaskLookup::One(task) => task.id,
        _ => {
            let message = format!("no task {id} in the ledger {}", at.file.display());
            return Err(Error::new(Kind::Nothing, message)
                .hint(format!("run `{}` to see the ids", view::suggestion(at.option(), "list"))));
        }
    };
    for artifact in &artifacts {
        ledger.add_artifact(&id, artifact)?;
    }
    Ok(Exit::Code(0))
}

fn artifact(what: &str) -> Result<Value, Error> {
    if what.contains("://") {
        return Ok(json!({ "kind": "url", "url": what, "at": Time::now() }));
    }
    let failed = |e: std::io::Error| {
        Error::new(Kind::Nothing, format!("adding the artifact {what}"))
            .caused_by(e)
            .hint("name a file that exists, or a URL with ://")
    };
    let path = std::fs::canonicalize(what).map_err(failed)?;
    let meta = std::fs::metadata(&path).map_err(failed)?;
    let kind = if meta.is_dir() { "directory" } else { "file" };
    let bytes = meta.is_file().then_some(meta.len());
    Ok(json!({ "kind": kind, "path": path.to_string_lossy(), "bytes": bytes, "at": Time::now() }))
}
