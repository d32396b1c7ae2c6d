//! What the monitor tells systemd about itself: sd_notify(3). Without a service manager it sends nothing.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sd_notify::NotifyState;

use crate::sys;

/// The socket of the service manager.
const SOCKET: &str = "NOTIFY_SOCKET";
/// Where systemd says that it passes a socket.
const PASSED: [&str; 2] = ["LISTEN_PID", "LISTEN_FDS"];
/// What systemd sets for its services and a child must not inherit: it would be taken for the monitor.
const VARIABLES: [&str; 6] =
    [SOCKET, "WATCHDOG_USEC", "WATCHDOG_PID", PASSED[0], PASSED[1], "LISTEN_FDNAMES"];
/// How long a message waits for room in a service manager that does not read.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// The service manager that started this process, if it asked for notifications.
#[derive(Debug)]
pub struct ServiceManager {
    address: Option<SocketAddr>,
    /// The time without [`ServiceManager::alive`] after which systemd kills the process.
    timeout: Option<Duration>,
    status: Mutex<ServiceStatus>,
    /// The socket of the fleet, if systemd listens on it while no monitor runs.
    listener: Option<UnixListener>,
}

/// What systemd shows.
#[derive(Debug, Default)]
struct ServiceStatus {
    /// What the monitor itself does.
    own: String,
    /// What its hub does, if the ledger is in a fleet.
    fleet: String,
    /// What was sent last.
    sent: String,
}

impl ServiceStatus {
    fn text(&self) -> String {
        let parts = [self.own.as_str(), &self.fleet];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ")
    }
}

impl ServiceManager {
    /// Reads the variables of the environment and removes them. Call it only while there is a single thread.
    pub fn from_environment() -> ServiceManager {
        let mut manager = ServiceManager::new(std::env::var_os(SOCKET), sd_notify::watchdog_enabled());
        let [pid, count] = PASSED.map(|name| std::env::var(name).ok());
        manager.listener = sys::socket::passed_listener(pid.as_deref(), count.as_deref());
        VARIABLES.into_iter().for_each(sys::forget_variable);
        manager
    }

    fn new(socket: Option<OsString>, timeout: Option<Duration>) -> ServiceManager {
        let address = socket.filter(|s| !s.is_empty()).and_then(|socket| match address(&socket) {
            Ok(address) => Some(address),
            Err(e) => {
                tracing::warn!("systemd will not know the state of the monitor: {SOCKET}={socket:?}: {e}");
                None
            }
        });
        let timeout = timeout.filter(|t| !t.is_zero());
        ServiceManager { address, timeout, status: Mutex::default(), listener: None }
    }

    /// The socket that systemd passed, if it is at this path.
    #[cfg_attr(not(feature = "fleet"), allow(dead_code, reason = "there is no hub"))]
    pub fn listener_at(&self, path: &Path) -> Option<UnixListener> {
        let listener = self.listener.as_ref()?;
        let is_there = listener.local_addr().is_ok_and(|address| address.as_pathname() == Some(path));
        listener.try_clone().ok().filter(|_| is_there)
    }

    /// Whether a program that this process executes inherits the socket that systemd passed.
    #[cfg(not(feature = "fleet"))]
    pub fn pass_listener_on(&self, is_inherited: bool) {
        if self.listener.is_some() {
            let _ = sys::socket::pass_on(is_inherited);
        }
    }

    /// The start is complete: units ordered after this one may start.
    pub fn ready(&self, status: &str) {
        self.show(&[NotifyState::Ready], |shown| shown.own = one_line(status));
    }

    /// Shows `text` in `systemctl status`. Sends it only if it has changed.
    pub fn status(&self, text: &str) {
        self.show(&[], |shown| shown.own = one_line(text));
    }

    /// Shows what the hub does behind the status of the monitor.
    #[cfg_attr(not(feature = "fleet"), allow(dead_code, reason = "there is no hub"))]
    pub fn fleet_status(&self, text: &str) {
        self.show(&[], |shown| shown.fleet = one_line(text));
    }

    fn show(&self, states: &[NotifyState<'_>], change: impl FnOnce(&mut ServiceStatus)) {
        let mut shown = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut shown);
        let text = shown.text();
        if !states.is_empty() || text != shown.sent {
            self.send(&[states, &[NotifyState::Status(&text)]].concat());
            shown.sent = text;
        }
    }

    /// The stop has begun.
    pub fn stopping(&self) {
        self.send(&[NotifyState::Stopping]);
    }

