//! `bookend redispatch`: runs an ended task again, with its own options.

use std::path::Path;

use tracing::level_filters::LevelFilter;

use crate::agent;
use crate::commands::find;
use crate::error::{Error, Kind};
use crate::exit::Exit;
use crate::ledger::{self, Ledger};
use crate::process::spawn::caller::Caller;
use crate::recovery::trust;
use crate::run;
use crate::run::options::WhenBusy;
use crate::run::options::{Lacks, kept, lacks};
use crate::task::{SessionId, Status};
use crate::view;

/// The options of `bookend redispatch`.
#[derive(Debug)]
pub struct RedispatchOptions {
    /// The task's id, or a unique prefix.
    pub id: String,
    /// The prompt is on this command's stdin.
    pub stdin: bool,
    pub when_busy: WhenBusy,
    pub level: LevelFilter,
}

/// Runs the task again, with its key and options, in the directory where it was started.
///
/// # Errors
/// When it still runs, or its row does not hold what is needed; then as [`run::run`].
pub fn redispatch(options: &RedispatchOptions, ledger: Option<&Path>, caller: Caller) -> Result<Exit, Error> {
    let at = ledger::locate(ledger)?;
    if !at.file.exists() {
        return Err(find::no_ledger(&format!("no task {}", options.id), &at));
    }
    // Opened once: if the file is replaced meanwhile, the new one is not read.
    let (opened, merged) = Ledger::open_for_run(&at)?;
    ledger::report_merged(&merged);
    let task = find::find_in(&opened, &options.id)?;
    let id = &task.id;
    let command = |what: &str| view::suggestion(at.option(), what);
    if task.status == Status::Running {
        return Err(Error::new(Kind::Busy, format!("task {id} is still running")).hint(format!(
            "if its supervisor has died, `{}` settles it; nothing was executed",
            command("recover")
        )));
    }
    let refused = |why: &str| Error::failed(format!("task {id} cannot be dispatched again: {why}"));
    if let Some(distrust) = opened.distrust() {
        return Err(refused(&distrust.why).hint(format!(
            "{}, look at its row ({}) and try again; or start a run with its command line yourself; \
             nothing was executed",
            trust::remedy(&distrust),
            command(&format!("show {}", view::operand(id.as_str())))
        )));
    }
    match lacks(&task) {
        Some(Lacks::Stdin) if !options.stdin => {
            return Err(refused("its stdin is not stored").hint(format!(
                "provide the prompt again: {}; nothing was executed",
                command(&format!("redispatch --stdin {} <PROMPT", view::operand(id.as_str())))
            )));
        }
        Some(Lacks::Command) => return Err(refused("its row does not store its command line")),
        Some(Lacks::Bytes) => {
            return Err(refused("its command line is not UTF-8, and its row stores only text"));
        }
        Some(Lacks::Rest) => {
            return Err(refused("its command line is too long, and its row stores only the beginning")
                .hint("start a run with its whole command line; nothing was executed"));
        }
        Some(Lacks::Stdin) | None => {}
    }
    let Some((argv, stored)) = kept(&task) else {
        return Err(refused("its row does not store its command line"));
    };
    let from = &stored.cwd_at_start;
    std::env::set_current_dir(from).map_err(|e| {
        refused(&format!("entering {}, where it was started", from.display()))
            .caused_by(e)
            .hint("create the directory; nothing was executed")
    })?;
    // The id that the user chose is taken: the session of the former run has it.
    let argv = agent::with_new_id(argv, stored.agent_type.as_deref(), &SessionId::random());
    let again = stored.request(argv, options.when_busy, options.level);
    run::run_in(&again, &at, opened, caller)
}
