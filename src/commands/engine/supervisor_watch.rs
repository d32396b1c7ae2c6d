//! What `monitor` watches: the files of the ledger, and the supervisors of tasks that may be lost.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use tracing::warn;

use super::scope::SelectedTasks;
use crate::ledger::{Ledger, LedgerEvent, LedgerWatch, LiveEvidence, WatchScope};
use crate::process::procfs::identity::{self, ProcessHandle};
use crate::process::watch::{WatchInterest, WatchSource};
use crate::recovery;
use crate::task::{Task, TaskId, Verdict};

/// The first pause before a supervisor without a descriptor is checked again; each pause is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
/// The longest of these pauses.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long after a hint such a supervisor is checked that often.
const ATTENTION: Duration = Duration::from_secs(30);
/// Time between two checks of a task that cannot be judged or settled.
const INTERVAL: Duration = Duration::from_secs(60);
/// The first pause before a record is merged again that the ledger did not take; each is twice as long.
const FIRST_MERGE_PAUSE: Duration = Duration::from_secs(1);
/// Time between two looks at the rows of a ledger that another program writes too.
const ROWS_INTERVAL: Duration = Duration::from_secs(1);

/// The watch of the ledger's files, and the supervisors that are watched one by one.
pub struct SupervisorWatch {
    /// `None`: the kernel has no room for a watch of the files.
    files: Option<LedgerWatch>,
    /// The spool was replaced: the slots of running tasks may be elsewhere.
    spool_was_replaced: bool,
    /// When the watch of the files is tried again.
    watch_due: Option<Instant>,
    tasks: BTreeMap<TaskId, WatchedTask>,
    /// The tasks that ended, and whose hooks and reports may be due.
    ended: BTreeSet<TaskId>,
    /// Hooks and reports of any task may be due.
    all_ended: bool,
    /// When the spool is merged again, and the pause after that: the ledger did not take a record.
    merge_due: Option<(Instant, Duration)>,
    /// When the rows are to be read.
    rows_due: Option<Instant>,
    rows_read: Instant,
}

/// A task whose supervisor is watched.
struct WatchedTask {
    /// Readable when the supervisor has ended; `None`: it is not reachable from here.
    supervisor: Option<ProcessHandle>,
    /// When it is checked again without that.
    at: Option<Instant>,
    pause: Duration,
    since: Instant,
    /// The supervisor has given back its slot, so it left no process.
    is_released: bool,
    /// It was reported that the task cannot be judged or settled.
    is_reported: bool,
    /// Its report is passed on again then, and not before.
    report_at: Option<Instant>,
}

/// What has changed since the last turn.
#[derive(Debug, Default)]
pub(super) struct WatchedChanges {
    /// The tasks to look at, and whether their supervisors have given back their slots.
    pub(super) tasks: Vec<(TaskId, bool)>,
    /// Records were put in the spool.
    pub(super) has_records: bool,
    /// The running rows are to be compared with what is watched.
    pub(super) rows: bool,
    /// The ledger may have joined a fleet or left it.
    pub(super) membership: bool,
    /// Every task is to be checked.
    pub(super) all: bool,
    /// The spool was replaced.
    pub(super) spool_is_replaced: bool,
    /// The watch of the files is to be tried again.
    pub(super) watch_again: bool,
    /// The ledger is to be opened again.
    pub(super) is_replaced: bool,
}

impl SupervisorWatch {
    /// Watches the files of `ledger` from now on, if the kernel has room. `spool_was_replaced`: that happened
    /// before.
    pub fn over(ledger: &Ledger, spool_was_replaced: bool) -> SupervisorWatch {
        let now = Instant::now();
        let mut supervisor_watch = SupervisorWatch {
            files: None,
            spool_was_replaced,
            watch_due: None,
            tasks: BTreeMap::new(),
            ended: BTreeSet::new(),
            all_ended: true,
            merge_due: None,
            rows_due: None,
            rows_read: now,
        };
        if let Err(e) = supervisor_watch.watch(ledger) {
            warn!("the files of the ledger cannot be watched ({e}): supervisors are watched one by one");
        }
        supervisor_watch
    }

