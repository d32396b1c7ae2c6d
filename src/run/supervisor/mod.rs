//! The supervisor: the state of one run, and what it waits for between the fork and its end.

mod events;
pub(super) mod settle;
mod state;
mod stopwatch;
mod tree;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tracing::{debug, warn};

use crate::agent::{self, ObservedOutput, OutputMode, OutputReader};
use crate::error::{Error, chain};
use crate::exit::Exit;
use crate::helper::{Attendant, Helper, Waited};
use crate::ledger::{Ledger, SpoolSlot, TaskLookup};
use crate::process::capture::{Capture, OutputLoss};
use crate::process::cgroup::Cgroup;
use crate::process::escalation::Escalation;
use crate::process::forward::Forward;
use crate::process::leftovers::{LeftoverSummary, LeftoverSweep, ProcessTree, SweepStep};
use crate::process::spawn::gate::{Gated, StartError};
use crate::process::watch::{Watch, WatchSource};
use crate::recovery::trust;
use crate::stop::watching;
use crate::sys::{self, ReceivedSignal, ResourceUsage};
use crate::task::{
    AgentOutcome, Key, Provider, SessionId, SessionTotals, Signal, StopCause, StopRequest, Task, TaskId,
    UsageCounts,
};
use state::{AgentPhase, RowState, StopState};
use stopwatch::Clock;

/// Time between two writes of partial counts, at least.
const PROGRESS: Duration = Duration::from_secs(1);
/// Time between two writes that say that the agent still produces output, at least.
const SIGN_OF_LIFE: Duration = Duration::from_secs(60);
/// Time without use of the ledger after which its memory is given back. A shorter run saves the kernel that
/// work.
const REST: Duration = Duration::from_millis(100);
/// If another process keeps the agent's stdout open after the agent's exit, bookend reads on until nothing
/// has come for `QUIET`, and for `LONGEST_DRAIN` at most.
const QUIET: Duration = Duration::from_secs(1);
const LONGEST_DRAIN: Duration = Duration::from_secs(10);
/// Chunks of the agent's output that are read in one turn, at most.
const CHUNKS: usize = 4;

/// What a supervisor starts with.
pub(super) struct SupervisorStart {
    pub(super) task: TaskRef,
    pub(super) row: RowFacts,
    /// Takes the ending if the ledger does not.
    pub(super) spool: SpoolSlot,
    pub(super) agent: Agent,
    pub(super) forward: Forward,
    pub(super) output: Option<CapturedOutput>,
    pub(super) limits: Limits,
    pub(super) conversation: Conversation,
}

/// What names the task in the ledger.
pub(super) struct TaskRef {
    pub(super) id: TaskId,
    pub(super) key: Option<Key>,
    pub(super) provider: Option<Provider>,
}

/// What the end of the row is computed from, besides what the supervisor sees.
pub(super) struct RowFacts {
    /// When the task was claimed.
    pub(super) started: Instant,
    /// What the session had used before, as the agent counts.
    pub(super) totals_before: SessionTotals,
    pub(super) cgroup: Option<String>,
    pub(super) oom_kills_before: Option<u64>,
}

/// The agent's process.
pub(super) struct Agent {
    child: Gated,
    mode: OutputMode,
    state: AgentPhase,
    /// The cgroup that holds only this task.
    cgroup: Option<Cgroup>,
}

impl Agent {
    pub(super) fn new(child: Gated, mode: OutputMode, cgroup: Option<Cgroup>) -> Agent {
        Agent { child, mode, state: AgentPhase::AtGate, cgroup }
    }
}

/// The agent's captured stdout, and the adapter that reads it.
pub(super) struct CapturedOutput {
    pub(super) capture: Capture,
    pub(super) reader: Box<dyn OutputReader>,
}

impl CapturedOutput {
    /// Reads what is waiting, but not so much that other events have to wait. Returns whether there was any.
    fn read_some(&mut self) -> bool {
        let any = self.read();
        for _ in 1..CHUNKS {
            if !self.capture.has_much() || !self.read() {
                break;
            }
        }
        any
    }

