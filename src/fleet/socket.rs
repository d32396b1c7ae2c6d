//! The socket at which a run asks the monitor of its ledger for a key of the fleet, and a command for its
//! state: one request per connection, a JSON value per line.
//!
//! The connection stands for the run: the key is kept for it until the connection ends.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
#[cfg(feature = "fleet")]
use std::time::{Duration, Instant};

use nix::errno::Errno;
#[cfg(feature = "fleet")]
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, socket};
use serde::{Deserialize, Serialize};

use crate::task::{Key, TaskId, Time};

/// The name of the socket in the private directory of the ledger.
pub const SOCKET_NAME: &str = "fleet.sock";
/// The longest path that fits into an address, where a NUL byte follows it: unix(7).
const LONGEST_PATH: usize = 107;
/// How long a command waits for the state of the monitor.
#[cfg(feature = "fleet")]
const STATUS_PATIENCE: Duration = Duration::from_secs(3);
/// The longest line that is read.
pub const LONGEST_LINE: usize = 1 << 20;

/// What a run sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunMessage {
    Take {
        /// The setting by which the ledger is in the fleet: a monitor that serves it in another one does not
        /// answer.
        fleet: String,
        request: KeyRequest,
    },
    /// A command asks whether the monitor can use the database.
    Status,
}

/// A run that needs a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRequest {
    pub key: Key,
    /// The id that the task will have.
    pub task: TaskId,
    /// The byte of the run's live lock.
    pub slot: i64,
    pub if_held: WhenHeld,
}

/// What a run wants if a task on another host holds the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenHeld {
    Refuse,
    Wait,
    /// The task is cancelled, and the run waits for its end.
    Replace,
}

/// What the monitor answers. `Granted`, `NotCancelled` and `Refused` are final; after the others it answers
/// again when that has changed, to a run that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HubAnswer {
    /// The key is this ledger's: what holds between its own runs decides now.
    Granted {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stale_session: Option<StaleSession>,
    },
    Held(KeyHolder),
    /// The task that a run replaces cannot be cancelled.
    NotCancelled {
        holder: KeyHolder,
        why: String,
    },
    /// Other runs of this host wait for the key, and have asked before.
    InLine,
    /// The database is not reachable, or this ledger is not registered in it yet.
    Away {
        why: String,
    },
    Refused {
        why: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hint: Option<String>,
    },
    /// To [`RunMessage::Status`].
    Status(HubStatus),
}

/// Whether a monitor can use the database of the fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum HubStatus {
    /// It has not registered the ledger yet.
    Connecting,
    Connected,
    Away {
        since: Time,
        why: String,
        /// What the user can do.
        hint: Option<String>,
    },
    /// The monitor did not say.
    Silent {
        why: String,
    },
}

/// Why the session that this ledger links to the key is not to be resumed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StaleSession {
    /// The session of the key was used last on this other host.
    Elsewhere { host: String },
    /// The task that used it was declared lost.
    Lost,
}

/// The task of another ledger that holds a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyHolder {
    pub task: TaskId,
    pub host: String,
    pub since: Time,
    /// Since when its host is unreachable; `None`: it is reachable.
    #[serde(default)]
    pub unreachable_since: Option<Time>,
}

/// Where the socket is, as a path that fits into an address.
#[derive(Debug)]
pub struct SocketPlace {
    path: PathBuf,
    /// Keeps a path of `/proc/self/fd` valid.
    _directory: Option<File>,
}

