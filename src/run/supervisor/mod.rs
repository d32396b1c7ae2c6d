//! The supervisor at work: one loop that turns events into moves while prepare command, agent and hook
//! live and die. `run.rs` tells in which order; `turn.rs` what each event does, `settle.rs` how the row ends.

mod events;
mod settle;
mod stopwatch;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tracing::{debug, warn};

use crate::agent::{self, Mode, Observed, Reader};
use crate::error::{Error, chain};
use crate::exit::Exit;
use crate::helper::{Attendant, Helper, Waited};
use crate::ledger::{Ledger, SpoolSlot};
use crate::process::capture::{Capture, OutputLoss};
use crate::process::cgroup::Cgroup;
use crate::process::escalation::Escalation;
use crate::process::forward::Forward;
use crate::process::leftovers::summary::LeftoverSummary;
use crate::process::leftovers::{LeftoverSweep, SweepStep};
use crate::process::spawn::gate::{Gated, StartError};
use crate::process::watch::{Watch, WatchSource};
use crate::recovery::trust;
use crate::stop::watching;
use crate::sys::{self, ReceivedSignal, ResourceUsage};
use crate::task::{
    Cause, Counts, Ended, Ending, KeepSession, Key, Outcome, Provider, SessionId, Stop, TaskId,
};

use stopwatch::Clock;

pub use settle::{never_ran, withdraw};

/// How often partial counts are written while the agent runs, at most.
const PROGRESS: Duration = Duration::from_secs(1);
/// How often it is written that the agent still says something, at most.
const SIGN_OF_LIFE: Duration = Duration::from_secs(60);
/// After how long without need of the ledger its memory is given back. A run that is over before spares
/// the kernel the taking and giving.
const REST: Duration = Duration::from_millis(100);
/// How long after the last byte of the agent's output its pipe is still read when the agent has ended and
/// another process has the pipe open; and how long in all.
const QUIET: Duration = Duration::from_secs(1);
const LONGEST_DRAIN: Duration = Duration::from_secs(10);
/// Chunks of the agent's output that are taken in one turn, at most.
const CHUNKS: usize = 4;
/// Where the run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The agent waits at the gate.
    Before,
    /// The gate is open.
    Running,
    /// The agent has ended.
    After,
}

/// The agent's process.
pub struct Agent {
    pub child: Gated,
    pub mode: Mode,
    /// Its exec is known to have happened.
    pub executed: bool,
    pub start_error: Option<StartError>,
    pub ended: Option<(Exit, ResourceUsage)>,
    /// The cgroup that is its task's alone.
    cgroup: Option<Cgroup>,
}

impl Agent {
    pub fn new(child: Gated, mode: Mode, cgroup: Option<Cgroup>) -> Agent {
        Agent { child, mode, executed: false, start_error: None, ended: None, cgroup }
    }
}

/// What is read from the agent's captured output.
pub struct Listening {
    pub capture: Capture,
    pub reader: Box<dyn Reader>,
}

impl Listening {
    /// Takes what waits, yet not so much that other events would wait for long; says whether there was any.
    fn read_some(&mut self) -> bool {
        let any = self.read();
        for _ in 1..CHUNKS {
            if !self.capture.has_much() || !self.read() {
                break;
            }
        }
        any
    }

    /// Takes one chunk from the agent; says whether there was any.
    fn read(&mut self) -> bool {
        let Listening { capture, reader } = self;
        capture.read(&mut |bytes| reader.feed(bytes))
    }
}

/// The limits a run was given, and how it is to stop.
pub struct Limits {
    pub timeout: Option<Duration>,
    pub idle_timeout: Option<Duration>,
    pub grace: Duration,
    /// The agent may wait for more input after a result: that is no lingering.
    pub awaits_input: bool,
}

/// The first stop that was asked for and that still counts.
struct Asked {
    stop: Stop,
    at: Instant,
    /// How many results had come by then.
    results: u32,
}

/// The clocks that run beside the agent. The first three pause while it is stopped, and `idle` and `linger`
/// also while it waits for our stdout to take more.
#[derive(Default)]
struct Timers {
    timeout: Clock,
    idle: Clock,
    linger: Clock,
    progress: Option<Instant>,
    rest: Option<Instant>,
    stopped: bool,
    /// The stop signal (SIGTSTP, SIGTTIN, SIGTTOU) that bookend was sent since it was last continued.
    stop_signal: Option<i32>,
}

