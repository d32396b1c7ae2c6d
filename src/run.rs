//! The way of a run, top to bottom: DESIGN section 3.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tracing::level_filters::LevelFilter;
use tracing::{debug, info, warn};

use crate::agent::{self, Adapter, Asked, LineSplitter, Mode, Reader};
use crate::claim::{self, Key};
use crate::error::{Error, Kind, exit_code};
use crate::ledger::{self, Delivery, Finished, Ledger, LiveLock, SpoolSlot};
use crate::log;
use crate::process::capture::{Capture, WhenReaderGone};
use crate::process::environment;
use crate::process::forward::{self, CANCEL, Fate, Forward};
use crate::process::gate::{self, Gated, Inherited, Launch, StartError, Started, Step};
use crate::process::identity;
use crate::process::leftovers::{Hunt, Policy};
use crate::process::stop::Ladder;
use crate::process::terminal;
use crate::process::watch::{Event, Interest, Source, Watch};
use crate::session;
use crate::sys::{self, Change, Received, Usage};
use crate::task::{
    self, Cancel, Cause, Counts, EndSource, Ended, Ending, Evidence, Exit, Failure, Identity, Interrupt,
    NewTask, OnTerm, Outcome, Sender, Status, Stop,
};

/// What `bookend run` was asked for.
#[derive(Debug)]
pub struct Request {
    pub id: Option<String>,
    pub key: Option<String>,
    pub repo: Option<String>,
    pub issue: Option<i64>,
    pub user: Option<String>,
    pub agent: Option<String>,
    pub agent_type: Option<String>,
    pub model: Option<String>,
    pub provider: Option<String>,
    pub cwd: Option<PathBuf>,
    pub prepare: Option<OsString>,
    pub forge: String,
    pub require_skill: Option<String>,
    pub timeout: Option<Duration>,
    pub idle_timeout: Option<Duration>,
    pub grace: Duration,
    pub when_busy: WhenBusy,
    pub on_term: OnTerm,
    pub fresh: bool,
    pub allow_unsafe_resume: bool,
    pub leftovers: Policy,
    pub on_finish: Option<OsString>,
    pub retention: Duration,
    pub level: LevelFilter,
    pub argv: Vec<OsString>,
}

/// What to do when a live task holds the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenBusy {
    Refuse,
    Wait,
    Replace,
}

/// How bookend is to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    Code(i32),
    Signal(i32),
}

/// Runs the agent between its two rows.
///
/// # Errors
/// When no row could be made: nothing was executed. From the row on there is always a way to leave.
pub fn run(request: &Request, ledger: Option<&Path>, inherited: Inherited) -> Result<Leave, Error> {
    let started = Instant::now();

    // 1. Who runs, under which key, with what for its row.
    let resolved = resolve(request)?;

    // 2. Every signal has been blocked since the first line of main: none is lost from here on.
    let mut watch = Watch::new().map_err(|e| Error::failed(format!("reading signals: {e}")))?;
    nix::sys::prctl::set_child_subreaper(true)
        .map_err(|e| Error::failed(format!("becoming the reaper of the agent's orphans: {e}")))?;

    // 3. The claim, in one transaction; then the session and the final argv.
    let mut ledger = Ledger::open(&ledger::locate(ledger)?)?;
    let live = ledger.hold_live()?;
    let mut way = claim::Way::new(request.when_busy, request.grace);
    let claim = loop {
        let claim = ledger.claim()?;
        let Some(key) = &resolved.key else { break claim };
        match way.look(&claim, key)? {
            claim::Look::Free => break claim,
            claim::Look::Held(holder) => {
                drop(claim);
                if let Some(signal) = way.clear(&ledger, &mut watch, key, *holder)? {
                    return Ok(Leave::Signal(signal));
                }
            }
        }
    };
    let id = request.id.clone().unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
    let choice = claim::choose_session(&claim, request, &resolved)?;
    let args = resolved.adapter.argv(&request.argv[1..], &choice.plan);

    // 4. The gated child.
    let (capture, agents_stdout) = match resolved.captured {
        true => {
            let (capture, agents) = Capture::new(sys::stdio(1), resolved.when_reader_gone())
                .map_err(|e| Error::failed(format!("capturing the agent's stdout: {e}")))?;
            (Some(capture), Some(agents))
        }
        false => (None, None),
    };
    let others = inherited_descriptors();
    let launch = launch(request, ledger_path, &id, &args, agents_stdout)?;
    let gated = Gated::fork(&launch, inherited);
    drop(launch);
    todo()
}
