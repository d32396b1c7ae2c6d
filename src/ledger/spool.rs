//! The spool: it holds the record of an end that the ledger could not take.
//!
//! The disk space is reserved before the task starts, so that a full disk cannot lose the end.

pub mod record;

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::posix_fallocate;
use tracing::debug;

use super::error::{LedgerError, Result};
use super::{file_check, location};
use crate::failpoint;
use crate::sys::files;
use crate::task::{TaskEnd, TaskId, Time};
use record::{Record, SpooledEnd, parse};

const SLOT_BYTES: i64 = 16 * 1024;
/// A longer file is not a record: its texts are truncated.
const LONGEST_RECORD: u64 = 4 << 20;
/// The longest file name that most file systems allow, less the suffixes.
const LONGEST_NAME: usize = 200;

/// The space reserved for the record of one task. Its supervisor keeps it open: when it is closed and stays,
/// the supervisor died or failed, and recovery finishes the task.
#[derive(Debug)]
pub struct SpoolSlot {
    /// `None`: it has become the record, and no other could be created.
    file: Option<File>,
    slot: PathBuf,
    record: PathBuf,
    task: TaskId,
}

/// The slot of a task whose end is recorded. It is empty, and open until nothing is left to do for the task.
#[derive(Debug)]
pub struct HeldSlot {
    _file: Option<File>,
    slot: PathBuf,
}

impl SpoolSlot {
    /// Reserves 16 KiB.
    pub(super) fn reserve(dir: &Path, id: &TaskId) -> Result<SpoolSlot> {
        let slot = slot_path(dir, id)?;
        let failed = |e| LedgerError::io("reserving space for the terminal record:", &slot, e);
        let file = create(&slot).map_err(failed)?;
        if let Err(e) = allocate(&file).and_then(|()| failpoint::hit("spool.reserved")) {
            let _ = fs::remove_file(&slot);
            return Err(failed(e));
        }
        Ok(SpoolSlot { file: Some(file), record: record_path(dir, id)?, slot, task: id.to_owned() })
    }

    /// Writes the record durably, and returns its path. `by` is the command that ends the task.
    pub fn write(&mut self, ended: &TaskEnd, by: &str) -> Result<PathBuf> {
        self.put(ended, by)
            .map_err(|e| LedgerError::io("writing the terminal record to the spool:", &self.record, e))?;
        Ok(self.record.clone())
    }

    /// The record as one line of JSON, for when no file can be written, and the path where it belongs.
    pub fn line(&self, ended: &TaskEnd, by: &str) -> (String, &Path) {
        let mut record = Record::new(&self.task, ended, by);
        record.shorten();
        (record.line().unwrap_or_default(), &self.record)
    }

    fn put(&mut self, ended: &TaskEnd, by: &str) -> io::Result<()> {
        // The slot was removed, or replaced by another file, which must not become the record.
        let file = match self.file.take().filter(|file| is_at(&self.slot, file)) {
            Some(file) => file,
            None => create(&self.slot)?,
        };
        let file = self.file.insert(file);
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
        self.file = None;
        failpoint::hit("spool.renamed")?;
        file_check::sync_directory(self.record.parent().unwrap_or(Path::new("/")))?;
        // Another command may merge and remove the record before the supervisor exits.
        self.file = create(&self.slot).ok();
        Ok(())
    }

    /// Gives back the space: the end is recorded.
    pub fn free(self) -> HeldSlot {
        let emptied = || failpoint::hit("spool.free").and_then(|()| self.file.as_ref().map_or(Ok(()), empty));
        if let Err(e) = emptied() {
            debug!("giving back the space of {}: {e}", self.slot.display());
        }
        HeldSlot { _file: self.file, slot: self.slot }
    }
}

impl HeldSlot {
    /// Removes the slot: nothing is left to do for the task.
    pub fn release(self) -> Result<()> {
        failpoint::hit("spool.release")
            .and_then(|()| file_check::remove_if_there(&self.slot))
            .map_err(|e| LedgerError::io("removing the unused spool slot", &self.slot, e))
    }
}

fn is_at(path: &Path, file: &File) -> bool {
    let (here, held) = (fs::symlink_metadata(path), file.metadata());
    here.is_ok_and(|h| held.is_ok_and(|o| (h.dev(), h.ino()) == (o.dev(), o.ino())))
}

fn empty(file: &File) -> io::Result<()> {
    file.set_len(0)
}

fn fill(mut file: &File, bytes: &[u8]) -> io::Result<()> {
    failpoint::hit("spool.fill")?;
    io::Seek::rewind(&mut file)?;
    file.write_all(bytes)?;
    file.set_len(bytes.len() as u64)
}

/// Creates a new slot. An existing file can only be that of a lost task, since ids are unique in the ledger;
/// a link is removed, never followed.
fn create(slot: &Path) -> io::Result<File> {
    let create = || {
        failpoint::hit("spool.reserve")?;
        OpenOptions::new().write(true).create_new(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(slot)
    };
    match create() {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            file_check::remove_if_there(slot).and_then(|()| create())
        }
        other => other,
    }
}

/// posix_fallocate(3), or zeros if the file system does not support it.
fn allocate(file: &File) -> io::Result<()> {
    match posix_fallocate(file, 0, SLOT_BYTES) {
        Ok(()) => Ok(()),
        Err(Errno::EOPNOTSUPP | Errno::EINVAL | Errno::ENOSYS) => {
            (&*file).write_all(&[0; SLOT_BYTES as usize])
        }
        Err(e) => Err(e.into()),
    }
}

/// A file in the spool.
#[derive(Debug)]
pub(super) struct WaitingRecord {
    pub path: PathBuf,
    pub content: WaitingContent,
}

