//! `bookend show`: everything the ledger knows about one task, and where to find more.

use std::path::Path;

use crate::agent;
use crate::commands::find::{self, TaskChoice};
use crate::commands::source::TaskSource;
use crate::commands::{resume, unknown};
use crate::error::Error;
use crate::exit::Exit;
use crate::fleet::FleetHistory;
use crate::ledger::{self, Ledger, Location};
use crate::run::options::{Lacks, kept, lacks};
use crate::sys::stdout::print;
use crate::task::{FleetTask, Status, Task, Time, Verdict};
use crate::view::{self, Further, History, Screen};

/// The options of `bookend show`.
#[derive(Debug)]
pub struct ShowOptions {
    pub which: TaskChoice,
    pub json: bool,
    /// Only the tasks of this ledger.
    pub here: bool,
}

/// Shows the task.
///
/// # Errors
/// When the ledger cannot be read, no task has such an id, or several have.
pub fn show(options: &ShowOptions, ledger: Option<&Path>) -> Result<Exit, Error> {
    let source = TaskSource::open(ledger, options.here)?;
    source.require(&find::nothing(&options.which))?;
    let mut rows = [source.find(&options.which)?];
    let verdict = source.verdicts(&mut rows)?.into_iter().next().flatten();
    let [row] = rows;
    let own = source.ledger().zip(source.at()).filter(|_| !row.is_elsewhere());
    let history = match own {
        Some((ledger, _)) => history(ledger, &row.task)?,
        None => history_elsewhere(&source, &row.task)?,
    };
    let text = match options.json {
        true => view::detail_json(&row, &history),
        false => {
            let further = match own {
                Some((ledger, at)) => further(ledger, at, verdict, &row.task, &history),
                None => further_elsewhere(&source, &row),
            };
            view::detail(&row.task, &history, &further, Time::now(), Screen::of(&std::io::stdout()))
        }
    };
    print(&text)?;
    Ok(Exit::Code(0))
}

fn history(ledger: &Ledger, task: &Task) -> ledger::Result<History> {
    Ok(History {
        transitions: ledger.transitions(&task.id)?,
        session: match &task.key {
            Some(key) => ledger.session_of_key(key)?,
            None => None,
        },
        invalidations: ledger.invalidations_of_task(&task.id)?,
        replaced_by: ledger.replaced_by(task)?,
    })
}

/// A session of another host is resumed only there.
fn history_elsewhere(source: &TaskSource, task: &Task) -> Result<History, Error> {
    let FleetHistory { transitions, invalidations, replaced_by } = source.history(task)?;
    Ok(History { transitions, session: None, invalidations, replaced_by })
}

/// Nothing that another host wrote is taken for a path or a command of this one.
fn further_elsewhere(source: &TaskSource, row: &FleetTask) -> Further {
    Further {
        ledger: source.at().and_then(|at| at.option()).map(Path::to_owned),
        unreachable_since: row.unreachable_since().cloned(),
        late: row.fleet.as_ref().and_then(|fleet| fleet.late.clone()),
        is_elsewhere: true,
        ..Further::default()
    }
}

fn further(
    ledger: &Ledger,
    at: &Location,
    verdict: Option<Verdict>,
    task: &Task,
    history: &History,
) -> Further {
    let ended = task.status != Status::Running;
    // A declaration that is refused hides only what it would say.
    let adapter = task.agent_type.as_deref().and_then(|name| agent::by_type(name).ok().flatten());
    let conversation = adapter.zip(task.session_id.as_ref()).filter(|(a, _)| a.tracks_sessions());
    let cwd = Path::new(task.cwd.as_deref().unwrap_or("/"));
    let transcript = conversation.and_then(|(a, session)| a.transcript(cwd, session)).filter(|t| t.exists());
    let id = view::operand(task.id.as_str());
    let command = |what: &str| view::suggestion(at.option(), what);
    let (argv, options) = kept(task).unzip();
    let agent_type = options.and_then(|options| options.agent_type);
    let by_hand = || resume::by_hand(task, argv.as_ref()?, agent_type.as_deref()).ok();
    let missing = unknown::figures(adapter, task);
    Further {
        verdict,
        read: transcript.is_some().then(|| command(&format!("logs {id}"))),
        transcript,
        no_cost: missing.cost,
        no_tokens: missing.tokens,
        resume: by_hand().filter(|_| ended).map(|_| command(&format!("resume {id}"))),
        again: match lacks(task) {
            _ if !ended || ledger.distrust().is_some() => None,
            None => Some(command(&format!("redispatch {id}"))),
            Some(Lacks::Stdin) => Some(command(&format!("redispatch --stdin {id} <PROMPT"))),
            Some(Lacks::Command | Lacks::Bytes | Lacks::Rest) => None,
        },
        ledger: at.option().map(Path::to_owned),
        unreachable_since: None,
        late: None,
        is_elsewhere: false,
        is_invalidated: history.invalidations.iter().any(|i| i.restored_at.is_none()),
    }
}
