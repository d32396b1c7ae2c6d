//! The recovery report of an interrupted task: one line for a log, a block for a terminal, or JSON.

use serde::Serialize;

use super::detail::{stopped_by, tokens};
use super::screen::Screen;
use super::tasks::style;
use super::text::{money, one_line};
use crate::task::{Key, SessionId, Task};

/// The prefix of every line of a recovery report.
pub const PREFIX: &str = "[recovery]";

/// What is reported about an interrupted task.
#[derive(Debug, Serialize)]
pub struct Hint {
    pub task: Task,
    /// The invalidated session.
    pub invalidated_session: Option<SessionId>,
    /// Whether the task ran in a git worktree.
    pub in_worktree: bool,
    /// The number of uncommitted files there; `None`: git did not answer.
    pub uncommitted: Option<u64>,
    /// The command that dispatches it again; `None`: its row does not hold what is needed.
    pub redispatch: Option<String>,
    /// What that command lacks to dispatch it.
    pub redispatch_needs: Option<&'static str>,
}

impl Hint {
    /// Without the prefix, on one line.
    pub fn line(&self) -> String {
        let facts: Vec<String> = self.facts().into_iter().map(|(name, fact)| said(name, &fact)).collect();
        format!("{}: {}", self.title(), facts.join("; "))
    }

    /// A title with the prefix, and one line per fact.
    pub fn block(&self, screen: Screen) -> String {
        let title = screen.paint(style(self.task.status), &self.title());
        let mut block = format!("{PREFIX} {title}\n");
        for (name, fact) in self.facts() {
            block.push_str(&format!("    {name:<10} {fact}\n"));
        }
        block
    }

    fn title(&self) -> String {
        let reason = self.task.reason.as_deref().unwrap_or("unknown");
        format!("task {} interrupted ({})", one_line(self.task.id.as_str()), one_line(reason))
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let task = &self.task;
        let mut facts = Vec::new();
        let mut tell = |name, fact: Option<String>| {
            facts.extend(fact.map(|f| (name, one_line(&f).into_owned())));
        };
        tell("key", task.key.as_ref().map(Key::to_string));
        tell("agent", agent(task));
        tell("ran", Some(span(task)));
        tell("how", task.error.clone());
        tell("stopped by", stopped_by(task));
        tell("ended", ended_leftovers(task));
        tell("used", used(task));
        tell("in flight", task.tool_in_flight.clone());
        tell("worktree", self.worktree());
        tell("session", self.invalidated_session.as_ref().map(|s| format!("{s} invalidated")));
        tell("run again", self.again());
        facts
    }

    fn worktree(&self) -> Option<String> {
        let cwd = self.task.cwd.as_deref()?;
        self.in_worktree.then(|| match self.uncommitted {
            None => format!("{cwd}: unknown whether anything is uncommitted"),
            Some(0) => format!("{cwd}: nothing uncommitted"),
            Some(1) => format!("{cwd}: 1 uncommitted change"),
            Some(n) => format!("{cwd}: {n} uncommitted changes"),
        })
    }

    fn again(&self) -> Option<String> {
        match (&self.redispatch, self.redispatch_needs) {
            (Some(command), None) => Some(command.clone()),
            (Some(command), Some(needs)) => Some(format!("{command} ({needs})")),
            (None, needs) => needs.map(|n| format!("write its command line: {n}")),
        }
    }
}

/// A fact within a sentence.
fn said(name: &str, fact: &str) -> String {
    match name {
        "how" => fact.to_owned(),
        "ended" => format!("ended {fact}"),
        "run again" => format!("to run it again: {fact}"),
        _ => format!("{name} {fact}"),
    }
}

fn agent(task: &Task) -> Option<String> {
    let agent = task.agent.as_deref()?;
    Some(match task.agent_type.as_deref() {
        Some(kind) if kind != agent => format!("{agent} ({kind})"),
        _ => agent.to_owned(),
    })
}

fn span(task: &Task) -> String {
    match (&task.finished_at, &task.last_seen_at) {
        (Some(end), _) => format!("from {} to {end}", task.started_at),
        (None, Some(seen)) => format!("from {} to {seen} at least", task.started_at),
        (None, None) => format!("from {}", task.started_at),
    }
}

fn ended_leftovers(task: &Task) -> Option<String> {
    match task.leftovers.as_ref()?.get("ended")?.as_u64()? {
        0 => None,
        1 => Some("1 leftover process".to_owned()),
        n => Some(format!("{n} leftover processes")),
    }
}

fn used(task: &Task) -> Option<String> {
    let parts: Vec<String> = [tokens(task).map(|t| format!("tokens: {t}")), task.cost_usd.map(money)]
        .into_iter()
        .flatten()
        .collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}
