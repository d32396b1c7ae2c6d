//! Finds what a task left behind, and ends it.
//!
//! A left-over is known by being below the supervisor, which is the subreaper of all that its agent ever
//! forked, by the task's mark in its environment, which also finds what outlived the supervisor, or by the
//! task's cgroup, where bookend was given one to make it in. Nothing
//! here blocks but [`end_all`], and nothing here reaps: the run's loop does both.

pub mod summary;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};
use rustix::process::{Signal, WaitId, WaitIdOptions};
use serde::{Deserialize, Serialize};

use super::cgroup::Cgroup;
use super::identity::{self, Handle, Stat};
use super::mark::{self, Mark, Whose};
use super::sorting::{self, Kind, Scene, Sight};
pub use super::sorting::{IsSupervisor, Seat, Task, Why};
use super::table::{Proc, Table};
use crate::task::Identity;

/// How long a process may take to end before it is reported as surviving.
const SETTLE: Duration = Duration::from_secs(2);
/// The same of one that was sent SIGKILL: it ends, but with a hundred others before it two seconds are few.
pub const DYING: Duration = Duration::from_secs(10);
/// How often a process is looked at that no descriptor was left for, or that could not be told anything.
const BLIND: Duration = Duration::from_millis(50);
/// How many pictures one look takes at most: who forks faster than that is met again at the next step.
const LOOKS: usize = 16;

/// What is done with left-overs (`--leftovers`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// Counted after a success, ended after any other end.
    Auto,
    End,
    Leave,
}

impl Policy {
    pub fn ends(self, success: bool) -> bool {
        match self {
            Policy::Auto => !success,
            Policy::End => true,
            Policy::Leave => false,
        }
    }
}

/// Looking for left-overs failed as a whole.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "looking through /proc for what the task left behind: {0} (nothing was ended; is /proc mounted?)"
    )]
    Proc(#[source] io::Error),
    #[error("waiting for what the task left behind to end: {0} (`bookend recover` ends what is left)")]
    Wait(#[source] io::Error),
}

/// What has to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Done,
    /// Call again when one of [`Hunt::fds`] is readable, at this time at the latest.
    Wait(Instant),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    New,
    Known,
    Terming { until: Instant },
    Killing { since: Instant },
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Nothing,
    Term,
    Kill,
    /// The kernel does not let us.
    Refused,
}

struct Leftover {
    stat: Stat,
    kind: Kind,
    handle: Option<Handle>,
    told: Told,
    gone: bool,
}

impl Leftover {
    /// Whether its end is worth waiting for.
    fn awaited(&self) -> bool {
        !self.gone && self.told != Told::Refused && matches!(self.kind, Kind::Ours | Kind::Supervisor)
    }

    /// The signal that `word` means for it, unless it has had that.
    fn due(&self, word: Told) -> Option<Signal> {
        match (word, self.kind) {
            (Told::Kill, Kind::Ours) => (self.told != Told::Kill).then_some(Signal::KILL),
            _ => (self.told == Told::Nothing).then_some(Signal::TERM),
        }
    }
}

/// One task's left-overs.
pub struct Hunt {
    task: Task,
    mark: Whose,
    me: i32,
    user: u32,
    grace: Duration,
    ends: bool,
    phase: Phase,
    picture: Option<Picture>,
    found: Vec<Leftover>,
}

/// What all processes show at one moment, to one hunt or to many.
struct Picture {
    proc: Proc,
    table: Table,
}

impl Hunt {
    /// `ends`: what is found is ended ([`Policy::ends`]), with `grace` between SIGTERM and SIGKILL;
    /// otherwise it is only counted.
    pub fn new(task: Task, ends: bool, grace: Duration) -> Hunt {
        Hunt {
            mark: Whose::new(&task.id, &task.ledger),
            task,
            me: std::process::id() as i32,
            user: rustix::process::geteuid().as_raw(),
            grace,
            ends,
            phase: Phase::New,
            picture: None,
            found: Vec::new(),
        }
    }

