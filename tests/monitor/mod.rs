//! The monitor settles each lost task as soon as its supervisor dies, and nothing depends on it.

mod asleep;
mod deaths;
#[cfg(feature = "failpoints")]
mod ends;
mod files;
mod hooks;
mod scale;
mod service;
mod unseen;

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use crate::harness::{Deadline, End, Output, Proc, World, eventually};

/// The socket on which a service reports to its manager.
pub struct Notifications {
    path: PathBuf,
    socket: UnixDatagram,
    deadline: Deadline,
}

impl Notifications {
    pub fn at(world: &World) -> Notifications {
        let path = world.path("tmp/notify");
        let _ = fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).expect("a socket");
        Notifications { path, socket, deadline: world.deadline() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for a message that contains `words`, and returns it.
    pub fn until(&self, words: &str) -> String {
        loop {
            self.deadline.readable(&format!("{words} from the monitor"), &[&self.socket]);
            let mut message = [0; 4096];
            let length = self.socket.recv(&mut message).expect("a message");
            let message = String::from_utf8_lossy(&message[..length]).into_owned();
            if message.contains(words) {
                return message;
            }
        }
    }
}

/// A running monitor, and what it reports to its service manager.
pub struct MonitorService {
    pub process: Proc,
    pub service: Notifications,
}

impl MonitorService {
    /// Starts `bookend monitor` with these options, and waits until it is ready.
    pub fn start(world: &World, options: &[&str]) -> MonitorService {
        let monitor = MonitorService::begin(world, &["bookend"], options);
        monitor.service.until("READY=1");
        monitor
    }

    /// Starts `… monitor` with these options, and waits for nothing.
    pub fn begin(world: &World, program: &[&str], options: &[&str]) -> MonitorService {
        let service = Notifications::at(world);
        let words = program.iter().chain(&["monitor"]).chain(options).copied();
        let process = world.bare(words).env("NOTIFY_SOCKET", service.path()).start();
        MonitorService { process, service }
    }

    /// Stops the monitor as systemd does.
    pub fn stop(self) -> Output {
        self.process.signal(Signal::TERM);
        self.process.wait().ended(End::Signal(15))
    }

    /// Kills the monitor.
    pub fn kill(self) -> Output {
        self.process.signal(Signal::KILL);
        self.process.wait()
    }
}

/// Waits until the task `id` has this status and reason.
pub fn until_ended(world: &World, id: &str, ending: &str) {
    let query = format!("SELECT status, reason FROM task_history WHERE id = '{id}'");
    let is_so = || world.sql(&query).first().is_some_and(|row| row.ending() == ending);
    eventually(world.deadline(), &format!("{id} as {ending}"), is_so);
}

/// Waits until the task `id` was reported.
pub fn until_reported(world: &World, id: &str) {
    let query = format!("SELECT 1 FROM task_history WHERE id = '{id}' AND hinted_at IS NOT NULL");
    eventually(world.deadline(), &format!("a report of {id}"), || !world.sql(&query).is_empty());
}

/// The number of lines that contain `part`.
pub fn count(text: &str, part: &str) -> usize {
    text.lines().filter(|line| line.contains(part)).count()
}
