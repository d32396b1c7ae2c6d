//! The live lock: one locked byte proves that a supervisor is running.
//!
//! Open file description locks (fcntl_locking(2)): the kernel drops them however the holder dies, and they do
//! not depend on pids or pid namespaces. The file `live` is never removed, so its inode identifies it
//! permanently.

use std::cell::OnceCell;
use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use uuid::Uuid;

use super::error::{LedgerError, Result};
use super::file_check;
use crate::task::{Task, TaskId};

/// Slots are below this offset; the bytes above are for other locks of the ledger.
pub const SLOTS: i64 = 1 << 62;
/// The byte that is held while the ledger is created or migrated.
const MIGRATION: i64 = SLOTS;
/// From here on: the bytes for the follow-ups of tasks, by their ids.
const FOLLOW_UPS: i64 = SLOTS + 1;
/// How many bits of a hash choose the byte of a follow-up.
const HASH_BITS: u32 = 60;
/// The byte that the monitor of the ledger holds, above those of all follow-ups.
const MONITOR_BYTE: i64 = FOLLOW_UPS + (2 << HASH_BITS);
const MIGRATION_PATIENCE: Duration = Duration::from_secs(60);

/// What the kernel reports about the byte of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LiveEvidence {
    /// Its supervisor is running.
    Held,
    Free,
    /// The row has no slot: another program wrote it.
    NoSlot,
    /// The row's slot is in another file than the one beside this ledger (a copied ledger, a lost file).
    OtherFile,
    /// It has the row's inode number but another device number, and the slot is free. Device numbers change
    /// at each boot. Within one boot it is another file, unless one of the numbers is `anonymous`: such a
    /// number belongs to a mount (overlay, btrfs, NFS, …) and changes when the same files are mounted again.
    Renumbered {
        anonymous: bool,
    },
    /// This process cannot open the file.
    Unreadable,
}

/// The open file `live`.
#[derive(Debug)]
pub struct LiveFile {
    file: File,
    pub dev: u64,
    pub ino: u64,
}

/// A held byte. It becomes free when this is dropped or its process dies.
#[derive(Debug)]
pub struct LiveLock {
    pub slot: i64,
    pub dev: u64,
    pub ino: u64,
    _file: File,
}

/// The result of trying to take the live lock of a task.
#[derive(Debug)]
pub enum TakenLock {
    Yes(LiveLock),
    /// Its supervisor is running, or another process is finishing the task.
    Held,
    /// The task's byte is not in the file beside this ledger.
    Elsewhere,
}

/// Work that remains after a task has ended, done by one process at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FollowUp {
    Delivery,
    Report,
}

/// Held bytes for the follow-ups of tasks. They become free when this is dropped or its process dies.
#[derive(Debug)]
pub struct FollowUpLock {
    _file: File,
}

/// The held byte of a ledger's monitor. It becomes free when this is dropped or its process dies.
#[derive(Debug)]
pub struct MonitorLock {
    _file: File,
}

/// The `live` file of a ledger, for queries: locks are held through separate descriptions.
#[derive(Debug)]
pub struct LiveLocks {
    pub path: PathBuf,
    opened: OnceCell<Option<LiveFile>>,
}

impl LiveLocks {
    pub fn at(path: PathBuf) -> LiveLocks {
        LiveLocks { path, opened: OnceCell::new() }
    }

    /// What the kernel reports about a task's live lock now.
    pub fn evidence(&self, task: &Task) -> Result<LiveEvidence> {
        let Some(slot) = task.live_slot else { return Ok(LiveEvidence::NoSlot) };
        let opened = match self.file() {
            Ok(opened) => opened,
            Err(LedgerError::Io { .. }) => return Ok(LiveEvidence::Unreadable),
            Err(e) => return Err(e),
        };
        let Some(live) = opened.as_ref().filter(|live| task.live_ino == Some(live.ino)) else {
            return Ok(LiveEvidence::OtherFile);
        };
        // No other task has this slot, so a held one is its supervisor's, whatever the number of the device.
        match live.is_held(slot) {
            Ok(true) => Ok(LiveEvidence::Held),
            Ok(false) if live.is_named_by(task) => Ok(LiveEvidence::Free),
            Ok(false) => {
                let anonymous =
                    [task.live_dev, Some(live.dev)].iter().flatten().any(|dev| is_anonymous(*dev));
                Ok(LiveEvidence::Renumbered { anonymous })
            }
            Err(e) => Err(LedgerError::io("querying a live lock in", &self.path, e)),
        }
    }