    /// Looks, until two looks in a row find nothing new. Signals nothing.
    ///
    /// # Errors
    /// [`Error::Proc`].
    pub fn scan(&mut self, is_supervisor: IsSupervisor<'_>) -> Result<(), Error> {
        let mut picture = self.picture.take();
        let looked = look(&mut [self], &mut picture, is_supervisor);
        self.picture = picture;
        looked
    }

    /// Does what can be done now, without blocking.
    ///
    /// # Errors
    /// [`Error`]; the hunt is over then.
    pub fn step(&mut self, now: Instant, is_supervisor: IsSupervisor<'_>) -> Result<Step, Error> {
        let looks = self.wants_a_look(now)?;
        if looks {
            self.scan(is_supervisor)?;
        }
        Ok(self.go_on(now, looks))
    }

    /// Whether to look before going on.
    fn wants_a_look(&mut self, now: Instant) -> Result<bool, Error> {
        self.note_ends().map_err(Error::Wait)?;
        Ok(match self.phase {
            Phase::New => true,
            Phase::Terming { until } => !self.is_awaited() || now >= until,
            Phase::Killing { .. } => !self.is_awaited(),
            Phase::Known | Phase::Done => false,
        })
    }

    /// `looked`: what was found is all there is now.
    fn go_on(&mut self, now: Instant, mut looked: bool) -> Step {
        if self.phase == Phase::Known {
            let any = self.ends && self.is_awaited();
            self.phase = if any { Phase::Terming { until: now + self.grace } } else { Phase::Done };
        }
        loop {
            let (until, word) = match self.phase {
                Phase::Terming { until } => {
                    if now < until {
                        self.tell(Told::Term);
                    }
                    (until, Told::Term)
                }
                Phase::Killing { since } => {
                    // Who was found only now is sent it before anybody's time is over; and the end of one may
                    // have made another our child, which may be told only now.
                    self.tell(Told::Kill);
                    let dying = |l: &Leftover| l.awaited() && l.told == Told::Kill;
                    let patience = if self.found.iter().any(dying) { DYING } else { SETTLE };
                    (since + patience, Told::Kill)
                }
                Phase::New | Phase::Known | Phase::Done => return Step::Done,
            };
            let settled = !self.is_awaited();
            let late = now >= until;
            if (settled && looked) || (late && word == Told::Kill) {
                self.phase = Phase::Done;
                self.note_other_ends();
            } else if settled {
                return Step::Wait(now);
            } else if late {
                self.phase = Phase::Killing { since: now };
                looked = false;
            } else {
                // One that is just executing something shows no mark for that moment.
                let unseen = |l: &Leftover| l.awaited() && (l.handle.is_none() || l.due(word).is_some());
                let blind = self.is_crowded() || self.found.iter().any(unseen);
                return Step::Wait(if blind { until.min(now + BLIND) } else { until });
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
        matches!(self.task.seat, Seat::Supervisor { .. }) && !any_child()
    }

    /// Takes in what the picture shows; `true`: something of it is new.
    fn take_in(&mut self, picture: &mut Picture, is_supervisor: IsSupervisor<'_>) -> bool {
        let Picture { proc, table } = picture;
        let (mark, user) = (&self.mark, self.user);
        let members = self.task.cgroup.as_ref().map(Cgroup::members).unwrap_or_default();
        let scene = Scene { task: &self.task, me: self.me, table };
        let see = &mut |stat: &Stat| match proc
            .mark(stat.pid, mark, |owner| owner == user || scene.is_related(stat))
        {
            (Mark::Carried, owner) if owner == Some(user) => Sight::Marked,
            _ if members.contains(&stat.pid) => Sight::Marked,
            (Mark::Carried, _) => Sight::MarkedOfAnother,
            (Mark::Doubtful, owner) if owner == Some(user) => Sight::Doubtful,
            (Mark::Doubtful | Mark::Absent, _) => Sight::Unmarked,
            (Mark::Unreadable, owner) if owner == Some(user) => Sight::Unreadable,
            (Mark::Unreadable, _) => Sight::UnreadableOfAnother,
        };
        let mut new = false;
        for (stat, kind) in sorting::sort(&scene, see, is_supervisor) {
            let id = stat.identity();
            if let Some(known) = self.found.iter_mut().find(|l| l.stat.identity() == id) {
                known.kind = kind;
                continue;
            }
            new = true;
            let wanted = self.ends && matches!(kind, Kind::Ours | Kind::Supervisor);
            let (handle, gone) = match wanted.then(|| identity::open(&id)) {
                Some(Ok(Some(handle))) => (Some(handle), false),
                Some(Ok(None)) => (None, true),
                // No descriptor left, or the like: it is held only while it is told something.
                Some(Err(_)) | None => (None, false),
            };
            self.found.push(Leftover { stat, kind, handle, told: Told::Nothing, gone });
        }
        new
    }

    /// Notes who of those found has ended.
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

    /// Whether somebody lives in the task's cgroup although all that were found there are gone.
    fn is_crowded(&self) -> bool {
        let known = |l: &Leftover| !l.gone && (l.kind != Kind::Ours || l.awaited());
        self.task.cgroup.as_ref().is_some_and(Cgroup::is_populated) && !self.found.iter().any(known)
    }

    /// Ends all in the task's cgroup at once, if nobody in there is to be spared. Who forks faster than he
    /// can be found ends like this.
    fn kill_cgroup(&self) {
        let Some(cgroup) = &self.task.cgroup else { return };
        let members = cgroup.members();
        let is_spared = |l: &Leftover| !l.gone && l.kind != Kind::Ours && members.contains(&l.stat.pid);
        if !members.contains(&self.me) && !self.found.iter().any(is_spared) {
            cgroup.kill();
        }
    }

    /// Sends everyone who may be told it and has not been the signal for `word`.
    fn tell(&mut self, word: Told) {
        if !self.ends {
            return;
        }
        if word == Told::Kill {
            self.kill_cgroup();
        }
        for leftover in self.found.iter_mut().filter(|l| l.awaited()) {
            let Some(signal) = leftover.due(word) else { continue };
            let held = match leftover.handle.take() {
                Some(handle) => Ok(Some(handle)),
                None => identity::open(&leftover.stat.identity()),
            };
            match held {
                Ok(None) => leftover.gone = true,
                Err(_) => {}
                Ok(Some(handle)) => {
                    if let Some(now) = may_signal(&self.task, &self.mark, &handle, self.me) {
                        // What has become another user's may not be signalled; it ends with its cgroup.
                        let within = || self.task.cgroup.as_ref().is_some_and(|c| c.holds(now.pid));
                        leftover.told = match send(&handle, signal, &now) {
                            Err(_) if !within() => Told::Refused,
                            _ if signal == Signal::KILL => Told::Kill,
                            _ => Told::Term,
                        };
                    }
                    leftover.handle = Some(handle);
                }
            }
        }
    }
}

/// Looks for all of `hunts` at once, for each until two looks in a row find nothing new of it: all of
/// /proc is read for many tasks as often as for one.
fn look(
    hunts: &mut [&mut Hunt],
    picture: &mut Option<Picture>,
    is_supervisor: IsSupervisor<'_>,
) -> Result<(), Error> {
    // What is only counted is not worth reading all of /proc for at the end of each good run: the mark
    // alone could still be on what somebody else's daemon started, and `audit` shows that.
    let mut empty: Vec<u32> = hunts.iter().map(|h| if h.ends || !h.is_childless() { 0 } else { 2 }).collect();
    for _ in 0..LOOKS {
        if empty.iter().all(|n| *n == 2) {
            break;
        }
        let picture = match picture {
            Some(picture) => picture,
            None => {
                picture.insert(Picture { proc: Proc::open().map_err(Error::Proc)?, table: Table::default() })
            }
        };
        picture.proc.read(&mut picture.table).map_err(Error::Proc)?;
        for (hunt, empty) in hunts.iter_mut().zip(&mut empty).filter(|(_, empty)| **empty < 2) {
            *empty = if hunt.take_in(picture, is_supervisor) { 0 } else { *empty + 1 };
        }
    }
    for hunt in hunts.iter_mut().filter(|h| h.phase == Phase::New) {
        hunt.phase = Phase::Known;
    }
    Ok(())
}

/// What the process is now, if it may be signalled: it is our child, its environment still carries the
/// mark, or it is in the task's own cgroup. The handle keeps the pid from becoming another's between this
/// question and the signal.
fn may_signal(task: &Task, mark: &Whose, handle: &Handle, me: i32) -> Option<Stat> {
    let id = handle.identity();
    let now = identity::stat(id.pid).ok()?.filter(|s| s.identity() == id)?;
    let child = matches!(task.seat, Seat::Supervisor { .. }) && now.ppid == me;
    let within = || task.cgroup.as_ref().is_some_and(|c| c.holds(id.pid));
    (child || mark::carries_mark(id.pid, mark) == Mark::Carried || within()).then_some(now)
}

fn send(handle: &Handle, signal: Signal, now: &Stat) -> io::Result<bool> {
    let sent = handle.signal(signal)?;
    // A stopped process would sleep on its SIGTERM until the grace is over.
    if sent && signal == Signal::TERM && now.state == 'T' {
        handle.signal(Signal::CONT)?;
    }
    Ok(sent)
}

/// An unreadable `/proc` is not death.
fn is_gone(stat: &Stat) -> bool {
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
/// [`Error::Proc`].
pub fn children() -> Result<Vec<Identity>, Error> {
    if !any_child() {
        return Ok(Vec::new());
    }
    let mut table = Table::default();
    Proc::open().and_then(|mut p| p.read(&mut table)).map_err(Error::Proc)?;
    let me = std::process::id() as i32;
    Ok(table.rows().iter().filter(|s| s.ppid == me).map(Stat::identity).collect())
}

/// Drives hunts to their ends, side by side: for recovery, which has nothing else to do meanwhile.
///
/// # Errors
/// [`Error`].
pub fn end_all(hunts: &mut [Hunt], is_supervisor: IsSupervisor<'_>) -> Result<(), Error> {
    let mut picture = None;
    let mut next_look = Instant::now();
    loop {
        let now = Instant::now();
        let wants: Vec<bool> = hunts.iter_mut().map(|h| h.wants_a_look(now)).collect::<Result<_, _>>()?;
        // They are through one after the other: who will be in a moment is looked for with those who are.
        let all = hunts.iter().zip(&wants).all(|(hunt, wants)| *wants || hunt.phase == Phase::Done);
        let looks = wants.contains(&true) && (all || now >= next_look);
        if looks {
            let wanting = hunts.iter_mut().zip(&wants).filter(|(_, wants)| **wants);
            let mut wanting: Vec<&mut Hunt> = wanting.map(|(hunt, _)| hunt).collect();
            look(&mut wanting, &mut picture, is_supervisor)?;
            next_look = Instant::now() + BLIND;
        }
        let now = Instant::now();
        let step = |(hunt, wants): (&mut Hunt, bool)| match wants && !looks {
            true => Step::Wait(next_look),
            false => hunt.go_on(now, wants),
        };
        let steps: Vec<Step> = hunts.iter_mut().zip(wants).map(step).collect();
        let waits = |step: &Step| if let Step::Wait(at) = step { Some(*at) } else { None };
        let Some(until) = steps.iter().filter_map(waits).min() else { return Ok(()) };
        let waiting = hunts.iter().zip(&steps).filter(|(_, step)| **step != Step::Done);
        let mut fds: Vec<_> =
            waiting.flat_map(|(h, _)| h.fds()).map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        let timeout = identity::poll_timeout(until.saturating_duration_since(Instant::now()));
        match nix::poll::poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(Error::Wait(e.into())),
        }
    }
}

#[cfg(test)]
mod tests;
