//! What `monitor` watches: the files of the ledger, and the supervisors of tasks that may be lost.

use std::collections::{BTreeMap, BTreeSet};
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
pub struct Lookout {
    /// `None`: the kernel has no room for a watch of the files.
    files: Option<LedgerWatch>,
    /// The spool was replaced: the slots of running tasks may be elsewhere.
    was_blind: bool,
    /// When the watch of the files is tried again.
    watch_due: Option<Instant>,
    doubts: BTreeMap<TaskId, Doubt>,
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
struct Doubt {
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

/// What a lookout has seen.
#[derive(Debug, Default)]
pub(super) struct Sighting {
    /// The tasks to look at, and whether their supervisors have given back their slots.
    pub(super) tasks: Vec<(TaskId, bool)>,
    /// Records were put in the spool.
    pub(super) has_records: bool,
    /// The running rows are to be compared with what is watched.
    pub(super) rows: bool,
    /// Every task is to be checked.
    pub(super) all: bool,
    /// The spool was replaced.
    pub(super) is_blind: bool,
    /// The watch of the files is to be tried again.
    pub(super) watch_again: bool,
    /// The ledger is to be opened again.
    pub(super) is_replaced: bool,
}

impl Lookout {
    /// Watches the files of `ledger` from now on, if the kernel has room. `was_blind`: the spool was replaced
    /// before.
    pub fn over(ledger: &Ledger, was_blind: bool) -> Lookout {
        let now = Instant::now();
        let mut lookout = Lookout {
            files: None,
            was_blind,
            watch_due: None,
            doubts: BTreeMap::new(),
            ended: BTreeSet::new(),
            all_ended: true,
            merge_due: None,
            rows_due: None,
            rows_read: now,
        };
        lookout.watch(ledger);
        lookout
    }

    /// Watches the files of the ledger anew; whether the kernel has room.
    pub(super) fn watch(&mut self, ledger: &Ledger) -> bool {
        let now = Instant::now();
        let was_watching = self.watch_due.is_none();
        // First, since the number of watches is limited.
        self.files = None;
        self.files = match ledger.watch(WatchScope::All) {
            Ok(files) => Some(files),
            Err(e) => {
                if was_watching {
                    warn!(
                        "the files of the ledger cannot be watched ({e}): supervisors are watched one by one"
                    );
                }
                None
            }
        };
        let is_blind = self.files.is_none();
        self.watch_due = is_blind.then(|| now + INTERVAL);
        self.rows_due = is_blind.then(|| now + ROWS_INTERVAL);
        !is_blind
    }

    /// Whether the files of the ledger are watched.
    pub fn sees_files(&self) -> bool {
        self.files.is_some()
    }

    /// The spool was replaced: the slots of running supervisors are elsewhere.
    pub(super) fn lose_slots(&mut self) {
        self.was_blind = true;
    }

    pub(super) fn interests(&self) -> impl Iterator<Item = WatchInterest<'_>> {
        let files =
            self.files.iter().map(|f| WatchInterest { source: WatchSource::LedgerChange, fd: f.as_fd() });
        let supervisors = self.doubts.values().filter_map(|doubt| doubt.supervisor.as_ref());
        files.chain(supervisors.map(|s| WatchInterest { source: WatchSource::Supervisor, fd: s.as_fd() }))
    }

    /// When something is to be checked without an event.
    pub(super) fn due(&self) -> Option<Instant> {
        let tasks = self.doubts.values().filter_map(|doubt| doubt.at);
        tasks.chain(self.merge_due.map(|(at, _)| at)).chain(self.rows_due).chain(self.watch_due).min()
    }

    /// Reads the events that have arrived, and collects what is due.
    pub(super) fn read(&mut self) -> Sighting {
        let (mut seen, mut hints) = (Sighting::default(), BTreeMap::new());
        for event in self.files.iter_mut().flat_map(LedgerWatch::read) {
            match event {
                LedgerEvent::SupervisorClosed(id) => *hints.entry(id).or_default() |= false,
                LedgerEvent::Recorded(id) => {
                    seen.has_records = true;
                    *hints.entry(id).or_default() |= false;
                }
                LedgerEvent::Released(id) => *hints.entry(id).or_default() |= true,
                LedgerEvent::EndRecorded(_) => {}
                LedgerEvent::RowsChanged => {
                    self.rows_due.get_or_insert(self.rows_read + ROWS_INTERVAL);
                }
                LedgerEvent::Overflow => seen.all = true,
                LedgerEvent::SpoolReplaced => seen.is_blind = true,
                LedgerEvent::LedgerReplaced => seen.is_replaced = true,
            }
        }
        let now = Instant::now();
        if self.rows_due.is_some_and(|at| at <= now) {
            seen.rows = true;
            seen.has_records |= self.files.is_none();
            self.rows_read = now;
            self.rows_due = self.files.is_none().then_some(now + ROWS_INTERVAL);
        }
        seen.has_records |= self.merge_due.is_some_and(|(at, _)| at <= now);
        seen.watch_again = self.watch_due.is_some_and(|at| at <= now);
        for (id, doubt) in &mut self.doubts {
            let has_exited =
                doubt.supervisor.as_ref().is_some_and(|s| s.wait(Duration::ZERO).unwrap_or(true));
            if has_exited || doubt.at.is_some_and(|at| at <= now) {
                doubt.supervisor = None;
                doubt.at = None;
                seen.tasks.push((id.clone(), doubt.is_released));
            }
        }
        for (id, is_released) in hints {
            // Its supervisor exits now, however long it was watched before.
            if let Some(doubt) = self.doubts.get_mut(&id) {
                (doubt.since, doubt.pause) = (now, FIRST_PAUSE);
            }
            seen.tasks.push((id, is_released));
        }
        seen
    }

