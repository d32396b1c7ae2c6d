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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_current_until_another_connection_has_written() {
        let dir = tempfile::tempdir().expect("a directory");
        let open = || Connection::open(dir.path().join("db")).expect("a database");
        let (ours, other) = (open(), open());
        ours.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (x)").expect("a table");
        let count = || ours.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0));
        assert_eq!(count(), Ok(0));
        let read = ReadMembership::now(&ours, None);
        for _ in 0..3 {
            ours.execute_batch("BEGIN IMMEDIATE").expect("a transaction");
            assert!(read.is_current(&ours));
            ours.execute_batch("ROLLBACK").expect("its end");
        }
        other.execute_batch("INSERT INTO t VALUES (1)").expect("a row");
        ours.execute_batch("BEGIN IMMEDIATE").expect("a transaction");
        assert!(!read.is_current(&ours));
        assert!(!ReadMembership::written(None).is_current(&ours));
        assert_eq!(count(), Ok(1));
        assert!(ReadMembership::now(&ours, None).is_current(&ours));
    }
}
