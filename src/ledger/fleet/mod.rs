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
use outbox::{DELETE_ACKNOWLEDGED, MARK_ALL, SELECT_SETTING};
pub use outbox::{DirtyTask, UnpublishedTask};

const JOIN: &str = include_str!("join.sql");
const DROP_TRIGGERS: &str = include_str!("drop_triggers.sql");
const DROP_TABLE: &str = "DROP TABLE IF EXISTS fleet_dirty";
const UPSERT_SETTING: &str = "
    INSERT INTO bookend_setting (name, value) VALUES ('fleet', ?1)
    ON CONFLICT (name) DO UPDATE SET value = excluded.value";
const DELETE_SETTING: &str = "DELETE FROM bookend_setting WHERE name = 'fleet'";

/// The file in the spool that exists while the ledger is in a fleet: the monitor watches the spool.
pub(super) const MARKER: &str = ".fleet";

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

    /// Makes the ledger a member of a fleet, or of another one: all its tasks are to be published.
    ///
    /// # Errors
    /// When the ledger cannot be written.
    pub fn join_fleet(&mut self, setting: &str) -> Result<()> {
        self.in_transaction("joining the fleet", |conn| {
            conn.execute_batch(DROP_TRIGGERS)?;
            conn.execute_batch(JOIN)?;
            conn.execute(MARK_ALL, [])?;
            conn.execute(DELETE_ACKNOWLEDGED, [])?;
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
        self.in_transaction("leaving the fleet", |conn| {
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
