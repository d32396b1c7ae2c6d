//! The ledger as the hub asks it about keys.

use super::claims::LocalKeys;
use crate::fleet::socket::{KeyRequest, WhenHeld};
use crate::ledger::{Ledger, LedgerError, RunningKey};
use crate::recovery;
use crate::task::{Key, TaskId};

impl LocalKeys for Ledger {
    fn holder(&self, key: &Key) -> Result<Option<TaskId>, LedgerError> {
        let holder = match self.running_holder(key)? {
            None => self.last_of_key(key)?.filter(recovery::keeps_key),
            running => running,
        };
        Ok(holder.map(|task| task.id))
    }

    fn running(&self) -> Result<Vec<KeyRequest>, LedgerError> {
        let request = |RunningKey { key, task, slot }| {
            let slot = slot.unwrap_or_default();
            KeyRequest { key, task, slot, if_held: WhenHeld::Refuse }
        };
        Ok(self.running_keys()?.into_iter().map(request).collect())
    }

    fn unpublished_end(&self, key: &Key) -> Result<Option<TaskId>, LedgerError> {
        let Some(last) = self.last_of_key(key)? else { return Ok(None) };
        Ok(self.is_unpublished(&last.id)?.then_some(last.id))
    }

    fn has_unpublished(&self, key: &Key) -> Result<bool, LedgerError> {
        Ledger::has_unpublished(self, key)
    }
}
