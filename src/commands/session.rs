//! `bookend session`: shows, invalidates and restores the sessions of keys.

use std::path::Path;

use serde::Serialize;

use crate::commands::find;
use crate::error::{Error, Kind};
use crate::ledger::{self, Ledger, Location, RestoreOutcome};
use crate::recovery;
use crate::task::resume::{LastTask, SessionUse};
use crate::task::{Key, Session, SessionInvalidation, Status, Task, Time, Verdict};
use crate::view::{self, Screen, SessionState};

/// The options of `bookend session`.
#[derive(Debug)]
pub enum SessionAction {
    List { json: bool },
    Show { key: Key, json: bool },
    ResumeId { key: Key, json: bool },
    Invalidate { key: Key, reason: String, json: bool },
    Restore { key: Key, json: bool },
}

/// The reason of an invalidation, if the operator gives none.
pub const BY_OPERATOR: &str = "operator";

/// A key's session, judged as by the next run.
#[derive(Debug, Serialize)]
struct Judged {
    #[serde(flatten)]
    session: Session,
    state: SessionState,
    why: String,
}

/// The text for stdout.
///
/// # Errors
/// When the ledger cannot be read or written, or there is no such session; `resume-id` also when the session
/// must not be resumed now.
pub fn session(options: &SessionAction, ledger: Option<&Path>) -> Result<String, Error> {
    let at = ledger::locate(ledger)?;
    match options {
        SessionAction::List { json } => list(&at, *json),
        SessionAction::Show { key, json } => show(&at, key, *json),
        SessionAction::ResumeId { key, json } => resume_id(&at, key, *json),
        SessionAction::Invalidate { key, reason, json } => invalidate(&at, key, reason, *json),
        SessionAction::Restore { key, json } => restore(&at, key, *json),
    }
}

fn list(at: &Location, json: bool) -> Result<String, Error> {
    #[derive(Serialize)]
    struct Listing<'a> {
        ledger: &'a Path,
        sessions: &'a [Judged],
    }
    let sessions = match Ledger::open_read_only(at)? {
        Some(ledger) => {
            ledger.sessions()?.into_iter().map(|s| judge(&ledger, s)).collect::<Result<Vec<_>, _>>()?
        }
        None => Vec::new(),
    };
    if json {
        return Ok(view::pretty(&Listing { ledger: &at.file, sessions: &sessions }));
    }
    if sessions.is_empty() {
        return Ok(format!("no sessions in {}\n", view::one_line(&at.file.to_string_lossy())));
    }
    let rows: Vec<_> = sessions.iter().map(|s| (&s.session, s.state, s.why.as_str())).collect();
    Ok(view::sessions(&rows, Time::now(), Screen::of(&std::io::stdout())))
}

fn show(at: &Location, key: &Key, json: bool) -> Result<String, Error> {
    #[derive(Serialize)]
    struct Page<'a> {
        key: &'a Key,
        session: Option<Judged>,
        invalidations: Vec<SessionInvalidation>,
    }
    let nothing = || nothing(at, key);
    let ledger = Ledger::open_read_only(at)?.ok_or_else(nothing)?;
    let session = ledger.session_of_key(key)?.map(|s| judge(&ledger, s)).transpose()?;
    let invalidations = ledger.invalidations_of_key(key)?;
    if session.is_none() && invalidations.is_empty() {
        return Err(nothing());
    }
    if json {
        return Ok(view::pretty(&Page { key, session, invalidations }));
    }
    let session = session.as_ref().map(|s| (&s.session, s.state, s.why.as_str()));
    Ok(view::session(key, session, &invalidations))
}

/// For scripts that start an agent without bookend: the id, if it may be resumed now.
fn resume_id(at: &Location, key: &Key, json: bool) -> Result<String, Error> {
    let nothing = || nothing(at, key);
    let ledger = Ledger::open_read_only(at)?.ok_or_else(nothing)?;
    let session = ledger.session_of_key(key)?.ok_or_else(nothing)?;
    let judged = judge(&ledger, session)?;
    let id = &judged.session.session_id;
    if judged.state != SessionState::Resumable {
        return Err(Error::new(Kind::Nothing, format!("session {id} of the key {key}: {}", judged.why))
            .hint("start without a session"));
    }
    // A run that has just started has the key but no session yet.
    if let Some(holder) = ledger.holder(key)? {
        let why = in_use(&ledger, &holder)?;
        return Err(
            Error::new(Kind::Nothing, format!("the key {key}: {why}")).hint("start without a session")
        );
    }
    if json {
        return Ok(view::pretty(&judged));
    }
    // A script puts the line into a command line without checking it.
    if view::one_line(id.as_str()) != id.as_str() {
        return Err(Error::new(
            Kind::Nothing,
            format!("session {id} of the key {key}: it is not an id that an agent produces"),
        )
        .hint("use --json to see what is in the ledger"));
    }
    Ok(format!("{id}\n"))
}

