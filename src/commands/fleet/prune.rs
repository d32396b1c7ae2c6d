//! `bookend fleet prune`: deletes ended tasks of all hosts from PostgreSQL. The ledgers keep theirs.

use std::path::Path;

use serde::Deserialize;

use super::database::{self, block_on, connect};
use super::options::FleetPruneOptions;
use crate::error::Error;
use crate::view;

#[derive(Debug, Deserialize)]
struct PruneAnswer {
    tasks: i64,
}

/// How many tasks are deleted in one transaction: each deletion holds locks until its commit.
const BATCH: i64 = 5_000;
const PRUNE: &str = "SELECT bookend.prune($1, $2, $3)";

pub(super) fn prune(options: &FleetPruneOptions, ledger: Option<&Path>) -> Result<String, Error> {
    let url = database::url(ledger)?;
    let seconds = i64::try_from(options.older_than.as_secs()).unwrap_or(i64::MAX);
    let most = if options.dry_run { i64::from(i32::MAX) } else { BATCH };
    let tasks = block_on(async {
        let connection = connect(&url).await?;
        let mut all = 0;
        loop {
            let arguments = [seconds.into(), options.dry_run.into(), most.into()];
            let called = connection.call(PRUNE, &arguments).await;
            let PruneAnswer { tasks } = called.map_err(|e| e.of_operator(connection.user()))?;
            all += tasks;
            if options.dry_run || tasks < most {
                return Ok(all);
            }
        }
    })?;
    if options.json {
        return Ok(view::pretty(&serde_json::json!({ "dry_run": options.dry_run, "removed": tasks })));
    }
    let removed = if options.dry_run { "would be removed" } else { "removed" };
    let count = if tasks == 1 { "1 task".to_owned() } else { format!("{tasks} tasks") };
    Ok(format!("{count} {removed} from {url}\n"))
}
