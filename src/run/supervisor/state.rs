//! The states of a supervised run: its agent, its row, and what asked it to stop.

use std::collections::VecDeque;
use std::time::Instant;

use crate::exit::Exit;
use crate::ledger::{HeldSlot, SpoolSlot};
use crate::sys::ResourceUsage;
use crate::task::{Signal, StopRequest, TaskEnd};

use crate::process::spawn::gate::StartError;

/// How the agent's exec went; `None` until the gated child reports it.
pub(super) type ExecReport = Option<Result<(), StartError>>;

/// Where the agent's process is between its fork and its exit.
#[derive(Debug, Clone, Copy)]
pub(super) enum AgentPhase {
    /// It waits at the gate.
    AtGate,
    /// The gate is open.
    Alive(ExecReport),
    /// It has exited, or is given up.
    Over(ExecReport, AgentExit),
}

/// How bookend's wait for the agent ended.
#[derive(Debug, Clone, Copy)]
pub(super) enum AgentExit {
    Exited(Exit, ResourceUsage),
    /// The kernel does not let bookend kill it: it has become another user's process.
    OutOfReach,
}

impl AgentPhase {
    pub(super) fn opened(&mut self) {
        if let AgentPhase::AtGate = self {
            *self = AgentPhase::Alive(None);
        }
    }

    pub(super) fn reported(&mut self, report: Result<(), StartError>) {
        match self {
            AgentPhase::AtGate => {}
            AgentPhase::Alive(exec) | AgentPhase::Over(exec, _) => *exec = Some(report),
        }
    }

    pub(super) fn ended(&mut self, end: AgentExit) {
        *self = match *self {
            AgentPhase::AtGate => AgentPhase::Over(None, end),
            AgentPhase::Alive(exec) => AgentPhase::Over(exec, end),
            // The first end stands: nothing waits for a process that was given up.
            over @ AgentPhase::Over(..) => over,
        };
    }

    pub(super) fn is_alive(self) -> bool {
        matches!(self, AgentPhase::Alive(_))
    }

    pub(super) fn end(self) -> Option<AgentExit> {
        match self {
            AgentPhase::Over(_, end) => Some(end),
            AgentPhase::AtGate | AgentPhase::Alive(_) => None,
        }
    }

    pub(super) fn exited(self) -> Option<(Exit, ResourceUsage)> {
        match self.end() {
            Some(AgentExit::Exited(exit, usage)) => Some((exit, usage)),
            Some(AgentExit::OutOfReach) | None => None,
        }
    }

    pub(super) fn is_out_of_reach(self) -> bool {
        matches!(self.end(), Some(AgentExit::OutOfReach))
    }

    fn exec(self) -> ExecReport {
        match self {
            AgentPhase::AtGate => None,
            AgentPhase::Alive(exec) | AgentPhase::Over(exec, _) => exec,
        }
    }

    /// Whether its exec is known to have succeeded.
    pub(super) fn executed(self) -> bool {
        matches!(self.exec(), Some(Ok(())))
    }

    pub(super) fn start_error(self) -> Option<StartError> {
        self.exec().and_then(Result::err)
    }
}

/// How far the task's row is on its way to its end.
pub(super) enum RowState {
    /// `running`. The slot takes the ending if the ledger does not.
    Running(SpoolSlot),
    /// The ending is decided, and not yet recorded.
    Ending(SpoolSlot, Box<TaskEnd>),
    /// It is recorded, in the ledger or in the spool. The slot is held while anything is left to do.
    Settled(HeldSlot),
    /// Neither took it, or the slot was given back: nothing is held.
    Released,
}

/// The first stop that was requested, if it still counts.
pub(super) struct RequestedStop {
    pub(super) stop: StopRequest,
    pub(super) at: Instant,
    /// How many results the agent had reported by then.
    pub(super) results: u32,
}

