//! The spool: where a terminal record waits that the ledger could not take.
//!
//! Its room on the disk is taken before the task starts, so that a full disk cannot swallow the end.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::posix_fallocate;
use serde::{Deserialize, Serialize};

use super::error::{LedgerError, Result};
use super::{location, open};
use crate::exit::Exit;
use crate::failpoint;
use crate::sys::files;
use crate::task::{Counts, EndSource, Ended, Ending, KeepSession, Sender, SessionId, Signal, Status, TaskId};

const SLOT_BYTES: i64 = 16 * 1024;
/// What of an error's text is kept if the record else does not fit into its slot.
const SHORT_ERROR_CHARS: usize = 2000;
const RECORD_VERSION: u32 = 1;
/// A longer file is no record: texts in one are cut long before.
const LONGEST_RECORD: u64 = 4 << 20;
/// What most file systems allow for a name, less our suffixes.
const LONGEST_NAME: usize = 200;

/// A record as it lies in the spool: flat, of its own version, independent of the tables.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    version: u32,
    task: TaskId,
    by_pid: u32,
    by_command: String,
    status: String,
    reason: Option<String>,
    error: Option<String>,
    finished_at: Option<String>,
    duration_ms: Option<i64>,
    exit_code: Option<i32>,
    term_signal: Option<Signal>,
    stop_signal: Option<Signal>,
    stop_sender_pid: Option<i32>,
    stop_sender_uid: Option<u32>,
    cost_usd: Option<f64>,
    turns: Option<i64>,
    input_tokens: Option<i64>,
    output_tokens: Option<i64>,
    cache_read_tokens: Option<i64>,
    cache_creation_tokens: Option<i64>,
    session_cost_usd: Option<f64>,
    model: Option<String>,
    session_id: Option<SessionId>,
    #[serde(default)]
    tool_in_flight: Option<String>,
    #[serde(default)]
    context_lost: bool,
    #[serde(default)]
    transcript_seen: Option<bool>,
    #[serde(default)]
    session_kept: Option<KeepSession>,
    #[serde(default)]
    limit_resets_at: Option<String>,
    oom_killed: Option<bool>,
    cpu_ms: Option<i64>,
    max_rss_kib: Option<i64>,
    leftovers: Option<String>,
    executed: bool,
}

impl Record {
    fn new(task: &TaskId, ended: &Ended, by: &str) -> Record {
        let (exit_code, term_signal) = match ended.exit {
            Some(Exit::Code(code)) => (Some(code), None),
            Some(Exit::Signal(signal)) => (None, Some(signal)),
            None => (None, None),
        };
        Record {
            version: RECORD_VERSION,
            task: task.to_owned(),
            by_pid: std::process::id(),
            by_command: by.to_owned(),
            status: ended.ending.status().as_str().to_owned(),
            reason: ended.ending.reason().map(str::to_owned),
            error: ended.error.clone(),
            finished_at: ended.finished_at.clone(),
            duration_ms: ended.duration_ms,
            exit_code,
            term_signal,
            stop_signal: ended.stop_signal,
            stop_sender_pid: ended.stop_sender.map(|s| s.pid),
            stop_sender_uid: ended.stop_sender.map(|s| s.uid),
            cost_usd: ended.counts.cost_usd,
            turns: ended.counts.turns,
            input_tokens: ended.counts.input_tokens,
            output_tokens: ended.counts.output_tokens,
            cache_read_tokens: ended.counts.cache_read_tokens,
            cache_creation_tokens: ended.counts.cache_creation_tokens,
            session_cost_usd: ended.session_cost_usd,
            model: ended.model.clone(),
            session_id: ended.session_id.clone(),
            tool_in_flight: ended.tool_in_flight.clone(),
            context_lost: ended.context_lost,
            transcript_seen: ended.transcript_seen,
            session_kept: ended.session_kept,
            limit_resets_at: ended.limit_resets_at.clone(),
            oom_killed: ended.oom_killed,
            cpu_ms: ended.cpu_ms,
            max_rss_kib: ended.max_rss_kib,
            leftovers: ended.leftovers.clone(),
            executed: ended.executed,
        }
    }

    /// As it lies in the spool.
    fn sealed(&self) -> io::Result<Vec<u8>> {
        let bytes = serde_json::to_vec(self)?;
        let rest = &bytes[1..];
        Ok([seal(rest).as_bytes(), rest].concat())
    }

    /// Leaves out what makes a record too long for its slot.
    fn shorten(&mut self) {
        self.error = self.error.take().map(|e| e.chars().take(SHORT_ERROR_CHARS).collect());
        self.leftovers = None;
    }

