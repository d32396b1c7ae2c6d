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

#[cfg(feature = "failpoints")]
use crate::harness::{End, World};

/// Runs `bookend recover` until it settles everything. Returns its output if it does not.
#[cfg(feature = "failpoints")]
fn recover(world: &World) -> Result<(), String> {
    let mut outputs = String::new();
    for _ in 0..3 {
        let recovered = world.bare(["bookend", "recover", "--grace", "200ms"]).run();
        if recovered.end == End::Code(0) {
            return Ok(());
        }
        outputs += &format!("{recovered:?}\n");
    }
    Err(format!("bookend recover does not settle it:\n{outputs}"))
}
