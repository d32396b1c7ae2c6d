//! The supervisor at work: one loop that turns events into moves while prepare command, agent and hook
//! live and die. `run.rs` tells in which order; here stands what happens at each turn.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use tracing::{debug, error, info, warn};

use crate::agent::{self, Mode, Observed, Reader};
use crate::clock;
use crate::error::Error;
use crate::hook::{Attendant, Attended};
use crate::ledger::{Finished, Ledger, Seen, SpoolSlot};
use crate::log;
use crate::process::capture::Capture;
use crate::process::cgroup::Cgroup;
use crate::process::forward::{self, CANCEL, Fate, Forward};
use crate::process::gate::{Gated, StartError};
use crate::process::identity;
use crate::process::leftovers::{Hunt, Step, Summary};
use crate::process::oom;
use crate::process::stop::Ladder;
use crate::process::terminal;
use crate::process::watch::{Event, Interest, Source, Watch};
use crate::recovery;
use crate::sys::{self, Change, Received, Usage};
use crate::task::{
    Cause, Counts, EndSource, Ended, Ending, Exit, Failure, Identity, Interrupt, Outcome, Sender, Stop,
};

/// How often partial counts are written while the agent runs, at most.
const PROGRESS: Duration = Duration::from_secs(1);
/// How often it is written that the agent still says something, at most.
const SIGN_OF_LIFE: Duration = Duration::from_secs(60);
/// Bytes of a prepare command's output that are kept.
const TAIL: usize = 4096;

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
    pub ended: Option<(Exit, Usage)>,
    /// The cgroup that is its task's alone.
    cgroup: Option<Cgroup>,
}

impl Agent {
    pub fn new(child: Gated, mode: Mode, cgroup: Option<Cgroup>) -> Agent {
        Agent { child, mode, executed: false, start_error: None, ended: None, cgroup }
    }
}

/// A command of the user's that runs beside the agent: `--prepare`, `--on-finish`.
pub struct Helper {
    pub child: Gated,
    pub output: Option<OwnedFd>,
    /// The last of what it said.
    pub tail: Vec<u8>,
    pub start_error: Option<StartError>,
    pub ended: Option<Exit>,
}

impl Helper {
    pub fn new(child: Gated, output: Option<OwnedFd>) -> Helper {
        Helper { child, output, tail: Vec::new(), start_error: None, ended: None }
    }

    fn read_output(&mut self) {
        let mut chunk = [0u8; TAIL];
        while let Some(output) = &self.output {
            match nix::unistd::read(output, &mut chunk) {
                Ok(0) => self.output = None,
                Ok(n) => {
                    self.tail.extend_from_slice(&chunk[..n]);
                    self.tail.drain(..self.tail.len().saturating_sub(TAIL));
                }
                Err(nix::errno::Errno::EINTR) => {}
                Err(nix::errno::Errno::EAGAIN) => break,
                Err(_) => self.output = None,
            }
        }
    }
}

/// What is read from the agent's captured output.
pub struct Listening {
    pub capture: Capture,
    pub reader: Box<dyn Reader>,
}

