//! The monitor settles each lost task as soon as its supervisor dies, and nothing depends on it.

mod asleep;
mod deaths;
#[cfg(feature = "failpoints")]
mod ends;
mod files;
mod hooks;
mod scale;
mod service;
mod unseen;

use rustix::process::Signal;

use crate::harness::{Fifo, Proc, World, eventually};

/// A run that has ended, and is in the first attempt of its hook. The second one succeeds.
pub struct CutOff {
    supervisor: Proc,
    started: Fifo,
}

impl CutOff {
    pub fn start(world: &World, id: &str) -> CutOff {
        let mut started = world.fifo("started");
        let attempt = "attempt $BOOKEND_DELIVERY_ATTEMPT";
        let second = "[ $BOOKEND_DELIVERY_ATTEMPT = 2 ]";
        let hook = format!("echo {attempt} >{}; {second} || exec sleep 1000", started.path());
        let supervisor = world.run(["true"]).options(["--id", id, "--on-finish", &hook]).start();
        assert_eq!(started.line(), "attempt 1");
        CutOff { supervisor, started }
    }

    pub fn kill_supervisor(mut self) -> CutOff {
        self.supervisor.signal(Signal::KILL);
        self.supervisor.wait_here();
        self
    }

    /// Waits until the hook runs again.
    pub fn runs_again(mut self) {
        assert_eq!(self.started.line(), "attempt 2");
    }
}

/// Waits until the hook of the only task has succeeded.
pub fn until_delivered(world: &World) {
    let is_so = || world.row().text("delivery_status") == "delivered";
    eventually(world.deadline(), "the delivery", is_so);
}

/// Waits until the task `id` has this status and reason.
pub fn until_ended(world: &World, id: &str, ending: &str) {
    let query = format!("SELECT status, reason FROM task_history WHERE id = '{id}'");
    let is_so = || world.sql(&query).first().is_some_and(|row| row.ending() == ending);
    eventually(world.deadline(), &format!("{id} as {ending}"), is_so);
}

/// Waits until the task `id` was reported.
pub fn until_reported(world: &World, id: &str) {
    let query = format!("SELECT 1 FROM task_history WHERE id = '{id}' AND hinted_at IS NOT NULL");
    eventually(world.deadline(), &format!("a report of {id}"), || !world.sql(&query).is_empty());
}

/// The number of lines that contain `part`.
pub fn count(text: &str, part: &str) -> usize {
    text.lines().filter(|line| line.contains(part)).count()
}
