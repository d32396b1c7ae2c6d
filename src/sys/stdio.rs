//! Descriptors that were inherited: the three standard ones, all others, and the controlling terminal.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

/// Occupies each of the descriptors 0, 1 and 2 that is closed, so that no file of ours gets its number. What
/// occupies it can be neither read nor written, and the agent does not inherit it.
pub fn occupy_closed_stdio() {
    // open(2) returns the lowest free number: the first one above 2 shows that the three are open.
    while let Ok(occupant) = open("/", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
        && occupant.as_raw_fd() <= 2
    {
        let _ = occupant.into_raw_fd();
    }
}

/// Closes a descriptor that this process has inherited and does not need.
pub fn close_inherited(fd: RawFd) {
    // It was open before bookend opened anything, so no owned descriptor of ours has this number.
    let _ = nix::unistd::close(fd);
}

/// The descriptors 0, 1 and 2 stay open for the life of the process, so they can be borrowed.
pub fn stdio(fd: RawFd) -> BorrowedFd<'static> {
    assert!((0..=2).contains(&fd));
    // SAFETY: 0 to 2 are open (`occupy_closed_stdio`) and are replaced but never closed.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// Makes descriptor `onto` (0 to 2) a close-on-exec copy of `fd`. dup3(2); nix's dup2_stdin and the like set
/// no flag.
pub fn replace_stdio(fd: BorrowedFd<'_>, onto: RawFd) -> io::Result<()> {
    assert!((0..=2).contains(&onto));
    // SAFETY: dup3 on numbers touches no memory; nothing owns `onto` (see `stdio`).
    Errno::result(unsafe { libc::dup3(fd.as_raw_fd(), onto, libc::O_CLOEXEC) })?;
    Ok(())
}

/// Marks every descriptor above 2 close-on-exec. close_range(2), since Linux 5.11 with this flag.
pub fn keep_only_stdio() -> io::Result<()> {
    // SAFETY: the call changes flags of descriptors only, and touches no memory.
    Errno::result(unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) })?;
    Ok(())
}

/// Gives up the controlling terminal, unless this process leads its session: then the kernel hangs it up when
/// the process exits. A process of another user that has the terminal open, or traces one that does, could
/// type into it (TIOCSTI of ioctl_tty(2)), and the shell would execute that as its own user.
pub fn give_up_terminal() {
    let Ok(terminal) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/tty") else { return };
    if nix::unistd::getsid(None) != Ok(nix::unistd::getpid()) {
        // SAFETY: the call takes no argument and touches no memory.
        unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCNOTTY) };
    }
}
