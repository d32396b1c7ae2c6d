//! A ledger's membership in a fleet, as the ledger stores it: which database, and which node it is there.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The setting `fleet` of a ledger. It holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetMembership {
    /// The database, as `bookend fleet join` got it: a URL without a password.
    pub url: String,
    /// Drawn at the join.
    pub node: Uuid,
    /// Which ledger this is. A copy of the file has the same.
    pub ledger: Uuid,
    /// RFC 3339, in UTC.
    pub joined_at: String,
}

impl FleetMembership {
    /// Reads the text of the setting.
    pub fn parse(setting: &str) -> Result<FleetMembership, serde_json::Error> {
        serde_json::from_str(setting)
    }

    /// The text of the setting.
    #[cfg(feature = "fleet")]
    pub fn to_setting(&self) -> String {
        serde_json::json!(self).to_string()
    }
}
