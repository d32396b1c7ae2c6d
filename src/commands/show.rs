//! `bookend show`: everything the ledger knows about one task, and where to find more.

use std::ffi::OsString;
use std::path::Path;

use crate::agent;
use crate::commands::find::{TaskChoice, find};
use crate::error::Error;
use crate::exit::Exit;
use crate::ledger::{self, Ledger, Location};
use crate::recovery::liveness;
use crate::sys::stdout::print;
use crate::task::{Status, Task, Time, Verdict};
use crate::view::{self, Further, History, Screen};

/// The options of `bookend show`.
#[derive(Debug)]
pub struct ShowOptions {
    pub which: TaskChoice,
    pub json: bool,
}

/// Shows the task.
///
/// # Errors
/// When the ledger cannot be read, no task has such an id, or several have.
pub fn show(options: &ShowOptions, ledger: Option<&Path>) -> Result<Exit, Error> {
    let at = ledger::locate(ledger)?;
    let (ledger, mut task) = find(&options.which, &at)?;
    let verdict = liveness::verdict(&ledger, &mut task)?;
    let history = history(&ledger, &task)?;
    let text = match options.json {
        true => view::detail_json(&task, &history),
        false => {
            let further = further(&at, verdict, &task, &history);
            view::detail(&task, &history, &further, Time::now(), Screen::of(&std::io::stdout()))
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
    })
}

fn further(at: &Location, verdict: Option<Verdict>, task: &Task, history: &History) -> Further {
    let running = task.status == Status::Running;
    // A declaration that is refused hides only what it would say.
    let adapter = task.agent_type.as_deref().and_then(|name| agent::by_type(name).ok().flatten());
    let conversation = adapter.zip(task.session_id.as_ref()).filter(|(a, _)| a.tracks_sessions());
    let cwd = Path::new(task.cwd.as_deref().unwrap_or("/"));
    let transcript = conversation.and_then(|(a, session)| a.transcript(cwd, session)).filter(|t| t.exists());
    let resume = conversation.zip(before_own(task)).filter(|_| !running).map(|((a, session), mut words)| {
        let args = a.resume_by_hand(session);
        words.extend(args.iter().map(|w| w.to_string_lossy().into_owned()));
        (cwd.to_path_buf(), words)
    });
    Further {
        verdict,
        transcript,
        resume,
        ledger: at.option().map(Path::to_owned),
        is_invalidated: history.invalidations.iter().any(|i| i.restored_at.is_none()),
    }
}

/// The task's command line up to and including the agent's program.
fn before_own(task: &Task) -> Option<Vec<String>> {
    let words: Vec<OsString> = task.argv.as_ref()?.iter().map(OsString::from).collect();
    let recognised = agent::recognise(&words, task.agent_type.as_deref()).ok()?;
    let own = Some(recognised.args_start)
        .filter(|_| !matches!(recognised.place, agent::SessionPlace::Untracked(_)))?;
    Some(task.argv.as_ref()?[..own].to_vec())
}
