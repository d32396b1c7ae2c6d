//! A watch of the ledger's files with inotify(7): it reports what supervisors do with their slots in the
//! spool, and that a file of the ledger was replaced.
//!
//! It sees only what this machine changes. Each event is a hint: the reader looks at the row.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};

use super::fleet;
use super::handle::Ledger;
use super::location::with_suffix;
use super::spool::SpoolFile;
use crate::task::TaskId;

/// What a watch reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchScope {
    /// That tasks end, and that the spool was replaced.
    Ends,
    /// That rows may have changed.
    #[cfg_attr(not(feature = "fleet"), allow(dead_code, reason = "only a hub watches the rows"))]
    Rows,
    /// Everything.
    All,
}

/// What has happened to a file of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LedgerEvent {
    /// A process has closed the slot of a task. The kernel reports it before it releases the live lock.
    SupervisorClosed(TaskId),
    /// The record of an end was put in the spool.
    Recorded(TaskId),
    /// The slot of a task was removed.
    Released(TaskId),
    /// The space of a slot was given back: the end of the task is recorded.
    EndRecorded(TaskId),
    /// Rows may have changed. [`WatchScope::All`] reports it of a ledger that another program writes too.
    RowsChanged,
    /// The ledger has joined a fleet or left it.
    MembershipChanged,
    /// Events were lost.
    Overflow,
    /// The spool is another directory now, or none: this watch does not report what happens there.
    SpoolReplaced,
    /// As [`LedgerEvent::SpoolReplaced`], for the ledger, the file `live` or a directory of theirs.
    LedgerReplaced,
}

/// A watch of the files of a ledger. It is readable while there are events.
#[derive(Debug)]
pub struct LedgerWatch {
    inotify: Inotify,
    spool: WatchedPath,
    others: Vec<WatchedPath>,
}

/// A path, and the file that it named when the watch began.
#[derive(Debug)]
struct WatchedPath {
    path: PathBuf,
    descriptor: WatchDescriptor,
    file: (u64, u64),
}

impl WatchedPath {
    fn add(inotify: &Inotify, path: PathBuf, events: AddWatchFlags) -> io::Result<WatchedPath> {
        let descriptor = inotify.add_watch(&path, events | AddWatchFlags::IN_DONT_FOLLOW)?;
        let file = file_at(&path)?;
        Ok(WatchedPath { path, descriptor, file })
    }

    fn is_replaced(&self) -> bool {
        file_at(&self.path).ok() != Some(self.file)
    }
}

fn file_at(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|meta| (meta.dev(), meta.ino()))
}

/// What tells that the file or directory itself was moved or removed.
fn own_events() -> AddWatchFlags {
    AddWatchFlags::IN_MOVE_SELF | AddWatchFlags::IN_DELETE_SELF
}

