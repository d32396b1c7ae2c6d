//! Ends the leftovers of one task: a state machine with a step, descriptors and a deadline, driven by a loop.
//! It neither blocks nor reaps.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::children::{has_children, hidden_children};
use super::classify::{self, MarkCheck, ProcessClass, ScanView, SparedReason};
use super::error::SweepError;
use super::leftover::{DYING, Leftover, SETTLE, SignalSent, has_ended, send};
use super::scan::ProcessScan;
use super::signalled::SignalledTree;
use super::swept_task::{SupervisorLookup, SweepOwner, SweptTask};
use crate::process::cgroup::Cgroup;
use crate::process::procfs::identity::{self, ProcessHandle, ProcessStat};
use crate::process::procfs::mark::{self, MarkState, TaskMark};
use crate::process::procfs::snapshot::ProcFs;
use crate::task::{ProcessIdentity, Signal};

/// How often a process is checked again that has no descriptor or could not be signalled.
pub(super) const RECHECK_INTERVAL: Duration = Duration::from_millis(50);

/// How long a process without SIGTERM may take to end after a stop signal to all processes, before it is sent
/// SIGTERM: it received another signal, or helps one that received it to end.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the caller of a sweep does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SweepStep {
    Done,
    /// Steps again when one of [`LeftoverSweep::fds`] is readable, at this time at the latest.
    Wait(Instant),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SweepPhase {
    /// Nothing was scanned yet.
    New,
    /// Nothing was scanned yet, and the agent is ending: the scan waits for that until then.
    EndingAgent {
        until: Instant,
    },
    /// The processes are known, and nothing was sent.
    Scanned,
    /// A stop signal was sent before the sweep, and some have not been sent SIGTERM.
    Signalled {
        until: Instant,
    },
    /// They were sent SIGTERM.
    Terminating {
        until: Instant,
    },
    /// They were sent SIGKILL.
    Killing {
        since: Instant,
    },
    Done,
}

/// Finds and ends the leftover processes of one task.
pub struct LeftoverSweep {
    pub(super) task: SweptTask,
    pub(super) since: Instant,
    mark: TaskMark,
    me: i32,
    user: u32,
    pub(super) grace: Duration,
    pub(super) ends: bool,
    pub(super) phase: SweepPhase,
    /// How long to wait for processes that exit and that nothing proves to be the task's.
    unproven_until: Option<Instant>,
    /// What the processes received before the sweep.
    signalled: Option<SignalledTree>,
    pub(super) scan: Option<ProcessScan>,
    pub(super) found: Vec<Leftover>,
}

impl LeftoverSweep {
    /// `ends`: ends what it finds ([`super::LeftoversPolicy::ends`]), with `grace` between SIGTERM and
    /// SIGKILL; otherwise it only counts.
    pub fn new(task: SweptTask, ends: bool, grace: Duration) -> LeftoverSweep {
        LeftoverSweep {
            mark: TaskMark::new(&task.id, task.ledger.clone()),
            task,
            since: Instant::now(),
            me: std::process::id() as i32,
            user: nix::unistd::geteuid().as_raw(),
            grace,
            ends,
            phase: SweepPhase::New,
            unproven_until: None,
            signalled: None,
            scan: None,
            found: Vec::new(),
        }
    }

    /// The processes have received these signals: what they received is not sent again, and the time to end
    /// began then.
    pub fn after(self, signalled: SignalledTree) -> LeftoverSweep {
        LeftoverSweep { signalled: Some(signalled), ..self }
    }

    /// Whether a scan is needed before [`LeftoverSweep::advance`].
    pub(super) fn needs_scan(&mut self, now: Instant) -> Result<bool, SweepError> {
        self.note_ends().map_err(SweepError::Wait)?;
        if self.unproven_until.is_some_and(|until| now >= until) {
            self.unproven_until = None;
            for leftover in self.found.iter_mut().filter(|l| l.class == ProcessClass::Exiting) {
                leftover.class = ProcessClass::Unreadable;
            }
        }
        Ok(match self.phase {
            SweepPhase::New => true,
            SweepPhase::EndingAgent { until }
            | SweepPhase::Signalled { until }
            | SweepPhase::Terminating { until } => !self.is_awaited() || now >= until,
            SweepPhase::Killing { .. } => !self.is_awaited(),
            SweepPhase::Scanned | SweepPhase::Done => false,
        })
    }

