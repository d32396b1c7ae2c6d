//! bookend dies at every step, and every step fails: what always holds, holds after the next recovery.

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

/// `bookend recover`, until nothing is left to be done; what it said on the way if it does not come to that.
#[cfg(feature = "failpoints")]
fn recover(world: &World) -> Result<(), String> {
    let mut said = String::new();
    for _ in 0..3 {
        let recovered = world.bare(["bookend", "recover", "--grace", "200ms"]).run();
        if recovered.end == End::Code(0) {
            return Ok(());
        }
        said += &format!("{recovered:?}\n");
    }
    Err(format!("bookend recover does not settle it:\n{said}"))
}
