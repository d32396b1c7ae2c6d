//! Sends the stop signals to all processes of an agent whose first one does not pass them on, and waits for
//! all of them to end.

use tracing::warn;

use super::Supervisor;
use crate::error::{Error, chain};
use crate::process::forward::{self, SignalDelivery};
use crate::process::leftovers::{LeftoverSweep, LeftoversPolicy, ProcessTree, SweptTask, TreeSignal};
use crate::recovery::trust;
use crate::stop::stop_of;
use crate::sys::ReceivedSignal;
use crate::task::SignalScope;

impl Supervisor<'_> {
    /// From here on a stop signal for the agent goes to these processes of `task`.
    pub(crate) fn send_signals_to(&mut self, scope: SignalScope, task: &SweptTask) {
        self.tree = match scope {
            SignalScope::Main => None,
            SignalScope::Tree => Some(ProcessTree::new(task.clone())),
        };
    }

    /// Forwards a signal to the agent's processes that have not received it. All but a stop go to the first
    /// one alone: most programs end by a signal that they do not expect.
    pub(super) fn forward(&mut self, received: &ReceivedSignal, delivery: SignalDelivery) {
        if delivery.misses(self.agent.child.pid) {
            forward::forward(&self.agent.child, received);
        }
        if stop_of(received).is_some_and(|stop| self.is_final(&stop)) {
            let own_group = nix::unistd::getpgrp().as_raw();
            self.signal_tree(TreeSignal {
                signal: received.signal,
                value: received.queued_value(),
                reached_group: (delivery == SignalDelivery::OurGroup).then_some(own_group),
            });
        }
    }

    /// Sends a signal to the agent's processes but the first one, if they are to get it.
    pub(super) fn signal_tree(&mut self, signal: TreeSignal) {
        let Some(tree) = &mut self.tree else { return };
        if let Err(e) = tree.signal(signal, &trust::supervisors(self.ledger)) {
            warn!(hint = e.hint(), "{}", chain(&e));
        }
    }

    /// Ends the agent's processes that still run after a stop signal to all of them; what they print until
    /// then is output of the agent. `None`: there was no such signal.
    ///
    /// # Errors
    /// When the kernel has no memory left to watch with.
    pub(crate) fn end_tree(
        &mut self,
        task: &SweptTask,
        policy: LeftoversPolicy,
    ) -> Result<Option<LeftoverSweep>, Error> {
        let signalled = self.tree.take().and_then(|tree| tree.signalled());
        let Some(signalled) = signalled.filter(|_| policy.ends(false)) else { return Ok(None) };
        let sweep = LeftoverSweep::new(task.clone(), true, self.limits.grace).after(signalled);
        let sweep = self.find_leftovers(sweep);
        self.sweep_to_end(sweep)
    }
}
