//! The least that keeps two rows of a command in a ledger of bookend's: SQLite, and nothing else. No key or
//! session is looked at, no lock says that it lives, nobody forwards a signal, reads along, or looks for what
//! the command left; no room is kept for the end. What this takes, no supervisor with such rows can be below.
//!
//! `least LEDGER COMMAND [ARGUMENT]...`
#![allow(clippy::print_stderr, reason = "it is a program of its own")]

use std::error::Error;
use std::fs::File;
use std::process::{Command, ExitCode};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, TransactionBehavior};

const INSERT: &str = "INSERT INTO task_history (id, status, started_at, argv, supervisor_pid)
    VALUES (?1, 'running', ?2, ?3, ?4)";
const UPDATE: &str =
    "UPDATE task_history SET status = 'success', finished_at = ?2, exit_code = ?3 WHERE id = ?1";
/// As often as bookend copies its log, in pages of it.
const COPIED: u32 = 64;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    match run(&args[1], &args[2..]) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("least: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(ledger: &str, argv: &[String]) -> Result<(), Box<dyn Error>> {
    let mut conn = Connection::open(ledger)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    conn.busy_handler(Some(|_| {
        std::thread::sleep(Duration::from_micros(500));
        true
    }))?;
    // As bookend does it: the sync comes after the lock was let go.
    conn.execute_batch(&format!("PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = {COPIED}"))?;
    let log = File::open(format!("{ledger}-wal"))?;
    let pid = std::process::id();
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map(|t| t.as_nanos().to_string());
    let id = format!("{}-{pid}", now()?);

    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    tx.execute(INSERT, (&id, now()?, argv.join(" "), pid))?;
    tx.commit()?;
    log.sync_data()?;
    let status = Command::new(&argv[0]).args(&argv[1..]).status()?;
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    tx.execute(UPDATE, (&id, now()?, status.code()))?;
    tx.commit()?;
    log.sync_data()?;
    std::mem::forget(conn);
    Ok(())
}