    /// One line of ASCII, which a terminal and the journal show as it is. It is a valid record.
    fn line(&self) -> io::Result<String> {
        let mut rest = String::new();
        for c in serde_json::to_string(self)?.chars().skip(1) {
            match c {
                ' '..='~' => rest.push(c),
                // serde_json has escaped the control characters below it.
                _ => c.encode_utf16(&mut [0; 2]).iter().for_each(|u| rest.push_str(&format!("\\u{u:04x}"))),
            }
        }
        Ok(seal(rest.as_bytes()) + &rest)
    }

    fn ended(self) -> std::result::Result<Ended, String> {
        let ending = Status::parse(&self.status)
            .and_then(|status| Ending::from_words(status, self.reason.as_deref()))
            .ok_or_else(|| format!("no ending is called {:?}, {:?}", self.status, self.reason))?;
        Ok(Ended {
            ending,
            error: self.error,
            source: EndSource::Spool,
            finished_at: self.finished_at,
            duration_ms: self.duration_ms,
            exit: self.exit_code.map(Exit::Code).or(self.term_signal.map(Exit::Signal)),
            stop_signal: self.stop_signal,
            stop_sender: match (self.stop_sender_pid, self.stop_sender_uid) {
                (Some(pid), Some(uid)) => Some(Sender { pid, uid }),
                _ => None,
            },
            counts: Counts {
                cost_usd: self.cost_usd,
                turns: self.turns,
                input_tokens: self.input_tokens,
                output_tokens: self.output_tokens,
                cache_read_tokens: self.cache_read_tokens,
                cache_creation_tokens: self.cache_creation_tokens,
            },
            session_cost_usd: self.session_cost_usd,
            model: self.model,
            session_id: self.session_id,
            tool_in_flight: self.tool_in_flight,
            context_lost: self.context_lost,
            transcript_seen: self.transcript_seen,
            session_kept: self.session_kept,
            limit_resets_at: self.limit_resets_at,
            oom_killed: self.oom_killed,
            cpu_ms: self.cpu_ms,
            max_rss_kib: self.max_rss_kib,
            leftovers: self.leftovers,
            executed: self.executed,
        })
    }
}