impl LedgerWatch {
    fn of(ledger: &Ledger, scope: WatchScope) -> io::Result<LedgerWatch> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let changes = AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_DELETE;
        let scoped = match scope {
            WatchScope::Ends => changes | AddWatchFlags::IN_MODIFY,
            WatchScope::Rows => AddWatchFlags::empty(),
            // IN_EXCL_UNLINK: a slot that is removed, then closed, is one event.
            WatchScope::All => {
                changes
                    | AddWatchFlags::IN_CLOSE_WRITE
                    | AddWatchFlags::from_bits_retain(libc::IN_EXCL_UNLINK)
            }
        };
        let in_spool = scoped | own_events() | AddWatchFlags::IN_ONLYDIR;
        let spool = WatchedPath::add(&inotify, ledger.spool_dir.clone(), in_spool)?;
        let others = match scope {
            WatchScope::Ends => Vec::new(),
            WatchScope::Rows => {
                let log = Some(log_of(ledger)).filter(|log| log.exists());
                let written = log.unwrap_or_else(|| ledger.at.file.clone());
                // A process that ends closes it after its last commit is visible.
                let events = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CLOSE_WRITE | own_events();
                vec![WatchedPath::add(&inotify, written, events)?]
            }
            WatchScope::All => watch_others(&inotify, ledger)?,
        };
        Ok(LedgerWatch { inotify, spool, others })
    }

    /// Reads the events that have arrived.
    pub fn read(&mut self) -> Vec<LedgerEvent> {
        let mut events = Vec::new();
        loop {
            match self.inotify.read_events() {
                Ok(found) => found.iter().filter_map(|event| self.event(event)).for_each(|event| {
                    if events.last() != Some(&event) {
                        events.push(event);
                    }
                }),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return events,
                Err(_) => {
                    events.push(LedgerEvent::SpoolReplaced);
                    return events;
                }
            }
        }
    }

    fn event(&self, event: &InotifyEvent) -> Option<LedgerEvent> {
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            return Some(LedgerEvent::Overflow);
        }
        if event.wd != self.spool.descriptor {
            let other = self.others.iter().find(|other| other.descriptor == event.wd)?;
            let is_replaced = other.is_replaced() || event.mask.contains(AddWatchFlags::IN_IGNORED);
            let is_written = event.mask.intersects(AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CLOSE_WRITE);
            return match is_replaced {
                true => Some(LedgerEvent::LedgerReplaced),
                false => is_written.then_some(LedgerEvent::RowsChanged),
            };
        }
        match &event.name {
            Some(name) => self.in_spool(name, event.mask),
            None => {
                let is_replaced = self.spool.is_replaced() || event.mask.contains(AddWatchFlags::IN_IGNORED);
                is_replaced.then_some(LedgerEvent::SpoolReplaced)
            }
        }
    }

    /// What has happened to a file of the spool.
    fn in_spool(&self, name: &OsStr, what: AddWatchFlags) -> Option<LedgerEvent> {
        let is = |flags| what.intersects(flags);
        if name == fleet::MARKER {
            return Some(LedgerEvent::MembershipChanged);
        }
        match SpoolFile::named(name)? {
            SpoolFile::Slot(id) if is(AddWatchFlags::IN_CLOSE_WRITE) => {
                Some(LedgerEvent::SupervisorClosed(id))
            }
            SpoolFile::Slot(id) if is(AddWatchFlags::IN_DELETE) => Some(LedgerEvent::Released(id)),
            // Reserving the space changes a slot too.
            SpoolFile::Slot(id) if is(AddWatchFlags::IN_MODIFY) => {
                let is_empty = fs::symlink_metadata(self.spool.path.join(name)).is_ok_and(|m| m.len() == 0);
                is_empty.then_some(LedgerEvent::EndRecorded(id))
            }
            // Closed: a user has saved the record that bookend printed.
            SpoolFile::Record(id) if is(AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CLOSE_WRITE) => {
                Some(LedgerEvent::Recorded(id))
            }
            SpoolFile::Slot(_) | SpoolFile::Record(_) => None,
        }
    }
}

fn log_of(ledger: &Ledger) -> PathBuf {
    with_suffix(&ledger.at.file, "-wal")
}

/// Watches the ledger, the file `live` and their directories. A file that is removed while it is open only
/// changes its number of links: `IN_ATTRIB`.
fn watch_others(inotify: &Inotify, ledger: &Ledger) -> io::Result<Vec<WatchedPath>> {
    let file = &ledger.at.file;
    let log = log_of(ledger);
    let of_file = own_events() | AddWatchFlags::IN_ATTRIB;
    let of_directory = own_events() | AddWatchFlags::IN_ONLYDIR;
    let mut watched = vec![
        (file.clone(), of_file),
        (ledger.live.path.clone(), of_file),
        (ledger.at.directory().to_owned(), of_directory),
        (ledger.at.private_dir(), of_directory),
    ];
    match (ledger.dialect.is_adopted(), log.exists()) {
        (true, true) => watched.push((log, AddWatchFlags::IN_MODIFY)),
        (true, false) => watched[0].1 |= AddWatchFlags::IN_MODIFY,
        (false, _) => {}
    }
    let mut others = Vec::new();
    for (path, events) in watched {
        match WatchedPath::add(inotify, path, events) {
            Ok(other) => others.push(other),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(others)
}

impl AsFd for LedgerWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

impl Ledger {
    /// Watches the files of the ledger from now on.
    ///
    /// # Errors
    /// When there is no spool, this process may not read it, or the kernel has no room for another watch.
    pub fn watch(&self, scope: WatchScope) -> io::Result<LedgerWatch> {
        LedgerWatch::of(self, scope)
    }
}

#[cfg(test)]
mod tests;
