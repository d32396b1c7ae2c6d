//! Kills bookend at every step and makes every step fail. The invariants hold after the next recovery.

pub mod agents;
pub mod fault;
pub mod invariants;
#[cfg(feature = "failpoints")]
mod matrix;
#[cfg(feature = "failpoints")]
#[path = "../../src/failpoint/points.rs"]
pub mod points;
#[cfg(feature = "failpoints")]
mod scenarios;
mod storm;

use crate::harness::World;
#[cfg(feature = "failpoints")]
use crate::harness::{End, Monitor, eventually};

/// Runs `bookend recover` until it settles everything. Returns its output if it does not.
#[cfg(feature = "failpoints")]
fn recover(world: &World) -> Result<(), String> {
    let mut outputs = String::new();
    for _ in 0..3 {
        let words = ["bookend", "recover", "--grace", "200ms", "--on-interrupted", agents::ON_INTERRUPTED];
        let recovered = world.bare(words).run();
        if recovered.end == End::Code(0) {
            return Ok(());
        }
        outputs += &format!("{recovered:?}\n");
    }
    Err(format!("bookend recover does not settle it:\n{outputs}"))
}

/// As [`recover`], by a monitor.
#[cfg(feature = "failpoints")]
fn recover_by_monitor(world: &World) -> Result<(), String> {
    let monitor = Monitor::spawn(world, &[], &[], &monitor_options());
    if monitor.is_ready(world.deadline()) {
        eventually(world.deadline(), "the next monitor to settle and report everything", || is_quiet(world));
    }
    let output = monitor.end();
    if output.end == End::Signal(15) { Ok(()) } else { Err(format!("the next monitor: {output:?}")) }
}

pub fn monitor_options() -> [&'static str; 4] {
    ["--grace", "200ms", "--on-interrupted", agents::ON_INTERRUPTED]
}

/// Whether there is nothing left for a monitor to do.
pub fn is_quiet(world: &World) -> bool {
    pending(world).is_empty()
}

/// What is left for a monitor to do.
pub fn pending(world: &World) -> Vec<String> {
    const PENDING: &str = "SELECT id || ': ' || status || ', reported ' || coalesce(hinted_at, 'never')
        || ', hook ' || coalesce(delivery_status, 'never') AS what FROM task_history WHERE status = 'running'
        OR (status = 'interrupted' AND hinted_at IS NULL)
        OR (on_finish IS NOT NULL AND coalesce(delivery_status, '') NOT IN ('delivered', 'failed'))";
    if !world.ledger().exists() {
        return Vec::new();
    }
    let rows = world.sql(PENDING).into_iter().map(|row| row.text("what"));
    let spool = std::fs::read_dir(world.path("state/bookend/bookend.db.d/spool"));
    let files = spool.into_iter().flatten().flatten().map(|f| f.file_name().to_string_lossy().into_owned());
    rows.chain(files.filter(|name| !name.ends_with(".kept.json"))).collect()
}