impl SocketPlace {
    /// The socket of the ledger with this private directory.
    ///
    /// # Errors
    /// When the directory of a long path cannot be opened.
    pub fn below(private_dir: &Path) -> io::Result<SocketPlace> {
        let path = private_dir.join(SOCKET_NAME);
        if path.as_os_str().as_bytes().len() <= LONGEST_PATH {
            return Ok(SocketPlace { path, _directory: None });
        }
        let directory = File::open(private_dir)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET_NAME}", directory.as_raw_fd()));
        Ok(SocketPlace { path, _directory: Some(directory) })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Whether a monitor listens on the socket of the ledger with this private directory.
#[cfg(feature = "fleet")]
pub fn is_bound(private_dir: &Path) -> bool {
    SocketPlace::below(private_dir).is_ok_and(|place| UnixStream::connect(place.path()).is_ok())
}

/// Asks the monitor that listens on the socket of the ledger with this private directory.
#[cfg(feature = "fleet")]
pub fn status(private_dir: &Path) -> HubStatus {
    asked(private_dir).unwrap_or_else(|e| HubStatus::Silent { why: e.to_string() })
}

#[cfg(feature = "fleet")]
fn asked(private_dir: &Path) -> io::Result<HubStatus> {
    let until = Instant::now() + STATUS_PATIENCE;
    let mut hub = HubConnection::open(private_dir, &RunMessage::Status)?;
    loop {
        match hub.answer() {
            Ok(HubAnswer::Status(status)) => return Ok(status),
            Ok(HubAnswer::Refused { why, .. }) => return Err(io::Error::other(why)),
            Ok(_) => return Err(ErrorKind::InvalidData.into()),
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::other(format!("no answer within {STATUS_PATIENCE:?}")));
        }
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        poll(&mut [PollFd::new(hub.as_fd(), PollFlags::POLLIN)], left)?;
    }
}

/// The connection of a run. It is shut down when this is dropped, also for a child that has inherited it.
#[derive(Debug)]
pub struct HubConnection {
    stream: UnixStream,
    received: Vec<u8>,
}

impl HubConnection {
    /// Connects without waiting, and sends `message`.
    ///
    /// # Errors
    /// `NotFound` and `ConnectionRefused`: no monitor listens. `WouldBlock`: too many runs are connecting.
    pub fn open(private_dir: &Path, message: &RunMessage) -> io::Result<HubConnection> {
        let place = SocketPlace::below(private_dir)?;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        connect(fd.as_raw_fd(), &UnixAddr::new(place.path())?)?;
        let mut connection = HubConnection { stream: UnixStream::from(fd), received: Vec::new() };
        connection.stream.write_all(line(message)?.as_bytes())?;
        Ok(connection)
    }

    /// The next answer that has arrived completely.
    ///
    /// # Errors
    /// `WouldBlock`: there is none yet. `UnexpectedEof` and others: the connection has ended.
    pub fn answer(&mut self) -> io::Result<HubAnswer> {
        loop {
            if let Some(end) = self.received.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                return serde_json::from_slice(&line).map_err(io::Error::from);
            }
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(_) if self.received.len() > LONGEST_LINE => return Err(ErrorKind::InvalidData.into()),
                Ok(length) => self.received.extend_from_slice(&buffer[..length]),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Whether the monitor still has it open.
    pub fn is_open(&self) -> bool {
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        match recv(self.stream.as_raw_fd(), &mut [0], flags) {
            Ok(length) => length > 0,
            Err(e) => matches!(e, Errno::EAGAIN | Errno::EINTR),
        }
    }
}

impl AsFd for HubConnection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Drop for HubConnection {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}

/// A message as it is sent.
///
/// # Errors
/// None: a message holds text and numbers only.
pub fn line(message: &impl Serialize) -> io::Result<String> {
    Ok(serde_json::to_string(message)? + "\n")
}

#[cfg(test)]
mod tests {
    use std::io::BufRead;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn take() -> RunMessage {
        let request =
            KeyRequest { key: "k\n\"x".into(), task: "t1".into(), slot: 7, if_held: WhenHeld::Wait };
        RunMessage::Take { fleet: "f".to_owned(), request }
    }

    fn holder(unreachable_since: Option<Time>) -> HubAnswer {
        let since = Time::UNIX_EPOCH;
        HubAnswer::Held(KeyHolder { task: "t2".into(), host: "b".into(), since, unreachable_since })
    }

