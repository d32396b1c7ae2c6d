//! Waiting for a transcript to grow, for its task to end, or for the reader of stdout to exit.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::error::{Error, Kind};
use crate::process::procfs::identity::{self, ProcessHandle};
use crate::sys;
use crate::task::Task;

/// How often everything is looked at again, at the latest: a folder that is created later is not watched yet,
/// and a task of another machine has no process here.
const AT_LATEST: Duration = Duration::from_secs(1);

pub(super) struct Waker {
    /// `None`: the user has too many instances of inotify.
    folder: Option<Inotify>,
    watched: Option<PathBuf>,
    /// The supervisor, until it has exited.
    supervisor: Option<ProcessHandle>,
}

impl Waker {
    pub(super) fn new(task: &Task) -> Waker {
        Waker {
            folder: Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok(),
            watched: None,
            supervisor: task.supervisor().and_then(|s| identity::open_recorded(s).ok().flatten()),
        }
    }

    /// Watches the folder of a transcript, which may have another one later, or none yet.
    pub(super) fn watch(&mut self, transcript: &Path) {
        let (Some(inotify), Some(folder)) = (&self.folder, transcript.parent()) else { return };
        if self.watched.as_deref() == Some(folder) {
            return;
        }
        let changes = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
        self.watched = inotify.add_watch(folder, changes).ok().map(|_| folder.to_owned());
    }

    /// Returns when something may have changed.
    ///
    /// # Errors
    /// When the process reading stdout has exited, or poll(2) fails.
    pub(super) fn wait(&mut self) -> Result<(), Error> {
        let stdout = sys::stdio(1);
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let handles: Vec<BorrowedFd<'_>> =
            self.supervisor.iter().map(AsFd::as_fd).chain(self.folder.iter().map(AsFd::as_fd)).collect();
        let mut polled: Vec<PollFd<'_>> = vec![PollFd::new(stdout, PollFlags::empty())];
        polled.extend(handles.into_iter().map(readable));
        let timeout = PollTimeout::try_from(AT_LATEST).unwrap_or(PollTimeout::MAX);
        match poll(&mut polled, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(Error::failed("waiting for the transcript").caused_by(io::Error::from(e))),
        }
        let is_ready = |fd: &PollFd<'_>| fd.any() == Some(true);
        if is_ready(&polled[0]) {
            return Err(Error::new(Kind::ReaderGone, "the process reading stdout has exited"));
        }
        if self.supervisor.is_some() && is_ready(&polled[1]) {
            self.supervisor = None;
        }
        // Its content does not matter: everything is looked at again.
        let _ = self.folder.as_ref().map(Inotify::read_events);
        Ok(())
    }
}