pub struct Supervisor<'a> {
    pub watch: Watch,
    pub ledger: &'a mut Ledger,
    pub task: TaskRef,
    pub agent: Agent,
    pub listening: Option<Listening>,
    pub helper: Option<Helper>,
    /// bookend itself ended the agent, which stayed after its result.
    pub lingered: bool,
    /// A stop came after the agent's end: nothing more is waited for.
    pub hurried: bool,
    /// The stop signals that came after the agent's end, for the hook that runs then.
    late_stops: VecDeque<i32>,
    /// The kernel did not let us kill the agent.
    out_of_reach: bool,
    pub limits: Limits,
    row: Row,
    phase: Phase,
    forward: Forward,
    early: VecDeque<ReceivedSignal>,
    asked: Option<Asked>,
    escalation: Escalation,
    timers: Timers,
    written: Written,
    /// The id that the agent was told to go on with, until it has named its own.
    resumed: Option<SessionId>,
    context_lost: bool,
    sweep: Option<LeftoverSweep>,
}

/// What names the task in the ledger.
pub struct TaskRef {
    pub id: TaskId,
    pub key: Option<Key>,
    pub provider: Option<Provider>,
}

/// What the row's end needs besides what was seen.
pub struct Row {
    /// When the task was claimed.
    pub started: Instant,
    /// Where the ending goes if the ledger does not take it.
    pub spool: Option<SpoolSlot>,
    /// What the session had cost before, as the agent counts, US dollars.
    pub cost_before: Option<f64>,
    pub cgroup: Option<String>,
    pub oom_kills_before: Option<u64>,
    /// Its end, once that is judged.
    pub ended: Option<Ended>,
    pub settled: bool,
}

/// The conversation of a run, as it was chosen.
pub struct Conversation {
    /// The id known before the agent says a word.
    pub session: Option<SessionId>,
    /// The id that the agent was told to go on with.
    pub resumed: Option<SessionId>,
}

/// How a run ended, as far as its ending is judged.
pub struct End {
    pub ending: Ending,
    pub error: Option<String>,
    pub exit: Option<(Exit, ResourceUsage)>,
    pub leftovers: Option<LeftoverSummary>,
    pub traces: Traces,
}

/// What the agent's own files tell of its conversation.
#[derive(Debug, Default)]
pub struct Traces {
    /// Whether the transcript lies where bookend looks for it; `None`: bookend did not look.
    pub transcript_seen: Option<bool>,
    /// The agent refused its arguments: its conversation is what it was.
    pub unused: bool,
    /// The session is kept although the run failed.
    pub kept: Option<KeepSession>,
    /// The id of a conversation that was sent to the background.
    pub backgrounded: Option<SessionId>,
}

/// What the ledger has been told of the agent's output.
#[derive(Default)]
struct Written {
    session: Option<SessionId>,
    /// The ledger was locked when the agent named its session.
    session_waits: bool,
    counts: Counts,
    tool: Option<String>,
    at: Option<Instant>,
}

