//! `bookend wait`: waits until tasks have ended, without polling where the kernel reports an end.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::commands::find;
use crate::error::{Error, Kind};
use crate::exit::{Exit, exit_code};
use crate::ledger::{self, Ledger, LedgerEvent, LedgerWatch, TaskLookup, WatchScope};
use crate::process::procfs::identity::{self, ProcessHandle};
use crate::process::procfs::mark;
use crate::recovery::{self, liveness};
use crate::sys::stdout::print;
use crate::task::{Key, Status, Task, TaskFilter, TaskId, Verdict};
use crate::view;

/// How often a task is looked at whose end the kernel does not report.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// A practically unlimited wait that can still be added to a time.
const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);
/// How many nested runs a command can be inside of.
const MOST_LEVELS: usize = 16;

/// The tasks to wait for.
#[derive(Debug)]
pub enum WaitTarget {
    Ids(Vec<String>),
    /// The task that runs with this key, otherwise the last one that did.
    Key(Key),
    /// All that run now.
    Running,
}

/// The options of `bookend wait`.
#[derive(Debug)]
pub struct WaitOptions {
    pub which: WaitTarget,
    /// `None`: without a limit.
    pub timeout: Option<Duration>,
}

/// A task whose end is awaited.
struct AwaitedTask {
    task: Task,
    /// `None`: its end must be polled for.
    supervisor: Option<ProcessHandle>,
}

/// What a look at a task found.
enum TaskProgress {
    Runs,
    /// Its end, in words, and whether it is a success.
    Ended(String, bool),
}

/// Waits until each task has ended, and says how. A task counts as ended too if its supervisor was killed:
/// its row stays `running` until a recovery.
///
/// # Errors
/// When nothing matches, a task would wait for itself, the ledger cannot be read, or stdout not be written.
pub fn wait(options: &WaitOptions, ledger: Option<&Path>) -> Result<Exit, Error> {
    let at = ledger::locate(ledger)?;
    let Some(ledger) = Ledger::open_read_only(&at)? else {
        return match options.which {
            WaitTarget::Running => nothing_runs(),
            _ => Err(find::no_ledger("nothing to wait for", &at)),
        };
    };
    // Before the first look: an end between the two is not missed.
    let mut ends = ledger.watch(WatchScope::Ends).ok();
    let tasks = select(&ledger, &options.which)?;
    if tasks.is_empty() {
        return nothing_runs();
    }
    let mut awaited: Vec<AwaitedTask> = tasks.into_iter().map(AwaitedTask::of).collect();
    let began = Instant::now();
    let until = began + options.timeout.unwrap_or(FOREVER);
    let mut all_succeeded = true;
    loop {
        let mut running = Vec::new();
        for task in awaited {
            match progress(&ledger, &task.task.id)? {
                TaskProgress::Runs => running.push(task),
                TaskProgress::Ended(how, is_success) => {
                    all_succeeded &= is_success;
                    print(&format!("task {}: {how}\n", view::one_line(task.task.id.as_str())))?;
                }
            }
        }
        if running.is_empty() {
            return Ok(Exit::Code(if all_succeeded { 0 } else { exit_code::NOT_SUCCESS }));
        }
        if Instant::now() >= until {
            return timed_out(&running, began);
        }
        await_change(&mut ends, &mut running, until)?;
        awaited = running;
    }
}

fn nothing_runs() -> Result<Exit, Error> {
    print("no task is running\n")?;
    Ok(Exit::Code(0))
}

fn timed_out(running: &[AwaitedTask], began: Instant) -> Result<Exit, Error> {
    let after = view::duration(began.elapsed().as_millis() as i64);
    for AwaitedTask { task, .. } in running {
        print(&format!("task {}: still running after {after}\n", view::one_line(task.id.as_str())))?;
    }
    Ok(Exit::Code(exit_code::TIMED_OUT))
}

/// The tasks that were asked for.
fn select(ledger: &Ledger, which: &WaitTarget) -> Result<Vec<Task>, Error> {
    let around = enclosing(ledger)?;
    let tasks = match which {
        WaitTarget::Ids(ids) => {
            let mut tasks: Vec<Task> = Vec::new();
            for id in ids {
                let task = find::find_in(ledger, id)?;
                if !tasks.iter().any(|other| other.id == task.id) {
                    tasks.push(task);
                }
            }
            tasks
        }
        WaitTarget::Key(key) => vec![of_key(ledger, key)?],
        WaitTarget::Running => {
            let running = TaskFilter::of(Status::Running);
            let mut tasks = ledger.tasks(&running)?;
            tasks.retain(|task| !around.contains(&task.id));
            return Ok(tasks);
        }
    };
    match tasks.iter().find(|task| around.contains(&task.id)) {
        Some(task) => {
            Err(Error::usage(format!("task {} would wait for itself: this command runs inside it", task.id)))
        }
        None => Ok(tasks),
    }
}