    /// Goes as far as it can without blocking. `is_current`: the processes were scanned in this step.
    pub(super) fn advance(&mut self, now: Instant, mut is_current: bool) -> SweepStep {
        if self.phase == SweepPhase::Scanned {
            let unproven = self.found.iter().any(|l| l.class == ProcessClass::Exiting);
            self.unproven_until = unproven.then(|| now + SETTLE);
            let any = self.ends && self.is_awaited();
            self.phase = if any { self.first_phase(now) } else { SweepPhase::Done };
            if !any {
                // One that ended while it was read shows no mark, and counts as spared.
                self.note_unawaited_ends();
            }
        }
        loop {
            let (until, stage) = match self.phase {
                SweepPhase::EndingAgent { until } => return SweepStep::Wait(until),
                SweepPhase::Signalled { until } => (until, SignalSent::Nothing),
                SweepPhase::Terminating { until } => {
                    if now < until {
                        self.send(SignalSent::Term);
                    }
                    (until, SignalSent::Term)
                }
                SweepPhase::Killing { since } => {
                    // A process may have been found only now, or have become our child only now, by the end
                    // of its parent; only then it may be signalled.
                    self.send(SignalSent::Kill);
                    let dying = |l: &Leftover| l.is_awaited() && l.is_dying();
                    let patience = if self.found.iter().any(dying) { DYING } else { SETTLE };
                    (since + patience, SignalSent::Kill)
                }
                SweepPhase::New | SweepPhase::Scanned | SweepPhase::Done => return SweepStep::Done,
            };
            let all_ended = !self.is_awaited();
            let late = now >= until;
            if (all_ended && is_current) || (late && stage == SignalSent::Kill) {
                self.phase = SweepPhase::Done;
                self.note_unawaited_ends();
            } else if all_ended {
                return SweepStep::Wait(now);
            } else if late && stage == SignalSent::Nothing {
                self.phase = SweepPhase::Terminating { until: now + self.grace };
            } else if late {
                self.phase = SweepPhase::Killing { since: now };
                is_current = false;
            } else {
                // A process that is executing another program shows no mark for a moment.
                let needs_recheck =
                    |l: &Leftover| l.is_awaited() && (l.handle.is_none() || l.due(stage).is_some());
                let rechecks = self.has_unseen_members() || self.found.iter().any(needs_recheck);
                let until = until.min(self.unproven_until.unwrap_or(until));
                return SweepStep::Wait(if rechecks { until.min(now + RECHECK_INTERVAL) } else { until });
            }
        }
    }

    /// How the sweep begins, with what the processes received before it.
    fn first_phase(&self, now: Instant) -> SweepPhase {
        let Some(signalled) = &self.signalled else {
            return SweepPhase::Terminating { until: now + self.grace };
        };
        match self.found.iter().any(|l| l.is_awaited() && l.sent == SignalSent::Nothing) {
            true => SweepPhase::Signalled { until: signalled.at + PATIENCE.min(self.grace) },
            false => SweepPhase::Terminating { until: signalled.at + self.grace },
        }
    }

    /// Whether nothing was scanned yet.
    pub(super) fn is_new(&self) -> bool {
        matches!(self.phase, SweepPhase::New | SweepPhase::EndingAgent { .. })
    }

    /// Whether nothing more is to be done.
    pub(super) fn is_done(&self) -> bool {
        self.phase == SweepPhase::Done
    }

