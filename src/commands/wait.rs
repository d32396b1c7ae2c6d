//! `bookend wait`: waits until tasks have ended, without polling where the kernel reports an end.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::commands::find::{self, TaskChoice};
use crate::commands::source::TaskSource;
use crate::error::{Error, Kind};
use crate::exit::{Exit, exit_code};
use crate::fleet::FleetChanges;
use crate::ledger::{Ledger, LedgerEvent, LedgerWatch, TaskLookup, WatchScope};
use crate::log;
use crate::process::procfs::identity::{self, ProcessHandle};
use crate::process::procfs::mark;
use crate::recovery::{self, liveness};
use crate::sys::stdout::print;
use crate::task::{FleetTask, Key, Status, Task, TaskFilter, TaskId, Verdict};
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
    /// `None`: its end must be polled for, or the fleet reports it.
    supervisor: Option<ProcessHandle>,
    is_elsewhere: bool,
    /// It was reported that its host is unreachable.
    is_unreachable: bool,
}

/// What reports ends, besides supervisors. Where both are missing, the tasks are polled.
struct EndReports {
    /// The files of the ledger.
    ends: Option<LedgerWatch>,
    /// The tasks of other hosts.
    changes: Option<FleetChanges>,
    /// It was reported that the database does not answer.
    is_away: bool,
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
    let (ids, key): (&[String], _) = match &options.which {
        WaitTarget::Ids(ids) => (ids, None),
        WaitTarget::Key(key) => (&[], Some(key)),
        WaitTarget::Running => (&[], None),
    };
    let mut source = TaskSource::of_tasks(ledger, Ledger::open_read_only, ids, key)?;
    if let (None, Some(at)) = (source.ledger(), source.at()) {
        return match options.which {
            WaitTarget::Running => nothing_runs(),
            _ => Err(find::no_ledger("nothing to wait for", at)),
        };
    }
    // Before the first look: an end between the two is not missed.
    let ends = source.ledger().and_then(|ledger| ledger.watch(WatchScope::Ends).ok());
    let tasks = select(&source, &options.which)?;
    if tasks.is_empty() {
        return nothing_runs();
    }
    let changes = tasks.iter().any(FleetTask::is_elsewhere).then(|| source.changes()).flatten();
    let mut reports = EndReports { ends, changes, is_away: false };
    let mut awaited: Vec<AwaitedTask> = tasks.into_iter().map(AwaitedTask::of).collect();
    let began = Instant::now();
    let until = began + options.timeout.unwrap_or(FOREVER);
    let mut all_succeeded = true;
    loop {
        source.refresh();
        let mut running = Vec::new();
        for mut task in awaited {
            match task.progress(&source)? {
                TaskProgress::Runs => running.push(task),
                TaskProgress::Ended(how, is_success) => {
                    all_succeeded &= is_success;
                    print(&format!("{}: {how}\n", task.name()))?;
                }
            }
        }
        reports.note_away(source.away());
        if running.is_empty() {
            return Ok(Exit::Code(if all_succeeded { 0 } else { exit_code::NOT_SUCCESS }));
        }
        if Instant::now() >= until {
            return timed_out(&running, began);
        }
        await_change(&mut reports, &mut running, until)?;
        awaited = running;
    }
}

fn nothing_runs() -> Result<Exit, Error> {
    print("no task is running\n")?;
    Ok(Exit::Code(0))
}

fn timed_out(running: &[AwaitedTask], began: Instant) -> Result<Exit, Error> {
    let after = view::duration(began.elapsed().as_millis() as i64);
    for task in running {
        print(&format!("{}: still running after {after}\n", task.name()))?;
    }
    Ok(Exit::Code(exit_code::TIMED_OUT))
}

/// The tasks that were asked for.
fn select(source: &TaskSource, which: &WaitTarget) -> Result<Vec<FleetTask>, Error> {
    let around = source.ledger().map_or_else(|| Ok(Vec::new()), enclosing)?;
    let tasks = match which {
        WaitTarget::Ids(ids) => {
            let mut tasks: Vec<FleetTask> = Vec::new();
            for id in ids {
                let row = source.find_of_tasks(&TaskChoice::Id(id.clone()))?;
                if !tasks.iter().any(|other| other.task.id == row.task.id) {
                    tasks.push(row);
                }
            }
            tasks
        }
        WaitTarget::Key(key) => vec![of_key(source, key)?],
        WaitTarget::Running => {
            let running = TaskFilter::of(Status::Running);
            let mut tasks = source.tasks(&running)?;
            tasks.retain(|row| !around.contains(&row.task.id));
            return Ok(tasks);
        }
    };
    match tasks.iter().find(|row| around.contains(&row.task.id)) {
        Some(FleetTask { task, .. }) => {
            Err(Error::usage(format!("task {} would wait for itself: this command runs inside it", task.id)))
        }
        None => Ok(tasks),
    }
}