impl<'a> Supervisor<'a> {
    /// Call it as soon as the gated child exists: from then on a signal to the group reaches it too.
    pub fn new(
        watch: Watch,
        ledger: &'a mut Ledger,
        (task, row): (TaskRef, Row),
        (agent, forward): (Agent, Forward),
        listening: Option<Listening>,
        limits: Limits,
        conversation: Conversation,
    ) -> Supervisor<'a> {
        let escalation = Escalation::new(limits.grace);
        Supervisor {
            watch,
            ledger,
            task,
            agent,
            listening,
            helper: None,
            lingered: false,
            hurried: false,
            late_stops: VecDeque::new(),
            out_of_reach: false,
            limits,
            row,
            phase: Phase::Before,
            forward,
            early: VecDeque::new(),
            asked: None,
            escalation,
            timers: Timers::default(),
            written: Written { session: conversation.session, ..Written::default() },
            resumed: conversation.resumed,
            context_lost: false,
            sweep: None,
        }
    }

    /// What the agent's output has told so far.
    pub fn observed(&self) -> Observed {
        self.listening.as_ref().map(|l| l.reader.observed().clone()).unwrap_or_default()
    }

    /// The stop that was asked for before the agent ever ran.
    pub fn stop_before_exec(&mut self) -> Result<Option<Stop>, Error> {
        while self.watch.pending(|_| true).map_err(watching)?.is_some() {
            self.turn(Some(Instant::now()))?;
        }
        Ok(self.asked.as_ref().map(|a| a.stop))
    }

    /// Opens the gate. The clocks start here.
    pub fn open_gate(&mut self) {
        let now = Instant::now();
        self.timers.timeout = Clock::of(self.limits.timeout, now);
        self.timers.idle = Clock::of(self.limits.idle_timeout, now);
        self.timers.rest = Some(now + REST);
        self.phase = Phase::Running;
        self.agent.child.open();
        // While the agent begins: so that the end of a short run does not wait for it.
        self.ledger.expect_end();
    }

    /// Gives back what memory is not needed while nothing happens: it may be a long wait, beside many others.
    fn rest(&mut self) {
        if let Some(listening) = &mut self.listening {
            listening.capture.rest();
        }
        if let Err(e) = self.ledger.rest() {
            debug!("{}", chain(&e));
        }
        sys::trim_memory();
    }

    /// Waits until the agent has ended; `None`: it was to end, and has become another user's, whose processes
    /// we may not signal. It would be waited for in vain.
    ///
    /// # Errors
    /// When the kernel has no memory left to watch with.
    pub fn attend(&mut self) -> Result<Option<(Exit, ResourceUsage)>, Error> {
        loop {
            let ended = self.agent.ended;
            if ended.is_some() || self.out_of_reach {
                // Its end may be told before how its exec went.
                if self.agent.child.report().is_some() {
                    self.on_ready(WatchSource::Report)?;
                }
                self.phase = Phase::After;
                self.timers = Timers::default();
                self.escalation = Escalation::new(self.limits.grace);
                return Ok(ended);
            }
            self.turn(None)?;
        }
    }

    /// Takes what is still in the agent's pipe. Another process may have it open, and may still write: that
    /// delays the end until nothing has come for [`QUIET`], by [`LONGEST_DRAIN`] at most.
    pub fn drain(&mut self) -> Result<(), Error> {
        let ended_at = Instant::now();
        let (mut last, mut total) = (ended_at, 0);
        if let Some(listening) = &mut self.listening {
            listening.capture.agent_ended();
        }
        while let Some(listening) = &mut self.listening {
            listening.read_some();
            let now = Instant::now();
            if listening.capture.total() > total {
                (last, total) = (now, listening.capture.total());
            }
            let until = (last + QUIET).min(ended_at + LONGEST_DRAIN);
            if listening.capture.ended() || now >= until || self.hurried {
                self.end_of_output(ended_at);
                return self.take_note();
            }
            self.turn(Some(until))?;
        }
        Ok(())
    }

    /// Reads no more of the agent's output. If its pipe is still open, says who has it open.
    fn end_of_output(&mut self, ended_at: Instant) {
        let Some(Listening { capture, reader }) = &mut self.listening else { return };
        if let Some(holders) = capture.holders() {
            warn!(
                "stopped reading the agent's stdout {:.1} s after the agent's exit, at {} bytes: it is still \
                 open in {holders}",
                ended_at.elapsed().as_secs_f64(),
                capture.total()
            );
        }
        capture.hang_up();
        reader.finish();
    }

    /// Waits until our stdout has taken what its file system had no room for, until `until` at most. What it
    /// has not taken by then is lost.
    pub fn await_room(&mut self, until: Instant) -> Result<(), Error> {
        let lacks_room = |l: &Listening| l.capture.lacks_room();
        while !self.hurried && self.listening.as_ref().is_some_and(lacks_room) && Instant::now() < until {
            self.turn(Some(until))?;
        }
        if let Some(listening) = &mut self.listening {
            listening.capture.give_up();
        }
        Ok(())
    }

    /// What of the agent's output could not be written to our stdout.
    pub fn output_loss(&self) -> Option<OutputLoss> {
        self.listening.as_ref().and_then(|l| l.capture.loss())
    }

    /// What the agent's output says of success; an output that was not read along says nothing.
    pub fn outcome(&self) -> Outcome {
        self.listening
            .as_ref()
            .map_or(Outcome::NotDue, |l| agent::outcome_of(self.agent.mode, l.reader.observed()))
    }

    /// Looks what the agent left behind; signals nothing yet.
    pub fn look_for_leftovers(&self, sweep: &mut LeftoverSweep) {
        if let Err(e) = sweep.scan(&trust::supervisors(self.ledger)) {
            warn!(hint = e.hint(), "{}", chain(&e));
        }
    }

    /// What a sweep found, and an agent that could not be ended and that `/proc` hides.
    pub fn summary(&self, sweep: &LeftoverSweep) -> LeftoverSummary {
        let mut summary = sweep.summary();
        if self.out_of_reach {
            summary.count_hidden(self.agent.child.pid);
        }
        summary
    }

    /// Ends what the agent left behind and records what became of it; the loop goes on beside it.
    pub fn end_leftovers(&mut self, mut sweep: LeftoverSweep, ends: bool) -> Result<(), Error> {
        if !ends || !sweep.is_awaited() {
            return Ok(());
        }
        loop {
            let ledger = &*self.ledger;
            let step = sweep.step(Instant::now(), &trust::supervisors(ledger));
            match step {
                Ok(SweepStep::Done) => break,
                Ok(SweepStep::Wait(until)) => {
                    self.sweep = Some(sweep);
                    let turned = self.turn(Some(until));
                    let Some(back) = self.sweep.take() else { return turned };
                    sweep = back;
                    turned?;
                }
                Err(e) => {
                    warn!(hint = e.hint(), "{}", chain(&e));
                    break;
                }
            }
        }
        let summary = serde_json::to_string(&self.summary(&sweep)).unwrap_or_default();
        if let Err(e) = self.ledger.leftovers(&self.task.id, &summary) {
            warn!(
                hint = e.hint(),
                "recording what became of the left-overs of task {}: {}",
                self.task.id,
                chain(&e)
            );
        }
        Ok(())
    }

    /// Children of ours that are not the task's: the witness.
    pub fn helpers(&self) -> Vec<i32> {
        self.forward.sentinel().into_iter().collect()
    }

    /// Waits until the helper has ended, for `bound` at most; says whether it did.
    pub fn await_helper(&mut self, bound: Option<Duration>) -> Result<bool, Error> {
        let until = bound.map(|b| Instant::now() + b);
        while let Some(helper) = &mut self.helper {
            if helper.ended.is_some() {
                helper.read_output();
                return Ok(true);
            }
            if self.hurried || until.is_some_and(|u| Instant::now() >= u) {
                return Ok(false);
            }
            self.turn(until)?;
        }
        Ok(true)
    }

    /// Waits until the reader of our stdout has taken all, or has gone, or we are told to stop.
    pub fn flush(&mut self) -> Result<(), Error> {
        while !self.hurried && self.listening.as_ref().is_some_and(|l| l.capture.output().is_some()) {
            self.turn(None)?;
        }
        Ok(())
    }

    /// Waits until a child that was sent away at the gate is gone.
    pub fn dismiss(&mut self) -> Result<(), Error> {
        self.agent.child.dismiss();
        while self.agent.ended.is_none() {
            self.turn(None)?;
        }
        self.phase = Phase::After;
        Ok(())
    }

    /// By which signal to leave where the agent has left by none.
    pub fn stop_signal(&self) -> i32 {
        match self.asked.as_ref().map(|a| a.stop) {
            Some(Stop::Signal { signal, .. }) => signal,
            Some(Stop::Cancel { .. } | Stop::Timeout | Stop::IdleTimeout) | None => libc::SIGTERM,
        }
    }

    /// What asked the run to stop, judged by what came after it.
    pub fn cause(&self, ended_at: Instant) -> Option<Cause> {
        let asked = self.asked.as_ref()?;
        let results = self.observed().results;
        Some(Cause {
            stop: asked.stop,
            after_result: asked.results > 0 && asked.results == results,
            ran_on: ended_at.saturating_duration_since(asked.at),
        })
    }
}

impl Attendant for Supervisor<'_> {
    fn ledger(&mut self) -> &mut Ledger {
        self.ledger
    }

    fn is_stopping(&self) -> bool {
        self.hurried
    }

    fn wait(&mut self, hook: &mut Option<Helper>, until: Option<Instant>) -> Result<Waited, Error> {
        self.helper = hook.take();
        let waited = loop {
            if let Some(signal) = self.late_stops.pop_front() {
                break Ok(Waited::Stop(signal));
            }
            if self.helper.as_ref().is_some_and(|h| h.ended.is_some()) {
                break Ok(Waited::Ended);
            }
            if until.is_some_and(|u| Instant::now() >= u) {
                break Ok(Waited::Deadline);
            }
            if let Err(e) = self.turn(until) {
                break Err(e);
            }
        };
        *hook = self.helper.take();
        waited
    }
}
