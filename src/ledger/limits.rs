//! What a database may make SQLite do. Its file may come from somebody else, so this follows SQLite's advice
//! for such files: <https://www.sqlite.org/security.html>.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use nix::sys::time::TimeValLike;
use nix::time::ClockId;
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;

/// CPU time that one operation may take on a ledger that others can write to.
pub const LONGEST_OPERATION: Duration = Duration::from_secs(5);
/// Instructions of SQLite's virtual machine between two looks at the clock. Few statements have more.
const LOOK_EVERY: i32 = 1000;
/// The longest value or row that is read, in bytes. Linux takes command lines of 6 MiB, which are 36 MiB of
/// JSON if they are all control characters.
const LONGEST_VALUE: i32 = 64 << 20;
/// The same where others can write: a row has some 70 columns.
const LONGEST_VALUE_OF_OTHERS: i32 = 8 << 20;

/// Takes from a connection what only a hostile database needs. Views stay disabled until [`allow_views`].
pub fn harden(conn: &Connection) -> rusqlite::Result<()> {
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false)?;
    Ok(())
}

/// For writing: the triggers of the other program may use its views.
pub fn allow_views(conn: &Connection) -> rusqlite::Result<()> {
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, true).map(drop)
}

/// Bounds what is read from a file that only the caller can write to.
pub fn bound(conn: &Connection) -> rusqlite::Result<()> {
    conn.set_limit(Limit::SQLITE_LIMIT_LENGTH, LONGEST_VALUE).map(drop)
}

/// Bounds what a file can cost that others can write to.
pub fn bound_others(conn: &mut Connection) -> rusqlite::Result<CpuBudget> {
    conn.set_limit(Limit::SQLITE_LIMIT_LENGTH, LONGEST_VALUE_OF_OTHERS)?;
    conn.execute_batch("PRAGMA cell_size_check = ON")?;
    let until = Arc::new(AtomicI64::new(0));
    let budget = CpuBudget(Some(Arc::clone(&until)));
    budget.renew();
    conn.progress_handler(LOOK_EVERY, Some(move || cpu_time() > until.load(Ordering::Relaxed)))?;
    Ok(budget)
}

/// The CPU time after which the statements of a connection are interrupted.
#[derive(Debug, Clone, Default)]
pub struct CpuBudget(Option<Arc<AtomicI64>>);

impl CpuBudget {
    /// An operation begins.
    pub fn renew(&self) {
        self.set(|| cpu_time().saturating_add(LONGEST_OPERATION.as_nanos() as i64));
    }

    /// An operation begins that takes its time.
    pub fn lift(&self) {
        self.set(|| i64::MAX);
    }

    fn set(&self, until: impl FnOnce() -> i64) {
        if let Some(limit) = &self.0 {
            limit.store(until(), Ordering::Relaxed);
        }
    }
}

/// Of this thread, in nanoseconds: waiting for another writer, or for a busy machine, takes none.
fn cpu_time() -> i64 {
    ClockId::CLOCK_THREAD_CPUTIME_ID.now().map_or(0, |t| t.num_nanoseconds())
}
