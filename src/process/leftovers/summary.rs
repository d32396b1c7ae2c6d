//! How many leftovers of a task were found, ended and spared.

use serde::Serialize;

use super::classify::{ProcessClass, SparedReason};
use super::leftover::Leftover;
use super::sweep::LeftoverSweep;
use crate::process::procfs::{dying, identity};

/// How many pids a summary lists.
const NAMED: usize = 64;

/// The row's `leftovers`, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeftoverSummary {
    pub found: usize,
    pub ended: usize,
    pub left: usize,
    /// Processes of the same user, started after the agent, whose environment cannot be read: perhaps the
    /// task's, perhaps not.
    pub unreadable: usize,
    /// The first of those found, ended or not.
    pub pids: Vec<i32>,
    /// Those that were spared, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub spared: Vec<SparedProcess>,
    /// Those that should have ended and are alive, the agent included.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub survivors: Vec<i32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SparedProcess {
    pub pid: i32,
    pub name: String,
    pub why: SparedReason,
    /// Its state as in proc_pid_stat(5), if that is the reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<char>,
}

impl LeftoverSummary {
    /// Counts the agent too if no scan found it because `/proc` hides it.
    pub fn count_hidden(&mut self, agent: i32) {
        self.count_hidden_as("agent", agent);
    }

    fn count_hidden_as(&mut self, name: &str, pid: i32) {
        if !self.pids.contains(&pid) {
            self.found += 1;
            self.left += 1;
            self.pids.push(pid);
            self.spared.push(SparedProcess {
                pid,
                name: name.to_owned(),
                why: SparedReason::Hidden,
                state: None,
            });
        }
    }

    /// Whether the agent was spared because the scan did not find it or could not read its environment.
    pub fn spares_unread(&self, agent: i32) -> bool {
        let is_unread = |s: &SparedProcess| {
            s.pid == agent && matches!(s.why, SparedReason::Unreadable | SparedReason::Hidden)
        };
        self.spared.iter().any(is_unread)
    }

    /// The agent, which was spared, has ended after all.
    pub fn note_end(&mut self, agent: i32) {
        self.ended += 1;
        self.left -= 1;
        self.spared.retain(|s| s.pid != agent);
        self.survivors.retain(|pid| *pid != agent);
    }
}

impl LeftoverSweep {
    pub fn summary(&self) -> LeftoverSummary {
        let is_known = |l: &&Leftover| !matches!(l.class, ProcessClass::Unreadable | ProcessClass::Exiting);
        let ours = || self.found.iter().filter(is_known);
        let found = ours().count();
        let ended = ours().filter(|l| l.has_ended).count();
        let agent = self.task.agent;
        let survives = |l: &&Leftover| l.class == ProcessClass::Ours || l.stat.identity() == agent;
        let survivors = self.found.iter().filter(|l| !l.has_ended).filter(survives);
        let mut summary = LeftoverSummary {
            found,
            ended,
            left: found - ended,
            unreadable: self.found.iter().filter(|l| !is_known(l) && !l.has_ended).count(),
            pids: ours().map(|l| l.stat.pid).take(NAMED).collect(),
            spared: ours().filter(|l| !l.has_ended).filter_map(|l| self.spared(l)).take(NAMED).collect(),
            survivors: survivors.map(|l| l.stat.pid).take(NAMED).collect(),
        };
        for pid in self.hidden() {
            summary.count_hidden_as(if pid == agent.pid { "agent" } else { "unknown" }, pid);
        }
        summary
    }

    /// Why a process that is alive was not ended.
    fn spared(&self, leftover: &Leftover) -> Option<SparedProcess> {
        let mut state = None;
        let why = match leftover.class {
            ProcessClass::Spared(why) => why,
            ProcessClass::Supervisor => SparedReason::Supervisor,
            ProcessClass::Ours => {
                let now = identity::stat(leftover.stat.pid).ok().flatten()?;
                state = Some(now.state);
                (self.ends && self.is_done() && dying::is_dying(&now)).then_some(SparedReason::Dying)?
            }
            ProcessClass::Unreadable | ProcessClass::Exiting => return None,
        };
        Some(SparedProcess { pid: leftover.stat.pid, name: leftover.stat.comm.to_string(), why, state })
    }
}
