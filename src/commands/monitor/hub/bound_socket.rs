//! The socket of the hub: bound before the monitor is ready, and kept while its hub starts again.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener as BoundListener;
use std::path::{Path, PathBuf};

use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};

use crate::fleet::socket::{SOCKET_NAME, SocketPlace};

/// How many runs may connect before the first is accepted.
const BACKLOG: i32 = 4096;

/// A socket on which runs connect, whether or not they are served already. Dropped, it is closed.
pub(super) struct BoundSocket {
    listener: BoundListener,
    /// The file to remove and its inode, unless systemd owns it.
    bound: Option<(PathBuf, u64)>,
}

impl BoundSocket {
    /// The socket that systemd passed, or a new one in the private directory of the ledger. Call it only
    /// while this process is the monitor of the ledger: it replaces the socket of one that was killed.
    ///
    /// # Errors
    /// When the socket cannot be created.
    pub(super) fn bind(private_dir: &Path, passed: Option<BoundListener>) -> io::Result<BoundSocket> {
        if let Some(listener) = passed {
            return Ok(BoundSocket { listener, bound: None });
        }
        let place = SocketPlace::below(private_dir)?;
        match std::fs::remove_file(place.path()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        bind(fd.as_raw_fd(), &UnixAddr::new(place.path())?)?;
        std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o600))?;
        listen(&fd, Backlog::new(BACKLOG)?)?;
        let inode = std::fs::symlink_metadata(place.path())?.ino();
        let bound = Some((private_dir.join(SOCKET_NAME), inode));
        Ok(BoundSocket { listener: BoundListener::from(fd), bound })
    }

    /// The socket, to accept runs from it.
    ///
    /// # Errors
    /// When the process has too many descriptors.
    pub(super) fn listener(&self) -> io::Result<BoundListener> {
        let listener = self.listener.try_clone()?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    }
}

impl Drop for BoundSocket {
    fn drop(&mut self) {
        let Some((path, inode)) = &self.bound else { return };
        // The socket of a hub that has started meanwhile stays.
        if std::fs::symlink_metadata(path).is_ok_and(|now| now.ino() == *inode) {
            // The next monitor replaces it otherwise.
            let _ = std::fs::remove_file(path);
        }
    }
}
