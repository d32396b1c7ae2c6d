//! The thread of the hub: started and stopped by the monitor, and started again if it fails.

use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::{error, info, warn};

use super::bound_socket::BoundSocket;
use super::command::HubCommand;
use super::error::HubError;
use super::keys;
use super::lease;
use super::node::HubNode;
use crate::commands::monitor::service::ServiceManager;
use crate::error::chain;
use crate::fleet::socket::SOCKET_NAME;
use crate::ledger::Location;
use crate::sys::{self, SignalSet};

/// The first pause before the hub starts again; each is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The running hub of a ledger.
pub struct Hub {
    /// The setting of the ledger for which it was started.
    pub setting: String,
    command: watch::Sender<HubCommand>,
    /// Hung up when the thread has ended.
    ended: PipeReader,
}

impl Hub {
    /// Binds the socket, on which runs can connect from then on, and starts the thread. All signals are
    /// blocked in it, so that the monitor reads them.
    ///
    /// # Errors
    /// When the kernel has no room for a thread or a pipe.
    pub fn start(at: &Location, setting: &str, service: &Arc<ServiceManager>) -> io::Result<Hub> {
        let (command, commands) = watch::channel(HubCommand::Run);
        let (ended, end) = io::pipe()?;
        let mut runner =
            HubRunner { at: at.clone(), commands, service: Arc::clone(service), socket: None, _end: end };
        // If this fails, the thread tries again and reports it.
        let _ = runner.bind();
        let former = sys::set_mask(SignalSet::ALL);
        let started = std::thread::Builder::new().name("hub".to_owned()).spawn(|| runner.run());
        sys::set_mask(former);
        started.map(|_| Hub { setting: setting.to_owned(), command, ended })
    }

    /// Tells the hub to end, and returns what is readable when it has ended.
    pub fn stop(&self, how: HubCommand) -> BorrowedFd<'_> {
        self.command.send_replace(how);
        self.ended.as_fd()
    }
}

/// What runs in the thread.
struct HubRunner {
    at: Location,
    commands: watch::Receiver<HubCommand>,
    service: Arc<ServiceManager>,
    /// Closed before the end is reported.
    socket: Option<BoundSocket>,
    _end: PipeWriter,
}

impl HubRunner {
    /// Serves until the monitor stops it or the ledger has left the fleet. A panic is reported, and what it
    /// left is dropped.
    fn run(mut self) {
        let mut failures = HubFailures::default();
        loop {
            let began = Instant::now();
            let served = catch_unwind(AssertUnwindSafe(|| self.serve()));
            let pause = failures.pause_after(began.elapsed());
            match served {
                Ok(Ok(())) => return self.service.fleet_status(""),
                Ok(Err(e)) => {
                    let why = chain(&e);
                    self.service.fleet_status(&why);
                    if failures.is_new(&why) {
                        warn!(
                            hint = e.hint(),
                            "the ledger {} is not published: {why}",
                            self.at.file.display()
                        );
                    }
                }
                Err(_) => error!("the hub of the fleet failed; it is started again in {pause:?}"),
            }
            if self.waits(pause) {
                return;
            }
        }
    }

    fn bind(&mut self) -> io::Result<&BoundSocket> {
        let private_dir = self.at.private_dir();
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => {
                BoundSocket::bind(&private_dir, self.service.listener_at(&private_dir.join(SOCKET_NAME)))?
            }
        };
        Ok(self.socket.insert(socket))
    }

    fn serve(&mut self) -> Result<(), HubError> {
        let opened = HubNode::open(&self.at, self.commands.clone(), Arc::clone(&self.service))?;
        let Some(node) = opened.map(Rc::new) else {
            info!("the ledger {} is in no fleet", self.at.file.display());
            return Ok(());
        };
        let socket = self.bind()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let served = async {
            tokio::select! {
                kept = lease::keep(&node) => kept,
                Err(e) = keys::serve(&node, socket) => Err(e),
            }
        };
        let done = tokio::task::LocalSet::new().block_on(&runtime, served);
        // A name that is being looked up is not waited for.
        runtime.shutdown_background();
        done
    }

    /// Waits before a new start. `true`: the monitor stops the hub.
    fn waits(&self, pause: Duration) -> bool {
        let mut commands = self.commands.clone();
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_time().build() else {
            std::thread::sleep(pause);
            return *commands.borrow() != HubCommand::Run;
        };
        let stopped = async { commands.wait_for(|command| *command != HubCommand::Run).await.map(drop) };
        runtime.block_on(async { tokio::time::timeout(pause, stopped).await }).is_ok()
    }
}

/// The failures that follow one another.
#[derive(Default)]
struct HubFailures {
    pause: Duration,
    reported: String,
}

impl HubFailures {
    /// How long to wait after a hub has served for this time. One that has served for long begins anew.
    fn pause_after(&mut self, served: Duration) -> Duration {
        if served > LONGEST_PAUSE {
            *self = HubFailures::default();
        }
        self.pause = (self.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        self.pause
    }

    /// Whether this failure is another one than the one before.
    fn is_new(&mut self, why: &str) -> bool {
        std::mem::replace(&mut self.reported, why.to_owned()) != why
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_that_follow_one_another_are_reported_once_and_a_later_one_again() {
        let (short, mut failures) = (Duration::from_secs(1), HubFailures::default());
        let mut pauses = [0; 8].map(|_| failures.pause_after(short).as_secs());
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(["a", "a", "b"].map(|why| failures.is_new(why)), [true, false, true]);
        pauses[0] = failures.pause_after(LONGEST_PAUSE * 2).as_secs();
        assert_eq!((pauses[0], failures.is_new("b")), (1, true));
    }
}
