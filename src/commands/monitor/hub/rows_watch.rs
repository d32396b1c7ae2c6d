//! Waits for changes of the ledger's rows.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use tokio::io::unix::AsyncFd;

use crate::ledger::{Ledger, LedgerWatch, WatchScope};
use crate::sys;

/// How often the rows are read without inotify.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Reports that rows may have changed. Created before the rows are read, it misses no change.
pub struct RowsWatch(Option<WatchedLog>);

struct WatchedLog {
    watch: LedgerWatch,
    ready: AsyncFd<OwnedFd>,
}

impl RowsWatch {
    pub fn of(ledger: &Ledger) -> RowsWatch {
        let watched = || {
            let watch = ledger.watch(WatchScope::Rows)?;
            let fd = watch.as_fd().try_clone_to_owned()?;
            let ready = sys::await_readable(fd)?;
            std::io::Result::Ok(WatchedLog { watch, ready })
        };
        let watched = watched();
        if let Err(e) = &watched {
            tracing::debug!("the log of the ledger cannot be watched: {e}");
        }
        RowsWatch(watched.ok())
    }

    /// Waits for the next change, at most `longest`. `true`: there was one.
    pub async fn changed(&mut self, longest: Duration) -> bool {
        let Some(log) = &mut self.0 else {
            tokio::time::sleep(longest.min(POLL_INTERVAL)).await;
            return false;
        };
        match tokio::time::timeout(longest, log.ready.readable()).await {
            Ok(Ok(mut ready)) => {
                ready.clear_ready();
                true
            }
            Ok(Err(_)) | Err(_) => false,
        }
    }

    /// Takes the changes that have arrived.
    pub fn take(&mut self) {
        if let Some(log) = &mut self.0 {
            log.watch.read();
        }
    }
}
