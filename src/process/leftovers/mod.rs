//! Finds what a task left behind, and ends it.
//!
//! A left-over is known by being below the supervisor, which is the subreaper of all that its agent ever
//! forked, by the task's mark in its environment, which also finds what outlived the supervisor, or by the
//! task's cgroup, where bookend was given one to make it in. Where its agent
//! was recorded, the identity proves that too. Nothing here blocks and nothing here reaps: a sweep is a state
//! machine with a step, descriptors and a deadline, which a loop owns.

mod classify;
mod scan;
pub mod summary;

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};
use rustix::process::{WaitId, WaitIdOptions};
use serde::{Deserialize, Serialize};

use crate::process::cgroup::Cgroup;
pub use crate::process::leftovers::classify::{IsSupervisor, SparedReason, SweepOwner, SweptTask};
pub use crate::process::leftovers::scan::ProcessScan;
use crate::process::procfs::dying;
use crate::process::procfs::identity::{self, ProcessHandle, ProcessStat};
pub use crate::process::procfs::mark::LedgerFile;
use crate::process::procfs::mark::{self, MarkState, TaskMark};
use crate::process::procfs::table::{ProcFs, ProcessSnapshot};
use crate::task::{Identity, Signal, TaskId, Verdict};
use classify::{MarkCheck, ProcessClass, ScanView};

/// How long a process may take to end before it is reported as surviving.
const SETTLE: Duration = Duration::from_secs(2);
/// The same of one that was sent SIGKILL or exits: it ends, but with a hundred others before it, or with much
/// memory to give back, two seconds are few.
pub const DYING: Duration = Duration::from_secs(10);
/// How often a process is looked at again that has no descriptor or could not be signalled.
const RECHECK_INTERVAL: Duration = Duration::from_millis(50);
/// How many scans one look takes at most: what forks faster than that is met again at the next step.
const LOOKS: usize = 16;

/// What is done with left-overs (`--leftovers`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LeftoversPolicy {
    /// Counted after a success, ended after any other end.
    Auto,
    End,
    Leave,
}

impl LeftoversPolicy {
    pub fn ends(self, success: bool) -> bool {
        match self {
            LeftoversPolicy::Auto => !success,
            LeftoversPolicy::End => true,
            LeftoversPolicy::Leave => false,
        }
    }

    /// Whether processes that ask to be left by `BOOKEND_DETACHED` are.
    pub fn spares_detached(self) -> bool {
        self != LeftoversPolicy::End
    }
}

/// Looking for left-overs failed as a whole.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    #[error("looking through /proc for what the task left behind; nothing was ended")]
    Proc(#[source] io::Error),
    #[error("waiting for what the task left behind to end")]
    Wait(#[source] io::Error),
}

impl SweepError {
    pub fn hint(&self) -> &'static str {
        match self {
            SweepError::Proc(_) => "check that /proc is mounted",
            SweepError::Wait(_) => "run `bookend recover` to end what is left",
        }
    }
}

impl From<SweepError> for crate::error::Error {
    fn from(e: SweepError) -> crate::error::Error {
        let hint = e.hint();
        crate::error::Error::failed(e).hint(hint)
    }
}

/// What has to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SweepStep {
    Done,
    /// Call again when one of [`LeftoverSweep::fds`] is readable, at this time at the latest.
    Wait(Instant),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SweepPhase {
    New,
    Known,
    Terming { until: Instant },
    Killing { since: Instant },
    Done,
}

/// What a process has been sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SignalSent {
    Nothing,
    Term,
    Kill,
    /// The kernel does not let us.
    Refused,
}

struct Leftover {
    stat: ProcessStat,
    kind: ProcessClass,
    handle: Option<ProcessHandle>,
    sent: SignalSent,
    gone: bool,
}

impl Leftover {
    /// Whether its end is worth waiting for.
    fn awaited(&self) -> bool {
        let ends = matches!(self.kind, ProcessClass::Ours | ProcessClass::Supervisor | ProcessClass::Exiting);
        !self.gone && self.sent != SignalSent::Refused && ends
    }

    /// The signal that `word` means for it, unless it has had that.
    fn due(&self, word: SignalSent) -> Option<Signal> {
        match (word, self.kind) {
            (_, ProcessClass::Exiting) => None,
            (SignalSent::Kill, ProcessClass::Ours) => (self.sent != SignalSent::Kill).then_some(Signal::KILL),
            _ => (self.sent == SignalSent::Nothing).then_some(Signal::TERM),
        }
    }