    /// The file, opened once. `None`: it does not exist.
    pub fn file(&self) -> Result<Option<&LiveFile>> {
        if let Some(opened) = self.opened.get() {
            return Ok(opened.as_ref());
        }
        let opened = LiveFile::open_for_query(&self.path)?;
        Ok(self.opened.get_or_init(|| opened).as_ref())
    }

    /// Takes the live lock of a task whose supervisor has released it, to finish the task.
    pub fn take(&self, task: &Task) -> Result<TakenLock> {
        let Some(slot) = task.live_slot else { return Ok(TakenLock::Elsewhere) };
        let live = LiveFile::open(&self.path)?;
        if !live.is_named_by(task) {
            return Ok(TakenLock::Elsewhere);
        }
        match live.try_lock(slot) {
            Ok(true) => Ok(TakenLock::Yes(live.holding(slot))),
            Ok(false) => Ok(TakenLock::Held),
            Err(e) => Err(LedgerError::io("taking a live lock in", &self.path, e)),
        }
    }
}

impl LiveLocks {
    /// Locks one kind of follow-up for these tasks, and returns for each whether this process holds it now.
    /// Unlike the live lock, the bytes exist on every boot and for every row.
    pub fn lock_follow_ups(&self, what: FollowUp, ids: &[&TaskId]) -> Result<(FollowUpLock, Vec<bool>)> {
        let live = LiveFile::open(&self.path)?;
        let taken = ids.iter().map(|id| live.try_lock(what.byte(id))).collect::<io::Result<_>>();
        let taken = taken.map_err(|e| LedgerError::io("taking a follow-up lock in", &self.path, e))?;
        Ok((FollowUpLock { _file: live.file }, taken))
    }

    /// Takes the byte of the monitor; `None`: another process holds it.
    pub fn hold_monitor(&self) -> Result<Option<MonitorLock>> {
        let live = LiveFile::open(&self.path)?;
        let taken = live.try_lock(MONITOR_BYTE);
        let taken = taken.map_err(|e| LedgerError::io("taking the monitor's lock in", &self.path, e))?;
        Ok(taken.then_some(MonitorLock { _file: live.file }))
    }

    /// Whether another process holds the byte of the monitor.
    pub fn has_monitor(&self) -> Result<bool> {
        let Some(live) = self.file()? else { return Ok(false) };
        live.is_held(MONITOR_BYTE)
            .map_err(|e| LedgerError::io("querying the monitor's lock in", &self.path, e))
    }
}

impl FollowUp {
    /// Its byte, from 60 bits of the FNV-1a hash of the id. If two tasks share a byte, one waits for the next
    /// recovery.
    fn byte(self, id: &TaskId) -> i64 {
        let fold = |h: u64, b: u8| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3);
        let hash = id.as_str().bytes().fold(0xcbf2_9ce4_8422_2325, fold) >> (u64::BITS - HASH_BITS);
        FOLLOW_UPS + (hash << 1 | self as u64).cast_signed()
    }
}

impl LiveFile {
    /// Whether this is the file named by the task's row.
    fn is_named_by(&self, task: &Task) -> bool {
        (task.live_dev, task.live_ino) == (Some(self.dev), Some(self.ino))
    }

    fn holding(self, slot: i64) -> LiveLock {
        LiveLock { slot, dev: self.dev, ino: self.ino, _file: self.file }
    }

