//! The server of the hub's socket: it reads the request of each run, and reports when its connection ends.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

use super::bound_socket::BoundSocket;
use crate::fleet::socket::{self, HubAnswer, KeyRequest, RunMessage};

/// The pause after the kernel has refused a connection, for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

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
    /// Accepts runs that may ask for keys of the ledger with this private directory. Call it in a runtime.
    ///
    /// # Errors
    /// When the socket cannot be watched, or the directory is gone.
    pub(super) fn start(
        private_dir: &Path,
        socket: &BoundSocket,
        events: UnboundedSender<RunEvent>,
    ) -> io::Result<SocketServer> {
        let owner = std::fs::metadata(private_dir)?.uid();
        let listener = UnixListener::from_std(socket.listener()?)?;
        Ok(SocketServer(tokio::spawn(accept(listener, owner, events))))
    }
}

impl Drop for SocketServer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn accept(listener: UnixListener, owner: u32, events: UnboundedSender<RunEvent>) {
    let mut number = 0;
    // Dropped with this task: the connections end with the socket.
    let mut runs = tokio::task::JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                number += 1;
                runs.spawn(serve(stream, number, owner, events.clone()));
                while runs.try_join_next().is_some() {}
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Serves one run from its request to the end of its connection.
async fn serve(stream: UnixStream, number: RunNumber, owner: u32, events: UnboundedSender<RunEvent>) {
    let refusal = match stream.peer_cred() {
        Ok(peer) if peer.uid() == owner || peer.uid() == 0 => None,
        Ok(_) => Some("the ledger belongs to another user".to_owned()),
        Err(e) => Some(format!("its process cannot be identified: {e}")),
    };
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader).take(socket::LONGEST_LINE as u64);
    let request = match refusal {
        None => read(&mut reader).await,
        Some(why) => Err(Some(why)),
    };
    let request = match request {
        Ok(request) => request,
        Err(Some(why)) => return drop(write(&mut writer, &HubAnswer::Refused { why, hint: None }).await),
        Err(None) => return,
    };
    let (answers, answered) = unbounded_channel();
    if events.send(RunEvent::Asked(number, request, answers)).is_err() {
        return;
    }
    let mut rest = [0; 64];
    tokio::select! {
        // The run sends nothing else: what it sends is read and ignored.
        () = async { while matches!(reader.get_mut().read(&mut rest).await, Ok(1..)) {} } => {}
        () = write_all(writer, answered) => {}
    }
    // The receiver is gone while the hub stops.
    let _ = events.send(RunEvent::Ended(number));
}

/// The request. `None`: the run has ended before it was complete.
async fn read(reader: &mut (impl AsyncBufReadExt + Unpin)) -> Result<KeyRequest, Option<String>> {
    let mut line = String::new();
    match reader.read_line(&mut line).await {
        Ok(_) if line.ends_with('\n') => match serde_json::from_str(&line) {
            Ok(RunMessage::Take(request)) => Ok(request),
            Err(e) => Err(Some(format!("the monitor does not understand the request ({e}): is it older?"))),
        },
        _ => Err(None),
    }
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