    /// Whether it was sent SIGKILL, by us or by another, or exits.
    fn is_dying(&self) -> bool {
        self.sent == SignalSent::Kill
            || identity::stat(self.stat.pid).is_ok_and(|now| now.is_some_and(|now| dying::is_dying(&now)))
    }
}

/// Finds and ends the leftover processes of one task.
pub struct LeftoverSweep {
    task: SweptTask,
    mark: TaskMark,
    me: i32,
    user: u32,
    grace: Duration,
    ends: bool,
    phase: SweepPhase,
    /// How long the end of a process is waited for that exits and that nothing proves to be the task's.
    unproven_until: Option<Instant>,
    scan: Option<ProcessScan>,
    found: Vec<Leftover>,
}

impl LeftoverSweep {
    /// `ends`: what is found is ended ([`LeftoversPolicy::ends`]), with `grace` between SIGTERM and SIGKILL;
    /// otherwise it is only counted.
    pub fn new(task: SweptTask, ends: bool, grace: Duration) -> LeftoverSweep {
        LeftoverSweep {
            mark: TaskMark::new(&task.id, task.ledger.clone()),
            task,
            me: std::process::id() as i32,
            user: rustix::process::geteuid().as_raw(),
            grace,
            ends,
            phase: SweepPhase::New,
            unproven_until: None,
            scan: None,
            found: Vec::new(),
        }
    }

    /// Looks, until two looks in a row find nothing new. Signals nothing.
    ///
    /// # Errors
    /// [`SweepError::Proc`].
    pub fn scan(&mut self, is_supervisor: IsSupervisor<'_>) -> Result<(), SweepError> {
        let mut scan = self.scan.take();
        let looked = look(&mut [self], &mut scan, is_supervisor);
        self.scan = scan;
        looked
    }

    /// Does what can be done now, without blocking.
    ///
    /// # Errors
    /// [`SweepError`]; the sweep is over then.
    pub fn step(&mut self, now: Instant, is_supervisor: IsSupervisor<'_>) -> Result<SweepStep, SweepError> {
        let looks = self.wants_a_look(now)?;
        if looks {
            self.scan(is_supervisor)?;
        }
        Ok(self.go_on(now, looks))
    }

    /// Whether to look before going on.
    fn wants_a_look(&mut self, now: Instant) -> Result<bool, SweepError> {
        self.note_ends().map_err(SweepError::Wait)?;
        if self.unproven_until.is_some_and(|until| now >= until) {
            self.unproven_until = None;
            for leftover in self.found.iter_mut().filter(|l| l.kind == ProcessClass::Exiting) {
                leftover.kind = ProcessClass::Unreadable;
            }
        }
        Ok(match self.phase {
            SweepPhase::New => true,
            SweepPhase::Terming { until } => !self.is_awaited() || now >= until,
            SweepPhase::Killing { .. } => !self.is_awaited(),
            SweepPhase::Known | SweepPhase::Done => false,
        })
    }

    /// `looked`: what was found is all there is now.
    fn go_on(&mut self, now: Instant, mut looked: bool) -> SweepStep {
        if self.phase == SweepPhase::Known {
            let unproven = self.found.iter().any(|l| l.kind == ProcessClass::Exiting);
            self.unproven_until = unproven.then(|| now + SETTLE);
            let any = self.ends && self.is_awaited();
            self.phase = if any { SweepPhase::Terming { until: now + self.grace } } else { SweepPhase::Done };
        }
        loop {
            let (until, word) = match self.phase {
                SweepPhase::Terming { until } => {
                    if now < until {
                        self.send(SignalSent::Term);
                    }
                    (until, SignalSent::Term)
                }
                SweepPhase::Killing { since } => {
                    // A process found only now is sent it before the time of any is over; and the end of one
                    // may have made another our child, which may be signalled only now.
                    self.send(SignalSent::Kill);
                    let dying = |l: &Leftover| l.awaited() && l.is_dying();
                    let patience = if self.found.iter().any(dying) { DYING } else { SETTLE };
                    (since + patience, SignalSent::Kill)
                }
                SweepPhase::New | SweepPhase::Known | SweepPhase::Done => return SweepStep::Done,
            };
            let settled = !self.is_awaited();
            let late = now >= until;
            if (settled && looked) || (late && word == SignalSent::Kill) {
                self.phase = SweepPhase::Done;
                self.note_other_ends();
            } else if settled {
                return SweepStep::Wait(now);
            } else if late {
                self.phase = SweepPhase::Killing { since: now };
                looked = false;
            } else {
                // One that is just executing something shows no mark for that moment.
                let unseen = |l: &Leftover| l.awaited() && (l.handle.is_none() || l.due(word).is_some());
                let blind = self.is_crowded() || self.found.iter().any(unseen);
                let until = until.min(self.unproven_until.unwrap_or(until));
                return SweepStep::Wait(if blind { until.min(now + RECHECK_INTERVAL) } else { until });
            }
        }
    }

