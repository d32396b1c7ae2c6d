//! Short runs: one after another in each slot, with a randomly chosen agent, key and fault.
//! Behaviour each may end, and what may be stderr of it, follows from what was drawn.

use std::io::{Read, Seek};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::Soak;
use crate::crash::agents::{ON_FINISH, claude, cursor};
use crate::crash::fault::{self, Dice, Fault, bookend};
use crate::harness::ready;

/// The longest time that an agent works. A short soak uses less.
const LONGEST: Duration = Duration::from_secs(30);
/// The number of keys that several slots share.
const SHARED_KEYS: u64 = 6;
/// The shortest duration of a round of events.
const ROUND: Duration = Duration::from_millis(40);
/// The time after the agent's work in which bookend must exit.
const EXIT_LIMIT: Duration = Duration::from_secs(120);
/// The busy timeout of an impatient run.
pub const IMPATIENCE: Duration = Duration::from_millis(250);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Behaviour {
    Naps,
    Prints,
    /// It runs another bookend, whose agent prints.
    Nests,
    Fails,
    Crashes,
    Missing,
    /// The timeout ends it.
    Hangs,
    /// The timeout ends it, and it ignores SIGTERM.
    IsStubborn,
    /// The idle timeout ends it.
    FallsSilent,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    None,
    Own,
    /// Other slots use it too. The option says whether the run waits for it or replaces its holder.
    Shared(u64, Option<&'static str>),
}

/// The random choices for one run.
#[derive(Debug)]
pub struct Plan {
    pub id: String,
    pub how: Behaviour,
    pub fault: Fault,
    /// Whether `bookend cancel` ends it.
    pub is_cancelled: bool,
    /// Whether it gives up on a locked ledger soon.
    is_impatient: bool,
    key: Key,
    work: Duration,
    /// When the fault is injected.
    moment: Duration,
    /// The program of the agent: 0 `agent`, 1 `cursor-agent`, 2 `claude`.
    pub program: u64,
    has_hooks: bool,
}

/// A completed run.
pub struct Run {
    pub plan: Plan,
    pub end: String,
    pub stderr: String,
    /// The number of rounds if the agent printed all of them.
    pub rounds: Option<u64>,
}

/// Starts one run after another until the soak is over.
pub fn one_after_another(soak: &Soak, slot: usize, next: &AtomicUsize) -> Vec<Run> {
    let mut runs = Vec::new();
    while !soak.is_over() {
        let n = next.fetch_add(1, Ordering::Relaxed);
        let plan = Plan::draw(Dice::of(soak.seed, n), n, slot, LONGEST.min(soak.length / 4));
        runs.push(run_once(soak, plan, slot));
    }
    runs
}

impl Plan {
    fn draw(mut dice: Dice, n: usize, slot: usize, longest: Duration) -> Plan {
        let work = longest.mul_f64((5 + dice.roll(96)) as f64 / 100.0);
        let key = match dice.roll(8) {
            0..4 => Key::Own,
            4 => Key::Shared(dice.roll(SHARED_KEYS), None),
            5 => Key::Shared(dice.roll(SHARED_KEYS), Some("--wait")),
            6 if dice.roll(2) == 0 => Key::Shared(dice.roll(SHARED_KEYS), Some("--replace")),
            _ => Key::None,
        };
        // A run under a key resumes the conversation of the last, so it runs the same program.
        let program = match key {
            Key::Own => slot as u64 % 3,
            Key::Shared(n, _) => n % 3,
            Key::None => dice.roll(3),
        };
        let how = match dice.roll(16) {
            0..3 => Behaviour::Naps,
            3..8 => Behaviour::Prints,
            8 => Behaviour::Nests,
            9 => Behaviour::Fails,
            10 => Behaviour::Crashes,
            11 if dice.roll(4) == 0 => Behaviour::Missing,
            12 => Behaviour::IsStubborn,
            13 if program > 0 => Behaviour::FallsSilent,
            _ => Behaviour::Hangs,
        };
        let fault = match dice.roll(16) {
            0..3 => Fault::SupervisorKilled,
            3 => Fault::AgentKilled,
            4..6 => Fault::BothKilled,
            6..8 => Fault::Signalled(15),
            8 => Fault::Signalled(2),
            9 => Fault::Signalled(1),
            _ => Fault::Nothing,
        };
        Plan {
            id: format!("soak-{n:06}"),
            how,
            fault,
            is_cancelled: fault == Fault::Nothing && dice.roll(6) == 0,
            is_impatient: dice.roll(16) == 0,
            key,
            work,
            moment: work.mul_f64(dice.roll(100) as f64 / 100.0),
            program,
            has_hooks: dice.roll(4) == 0,
        }
    }

    fn rounds(&self) -> u64 {
        (self.work.as_millis() / ROUND.as_millis()) as u64
    }

    fn command(&self, soak: &Soak, slot: usize) -> Command {
        let seconds = self.work.as_secs_f64();
        let how = match self.how {
            Behaviour::Naps => format!("nap,{seconds}"),
            Behaviour::Prints => format!("talk,{}", self.rounds()),
            Behaviour::Nests => format!("nest,{}", self.rounds()),
            Behaviour::Fails => format!("fail,{seconds}"),
            Behaviour::Crashes => format!("die,{seconds}"),
            Behaviour::IsStubborn => "stubborn".to_owned(),
            Behaviour::Hangs | Behaviour::FallsSilent | Behaviour::Missing => "hang".to_owned(),
        };
        let mut command = bookend(&soak.world);
        command.args(["run", "--id", &self.id, "--grace", "200ms"]);
        let (key, manner) = match self.key {
            Key::None => (None, None),
            Key::Own => (Some(format!("own:{slot}")), None),
            Key::Shared(n, manner) => (Some(format!("shared:{n}")), manner),
        };
        command.args(key.iter().flat_map(|key| ["--key", key])).args(manner);
        if self.has_hooks {
            command.args(["--prepare", "true", "--on-finish", ON_FINISH]);
        }
        let limit = format!("{}ms", self.work.as_millis());
        match self.how {
            Behaviour::Hangs | Behaviour::IsStubborn => command.args(["--timeout", &limit]),
            Behaviour::FallsSilent => command.args(["--idle-timeout", &limit]),
            _ => &mut command,
        };
        if self.is_impatient {
            command.env("BOOKEND_BUSY_TIMEOUT", format!("{}ms", IMPATIENCE.as_millis()));
        }
        command.arg("--");
        match (self.how, self.program) {
            (Behaviour::Missing, _) => command.args(["./missing", &how]),
            (_, 0) => command.args(["agent", &how]),
            (_, 1) => command.args(cursor(&how)),
            _ => command.args(claude(&how)),
        };
        command
    }

    /// Whether a run that ended with `end` may have a row with this `ending`. `""` means that there is no
    /// row.
    pub fn may_end(&self, end: &str, ending: &str) -> bool {
        let own = match self.how {
            Behaviour::Naps | Behaviour::Prints | Behaviour::Nests => ("0", "success/"),
            Behaviour::Fails => ("3", "failure/exit"),
            Behaviour::Crashes => ("signal 11", "failure/signal"),
            Behaviour::Missing => ("127", "failure/spawn"),
            Behaviour::Hangs | Behaviour::IsStubborn => ("124", "cancelled/timeout"),
            Behaviour::FallsSilent => ("124", "cancelled/idle_timeout"),
        };
        let mut allowed = vec![own];
        // A stop before the claim leaves no row. A stop before the agent's result takes precedence over it.
        let mut stopped = |ending| {
            let signals = ["signal 1", "signal 2", "signal 9", "signal 15"];
            allowed.extend(signals.iter().flat_map(|end| [(*end, ending), (*end, "")]));
            allowed.push((own.0, ending));
        };
        match self.fault {
            Fault::Signalled(2) => stopped("cancelled/operator"),
            Fault::Signalled(_) => stopped("interrupted/signal"),
            _ => {}
        }
        let is_shared = matches!(self.key, Key::Shared(..));
        if self.is_cancelled || is_shared {
            stopped("cancelled/operator");
        }
        match self.fault {
            Fault::SupervisorKilled | Fault::BothKilled => {
                let endings = ["", "interrupted/supervisor_lost", "failure/signal", own.1];
                allowed.extend(endings.map(|ending| ("signal 9", ending)));
            }
            Fault::AgentKilled => allowed.push(("signal 9", "failure/signal")),
            Fault::Nothing | Fault::Signalled(_) => {}
        }
        if self.hook_may_be_killed() {
            allowed.extend(["125", "signal 9"].map(|end| (end, "failure/prepare")));
        }
        if is_shared {
            allowed.push(("75", ""));
        }
        if self.is_impatient {
            allowed.push(("125", ""));
            if self.how == Behaviour::Nests {
                // The inner run gave up.
                allowed.push(("125", "failure/exit"));
            }
        }
        allowed.contains(&(end, ending))
    }

    /// Whether its supervisor may have been asked to stop.
    fn may_be_stopped(&self) -> bool {
        self.is_cancelled || matches!(self.key, Key::Shared(..)) || matches!(self.fault, Fault::Signalled(_))
    }

    /// Whether the fault may have killed a hook.
    fn hook_may_be_killed(&self) -> bool {
        self.has_hooks && matches!(self.fault, Fault::AgentKilled | Fault::BothKilled)
    }

    /// Whether its `--on-finish` command may have been cut off: killed by the fault, or stopped after the
    /// agent had exited.
    pub fn hook_may_fail(&self) -> bool {
        self.hook_may_be_killed() || (self.has_hooks && self.may_be_stopped())
    }

    /// The lines that bookend printed and that the plan does not allow.
    pub fn unexpected<'a>(&self, end: &str, stderr: &'a str) -> Vec<&'a str> {
        let has_key = self.key != Key::None;
        let is_refused = end == "75";
        let is_allowed = |line: &str| {
            let Some(line) = line.strip_prefix("bookend: ") else {
                return line.starts_with("hint: ");
            };
            let has = |parts: &[&str]| parts.iter().all(|part| line.contains(part));
            let starts_fresh = has_key
                && has(&["warning: the run ", "; the next run under key ", " starts a fresh conversation"]);
            // The inner run of a nest has no key.
            let loses_session = (!has_key || self.how == Behaviour::Nests)
                && has(&["warning: the run ", "; bookend refuses to resume its session "]);
            let not_well = (end != "0" || self.may_be_stopped()) && (starts_fresh || loses_session);
            let settles = has_key && (has(&["warning: settled task "]) || has(&["recorded from the spool"]));
            let refuses = is_refused && has(&["the key shared:", " is held by task "]);
            let is_missing = self.how == Behaviour::Missing && has(&["error: ", ": no such file"]);
            let cut_off = [" was killed", " was interrupted by ", " was not run: "];
            let is_cut_off = (self.hook_may_fail()
                && cut_off.iter().any(|how| has(&["the --on-finish command of ", how])))
                || (self.hook_may_be_killed() && has(&["--prepare was killed by SIGKILL"]));
            // A process that a stopped agent left running holds its stdout until the sweep.
            let outlived = (end != "0" || self.may_be_stopped())
                && has(&["warning: stopped reading the agent's stdout ", " it is still open in "]);
            let silent = has(&["warning: the agent printed nothing for ", " (--idle-timeout): "]);
            let timed_out = end == "124" && (silent || has(&["warning: the run timed out after "]));
            let gives_up = self.is_impatient && has(&["other processes kept it locked for "]);
            not_well || settles || refuses || is_missing || is_cut_off || outlived || timed_out || gives_up
        };
        stderr.lines().filter(|line| !is_allowed(line)).collect()
    }
}