    /// Opens the file for locking; creates it if it does not exist.
    pub fn open(path: &Path) -> Result<LiveFile> {
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path);
        let (live, meta) = LiveFile::checked(path, opened)?;
        file_check::check_opened(path, &meta)?;
        if meta.mode() & 0o777 != 0o600 {
            live.file
                .set_permissions(Permissions::from_mode(0o600))
                .map_err(|e| LedgerError::io("changing the mode of", path, e))?;
        }
        Ok(live)
    }

    /// Opens the file for queries. `None`: it does not exist.
    pub fn open_for_query(path: &Path) -> Result<Option<LiveFile>> {
        let opened =
            OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
        if matches!(&opened, Err(e) if e.kind() == ErrorKind::NotFound) {
            return Ok(None);
        }
        LiveFile::checked(path, opened).map(|(live, _)| Some(live))
    }

    fn checked(path: &Path, opened: io::Result<File>) -> Result<(LiveFile, Metadata)> {
        let file = opened.map_err(|e| match e.raw_os_error() {
            Some(libc::ELOOP) => LedgerError::Symlink { path: path.to_owned() },
            _ => LedgerError::io("opening the live locks", path, e),
        })?;
        let meta = file.metadata().map_err(|e| LedgerError::io("reading the attributes of", path, e))?;
        if !meta.is_file() {
            return Err(LedgerError::WrongType { path: path.to_owned(), wanted: "a regular file" });
        }
        let live = LiveFile { file, dev: meta.dev(), ino: meta.ino() };
        Ok((live, meta))
    }

    /// Locks a free byte for as long as the returned lock lives.
    ///
    /// A random slot is taken with a probability of one in 2⁶² for each running task.
    pub fn hold(self, path: &Path) -> Result<LiveLock> {
        loop {
            let slot = random_slot();
            if self.try_lock(slot).map_err(|e| LedgerError::io("taking a live lock in", path, e))? {
                return Ok(self.holding(slot));
            }
        }
    }

    /// Waits until this process alone may create or migrate the ledger.
    pub fn hold_for_migration(self, path: &Path, ledger: &Path) -> Result<MigrationLock> {
        let start = Instant::now();
        while !self
            .try_lock(MIGRATION)
            .map_err(|e| LedgerError::io("taking the migration lock in", path, e))?
        {
            if start.elapsed() > MIGRATION_PATIENCE {
                return Err(LedgerError::Busy {
                    doing: "waiting to create or migrate tables",
                    path: ledger.to_owned(),
                    waited: MIGRATION_PATIENCE,
                });
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(MigrationLock { _file: self.file })
    }

    /// Whether another open file description holds the byte.
    pub fn is_held(&self, slot: i64) -> io::Result<bool> {
        let mut lock = byte(slot);
        fcntl(&self.file, FcntlArg::F_OFD_GETLK(&mut lock))?;
        Ok(i32::from(lock.l_type) != libc::F_UNLCK)
    }

    fn try_lock(&self, offset: i64) -> io::Result<bool> {
        match fcntl(&self.file, FcntlArg::F_OFD_SETLK(&byte(offset))) {
            Ok(_) => Ok(true),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }
}

/// Major number 0: the kernel gave the number to a mount, not to a device (`get_anon_bdev`, fs/super.c).
fn is_anonymous(dev: u64) -> bool {
    nix::sys::stat::major(dev) == 0
}

/// Held while the ledger is created or migrated.
#[derive(Debug)]
pub struct MigrationLock {
    _file: File,
}

fn byte(offset: i64) -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: offset,
        l_len: 1,
        l_pid: 0,
    }
}

/// 62 random bits: the lower half of a version 4 UUID without its two variant bits.
fn random_slot() -> i64 {
    (Uuid::new_v4().as_u64_pair().1 & (SLOTS as u64 - 1)).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_byte_is_held_for_other_descriptions_until_its_holder_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("live");
        let lock = LiveFile::open(&path).unwrap().hold(&path).unwrap();
        let asker = LiveFile::open_for_query(&path).unwrap().unwrap();
        assert_eq!((asker.dev, asker.ino), (lock.dev, lock.ino));
        assert!(asker.is_held(lock.slot).unwrap());
        assert!(!asker.is_held(lock.slot ^ 1).unwrap());
        let slot = lock.slot;
        drop(lock);
        assert!(!asker.is_held(slot).unwrap());
    }

    #[test]
    fn one_process_at_a_time_is_the_monitor() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (LiveLocks::at(dir.path().join("live")), LiveLocks::at(dir.path().join("live")));
        assert!(!one.has_monitor().unwrap(), "there is no file yet");
        let held = one.hold_monitor().unwrap();
        assert!(held.is_some() && two.hold_monitor().unwrap().is_none());
        assert!(two.has_monitor().unwrap());
        drop(held);
        assert!(!two.has_monitor().unwrap() && two.hold_monitor().unwrap().is_some());
    }

    #[test]
    fn the_byte_of_the_monitor_is_above_all_others() {
        let above = FOLLOW_UPS + (((1_i64 << HASH_BITS) - 1) << 1 | FollowUp::Report as i64);
        assert_eq!(MONITOR_BYTE, above + 1);
    }

    #[test]
    fn slots_stay_below_the_reserved_bytes() {
        for _ in 0..1000 {
            assert!((0..SLOTS).contains(&random_slot()));
        }
    }

    #[test]
    fn a_live_file_that_is_a_link_or_a_fifo_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), &link).unwrap();
        assert!(matches!(LiveFile::open(&link).unwrap_err(), LedgerError::Symlink { .. }));
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(matches!(LiveFile::open(&fifo).unwrap_err(), LedgerError::WrongType { .. }));
    }
}
