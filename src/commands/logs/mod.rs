//! `bookend logs`: the transcript of a task's conversation as text, and its further lines as they come.

mod file;
mod waker;
mod writer;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::agents::refused;
use crate::agent::{self, Adapter, TranscriptReader};
use crate::commands::find::{self, TaskChoice};
use crate::error::{Error, Kind};
use crate::exit::Exit;
use crate::ledger::{self, Ledger};
use crate::log;
use crate::recovery::liveness;
use crate::sys::stdout::print;
use crate::task::{Status, Task, Time, Verdict};
use crate::view;
use file::TranscriptFile;
use waker::Waker;
use writer::{LogForm, Part, Writer};

/// The options of `bookend logs`.
#[derive(Debug)]
pub struct LogsOptions {
    pub which: TaskChoice,
    /// Print what is added until the task has ended.
    pub follow: bool,
    /// Print the lines of the transcript as they are.
    pub raw: bool,
    /// Print the whole conversation, not only what was said while the task ran.
    pub all: bool,
}

/// Prints the conversation of a task, or the path of a transcript in a form that bookend does not know.
///
/// # Errors
/// When the ledger or the transcript cannot be read, or there is no transcript.
pub fn logs(options: &LogsOptions, ledger: Option<&Path>) -> Result<Exit, Error> {
    let at = ledger::locate(ledger)?;
    let (ledger, task) = find::find(&options.which, &at)?;
    let adapter = task.agent_type.as_deref().map(agent::by_type).transpose().map_err(refused)?;
    let adapter = adapter.flatten().filter(|a| a.tracks_sessions());
    let adapter = adapter.ok_or_else(|| {
        let program = task.agent_type.as_deref().filter(|kind| *kind != "command").or(task.agent.as_deref());
        let message = format!(
            "task {}: bookend does not know where {} stores conversations",
            task.id,
            program.unwrap_or("its agent")
        );
        Error::new(Kind::Nothing, message).hint(
            "what the agent printed went to whoever started bookend; a systemd unit has it in the journal",
        )
    })?;
    let Some(reader) = adapter.transcript_reader() else { return path_of(adapter, &task) };
    let mut log = TaskLog { options, ledger, adapter, reader, task, file: None };
    log.print()?;
    Ok(Exit::Code(0))
}

/// Prints the path of a transcript whose form bookend does not know.
fn path_of(adapter: &dyn Adapter, task: &Task) -> Result<Exit, Error> {
    let path = path(adapter, task)?;
    if !path.exists() {
        return Err(missing(adapter, task, &path));
    }
    print(&format!("{}\n", view::one_line(&path.to_string_lossy())))?;
    Ok(Exit::Code(0))
}

/// Where the agent stores the conversation of the task.
fn path(adapter: &dyn Adapter, task: &Task) -> Result<PathBuf, Error> {
    let Some(session) = &task.session_id else {
        let why = match &task.session_untracked {
            Some(why) => format!("its session is not tracked ({why})"),
            None => "its agent reported no session".to_owned(),
        };
        return Err(Error::new(Kind::Nothing, format!("task {} has no transcript: {why}", task.id)));
    };
    let cwd = Path::new(task.cwd.as_deref().unwrap_or("/"));
    adapter.transcript(cwd, session).ok_or_else(|| {
        let kind = adapter.agent_type();
        let message =
            format!("task {}: bookend does not know where {kind} stores session {session}", task.id);
        Error::new(Kind::Nothing, message)
    })
}

fn missing(adapter: &dyn Adapter, task: &Task, path: &Path) -> Error {
    let kind = adapter.agent_type();
    let message = format!("task {}: {kind} has no transcript at {}", task.id, path.display());
    Error::new(Kind::Nothing, message).hint(match task.status {
        Status::Running => "the agent may not have written it yet: --follow waits for it",
        _ => {
            "if the agent ran as another user, on another machine or with other settings, look for it there; \
             agents delete old ones"
        }
    })
}

/// The transcript of one task on its way to stdout.
struct TaskLog<'a> {
    options: &'a LogsOptions,
    ledger: Ledger,
    adapter: &'static dyn Adapter,
    reader: TranscriptReader,
    task: Task,
    file: Option<TranscriptFile>,
}