impl Listening {
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

/// The clocks that run beside the agent. Those that measure its patience pause while it is stopped.
#[derive(Default)]
struct Timers {
    timeout: Option<Instant>,
    idle: Option<Instant>,
    linger: Option<Instant>,
    progress: Option<Instant>,
    stopped_since: Option<Instant>,
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
    pub limits: Limits,
    row: Row,
    phase: Phase,
    forward: Forward,
    early: VecDeque<Received>,
    asked: Option<Asked>,
    ladder: Ladder,
    timers: Timers,
    written: Written,
    /// The id that the agent was told to go on with, until it has named its own.
    resumed: Option<String>,
    context_lost: bool,
    hunt: Option<Hunt>,
}

/// What names the task in the ledger.
pub struct TaskRef {
    pub id: String,
    pub key: Option<String>,
    pub provider: Option<String>,
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
    pub session: Option<String>,
    /// The id that the agent was told to go on with.
    pub resumed: Option<String>,
}

/// How a run ended, as far as its ending is judged.
pub struct End {
    pub ending: Ending,
    pub error: Option<String>,
    pub exit: Option<(Exit, Usage)>,
    pub leftovers: Option<Summary>,
}

/// What the ledger has been told of the agent's output.
#[derive(Default)]
struct Written {
    session: Option<String>,
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
        let ladder = Ladder::new(limits.grace);
        Supervisor {
            watch,
            ledger,
            task,
            agent,
            listening,
            helper: None,
            lingered: false,
            hurried: false,
            limits,
            row,
            phase: Phase::Before,
            forward,
            early: VecDeque::new(),
            asked: None,
            ladder,
            timers: Timers::default(),
            written: Written { session: conversation.session, ..Written::default() },
            resumed: conversation.resumed,
            context_lost: false,
            hunt: None,
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
        self.timers.timeout = self.limits.timeout.map(|t| now + t);
        self.timers.idle = self.limits.idle_timeout.map(|t| now + t);
        self.phase = Phase::Running;
        self.agent.child.open();
    }

    /// Gives back what memory is not needed while nothing happens.
    pub fn rest(&self) {
        if let Err(e) = self.ledger.rest() {
            debug!("{e}");
        }
        sys::trim_memory();
    }

    /// Waits until the agent has ended.
    ///
    /// # Errors
    /// When the kernel has no memory left to watch with.
    pub fn attend(&mut self) -> Result<(Exit, Usage), Error> {
        loop {
            if let Some(ended) = self.agent.ended {
                // Its end may be told before how its exec went.
                if self.agent.child.report().is_some() {
                    self.on_ready(Source::Report)?;
                }
                self.phase = Phase::After;
                self.timers = Timers::default();
                self.ladder = Ladder::new(self.limits.grace);
                return Ok(ended);
            }
            self.turn(None)?;
        }
    }

    /// Takes what is still in the agent's pipe. Somebody else may hold it open: that delays the end by
    /// `bound` at most.
    pub fn drain(&mut self, bound: Duration) -> Result<(), Error> {
        let until = Instant::now() + bound;
        loop {
            let Some(listening) = &mut self.listening else { return Ok(()) };
            // In between too: who still writes there may do so faster than it is read.
            while Instant::now() < until && listening.read() {}
            if listening.capture.ended() || Instant::now() >= until {
                listening.capture.hang_up();
                listening.reader.finish();
                return self.take_note();
            }
            self.turn(Some(until))?;
        }
    }

    /// What the agent's output says of success; an output that was not read along says nothing.
    pub fn outcome(&self) -> Outcome {
        self.listening
            .as_ref()
            .map_or(Outcome::NotDue, |l| agent::outcome_of(self.agent.mode, l.reader.observed()))
    }

    /// Looks what the agent left behind; signals nothing yet.
    pub fn look_for_leftovers(&self, hunt: &mut Hunt) {
        if let Err(e) = hunt.scan(&|stat| recovery::holds_live_lock(self.ledger, stat.identity())) {
            warn!("{e}");
        }
    }

    /// Ends what the agent left behind and records what became of it; the loop goes on beside it.
    pub fn end_leftovers(&mut self, mut hunt: Hunt, ends: bool) -> Result<(), Error> {
        if !ends || hunt.summary().found == 0 {
            return Ok(());
        }
        loop {
            let ledger = &*self.ledger;
            let step = hunt.step(Instant::now(), &|stat| recovery::holds_live_lock(ledger, stat.identity()));
            match step {
                Ok(Step::Done) => break,
                Ok(Step::Wait(until)) => {
                    self.hunt = Some(hunt);
                    let turned = self.turn(Some(until));
                    let Some(back) = self.hunt.take() else { return turned };
                    hunt = back;
                    turned?;
                }
                Err(e) => {
                    warn!("{e}");
                    break;
                }
            }
        }
        let summary = serde_json::to_string(&hunt.summary()).unwrap_or_default();
        if let Err(e) = self.ledger.leftovers(&self.task.id, &summary) {
            warn!("recording what became of the left-overs of task {}: {e}", self.task.id);
        }
        Ok(())
    }