    /// Reads one chunk from the agent. Returns whether there was one.
    fn read(&mut self) -> bool {
        let CapturedOutput { capture, reader } = self;
        capture.read(&mut |bytes| reader.feed(bytes))
    }
}

/// The limits of a run.
pub(super) struct Limits {
    pub(super) timeout: Option<Duration>,
    pub(super) idle_timeout: Option<Duration>,
    pub(super) grace: Duration,
    /// The agent may wait for more input after a result, and is not ended for that.
    pub(super) awaits_input: bool,
}

/// The conversation of a run, as it was chosen.
pub(super) struct Conversation {
    /// The session id known before the agent reports one.
    pub(super) session: Option<SessionId>,
    /// The session id that the agent was told to resume.
    pub(super) resumed: Option<SessionId>,
}

/// The clocks that run beside the agent. The first three pause while it is stopped; `idle` and `linger` also
/// while it waits for bookend's stdout to take more.
#[derive(Default)]
struct Timers {
    timeout: Clock,
    idle: Clock,
    linger: Clock,
    progress: Option<Instant>,
    rest: Option<Instant>,
    stopped: bool,
    /// The signal (SIGTSTP, SIGTTIN, SIGTTOU) that bookend received since it was last continued.
    stop_signal: Option<Signal>,
}

/// What the ledger holds of the agent's output.
#[derive(Default)]
struct Written {
    session: Option<SessionId>,
    /// The ledger was locked when the agent reported its session.
    session_waits: bool,
    counts: UsageCounts,
    tool: Option<String>,
    at: Option<Instant>,
}

/// One run between its fork and its end. Dropping it ends the row if nothing else has.
pub(super) struct Supervisor<'a> {
    watch: Watch,
    ledger: &'a mut Ledger,
    task: TaskRef,
    facts: RowFacts,
    row: RowState,
    agent: Agent,
    output: Option<CapturedOutput>,
    helper: Option<Helper>,
    limits: Limits,
    stop: StopState,
    forward: Forward,
    /// Signals for the agent that came before its exec.
    early: VecDeque<ReceivedSignal>,
    escalation: Escalation,
    timers: Timers,
    written: Written,
    /// The session id that the agent was told to resume, until it reports one.
    resumed: Option<SessionId>,
    context_lost: bool,
    sweep: Option<LeftoverSweep>,
    /// `None`: the agent's first process passes signals on.
    tree: Option<ProcessTree>,
}