    /// Watches the files of the ledger anew.
    ///
    /// # Errors
    /// When the kernel has no room, or a file is missing; it is tried again in a minute.
    pub(super) fn watch(&mut self, ledger: &Ledger) -> io::Result<()> {
        let now = Instant::now();
        // First, since the number of watches is limited.
        self.files = None;
        let watched = ledger.watch(WatchScope::All);
        self.watch_due = watched.is_err().then(|| now + INTERVAL);
        self.rows_due = watched.is_err().then(|| now + ROWS_INTERVAL);
        self.files = Some(watched?);
        Ok(())
    }

    /// Whether the files of the ledger are watched.
    pub fn sees_files(&self) -> bool {
        self.files.is_some()
    }

    /// The spool was replaced: the slots of running supervisors are elsewhere.
    pub(super) fn note_replaced_spool(&mut self) {
        self.spool_was_replaced = true;
    }

    pub(super) fn interests(&self) -> impl Iterator<Item = WatchInterest<'_>> {
        let files =
            self.files.iter().map(|f| WatchInterest { source: WatchSource::LedgerChange, fd: f.as_fd() });
        let supervisors = self.tasks.values().filter_map(|watched| watched.supervisor.as_ref());
        files.chain(supervisors.map(|s| WatchInterest { source: WatchSource::Supervisor, fd: s.as_fd() }))
    }

    /// When something is to be checked without an event.
    pub(super) fn due(&self) -> Option<Instant> {
        let tasks = self.tasks.values().filter_map(|watched| watched.at);
        tasks.chain(self.merge_due.map(|(at, _)| at)).chain(self.rows_due).chain(self.watch_due).min()
    }

    /// Reads the events that have arrived, and collects what is due.
    pub(super) fn read(&mut self) -> WatchedChanges {
        let (mut changes, mut hints) = (WatchedChanges::default(), BTreeMap::new());
        for event in self.files.iter_mut().flat_map(LedgerWatch::read) {
            match event {
                LedgerEvent::SupervisorClosed(id) => *hints.entry(id).or_default() |= false,
                LedgerEvent::Recorded(id) => {
                    changes.has_records = true;
                    *hints.entry(id).or_default() |= false;
                }
                LedgerEvent::Released(id) => *hints.entry(id).or_default() |= true,
                LedgerEvent::EndRecorded(_) => {}
                LedgerEvent::RowsChanged => {
                    self.rows_due.get_or_insert(self.rows_read + ROWS_INTERVAL);
                }
                LedgerEvent::MembershipChanged => changes.membership = true,
                LedgerEvent::Overflow => (changes.all, changes.membership) = (true, true),
                LedgerEvent::SpoolReplaced => changes.spool_is_replaced = true,
                LedgerEvent::LedgerReplaced => changes.is_replaced = true,
            }
        }
        let now = Instant::now();
        if self.rows_due.is_some_and(|at| at <= now) {
            changes.rows = true;
            changes.has_records |= self.files.is_none();
            changes.membership |= self.files.is_none();
            self.rows_read = now;
            self.rows_due = self.files.is_none().then_some(now + ROWS_INTERVAL);
        }
        changes.has_records |= self.merge_due.is_some_and(|(at, _)| at <= now);
        changes.watch_again = self.watch_due.is_some_and(|at| at <= now);
        for (id, watched) in &mut self.tasks {
            let has_exited =
                watched.supervisor.as_ref().is_some_and(|s| s.wait(Duration::ZERO).unwrap_or(true));
            if has_exited || watched.at.is_some_and(|at| at <= now) {
                watched.supervisor = None;
                watched.at = None;
                changes.tasks.push((id.clone(), watched.is_released));
            }
        }
        for (id, is_released) in hints {
            // Its supervisor exits now, however long it was watched before.
            if let Some(watched) = self.tasks.get_mut(&id) {
                (watched.since, watched.pause) = (now, FIRST_PAUSE);
            }
            changes.tasks.push((id, is_released));
        }
        changes
    }

    /// Watches the supervisor of a task that is alive, if it was hinted at or the files do not show its end.
    pub(super) fn keep(&mut self, task: &Task, ledger: &Ledger) {
        let now = Instant::now();
        let is_shown = || task.live_slot.is_some() && self.sees_slots() && ledger.has_slot(&task.id);
        if !self.tasks.contains_key(&task.id) && is_shown() {
            return;
        }
        let watched = self.tasks.entry(task.id.clone()).or_insert_with(|| WatchedTask::new(now, false));
        watched.supervisor = live_supervisor(task);
        watched.at = watched.supervisor.is_none().then(|| now + watched.next_pause(now));
    }

    /// Notes that the supervisor of a task is to be watched, whatever the files show.
    pub(super) fn hint(&mut self, id: &TaskId, is_released: bool) {
        let watched =
            self.tasks.entry(id.clone()).or_insert_with(|| WatchedTask::new(Instant::now(), is_released));
        // Once it was closed, another recovery may have removed it.
        watched.is_released &= is_released;
    }

    /// As [`SupervisorWatch::hint`], if nothing was noted before.
    pub(super) fn hint_first(&mut self, id: &TaskId) {
        self.tasks.entry(id.clone()).or_insert_with(|| WatchedTask::new(Instant::now(), false));
    }

    /// Whether the slot of a task was closed before its supervisor gave it back, as far as was noted.
    pub(super) fn was_closed(&self, id: &TaskId) -> bool {
        self.tasks.get(id).is_some_and(|watched| !watched.is_released)
    }

    fn sees_slots(&self) -> bool {
        self.files.is_some() && !self.spool_was_replaced
    }

    /// Checks a task again later that cannot be judged or settled; whether that was not reported yet.
    pub(super) fn check_later(&mut self, task: &Task) -> bool {
        let now = Instant::now();
        let watched = self.tasks.entry(task.id.clone()).or_insert_with(|| WatchedTask::new(now, false));
        watched.supervisor = live_supervisor(task);
        watched.at = Some(now + INTERVAL);
        !std::mem::replace(&mut watched.is_reported, true)
    }

    /// Whether the supervisor of a task is watched.
    pub(super) fn watches(&self, id: &TaskId) -> bool {
        self.tasks.get(id).is_some_and(|watched| watched.supervisor.is_some() || watched.at.is_some())
    }

    /// Looks at a task again in a minute.
    pub(super) fn retry(&mut self, id: &TaskId) {
        let now = Instant::now();
        self.tasks.entry(id.clone()).or_insert_with(|| WatchedTask::new(now, false)).at =
            Some(now + INTERVAL);
    }

    /// Reports a task again in a minute, and not before.
    pub(super) fn report_later(&mut self, id: &TaskId) {
        self.retry(id);
        self.tasks.entry(id.clone()).and_modify(|watched| watched.report_at = watched.at);
    }

    /// Whether the report of a task is to be tried again later.
    pub(super) fn reports_later(&self, id: &TaskId) -> bool {
        let at = self.tasks.get(id).and_then(|watched| watched.report_at);
        at.is_some_and(|at| at > Instant::now())
    }

    /// Looks at a task again soon: it was lost, and is not now.
    pub(super) fn check_again(&mut self, id: &TaskId) {
        let now = Instant::now();
        let watched = self.tasks.entry(id.clone()).or_insert_with(|| WatchedTask::new(now, false));
        watched.at = Some(now + watched.next_pause(now));
    }

    /// Checks a running task once a minute that nothing can prove to be alive, without a report.
    pub(super) fn expect_no_proof(&mut self, id: &TaskId) {
        self.hint(id, false);
        self.tasks.entry(id.clone()).and_modify(|watched| watched.is_reported = true);
    }

    /// Notes whether the ledger did not take a record of the spool; whether that was not so before.
    pub(super) fn note_waiting_records(&mut self, any: bool) -> bool {
        let pause = self.merge_due.map_or(FIRST_MERGE_PAUSE, |(_, pause)| pause);
        let is_new = self.merge_due.is_none();
        self.merge_due = any.then(|| (Instant::now() + pause, (pause * 2).min(INTERVAL)));
        is_new
    }

    /// Notes that hooks and reports of any task may be due.
    pub(super) fn all_ended(&mut self) {
        self.all_ended = true;
    }

    /// Whether hooks or reports may be due.
    pub(super) fn has_ended(&self) -> bool {
        self.all_ended || !self.ended.is_empty()
    }

    /// The tasks whose hooks and reports may be due, once. `None`: there is none.
    pub(super) fn take_ended(&mut self) -> Option<SelectedTasks> {
        let ended = std::mem::take(&mut self.ended);
        match std::mem::take(&mut self.all_ended) {
            true => Some(SelectedTasks(Vec::new())),
            false if ended.is_empty() => None,
            false => Some(SelectedTasks(ended.into_iter().collect())),
        }
    }

    /// Forgets a task.
    pub(super) fn forget(&mut self, id: &TaskId) {
        self.tasks.remove(id);
    }

    /// Notes that nothing of a task is alive any more.
    pub(super) fn ended(&mut self, id: &TaskId) {
        if !self.reports_later(id) {
            self.forget(id);
        }
        self.ended.insert(id.clone());
    }
}