/// Starts one run and injects its fault.
fn run_once(soak: &Soak, plan: Plan, slot: usize) -> Run {
    let mut errors = tempfile::tempfile().expect("a file for stderr");
    let mut run = plan
        .command(soak, slot)
        .stdout(Stdio::null())
        .stderr(errors.try_clone().expect("stderr"))
        .spawn()
        .expect("a run");
    soak.alive.fetch_add(1, Ordering::Relaxed);
    let handle = pidfd_open(Pid::from_child(&run), PidfdFlags::empty()).expect("a pidfd of our child");
    let has_fault = plan.fault != Fault::Nothing || plan.is_cancelled;
    if has_fault && !ends_within(&handle, plan.moment) {
        plan.fault.inject(&mut run);
        if plan.is_cancelled {
            cancel(soak, &plan.id);
        }
    }
    if !ends_within(&handle, plan.work + EXIT_LIMIT) {
        soak.report_violation(format!("{plan:?} does not end: pid {}", run.id()));
        run.kill().expect("a signal to our child");
    }
    let cut_short = soak.is_over();
    let end = reap(soak, &mut run);
    let mut stderr = String::new();
    errors.rewind().and_then(|()| errors.read_to_string(&mut stderr)).expect("what it stderr");
    let rounds = (plan.how == Behaviour::Prints && !cut_short).then(|| plan.rounds());
    Run { plan, end, stderr, rounds }
}

pub fn ends_within(handle: &OwnedFd, time: Duration) -> bool {
    ready(&[handle], time)[0]
}

/// Behaviour a supervisor left that has ended.
pub fn reap(soak: &Soak, run: &mut Child) -> String {
    let status = run.wait().expect("its end");
    soak.alive.fetch_sub(1, Ordering::Relaxed);
    fault::describe_end(status)
}

fn cancel(soak: &Soak, id: &str) {
    let output = bookend(&soak.world).args(["cancel", id]).output().expect("bookend cancel");
    // 1: the task had ended, or not started.
    let is_well = matches!(output.status.code(), Some(0 | 1));
    soak.unless(is_well, || format!("cancel {id}: {output:?}"));
}
