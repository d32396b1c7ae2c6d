//! Which fleet a ledger is in, and whether that may have changed since it was read.

use rusqlite::Connection;

use crate::sys;

/// The setting of the fleet as it was read, and the version of the data that was read.
#[derive(Debug, Default)]
pub struct ReadMembership {
    /// `None`: the ledger is in no fleet.
    pub setting: Option<String>,
    version: Option<u32>,
}

impl ReadMembership {
    /// What the last statement of `conn` has read.
    pub fn now(conn: &Connection, setting: Option<String>) -> ReadMembership {
        ReadMembership { setting, version: sys::data_version(conn) }
    }

    /// What this connection has just written: it is read again in the next claim.
    pub fn written(setting: Option<&str>) -> ReadMembership {
        ReadMembership { setting: setting.map(str::to_owned), version: None }
    }

    /// Whether nothing was written since, in the transaction of `conn`: then the setting is the same.
    pub fn is_current(&self, conn: &Connection) -> bool {
        self.version.is_some() && self.version == sys::data_version(conn)
    }
}