impl WatchedTask {
    fn new(since: Instant, is_released: bool) -> WatchedTask {
        let (supervisor, pause) = (None, FIRST_PAUSE);
        WatchedTask { supervisor, at: None, pause, since, is_released, is_reported: false, report_at: None }
    }

    /// How long to wait before the next check.
    fn next_pause(&mut self, now: Instant) -> Duration {
        if now >= self.since + ATTENTION {
            return INTERVAL;
        }
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        pause
    }
}

/// The live supervisor of a task, if it is reachable from here.
pub(super) fn live_supervisor(task: &Task) -> Option<ProcessHandle> {
    let runs = recovery::judge(LiveEvidence::NoSlot, task) == Verdict::Alive;
    identity::open_recorded(recovery::comparable_supervisor(task).filter(|_| runs)?).ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::tests::World;

    #[test]
    fn a_supervisor_without_a_descriptor_is_checked_less_and_less_often() {
        let since = Instant::now();
        let mut watched = WatchedTask::new(since, false);
        let pauses: Vec<u128> = (0..12).map(|_| watched.next_pause(since).as_millis()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 1000]);
        assert_eq!(watched.next_pause(since + ATTENTION - FIRST_PAUSE), LONGEST_PAUSE);
        assert_eq!(watched.next_pause(since + ATTENTION), INTERVAL);
    }

    #[test]
    fn a_report_that_failed_is_due_in_a_minute_whatever_happens_meanwhile() {
        let world = World::new();
        let mut supervisor_watch = SupervisorWatch::over(&world.open(), false);
        let (id, began) = (TaskId::recorded("t"), Instant::now());
        supervisor_watch.take_ended();
        supervisor_watch.report_later(&id);
        supervisor_watch.ended(&id);
        assert!(supervisor_watch.has_ended() && supervisor_watch.reports_later(&id));
        let due = supervisor_watch.due().expect("a time");
        assert!(due >= began + INTERVAL && due <= Instant::now() + INTERVAL);
        supervisor_watch.forget(&id);
        supervisor_watch.ended(&id);
        assert_eq!((supervisor_watch.due(), supervisor_watch.reports_later(&id)), (None, false));
    }
}