    /// The start takes at least this much longer from now on, whatever `TimeoutStartSec=` says.
    pub fn extend(&self, time: Duration) {
        self.send(&[NotifyState::ExtendTimeoutUsec(time.as_micros().try_into().unwrap_or(u32::MAX))]);
    }

    /// The interval at which [`ServiceManager::alive`] must be called. `None`: systemd does not expect it.
    pub fn watchdog(&self) -> Option<Duration> {
        self.address.as_ref().and(self.timeout).map(|timeout| timeout / 2)
    }

    /// The process works: the watchdog starts again.
    pub fn alive(&self) {
        self.send(&[NotifyState::Watchdog]);
    }

    /// The crate's own `notify` reads the variable at each call, so every child would inherit it.
    fn send(&self, states: &[NotifyState]) {
        let Some(address) = &self.address else { return };
        let message: String = states.iter().map(|state| format!("{state}\n")).collect();
        if let Err(e) = send(address, message.as_bytes()) {
            tracing::warn!("telling systemd the state of the monitor failed: {e}");
        }
    }
}

/// The socket's address: a path, or `@` and a name of the abstract namespace, as in sd_notify(3).
fn address(socket: &OsStr) -> io::Result<SocketAddr> {
    match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        [b'/', ..] => SocketAddr::from_pathname(socket),
        _ => Err(io::Error::new(io::ErrorKind::Unsupported, "is neither an absolute path nor @NAME")),
    }
}

fn send(address: &SocketAddr, message: &[u8]) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(SEND_TIMEOUT))?;
    socket.send_to_addr(message, address).map(drop)
}

/// A line break in a path would begin another assignment.
fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// What the socket has received.
    fn received(socket: &UnixDatagram) -> String {
        let mut message = [0; 4096];
        let length = socket.recv(&mut message).expect("a message");
        String::from_utf8_lossy(&message[..length]).into_owned()
    }

    fn bound(path: &Path) -> UnixDatagram {
        let socket = UnixDatagram::bind(path).expect("a socket");
        socket.set_nonblocking(true).expect("a socket");
        socket
    }

    #[test]
    fn systemd_receives_each_state_in_the_form_of_sd_notify() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("notify");
        let socket = bound(&path);
        let manager = ServiceManager::new(Some(path.into()), Some(Duration::from_secs(300)));
        manager.extend(Duration::from_secs(30));
        assert_eq!(received(&socket), "EXTEND_TIMEOUT_USEC=30000000\n");
        manager.extend(Duration::MAX);
        assert_eq!(received(&socket), "EXTEND_TIMEOUT_USEC=4294967295\n");
        manager.ready("watching 2 tasks");
        assert_eq!(received(&socket), "READY=1\nSTATUS=watching 2 tasks\n");
        manager.status("watching 2 tasks");
        manager.status("watching 1 task in /a\nREADY=1");
        assert_eq!(received(&socket), "STATUS=watching 1 task in /a READY=1\n", "the first was not new");
        assert_eq!(manager.watchdog(), Some(Duration::from_secs(150)));
        manager.alive();
        assert_eq!(received(&socket), "WATCHDOG=1\n");
        manager.stopping();
        assert_eq!(received(&socket), "STOPPING=1\n");
    }

    #[test]
    fn a_name_of_the_abstract_namespace_is_a_socket_too() {
        let name = format!("bookend-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("an address");
        let socket = UnixDatagram::bind_addr(&address).expect("a socket");
        ServiceManager::new(Some(format!("@{name}").into()), None).stopping();
        socket.set_nonblocking(true).expect("a socket");
        assert_eq!(received(&socket), "STOPPING=1\n");
    }

    #[test]
    fn without_a_service_manager_nothing_is_sent_and_no_watchdog_runs() {
        for socket in [None, Some(""), Some("relative")] {
            let timeout = Some(Duration::from_secs(10));
            let manager = ServiceManager::new(socket.map(OsString::from), timeout);
            manager.ready("");
            assert_eq!(manager.watchdog(), None, "{socket:?}");
        }
        let no_time = ServiceManager::new(Some("/nowhere".into()), Some(Duration::ZERO));
        assert_eq!(no_time.watchdog(), None, "a watchdog of 0 s is none");
        no_time.alive();
    }

    #[test]
    fn a_service_manager_that_does_not_read_delays_the_monitor_by_a_second_at_most() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("notify");
        let _unread = bound(&path);
        let address = SocketAddr::from_pathname(&path).expect("an address");
        let refused = (0..100_000).find_map(|_| send(&address, b"WATCHDOG=1\n").err()).expect("a full queue");
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
    }
}
