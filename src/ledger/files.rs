//! Whether the files of an open ledger are still those that were opened.
//!
//! SQLite keeps writing to a file that was deleted or renamed, and to a truncated log, and reports success:
//! <https://www.sqlite.org/howtocorrupt.html>, section 2. It maps the index of the log (`-shm`) into memory,
//! where reading past the end of a truncated file raises SIGBUS: mmap(2). So the files are compared before
//! each transaction. A change during a transaction is not detected.

use std::cell::Cell;
use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use rusqlite::{Connection, FileControl, MAIN_DB, OpenFlags};

use super::limits;
use super::location::with_suffix;

/// SQLite maps the index in blocks of this size. <https://www.sqlite.org/walformat.html>, "The WAL-Index File
/// Format".
const INDEX_BLOCK: u64 = 32 * 1024;
/// The first block holds this many frames fewer, since it begins with a header.
const HEADER_FRAMES: u64 = 34;
const FRAMES_PER_BLOCK: u64 = 4096;
/// Bytes before the first frame of the log, and before the page of each frame.
const LOG_HEADER: u64 = 32;
const FRAME_HEADER: u64 = 24;
/// The most bytes that one write of SQLite adds to a file.
const ONE_WRITE: u64 = 64 * 1024 + FRAME_HEADER;
/// How many checks in a row must find the log too short: a checkpoint of another process may truncate it
/// between two reads.
const CHECKS: usize = 3;

/// What happened to the files of a ledger while it was open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileDamage {
    Moved,
    LogReplaced,
    LogCut,
    IndexReplaced,
    IndexCut,
}

impl FileDamage {
    pub fn as_str(self) -> &'static str {
        match self {
            FileDamage::Moved => "it was deleted, renamed or replaced",
            FileDamage::LogReplaced => "its -wal was deleted or replaced",
            FileDamage::LogCut => "its -wal was truncated",
            FileDamage::IndexReplaced => "its -shm was deleted or replaced",
            FileDamage::IndexCut => "its -shm was truncated",
        }
    }
}

/// The files that a connection has open.
#[derive(Debug, Default)]
pub struct OpenFiles {
    beside: Option<Beside>,
    damage: Cell<Option<FileDamage>>,
}

/// The log and its index. A ledger in another journal mode has neither.
#[derive(Debug)]
struct Beside {
    log: PathBuf,
    log_id: (u64, u64),
    /// The log was complete at this length.
    whole: Cell<u64>,
    index: PathBuf,
    index_id: (u64, u64),
    /// The least length of the index, for the blocks that are mapped.
    mapped: Cell<u64>,
}

impl OpenFiles {
    /// Records the open files. `log`: the attributes of the log when it was opened.
    pub fn note(file: &Path, log: &Metadata) -> std::io::Result<OpenFiles> {
        let index = with_suffix(file, "-shm");
        let meta = fs::symlink_metadata(&index)?;
        let beside = Beside {
            log: with_suffix(file, "-wal"),
            log_id: id(log),
            whole: Cell::new(log.len()),
            index_id: id(&meta),
            mapped: Cell::new(meta.len()),
            index,
        };
        Ok(OpenFiles { beside: Some(beside), damage: Cell::new(None) })
    }

    /// What happened to the files since they were opened. `frames`: the length of the log after the last
    /// commit of this connection. Damage is remembered, since later writes may be lost.
    pub fn damage(&self, conn: &Connection, frames: u32) -> Option<FileDamage> {
        if self.damage.get().is_none() {
            let beside = || self.beside.as_ref().and_then(|b| b.damage(conn, frames));
            self.damage.set(moved(conn).or_else(beside));
        }
        self.damage.get()
    }
}

