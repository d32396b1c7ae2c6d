//! The ledger's write-ahead log, kept short.
//!
//! Every so many pages SQLite copies the log into the file, beside the others who write. The next writer
//! begins it anew if all of it was copied: if nobody has written meanwhile, and nobody reads an older
//! state. Among a hundred writers somebody always has, and the log grows for as long as they write. So who
//! finds it long empties it while he keeps the others from writing.

use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

use super::place::with_suffix;

/// A log of so many bytes is long.
const LONG: u64 = 4 << 20;
/// Pages that others may have written since the copying began. If more are left, somebody reads an older
/// state, and the writers would be kept waiting in vain.
const FEW: i64 = 64;
/// How long the writers are waited for, and then the readers while the writers wait.
pub const PATIENCE: Duration = Duration::from_millis(100);

const COPY: &str = "PRAGMA wal_checkpoint(PASSIVE)";
const EMPTY: &str = "PRAGMA wal_checkpoint(TRUNCATE)";

/// Whether the log of the ledger `file` is long.
pub fn is_long(file: &Path) -> bool {
    std::fs::metadata(with_suffix(file, "-wal")).is_ok_and(|log| log.len() >= LONG)
}

/// Copies the log into the file and cuts it, unless somebody is in the way or at it already.
pub fn empty(conn: &Connection) -> rusqlite::Result<()> {
    let pages = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(1)?, row.get::<_, i64>(2)?));
    let (all, copied) = conn.query_row(COPY, [], pages)?;
    if copied < 0 || all - copied > FEW {
        return Ok(());
    }
    conn.query_row(EMPTY, [], |_| Ok(()))
}