fn invalidate(at: &Location, key: &Key, reason: &str, json: bool) -> Result<String, Error> {
    let mut ledger = open(at, key)?;
    let claim = ledger.claim()?;
    let Some(session) = claim.session(key)? else { return Err(nothing(at, key)) };
    claim.invalidate_session(key, reason, session.task_id.as_ref(), Time::now())?;
    claim.commit()?;
    Ok(if json {
        view::pretty(&session)
    } else {
        let id = view::one_line(session.session_id.as_str()).into_owned();
        let restore = view::one_line(&command(at, "restore", key)).into_owned();
        format!("session {id} invalidated; undo: `{restore}`\n")
    })
}

fn restore(at: &Location, key: &Key, json: bool) -> Result<String, Error> {
    let mut ledger = open(at, key)?;
    match ledger.restore_session(key, Time::now())? {
        RestoreOutcome::Done(session) if json => Ok(view::pretty(&session)),
        RestoreOutcome::Done(session) => {
            let (id, key) = (view::one_line(session.session_id.as_str()), view::one_line(key.as_str()));
            Ok(format!("session {id} will be resumed by the next run under {key}\n"))
        }
        RestoreOutcome::Nothing => Err(Error::new(
            Kind::Nothing,
            format!("no session of the key {key} was invalidated in {}", at.file.display()),
        )
        .hint(format!("run `{}` to see what there was", command(at, "show", key)))),
        RestoreOutcome::InUse(task) => Err(Error::new(
            Kind::Busy,
            format!("task {task} is running under the key {key} or with its session"),
        )
        .hint("wait until it has ended")),
        RestoreOutcome::Superseded(session) => Err(Error::new(
            Kind::Nothing,
            format!("the key {key} already resumes session {}", session.session_id),
        )
        .hint(format!("run `{}` first to replace that session", command(at, "invalidate", key)))),
    }
}

/// The ledger for writing; one that does not exist has no session of this key.
fn open(at: &Location, key: &Key) -> Result<Ledger, Error> {
    if !at.file.exists() {
        return Err(nothing(at, key));
    }
    let (ledger, merged) = Ledger::open(at)?;
    ledger::report_merged(&merged);
    Ok(ledger)
}

/// `bookend session WHAT KEY`
fn command(at: &Location, what: &str, key: &Key) -> String {
    view::suggestion(at.option(), &format!("session {what} {}", view::operand(key.as_str())))
}

fn nothing(at: &Location, key: &Key) -> Error {
    Error::new(Kind::Nothing, format!("the key {key} has no session in {}", at.file.display())).hint(format!(
        "run `{}` to see the keys that have one",
        view::suggestion(at.option(), "session list")
    ))
}

fn judge(ledger: &Ledger, session: Session) -> Result<Judged, Error> {
    let last = ledger.last_use(&session)?;
    let running = last.running().map(|id| find::find_in(ledger, id.as_str())).transpose()?;
    let (state, why) = match &running {
        Some(task) => (SessionState::InUse, in_use(ledger, task)?),
        None if last.may_be_resumed() => (SessionState::Resumable, why_safe(&last)),
        None => (SessionState::Unsafe, last.why_not()),
    };
    Ok(Judged { session, state, why })
}

fn why_safe(session: &SessionUse) -> String {
    match &session.last {
        Some(last) if last.status == Status::Success => format!("task {} succeeded with it", last.id),
        Some(LastTask { id, kept: Some(after), .. }) => format!("task {id} kept it after {after}"),
        _ => "an operator restored it, or a later task succeeded with it".to_owned(),
    }
}

fn in_use(ledger: &Ledger, task: &Task) -> Result<String, Error> {
    let id = &task.id;
    Ok(match recovery::judge(recovery::evidence(ledger, task)?, task) {
        Verdict::Alive => format!("task {id} is running"),
        Verdict::Gone | Verdict::Recycled => {
            format!("task {id} is lost; `{}` settles it", view::suggestion(ledger.option(), "recover"))
        }
        Verdict::Unverifiable => format!("task {id} may be running: it cannot be judged from here"),
    })
}
