//! Cancels tasks of other hosts: each host is ordered to do so, and its monitor asks the supervisor.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crate::commands::source::TaskSource;
use crate::error::{Error, Kind};
use crate::fleet::{FleetChanges, OrderAnswer};
use crate::log;
use crate::process::procfs::identity;
use crate::sys::stdout::print;
use crate::task::{FleetTask, Status, TaskId};
use crate::view;

/// How often a task is looked at if nothing reports changes.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// A task that its host was ordered to cancel.
pub(super) struct OrderedCancel {
    id: TaskId,
    host: String,
    number: i64,
}

/// What a look at an ordered task found.
enum OrderProgress {
    Runs,
    Ended(String),
    /// The order stands, or cannot be carried out; why.
    Stays(Error),
}

/// Orders the host of a task to cancel it, and reports that.
pub(super) fn order(source: &TaskSource, row: &FleetTask) -> Result<OrderedCancel, Error> {
    let id = &row.task.id;
    let host = view::one_line(row.task.host.as_deref().unwrap_or("?")).into_owned();
    let has_ended =
        |status: &str| Error::new(Kind::Nothing, format!("task {id} is not running: it ended as {status}"));
    if row.task.status != Status::Running {
        return Err(has_ended(row.task.status.as_str()));
    }
    match source.order_cancel(id)? {
        OrderAnswer::Ordered { number } => {
            print(&format!("task {}: ordered host {host} to cancel it\n", view::one_line(id.as_str())))?;
            Ok(OrderedCancel { id: id.clone(), host, number })
        }
        OrderAnswer::Ended { status } => Err(has_ended(&status)),
        OrderAnswer::Unknown => {
            Err(Error::new(Kind::Nothing, format!("task {id} is no longer in the fleet")))
        }
    }
}

/// Waits for the ends of the tasks, and reports them. Returns whether all have ended.
pub(super) fn report_ends(
    source: &mut TaskSource,
    mut ordered: Vec<OrderedCancel>,
    wait: Duration,
    began: Instant,
) -> Result<bool, Error> {
    let mut changes = if ordered.is_empty() { None } else { source.changes() };
    let (until, mut all_ended, mut was_away) = (Instant::now() + wait, true, false);
    loop {
        source.refresh();
        let mut running = Vec::new();
        for task in ordered {
            match task.progress(source) {
                OrderProgress::Runs => running.push(task),
                OrderProgress::Ended(how) => {
                    print(&format!("{}: {how} after {}\n", task.name(), since(began)))?
                }
                OrderProgress::Stays(why) => {
                    all_ended = false;
                    log::fail(&why);
                }
            }
        }
        if running.is_empty() {
            return Ok(all_ended);
        }
        let away = source.away();
        if let Some(why) = away.as_ref().filter(|_| !was_away) {
            log::warn(&format!("the fleet cannot be asked: {why}"), "bookend waits, and asks again");
        }
        was_away = away.is_some();
        if Instant::now() >= until {
            for task in &running {
                print(&format!("{}: still running after {}\n", task.name(), since(began)))?;
            }
            return Ok(false);
        }
        await_change(&mut changes, until)?;
        ordered = running;
    }
}

impl OrderedCancel {
    fn name(&self) -> String {
        format!("task {} on host {}", view::one_line(self.id.as_str()), self.host)
    }

    fn progress(&self, source: &TaskSource) -> OrderProgress {
        // Before the row: a result that is read first does not hide an end.
        let result = source.order_result(self.number);
        let Some(row) = source.elsewhere(&self.id) else {
            return match source.away() {
                Some(_) => OrderProgress::Runs,
                None => OrderProgress::Ended("its row was deleted".to_owned()),
            };
        };
        if row.task.status != Status::Running {
            let why = view::why(&row.task);
            let why = if why.is_empty() { why } else { format!(" ({why})") };
            return OrderProgress::Ended(format!("{}{why}", row.task.status));
        }
        let stays = |message, hint: &str| {
            OrderProgress::Stays(Error::new(Kind::Nothing, message).hint(hint.to_owned()))
        };
        match (result, row.unreachable_since()) {
            (Some(result), _) if result.starts_with("refused") || result.starts_with("no such") => {
                let why = view::one_line(&result);
                stays(format!("{} is not cancelled: {why}", self.name()), "cancel it where it was started")
            }
            (None, Some(since)) => stays(
                format!("{} is not cancelled yet: its host is {}", self.name(), view::unreachable(since)),
                "the order stands: the host cancels the task when it is back",
            ),
            (Some(_), Some(since)) => stays(
                format!("{} was asked to end, and its host is {}", self.name(), view::unreachable(since)),
                "the command `wait` waits until the host is back and reports the end",
            ),
            _ => OrderProgress::Runs,
        }
    }
}

fn since(began: Instant) -> String {
    view::duration(began.elapsed().as_millis() as i64)
}

/// Waits until the task may have ended, at most `until`.
fn await_change(changes: &mut Option<FleetChanges>, until: Instant) -> Result<(), Error> {
    let until = if changes.is_some() { until } else { until.min(Instant::now() + POLL_INTERVAL) };
    let failed = |e| Error::failed("waiting for the end of a task").caused_by(e);
    identity::wait_for_any(changes.iter().map(AsFd::as_fd), until).map_err(failed)?;
    changes.as_mut().map(FleetChanges::take);
    Ok(())
}