/// How a record begins, still as JSON: the FNV-1a hash of the `rest`, so that no damage passes for an ending.
fn seal(rest: &[u8]) -> String {
    let hash = rest.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{{\"check\":\"{hash:016x}\",")
}
const SEAL_BYTES: usize = r#"{"check":"0123456789abcdef","#.len();

/// The room kept for one task's record. It stays behind if its supervisor dies; recovery removes it.
#[derive(Debug)]
pub struct SpoolSlot {
    file: File,
    slot: PathBuf,
    record: PathBuf,
    task: TaskId,
}

impl SpoolSlot {
    /// Takes the room, 16 KiB.
    pub(super) fn reserve(dir: &Path, id: &TaskId) -> Result<SpoolSlot> {
        let slot = slot_path(dir, id)?;
        let failed = |e| LedgerError::io("keeping room for the terminal record:", &slot, e);
        let file = create(&slot).map_err(failed)?;
        if let Err(e) = allocate(&file).and_then(|()| failpoint::hit("spool.reserved")) {
            let _ = fs::remove_file(&slot);
            return Err(failed(e));
        }
        Ok(SpoolSlot { file, record: record_path(dir, id)?, slot, task: id.to_owned() })
    }

    /// Writes the record durably; the path under which it waits. `by` is the command that ends the task.
    pub fn write(&self, ended: &Ended, by: &str) -> Result<PathBuf> {
        self.put(ended, by)
            .map_err(|e| LedgerError::io("writing the terminal record to the spool:", &self.record, e))?;
        Ok(self.record.clone())
    }

    /// The record as one line of JSON, for what cannot be written anywhere, and the file that it belongs in.
    pub fn line(&self, ended: &Ended, by: &str) -> (String, &Path) {
        let mut record = Record::new(&self.task, ended, by);
        record.shorten();
        (record.line().unwrap_or_default(), &self.record)
    }

    fn put(&self, ended: &Ended, by: &str) -> io::Result<()> {
        let created;
        let file = if self.is_in_place() {
            &self.file
        } else {
            // Removed, or something else put there, which would be given the record's name.
            created = create(&self.slot)?;
            &created
        };
        let mut record = Record::new(&self.task, ended, by);
        let mut bytes = record.sealed()?;
        if bytes.len() as i64 > SLOT_BYTES && fill(file, &bytes).is_err() {
            record.shorten();
            bytes = record.sealed()?;
        }
        fill(file, &bytes)?;
        failpoint::hit("spool.filled")?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.sync_all()?;
        failpoint::hit("spool.synced")?;
        fs::rename(&self.slot, &self.record)?;
        failpoint::hit("spool.renamed")?;
        location::sync_directory(self.record.parent().unwrap_or(Path::new("/")))
    }

    fn is_in_place(&self) -> bool {
        let (here, held) = (fs::symlink_metadata(&self.slot), self.file.metadata());
        here.is_ok_and(|h| held.is_ok_and(|o| (h.dev(), h.ino()) == (o.dev(), o.ino())))
    }

    /// Gives the room back: the ledger took the record.
    pub fn discard(self) -> Result<()> {
        failpoint::hit("spool.discard")
            .and_then(|()| open::remove_if_there(&self.slot))
            .map_err(|e| LedgerError::io("removing the unused spool slot", &self.slot, e))
    }
}

fn fill(mut file: &File, bytes: &[u8]) -> io::Result<()> {
    failpoint::hit("spool.fill")?;
    io::Seek::rewind(&mut file)?;
    file.write_all(bytes)?;
    file.set_len(bytes.len() as u64)
}

/// A slot of our own making. What lies there can only be a dead task's, since ids are unique in the ledger; a
/// link is removed, never followed.
fn create(slot: &Path) -> io::Result<File> {
    let create = || {
        failpoint::hit("spool.reserve")?;
        OpenOptions::new().write(true).create_new(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(slot)
    };
    match create() {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => open::remove_if_there(slot).and_then(|()| create()),
        other => other,
    }
}

/// posix_fallocate(3), or zeros where the file system has no such call.
fn allocate(file: &File) -> io::Result<()> {
    match posix_fallocate(file, 0, SLOT_BYTES) {
        Ok(()) => Ok(()),
        Err(Errno::EOPNOTSUPP | Errno::EINVAL | Errno::ENOSYS) => {
            (&*file).write_all(&[0; SLOT_BYTES as usize])
        }
        Err(e) => Err(e.into()),
    }
}

/// A file that waits in the spool.
#[derive(Debug)]
pub(super) struct Waiting {
    pub path: PathBuf,
    pub content: Content,
}

#[derive(Debug)]
pub(super) enum Content {
    Record(Box<Spooled>),
    /// What is in it is no record.
    Unreadable(String),
    /// It cannot be read now; perhaps later.
    Failed(io::Error),
}

#[derive(Debug)]
pub(super) struct Spooled {
    pub task: TaskId,
    pub by_pid: u32,
    pub by_command: String,
    pub ended: Ended,
}

impl Waiting {
    fn read(path: PathBuf) -> Option<Waiting> {
        let read = || files::read(&path, libc::O_NOFOLLOW, LONGEST_RECORD);
        let content = match failpoint::hit("merge.read").and_then(|()| read()) {
            // Another command has merged it meanwhile.
            Err(e) if e.kind() == ErrorKind::NotFound => return None,
            // Nothing of bookend's making: it will not become a record later.
            Err(e) if e.kind() == ErrorKind::InvalidData => Content::Unreadable(e.to_string()),
            Err(e) if e.raw_os_error() == Some(libc::ELOOP) => {
                Content::Unreadable("it is a symbolic link, which bookend does not follow there".to_owned())
            }
            Err(e) => Content::Failed(e),
            Ok(bytes) => parse(&bytes).unwrap_or_else(Content::Unreadable),
        };
        Some(Waiting { path, content })
    }

    fn finished_at(&self) -> Option<&str> {
        match &self.content {
            Content::Record(record) => record.ended.finished_at.as_deref(),
            Content::Unreadable(_) | Content::Failed(_) => None,
        }
    }
}

fn parse(bytes: &[u8]) -> std::result::Result<Content, String> {
    if bytes.split_at_checked(SEAL_BYTES).is_none_or(|(head, rest)| head != seal(rest).as_bytes()) {
        return Err("it is no record, or was cut or damaged: its check does not fit".to_owned());
    }
    let record: Record = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    if record.version != RECORD_VERSION {
        return Err(format!("it has version {}, not {RECORD_VERSION}", record.version));
    }
    Ok(Content::Record(Box::new(Spooled {
        task: record.task.clone(),
        by_pid: record.by_pid,
        by_command: record.by_command.clone(),
        ended: record.ended()?,
    })))
}

/// The files that wait, by name. Kept ones and the slots of tasks that still run are none of them.
pub(super) fn waiting(dir: &Path) -> Result<Vec<PathBuf>> {
    let waits = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        name.ends_with(b".json") && !name.starts_with(b".") && !name.ends_with(b".kept.json")
    };
    let mut paths: Vec<PathBuf> = entries(dir)?.into_iter().filter(waits).collect();
    paths.sort();
    Ok(paths)
}

/// All that lies in the spool.
fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other,
    };
    entries
        .and_then(|all| all.map(|e| e.map(|e| e.path())).collect())
        .map_err(|e| LedgerError::io("reading the spool", dir, e))
}

