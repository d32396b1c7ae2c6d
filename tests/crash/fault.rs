//! Random choices and the faults that they inject into a run, for the storm and the soak.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, SystemTime};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::harness::{World, forked, pause, stat_field};

/// SplitMix64 (Steele, Lea, Flood 2014): the seed and the number of a run determine its choices.
pub struct Dice(u64);

impl Dice {
    pub fn of(seed: u64, run: usize) -> Dice {
        Dice(seed ^ (run as u64).wrapping_mul(0x2545_f491_4f6c_dd1d))
    }

    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

/// The fault that is injected into a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    Nothing,
    SupervisorKilled,
    AgentKilled,
    BothKilled,
    /// The supervisor receives this signal.
    Signalled(i32),
}

impl Fault {
    pub fn inject(self, run: &mut Child) {
        if matches!(self, Fault::AgentKilled | Fault::BothKilled) {
            kill_children(run.id() as i32);
        }
        match self {
            Fault::SupervisorKilled | Fault::BothKilled => run.kill().expect("a signal to our child"),
            Fault::Signalled(signal) => send_signal(run, signal),
            Fault::AgentKilled | Fault::Nothing => {}
        }
    }
}

/// The number in an environment variable.
pub fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|n| n.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// The seed in an environment variable, or else one from the clock.
pub fn seed(name: &str) -> u64 {
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    number(name).unwrap_or_else(|| now().map_or(0, |d| d.as_nanos() as u64))
}

/// bookend with umask 0, so that a file's mode is the one that bookend asks for.
pub fn bookend(world: &World) -> Command {
    let mut command = Command::new(world.path("bin/probe"));
    command
        .args(["with", "umask=0", "--", "bookend"])
        .env_clear()
        .envs(world.environment())
        .current_dir(world.path("home"))
        .stdin(Stdio::null());
    command
}

pub fn recovery(world: &World) -> Command {
    let mut command = bookend(world);
    command.args(["recover", "--grace", "200ms"]).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// How a run ended: its exit code or signal.
pub fn describe_end(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => code.to_string(),
        (None, signal) => format!("signal {}", signal.unwrap_or_default()),
    }
}

pub fn send_signal(child: &Child, signal: i32) {
    let signal = Signal::from_named_raw(signal).expect("a named signal");
    // The child has not been waited for, so its pid cannot have been reused.
    let _ = rustix::process::kill_process(Pid::from_child(child), signal);
}

/// Waits until bookend has forked, so that faults do not hit only the start on a slow machine.
pub fn await_child(run: &mut Child) {
    while forked(run.id() as i32).is_empty() && run.try_wait().is_ok_and(|ended| ended.is_none()) {
        pause(Duration::from_millis(1));
    }
}

/// Kills the children of `parent`: the agent, before or after the gate, or a hook. It spares the sentinel,
/// which does no work of its own.
fn kill_children(parent: i32) {
    for pid in forked(parent) {
        let Some(Ok(handle)) = Pid::from_raw(pid).map(|p| pidfd_open(p, PidfdFlags::empty())) else {
            continue;
        };
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        // Checked now that the pidfd is open: the pid could have been reused before.
        if stat_field(pid, 4) == Some(parent.to_string()) && name.trim_end() != "bookend-sentine" {
            let _ = pidfd_send_signal(&handle, Signal::KILL);
        }
    }
}

#[test]
fn choices_depend_only_on_the_seed() {
    let rolls = |seed| {
        let mut dice = Dice::of(seed, 1);
        (0..8).map(|_| dice.roll(100)).collect::<Vec<_>>()
    };
    assert_eq!(rolls(7), rolls(7));
    assert_ne!(rolls(7), rolls(8));
}