/// The running task of a key; otherwise the last one that ended.
fn of_key(source: &TaskSource, key: &Key) -> Result<FleetTask, Error> {
    let newest = TaskFilter { key: Some(key.clone()), limit: Some(1), ..TaskFilter::default() };
    let found = source.tasks(&newest)?.pop();
    // Another host may run a later task with this key.
    if let Some(e) = source.not_asked(&format!("no task runs with the key {key}")) {
        return Err(e);
    }
    found.ok_or_else(|| {
        let message = format!("no task has the key {key} {}", source.whole_name());
        Error::new(Kind::Nothing, message)
            .hint(format!("run `{}` to see the keys", view::suggestion(source.option(), "list")))
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
    fn of(row: FleetTask) -> AwaitedTask {
        let is_elsewhere = row.is_elsewhere();
        let recorded = recovery::comparable_supervisor(&row.task).filter(|_| !is_elsewhere);
        let supervisor = recorded.and_then(|recorded| identity::open_recorded(recorded).ok().flatten());
        AwaitedTask { task: row.task, supervisor, is_elsewhere, is_unreachable: false }
    }

    fn name(&self) -> String {
        let id = view::one_line(self.task.id.as_str());
        match self.task.host.as_deref().filter(|_| self.is_elsewhere) {
            Some(host) => format!("task {id} on host {}", view::one_line(host)),
            None => format!("task {id}"),
        }
    }

    fn progress(&mut self, source: &TaskSource) -> Result<TaskProgress, Error> {
        match source.ledger().filter(|_| !self.is_elsewhere) {
            Some(ledger) => progress(ledger, &self.task.id),
            None => Ok(self.progress_elsewhere(source)),
        }
    }

    /// What the fleet knows. Only its database says that a task has ended: an unreachable host may run it.
    fn progress_elsewhere(&mut self, source: &TaskSource) -> TaskProgress {
        let Some(row) = source.elsewhere(&self.task.id) else {
            return if source.away().is_some() { TaskProgress::Runs } else { deleted() };
        };
        if row.task.status != Status::Running {
            return ended(&row.task);
        }
        let was_unreachable = std::mem::replace(&mut self.is_unreachable, row.unreachable_since().is_some());
        if let Some(since) = row.unreachable_since().filter(|_| !was_unreachable) {
            log::warn(
                &format!("{}: its host is {}; bookend waits for it", self.name(), view::unreachable(since)),
                "it ends when the host is back, or when an operator declares the host lost",
            );
        }
        TaskProgress::Runs
    }
}

impl EndReports {
    /// Warns once, until the database answers again.
    fn note_away(&mut self, why: Option<String>) {
        let was_away = std::mem::replace(&mut self.is_away, why.is_some());
        if let Some(why) = why.filter(|_| !was_away) {
            log::warn(&format!("the fleet cannot be asked: {why}"), "bookend waits, and asks again");
        }
    }
}

/// Waits until an awaited task may have ended, at most `until`. Where the kernel does not report an end, that
/// is the next look.
fn await_change(reports: &mut EndReports, awaited: &mut [AwaitedTask], until: Instant) -> Result<(), Error> {
    let EndReports { ends, changes, .. } = reports;
    loop {
        let is_told = awaited.iter().all(|task| match task.is_elsewhere {
            true => changes.is_some(),
            false => ends.is_some() && task.supervisor.is_some(),
        });
        let until = if is_told { until } else { until.min(Instant::now() + POLL_INTERVAL) };
        let supervisors = awaited.iter().filter_map(|task| task.supervisor.as_ref()).map(AsFd::as_fd);
        let failed = |e| Error::failed("waiting for the end of a task").caused_by(e);
        let files = ends.iter().map(AsFd::as_fd).chain(changes.iter().map(AsFd::as_fd));
        identity::wait_for_any(files.chain(supervisors), until).map_err(failed)?;
        let has_changed = changes.as_mut().is_some_and(FleetChanges::take);
        let events = ends.as_mut().map(LedgerWatch::read).unwrap_or_default();
        if events.contains(&LedgerEvent::SpoolReplaced) {
            *ends = None;
        }
        let has_exited = note_exits(awaited);
        let is_due = |event: &LedgerEvent| awaited.iter().any(|task| may_end(event, &task.task.id));
        if has_exited || has_changed || Instant::now() >= until || events.iter().any(is_due) {
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

fn ended(task: &Task) -> TaskProgress {
    let (why, status) = (view::why(task), task.status);
    let why = if why.is_empty() { why } else { format!(" ({why})") };
    let took = task.duration_ms.map(|ms| format!(" after {}", view::duration(ms))).unwrap_or_default();
    TaskProgress::Ended(format!("{status}{why}{took}"), status == Status::Success)
}

fn deleted() -> TaskProgress {
    TaskProgress::Ended("its row was deleted".to_owned(), false)
}
