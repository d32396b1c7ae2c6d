//! What a node says about itself when it registers.

use serde::Serialize;
use uuid::Uuid;

use crate::fleet::SCHEMA_VERSION;
use crate::ledger::{Ledger, LedgerError};
use crate::process::procfs::identity;

const MACHINE_ID: &str = "/etc/machine-id";

/// The facts by which the fleet distinguishes a restarted monitor from a copy of its ledger.
#[derive(Debug, Serialize)]
pub struct NodeFacts {
    machine_id: Option<String>,
    boot_id: Option<String>,
    ledger_id: Uuid,
    /// Device and inode of the ledger's file.
    ledger_file: String,
    host: String,
    version: &'static str,
    schema: i64,
    /// Another monitor has taken the lease from this one: it may be that of a copy.
    superseded: bool,
}

impl NodeFacts {
    /// # Errors
    /// When the ledger's file has no attributes.
    pub fn of(ledger: &Ledger, ledger_id: Uuid, superseded: bool) -> Result<NodeFacts, LedgerError> {
        let machine_id = std::fs::read_to_string(MACHINE_ID).ok().map(|id| id.trim().to_owned());
        let (dev, ino) = ledger.file_identity()?;
        Ok(NodeFacts {
            machine_id: machine_id.filter(|id| !id.is_empty()),
            boot_id: identity::boot_id(),
            ledger_id,
            ledger_file: format!("{dev}:{ino}"),
            host: identity::place().host,
            version: env!("CARGO_PKG_VERSION"),
            schema: SCHEMA_VERSION,
            superseded,
        })
    }
}
