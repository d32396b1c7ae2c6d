//! `bookend stats`: counts, endings, costs and times of runs by agent, repo, key, model or day.

use std::io::IsTerminal;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use crate::commands::source::TaskSource;
use crate::error::Error;
use crate::exit::Exit;
use crate::log;
use crate::sys::stdout::print;
use crate::task::{GroupBy, TaskFilter};
use crate::view::{self, Screen};

/// The options of `bookend stats`.
#[derive(Debug)]
pub struct StatsOptions {
    pub by: Vec<GroupBy>,
    pub filter: TaskFilter,
    pub limit: usize,
    pub json: bool,
    /// Only the tasks of this ledger.
    pub here: bool,
}

/// # Errors
/// When the ledger cannot be read, or stdout not be written.
pub fn stats(options: &StatsOptions, ledger: Option<&Path>) -> Result<Exit, Error> {
    let source = TaskSource::open(ledger, options.here)?;
    source.require("no tasks")?;
    let name = source.name().to_owned();
    let read = move || source.stats(&options.by, &options.filter, options.limit);
    let stats = match std::io::stderr().is_terminal() {
        true => noticed(NOTICEABLE, || log::note(&format!("still reading {name}")), read)?,
        false => read()?,
    };
    let by: Vec<&str> = options.by.iter().map(|by| by.as_str()).collect();
    print(&match options.json {
        true => view::stats_json(&by, &stats.groups, &stats.total),
        false if stats.groups.is_empty() => format!("no such tasks in {name}\n"),
        false => {
            let text = view::stats(&by, &stats.groups, &stats.total, Screen::of(&std::io::stdout()));
            let more = if stats.has_more { "there are more groups (--limit N)\n" } else { "" };
            text + more
        }
    })?;
    Ok(Exit::Code(0))
}

/// A command that takes longer than this may seem to hang.
const NOTICEABLE: Duration = Duration::from_secs(1);

/// Does `work`, and calls `notice` once if it takes longer than `after`.
fn noticed<T>(after: Duration, notice: impl FnOnce() + Send, work: impl FnOnce() -> T) -> T {
    thread::scope(|scope| {
        let (done, is_done) = mpsc::channel::<()>();
        scope.spawn(move || {
            if is_done.recv_timeout(after) == Err(RecvTimeoutError::Timeout) {
                notice();
            }
        });
        let result = work();
        drop(done);
        result
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_work_that_takes_long_is_noticed() {
        let (noticed_now, notice) = mpsc::channel();
        let quick = noticed(Duration::MAX, || noticed_now.send(()).unwrap(), || 1);
        assert_eq!((quick, notice.try_recv().is_err()), (1, true));
        let (noticed_now, notice) = mpsc::channel();
        let slow = noticed(Duration::ZERO, || noticed_now.send(()).unwrap(), || notice.recv().is_ok());
        assert!(slow, "it was noticed while the work went on");
    }
}
