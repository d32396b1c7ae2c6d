//! Tells when a task ends: the slot of a running task is removed or renamed once its end is recorded.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::super::handle::Ledger;

/// An inotify(7) watch of the spool directory. It sees only what this machine changes there.
#[derive(Debug)]
pub struct SpoolWatch(Inotify);

impl SpoolWatch {
    fn of(dir: &Path) -> nix::Result<SpoolWatch> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let ends = AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM | AddWatchFlags::IN_MOVE_SELF;
        inotify.add_watch(dir, ends | AddWatchFlags::IN_ONLYDIR)?;
        Ok(SpoolWatch(inotify))
    }

    /// Reads the events that have arrived. `false`: the directory was moved or removed, and none will follow.
    pub fn read(&self) -> bool {
        let gone = AddWatchFlags::IN_MOVE_SELF | AddWatchFlags::IN_IGNORED;
        loop {
            match self.0.read_events() {
                Ok(events) if events.iter().any(|event| event.mask.intersects(gone)) => return false,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(e) => return e == Errno::EAGAIN,
            }
        }
    }
}

impl AsFd for SpoolWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Ledger {
    /// Watches the ends of tasks from now on. `None`: there is no spool, this process may not read it, or the
    /// kernel has no room for another watch.
    pub fn watch_ends(&self) -> Option<SpoolWatch> {
        SpoolWatch::of(&self.spool_dir).ok()
    }
}
