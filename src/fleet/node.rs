//! Reads the nodes of a fleet and their states.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::connection::FleetConnection;
use super::error::FleetError;
use crate::task::Time;

/// A node: a ledger of a host.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FleetNode {
    pub id: Uuid,
    pub host: String,
    pub role: String,
    pub version: Option<String>,
    pub state: NodeState,
    /// Since when it has not renewed its lease, stopped, was declared lost, or left.
    pub since: Option<Time>,
    pub running: i64,
    pub claims: i64,
    /// For how many keys of other nodes it waits.
    pub waiting: i64,
    pub epoch: i64,
    pub seq: i64,
    #[serde(skip_serializing)]
    pub boot_id: Option<String>,
    /// Device and inode of the ledger.
    #[serde(skip_serializing)]
    pub ledger_file: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    Reachable,
    Unreachable,
    Stopped,
    Lost,
    Left,
}

impl NodeState {
    pub fn as_str(self) -> &'static str {
        match self {
            NodeState::Reachable => "reachable",
            NodeState::Unreachable => "unreachable",
            NodeState::Stopped => "stopped",
            NodeState::Lost => "lost",
            NodeState::Left => "left",
        }
    }

    /// Whether it is still a part of the fleet, so that its role is in use.
    pub fn is_member(self) -> bool {
        !matches!(self, NodeState::Lost | NodeState::Left)
    }
}

const SELECT_NODES: &str = "
    SELECT jsonb_build_object(
        'id', id, 'host', host, 'role', role, 'version', version, 'state', state,
        'since', bookend.shown(coalesce(left_at, lost_at, stopped_at, unreachable_since)),
        'running', running, 'claims', claims, 'waiting', waiting, 'epoch', epoch, 'seq', seq,
        'boot_id', boot_id, 'ledger_file', ledger_file)
    FROM bookend.node_state ORDER BY host, registered_at, id";

impl FleetConnection {
    /// All nodes that ever registered, by host.
    pub async fn nodes(&self) -> Result<Vec<FleetNode>, FleetError> {
        self.rows(SELECT_NODES, &[]).await
    }
}