    #[test]
    fn a_message_is_one_line_that_reads_as_itself() {
        let sent = line(&take()).expect("JSON");
        assert_eq!(
            sent,
            "{\"take\":{\"fleet\":\"f\",\"request\":{\"key\":\"k\\n\\\"x\",\"task\":\"t1\",\"slot\":7,\
             \"if_held\":\"wait\"}}}\n"
        );
        assert_eq!(serde_json::from_str::<RunMessage>(&sent).expect("a message"), take());
        let answers = [
            HubAnswer::Granted { stale_session: None },
            HubAnswer::Granted { stale_session: Some(StaleSession::Elsewhere { host: "b".to_owned() }) },
            HubAnswer::Granted { stale_session: Some(StaleSession::Lost) },
            holder(None),
            holder(Some(Time::UNIX_EPOCH)),
            HubAnswer::Away { why: "x".to_owned() },
            HubAnswer::Refused { why: "x".to_owned(), hint: None },
            HubAnswer::Status(HubStatus::Connected),
            HubAnswer::Status(HubStatus::Away { since: Time::UNIX_EPOCH, why: "x".to_owned(), hint: None }),
        ];
        for answer in answers {
            let sent = line(&answer).expect("JSON");
            assert_eq!(sent.find('\n'), Some(sent.len() - 1), "{sent}");
            assert_eq!(serde_json::from_str::<HubAnswer>(&sent).expect("an answer"), answer);
        }
    }

    #[test]
    fn answers_are_read_as_they_arrive_and_the_end_is_noticed() {
        let dir = tempfile::tempdir().expect("a directory");
        let listener = UnixListener::bind(dir.path().join(SOCKET_NAME)).expect("a socket");
        let mut connection = HubConnection::open(dir.path(), &take()).expect("a connection");
        let (mut hub, _) = listener.accept().expect("the run");
        let mut sent = String::new();
        io::BufReader::new(&hub).read_line(&mut sent).expect("a line");
        assert_eq!(sent, line(&take()).expect("JSON"));

        let kind = |e: io::Error| e.kind();
        assert_eq!(connection.answer().map_err(kind), Err(ErrorKind::WouldBlock));
        let granted = line(&HubAnswer::Granted { stale_session: None }).expect("JSON");
        let (first, rest) = granted.split_at(4);
        hub.write_all(first.as_bytes()).expect("a write");
        assert_eq!(connection.answer().map_err(kind), Err(ErrorKind::WouldBlock));
        let both = rest.to_owned() + &line(&holder(None)).expect("JSON");
        hub.write_all(both.as_bytes()).expect("a write");
        assert_eq!(connection.answer().expect("an answer"), HubAnswer::Granted { stale_session: None });
        assert_eq!(connection.answer().expect("an answer"), holder(None));
        assert!(connection.is_open());
        drop(hub);
        assert!(!connection.is_open());
        assert_eq!(connection.answer().map_err(kind), Err(ErrorKind::UnexpectedEof));
    }

    #[test]
    fn dropping_a_connection_ends_it_although_a_copy_of_its_descriptor_is_open() {
        let dir = tempfile::tempdir().expect("a directory");
        let listener = UnixListener::bind(dir.path().join(SOCKET_NAME)).expect("a socket");
        let connection = HubConnection::open(dir.path(), &take()).expect("a connection");
        let (hub, _) = listener.accept().expect("the run");
        let _copy = connection.stream.try_clone().expect("a copy");
        drop(connection);
        let mut rest = Vec::new();
        (&hub).read_to_end(&mut rest).expect("the end");
        assert_eq!(rest, line(&take()).expect("JSON").as_bytes());
    }

    #[test]
    fn a_socket_with_a_long_path_is_reached_too() {
        let dir = tempfile::tempdir().expect("a directory");
        let long = dir.path().join("d".repeat(120));
        std::fs::create_dir(&long).expect("a directory");
        let place = SocketPlace::below(&long).expect("a place");
        let _listener = UnixListener::bind(place.path()).expect("a socket");
        assert!(long.join(SOCKET_NAME).exists());
        HubConnection::open(&long, &take()).expect("a connection");
        let none = HubConnection::open(dir.path(), &take()).expect_err("no socket");
        assert_eq!(none.kind(), ErrorKind::NotFound);
    }
}
