//! Short runs: one after another in each slot, with an agent, a key and a fault chosen at random.
//! How each may end, and what may be said of it, follows from what was drawn.

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

/// The longest that an agent works; less where there is less time.
const LONGEST: Duration = Duration::from_secs(30);
/// Keys that several slots share.
const SHARED: u64 = 6;
/// A round of talk takes this long, or longer.
const ROUND: Duration = Duration::from_millis(40);
/// What takes longer than this hangs, and not the agent.
const PATIENCE: Duration = Duration::from_secs(120);
/// A ledger that is locked for longer than this, an impatient run does not wait for.
pub const IMPATIENCE: Duration = Duration::from_millis(250);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum How {
    Naps,
    Talks,
    /// Below it another bookend runs an agent that talks.
    Nests,
    Fails,
    Crashes,
    Missing,
    /// Ended by a time-out.
    Hangs,
    /// The same, and it ignores SIGTERM.
    IsStubborn,
    /// Ended by the time-out for silence.
    FallsSilent,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    None,
    Own,
    /// Others have it too: refused, waiting for it, or replacing who has it.
    Shared(u64, Option<&'static str>),
}

/// What was drawn for one run.
#[derive(Debug)]
pub struct Plan {
    pub id: String,
    pub how: How,
    pub fault: Fault,
    /// `bookend cancel` ends it.
    pub is_cancelled: bool,
    /// It does not wait for a ledger that is locked.
    is_impatient: bool,
    key: Key,
    life: Duration,
    /// When its fault strikes.
    moment: Duration,
    /// The agent's program: 0 `agent`, 1 `cursor-agent`, 2 `claude`.
    pub program: u64,
    has_hooks: bool,
}

/// A run that is over.
pub struct Run {
    pub plan: Plan,
    pub end: String,
    pub said: String,
    /// It talked to its end, and was not cut short.
    pub rounds: Option<u64>,
}

/// One run after another, until it is over.
pub fn one_after_another(soak: &Soak, slot: usize, next: &AtomicUsize) -> Vec<Run> {
    let mut runs = Vec::new();
    while !soak.is_over() {
        let n = next.fetch_add(1, Ordering::Relaxed);
        let plan = Plan::draw(Dice::of(soak.seed, n), n, slot, LONGEST.min(soak.length / 4));
        runs.push(one(soak, plan, slot));
    }
    runs
}

impl Plan {
    fn draw(mut dice: Dice, n: usize, slot: usize, longest: Duration) -> Plan {
        let life = longest.mul_f64((5 + dice.roll(96)) as f64 / 100.0);
        let key = match dice.roll(8) {
            0..4 => Key::Own,
            4 => Key::Shared(dice.roll(SHARED), None),
            5 => Key::Shared(dice.roll(SHARED), Some("--wait")),
            6 if dice.roll(2) == 0 => Key::Shared(dice.roll(SHARED), Some("--replace")),
            _ => Key::None,
        };
        // A run under a key resumes the conversation of the last, so it runs the same program.
        let program = match key {
            Key::Own => slot as u64 % 3,
            Key::Shared(n, _) => n % 3,
            Key::None => dice.roll(3),
        };
        let how = match dice.roll(16) {
            0..3 => How::Naps,
            3..8 => How::Talks,
            8 => How::Nests,
            9 => How::Fails,
            10 => How::Crashes,
            11 if dice.roll(4) == 0 => How::Missing,
            12 => How::IsStubborn,
            13 if program > 0 => How::FallsSilent,
            _ => How::Hangs,
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
            life,
            moment: life.mul_f64(dice.roll(100) as f64 / 100.0),
            program,
            has_hooks: dice.roll(4) == 0,
        }
    }

    fn rounds(&self) -> u64 {
        (self.life.as_millis() / ROUND.as_millis()) as u64
    }

    fn command(&self, soak: &Soak, slot: usize) -> Command {
        let seconds = self.life.as_secs_f64();
        let how = match self.how {
            How::Naps => format!("nap,{seconds}"),
            How::Talks => format!("talk,{}", self.rounds()),
            How::Nests => format!("nest,{}", self.rounds()),
            How::Fails => format!("fail,{seconds}"),
            How::Crashes => format!("die,{seconds}"),
            How::IsStubborn => "stubborn".to_owned(),
            How::Hangs | How::FallsSilent | How::Missing => "hang".to_owned(),
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
        let limit = format!("{}ms", self.life.as_millis());
        match self.how {
            How::Hangs | How::IsStubborn => command.args(["--timeout", &limit]),
            How::FallsSilent => command.args(["--idle-timeout", &limit]),
            _ => &mut command,
        };
        if self.is_impatient {
            command.env("BOOKEND_BUSY_TIMEOUT", format!("{}ms", IMPATIENCE.as_millis()));
        }
        command.arg("--");
        match (self.how, self.program) {
            (How::Missing, _) => command.args(["./missing", &how]),
            (_, 0) => command.args(["agent", &how]),
            (_, 1) => command.args(cursor(&how)),
            _ => command.args(claude(&how)),
        };
        command
    }

    /// Whether a run that left with `end` may have a row of this `ending`; `""`: it has none.
    pub fn may_end(&self, end: &str, ending: &str) -> bool {
        let own = match self.how {
            How::Naps | How::Talks | How::Nests => ("0", "success/"),
            How::Fails => ("3", "failure/exit"),
            How::Crashes => ("signal 11", "failure/signal"),
            How::Missing => ("127", "failure/spawn"),
            How::Hangs | How::IsStubborn => ("124", "cancelled/timeout"),
            How::FallsSilent => ("124", "cancelled/idle_timeout"),
        };
        let mut may = vec![own];
        // Asked to stop before there is a row, it leaves none; before the agent's result, it outweighs that.
        let mut stopped = |ending| {
            let signals = ["signal 1", "signal 2", "signal 9", "signal 15"];
            may.extend(signals.iter().flat_map(|end| [(*end, ending), (*end, "")]));
            may.push((own.0, ending));
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
                may.extend(endings.map(|ending| ("signal 9", ending)));
            }
            Fault::AgentKilled => may.push(("signal 9", "failure/signal")),
            Fault::Nothing | Fault::Signalled(_) => {}
        }
        if self.hook_may_be_killed() {
            may.extend(["125", "signal 9"].map(|end| (end, "failure/prepare")));
        }
        if is_shared {
            may.push(("75", ""));
        }
        if self.is_impatient {
            may.push(("125", ""));
            if self.how == How::Nests {
                // The one below it was impatient.
                may.push(("125", "failure/exit"));
            }
        }
        may.contains(&(end, ending))
    }

    /// Whether somebody may have told its supervisor to end it.
    fn is_told(&self) -> bool {
        self.is_cancelled || matches!(self.key, Key::Shared(..)) || matches!(self.fault, Fault::Signalled(_))
    }

    /// Whether what was killed may have been a hook.
    fn hook_may_be_killed(&self) -> bool {
        self.has_hooks && matches!(self.fault, Fault::AgentKilled | Fault::BothKilled)
    }

    /// Whether its `--on-finish` command may have been cut off: by whoever kills what runs, or told to stop
    /// when the agent had ended.
    pub fn hook_may_fail(&self) -> bool {
        self.hook_may_be_killed() || (self.has_hooks && self.is_told())
    }

    /// What bookend said, but for what it may have said of this run.
    pub fn unexpected<'a>(&self, end: &str, said: &'a str) -> Vec<&'a str> {
        let has_key = self.key != Key::None;
        let is_refused = end == "75";
        let may_be_said = |line: &str| {
            let Some(line) = line.strip_prefix("bookend: ") else {
                return line.starts_with("hint: ");
            };
            let has = |parts: &[&str]| parts.iter().all(|part| line.contains(part));
            let not_well = (end != "0" || self.is_told())
                && has(&["warning: the run ", "; the next run under key ", " starts a fresh conversation"]);
            let settles = has_key && (has(&["warning: settled task "]) || has(&["recorded from the spool"]));
            let refuses = is_refused && has(&["the key shared:", " is held by task "]);
            let is_missing = self.how == How::Missing && has(&["error: ", ": command not found in PATH"]);
            let cut_off = [" was killed", " was interrupted by ", " was not run: "];
            let is_cut_off = (self.hook_may_fail()
                && cut_off.iter().any(|how| has(&["the --on-finish command of ", how])))
                || (self.hook_may_be_killed() && has(&["--prepare was killed by SIGKILL"]));
            // What an agent that was stopped left running holds its stdout until the sweep.
            let outlived = (end != "0" || self.is_told())
                && has(&["warning: stopped reading the agent's stdout ", " it is still open in process "]);
            let gives_up = self.is_impatient && has(&["other processes kept it locked for "]);
            not_well || settles || refuses || is_missing || is_cut_off || outlived || gives_up
        };
        said.lines().filter(|line| !may_be_said(line)).collect()
    }
}

