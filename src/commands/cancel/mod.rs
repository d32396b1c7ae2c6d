//! `bookend cancel`: asks supervisors to end their tasks, and waits for that.

mod elsewhere;

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::commands::find::{self, TaskChoice};
use crate::commands::source::TaskSource;
use crate::error::{Error, Kind};
use crate::exit::Exit;
use crate::exit::exit_code;
use crate::ledger::{Ledger, LiveEvidence, TaskLookup};
use crate::log;
use crate::process::procfs::identity::{self, ProcessHandle};
use crate::process::procfs::mark;
use crate::recovery::liveness;
use crate::recovery::{self, AgentState};
use crate::stop;
use crate::sys;
use crate::sys::stdout::print;
use crate::task::{FleetTask, Key, Status, Task, TaskFilter, TaskId, Verdict};
use crate::view;

/// A practically unlimited wait that can still be added to a time.
const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);

/// The tasks to cancel.
#[derive(Debug)]
pub enum CancelTarget {
    Ids(Vec<String>),
    Key(Key),
    All,
}

/// The options of `bookend cancel`.
#[derive(Debug)]
pub struct CancelOptions {
    pub which: CancelTarget,
    /// How long to wait for the end; `None`: without a limit.
    pub wait: Option<Duration>,
}

/// # Errors
/// When nothing matches, the ledger cannot be read, or stdout cannot be written. An error with one of several
/// tasks is printed, and the others are cancelled.
pub fn cancel(options: &CancelOptions, ledger: Option<&Path>) -> Result<Exit, Error> {
    let (ids, key): (&[String], _) = match &options.which {
        CancelTarget::Ids(ids) => (ids, None),
        CancelTarget::Key(key) => (&[], Some(key)),
        CancelTarget::All => (&[], None),
    };
    let all = matches!(options.which, CancelTarget::All);
    let mut source = TaskSource::of_tasks(ledger, Ledger::open_own_read_only, ids, key)?;
    match (source.ledger(), source.at()) {
        (None, Some(_)) if all => return nothing_runs(),
        (None, Some(at)) => return Err(find::no_ledger("nothing to cancel", at)),
        (None, None) if all => {
            return Err(Error::usage("--all cancels the tasks of a ledger, and --ledger names a database"));
        }
        _ => {}
    }
    let mut failed = false;
    let mut complain = |e: Error| {
        failed = true;
        log::fail(&e);
    };
    let running = |key: Option<Key>| source.tasks(&TaskFilter { key, ..TaskFilter::of(Status::Running) });
    let tasks: Vec<FleetTask> = match &options.which {
        CancelTarget::Ids(ids) => {
            let found = ids.iter().map(|id| source.find_of_tasks(&TaskChoice::Id(id.clone())));
            found.filter_map(|f| f.map_err(&mut complain).ok()).collect()
        }
        CancelTarget::Key(key) => running(Some(key.clone()))?,
        CancelTarget::All => running(None)?,
    };
    match &options.which {
        CancelTarget::Key(key) if tasks.is_empty() => {
            if let Some(e) = source.not_asked(&format!("no task is running under the key {key}")) {
                return Err(e);
            }
            let message = format!("no task is running under the key {key} {}", source.whole_name());
            let list = view::suggestion(source.option(), "list --status running");
            return Err(
                Error::new(Kind::Nothing, message).hint(format!("run `{list}` to see the running tasks"))
            );
        }
        CancelTarget::All if tasks.is_empty() => return nothing_runs(),
        _ => {}
    }
    let (mut told, mut ordered) = (Vec::new(), Vec::new());
    for row in tasks {
        match source.ledger().filter(|_| !row.is_elsewhere()) {
            Some(ledger) => match tell(ledger, &row.task, all) {
                Ok(Some(supervisor)) => told.push((row.task, supervisor)),
                Ok(None) => {}
                Err(e) => complain(e),
            },
            None => match elsewhere::order(&source, &row) {
                Ok(order) => ordered.push(order),
                Err(e) => complain(e),
            },
        }
    }
    let began = Instant::now();
    let left = || options.wait.map_or(FOREVER, |w| w.saturating_sub(began.elapsed()));
    if let Some(ledger) = source.ledger() {
        for (task, supervisor) in told {
            failed |= !report_end(ledger, &task, &supervisor, left(), began)?;
        }
    }
    failed |= !elsewhere::report_ends(&mut source, ordered, left(), began)?;
    Ok(Exit::Code(if failed { exit_code::NOTHING } else { 0 }))
}

/// `--all` has reached its goal where nothing runs.
fn nothing_runs() -> Result<Exit, Error> {
    print("no task is running\n")?;
    Ok(Exit::Code(0))
}