    /// What becomes readable when one that is waited for ends.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.found.iter().filter(|l| l.awaited()).filter_map(|l| l.handle.as_ref()).map(AsFd::as_fd)
    }

    /// The cgroup that is the task's alone.
    pub fn cgroup(&self) -> Option<&Cgroup> {
        self.task.cgroup.as_ref()
    }

    /// With no child left nothing is below the subreaper: all that the agent ever forked is gone, and one
    /// system call has said so.
    fn is_childless(&self) -> bool {
        matches!(self.task.owner, SweepOwner::Supervisor { .. }) && !any_child()
    }

    /// The pids of the task's processes that became our children and that `/proc` hides.
    fn hidden(&self) -> Vec<i32> {
        // Without a scan there was no child.
        let SweepOwner::Supervisor { inherited, helpers } = &self.task.owner else { return Vec::new() };
        let Some(_) = &self.scan else { return Vec::new() };
        let is_ours = |pid: &i32| !helpers.contains(pid) && inherited.iter().all(|i| i.pid != *pid);
        hidden_children().into_iter().filter(is_ours).collect()
    }

    /// Takes in what the scan shows; `true`: something of it is new.
    fn take_in(&mut self, scan: &mut ProcessScan, is_supervisor: IsSupervisor<'_>) -> bool {
        let kinds = match scan.may_hold(&self.task, &self.mark) {
            true => self.classify(scan, is_supervisor),
            false => self.unclear(scan),
        };
        let mut new = false;
        for (stat, kind) in kinds {
            let id = stat.identity();
            if let Some(known) = self.found.iter_mut().find(|l| l.stat.identity() == id) {
                // What was known of it before it began to exit stands.
                if kind != ProcessClass::Exiting {
                    known.kind = kind;
                }
                continue;
            }
            // Those that begin to exit later were seen before, or were begun by one that was.
            if kind == ProcessClass::Exiting && !(self.ends && self.phase == SweepPhase::New) {
                continue;
            }
            new |= kind != ProcessClass::Exiting;
            let wanted = self.ends
                && matches!(kind, ProcessClass::Ours | ProcessClass::Supervisor | ProcessClass::Exiting);
            let (handle, gone) = match wanted.then(|| identity::open(&id)) {
                Some(Ok(Some(handle))) => (Some(handle), false),
                Some(Ok(None)) => (None, true),
                // No descriptor left, or the like: it is held only while it is signalled.
                Some(Err(_)) | None => (None, false),
            };
            self.found.push(Leftover { stat, kind, handle, sent: SignalSent::Nothing, gone });
        }
        new
    }

    /// What each process is that concerns the task.
    fn classify(
        &self,
        scan: &mut ProcessScan,
        is_supervisor: IsSupervisor<'_>,
    ) -> Vec<(ProcessStat, ProcessClass)> {
        let ProcessScan { proc, table, .. } = scan;
        let (mark, user) = (&self.mark, self.user);
        let members = self.task.cgroup.as_ref().map(Cgroup::members).unwrap_or_default();
        let scene = ScanView { task: &self.task, me: self.me, table };
        let see = &mut |stat: &ProcessStat| {
            let (mark, owner) = proc.mark(stat.pid, mark, |owner| owner == user || scene.is_related(stat));
            let is_ours = owner == Some(user);
            match mark {
                _ if is_ours && self.is_proven_agent(stat.identity()) => MarkCheck::Marked,
                MarkState::Carried if is_ours => MarkCheck::Marked,
                _ if members.contains(&stat.pid) => MarkCheck::Marked,
                MarkState::Carried => MarkCheck::MarkedOfAnother,
                MarkState::Doubtful if is_ours => MarkCheck::Doubtful,
                MarkState::Doubtful | MarkState::Absent => MarkCheck::Unmarked,
                MarkState::Exiting if is_ours => MarkCheck::Exiting,
                MarkState::Exiting => MarkCheck::ExitingOfAnother,
                MarkState::Unreadable if is_ours => MarkCheck::Unreadable,
                MarkState::Unreadable => MarkCheck::UnreadableOfAnother,
            }
        };
        let mut kinds = classify::sort(&scene, see, is_supervisor);
        if self.task.spares_detached {
            let is_detached =
                |proc: &mut ProcFs, pid| proc.marks(pid, |_| true).0.is_some_and(mark::is_detached);
            for (stat, kind) in &mut kinds {
                let is_agent = stat.identity() == self.task.agent;
                if matches!(kind, ProcessClass::Ours | ProcessClass::Supervisor)
                    && !is_agent
                    && is_detached(proc, stat.pid)
                {
                    *kind = ProcessClass::Spared(SparedReason::Detached);
                }
            }
        }
        kinds
    }

    /// As [`LeftoverSweep::classify`], where no process names the task.
    fn unclear(&self, scan: &mut ProcessScan) -> Vec<(ProcessStat, ProcessClass)> {
        let kind = |sight| {
            if sight == MarkCheck::Exiting { ProcessClass::Exiting } else { ProcessClass::Unreadable }
        };
        let unclear = scan.unclear().into_iter().filter(|(stat, _)| stat.start >= self.task.agent.start);
        unclear.map(|(stat, sight)| (stat, kind(sight))).collect()
    }

    /// Whether this is the agent that was recorded, in a ledger that only this user can have written: for
    /// root, a ledger of another user proves nothing.
    fn is_proven_agent(&self, identity: Identity) -> bool {
        let is_known = self.task.agent.start != 0 && self.mark.ledger().is_owned_by(self.user);
        is_known && identity == self.task.agent
    }

    /// Notes which of those found have ended.
    fn note_ends(&mut self) -> io::Result<()> {
        let mut fds: Vec<_> = self.fds().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        if !fds.is_empty() {
            match nix::poll::poll(&mut fds, PollTimeout::ZERO) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        let ended: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        let mut ended = ended.into_iter();
        for leftover in self.found.iter_mut().filter(|l| l.awaited()) {
            leftover.gone = match leftover.handle {
                Some(_) => ended.next().unwrap_or(false),
                None => is_gone(&leftover.stat),
            };
            if leftover.gone {
                leftover.handle = None;
            }
        }
        Ok(())
    }

    /// The others are not waited for, but may have ended with those that were.
    fn note_other_ends(&mut self) {
        for leftover in self.found.iter_mut().filter(|l| !l.gone && !l.awaited()) {
            leftover.gone = is_gone(&leftover.stat);
        }
    }

    /// Whether there is anything whose end is worth waiting for.
    pub fn is_awaited(&self) -> bool {
        self.found.iter().any(Leftover::awaited) || self.is_crowded()
    }

    /// Whether a process lives in the task's cgroup although all that were found there are gone.
    fn is_crowded(&self) -> bool {
        let known = |l: &Leftover| !l.gone && (l.kind != ProcessClass::Ours || l.awaited());
        self.task.cgroup.as_ref().is_some_and(Cgroup::is_populated) && !self.found.iter().any(known)
    }

    /// Ends all in the task's cgroup at once, if none of them is to be spared. Also catches processes that
    /// fork faster than a scan completes.
    fn kill_cgroup(&self) {
        let Some(cgroup) = &self.task.cgroup else { return };
        let members = cgroup.members();
        let is_spared =
            |l: &Leftover| !l.gone && l.kind != ProcessClass::Ours && members.contains(&l.stat.pid);
        if !members.contains(&self.me) && !self.found.iter().any(is_spared) {
            cgroup.kill();
        }
    }

    /// Sends the signal for `word` to each process that may be signalled and has not had it.
    fn send(&mut self, word: SignalSent) {
        if !self.ends {
            return;
        }
        if word == SignalSent::Kill {
            self.kill_cgroup();
        }
        let mut found = std::mem::take(&mut self.found);
        for leftover in found.iter_mut().filter(|l| l.awaited()) {
            if let Some(signal) = leftover.due(word) {
                self.send_to(leftover, signal);
            }
        }
        self.found = found;
    }

    fn send_to(&self, leftover: &mut Leftover, signal: Signal) {
        let held = match leftover.handle.take() {
            Some(handle) => Ok(Some(handle)),
            None => identity::open(&leftover.stat.identity()),
        };
        match held {
            Ok(None) => leftover.gone = true,
            Err(_) => {}
            Ok(Some(handle)) => {
                if let Some(now) = self.may_signal(&handle) {
                    // What has become another user's may not be signalled; it ends with its cgroup.
                    let within = || self.task.cgroup.as_ref().is_some_and(|c| c.holds(now.pid));
                    leftover.sent = match send(&handle, signal, &now) {
                        Err(_) if !within() => SignalSent::Refused,
                        _ if signal == Signal::KILL => SignalSent::Kill,
                        _ => SignalSent::Term,
                    };
                }
                leftover.handle = Some(handle);
            }
        }
    }

    /// What the process is now, if it may be signalled: it is our child, its environment still carries the
    /// mark, it is in the task's own cgroup, or it is the agent that was recorded. The handle keeps the pid
    /// from becoming another's between this question and the signal.
    fn may_signal(&self, handle: &ProcessHandle) -> Option<ProcessStat> {
        let id = handle.identity();
        let now = identity::stat(id.pid).ok()?.filter(|s| s.identity() == id)?;
        let child = matches!(self.task.owner, SweepOwner::Supervisor { .. }) && now.ppid == self.me;
        let within = || self.task.cgroup.as_ref().is_some_and(|c| c.holds(id.pid));
        let agent = || self.is_proven_agent(id) && identity::user(id.pid) == Some(self.user);
        let marked = || mark::carries_mark(id.pid, &self.mark) == MarkState::Carried;
        (child || marked() || within() || agent()).then_some(now)
    }
}