/// What asked the run to stop, before and after the agent's exit.
#[derive(Default)]
pub(super) enum StopState {
    /// Nothing did.
    #[default]
    Unasked,
    /// A stop was requested while the agent lived.
    Requested(RequestedStop),
    /// bookend ended the agent because it stayed after its result; perhaps a stop was requested too.
    Lingered(Option<RequestedStop>),
    /// A stop came after the agent's exit: bookend waits for nothing more. The signals are passed on to the
    /// hook that runs then.
    Hurried { before: Box<StopState>, signals: VecDeque<Signal> },
}

impl StopState {
    pub(super) fn request(&mut self, stop: RequestedStop) {
        *self = match self {
            StopState::Unasked | StopState::Requested(_) => StopState::Requested(stop),
            StopState::Lingered(_) => StopState::Lingered(Some(stop)),
            StopState::Hurried { .. } => return,
        };
    }

    pub(super) fn linger(&mut self) {
        *self = match std::mem::take(self) {
            StopState::Unasked => StopState::Lingered(None),
            StopState::Requested(stop) => StopState::Lingered(Some(stop)),
            as_it_was => as_it_was,
        };
    }

    pub(super) fn hurry(&mut self, signal: Signal) {
        match self {
            StopState::Hurried { signals, .. } => signals.push_back(signal),
            _ => {
                let before = Box::new(std::mem::take(self));
                *self = StopState::Hurried { before, signals: VecDeque::from([signal]) };
            }
        }
    }

    pub(super) fn is_hurried(&self) -> bool {
        matches!(self, StopState::Hurried { .. })
    }

    pub(super) fn has_lingered(&self) -> bool {
        match self {
            StopState::Lingered(_) => true,
            StopState::Hurried { before, .. } => before.has_lingered(),
            StopState::Unasked | StopState::Requested(_) => false,
        }
    }

    pub(super) fn requested(&self) -> Option<&RequestedStop> {
        match self {
            StopState::Unasked => None,
            StopState::Requested(stop) => Some(stop),
            StopState::Lingered(stop) => stop.as_ref(),
            StopState::Hurried { before, .. } => before.requested(),
        }
    }

    /// The next stop signal that came after the agent's exit.
    pub(super) fn next_signal(&mut self) -> Option<Signal> {
        match self {
            StopState::Hurried { signals, .. } => signals.pop_front(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::SignalSender;

    fn requested(stop: StopRequest) -> RequestedStop {
        RequestedStop { stop, at: Instant::now(), results: 0 }
    }

    #[test]
    fn a_late_signal_keeps_the_stop_that_was_requested_before() {
        let mut state = StopState::default();
        state.request(requested(StopRequest::Timeout));
        state.linger();
        state.hurry(Signal::TERM);
        state.hurry(Signal::INT);
        state.request(requested(StopRequest::Cancel { sender: SignalSender { pid: 1, uid: 0 } }));
        assert!(state.is_hurried() && state.has_lingered());
        assert_eq!(state.requested().map(|r| r.stop), Some(StopRequest::Timeout));
        let signals: Vec<_> = std::iter::from_fn(|| state.next_signal()).collect();
        assert_eq!(signals, [Signal::TERM, Signal::INT]);
        assert!(state.is_hurried(), "it stays hurried once its signals are passed on");
    }

    #[test]
    fn the_first_end_of_an_agent_stands_and_its_exec_may_be_reported_later() {
        let mut state = AgentPhase::AtGate;
        state.opened();
        assert!(state.is_alive() && !state.executed());
        state.ended(AgentExit::OutOfReach);
        state.reported(Ok(()));
        state.ended(AgentExit::Exited(
            Exit::Code(0),
            ResourceUsage { cpu: std::time::Duration::ZERO, max_rss_kib: 0 },
        ));
        assert!(state.is_out_of_reach() && state.executed() && state.exited().is_none());
    }

    #[test]
    fn an_agent_that_is_dismissed_at_the_gate_never_executed() {
        let mut state = AgentPhase::AtGate;
        state.ended(AgentExit::Exited(
            Exit::Code(0),
            ResourceUsage { cpu: std::time::Duration::ZERO, max_rss_kib: 0 },
        ));
        state.opened();
        assert!(!state.is_alive() && !state.executed() && state.start_error().is_none());
    }
}
