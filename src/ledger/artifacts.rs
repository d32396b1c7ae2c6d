//! The artifacts of a task, stored as a JSON array of objects with a `kind`.

use serde_json::Value;

use super::error::{LedgerError, Result};
use super::handle::Ledger;
use crate::task::TaskId;

const APPEND_ARTIFACT: &str = "
    UPDATE task_history SET artifacts = json_insert(
        CASE WHEN json_valid(artifacts) AND json_type(artifacts) = 'array' THEN artifacts ELSE '[]' END,
        '$[#]', json(?2))
    WHERE id = ?1";

impl Ledger {
    /// Adds an artifact to a running or ended task.
    pub fn add_artifact(&mut self, id: &TaskId, artifact: &Value) -> Result<()> {
        self.check_files("recording an artifact")?;
        let added = self
            .conn
            .execute(APPEND_ARTIFACT, (id, artifact.to_string()))
            .map_err(self.failed("recording an artifact"))?;
        match added {
            0 => Err(LedgerError::NoSuchTask { id: id.to_owned(), path: self.path().to_owned() }),
            _ => Ok(()),
        }
    }

    /// As [`Ledger::add_artifact`], for what bookend records after the end of a task: it does not wait for
    /// the disk. A power failure may lose the artifact, but not the end.
    pub fn note_artifact(&mut self, id: &TaskId, artifact: &Value) -> Result<()> {
        self.log.set_lax(true);
        let added = self.add_artifact(id, artifact);
        self.log.set_lax(false);
        added
    }
}
