//! One turn of the supervisor: it waits for one event and acts on it.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use tracing::{debug, warn};

use super::state::{AgentExit, AgentPhase, RequestedStop};
use super::stopwatch::Clock;
use super::{CapturedOutput, PROGRESS, REST, SIGN_OF_LIFE, Supervisor};
use crate::agent::OutputMode;
use crate::error::{Error, chain};
use crate::ledger::ProgressUpdate;
use crate::process::cgroup::Cgroup;
use crate::process::forward::SignalDelivery;
use crate::process::group;
use crate::process::leftovers::{LeftoverSweep, TreeSignal};
use crate::process::procfs::identity;
use crate::process::terminal;
use crate::process::watch::{WatchEvent, WatchInterest, WatchSource};
use crate::stop::{stop_of, watching};
use crate::sys::{self, ChildChange, ReceivedSignal, ResourceUsage};
use crate::task::{Signal, StopRequest, Time};

impl Supervisor<'_> {
    /// Waits for one event or the deadline, and acts on it.
    pub(super) fn turn(&mut self, until: Option<Instant>) -> Result<(), Error> {
        self.pause_clocks();
        let deadline = self.deadline().into_iter().chain(until).min();
        let mut interests = Vec::with_capacity(5);
        let mut look = |source, fd| {
            if let Some(fd) = fd {
                interests.push(WatchInterest { source, fd });
            }
        };
        look(WatchSource::Report, self.agent.child.report());
        if let Some(output) = &self.output {
            look(WatchSource::Output, output.capture.input());
            look(WatchSource::Downstream, output.capture.output());
        }
        if let Some(helper) = &self.helper {
            look(WatchSource::HelperReport, helper.child.report());
            look(WatchSource::HelperOutput, helper.output.as_ref().map(AsFd::as_fd));
        }
        for fd in self.sweep.iter().flat_map(LeftoverSweep::fds) {
            look(WatchSource::Leftover, Some(fd));
        }
        match self.watch.next(&interests, deadline).map_err(watching)? {
            WatchEvent::Signal(received) => self.on_signal(received)?,
            WatchEvent::Child { pid, change, usage } => self.on_child(pid, change, usage)?,
            WatchEvent::Ready(source) => self.on_ready(source)?,
            WatchEvent::Deadline => self.on_deadline(Instant::now())?,
        }
        Ok(())
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let t = &self.timers;
        let output = self.output.as_ref().and_then(|o| o.capture.due());
        let patience = [t.timeout, t.idle, t.linger].map(Clock::deadline);
        patience.into_iter().chain([t.progress, t.rest, self.escalation.deadline(), output]).flatten().min()
    }

    /// Pauses the clocks while the agent cannot make progress.
    fn pause_clocks(&mut self) {
        let held_up = self.output.as_ref().is_some_and(|o| o.capture.delays_agent());
        let now = Instant::now();
        let t = &mut self.timers;
        t.timeout.run(!t.stopped, now);
        t.idle.run(!t.stopped && !held_up, now);
        t.linger.run(!t.stopped && !held_up, now);
    }

    fn on_signal(&mut self, received: ReceivedSignal) -> Result<(), Error> {
        let more = self.watch.pending(|r| r.signal == received.signal).map_err(watching)?.is_some();
        let delivery = self.forward.delivery(&received, self.agent.child.pid, more);
        if delivery == SignalDelivery::Ignore {
            return Ok(());
        }
        // A hook has a process group of its own, which the terminal does not signal.
        if let (AgentPhase::Over(..), Some(helper), Signal::TSTP | Signal::CONT) =
            (self.agent.state, &self.helper, received.signal)
            && helper.ended.is_none()
        {
            group::signal(&helper.child, received.signal);
        }
        let stop = stop_of(&received);
        if let Some(stop) = stop {
            match self.agent.state {
                AgentPhase::AtGate | AgentPhase::Alive(_) => self.request_stop(stop, received.signal),
                AgentPhase::Over(..) => self.stop.hurry(received.signal),
            }
        }
        let stops = matches!(received.signal, Signal::TSTP | Signal::TTIN | Signal::TTOU);
        if stops || received.signal == Signal::CONT {
            self.timers.stop_signal = stops.then_some(received.signal);
        }
        match self.agent.state {
            AgentPhase::Alive(Some(Ok(()))) => self.forward(&received, delivery),
            AgentPhase::AtGate | AgentPhase::Alive(_) if delivery.misses(self.agent.child.pid) => {
                self.early.push_back(received);
            }
            AgentPhase::AtGate | AgentPhase::Alive(_) | AgentPhase::Over(..) => {}
        }
        // A stop signal to the whole group may stop the agent before bookend reads it.
        if stops && self.timers.stopped {
            self.stop_along(self.agent.child.pid, received.signal)?;
        }
        Ok(())
    }

    /// Notes the stop before any signal is sent: the agent may exit with a code of its own.
    fn request_stop(&mut self, stop: StopRequest, signal: Signal) {
        let now = Instant::now();
        if self.has_no_cause() {
            let results = self.observed().results;
            self.stop.request(RequestedStop { stop, at: now, results });
        }
        if self.is_final(&stop) {
            self.escalation.begin(signal, now);
        }
        if let (AgentPhase::AtGate, Some(helper)) = (self.agent.state, &self.helper)
            && helper.ended.is_none()
        {
            self.escalation.begin(signal, now);
            let _ = helper.child.signal(Signal::TERM, None);
        }
    }

    /// Whether no stop was requested before that decides how the run ends.
    fn has_no_cause(&self) -> bool {
        self.stop.requested().is_none_or(|requested| yields(&requested.stop))
    }

    /// A program at a terminal may handle Ctrl-C itself; a headless one was told to stop.
    pub(super) fn is_final(&self, stop: &StopRequest) -> bool {
        !yields(stop) || self.agent.mode != OutputMode::Interactive
    }

    /// Stops the agent at a limit.
    fn stop_at_limit(&mut self, stop: StopRequest, limit: Option<Duration>) {
        let limit = humantime::format_duration(limit.unwrap_or_default());
        match stop {
            _ if !self.has_no_cause() => {}
            StopRequest::IdleTimeout => {
                warn!("the agent printed nothing for {limit} (--idle-timeout): bookend stops it with SIGTERM")
            }
            _ => warn!("the run timed out after {limit} (--timeout): bookend stops the agent with SIGTERM"),
        }
        self.request_stop(stop, Signal::TERM);
        self.send(Signal::TERM);
    }

    pub(super) fn send(&mut self, signal: Signal) {
        let to = match (self.agent.state, &self.helper) {
            (AgentPhase::AtGate, Some(helper)) if helper.ended.is_none() => &helper.child,
            (AgentPhase::Alive(_), _) => &self.agent.child,
            _ => return,
        };
        let sent = to.signal(signal, None);
        // A stopped process acts on nothing but SIGKILL until it is continued.
        if self.timers.stopped {
            let _ = to.signal(Signal::CONT, None);
        }
        let pid = to.pid;
        if self.agent.state.is_alive() {
            self.signal_tree(TreeSignal { signal, value: None, reached_group: None });
        }
        let Err(e) = sent else { return };
        warn!("could not send {signal} to process {pid}: {e}");
        if signal == Signal::KILL && e.raw_os_error() == Some(libc::EPERM) {
            // Write access to the cgroup is enough to kill all processes in it, whatever their user.
            let killed = self.agent.state.is_alive() && self.agent.cgroup.as_ref().is_some_and(Cgroup::kill);
            if self.agent.state.is_alive() && !killed {
                self.agent.state.ended(AgentExit::OutOfReach);
            }
        }
    }

    fn on_child(&mut self, pid: i32, change: ChildChange, usage: ResourceUsage) -> Result<(), Error> {
        if pid == self.agent.child.pid {
            match change {
                ChildChange::Ended(exit) => self.agent.state.ended(AgentExit::Exited(exit, usage)),
                ChildChange::Stopped(signal) => self.on_stopped(signal)?,
                ChildChange::Continued => self.timers.stopped = false,
            }
        } else if let Some(helper) = &mut self.helper
            && pid == helper.child.pid
        {
            match change {
                ChildChange::Ended(exit) => helper.ended = Some(exit),
                // The shell does not know a helper's own process group and would not continue bookend with
                // it, except after a Ctrl-Z that bookend passed on.
                ChildChange::Stopped(signal) if signal == Signal::TSTP || !leads_group(pid) => {
                    self.stop_along(pid, signal)?;
                }
                ChildChange::Stopped(_) | ChildChange::Continued => {}
            }
        }
        Ok(())
    }

    /// The agent was stopped, perhaps alone. The shell watches bookend, which stops by the same signal.
    fn on_stopped(&mut self, signal: Signal) -> Result<(), Error> {
        self.timers.stopped = true;
        self.pause_clocks();
        self.stop_along(self.agent.child.pid, signal)
    }

    /// Stops bookend together with its child `pid`, so that the shell sees it.
    pub(super) fn stop_along(&mut self, pid: i32, signal: Signal) -> Result<(), Error> {
        let still = matches!(identity::stat(pid), Ok(Some(s)) if s.state == 'T');
        let continued = self.watch.pending(|r| r.signal == Signal::CONT).map_err(watching)?.is_some();
        if !still || continued {
            return Ok(());
        }
        let sent = self.timers.stop_signal.take();
        if terminal::may_stop() {
            sys::raise_unblocked(signal);
        } else if let Some(sent) = sent {
            // In an orphaned process group the kernel ignores it, for the agent too: POSIX 2.4.3.
            sys::raise_unblocked(sent);
        }
        Ok(())
    }

    pub(super) fn on_ready(&mut self, source: WatchSource) -> Result<(), Error> {
        match source {
            WatchSource::Report => match self.agent.child.read_report() {
                Ok(()) => {
                    self.agent.state.reported(Ok(()));
                    for received in std::mem::take(&mut self.early) {
                        self.forward(&received, SignalDelivery::UsAlone);
                    }
                }
                Err(e) => self.agent.state.reported(Err(e)),
            },
            WatchSource::Output => {
                if self.output.as_mut().is_some_and(CapturedOutput::read_some) {
                    // Output that another process writes after the agent's exit is not the agent's.
                    if self.agent.state.is_alive() {
                        self.timers.idle = Clock::of(self.limits.idle_timeout, Instant::now());
                    }
                    self.record_output()?;
                }
            }
            WatchSource::Downstream => {
                if let Some(output) = &mut self.output {
                    output.capture.flush();
                }
            }
            WatchSource::HelperReport => {
                if let Some(helper) = &mut self.helper {
                    helper.start_error = helper.child.read_report().err();
                }
            }
            WatchSource::HelperOutput => {
                if let Some(helper) = &mut self.helper {
                    helper.read_output();
                }
            }
            WatchSource::Holder
            | WatchSource::Leftover
            | WatchSource::LedgerChange
            | WatchSource::Hub
            | WatchSource::FleetChange
            | WatchSource::Supervisor => {}
        }
        Ok(())
    }

    /// Records what the agent's output has reported: its session at once, counts once a second.
    pub(super) fn record_output(&mut self) -> Result<(), Error> {
        let Some(output) = &self.output else { return Ok(()) };
        let observed = output.reader.observed();
        if let (Some(resumed), Some(named)) = (&self.resumed, &observed.session_id) {
            if resumed != named {
                warn!(
                    "the agent did not resume session {resumed} and started session {named}: its context is \
                     lost"
                );
                self.context_lost = true;
            }
            self.resumed = None;
        }
        // A session that the ledger did not take is written with the next progress.
        if observed.session_id != self.written.session && !self.written.session_waits {
            self.commit_session();
        }
        let Some(output) = &self.output else { return Ok(()) };
        let observed = output.reader.observed();
        let now = Instant::now();
        if self.agent.state.is_alive() && !self.limits.awaits_input {
            let done = observed.result.is_some() && !observed.background && !observed.open_turn;
            self.timers.linger = Clock::of(done.then_some(self.limits.grace), now);
        }
        let counts = self.counts(observed);
        let news = self.written.session_waits
            || counts != self.written.counts
            || observed.tool_in_flight != self.written.tool;
        if news && self.timers.progress.is_none() {
            self.timers.progress = Some(self.written.at.map_or(now, |at| at + PROGRESS));
        }
        // Output that changes no count is a sign of life too: the audit reports long silence as a hang.
        if now > self.written.at.unwrap_or(self.facts.started) + SIGN_OF_LIFE {
            self.timers.progress = Some(now);
        }
        Ok(())
    }

    fn commit_session(&mut self) {
        let Some(session) = self.observed().session_id else { return };
        let t = &self.task;
        let key = t.key.as_ref();
        let seen = self.ledger.session_seen(&t.id, key, t.provider.as_ref(), &session, Time::now());
        self.written.session_waits = seen.is_err();
        match seen {
            Ok(()) => self.written.session = Some(session),
            // The ending records the id again.
            Err(e) => {
                debug!("session {session} not recorded yet: {}", chain(&e));
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
        let seen = ProgressUpdate {
            session_totals: self.session_totals(&observed),
            model: observed.model.as_deref(),
            tool_in_flight: observed.tool_in_flight.as_deref(),
            at: Time::now(),
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
            Err(e) => debug!("partial counts not recorded: {}", chain(&e)),
        }
        self.written.at = Some(now);
        self.timers.rest = Some(now + REST);
    }

    fn on_deadline(&mut self, now: Instant) -> Result<(), Error> {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if due(self.timers.progress) {
            self.write_progress(now);
        }
        if due(self.timers.rest) {
            self.timers.rest = None;
            self.rest();
        }
        if let Some(output) = &mut self.output
            && due(output.capture.due())
        {
            output.capture.flush();
        }
        if self.agent.state.is_alive() {
            if self.timers.timeout.take_due(now) {
                self.stop_at_limit(StopRequest::Timeout, self.limits.timeout);
            }
            if self.timers.idle.take_due(now) {
                self.stop_at_limit(StopRequest::IdleTimeout, self.limits.idle_timeout);
            }
            if self.timers.linger.take_due(now) {
                self.stop.linger();
                self.escalation.begin(Signal::TERM, now);
                self.send(Signal::TERM);
            }
        }
        if let Some(signal) = self.escalation.due(now) {
            self.send(signal);
        }
        Ok(())
    }
}

/// Whether a later stop counts instead of this one.
fn yields(stop: &StopRequest) -> bool {
    matches!(stop, StopRequest::Signal { signal: Signal::INT | Signal::QUIT, .. })
}

fn leads_group(pid: i32) -> bool {
    let pid = nix::unistd::Pid::from_raw(pid);
    nix::unistd::getpgid(Some(pid)) == Ok(pid)
}
