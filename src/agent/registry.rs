//! The list of adapters.

use std::path::PathBuf;

use super::adapter::Adapter;
use super::claude::ClaudeAdapter;
use super::command::CommandAdapter;
use super::cursor::CursorAdapter;

/// `--agent-type` names no adapter.
#[derive(Debug, thiserror::Error)]
#[error("{}: unknown agent type `{named}`", program.display())]
pub struct UnknownAgentType {
    pub program: PathBuf,
    pub named: String,
}

/// The adapters of agents whose sessions are tracked.
pub(super) static ADAPTERS: [&dyn Adapter; 2] = [&ClaudeAdapter, &CursorAdapter];

/// The adapter with this `agent_type`.
pub fn by_type(agent_type: &str) -> Option<&'static dyn Adapter> {
    let all = ADAPTERS.iter().copied().chain([no_adapter()]);
    all.into_iter().find(|a| a.agent_type() == agent_type)
}

/// The adapter for programs that are not known agents.
pub(super) fn no_adapter() -> &'static dyn Adapter {
    &CommandAdapter
}
