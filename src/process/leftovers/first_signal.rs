//! The signal to the agent of a lost task before anything is scanned: reading all of `/proc` takes longer
//! than most agents need to end.

use std::time::{Duration, Instant};

use super::classify::ProcessClass;
use super::leftover::{Leftover, SignalSent, send};
use super::sweep::{LeftoverSweep, SweepPhase};
use crate::process::procfs::dying;
use crate::process::procfs::identity;
use crate::task::Signal;

/// How long the first scan waits for the end of the agent, which it then need not find and await: about as
/// long as a scan of a busy machine takes.
const HEAD_START: Duration = Duration::from_millis(20);

impl LeftoverSweep {
    /// Sends SIGTERM to the recorded agent if that proves at this moment what the process is, and lets the
    /// first scan wait a moment for its end. The sweep sends it no second one. An agent that exits already is
    /// only waited for, and one without a grace period is left to the sweep, which kills it.
    pub fn signal_agent(&mut self, now: Instant) {
        let agent = self.task.agent;
        if !self.ends || self.grace.is_zero() || !self.is_proven_agent(agent) {
            return;
        }
        let Some(handle) = identity::open(&agent).ok().flatten() else { return };
        let Some(stat) = self.may_signal(&handle) else { return };
        let (class, sent) = if dying::is_dying(&stat) {
            (ProcessClass::Exiting, SignalSent::Nothing)
        } else if send(&handle, Signal::TERM, None, &stat).is_ok() {
            (ProcessClass::Ours, SignalSent::Term)
        } else {
            return;
        };
        self.found.push(Leftover { stat, class, handle: Some(handle), sent, has_ended: false });
        self.phase = SweepPhase::EndingAgent { until: now + HEAD_START };
    }
}
