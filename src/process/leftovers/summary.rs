//! What was found of a task's left-overs, and what became of it.

use serde::Serialize;

use super::{Hunt, Kind, Leftover, Why};

/// How many pids a summary names.
const NAMED: usize = 64;

/// As JSON the row's `leftovers`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    pub found: usize,
    pub ended: usize,
    pub left: usize,
    /// Processes of the same user, begun since the agent was, whose environment cannot be read: perhaps the
    /// task's, perhaps not.
    pub unreadable: usize,
    /// The first of those found, ended or not.
    pub pids: Vec<i32>,
    /// Those left on purpose, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub spared: Vec<Spared>,
    /// Those that should have ended and live, the agent among them if it does.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub survivors: Vec<i32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Spared {
    pub pid: i32,
    pub name: String,
    pub why: Why,
}

impl Summary {
    /// Counts the agent too if no scan saw it, since `/proc` hides it.
    pub fn count_hidden(&mut self, agent: i32) {
        if !self.pids.contains(&agent) {
            self.found += 1;
            self.left += 1;
            self.pids.push(agent);
            self.spared.push(Spared { pid: agent, name: "agent".to_owned(), why: Why::Hidden });
        }
    }

    /// Whether the agent was left because the scan did not see it, or could not read its environment.
    pub fn leaves_unread(&self, agent: i32) -> bool {
        let is_unread = |s: &Spared| s.pid == agent && matches!(s.why, Why::Unreadable | Why::Hidden);
        self.spared.iter().any(is_unread)
    }

    /// The agent, which had been left, has ended after all.
    pub fn note_end(&mut self, agent: i32) {
        self.ended += 1;
        self.left -= 1;
        self.spared.retain(|s| s.pid != agent);
        self.survivors.retain(|pid| *pid != agent);
    }
}

impl Hunt {
    pub fn summary(&self) -> Summary {
        let ours = || self.found.iter().filter(|l| l.kind != Kind::Unreadable);
        let found = ours().count();
        let ended = ours().filter(|l| l.gone).count();
        let spared = |l: &Leftover| {
            let why = match l.kind {
                Kind::Spared(why) => why,
                Kind::Supervisor => Why::Supervisor,
                Kind::Ours | Kind::Unreadable => return None,
            };
            Some(Spared { pid: l.stat.pid, name: l.stat.comm.to_string(), why })
        };
        let agent = self.task.agent;
        let survives = |l: &&Leftover| l.kind == Kind::Ours || l.stat.identity() == agent;
        let survivors = self.found.iter().filter(|l| !l.gone).filter(survives);
        Summary {
            found,
            ended,
            left: found - ended,
            unreadable: self.found.iter().filter(|l| l.kind == Kind::Unreadable && !l.gone).count(),
            pids: ours().map(|l| l.stat.pid).take(NAMED).collect(),
            spared: ours().filter(|l| !l.gone).filter_map(spared).take(NAMED).collect(),
            survivors: survivors.map(|l| l.stat.pid).take(NAMED).collect(),
        }
    }
}
