//! The result of a recovery: as JSON, and as lines on stdout.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};
use serde::Serialize;

use crate::ledger::{DeliveryStatus, UnsafeSession};
use crate::process::procfs::identity::poll_timeout;
use crate::process::spawn::caller;
use crate::task::{InterruptReason, Key, Task, TaskId};
use crate::view::{self, Hint, PREFIX, Screen};

/// How long the monitor waits for a reader of its stdout that does not read.
const PATIENCE: Duration = Duration::from_secs(1);
/// What a writable pipe takes at once: pipe(7).
const PIPE_BUF: usize = 4096;

/// What a recovery did or would do: the JSON of `recover --json`.
#[derive(Debug, Default, Serialize)]
pub struct RecoveryReport {
    pub ledger: PathBuf,
    pub dry_run: bool,
    /// Nothing is left for another recovery.
    pub settled: bool,
    /// How many tasks are running with a live supervisor.
    pub alive: usize,
    pub spool: Vec<SpoolReport>,
    pub interrupted: Vec<InterruptedTask>,
    pub unverifiable: Vec<UnsettledTask>,
    pub stuck: Vec<UnsettledTask>,
    pub sessions: Vec<UnsafeSession>,
    pub deliveries: Vec<DeliveredHook>,
    pub hints: Vec<Hint>,
    pub problems: Vec<String>,
}

impl RecoveryReport {
    /// Whether nothing was done.
    pub fn is_empty(&self) -> bool {
        let settled = self.spool.is_empty() && self.interrupted.is_empty() && self.sessions.is_empty();
        let doubtful = self.unverifiable.is_empty() && self.stuck.is_empty() && self.problems.is_empty();
        settled && doubtful && self.deliveries.is_empty() && self.hints.is_empty()
    }

    /// Sets [`RecoveryReport::settled`].
    pub fn conclude(&mut self) {
        self.settled = self.unverifiable.is_empty()
            && self.stuck.is_empty()
            && self.problems.is_empty()
            && self.spool.iter().all(|s| s.merged);
    }
}

/// A record in the spool.
#[derive(Debug, Serialize)]
pub struct SpoolReport {
    pub task: Option<TaskId>,
    pub merged: bool,
    pub text: String,
}

/// A task that was marked as interrupted.
#[derive(Debug, Serialize)]
pub struct InterruptedTask {
    pub id: TaskId,
    pub key: Option<Key>,
    pub reason: &'static str,
}

pub fn interrupted(task: &Task, reason: InterruptReason) -> InterruptedTask {
    InterruptedTask { id: task.id.clone(), key: task.key.clone(), reason: reason.as_str() }
}

/// A task that stays unsettled.
#[derive(Debug, Serialize)]
pub struct UnsettledTask {
    pub id: TaskId,
    pub key: Option<Key>,
    pub why: String,
}

/// An `--on-finish` command that was or would be run.
#[derive(Debug, Serialize)]
pub struct DeliveredHook {
    pub id: TaskId,
    pub status: &'static str,
}

/// How a recovery is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportFormat {
    /// A line for each action when it is done, and a summary.
    Text,
    /// As [`ReportFormat::Text`], without the summary.
    Lines,
    /// One JSON object.
    Json,
    /// One JSON object on one line.
    JsonLine,
}

/// Reports on stdout: each action when it is done, or all in one JSON object at the end.
pub struct Reporter {
    format: ReportFormat,
    screen: Screen,
    /// Why stdout could not be written.
    pub failed: Option<io::Error>,
    /// How long the reader may take now; nothing after it was too slow.
    patience: Duration,
    /// Only the beginning of a line was written.
    is_torn: bool,
}

impl Reporter {
    pub fn new(format: ReportFormat) -> Reporter {
        let closed = (!caller::was_open(1)).then(|| io::Error::from_raw_os_error(libc::EBADF));
        let screen = Screen::of(&io::stdout());
        Reporter { format, screen, failed: closed, patience: PATIENCE, is_torn: false }
    }

    pub fn line(&mut self, text: &str) {
        self.write_text(&format!("{PREFIX} {}\n", view::one_line(text)));
    }

    pub fn post_mortem(&mut self, hint: &Hint) {
        if io::stdout().is_terminal() {
            self.write_text(&hint.block(self.screen));
        } else {
            self.write_text(&format!("{PREFIX} {}\n", hint.line()));
        }
    }