/// One run and what is done to it.
fn one(soak: &Soak, plan: Plan, slot: usize) -> Run {
    let mut errors = tempfile::tempfile().expect("a file for stderr");
    let mut run = plan
        .command(soak, slot)
        .stdout(Stdio::null())
        .stderr(errors.try_clone().expect("stderr"))
        .spawn()
        .expect("a run");
    soak.alive.fetch_add(1, Ordering::Relaxed);
    let handle = pidfd_open(Pid::from_child(&run), PidfdFlags::empty()).expect("a pidfd of our child");
    let is_struck = plan.fault != Fault::Nothing || plan.is_cancelled;
    if is_struck && !ends_within(&handle, plan.moment) {
        plan.fault.strike(&mut run);
        if plan.is_cancelled {
            cancel(soak, &plan.id);
        }
    }
    if !ends_within(&handle, plan.life + PATIENCE) {
        soak.wrong(format!("{plan:?} does not end: pid {}", run.id()));
        run.kill().expect("a signal to our child");
    }
    let cut_short = soak.is_over();
    let end = leaves(soak, &mut run);
    let mut said = String::new();
    errors.rewind().and_then(|()| errors.read_to_string(&mut said)).expect("what it said");
    let rounds = (plan.how == How::Talks && !cut_short).then(|| plan.rounds());
    Run { plan, end, said, rounds }
}

pub fn ends_within(handle: &OwnedFd, time: Duration) -> bool {
    ready(&[handle], time)[0]
}

/// How a supervisor left that has ended.
pub fn leaves(soak: &Soak, run: &mut Child) -> String {
    let status = run.wait().expect("its end");
    soak.alive.fetch_sub(1, Ordering::Relaxed);
    fault::end(status)
}

fn cancel(soak: &Soak, id: &str) {
    let output = bookend(&soak.world).args(["cancel", id]).output().expect("bookend cancel");
    // 1: it had ended, or not begun.
    let is_well = matches!(output.status.code(), Some(0 | 1));
    soak.unless(is_well, || format!("cancel {id}: {output:?}"));
}
