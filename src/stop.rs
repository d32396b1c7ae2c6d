//! Stopping a run: the signals that ask a supervisor to stop, read and sent.

use std::io;
use std::os::fd::AsFd;

use crate::error::Error;
use crate::ledger::Ledger;
use crate::process::forward::CANCEL;
use crate::process::procfs::identity::{self, ProcessHandle};
use crate::recovery;
use crate::recovery::trust;
use crate::sys::{self, ReceivedSignal};
use crate::task::{Signal, StopRequest, Task};

/// Asks a task's supervisor to cancel it. `None`: the recorded process has exited.
///
/// # Errors
/// EPERM: it is another user's process. The signal is also refused if other users may write to the ledger and
/// only the row says that the process supervises the task.
pub fn ask_to_end(ledger: &Ledger, task: &Task) -> io::Result<Option<ProcessHandle>> {
    let Some(supervisor) = recovery::comparable_supervisor(task) else { return Ok(None) };
    let Some(handle) = identity::open_recorded(supervisor)? else { return Ok(None) };
    // The handle is open: the pid cannot be reused meanwhile.
    let refused = |why: String| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    // The kernel lets root signal every process, so bookend checks the user itself.
    let me = nix::unistd::geteuid();
    if let Some(user) = handle.user().filter(|user| me.is_root() && *user != me.as_raw()) {
        return refused(format!("it is a process of {}, and was not signalled", sys::user_name(user)));
    }
    if let Some(distrust) = ledger.distrust()
        && !trust::supervises(ledger, supervisor.identity.pid, &task.id)?
    {
        return refused(format!(
            "it was not signalled: only the row says that it supervises the task, and {}; {}",
            distrust.why,
            trust::remedy(&distrust)
        ));
    }
    sys::send_signal(handle.as_fd(), Signal::TERM, Some(CANCEL))?;
    // A supervisor that was stopped acts on it only once it is continued.
    sys::send_signal(handle.as_fd(), Signal::CONT, None)?;
    Ok(Some(handle))
}

/// The stop that a signal requests, if any. A signal that bookend inherited as ignored requests none.
pub fn stop_of(received: &ReceivedSignal) -> Option<StopRequest> {
    let ReceivedSignal { signal, sender, .. } = *received;
    match signal {
        Signal::TERM if received.code == libc::SI_QUEUE && received.value == CANCEL => {
            Some(StopRequest::Cancel { sender })
        }
        Signal::TERM | Signal::HUP | Signal::INT | Signal::QUIT if !sys::is_ignored(signal) => {
            Some(StopRequest::Signal { signal, sender })
        }
        _ => None,
    }
}

/// The error of a failed wait for events.
pub fn watching(e: std::io::Error) -> Error {
    Error::failed("watching the agent").caused_by(e)
}