    pub fn end(&mut self, report: &RecoveryReport) {
        match self.format {
            ReportFormat::Json => return self.write(&view::pretty(report)),
            ReportFormat::JsonLine => return self.write(&view::json_line(report)),
            ReportFormat::Lines => return,
            ReportFormat::Text => {}
        }
        if report.dry_run {
            self.preview(report);
        }
        self.write_text(&summary(report));
    }

    fn preview(&mut self, report: &RecoveryReport) {
        for s in &report.spool {
            self.line(&s.text);
        }
        for e in &report.interrupted {
            self.line(&format!("task {} would be interrupted ({})", e.id, e.reason));
        }
        for o in &report.unverifiable {
            self.line(&format!("task {} {}", o.id, o.why));
        }
        for s in &report.sessions {
            self.line(&format!("key {}: session {} would be invalidated: {}", s.key, s.session_id, s.why));
        }
        for d in &report.deliveries {
            self.line(&format!("the --on-finish command of task {} would be run", d.id));
        }
        for hint in &report.hints {
            self.post_mortem(hint);
        }
    }

    fn write_text(&mut self, text: &str) {
        if matches!(self.format, ReportFormat::Text | ReportFormat::Lines) {
            self.write(text);
        }
    }

    /// A closed stdout does not stop a recovery.
    fn write(&mut self, text: &str) {
        let written = match self.format {
            ReportFormat::Text | ReportFormat::Json => write_out(text.as_bytes()),
            // What follows in this round is printed with it later.
            ReportFormat::Lines | ReportFormat::JsonLine if self.failed.is_some() => return,
            ReportFormat::Lines | ReportFormat::JsonLine => self.write_in_time(text),
        };
        if let Err(e) = written {
            self.failed.get_or_insert(e);
        }
    }

    /// Gives up on a reader that does not read: the monitor would neither settle nor stop meanwhile.
    fn write_in_time(&mut self, text: &str) -> io::Result<()> {
        let until = Instant::now() + std::mem::take(&mut self.patience);
        let text = if self.is_torn { format!("\n{text}") } else { text.to_owned() };
        for part in text.as_bytes().chunks(PIPE_BUF) {
            wait_for_room(until)?;
            write_out(part)?;
            self.is_torn = true;
        }
        (self.is_torn, self.patience) = (false, PATIENCE);
        Ok(())
    }
}

fn write_out(text: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text).and_then(|()| stdout.flush())
}

/// Waits until stdout takes [`PIPE_BUF`] bytes.
fn wait_for_room(until: Instant) -> io::Result<()> {
    let stdout = io::stdout();
    let mut fds = [PollFd::new(stdout.as_fd(), PollFlags::POLLOUT)];
    match poll(&mut fds, poll_timeout(until.saturating_duration_since(Instant::now())))? {
        0 => Err(io::Error::new(io::ErrorKind::TimedOut, "its reader does not read")),
        _ => Ok(()),
    }
}

/// `[recovery] 2 tasks interrupted, 1 task running, … in /…/bookend.db`
fn summary(report: &RecoveryReport) -> String {
    let would = if report.dry_run { "nothing was changed; a recovery would report: " } else { "" };
    let failed = report.deliveries.iter().filter(|d| d.status == DeliveryStatus::Failed.as_str()).count();
    let delivered = report.deliveries.len() - failed;
    let counts = [
        (report.interrupted.len(), "task interrupted", "tasks interrupted"),
        (report.alive, "task running", "tasks running"),
        (report.unverifiable.len(), "unverifiable task", "unverifiable tasks"),
        (report.stuck.len(), "stuck task", "stuck tasks"),
        (report.spool.len(), "spooled record", "spooled records"),
        (report.sessions.len(), "unsafe session", "unsafe sessions"),
        (delivered, "command delivered", "commands delivered"),
        (report.hints.len(), "interrupted task reported", "interrupted tasks reported"),
        (report.problems.len() + failed, "failure", "failures"),
    ];
    let counted = counts.iter().filter(|(n, ..)| *n > 0);
    let parts: Vec<String> =
        counted.map(|(n, one, many)| format!("{n} {}", if *n == 1 { one } else { many })).collect();
    let parts = if parts.is_empty() { "nothing to settle".to_owned() } else { parts.join(", ") };
    format!("{PREFIX} {would}{parts} in {}\n", view::one_line(&report.ledger.to_string_lossy()))
}