    /// Children of ours that are not the task's: the witness.
    pub fn helpers(&self) -> Vec<Identity> {
        self.forward.witness().and_then(|pid| identity::of(pid).ok().flatten()).into_iter().collect()
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

    /// Writes the terminal row, or the spool if the ledger does not take it. Says whether the ledger did.
    pub fn settle(&mut self, end: End) -> bool {
        let observed = self.observed();
        let (stop_signal, stop_sender) = self.asked.as_ref().map_or((None, None), |a| stopped_by(a.stop));
        let usage = end.exit.map(|(_, usage)| usage);
        // The cgroup also knows of what the agent did not wait for, and of all its processes at once.
        let used = self.agent.cgroup.as_ref().map(Cgroup::used).unwrap_or_default();
        let cpu = used.cpu.or(usage.map(|u| u.cpu));
        let oom_killed = self.oom_killed(end.exit.map(|(exit, _)| exit));
        let by_oom = || "the kernel's OOM killer ended the agent".to_owned();
        let leftovers = end.leftovers.filter(|l| l.found > 0);
        let ended = Ended {
            ending: end.ending,
            error: end.error.or_else(|| (oom_killed == Some(true)).then(by_oom)),
            source: EndSource::Wait,
            finished_at: Some(clock::now()),
            duration_ms: Some(elapsed_ms(self.row.started)),
            exit: end.exit.map(|(exit, _)| exit),
            stop_signal,
            stop_sender,
            counts: self.counts(&observed),
            session_cost_usd: observed.reported_cost_usd,
            model: observed.model,
            session_id: observed.session_id,
            tool_in_flight: observed.tool_in_flight,
            context_lost: self.context_lost,
            oom_killed,
            cpu_ms: cpu.and_then(|c| i64::try_from(c.as_millis()).ok()),
            max_rss_kib: used.peak_kib.or(usage.map(|u| u.max_rss_kib)),
            leftovers: leftovers.and_then(|l| serde_json::to_string(&l).ok()),
            executed: self.agent.executed,
        };
        let ended = self.row.ended.insert(ended).clone();
        self.record(&ended)
    }

    fn record(&mut self, ended: &Ended) -> bool {
        let id = &self.task.id;
        let finished = self.ledger.finish(id, ended, "run");
        let is_recorded = match finished {
            Ok(finished) => {
                self.report(ended, finished);
                if let Some(Err(e)) = self.row.spool.take().map(SpoolSlot::discard) {
                    debug!("{e}");
                }
                true
            }
            Err(refused) => {
                match self.row.spool.take().map(|slot| slot.write(ended, "run")) {
                    Some(Ok(file)) => warn!(
                        MESSAGE_ID = log::id::SPOOLED,
                        STATUS = ended.ending.status().as_str(),
                        SPOOL_FILE = %file.display(),
                        "the ledger did not take the end of task {id}: {refused}; it waits in {} and the \
                         next command that opens the ledger merges it",
                        file.display()
                    ),
                    Some(Err(e)) => error!(
                        "the end of task {id} ({}) is not recorded: {refused}; {e}",
                        ended.ending.status()
                    ),
                    None => {
                        error!("the end of task {id} ({}) is not recorded: {refused}", ended.ending.status())
                    }
                }
                false
            }
        };
        self.row.settled = true;
        is_recorded
    }

    fn report(&self, ended: &Ended, finished: Finished) {
        let id = &self.task.id;
        let ending = &ended.ending;
        match finished {
            Finished::NoRow => error!("the row of task {id} is gone from the ledger"),
            Finished::AlreadyTerminal(status) => {
                warn!(
                    "task {id} was ended as {status} by somebody else; its own end, {}, is not recorded",
                    ending.status()
                );
            }
            Finished::Done { invalidated } => {
                let reason = ending.reason().map(|r| format!(" ({r})")).unwrap_or_default();
                info!(
                    MESSAGE_ID = log::id::of(ending.status()),
                    STATUS = ending.status().as_str(),
                    REASON = ending.reason(),
                    SESSION_ID = ended.session_id,
                    DURATION_MS = ended.duration_ms,
                    COST_USD = ended.counts.cost_usd,
                    STOP_SENDER_PID = ended.stop_sender.map(|s| s.pid),
                    "task {id} ended as {}{reason}",
                    ending.status()
                );
                if let Some(session) = invalidated {
                    warn!(
                        MESSAGE_ID = log::id::SESSION_INVALIDATED,
                        STATUS = ending.status().as_str(),
                        SESSION_ID = session,
                        "session {session} is not to be resumed: task {id} ended as {}{reason}",
                        ending.status()
                    );
                }
            }
        }
    }

    /// Whether the kernel's OOM killer ended the agent, as far as that can be told.
    fn oom_killed(&self, exit: Option<Exit>) -> Option<bool> {
        let struck = oom::struck_since(self.row.cgroup.as_deref(), self.row.oom_kills_before)?;
        Some(struck && exit == Some(Exit::Signal(libc::SIGKILL)))
    }

    /// The counts of this run alone.
    fn counts(&self, observed: &Observed) -> Counts {
        let cost_usd = match (observed.reported_cost_usd, self.row.cost_before) {
            // A figure that dropped is per run, whatever the agent did before.
            (Some(now), Some(before)) if now >= before => Some(((now - before) * 1e9).round() / 1e9),
            (now, _) => now,
        };
        Counts { cost_usd, ..observed.counts }
    }

    /// One event, or the deadline.
    fn turn(&mut self, until: Option<Instant>) -> Result<(), Error> {
        let deadline = self.deadline().into_iter().chain(until).min();
        let mut interests = Vec::with_capacity(5);
        let mut look = |source, fd| {
            if let Some(fd) = fd {
                interests.push(Interest { source, fd });
            }
        };
        look(Source::Report, self.agent.child.report());
        if let Some(listening) = &self.listening {
            look(Source::Output, listening.capture.input());
            look(Source::Downstream, listening.capture.output());
        }
        if let Some(helper) = &self.helper {
            look(Source::HelperReport, helper.child.report());
            look(Source::HelperOutput, helper.output.as_ref().map(AsFd::as_fd));
        }
        for fd in self.hunt.iter().flat_map(Hunt::fds) {
            look(Source::Leftover, Some(fd));
        }
        match self.watch.next(&interests, deadline).map_err(watching)? {
            Event::Signal(received) => self.on_signal(received)?,
            Event::Child { pid, change, usage } => self.on_child(pid, change, usage)?,
            Event::Ready(source) => self.on_ready(source)?,
            Event::Deadline => self.on_deadline(Instant::now())?,
        }
        Ok(())
    }

    fn deadline(&self) -> Option<Instant> {
        let t = &self.timers;
        let patience = [t.timeout, t.idle, t.linger].into_iter().filter(|_| t.stopped_since.is_none());
        patience.chain([t.progress, self.ladder.deadline()]).flatten().min()
    }

    fn on_signal(&mut self, received: Received) -> Result<(), Error> {
        let more = self.watch.pending(|r| r.signal == received.signal).map_err(watching)?.is_some();
        let fate = self.forward.fate(&received, self.agent.child.pid, more);
        if fate == Fate::Noise {
            return Ok(());
        }
        if let Some(stop) = stop_of(&received) {
            match self.phase {
                Phase::Before | Phase::Running => self.note(stop, received.signal),
                Phase::After => self.hurried = true,
            }
        }
        if fate == Fate::Reached {
            return Ok(());
        }
        match self.phase {
            Phase::Running if self.agent.executed => forward::forward(&self.agent.child.pidfd, &received),
            Phase::Before | Phase::Running => self.early.push_back(received),
            Phase::After => {}
        }
        Ok(())
    }

    /// Notes the cause before any signal is sent: a stopped agent may leave with a code of its own.
    fn note(&mut self, stop: Stop, signal: i32) {
        let now = Instant::now();
        let yields = |stop: &Stop| matches!(stop, Stop::Signal { signal: libc::SIGINT | libc::SIGQUIT, .. });
        if self.asked.as_ref().is_none_or(|a| yields(&a.stop)) {
            self.asked = Some(Asked { stop, at: now, results: self.observed().results });
        }
        // A program at a terminal may use Ctrl-C for itself; a headless one was told to stop.
        if !yields(&stop) || self.agent.mode != Mode::Interactive {
            self.ladder.begin(signal, now);
        }
        if self.phase == Phase::Before
            && let Some(helper) = &self.helper
            && helper.ended.is_none()
        {
            self.ladder.begin(signal, now);
            let _ = sys::send_signal(helper.child.pidfd.as_fd(), libc::SIGTERM, None);
        }
    }

    /// Stops the agent by our own decision.
    fn stop(&mut self, stop: Stop) {
        self.note(stop, libc::SIGTERM);
        self.send(libc::SIGTERM);
    }

    fn send(&self, signal: i32) {
        let to = match (&self.phase, &self.helper) {
            (Phase::Before, Some(helper)) if helper.ended.is_none() => &helper.child,
            (Phase::Running, _) if self.agent.ended.is_none() => &self.agent.child,
            _ => return,
        };
        if let Err(e) = sys::send_signal(to.pidfd.as_fd(), signal, None) {
            warn!("could not send signal {signal} to process {}: {e}", to.pid);
        }
        // A stopped process acts on nothing but SIGKILL until it is continued.
        if self.timers.stopped_since.is_some() {
            let _ = sys::send_signal(to.pidfd.as_fd(), libc::SIGCONT, None);
        }
    }

    fn on_child(&mut self, pid: i32, change: Change, usage: Usage) -> Result<(), Error> {
        if pid == self.agent.child.pid {
            match change {
                Change::Ended(exit) => self.agent.ended = Some((exit, usage)),
                Change::Stopped(signal) => self.on_stopped(signal)?,
                Change::Continued => self.on_continued(),
            }
        } else if let Some(helper) = &mut self.helper
            && pid == helper.child.pid
        {
            match change {
                Change::Ended(exit) => helper.ended = Some(exit),
                Change::Stopped(signal) => self.stop_along(pid, signal)?,
                Change::Continued => {}
            }
        }
        Ok(())
    }

    /// The agent was stopped, perhaps alone. The shell looks at us: we stop the same way.
    fn on_stopped(&mut self, signal: i32) -> Result<(), Error> {
        self.timers.stopped_since.get_or_insert_with(Instant::now);
        self.stop_along(self.agent.child.pid, signal)
    }

    /// Stops with our child `pid`, for the shell to see.
    fn stop_along(&mut self, pid: i32, signal: i32) -> Result<(), Error> {
        let still = matches!(identity::stat(pid), Ok(Some(s)) if s.state == 'T');
        let continued = self.watch.pending(|r| r.signal == libc::SIGCONT).map_err(watching)?.is_some();
        if still && !continued && terminal::may_stop() {
            sys::raise_unblocked(signal);
        }
        Ok(())
    }

    fn on_continued(&mut self) {
        let Some(since) = self.timers.stopped_since.take() else { return };
        let lost = since.elapsed();
        let t = &mut self.timers;
        for patience in [&mut t.timeout, &mut t.idle, &mut t.linger].into_iter().flatten() {
            *patience += lost;
        }
    }

    fn on_ready(&mut self, source: Source) -> Result<(), Error> {
        match source {
            Source::Report => match self.agent.child.read_report() {
                Ok(()) => {
                    self.agent.executed = true;
                    for received in std::mem::take(&mut self.early) {
                        forward::forward(&self.agent.child.pidfd, &received);
                    }
                }
                Err(e) => self.agent.start_error = Some(e),
            },
            Source::Output => {
                if self.listening.as_mut().is_some_and(Listening::read) {
                    // What somebody else still writes after the agent's end is no life of it.
                    if let Some(idle) = self.limits.idle_timeout.filter(|_| self.phase == Phase::Running) {
                        self.timers.idle = Some(Instant::now() + idle);
                    }
                    self.take_note()?;
                }
            }
            Source::Downstream => {
                if let Some(listening) = &mut self.listening {
                    listening.capture.flush();
                }
            }
            Source::HelperReport => {
                if let Some(helper) = &mut self.helper {
                    helper.start_error = helper.child.read_report().err();
                }
            }
            Source::HelperOutput => {
                if let Some(helper) = &mut self.helper {
                    helper.read_output();
                }
            }
            Source::Holder | Source::Leftover => {}
        }
        Ok(())
    }

    /// Looks at what the agent's output tells by now: its session at once, counts once a second.
    fn take_note(&mut self) -> Result<(), Error> {
        let Some(listening) = &self.listening else { return Ok(()) };
        let observed = listening.reader.observed();
        if let (Some(resumed), Some(named)) = (&self.resumed, &observed.session_id) {
            if resumed != named {
                warn!(
                    "the agent did not go on with session {resumed}, it began another one, {named}: its \
                     context is lost"
                );
                self.context_lost = true;
            }
            self.resumed = None;
        }
        // One that the ledger did not take waits for the next progress.
        if observed.session_id != self.written.session && !self.written.session_waits {
            self.commit_session();
        }
        let Some(listening) = &self.listening else { return Ok(()) };
        let observed = listening.reader.observed();
        let now = Instant::now();
        if self.phase == Phase::Running && !self.limits.awaits_input {
            let done = observed.result.is_some() && !observed.background && !observed.open_turn;
            self.timers.linger = done.then(|| now + self.limits.grace);
        }
        let counts = self.counts(observed);
        let news = self.written.session_waits
            || counts != self.written.counts
            || observed.tool_in_flight != self.written.tool;
        if news && self.timers.progress.is_none() {
            self.timers.progress = Some(self.written.at.map_or(now, |at| at + PROGRESS));
        }
        // Output that changes no count is a sign of life too: the audit takes long silence for a hang.
        if now > self.written.at.unwrap_or(self.row.started) + SIGN_OF_LIFE {
            self.timers.progress = Some(now);
        }
        Ok(())
    }

    fn commit_session(&mut self) {
        let Some(session) = self.observed().session_id else { return };
        let t = &self.task;
        let key = t.key.as_deref();
        let seen = self.ledger.session_seen(&t.id, key, t.provider.as_deref(), &session, &clock::now());
        self.written.session_waits = seen.is_err();
        match seen {
            Ok(()) => self.written.session = Some(session),
            // The ending carries the id again.
            Err(e) => {
                debug!("session {session} not recorded yet: {e}");
                self.written.at = Some(Instant::now());
            }
        }
    }

    fn write_progress(&mut self, now: Instant) {
        self.timers.progress = None;
        if self.written.session_waits {
            self.commit_session();
        }
        let observed = self.observed();
        let counts = self.counts(&observed);
        let seen = Seen {
            model: observed.model.as_deref(),
            tool_in_flight: observed.tool_in_flight.as_deref(),
            at: &clock::now(),
        };
        let wrote = match self.written.session_waits {
            true => Ok(()),
            false => self.ledger.progress(&self.task.id, &counts, &seen),
        };
        if wrote.is_err() || self.written.session_waits {
            self.timers.progress = Some(Instant::now() + PROGRESS);
        }
        match wrote {
            Ok(()) if self.written.session_waits => {}
            Ok(()) => {
                self.written.counts = counts;
                self.written.tool = observed.tool_in_flight;
            }
            Err(e) => debug!("partial counts not recorded: {e}"),
        }
        self.written.at = Some(now);
    }

    fn on_deadline(&mut self, now: Instant) -> Result<(), Error> {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if due(self.timers.progress) {
            self.write_progress(now);
        }
        if self.timers.stopped_since.is_none() && self.phase == Phase::Running {
            if due(self.timers.timeout) {
                self.timers.timeout = None;
                self.stop(Stop::Timeout);
            }
            if due(self.timers.idle) {
                self.timers.idle = None;
                self.stop(Stop::IdleTimeout);
            }
            if due(self.timers.linger) {
                self.timers.linger = None;
                self.lingered = true;
                self.ladder.begin(libc::SIGTERM, now);
                self.send(libc::SIGTERM);
            }
        }
        if let Some(signal) = self.ladder.due(now) {
            self.send(signal);
        }
        Ok(())
    }
}

impl Attendant for Supervisor<'_> {
    fn ledger(&mut self) -> &mut Ledger {
        self.ledger
    }