impl Beside {
    fn damage(&self, conn: &Connection, frames: u32) -> Option<FileDamage> {
        let blocks = (u64::from(frames) + HEADER_FRAMES).div_ceil(FRAMES_PER_BLOCK);
        self.mapped.set(self.mapped.get().max(blocks * INDEX_BLOCK));
        match fs::symlink_metadata(&self.index) {
            Ok(index) if id(&index) != self.index_id => return Some(FileDamage::IndexReplaced),
            Ok(index) if index.len() < self.mapped.get() => return Some(FileDamage::IndexCut),
            Ok(_) => {}
            Err(_) => return Some(FileDamage::IndexReplaced),
        }
        match fs::symlink_metadata(&self.log) {
            Ok(log) if id(&log) != self.log_id => Some(FileDamage::LogReplaced),
            Ok(log) if log.len() >= self.whole.get() => {
                self.whole.set(log.len());
                None
            }
            // A checkpoint may truncate it: then its index names fewer frames too.
            Ok(_) if is_whole(conn, &self.log) => {
                self.whole.set(fs::symlink_metadata(&self.log).map_or(0, |m| m.len()));
                None
            }
            Ok(_) => Some(FileDamage::LogCut),
            Err(_) => Some(FileDamage::LogReplaced),
        }
    }
}

/// Whether the path of the ledger names another file now, or none.
fn moved(conn: &Connection) -> Option<FileDamage> {
    let mut has_moved = 0;
    let answer = conn.file_control(Some(MAIN_DB), FileControl::HasMoved(&mut has_moved));
    (answer.is_ok() && has_moved != 0).then_some(FileDamage::Moved)
}

/// Whether the log has all the frames that its index names.
pub fn is_whole(conn: &Connection, log: &Path) -> bool {
    (0..CHECKS).any(|_| is_whole_now(conn, log).unwrap_or(false))
}

fn is_whole_now(conn: &Connection, log: &Path) -> rusqlite::Result<bool> {
    let number = |sql, column| conn.query_row(sql, [], |row| row.get::<_, i64>(column));
    // Frames first: other writers extend the log before they count a frame.
    let frames = number("PRAGMA wal_checkpoint(NOOP)", 1)?.max(0).unsigned_abs();
    let page = number("PRAGMA page_size", 0)?.unsigned_abs();
    let needed = if frames == 0 { 0 } else { LOG_HEADER + frames * (FRAME_HEADER + page) };
    Ok(fs::symlink_metadata(log).is_ok_and(|m| m.len() >= needed))
}

/// Whether the file without its log passes SQLite's check. With `immutable` SQLite ignores log, index and
/// locks: <https://www.sqlite.org/uri.html>.
pub fn is_sound(file: &Path) -> bool {
    let check = || -> rusqlite::Result<String> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
        let conn = Connection::open_with_flags(uri(file), flags)?;
        limits::harden(&conn).and_then(|()| limits::bound(&conn))?;
        conn.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))
    };
    check().is_ok_and(|said| said == "ok")
}

fn uri(file: &Path) -> String {
    let mut uri = "file:".to_owned();
    for byte in file.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => uri.push((*byte).into()),
            _ => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri + "?immutable=1"
}

/// Whether a file of the ledger has about reached the RLIMIT_FSIZE limit: setrlimit(2).
pub fn reach_size_limit(file: &Path) -> bool {
    let limit = getrlimit(Resource::RLIMIT_FSIZE).map_or(RLIM_INFINITY, |(soft, _)| soft);
    let longest = ["", "-wal", "-shm"].iter().filter_map(|s| fs::metadata(with_suffix(file, s)).ok());
    limit != RLIM_INFINITY && longest.map(|m| m.len()).max().unwrap_or(0) + ONE_WRITE >= limit
}

/// Whether this process can open no further file. SQLite does not pass the errno on.
pub fn reach_descriptor_limit() -> bool {
    fs::File::open("/dev/null").is_err_and(|e| e.raw_os_error() == Some(libc::EMFILE))
}

fn id(meta: &Metadata) -> (u64, u64) {
    (meta.dev(), meta.ino())
}