/// The running task of a key; otherwise the last one that ended.
fn of_key(ledger: &Ledger, key: &Key) -> Result<Task, Error> {
    let newest = TaskFilter { key: Some(key.clone()), limit: Some(1), ..TaskFilter::default() };
    ledger.tasks(&newest)?.pop().ok_or_else(|| {
        let message = format!("no task has the key {key} in the ledger {}", ledger.path().display());
        Error::new(Kind::Nothing, message)
            .hint(format!("run `{}` to see the keys", view::suggestion(ledger.option(), "list")))
    })
}

/// The running tasks that this command runs inside of: they end after it.
fn enclosing(ledger: &Ledger) -> Result<Vec<TaskId>, Error> {
    let mut around = Vec::new();
    let mut next = mark::enclosing(ledger.path());
    while let Some(id) = next.take().filter(|_| around.len() < MOST_LEVELS) {
        if let TaskLookup::One(task) = ledger.task(id.as_str())? {
            next = task.parent_id;
        }
        around.push(id);
    }
    Ok(around)
}

impl AwaitedTask {
    fn of(task: Task) -> AwaitedTask {
        let recorded = recovery::comparable_supervisor(&task);
        let supervisor = recorded.and_then(|recorded| identity::open_recorded(recorded).ok().flatten());
        AwaitedTask { task, supervisor }
    }
}

/// Waits until an awaited task may have ended, at most `until`. Where the kernel does not report an end, that
/// is the next look.
fn await_change(
    ends: &mut Option<LedgerWatch>,
    awaited: &mut [AwaitedTask],
    until: Instant,
) -> Result<(), Error> {
    loop {
        let is_told = ends.is_some() && awaited.iter().all(|task| task.supervisor.is_some());
        let until = if is_told { until } else { until.min(Instant::now() + POLL_INTERVAL) };
        let supervisors = awaited.iter().filter_map(|task| task.supervisor.as_ref()).map(AsFd::as_fd);
        let failed = |e| Error::failed("waiting for the end of a task").caused_by(e);
        identity::wait_for_any(ends.iter().map(AsFd::as_fd).chain(supervisors), until).map_err(failed)?;
        let events = ends.as_mut().map(LedgerWatch::read).unwrap_or_default();
        if events.contains(&LedgerEvent::SpoolReplaced) {
            *ends = None;
        }
        let has_exited = note_exits(awaited);
        let is_due = |event: &LedgerEvent| awaited.iter().any(|task| may_end(event, &task.task.id));
        if has_exited || Instant::now() >= until || events.iter().any(is_due) {
            return Ok(());
        }
    }
}

/// Notes which supervisors have exited, which stay readable. What they leave in doubt is polled for.
fn note_exits(awaited: &mut [AwaitedTask]) -> bool {
    let exited = |task: &&mut AwaitedTask| {
        task.supervisor.as_ref().is_some_and(|s| s.wait(Duration::ZERO).unwrap_or(true))
    };
    awaited.iter_mut().filter(exited).map(|task| task.supervisor = None).count() > 0
}

/// Whether the task may have ended by this event.
fn may_end(event: &LedgerEvent, id: &TaskId) -> bool {
    match event {
        LedgerEvent::Recorded(ended) | LedgerEvent::Released(ended) | LedgerEvent::EndRecorded(ended) => {
            ended == id
        }
        LedgerEvent::Overflow | LedgerEvent::SpoolReplaced => true,
        LedgerEvent::SupervisorClosed(_)
        | LedgerEvent::RowsChanged
        | LedgerEvent::MembershipChanged
        | LedgerEvent::LedgerReplaced => false,
    }
}

/// Looks at a task: at its row, the record of its end in the spool, and its supervisor.
fn progress(ledger: &Ledger, id: &TaskId) -> Result<TaskProgress, Error> {
    let ended = |task: &Task| {
        let (why, status) = (view::why(task), task.status);
        let why = if why.is_empty() { why } else { format!(" ({why})") };
        let took = task.duration_ms.map(|ms| format!(" after {}", view::duration(ms))).unwrap_or_default();
        TaskProgress::Ended(format!("{status}{why}{took}"), status == Status::Success)
    };
    let deleted = || TaskProgress::Ended("its row was deleted".to_owned(), false);
    let TaskLookup::One(mut task) = ledger.task(id.as_str())? else { return Ok(deleted()) };
    let Some(verdict) = liveness::verdict(ledger, &mut task)? else { return Ok(ended(&task)) };
    // After the verdict: a supervisor writes the record before it exits.
    if let Some(end) = ledger.spooled_end(id)? {
        let (status, took) = (end.ending.status(), end.duration_ms.map(view::duration));
        let took = took.map(|took| format!(" after {took}")).unwrap_or_default();
        let how = format!("{status}{took}, which waits in the spool");
        return Ok(TaskProgress::Ended(how, status == Status::Success));
    }
    match verdict {
        Verdict::Alive | Verdict::Unverifiable => Ok(TaskProgress::Runs),
        Verdict::Gone | Verdict::Recycled => match ledger.task(id.as_str())? {
            // The record was merged after the row was read.
            TaskLookup::One(task) if task.status != Status::Running => Ok(ended(&task)),
            TaskLookup::One(_) => Ok(TaskProgress::Ended(find::killed(ledger), false)),
            _ => Ok(deleted()),
        },
    }
}