    fn attend(&mut self, child: Gated, bound: Duration) -> Result<Attended, Error> {
        self.helper = Some(Helper::new(child, None));
        self.await_helper(Some(bound))?;
        let gone = || watching(std::io::ErrorKind::NotFound.into());
        let Helper { child, start_error, ended, .. } = self.helper.take().ok_or_else(gone)?;
        Ok(Attended { child, start_error, ended })
    }
}

/// One guard owns the claim: whatever way is taken out of a run, a panic too, the row gets its end.
impl Drop for Supervisor<'_> {
    fn drop(&mut self) {
        if let Some(cgroup) = &self.agent.cgroup {
            cgroup.remove();
        }
        if self.row.settled {
            return;
        }
        if let Some(ended) = self.row.ended.take() {
            self.record(&ended);
            return;
        }
        let ending = match self.agent.executed {
            true => Ending::Interrupted(Interrupt::SupervisorLost),
            false => Ending::Failure(Failure::Spawn),
        };
        let error = Some("bookend itself failed while it had the task in charge".to_owned());
        self.settle(End { ending, error, exit: self.agent.ended, leftovers: None });
    }
}

/// What a signal asks for, if it asks us to stop. One that we inherited as ignored asks for nothing.
pub fn stop_of(received: &Received) -> Option<Stop> {
    let Received { signal, sender, .. } = *received;
    match signal {
        libc::SIGTERM if received.code == libc::SI_QUEUE && received.value == CANCEL => {
            Some(Stop::Cancel { sender })
        }
        libc::SIGTERM | libc::SIGHUP | libc::SIGINT | libc::SIGQUIT if !sys::is_ignored(signal) => {
            Some(Stop::Signal { signal, sender })
        }
        _ => None,
    }
}

pub fn watching(e: std::io::Error) -> Error {
    Error::failed(format!("watching the agent: {e}"))
}

/// The sender and the number of the signal that stopped a run, for its row.
fn stopped_by(stop: Stop) -> (Option<i32>, Option<Sender>) {
    match stop {
        Stop::Signal { signal, sender } => (Some(signal), Some(sender)),
        Stop::Cancel { sender } => (Some(libc::SIGTERM), Some(sender)),
        Stop::Timeout | Stop::IdleTimeout => (None, None),
    }
}

fn elapsed_ms(since: Instant) -> i64 {
    i64::try_from(since.elapsed().as_millis()).unwrap_or(i64::MAX)
}

/// The end of a task whose agent never had a process.
pub fn never_ran(reason: Failure, error: &str, started: Instant) -> Ended {
    Ended {
        ending: Ending::Failure(reason),
        error: Some(error.to_owned()),
        source: EndSource::Wait,
        finished_at: Some(clock::now()),
        duration_ms: Some(elapsed_ms(started)),
        ..Ended::unknown(Ending::Failure(reason))
    }
}
