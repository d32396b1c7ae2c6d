//! A `bookend monitor`, and what it reports to its service manager.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::cmd::without_sanitizer_warning;
use super::fleet::command;
use super::wait::{Deadline, eventually, ready};
use super::{End, Output, World};

/// The socket on which a service reports to its manager. A thread reads it as systemd does, so that it never
/// fills up.
pub struct Notifications {
    path: PathBuf,
    messages: Receiver<String>,
    deadline: Deadline,
}

impl Notifications {
    pub fn at(world: &World) -> Notifications {
        let path = unused(world, "notify");
        let socket = UnixDatagram::bind(&path).expect("a notification socket");
        let (sender, messages) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = socket.recv(&mut buffer) {
                let _ = sender.send(String::from_utf8_lossy(&buffer[..n]).into_owned());
            }
        });
        Notifications { path, messages, deadline: world.deadline() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for a message that contains `words`, and returns it.
    pub fn until(&self, words: &str) -> String {
        loop {
            let message = self.messages.recv_timeout(self.deadline.left());
            let message =
                message.unwrap_or_else(|_| panic!("timed out waiting for {words} from the monitor"));
            if message.contains(words) {
                return message;
            }
        }
    }
}

impl Drop for Notifications {
    fn drop(&mut self) {
        // Ends the thread that reads.
        let _ = UnixDatagram::unbound().and_then(|socket| socket.send_to(b"", &self.path));
    }
}

/// A `bookend monitor` with its notification socket. Dropping it kills it.
pub struct Monitor {
    process: Child,
    handle: OwnedFd,
    pub service: Notifications,
    output: PathBuf,
    errors: PathBuf,
    deadline: Deadline,
}

impl Monitor {
    /// Starts it, by the command `prefix` if there is one, without waiting until it is ready.
    pub fn spawn(world: &World, prefix: &[&str], environment: &[(&str, &str)], options: &[&str]) -> Monitor {
        let service = Notifications::at(world);
        let [output, errors] = ["monitor.out", "monitor.err"].map(|kind| unused(world, kind));
        let mut command = command(world, prefix);
        command
            .arg("monitor")
            .args(options)
            .env("NOTIFY_SOCKET", service.path())
            .envs(environment.iter().copied())
            .stdout(File::create(&output).expect("a file for its output"))
            .stderr(File::create(&errors).expect("a file for its messages"));
        let process = command.spawn().expect("a monitor");
        let handle =
            pidfd_open(Pid::from_child(&process), PidfdFlags::empty()).expect("a pidfd of our child");
        Monitor { process, handle, service, output, errors, deadline: world.deadline() }
    }

    /// Starts it and waits until it has settled what it found and watches the rest.
    #[track_caller]
    pub fn start(world: &World, options: &[&str]) -> Monitor {
        Monitor::start_with(world, &[], &[], options)
    }

    /// As [`Monitor::start`], with what [`Monitor::spawn`] takes.
    #[track_caller]
    pub fn start_with(
        world: &World,
        prefix: &[&str],
        environment: &[(&str, &str)],
        options: &[&str],
    ) -> Monitor {
        let monitor = Monitor::spawn(world, prefix, environment, options);
        assert!(monitor.is_ready(Deadline::new()), "the monitor ended at its start: {}", monitor.errors());
        monitor
    }

    /// Waits until it says that it is ready. `false`: it has exited.
    pub fn is_ready(&self, deadline: Deadline) -> bool {
        while !deadline.passed() {
            match self.service.messages.recv_timeout(Duration::from_millis(5)) {
                Ok(message) if message.lines().any(|line| line == "READY=1") => return true,
                Ok(_) => {}
                Err(_) if self.has_exited() => return false,
                Err(_) => {}
            }
        }
        panic!("timed out waiting for the monitor to be ready: {}", self.errors());
    }

    pub fn has_exited(&self) -> bool {
        ready(&[&self.handle], Duration::ZERO)[0]
    }

    pub fn pid(&self) -> i32 {
        self.process.id() as i32
    }

    pub fn signal(&self, signal: Signal) {
        pidfd_send_signal(&self.handle, signal).expect("a signal to our child");
    }

    /// What it has printed so far.
    pub fn output(&self) -> String {
        fs::read_to_string(&self.output).expect("its output")
    }

    /// Waits until it has printed `words`.
    pub fn until_printed(&self, words: &str) {
        eventually(self.deadline, &format!("{words:?} from the monitor"), || self.output().contains(words));
    }

    /// What it has printed on stderr so far.
    pub fn errors(&self) -> String {
        without_sanitizer_warning(&fs::read(&self.errors).expect("its messages"))
    }

    /// Waits until it has exited, and returns how it ended and what it printed.
    pub fn wait(mut self) -> Output {
        // The deadline of a test may have passed when it stops its monitor.
        Deadline::new().readable("the end of the monitor", &[&self.handle]);
        let end = self.process.wait().expect("its status").into();
        let stdout = self.output();
        Output { end, bytes: stdout.clone().into_bytes(), stdout, stderr: self.errors() }
    }

    /// Sends SIGTERM, and waits until it has exited.
    pub fn end(self) -> Output {
        // It may have exited before.
        let _ = pidfd_send_signal(&self.handle, Signal::TERM);
        self.wait()
    }

    /// Sends SIGTERM, and expects that it ends by that signal.
    #[track_caller]
    pub fn stop(self) -> Output {
        self.end().ended(End::Signal(15))
    }

    /// Kills it.
    pub fn kill(self) -> Output {
        self.signal(Signal::KILL);
        self.wait()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A path that does not exist yet: a world may have several monitors, one after another or beside each other.
fn unused(world: &World, kind: &str) -> PathBuf {
    (0..).map(|n| world.path(&format!("{kind}.{n}"))).find(|path| !path.exists()).expect("a name")
}