/// Looks for the leftovers of all `sweeps` at once, for each until two scans in a row find nothing new of it:
/// all of /proc is read for many tasks as often as for one.
fn look(
    sweeps: &mut [&mut LeftoverSweep],
    scan: &mut Option<ProcessScan>,
    is_supervisor: IsSupervisor<'_>,
) -> Result<(), SweepError> {
    // What is only counted is not worth reading all of /proc for at the end of each good run: the mark
    // alone could still be on what somebody else's daemon started, and `audit` shows that.
    let is_done = |s: &&mut LeftoverSweep| !s.ends && s.is_childless();
    let mut empty: Vec<u32> = sweeps.iter().map(|s| if is_done(s) { 2 } else { 0 }).collect();
    for _ in 0..LOOKS {
        if empty.iter().all(|n| *n == 2) {
            break;
        }
        let scan = match scan {
            Some(scan) => scan,
            None => scan.insert(ProcessScan::open().map_err(SweepError::Proc)?),
        };
        scan.read().map_err(SweepError::Proc)?;
        for (sweep, empty) in sweeps.iter_mut().zip(&mut empty).filter(|(_, empty)| **empty < 2) {
            *empty = if sweep.take_in(scan, is_supervisor) { 0 } else { *empty + 1 };
        }
    }
    for sweep in sweeps.iter_mut().filter(|s| s.phase == SweepPhase::New) {
        sweep.phase = SweepPhase::Known;
    }
    Ok(())
}