/// The waiting records in the order in which their tasks ended; what cannot be read comes first.
pub(super) fn read_all(paths: Vec<PathBuf>) -> Vec<Waiting> {
    let mut all: Vec<Waiting> = paths.into_iter().filter_map(Waiting::read).collect();
    all.sort_by(|a, b| a.finished_at().cmp(&b.finished_at()));
    all
}

/// The readable record of one task.
pub(super) fn waiting_for(dir: &Path, id: &TaskId) -> Result<Option<Ended>> {
    let path = record_path(dir, id)?;
    match Waiting::read(path.clone()).map(|w| w.content) {
        Some(Content::Record(record)) if record.task == *id => Ok(Some(record.ended)),
        Some(Content::Failed(e)) => Err(LedgerError::io("reading the spooled record", &path, e)),
        _ => Ok(None),
    }
}

/// Removes a merged record, durably: else a power cut would bring it back as one to report.
pub(super) fn remove(path: &Path) -> Result<()> {
    open::remove_if_there(path)
        .and_then(|()| failpoint::hit("merge.removed"))
        .and_then(|()| location::sync_directory(path.parent().unwrap_or(Path::new("/"))))
        .map_err(|e| LedgerError::io("removing the merged record", path, e))
}

/// Puts aside a record that cannot be merged, never over another one; its new path.
pub(super) fn keep(path: &Path) -> Result<PathBuf> {
    let stem = path.with_extension("");
    let kept = (0u32..)
        .map(|n| match n {
            0 => location::with_suffix(&stem, ".kept.json"),
            n => location::with_suffix(&stem, &format!(".{n}.kept.json")),
        })
        .find(|p| !p.exists())
        .unwrap_or_else(|| path.to_owned());
    match fs::rename(path, &kept).and_then(|()| failpoint::hit("merge.kept")) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            Err(LedgerError::io("putting the spooled record aside:", path, e))
        }
        _ => Ok(kept),
    }
}

/// Removes what a dead task has in the spool: its slot, and its record if that `is_merged`.
pub(super) fn clear(dir: &Path, id: &TaskId, is_merged: bool) -> Result<()> {
    let record = if is_merged { Some(record_path(dir, id)?) } else { None };
    for path in record.into_iter().chain([slot_path(dir, id)?]) {
        open::remove_if_there(&path).map_err(|e| LedgerError::io("clearing the spool:", &path, e))?;
    }
    Ok(())
}

/// The slots, and the ids of the tasks for whose records they are kept free.
pub(super) fn slots(dir: &Path) -> Result<Vec<(PathBuf, TaskId)>> {
    let names = entries(dir)?.into_iter();
    Ok(names.filter_map(|path| slot_id(&path).map(|id| (path, id))).collect())
}

fn slot_id(path: &Path) -> Option<TaskId> {
    id_of(path.file_name()?.to_str()?.strip_prefix('.')?.strip_suffix(".slot")?)
}

/// What [`file_name`] made a name of.
fn id_of(name: &str) -> Option<TaskId> {
    let mut id = Vec::new();
    let mut rest = name.bytes();
    while let Some(byte) = rest.next() {
        id.push(match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(id).ok().map(TaskId::recorded)
}

fn slot_path(dir: &Path, id: &TaskId) -> Result<PathBuf> {
    Ok(dir.join(format!(".{}.slot", file_name(id)?)))
}

fn record_path(dir: &Path, id: &TaskId) -> Result<PathBuf> {
    Ok(dir.join(format!("{}.json", file_name(id)?)))
}

/// An id, which the user may have chosen, as a name that stays in its directory and is no other id's.
fn file_name(id: &TaskId) -> Result<String> {
    let mut name = String::new();
    for byte in id.as_str().bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => name.push(byte.into()),
            _ => name.push_str(&format!("%{byte:02X}")),
        }
    }
    if name.is_empty() || name.len() > LONGEST_NAME {
        return Err(LedgerError::IdTooLong { id: id.clone() });
    }
    Ok(name)
}

#[cfg(any(test, fuzzing))]
#[path = "../../tests/fuzz/properties/spool.rs"]
pub mod fuzz;

#[cfg(test)]
mod tests;
