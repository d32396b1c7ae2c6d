//! Reports when tasks of the fleet may have changed, through a descriptor that `poll` waits for.

use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, BorrowedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// A descriptor that is readable when tasks may have changed, and at the start.
#[derive(Debug)]
pub struct FleetChanges(PipeReader);

impl FleetChanges {
    /// Takes what has been reported. Returns whether there was anything.
    pub fn take(&mut self) -> bool {
        let mut ready = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        let is_ready = matches!(poll(&mut ready, PollTimeout::ZERO), Ok(1..));
        is_ready && matches!(self.0.read(&mut [0; 512]), Ok(1..))
    }
}

impl AsFd for FleetChanges {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(not(feature = "fleet"))]
impl FleetChanges {
    /// # Errors
    /// Always: the client of PostgreSQL is not part of this program.
    pub fn of(_: &str) -> io::Result<FleetChanges> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(feature = "fleet")]
mod thread {
    use std::io::{PipeWriter, Write};
    use std::time::{Duration, Instant};

    use serde_json::Value;
    use tokio::time::{sleep, timeout};

    use super::super::connection::{ConnectOptions, FleetConnection, FleetNotifications, block_on};
    use super::super::error::FleetError;
    use super::super::url::DatabaseUrl;
    use super::{FleetChanges, io};
    use crate::sys::{self, SignalSet};

    const LISTEN: ConnectOptions = ConnectOptions {
        timeout: Duration::from_secs(3),
        call_timeout: Duration::from_secs(10),
        listen: &["bookend_rows"],
    };
    /// Hosts notify only while this was called within 90 seconds.
    const WATCH: &str = "SELECT bookend.watch()";
    const WATCH_INTERVAL: Duration = Duration::from_secs(30);
    /// How long changes are collected before they are reported.
    const COLLECT: Duration = Duration::from_millis(100);
    /// The time between two reports if nothing is notified, as behind pgbouncer in transaction mode.
    const LOOK: Duration = Duration::from_secs(3);

    impl FleetChanges {
        /// Starts the thread that listens, in which all signals are blocked. It ends after this is dropped.
        ///
        /// # Errors
        /// When the text is not the URL of a database, or the kernel has no room for a thread or a pipe.
        pub fn of(url: &str) -> io::Result<FleetChanges> {
            let url = DatabaseUrl::parse(url).map_err(io::Error::other)?;
            let (changes, report) = io::pipe()?;
            let former = sys::set_mask(SignalSet::ALL);
            let thread = std::thread::Builder::new().name("changes".to_owned());
            // It fails once the reader has closed its end.
            let started = thread.spawn(move || block_on(report_changes(&url, report)));
            sys::set_mask(former);
            started.map(|_| FleetChanges(changes))
        }
    }

    async fn report_changes(url: &DatabaseUrl, mut report: PipeWriter) -> io::Result<()> {
        loop {
            if let Ok(mut connection) = FleetConnection::connect(url, LISTEN).await {
                let mut notices = connection.notifications();
                let mut watched_at: Option<Instant> = None;
                loop {
                    if watched_at.is_none_or(|at| at.elapsed() >= WATCH_INTERVAL) {
                        let watched: Result<Value, FleetError> = connection.call(WATCH, &[]).await;
                        if watched.is_err() {
                            break;
                        }
                        watched_at = Some(Instant::now());
                    }
                    report.write_all(b"c")?;
                    if !next(&mut notices).await {
                        break;
                    }
                }
                // The reader asks now, and finds that the database does not answer.
                report.write_all(b"c")?;
            }
            sleep(LOOK).await;
        }
    }

    /// Waits for a change or the next look. `false`: the connection has ended.
    async fn next(notices: &mut FleetNotifications) -> bool {
        if matches!(timeout(LOOK, notices.next()).await, Ok(None)) {
            return false;
        }
        sleep(COLLECT).await;
        while let Ok(notice) = timeout(Duration::ZERO, notices.next()).await {
            if notice.is_none() {
                return false;
            }
        }
        true
    }
}