/// Waits until one of `fds` is readable, at most until then.
///
/// # Errors
/// [`SweepError::Wait`].
pub fn wait<'a>(fds: impl Iterator<Item = BorrowedFd<'a>>, until: Instant) -> Result<(), SweepError> {
    let mut fds: Vec<_> = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
    let timeout = identity::poll_timeout(until.saturating_duration_since(Instant::now()));
    match nix::poll::poll(&mut fds, timeout) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(e) => Err(SweepError::Wait(e.into())),
    }
}

fn send(handle: &ProcessHandle, signal: Signal, now: &ProcessStat) -> io::Result<bool> {
    let sent = handle.signal(signal)?;
    // A stopped process would sleep on its SIGTERM until the grace is over.
    if sent && signal == Signal::TERM && now.state == 'T' {
        handle.signal(Signal::CONT)?;
    }
    Ok(sent)
}

/// An unreadable `/proc` is not death.
fn is_gone(stat: &ProcessStat) -> bool {
    identity::of(stat.pid).is_ok_and(|now| now != Some(stat.identity()))
}

/// Whether this process has any child, dead ones included. It only looks: nothing is reaped.
fn any_child() -> bool {
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    !matches!(rustix::process::waitid(WaitId::All, look), Err(rustix::io::Errno::CHILD))
}