    /// What becomes readable when an awaited process ends.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.found.iter().filter(|l| l.is_awaited()).filter_map(|l| l.handle.as_ref()).map(AsFd::as_fd)
    }

    /// The task's own cgroup.
    pub fn cgroup(&self) -> Option<&Cgroup> {
        self.task.cgroup.as_ref()
    }

    /// Without a child nothing is below the subreaper: all that the agent ever forked has ended, and one
    /// system call shows it.
    pub(super) fn is_childless(&self) -> bool {
        matches!(self.task.owner, SweepOwner::Supervisor { .. }) && !has_children()
    }

    /// The pids of the task's processes that became our children and that `/proc` hides.
    pub(super) fn hidden(&self) -> Vec<i32> {
        // It was not scanned if there was no child.
        let SweepOwner::Supervisor { inherited, helpers } = &self.task.owner else { return Vec::new() };
        let Some(_) = &self.scan else { return Vec::new() };
        let is_ours = |pid: &i32| !helpers.contains(pid) && inherited.iter().all(|i| i.pid != *pid);
        hidden_children().into_iter().filter(is_ours).collect()
    }

    /// Adds what the scan shows; `true`: some of it is new.
    pub(super) fn add(&mut self, scan: &mut ProcessScan, supervisors: &dyn SupervisorLookup) -> bool {
        let classes = match scan.may_hold(&self.task, &self.mark) {
            true => self.classify(scan, supervisors),
            false => self.unclassified(scan),
        };
        let mut new = false;
        for (stat, class) in classes {
            let id = stat.identity();
            if let Some(known) = self.found.iter_mut().find(|l| l.stat.identity() == id) {
                // A process that exits keeps the class that it had before.
                if class != ProcessClass::Exiting {
                    known.class = class;
                }
                continue;
            }
            // A process that begins to exit later was found before, or its parent was.
            if class == ProcessClass::Exiting && !(self.ends && self.is_new()) {
                continue;
            }
            new |= class != ProcessClass::Exiting;
            let wanted = self.ends
                && matches!(class, ProcessClass::Ours | ProcessClass::Supervisor | ProcessClass::Exiting);
            let (handle, has_ended) = match wanted.then(|| identity::open(&id)) {
                Some(Ok(Some(handle))) => (Some(handle), false),
                Some(Ok(None)) => (None, true),
                // No free descriptor, for example: the process is opened again to be signalled.
                Some(Err(_)) | None => (None, false),
            };
            let received = self.signalled.iter().flat_map(|s| &s.sent).rfind(|(to, _)| *to == id);
            let sent = received.map_or(SignalSent::Nothing, |(_, sent)| *sent);
            self.found.push(Leftover { stat, class, handle, sent, has_ended });
        }
        new
    }

    /// The class of each process that concerns the task.
    fn classify(
        &self,
        scan: &mut ProcessScan,
        supervisors: &dyn SupervisorLookup,
    ) -> Vec<(ProcessStat, ProcessClass)> {
        let ProcessScan { proc, snapshot, known, .. } = scan;
        let (mark, user, start) = (&self.mark, self.user, self.task.agent.start);
        let members = self.task.cgroup.as_ref().map(Cgroup::members).unwrap_or_default();
        let view = ScanView { task: &self.task, me: self.me, snapshot };
        let check = &mut |stat: &ProcessStat| {
            if snapshot.index(stat.pid).is_some_and(|row| known.excludes(row, start)) {
                return MarkCheck::Unmarked;
            }
            let (mark, owner) = proc.mark(stat.pid, mark, |owner| owner == user || view.is_related(stat));
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
        let mut classes = classify::classify(&view, check, supervisors);
        if self.task.spares_detached {
            let is_detached =
                |proc: &mut ProcFs, pid| proc.marks(pid, |_| true).0.is_some_and(mark::is_detached);
            for (stat, class) in &mut classes {
                let is_agent = stat.identity() == self.task.agent;
                if matches!(class, ProcessClass::Ours | ProcessClass::Supervisor)
                    && !is_agent
                    && is_detached(proc, stat.pid)
                {
                    *class = ProcessClass::Spared(SparedReason::Detached);
                }
            }
        }
        classes
    }

    /// As [`LeftoverSweep::classify`], if no process names the task.
    fn unclassified(&self, scan: &mut ProcessScan) -> Vec<(ProcessStat, ProcessClass)> {
        let class = |check| {
            if check == MarkCheck::Exiting { ProcessClass::Exiting } else { ProcessClass::Unreadable }
        };
        let unclear = scan.unclear(self.task.agent.start).into_iter();
        unclear.map(|(stat, check)| (stat, class(check))).collect()
    }

    /// Whether this is the recorded agent, in a ledger that this user owns: a ledger of another user proves
    /// nothing to root.
    pub(super) fn is_proven_agent(&self, identity: ProcessIdentity) -> bool {
        let is_known = self.task.agent.start != 0 && self.mark.ledger().is_owned_by(self.user);
        is_known && identity == self.task.agent
    }

    /// Records which awaited processes have ended.
    fn note_ends(&mut self) -> io::Result<()> {
        let mut fds: Vec<_> = self.fds().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        if !fds.is_empty() {
            match poll(&mut fds, PollTimeout::ZERO) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        let ended: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        let mut ended = ended.into_iter();
        for leftover in self.found.iter_mut().filter(|l| l.is_awaited()) {
            leftover.has_ended = match leftover.handle {
                Some(_) => ended.next().unwrap_or(false),
                None => has_ended(&leftover.stat),
            };
            if leftover.has_ended {
                leftover.handle = None;
            }
        }
        Ok(())
    }

    /// The others are not awaited, but may have ended meanwhile.
    fn note_unawaited_ends(&mut self) {
        for leftover in self.found.iter_mut().filter(|l| !l.has_ended && !l.is_awaited()) {
            leftover.has_ended = has_ended(&leftover.stat);
        }
    }

    /// Whether a process is left whose end is worth waiting for.
    pub fn is_awaited(&self) -> bool {
        self.found.iter().any(Leftover::is_awaited) || self.has_unseen_members()
    }

    /// Whether a process lives in the task's cgroup although all that were found there have ended.
    fn has_unseen_members(&self) -> bool {
        let known = |l: &Leftover| !l.has_ended && (l.class != ProcessClass::Ours || l.is_awaited());
        self.task.cgroup.as_ref().is_some_and(Cgroup::is_populated) && !self.found.iter().any(known)
    }

    /// Kills all in the task's cgroup at once, unless one of them is to be spared. Also catches processes
    /// that fork faster than a scan completes.
    fn kill_cgroup(&self) {
        let Some(cgroup) = &self.task.cgroup else { return };
        let members = cgroup.members();
        let is_spared =
            |l: &Leftover| !l.has_ended && l.class != ProcessClass::Ours && members.contains(&l.stat.pid);
        if !members.contains(&self.me) && !self.found.iter().any(is_spared) {
            cgroup.kill();
        }
    }

    /// Sends the signal of `stage` to each process that may be signalled and has not been sent it.
    fn send(&mut self, stage: SignalSent) {
        if !self.ends {
            return;
        }
        if stage == SignalSent::Kill {
            self.kill_cgroup();
        }
        let mut found = std::mem::take(&mut self.found);
        for leftover in found.iter_mut().filter(|l| l.is_awaited()) {
            if let Some(signal) = leftover.due(stage) {
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
            Ok(None) => leftover.has_ended = true,
            Err(_) => {}
            Ok(Some(handle)) => {
                if let Some(now) = self.may_signal(&handle) {
                    // A process that has changed its user may not be signalled; it ends with its cgroup.
                    let within = || self.task.cgroup.as_ref().is_some_and(|c| c.holds(now.pid));
                    leftover.sent = match send(&handle, signal, None, &now) {
                        Err(_) if !within() => SignalSent::Refused,
                        _ if signal == Signal::KILL => SignalSent::Kill,
                        _ => SignalSent::Term,
                    };
                }
                leftover.handle = Some(handle);
            }
        }
    }

    /// The present state of the process if it may be signalled: it is our child, its environment still
    /// carries the mark, it is in the task's own cgroup, or it is the recorded agent. The handle keeps the
    /// pid from being recycled between this check and the signal.
    pub(super) fn may_signal(&self, handle: &ProcessHandle) -> Option<ProcessStat> {
        let id = handle.identity();
        let now = identity::stat(id.pid).ok()?.filter(|s| s.identity() == id)?;
        let child = matches!(self.task.owner, SweepOwner::Supervisor { .. }) && now.ppid == self.me;
        let within = || self.task.cgroup.as_ref().is_some_and(|c| c.holds(id.pid));
        let agent = || self.is_proven_agent(id) && identity::user(id.pid) == Some(self.user);
        let marked = || mark::carries_mark(id.pid, &self.mark) == MarkState::Carried;
        (child || marked() || within() || agent()).then_some(now)
    }
}

/// Waits until one of `fds` is readable, at most until `until`.
///
/// # Errors
/// [`SweepError::Wait`].
pub fn wait<'a>(fds: impl Iterator<Item = BorrowedFd<'a>>, until: Instant) -> Result<(), SweepError> {
    identity::wait_for_any(fds, until).map_err(SweepError::Wait)
}