/// Signals the supervisor of one task, and reports it. `None`: there is nothing to wait for.
fn tell(ledger: &Ledger, task: &Task, all: bool) -> Result<Option<ProcessHandle>, Error> {
    let id = &task.id;
    if all && mark::is_inside(id, ledger.path()) {
        print(&format!(
            "task {}: skipped, because this command runs inside it\n",
            view::one_line(id.as_str())
        ))?;
        return Ok(None);
    }
    let mut now = task.clone();
    let verdict = liveness::verdict(ledger, &mut now)?;
    let pid = task.supervisor_pid.map_or_else(|| "?".to_owned(), |p| p.to_string());
    match verdict {
        None => {
            let message = format!("task {id} is not running: it ended as {}", now.status);
            return Err(Error::new(Kind::Nothing, message));
        }
        Some(Verdict::Alive) if recovery::is_dying(&now) => return Err(killed(ledger, id, &pid)),
        Some(Verdict::Alive) => {}
        Some(Verdict::Gone | Verdict::Recycled) => return Err(killed(ledger, id, &pid)),
        Some(Verdict::Unverifiable) => {
            let host = task.host.as_deref().unwrap_or("an unknown host");
            let message =
                format!("task {id} cannot be judged from here: its supervisor was pid {pid} on {host}");
            return Err(Error::new(Kind::Nothing, message).hint("cancel it where it was started"));
        }
    }
    let supervisor = stop::ask_to_end(ledger, task).map_err(|e| match e.raw_os_error() {
        Some(libc::EPERM) => {
            let owner = task.supervisor_pid.and_then(identity::user);
            let owner = owner.map_or_else(|| "another user".to_owned(), sys::user_name);
            let message =
                format!("task {id} belongs to {owner}: its supervisor (pid {pid}) may not be signalled");
            let again = format!("cancel {}", view::operand(id.as_str()));
            let command = view::suggestion(Some(ledger.path()), &again);
            Error::new(Kind::Nothing, message).hint(format!("run `{command}` as that user, or as root"))
        }
        _ if e.kind() == io::ErrorKind::Unsupported => {
            let message = format!("task {id} is not cancelled: its supervisor (pid {pid}) was not signalled");
            Error::failed(message).caused_by(e).hint(format!("run `kill {pid}` to end it yourself"))
        }
        _ => {
            Error::failed(format!("cancelling task {id}: signalling its supervisor (pid {pid})")).caused_by(e)
        }
    })?;
    let Some(supervisor) = supervisor else {
        if recovery::evidence(ledger, task)? != LiveEvidence::Held {
            return Err(killed(ledger, id, &pid));
        }
        // It holds its lock, so it is alive: its pid belongs to another pid namespace.
        let message = format!("task {id} runs where pid {pid} means another process (a container?)");
        return Err(Error::new(Kind::Nothing, message).hint("cancel it where it was started"));
    };
    let agent = task.agent_pid.map_or_else(String::new, |p| format!(" (agent {p})"));
    let id = view::one_line(id.as_str());
    print(&format!("task {id}: sent SIGTERM to supervisor {pid}{agent}\n"))?;
    Ok(Some(supervisor))
}

fn killed(ledger: &Ledger, id: &TaskId, pid: &str) -> Error {
    let message = format!("task {id} cannot be cancelled: its supervisor (pid {pid}) was killed");
    let recover = view::suggestion(ledger.option(), "recover");
    Error::new(Kind::Nothing, message)
        .hint(format!("run `{recover}` to settle the task and end its leftover processes"))
}

/// Waits for the supervisor to exit, and reports the state of the task. Returns whether it has ended.
fn report_end(
    ledger: &Ledger,
    task: &Task,
    supervisor: &ProcessHandle,
    wait: Duration,
    began: Instant,
) -> Result<bool, Error> {
    let id = &task.id;
    let gone = supervisor
        .wait(wait)
        .map_err(|e| Error::failed(format!("waiting for the end of task {id}")).caused_by(e))?;
    let now = match ledger.task(id.as_str())? {
        TaskLookup::One(task) => *task,
        _ => return Err(Error::failed(format!("the row of task {id} is missing from the ledger"))),
    };
    let after = view::duration(began.elapsed().as_millis() as i64);
    let id = view::one_line(id.as_str());
    let text = match (now.status, gone) {
        (Status::Running, false) if !recovery::is_dying(&now) => {
            format!("task {id}: still running after {after}\n")
        }
        (Status::Running, true) if recovery::evidence(ledger, &now)? == LiveEvidence::Held => {
            format!("task {id}: still running\n")
        }
        (Status::Running, _) => format!("task {id}: {}\n", find::killed(ledger)),
        (status, _) => {
            let why = view::why(&now);
            let why = if why.is_empty() { why } else { format!(" ({why})") };
            format!("task {id}: {status}{why} after {after}\n")
        }
    };
    let outlived = now.status.is_terminal() && gone && recovery::agent_state(&now) != AgentState::Ended;
    let error =
        now.error.as_deref().filter(|_| outlived).map(|e| format!("task {id}: {}\n", view::one_line(e)));
    print(&(text + &error.unwrap_or_default()))?;
    Ok(now.status.is_terminal() && !outlived)
}