#[derive(Debug)]
pub(super) enum WaitingContent {
    Record(Box<SpooledEnd>),
    /// Its content is not a record.
    Unreadable(String),
    /// It cannot be read now, but perhaps later.
    Failed(io::Error),
}

impl WaitingRecord {
    fn read(path: PathBuf) -> Option<WaitingRecord> {
        let read = || files::read(&path, libc::O_NOFOLLOW, LONGEST_RECORD);
        let content = match failpoint::hit("merge.read").and_then(|()| read()) {
            // Another process has merged it.
            Err(e) if e.kind() == ErrorKind::NotFound => return None,
            // bookend did not write it: it will not become a record later.
            Err(e) if e.kind() == ErrorKind::InvalidData => WaitingContent::Unreadable(e.to_string()),
            Err(e) if e.raw_os_error() == Some(libc::ELOOP) => WaitingContent::Unreadable(
                "it is a symbolic link, which bookend does not follow there".to_owned(),
            ),
            Err(e) => WaitingContent::Failed(e),
            Ok(bytes) => match parse(&bytes) {
                Ok(record) => WaitingContent::Record(Box::new(record)),
                Err(why) => WaitingContent::Unreadable(why),
            },
        };
        Some(WaitingRecord { path, content })
    }

    fn finished_at(&self) -> Option<Time> {
        match &self.content {
            WaitingContent::Record(record) => record.ended.finished_at,
            WaitingContent::Unreadable(_) | WaitingContent::Failed(_) => None,
        }
    }
}

/// The records in the spool, by name. Records that were moved away and slots of running tasks are not among
/// them.
pub(super) fn waiting(dir: &Path) -> Result<Vec<PathBuf>> {
    let waits = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        name.ends_with(b".json") && !name.starts_with(b".") && !name.ends_with(b".kept.json")
    };
    let mut paths: Vec<PathBuf> = entries(dir)?.into_iter().filter(waits).collect();
    paths.sort();
    Ok(paths)
}

/// All files in the spool.
fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other,
    };
    entries
        .and_then(|all| all.map(|e| e.map(|e| e.path())).collect())
        .map_err(|e| LedgerError::io("reading the spool", dir, e))
}

/// The records in the order in which their tasks ended; unreadable ones come first.
pub(super) fn read_all(paths: Vec<PathBuf>) -> Vec<WaitingRecord> {
    let mut all: Vec<WaitingRecord> = paths.into_iter().filter_map(WaitingRecord::read).collect();
    all.sort_by_key(|record| record.finished_at());
    all
}

/// The record of one task, if it can be read.
pub(super) fn waiting_for(dir: &Path, id: &TaskId) -> Result<Option<TaskEnd>> {
    let path = record_path(dir, id)?;
    match WaitingRecord::read(path.clone()).map(|w| w.content) {
        Some(WaitingContent::Record(record)) if record.task == *id => Ok(Some(record.ended)),
        Some(WaitingContent::Failed(e)) => Err(LedgerError::io("reading the spooled record", &path, e)),
        _ => Ok(None),
    }
}

/// Removes a merged record durably: otherwise it would be merged and reported again after a power failure.
pub(super) fn remove(path: &Path) -> Result<()> {
    file_check::remove_if_there(path)
        .and_then(|()| failpoint::hit("merge.removed"))
        .and_then(|()| file_check::sync_directory(path.parent().unwrap_or(Path::new("/"))))
        .map_err(|e| LedgerError::io("removing the merged record", path, e))
}

/// Moves away a record that cannot be merged, never over another file, and returns its new path.
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
            Err(LedgerError::io("moving the spooled record away:", path, e))
        }
        _ => Ok(kept),
    }
}

/// Removes the slot of a lost task, and its record if that `is_merged`.
pub(super) fn clear(dir: &Path, id: &TaskId, is_merged: bool) -> Result<()> {
    let record = if is_merged { Some(record_path(dir, id)?) } else { None };
    for path in record.into_iter().chain([slot_path(dir, id)?]) {
        failpoint::hit("spool.clear")
            .and_then(|()| file_check::remove_if_there(&path))
            .map_err(|e| LedgerError::io("clearing the spool:", &path, e))?;
    }
    failpoint::reached("spool.cleared");
    Ok(())
}

/// Whether the task has a slot.
pub(super) fn has_slot(dir: &Path, id: &TaskId) -> bool {
    slot_path(dir, id).is_ok_and(|path| path.symlink_metadata().is_ok())
}

/// The tasks that have a slot.
pub(super) fn slots(dir: &Path) -> Result<Vec<TaskId>> {
    let slot = |path: &PathBuf| match SpoolFile::named(path.file_name()?)? {
        SpoolFile::Slot(id) => Some(id),
        SpoolFile::Record(_) => None,
    };
    Ok(entries(dir)?.iter().filter_map(slot).collect())
}

/// A file that bookend puts in the spool.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SpoolFile {
    Slot(TaskId),
    Record(TaskId),
}

impl SpoolFile {
    /// The file of this name. `None`: a record that was moved away, or a file that is not bookend's.
    pub(super) fn named(name: &OsStr) -> Option<SpoolFile> {
        let name = name.to_str()?;
        if let Some(slot) = name.strip_prefix('.') {
            return id_of(slot.strip_suffix(".slot")?).map(SpoolFile::Slot);
        }
        let record = name.strip_suffix(".json").filter(|record| !record.ends_with(".kept"))?;
        id_of(record).map(SpoolFile::Record)
    }
}

/// The id from which [`file_name`] made a name.
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

/// An id as a file name: it cannot leave its directory, and differs for each id.
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
