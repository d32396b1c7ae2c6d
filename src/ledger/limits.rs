//! Limits on what a database file can make SQLite do. Another user may have written the file, so this follows
//! <https://www.sqlite.org/security.html>.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use nix::sys::time::TimeValLike;
use nix::time::ClockId;
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;

/// The CPU time that one operation may take on a ledger that other users can write to.
pub const LONGEST_OPERATION: Duration = Duration::from_secs(5);
/// Instructions of SQLite's virtual machine between two checks of the clock. Few statements have more.
const CHECK_INTERVAL: i32 = 1000;
/// The longest value or row that is read, in bytes. Linux accepts command lines of 6 MiB, which are 36 MiB of
/// JSON if they are all control characters.
const LONGEST_VALUE: i32 = 64 << 20;
/// The same where other users can write: a row has about 70 columns.
const LONGEST_VALUE_OF_OTHERS: i32 = 8 << 20;

/// Disables features that only a hostile database needs. Views stay disabled until [`allow_views`].
pub fn harden(conn: &Connection) -> rusqlite::Result<()> {
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false)?;
    Ok(())
}

/// For writing: triggers of the other program may use its views.
pub fn allow_views(conn: &Connection) -> rusqlite::Result<()> {
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, true).map(drop)
}

/// Limits what is read from a file that only the caller can write to.
pub fn bound(conn: &Connection) -> rusqlite::Result<()> {
    conn.set_limit(Limit::SQLITE_LIMIT_LENGTH, LONGEST_VALUE).map(drop)
}

/// Limits the cost of a file that other users can write to.
pub fn bound_others(conn: &mut Connection) -> rusqlite::Result<CpuBudget> {
    conn.set_limit(Limit::SQLITE_LIMIT_LENGTH, LONGEST_VALUE_OF_OTHERS)?;
    conn.execute_batch("PRAGMA cell_size_check = ON")?;
    let until = Arc::new(AtomicI64::new(0));
    let budget = CpuBudget(Some(Arc::clone(&until)));
    budget.renew();
    conn.progress_handler(CHECK_INTERVAL, Some(move || cpu_time() > until.load(Ordering::Relaxed)))?;
    Ok(budget)
}

/// The CPU time after which the statements of a connection are interrupted.
#[derive(Debug, Clone, Default)]
pub struct CpuBudget(Option<Arc<AtomicI64>>);

impl CpuBudget {
    /// Starts the time of a new operation.
    pub fn renew(&self) {
        self.set(|| cpu_time().saturating_add(LONGEST_OPERATION.as_nanos() as i64));
    }

    /// Removes the limit, for a long operation.
    pub fn lift(&self) {
        self.set(|| i64::MAX);
    }

    fn set(&self, until: impl FnOnce() -> i64) {
        if let Some(limit) = &self.0 {
            limit.store(until(), Ordering::Relaxed);
        }
    }
}

/// The CPU time of this thread, in nanoseconds. Waiting takes none.
fn cpu_time() -> i64 {
    ClockId::CLOCK_THREAD_CPUTIME_ID.now().map_or(0, |t| t.num_nanoseconds())
}
