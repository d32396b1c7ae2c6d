//! The server of the hub's socket: it reads the request of each run, and reports when its connection ends.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tracing::warn;

use super::bound_socket::BoundSocket;
use crate::fleet::FleetMembership;
use crate::fleet::socket::{self, HubAnswer, HubStatus, KeyRequest, RunMessage};

/// The pause after the kernel has refused a connection, for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long runs wait for the end of others before they are refused, when as many are served as may be.
const FULL_PAUSE: Duration = Duration::from_secs(2);
/// How many runs are refused at once, and how long each may take to read that.
const MOST_REFUSALS: usize = 16;
const REFUSAL: Duration = Duration::from_secs(2);

/// The number of a connection. A later one has a higher number.
pub(super) type RunNumber = u64;

/// What happens at the socket.
#[derive(Debug)]
pub(super) enum RunEvent {
    /// The answers are written in order. They go nowhere once the connection has ended.
    Asked(RunNumber, KeyRequest, UnboundedSender<HubAnswer>),
    /// The run has closed its connection after it had asked.
    Ended(RunNumber),
}

/// The connections of runs. Dropped, it closes them.
pub(super) struct SocketServer(JoinHandle<()>);

impl SocketServer {
    /// Accepts runs that may ask for keys of the ledger with this private directory, in this fleet. Call it
    /// in a runtime.
    ///
    /// # Errors
    /// When the socket cannot be watched, or the directory is gone.
    pub(super) fn start(
        private_dir: &Path,
        socket: &BoundSocket,
        fleet: &FleetMembership,
        status: watch::Receiver<HubStatus>,
        events: UnboundedSender<RunEvent>,
    ) -> io::Result<SocketServer> {
        let owner = std::fs::metadata(private_dir)?.uid();
        let listener = UnixListener::from_std(socket.listener()?)?;
        let service = RunService { owner, fleet: Arc::new(fleet.clone()), status, events };
        Ok(SocketServer(tokio::spawn(accept(listener, service))))
    }
}

impl Drop for SocketServer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What a connection is served with.
#[derive(Clone)]
struct RunService {
    /// The user to whom the ledger belongs.
    owner: u32,
    fleet: Arc<FleetMembership>,
    status: watch::Receiver<HubStatus>,
    events: UnboundedSender<RunEvent>,
}

async fn accept(listener: UnixListener, service: RunService) {
    let mut number = 0;
    let mut places = RunPlaces::new();
    // Dropped with this task: the connections end with the socket.
    let (mut runs, mut refusals) = (JoinSet::new(), JoinSet::new());
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        match places.take().await {
            Some(place) => {
                number += 1;
                runs.spawn(service.clone().serve(stream, number, place));
            }
            None => {
                refusals.spawn(timeout(REFUSAL, service.clone().refuse(stream, places.why())));
                if refusals.len() >= MOST_REFUSALS {
                    refusals.join_next().await;
                }
            }
        }
        while runs.try_join_next().is_some() || refusals.try_join_next().is_some() {}
    }
}

/// How many runs are served at once: half as many as the process may open files. The other half is for
/// settling tasks.
struct RunPlaces {
    free: Arc<Semaphore>,
    most_files: usize,
    /// None became free for a while.
    are_taken: bool,
    is_reported: bool,
}

impl RunPlaces {
    fn new() -> RunPlaces {
        let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(RLIM_INFINITY, |(soft, _)| soft);
        let most_files = usize::try_from(limit).unwrap_or(usize::MAX).clamp(2, Semaphore::MAX_PERMITS);
        let free = Arc::new(Semaphore::new(most_files / 2));
        RunPlaces { free, most_files, are_taken: false, is_reported: false }
    }

    /// A place for a run that has connected. `None`: the run is to be refused.
    async fn take(&mut self) -> Option<OwnedSemaphorePermit> {
        let pause = if self.are_taken { Duration::ZERO } else { FULL_PAUSE };
        let place = timeout(pause, Arc::clone(&self.free).acquire_owned()).await;
        // The semaphore is never closed.
        let place = place.ok().and_then(Result::ok);
        self.are_taken = place.is_none();
        if self.are_taken && !std::mem::replace(&mut self.is_reported, true) {
            let hint = "raise the limit (ulimit -Hn, LimitNOFILE=), and start the monitor again";
            warn!(hint, "{}; others are not served until one of them has ended", self.why());
        }
        place
    }