    /// Watches the supervisor of a task that is alive, if it was hinted at or the files do not show its end.
    pub(super) fn keep(&mut self, task: &Task, ledger: &Ledger) {
        let now = Instant::now();
        let is_shown = || task.live_slot.is_some() && self.sees_slots() && ledger.has_slot(&task.id);
        if !self.doubts.contains_key(&task.id) && is_shown() {
            return;
        }
        let doubt = self.doubts.entry(task.id.clone()).or_insert_with(|| Doubt::new(now, false));
        doubt.supervisor = live_supervisor(task);
        doubt.at = doubt.supervisor.is_none().then(|| now + doubt.next_pause(now));
    }

    /// Notes that the supervisor of a task is to be watched, whatever the files show.
    pub(super) fn hint(&mut self, id: &TaskId, is_released: bool) {
        let doubt = self.doubts.entry(id.clone()).or_insert_with(|| Doubt::new(Instant::now(), is_released));
        // Once it was closed, another recovery may have removed it.
        doubt.is_released &= is_released;
    }

    /// As [`Lookout::hint`], if nothing was noted before.
    pub(super) fn hint_first(&mut self, id: &TaskId) {
        self.doubts.entry(id.clone()).or_insert_with(|| Doubt::new(Instant::now(), false));
    }

    /// Whether the slot of a task was closed before its supervisor gave it back, as far as was noted.
    pub(super) fn was_closed(&self, id: &TaskId) -> bool {
        self.doubts.get(id).is_some_and(|doubt| !doubt.is_released)
    }

    fn sees_slots(&self) -> bool {
        self.files.is_some() && !self.was_blind
    }

    /// Checks a task again later that cannot be judged or settled; whether that was not reported yet.
    pub(super) fn doubt(&mut self, task: &Task) -> bool {
        let now = Instant::now();
        let doubt = self.doubts.entry(task.id.clone()).or_insert_with(|| Doubt::new(now, false));
        doubt.supervisor = live_supervisor(task);
        doubt.at = Some(now + INTERVAL);
        !std::mem::replace(&mut doubt.is_reported, true)
    }

    /// Whether the supervisor of a task is watched.
    pub(super) fn watches(&self, id: &TaskId) -> bool {
        self.doubts.get(id).is_some_and(|doubt| doubt.supervisor.is_some() || doubt.at.is_some())
    }

    /// Looks at a task again in a minute.
    pub(super) fn retry(&mut self, id: &TaskId) {
        let now = Instant::now();
        self.doubts.entry(id.clone()).or_insert_with(|| Doubt::new(now, false)).at = Some(now + INTERVAL);
    }

    /// Reports a task again in a minute, and not before.
    pub(super) fn report_later(&mut self, id: &TaskId) {
        self.retry(id);
        self.doubts.entry(id.clone()).and_modify(|doubt| doubt.report_at = doubt.at);
    }

    /// Whether the report of a task is to be tried again later.
    pub(super) fn reports_later(&self, id: &TaskId) -> bool {
        let at = self.doubts.get(id).and_then(|doubt| doubt.report_at);
        at.is_some_and(|at| at > Instant::now())
    }

    /// Looks at a task again soon: it was lost, and is not now.
    pub(super) fn look_again(&mut self, id: &TaskId) {
        let now = Instant::now();
        let doubt = self.doubts.entry(id.clone()).or_insert_with(|| Doubt::new(now, false));
        doubt.at = Some(now + doubt.next_pause(now));
    }

    /// Checks a running task once a minute that nothing can prove to be alive, without a report.
    pub(super) fn expect_no_proof(&mut self, id: &TaskId) {
        self.hint(id, false);
        self.doubts.entry(id.clone()).and_modify(|doubt| doubt.is_reported = true);
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
        self.doubts.remove(id);
    }

    /// Notes that nothing of a task is alive any more.
    pub(super) fn ended(&mut self, id: &TaskId) {
        if !self.reports_later(id) {
            self.forget(id);
        }
        self.ended.insert(id.clone());
    }
}

impl Doubt {
    fn new(since: Instant, is_released: bool) -> Doubt {
        let (supervisor, pause) = (None, FIRST_PAUSE);
        Doubt { supervisor, at: None, pause, since, is_released, is_reported: false, report_at: None }
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
        let mut doubt = Doubt::new(since, false);
        let pauses: Vec<u128> = (0..12).map(|_| doubt.next_pause(since).as_millis()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 1000]);
        assert_eq!(doubt.next_pause(since + ATTENTION - FIRST_PAUSE), LONGEST_PAUSE);
        assert_eq!(doubt.next_pause(since + ATTENTION), INTERVAL);
    }

    #[test]
    fn a_report_that_failed_is_due_in_a_minute_whatever_happens_meanwhile() {
        let world = World::new();
        let mut lookout = Lookout::over(&world.open(), false);
        let (id, began) = (TaskId::recorded("t"), Instant::now());
        lookout.take_ended();
        lookout.report_later(&id);
        lookout.ended(&id);
        assert!(lookout.has_ended() && lookout.reports_later(&id));
        let due = lookout.due().expect("a time");
        assert!(due >= began + INTERVAL && due <= Instant::now() + INTERVAL);
        lookout.forget(&id);
        lookout.ended(&id);
        assert_eq!((lookout.due(), lookout.reports_later(&id)), (None, false));
    }
}
