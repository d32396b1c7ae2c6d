//! The ledger's side of a fleet: the setting that makes it a member, and which tasks are to be published.
//!
//! Triggers note each change of a task in `fleet_dirty`. Table and triggers exist only in a fleet, so that
//! nothing changes without one.

#![cfg_attr(not(feature = "fleet"), allow(dead_code, unused_imports, reason = "only the hub publishes"))]

mod keys;
mod outbox;

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rusqlite::{Connection, OptionalExtension};

use super::error::{LedgerError, Result};
use super::file_check;
use super::handle::Ledger;
use super::membership::ReadMembership;

#[cfg(feature = "fleet")]
pub use keys::RunningKey;
use outbox::{DELETE_ACKNOWLEDGED, DELETE_ALL_DIRTY, MARK_ALL, SELECT_SETTING};
pub use outbox::{DirtyTask, UnpublishedTask};

const JOIN: &str = include_str!("join.sql");
const DROP_TRIGGERS: &str = include_str!("drop_triggers.sql");
const DROP_TABLE: &str = "DROP TABLE IF EXISTS fleet_dirty";
const UPSERT_SETTING: &str = "
    INSERT INTO bookend_setting (name, value) VALUES ('fleet', ?1)
    ON CONFLICT (name) DO UPDATE SET value = excluded.value";
const DELETE_SETTING: &str = "DELETE FROM bookend_setting WHERE name = 'fleet'";
const DRAW_REV: &str = "INSERT INTO fleet_dirty (rev, task_id) VALUES (?1, '')";
const NOTE_FORMER: &str = "
    INSERT INTO bookend_setting (name, value)
    SELECT 'fleet_former', json_object('setting', value, 'rev', coalesce(
        (SELECT max(seq) FROM sqlite_sequence WHERE name = 'fleet_dirty'), 0))
    FROM bookend_setting WHERE name = 'fleet'";
const SELECT_FORMER: &str = "
    SELECT value ->> 'setting', value ->> 'rev' FROM bookend_setting WHERE name = 'fleet_former'";
const DELETE_FORMER: &str = "DELETE FROM bookend_setting WHERE name = 'fleet_former'";

/// The file in the spool that exists while the ledger is in a fleet: the monitor watches the spool.
pub(super) const MARKER: &str = ".fleet";

/// The fleet that a ledger has left although its node stays there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormerFleet {
    /// As it was in the ledger.
    pub setting: String,
    /// The number of the last change that may have been published.
    pub rev: i64,
}

impl Ledger {
    /// The fleet that the ledger is in, as its setting says. It is read when the ledger is opened.
    pub fn fleet(&self) -> Option<&str> {
        self.fleet.setting.as_deref()
    }

    /// Device and inode of the ledger's file: a copy has others.
    ///
    /// # Errors
    /// When the file was removed.
    pub fn file_identity(&self) -> Result<(u64, u64)> {
        file_check::check_own(&self.at.file).map(|meta| (meta.dev(), meta.ino()))
    }

    /// Reads the setting again, which another process may have changed.
    pub fn refresh_fleet(&mut self) -> Result<Option<&str>> {
        self.fleet = read(self.conn()).map_err(self.failed("reading which fleet it is in"))?;
        Ok(self.fleet())
    }

    /// The fleet that the ledger has left by [`Ledger::leave_fleet_by_force`].
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn former_fleet(&self) -> Result<Option<FormerFleet>> {
        let read = |row: &rusqlite::Row<'_>| Ok(FormerFleet { setting: row.get(0)?, rev: row.get(1)? });
        let former = self.conn().query_row(SELECT_FORMER, [], read).optional();
        former.map_err(self.failed("reading which fleet it has left"))
    }

    /// Makes the ledger a member of a fleet, or of another one: all its tasks are to be published.
    ///
    /// # Errors
    /// When the ledger cannot be written.
    pub fn join_fleet(&mut self, setting: &str) -> Result<()> {
        self.join_fleet_after(setting, 0)
    }

    /// As [`Ledger::join_fleet`]. The numbers of changes go on after `rev`, as the database expects of a node
    /// that it knows.
    ///
    /// # Errors
    /// When the ledger cannot be written.
    pub fn join_fleet_after(&mut self, setting: &str, rev: i64) -> Result<()> {
        self.in_transaction("joining the fleet", |conn| {
            conn.execute_batch(DROP_TRIGGERS)?;
            conn.execute_batch(JOIN)?;
            if rev > 0 {
                conn.execute(DRAW_REV, [rev])?;
                conn.execute(DELETE_ALL_DIRTY, [])?;
            }
            conn.execute(MARK_ALL, [])?;
            conn.execute(DELETE_ACKNOWLEDGED, [])?;
            conn.execute(DELETE_FORMER, [])?;
            conn.execute(UPSERT_SETTING, [setting]).map(drop)
        })?;
        self.fleet = ReadMembership::written(Some(setting));
        let marker = self.spool_dir.join(MARKER);
        mark(&marker).map_err(|e| LedgerError::io("telling the monitor of the fleet by", &marker, e))
    }

    /// Removes all that [`Ledger::join_fleet`] made.
    ///
    /// # Errors
    /// When the ledger cannot be written.
    pub fn leave_fleet(&mut self) -> Result<()> {
        self.leave_and(|_| Ok(()))
    }

    /// As [`Ledger::leave_fleet`], although the node of the ledger stays in the fleet: it is noted.
    ///
    /// # Errors
    /// When the ledger cannot be written.
    pub fn leave_fleet_by_force(&mut self) -> Result<()> {
        self.leave_and(|conn| conn.execute(NOTE_FORMER, []).map(drop))
    }

    fn leave_and(&mut self, note: impl Fn(&Connection) -> rusqlite::Result<()>) -> Result<()> {
        self.in_transaction("leaving the fleet", |conn| {
            conn.execute(DELETE_FORMER, [])?;
            note(conn)?;
            conn.execute_batch(DROP_TRIGGERS)?;
            conn.execute_batch(DROP_TABLE)?;
            conn.execute(DELETE_ACKNOWLEDGED, [])?;
            conn.execute(DELETE_SETTING, []).map(drop)
        })?;
        self.fleet = ReadMembership::written(None);
        let marker = self.spool_dir.join(MARKER);
        match fs::remove_file(&marker) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                Err(LedgerError::io("telling the monitor that there is no fleet by removing", &marker, e))
            }
            _ => Ok(()),
        }
    }
}

pub(super) fn read(conn: &Connection) -> rusqlite::Result<ReadMembership> {
    let setting = conn.query_row(SELECT_SETTING, [], |row| row.get(0)).optional()?;
    Ok(ReadMembership::now(conn, setting.flatten()))
}

/// Creates the file, or closes it again: the kernel reports both.
fn mark(marker: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    options.open(marker).map(drop)
}

#[cfg(test)]
mod tests;