    fn why(&self) -> String {
        format!(
            "the monitor serves {} runs, half of its limit of {} open files",
            self.most_files / 2,
            self.most_files
        )
    }
}

impl RunService {
    /// Serves one run from its request to the end of its connection.
    async fn serve(self, stream: UnixStream, number: RunNumber, _place: OwnedSemaphorePermit) {
        let Some((request, mut reader, writer)) = self.admit(stream).await else { return };
        let (answers, answered) = unbounded_channel();
        if self.events.send(RunEvent::Asked(number, request, answers)).is_err() {
            return;
        }
        let mut rest = [0; 64];
        tokio::select! {
            // The run sends nothing else: what it sends is read and ignored.
            () = async { while matches!(reader.read(&mut rest).await, Ok(1..)) {} } => {}
            () = write_all(writer, answered) => {}
        }
        // The receiver is gone while the hub stops.
        let _ = self.events.send(RunEvent::Ended(number));
    }

    /// Tells a run that there is no place for it. It reads that once it has sent its request.
    async fn refuse(self, stream: UnixStream, why: String) {
        if let Some((_, _, mut writer)) = self.admit(stream).await {
            let _ = write(&mut writer, &HubAnswer::Away { why }).await;
        }
    }

    /// Reads the request of a run. `None`: it is not served, and knows why if that does not pass. A command
    /// that asks for the state has it then.
    async fn admit(&self, stream: UnixStream) -> Option<(KeyRequest, OwnedReadHalf, OwnedWriteHalf)> {
        let refusal = match stream.peer_cred() {
            Ok(peer) if peer.uid() == self.owner || peer.uid() == 0 => None,
            Ok(_) => Some(refused("the ledger belongs to another user".to_owned())),
            Err(e) => Some(refused(format!("its process cannot be identified: {e}"))),
        };
        let (mut reader, mut writer) = stream.into_split();
        let request = match refusal {
            None => self.read(&mut reader).await,
            Some(refusal) => Err(Some(refusal)),
        };
        match request {
            Ok(request) => Some((request, reader, writer)),
            Err(answer) => {
                if let Some(answer) = answer {
                    let _ = write(&mut writer, &answer).await;
                }
                None
            }
        }
    }

    /// The request, or the last answer. `None`: the run has ended before it was complete, or this hub or the
    /// run has yet to notice that the ledger has joined another fleet; the run asks again.
    async fn read(&self, reader: &mut OwnedReadHalf) -> Result<KeyRequest, Option<HubAnswer>> {
        let mut line = String::new();
        match BufReader::new(reader).take(socket::LONGEST_LINE as u64).read_line(&mut line).await {
            Ok(_) if line.ends_with('\n') => {}
            _ => return Err(None),
        }
        let (fleet, request) = match serde_json::from_str(&line) {
            Ok(RunMessage::Take { fleet, request }) => (fleet, request),
            Ok(RunMessage::Status) => return Err(Some(HubAnswer::Status(self.status.borrow().clone()))),
            Err(e) => {
                let why = format!("the run and the monitor have different versions ({e})");
                return Err(Some(refused(why)));
            }
        };
        match FleetMembership::parse(&fleet) {
            Ok(membership) if membership == *self.fleet => Ok(request),
            _ => Err(None),
        }
    }
}

fn refused(why: String) -> HubAnswer {
    HubAnswer::Refused { why, hint: None }
}

/// Writes answers until the run has closed the connection.
async fn write_all(mut writer: OwnedWriteHalf, mut answers: UnboundedReceiver<HubAnswer>) {
    while let Some(answer) = answers.recv().await {
        if write(&mut writer, &answer).await.is_err() {
            return;
        }
    }
}

async fn write(writer: &mut OwnedWriteHalf, answer: &HubAnswer) -> io::Result<()> {
    writer.write_all(socket::line(answer)?.as_bytes()).await
}