/// The children that this process has now: what a supervisor asks before it forks anything, since whoever
/// executed it may have left it some (`sleep 9 & exec bookend run …`).
///
/// # Errors
/// [`SweepError::Proc`].
pub fn children() -> Result<Vec<Identity>, SweepError> {
    if !any_child() {
        return Ok(Vec::new());
    }
    let mut table = ProcessSnapshot::default();
    ProcFs::open().and_then(|mut p| p.read(&mut table)).map_err(SweepError::Proc)?;
    let me = std::process::id() as i32;
    let shown = table.rows().iter().filter(|s| s.ppid == me).map(ProcessStat::identity);
    let hidden = hidden_children().into_iter().map(|pid| Identity { pid, start: 0 });
    Ok(shown.chain(hidden).collect())
}

/// The living children of this process that `/proc` hides (`hidepid`), since they run as another user. The
/// kernel lists their pids all the same (proc_pid_task(5), CONFIG_PROC_CHILDREN).
fn hidden_children() -> Vec<i32> {
    let path = format!("/proc/self/task/{}/children", std::process::id());
    let listed = std::fs::read_to_string(path).unwrap_or_default();
    let lives = |pid| identity::presence(Identity { pid, start: 0 }.into()) != Verdict::Gone;
    let is_hidden = |pid: &i32| identity::stat(*pid).is_err() && lives(*pid);
    listed.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).filter(is_hidden).collect()
}

/// What the sweeps of many tasks share: one scan of all processes, and when to take the next.
#[derive(Default)]
pub struct SharedScan {
    scan: Option<ProcessScan>,
    next_look: Option<Instant>,
}

impl SharedScan {
    /// The ids of the tasks of `ledger` of which processes of this user live. Where it cannot be told which
    /// ledger a process means, its task counts too.
    ///
    /// # Errors
    /// [`SweepError::Proc`].
    pub fn named_tasks(&mut self, ledger: &LedgerFile) -> Result<BTreeSet<TaskId>, SweepError> {
        let scan = match &mut self.scan {
            Some(scan) => scan,
            None => self.scan.insert(ProcessScan::open().map_err(SweepError::Proc)?),
        };
        scan.read().map_err(SweepError::Proc)?;
        Ok(scan.named_tasks(ledger))
    }

    /// Whether a process of this user that carries the mark of the task `id` of `ledger` descends from the
    /// process `ancestor`.
    ///
    /// # Errors
    /// [`SweepError::Proc`].
    pub fn descends_from(
        &mut self,
        ancestor: i32,
        id: &TaskId,
        ledger: LedgerFile,
    ) -> Result<bool, SweepError> {
        let scan = match &mut self.scan {
            Some(scan) => scan,
            None => self.scan.insert(ProcessScan::open().map_err(SweepError::Proc)?),
        };
        scan.read().map_err(SweepError::Proc)?;
        Ok(scan.descends_from(ancestor, &TaskMark::new(id, ledger)))
    }

    /// Does for all `sweeps` what can be done now, without blocking; says of each what has to be done next.
    ///
    /// # Errors
    /// [`SweepError`]; the sweeps are over then.
    pub fn step(
        &mut self,
        sweeps: &mut [&mut LeftoverSweep],
        now: Instant,
        is_supervisor: IsSupervisor<'_>,
    ) -> Result<Vec<SweepStep>, SweepError> {
        let wants: Vec<bool> = sweeps.iter_mut().map(|s| s.wants_a_look(now)).collect::<Result<_, _>>()?;
        // They end one after the other: those that end in a moment are looked for with those that have.
        let all = sweeps.iter().zip(&wants).all(|(sweep, wants)| *wants || sweep.phase == SweepPhase::Done);
        let next = self.next_look.filter(|next| now < *next);
        let looks = wants.contains(&true) && (all || next.is_none());
        if looks {
            let wanting = sweeps.iter_mut().zip(&wants).filter(|(_, wants)| **wants);
            let mut wanting: Vec<&mut LeftoverSweep> = wanting.map(|(sweep, _)| &mut **sweep).collect();
            look(&mut wanting, &mut self.scan, is_supervisor)?;
            self.next_look = Some(Instant::now() + RECHECK_INTERVAL);
        }
        let go_on = |(sweep, wants): (&mut &mut LeftoverSweep, bool)| match (wants && !looks, next) {
            (true, Some(next)) => SweepStep::Wait(next),
            _ => sweep.go_on(now, wants),
        };
        Ok(sweeps.iter_mut().zip(wants).map(go_on).collect())
    }
}

#[cfg(test)]
mod tests;
