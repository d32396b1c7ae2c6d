//! Whether the agent of a task still runs, and whether it keeps the task's key.

use super::host::{comparable, place_of};
use super::policy::{TTL, has_expired, release_command};
use crate::ledger::Ledger;
use crate::process::procfs::identity;
use crate::sys;
use crate::task::{InterruptReason, ProcessScope, Task, Verdict};

/// What is known of a task's agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentState {
    /// It has ended, or nothing says that it runs.
    Ended,
    /// It runs and may be signalled.
    Runs,
    /// It runs as another user, whose processes we may not signal.
    OutOfReach,
    /// A process with its pid exists, and nothing shows whether that is the agent.
    Unverified,
}

/// What the kernel shows of a task's agent.
pub fn agent_state(task: &Task) -> AgentState {
    agent_state_from(task, &identity::place())
}

/// As [`agent_state`], for this process's own place.
pub(super) fn agent_state_from(task: &Task, here: &ProcessScope) -> AgentState {
    let end_is_recorded = task.exit_code.is_some() || task.term_signal.is_some();
    let is_here = || identity::may_be_here(&place_of(task), here);
    let Some(agent) = task.agent_process().filter(|_| !end_is_recorded && is_here()) else {
        return AgentState::Ended;
    };
    match identity::presence(comparable(agent, task, here)) {
        Verdict::Gone | Verdict::Recycled => AgentState::Ended,
        Verdict::Unverifiable => AgentState::Unverified,
        Verdict::Alive if identity::may_be_signalled(agent.identity.pid) == Some(false) => {
            AgentState::OutOfReach
        }
        Verdict::Alive => AgentState::Runs,
    }
}

/// Whether an ended task still keeps its key because its agent runs or may run. An agent that cannot be
/// verified keeps it for [`TTL`], unless `recover` released it.
pub fn keeps_key(task: &Task) -> bool {
    match agent_state(task) {
        AgentState::Ended => false,
        AgentState::Runs | AgentState::OutOfReach => true,
        AgentState::Unverified => {
            let is_released = task.agent_released_at.is_some()
                || task.reason.as_deref() == Some(InterruptReason::Ttl.as_str());
            !is_released && !has_expired(task, TTL)
        }
    }
}

/// A message that the agent of a settled task may still run, and what to do; `None`: it has ended, or is
/// reported as a survivor.
pub(super) fn agent_may_run(ledger: &Ledger, task: &Task, state: AgentState) -> Option<String> {
    let pid = task.agent_pid?;
    let key = task.key.as_ref().map(|key| format!("the key {key} stays busy until it has ended"));
    let key = |otherwise: &str| key.map_or_else(String::new, |k| format!("; {k}{otherwise}"));
    Some(match state {
        AgentState::Ended | AgentState::Runs => return None,
        AgentState::OutOfReach => {
            let user = identity::user(pid).map_or_else(|| "another user".to_owned(), sys::user_name);
            format!(
                "its agent (pid {pid}) runs as {user}, whose processes uid {} may not signal: it was not \
                 ended and may still run{}; end it as that user or as root: kill {pid}",
                nix::unistd::geteuid(),
                key("")
            )
        }
        AgentState::Unverified => format!(
            "its agent (pid {pid}) may still run: a process with that pid exists, and /proc hides whether it \
             is the agent{}; if it is not: {}",
            key(", at most 24 hours"),
            release_command(ledger, task)
        ),
    })
}
