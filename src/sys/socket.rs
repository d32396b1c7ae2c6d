//! Sockets that others have opened: one that another crate does not expose, and one that systemd passes.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixListener;

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl, open};
use nix::sys::socket::{getsockopt, sockopt};
use nix::sys::stat::{Mode, SFlag, fstat};

/// The first descriptor that systemd passes: sd_listen_fds(3).
const FIRST_PASSED: RawFd = 3;

/// The descriptor that the next call to open one gets: the lowest that is free. open(2).
pub fn lowest_free_descriptor() -> io::Result<RawFd> {
    let probe = open("/", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    Ok(probe.as_raw_fd())
}

/// Sets `O_NONBLOCK` on the socket behind descriptor `number`.
///
/// # Errors
/// Where `number` is not a socket, or one that a child would inherit.
pub fn set_nonblocking(number: RawFd) -> io::Result<()> {
    // SAFETY: the number is used for the calls below only, which touch flags and no memory of ours. One that
    // is not open is refused by the first.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    let kind = SFlag::from_bits_truncate(fstat(fd)?.st_mode & SFlag::S_IFMT.bits());
    let closes_on_exec = FdFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFD)?).contains(FdFlag::FD_CLOEXEC);
    if kind != SFlag::S_IFSOCK || !closes_on_exec {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// The socket with which systemd has started this process, by the variables LISTEN_PID and LISTEN_FDS:
/// sd_listen_fds(3). `None`: it has passed none that listens for processes of this machine. Call it before
/// this process opens a descriptor itself.
pub fn passed_listener(pid: Option<&str>, count: Option<&str>) -> Option<UnixListener> {
    let is_for_us = pid?.parse() == Ok(std::process::id()) && count?.parse::<u32>().is_ok_and(|n| n > 0);
    if !is_for_us {
        return None;
    }
    // SAFETY: the number is used for the calls below only, which touch flags and no memory of ours. One that
    // is not open is refused by the first.
    let fd = unsafe { BorrowedFd::borrow_raw(FIRST_PASSED) };
    if !getsockopt(&fd, sockopt::AcceptConn).ok()? {
        return None;
    }
    // Hooks do not inherit it.
    pass_on(false).ok()?;
    let listener = UnixListener::from(fd.try_clone_to_owned().ok()?);
    listener.local_addr().is_ok().then_some(listener)
}

/// Whether a program that this process executes inherits the first descriptor that systemd passed. Call it
/// only if [`passed_listener`] found it.
pub fn pass_on(is_inherited: bool) -> io::Result<()> {
    // SAFETY: the number is used for the call below only, which touches a flag and no memory of ours.
    let fd = unsafe { BorrowedFd::borrow_raw(FIRST_PASSED) };
    let flags = if is_inherited { FdFlag::empty() } else { FdFlag::FD_CLOEXEC };
    fcntl(fd, FcntlArg::F_SETFD(flags))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn refuses_what_is_not_a_socket() {
        let file = tempfile::tempfile().expect("a file");
        let refused = set_nonblocking(file.as_raw_fd()).expect_err("a file is not a socket");
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
        assert!(set_nonblocking(i32::MAX).is_err());
    }

    #[test]
    fn a_full_socket_refuses_instead_of_blocking() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("socket");
        let _reader = UnixDatagram::bind(&path).expect("a socket");
        let socket = UnixDatagram::unbound().expect("a socket");
        set_nonblocking(socket.as_raw_fd()).expect("it is a socket");
        let refused =
            (0..100_000).find_map(|_| socket.send_to(b"x", &path).err()).expect("the queue is full");
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
    }
}
