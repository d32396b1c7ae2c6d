//! The changes of tasks that are published, and not noted in the ledger yet.

use std::collections::BTreeSet;

/// Numbers of changes that need not be sent again. Noting them waits for other writers, so it is done for
/// many at once.
#[derive(Debug, Default)]
pub struct PublishedChanges {
    pub revs: BTreeSet<i64>,
    /// The highest number that the fleet has acknowledged. 0: none.
    pub acknowledged: i64,
}