impl<'a> Supervisor<'a> {
    /// Supervises `start`. From here on a signal to bookend is also a signal to its agent.
    pub(super) fn new(watch: Watch, ledger: &'a mut Ledger, start: SupervisorStart) -> Supervisor<'a> {
        Supervisor {
            watch,
            ledger,
            task: start.task,
            facts: start.row,
            row: RowState::Running(start.spool),
            agent: start.agent,
            output: start.output,
            helper: None,
            escalation: Escalation::new(start.limits.grace),
            limits: start.limits,
            stop: StopState::default(),
            forward: start.forward,
            early: VecDeque::new(),
            timers: Timers::default(),
            written: Written { session: start.conversation.session, ..Written::default() },
            resumed: start.conversation.resumed,
            context_lost: false,
            sweep: None,
            tree: None,
        }
    }

    /// The task's row, if the ledger has it.
    pub(super) fn row(&self) -> Option<Task> {
        match self.ledger.task(self.task.id.as_str()) {
            Ok(TaskLookup::One(task)) => Some(*task),
            _ => None,
        }
    }

    pub(super) fn agent_pid(&self) -> i32 {
        self.agent.child.pid
    }

    /// Why the agent's exec failed, if it did.
    pub(super) fn start_error(&self) -> Option<StartError> {
        self.agent.state.start_error()
    }

    /// What the agent's output has reported so far.
    pub(super) fn observed(&self) -> ObservedOutput {
        self.output.as_ref().map(|o| o.reader.observed().clone()).unwrap_or_default()
    }

    /// The stop that was requested before the agent's exec.
    pub(super) fn stop_before_exec(&mut self) -> Result<Option<StopRequest>, Error> {
        while self.watch.pending(|_| true).map_err(watching)?.is_some() {
            self.turn(Some(Instant::now()))?;
        }
        Ok(self.stop.requested().map(|r| r.stop))
    }

    /// Opens the gate, and starts the clocks.
    pub(super) fn open_gate(&mut self) {
        let now = Instant::now();
        self.timers.timeout = Clock::of(self.limits.timeout, now);
        self.timers.idle = Clock::of(self.limits.idle_timeout, now);
        self.timers.rest = Some(now + REST);
        self.agent.state.opened();
        self.agent.child.open();
        // Prepared while the agent starts, so that the end of a short run does not wait for it.
        self.ledger.expect_end();
    }

    /// Gives back the memory that is not needed while nothing happens: many supervisors may wait at once.
    fn rest(&mut self) {
        if let Some(output) = &mut self.output {
            output.capture.free_buffer();
        }
        if let Err(e) = self.ledger.rest() {
            debug!("{}", chain(&e));
        }
        sys::trim_memory();
    }

    /// Waits for the agent to exit. `None`: it was to be killed, and has become another user's process, which
    /// bookend may not signal.
    ///
    /// # Errors
    /// When the kernel has no memory left to watch with.
    pub(super) fn await_agent(&mut self) -> Result<Option<(Exit, ResourceUsage)>, Error> {
        while self.agent.state.end().is_none() {
            self.turn(None)?;
        }
        // Its exit may be reported before the result of its exec.
        if self.agent.child.report().is_some() {
            self.on_ready(WatchSource::Report)?;
        }
        self.timers = Timers::default();
        self.escalation = Escalation::new(self.limits.grace);
        Ok(self.agent.state.exited())
    }

    /// Reads what is still in the agent's pipe, see [`QUIET`], and waits until `until` for stdout to take it.
    pub(super) fn drain(&mut self, until: Instant) -> Result<(), Error> {
        self.read_rest()?;
        self.await_room(until)
    }

    fn read_rest(&mut self) -> Result<(), Error> {
        let ended_at = Instant::now();
        let (mut last, mut total) = (ended_at, 0);
        if let Some(output) = &mut self.output {
            output.capture.agent_ended();
        }
        while let Some(output) = &mut self.output {
            output.read_some();
            let now = Instant::now();
            if output.capture.total() > total {
                (last, total) = (now, output.capture.total());
            }
            let until = (last + QUIET).min(ended_at + LONGEST_DRAIN);
            if output.capture.ended() || now >= until || self.stop.is_hurried() {
                self.stop_reading(ended_at);
                return self.record_output();
            }
            self.turn(Some(until))?;
        }
        Ok(())
    }

    /// Reads no more of the agent's output. If its pipe is still open, warns which processes hold it.
    fn stop_reading(&mut self, ended_at: Instant) {
        let Some(CapturedOutput { capture, reader }) = &mut self.output else { return };
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

    /// Waits until bookend's stdout has taken what its file system had no room for, until `until` at most.
    /// What it has not taken by then is lost.
    fn await_room(&mut self, until: Instant) -> Result<(), Error> {
        let lacks_room = |o: &CapturedOutput| o.capture.lacks_room();
        while !self.stop.is_hurried()
            && self.output.as_ref().is_some_and(lacks_room)
            && Instant::now() < until
        {
            self.turn(Some(until))?;
        }
        if let Some(output) = &mut self.output {
            output.capture.give_up();
        }
        Ok(())
    }

    /// The part of the agent's output that could not be written to bookend's stdout.
    pub(super) fn output_loss(&self) -> Option<OutputLoss> {
        self.output.as_ref().and_then(|o| o.capture.loss())
    }

    /// What the agent's output says about success. Output that was not captured says nothing.
    pub(super) fn outcome(&self) -> AgentOutcome {
        self.output
            .as_ref()
            .map_or(AgentOutcome::NotDue, |o| agent::outcome_of(self.agent.mode, o.reader.observed()))
    }

    /// Finds the leftover processes. Signals nothing yet.
    pub(super) fn find_leftovers(&self, mut sweep: LeftoverSweep) -> LeftoverSweep {
        if let Err(e) = sweep.scan(&trust::supervisors(self.ledger)) {
            warn!(hint = e.hint(), "{}", chain(&e));
        }
        sweep
    }

    /// What a sweep found, and an agent that could not be killed and that `/proc` hides.
    pub(super) fn summary(&self, sweep: &LeftoverSweep) -> LeftoverSummary {
        let mut summary = sweep.summary();
        if self.agent.state.is_out_of_reach() {
            summary.count_hidden(self.agent.child.pid);
        }
        summary
    }

    /// Ends the leftover processes and records the result.
    pub(super) fn end_leftovers(&mut self, sweep: LeftoverSweep, ends: bool) -> Result<(), Error> {
        if !ends || !sweep.is_awaited() {
            return Ok(());
        }
        let Some(sweep) = self.sweep_to_end(sweep)? else { return Ok(()) };
        let summary = serde_json::to_string(&self.summary(&sweep)).unwrap_or_default();
        if let Err(e) = self.ledger.leftovers(&self.task.id, &summary) {
            warn!(
                hint = e.hint(),
                "recording the leftover processes of task {}: {}",
                self.task.id,
                chain(&e)
            );
        }
        Ok(())
    }

    /// Steps a sweep until it is done.
    fn sweep_to_end(&mut self, mut sweep: LeftoverSweep) -> Result<Option<LeftoverSweep>, Error> {
        loop {
            let step = sweep.step(Instant::now(), &trust::supervisors(self.ledger));
            match step {
                Ok(SweepStep::Done) => break,
                Ok(SweepStep::Wait(until)) => {
                    self.sweep = Some(sweep);
                    let turned = self.turn(Some(until));
                    let back = self.sweep.take();
                    turned?;
                    let Some(back) = back else { return Ok(None) };
                    sweep = back;
                }
                Err(e) => {
                    warn!(hint = e.hint(), "{}", chain(&e));
                    break;
                }
            }
        }
        Ok(Some(sweep))
    }

    /// Children of bookend that do not belong to the task: the sentinel.
    pub(super) fn helpers(&self) -> Vec<i32> {
        self.forward.sentinel().into_iter().collect()
    }

    /// Waits until the process reading stdout has taken everything, or has exited, or a stop signal comes.
    pub(super) fn flush(&mut self) -> Result<(), Error> {
        while !self.stop.is_hurried() && self.output.as_ref().is_some_and(|o| o.capture.output().is_some()) {
            self.turn(None)?;
        }
        Ok(())
    }

    /// Ends the gated child without an exec, and waits for its exit.
    pub(super) fn dismiss(&mut self) -> Result<(), Error> {
        self.agent.child.dismiss();
        while self.agent.state.end().is_none() {
            self.turn(None)?;
        }
        Ok(())
    }

    /// The signal by which bookend exits where it does not know how the agent exited.
    pub(super) fn stop_signal(&self) -> Signal {
        match self.stop.requested().map(|r| r.stop) {
            Some(StopRequest::Signal { signal, .. }) => signal,
            Some(StopRequest::Cancel { .. } | StopRequest::Timeout | StopRequest::IdleTimeout) | None => {
                Signal::TERM
            }
        }
    }

    /// Whether bookend ended the agent because it stayed after its result.
    pub(super) fn has_lingered(&self) -> bool {
        self.stop.has_lingered()
    }

    /// The stop that was requested, with what came after it.
    pub(super) fn cause(&self, ended_at: Instant) -> Option<StopCause> {
        let requested = self.stop.requested()?;
        let results = self.observed().results;
        Some(StopCause {
            stop: requested.stop,
            after_result: requested.results > 0 && requested.results == results,
            ran_on: ended_at.saturating_duration_since(requested.at),
        })
    }
}

impl Attendant for Supervisor<'_> {
    fn ledger(&mut self) -> &mut Ledger {
        self.ledger
    }

    fn is_stopping(&self) -> bool {
        self.stop.is_hurried()
    }

    fn wait(&mut self, helper: &mut Option<Helper>, until: Option<Instant>) -> Result<Waited, Error> {
        self.helper = helper.take();
        let waited = loop {
            if let Some(signal) = self.stop.next_signal() {
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
        *helper = self.helper.take();
        waited
    }
}
