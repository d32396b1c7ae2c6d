//! Which of an agent's processes get the signals that stop the agent.

use serde::Deserialize;

/// Which of the agent's processes get a signal that asks the agent to stop.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SignalScope {
    /// The one that bookend started, which passes it on.
    #[default]
    Main,
    /// All of them: the one that bookend started ignores it, or dies by it alone.
    Tree,
}