impl TaskLog<'_> {
    fn print(&mut self) -> Result<(), Error> {
        let form = if self.options.raw { LogForm::Raw } else { LogForm::Text };
        let mut writer = Writer::new(form, self.reader);
        let mut waker = self.options.follow.then(|| Waker::new(&self.task));
        loop {
            // The row first: what the agent wrote before its end is read after that.
            let is_over = !self.options.follow || self.has_ended()?;
            writer.select(self.part()?);
            self.open(is_over, &mut writer)?;
            if let Some(file) = &mut self.file {
                file.read(is_over, &mut |line| writer.line(line))?;
            }
            writer.flush()?;
            let Some(waker) = waker.as_mut().filter(|_| !is_over) else { break };
            if let Ok(path) = path(self.adapter, &self.task) {
                waker.watch(&path);
            }
            waker.wait()?;
        }
        self.conclude(&writer)
    }

    /// Reads the row again; whether the task has ended or is lost.
    fn has_ended(&mut self) -> Result<bool, Error> {
        self.task = find::find_in(&self.ledger, self.task.id.as_str())?;
        Ok(match liveness::verdict(&self.ledger, &mut self.task)? {
            None => true,
            Some(Verdict::Alive | Verdict::Unverifiable) => false,
            Some(Verdict::Gone | Verdict::Recycled) => {
                log::note(&format!("task {}: {}", self.task.id, find::killed(&self.ledger)));
                true
            }
        })
    }

    /// The part of the conversation that was written while the task ran.
    fn part(&self) -> Result<Part, Error> {
        let begins = self.task.resumed_from.is_none();
        let Some(from) = self.task.started_at.time().filter(|_| !self.options.all) else {
            return Ok(Part { from: Time::UNIX_EPOCH, until: None, begins: true });
        };
        // In the background the conversation goes on after the task.
        let is_background = self.task.reason.as_deref() == Some("backgrounded");
        let until = match &self.task.finished_at {
            Some(at) if !is_background => at.time(),
            _ => match &self.task.session_id {
                Some(session) => self.ledger.next_use(&self.task.id, session)?.and_then(|at| at.time()),
                None => None,
            },
        };
        Ok(Part { from, until, begins })
    }

    /// Opens the transcript, unless it is open. While the task runs, it may not be there yet.
    fn open(&mut self, is_over: bool, writer: &mut Writer) -> Result<(), Error> {
        if let Some(file) = &self.file {
            if !file.was_replaced() {
                return Ok(());
            }
            log::note(&format!("{} was replaced: it is read from its beginning", file.path().display()));
            writer.begin_again();
            self.file = None;
        }
        let path = match path(self.adapter, &self.task) {
            Err(_) if !is_over => return Ok(()),
            path => path?,
        };
        match TranscriptFile::open(&path) {
            Ok(file) => self.file = Some(file),
            Err(e) if e.kind() == ErrorKind::NotFound && !is_over => {}
            Err(e) if e.kind() == ErrorKind::NotFound => {
                return Err(missing(self.adapter, &self.task, &path));
            }
            Err(e) => return Err(file::failed(&path, e)),
        }
        Ok(())
    }

    /// Reports what could not be read.
    fn conclude(&self, writer: &Writer) -> Result<(), Error> {
        let Some(file) = &self.file else { return Ok(()) };
        let path = file.path().display();
        let (kind, id) = (self.adapter.agent_type(), &self.task.id);
        if file.is_empty() {
            return Err(Error::new(Kind::Nothing, format!("task {id}: the transcript {path} is empty")));
        }
        if writer.entries == 0 {
            return Err(Error::failed(format!(
                "{path} is not a transcript of {kind}: it has no line of JSON"
            )));
        }
        match writer.unreadable {
            0 => {}
            1 => log::note(&format!("{path}: 1 line is not an entry and was left out")),
            n => log::note(&format!("{path}: {n} lines are not entries and were left out")),
        }
        if writer.printed == 0 {
            let message = format!("{path} has nothing from the time in which task {id} ran");
            return Err(Error::new(Kind::Nothing, message).hint("--all prints the whole conversation"));
        }
        Ok(())
    }
}
