//! Whose is each process of a picture: the task's, a nested supervisor's, a person's. It only decides.

use serde::Serialize;

use crate::process::cgroup::Cgroup;
use crate::process::procfs::identity::ProcessStat;
use crate::process::procfs::mark::LedgerFile;
use crate::process::procfs::table::ProcessSnapshot;
use crate::task::{Identity, TaskId};

/// Who hunts.
#[derive(Debug, Clone)]
pub enum SweepOwner {
    /// The task's own supervisor, its subreaper since before the agent was forked: what is below it is the
    /// task's, but for its own helpers, and for the children that it had before
    /// ([`super::children`]). With such children about, an orphan without the mark may be theirs
    /// and is left alone; helpers, children that are not reaped yet, fork nothing and raise no such doubt.
    Supervisor { inherited: Vec<Identity>, helpers: Vec<i32> },
    /// Anybody else: only the mark tells.
    Stranger,
    /// As [`SweepOwner::Stranger`], for a ledger that others may write to: a process is also left to any supervisor
    /// above it, marked or not, since its row may have been forged.
    Doubter,
}

/// Whose left-overs.
#[derive(Debug, Clone)]
pub struct SweptTask {
    pub id: TaskId,
    /// The ledger that has its row.
    pub ledger: LedgerFile,
    /// Nothing that started before it belongs to the task; start 0: not known. Of this boot: after another
    /// one there is nothing to sweep.
    pub agent: Identity,
    /// The device number of the agent's controlling terminal ([`ProcessStat::tty_nr`]); 0: it had none.
    pub agent_tty: i32,
    pub owner: SweepOwner,
    /// Whether processes with `BOOKEND_DETACHED` are left ([`super::LeftoversPolicy`]).
    pub spares_detached: bool,
    /// The cgroup that is the task's alone: whoever is in it carries its mark, so to speak.
    pub cgroup: Option<Cgroup>,
}

/// Says of a process whether it is a supervisor that holds its live lock: only the ledger's side knows.
pub type IsSupervisor<'a> = &'a dyn Fn(&ProcessStat) -> bool;

/// What a process's environment says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MarkCheck {
    Marked,
    /// Marked, but another user's process: the task's only if it is below us.
    MarkedOfAnother,
    /// Marked with the task's id, and it cannot be told whether with its ledger ([`crate::process::procfs::mark`]).
    Doubtful,
    Unmarked,
    /// It exits, and its environment went with its memory: nothing tells whose it is.
    Exiting,
    ExitingOfAnother,
    Unreadable,
    UnreadableOfAnother,
}

/// What a process is to the sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessClass {
    Ours,
    /// Holds its live lock: it is told to end, and ends its own task itself.
    Supervisor,
    Spared(SparedReason),
    Unreadable,
    /// It exits, and may be the task's: its end is waited for, and it is sent nothing.
    Exiting,
}

/// Why one of the task's processes is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SparedReason {
    /// It serves a terminal that is not the agent's, or sits at one: a person may be using it.
    Terminal,
    /// Not our child, and its environment does not carry the mark: nothing proves it at the last moment.
    Unmarked,
    /// Its environment names the task, and a ledger of which it cannot be told whether it is this one.
    UnknownLedger,
    /// It is the task's, and its environment cannot be read, so nothing proves it at the last moment: it may
    /// have changed its user.
    Unreadable,
    /// A supervisor that still settles its own task.
    Supervisor,
    /// A supervisor lives above it, whatever its row says: others may have written that.
    Supervised,
    /// It is being killed, or exits, and did not come to its end in time (a hung disk, a core dump).
    Dying,
    /// Its environment says `BOOKEND_DETACHED=1`: it serves others than the task.
    Detached,
    /// It is the agent, or our child, and `/proc` does not show it: it may have changed its user.
    Hidden,
}

pub struct ScanView<'a> {
    pub task: &'a SweptTask,
    pub me: i32,
    pub table: &'a ProcessSnapshot,
}

impl ScanView<'_> {
    /// Whether a process is the agent, or below it or us.
    pub fn is_related(&self, stat: &ProcessStat) -> bool {
        let is_root = |s: &ProcessStat| s.pid == self.me || s.identity() == self.task.agent;
        let rows = self.table.rows();
        let above = self.table.index(stat.pid).map(|i| self.table.above(i));
        is_root(stat) || above.into_iter().flatten().any(|a| is_root(&rows[a]))
    }
}

/// Sorts out what concerns the task; `see` is asked at most once of each process that may.
pub fn sort(
    scene: &ScanView<'_>,
    see: &mut dyn FnMut(&ProcessStat) -> MarkCheck,
    is_supervisor: IsSupervisor<'_>,
) -> Vec<(ProcessStat, ProcessClass)> {
    let rows = scene.table.rows();
    let ancestors: Vec<usize> = match scene.table.index(scene.me) {
        Some(me) => scene.table.above(me).collect(),
        None => Vec::new(),
    };
    let helpers: &[i32] = match &scene.task.owner {
        SweepOwner::Supervisor { helpers, .. } => helpers,
        SweepOwner::Stranger | SweepOwner::Doubter => &[],
    };
    let sights: Vec<Option<MarkCheck>> = rows
        .iter()
        .enumerate()
        .map(|(i, s)| {
            let may_be = s.start >= scene.task.agent.start
                && !s.is_kernel_thread()
                && !s.is_dead()
                && s.pid != scene.me
                && !ancestors.contains(&i)
                && !helpers.contains(&s.pid);
            may_be.then(|| see(s))
        })
        .collect();
    let mut asked = vec![None; rows.len()];
    let mut judge = Judge {
        terminals: Terminals::of(scene),
        scene,
        sights: &sights,
        is_supervisor: &mut |i| *asked[i].get_or_insert_with(|| is_supervisor(&rows[i])),
    };
    let kinds = (0..rows.len()).filter_map(|i| Some((rows[i], judge.kind(i, sights[i]?)?)));
    kinds.collect()
}

/// Where the terminals are that are not the agent's.
struct Terminals {
    /// Itself or something below it has one.
    reaches: Vec<bool>,
    /// A child of it has one.
    serves: Vec<bool>,
}

impl Terminals {
    fn of(scene: &ScanView<'_>) -> Terminals {
        let rows = scene.table.rows();
        let mut reaches = vec![false; rows.len()];
        let mut serves = vec![false; rows.len()];
        let foreign = |s: &ProcessStat| s.tty_nr != 0 && s.tty_nr != scene.task.agent_tty && !s.is_dead();
        for i in (0..rows.len()).filter(|i| foreign(&rows[*i])) {
            reaches[i] = true;
            for (n, up) in scene.table.above(i).enumerate() {
                serves[up] |= n == 0;
                // Those above were reached with the first that reached this one.
                if std::mem::replace(&mut reaches[up], true) {
                    break;
                }
            }
        }
        Terminals { reaches, serves }
    }
}

struct Judge<'a> {
    scene: &'a ScanView<'a>,
    sights: &'a [Option<MarkCheck>],
    terminals: Terminals,
    is_supervisor: &'a mut dyn FnMut(usize) -> bool,
}

impl Judge<'_> {
    fn kind(&mut self, i: usize, sight: MarkCheck) -> Option<ProcessClass> {
        let rows = self.scene.table.rows();
        let above: Vec<usize> =
            self.scene.table.above(i).take_while(|a| rows[*a].pid != self.scene.me).collect();
        let below_us = self.is_below_us(i, &above);
        let below_agent =
            std::iter::once(&i).chain(&above).any(|a| rows[*a].identity() == self.scene.task.agent);
        let marked_above = above.iter().any(|a| self.is_marked(*a));
        let rooted = below_us || below_agent;
        let marked = match sight {
            MarkCheck::Marked => true,
            MarkCheck::MarkedOfAnother => rooted,
            MarkCheck::Doubtful if !below_us => {
                return Some(ProcessClass::Spared(SparedReason::UnknownLedger));
            }
            MarkCheck::Doubtful | MarkCheck::Unmarked => false,
            MarkCheck::Unreadable | MarkCheck::UnreadableOfAnother if rooted => false,
            MarkCheck::Exiting | MarkCheck::ExitingOfAnother if rooted || marked_above => false,
            // A supervisor's processes are all below it.
            MarkCheck::Exiting => return self.is_for_a_stranger().then_some(ProcessClass::Exiting),
            MarkCheck::ExitingOfAnother => return None,
            MarkCheck::Unreadable => return Some(ProcessClass::Unreadable),
            MarkCheck::UnreadableOfAnother => return marked_above.then_some(ProcessClass::Unreadable),
        };
        if !(marked || rooted || marked_above) {
            return None;
        }
        let doubts = matches!(self.scene.task.owner, SweepOwner::Doubter);
        for a in &above {
            if (below_us || doubts || self.is_marked(*a)) && (self.is_supervisor)(*a) {
                return (doubts && marked).then_some(ProcessClass::Spared(SparedReason::Supervised));
            }
        }
        if matches!(sight, MarkCheck::Unreadable | MarkCheck::UnreadableOfAnother) {
            return Some(ProcessClass::Spared(SparedReason::Unreadable));
        }
        if matches!(sight, MarkCheck::Exiting | MarkCheck::ExitingOfAnother) {
            return Some(if below_us { ProcessClass::Ours } else { ProcessClass::Exiting });
        }
        Some(if self.belongs_to_a_terminal(i, &above, rooted) {
            ProcessClass::Spared(SparedReason::Terminal)
        } else if (self.is_supervisor)(i) {
            ProcessClass::Supervisor
        } else if marked || below_us {
            ProcessClass::Ours
        } else {
            ProcessClass::Spared(SparedReason::Unmarked)
        })
    }

    fn is_for_a_stranger(&self) -> bool {
        matches!(self.scene.task.owner, SweepOwner::Stranger | SweepOwner::Doubter)
    }

    fn is_marked(&self, i: usize) -> bool {
        self.sights[i] == Some(MarkCheck::Marked)
    }

    /// Whether it is below us and the task's. Where we were given children before the task began, what is
    /// below those is not, and what came to us as an orphan may be either's: only a mark decides then.
    fn is_below_us(&self, i: usize, above: &[usize]) -> bool {
        let SweepOwner::Supervisor { inherited, .. } = &self.scene.task.owner else {
            return false;
        };
        let rows = self.scene.table.rows();
        let top = above.last().copied().unwrap_or(i);
        if rows[top].ppid != self.scene.me {
            return false;
        }
        let carries =
            |a: &usize| matches!(self.sights[*a], Some(MarkCheck::Marked | MarkCheck::MarkedOfAnother));
        inherited.is_empty() || std::iter::once(&i).chain(above).any(carries)
    }

    /// By its mark alone, a process is spared if it or one below it has a terminal that is not the agent's,
    /// or if it is below such a one. What the agent itself started is spared only if it is, or is below, a
    /// daemon that serves terminals: a tmux server begun within the task, which people use outside it.
    fn belongs_to_a_terminal(&self, i: usize, above: &[usize], rooted: bool) -> bool {
        let mut family = std::iter::once(i).chain(above.iter().copied());
        if rooted {
            family.any(|a| self.is_terminal_server(a))
        } else {
            self.terminals.reaches[i] || family.any(|a| self.is_marked(a) && self.terminals.reaches[a])
        }
    }

    /// Without a terminal, in a session that it or nobody leads, left by the parent that started it, and
    /// with a child on a terminal that is not the agent's.
    fn is_terminal_server(&self, i: usize) -> bool {
        let rows = self.scene.table.rows();
        let s = &rows[i];
        let leads = s.session == s.pid || self.scene.table.index(s.session).is_none();
        self.terminals.serves[i] && s.tty_nr == 0 && leads && s.ppid == self.scene.me
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::procfs::identity::{Comm, ProcessStat};

    const ME: i32 = 100;
    const AGENT_TTY: i32 = 7;

    fn row(pid: i32, ppid: i32) -> ProcessStat {
        ProcessStat {
            pid,
            comm: Comm::new(b"x"),
            state: 'S',
            ppid,
            pgrp: pid,
            session: 50,
            tty_nr: 0,
            flags: 0,
            threads: 1,
            start: 1000,
        }
    }

    fn at(tty_nr: i32, row: ProcessStat) -> ProcessStat {
        ProcessStat { tty_nr, ..row }
    }

    fn leader(row: ProcessStat) -> ProcessStat {
        ProcessStat { session: row.pid, ..row }
    }

    struct World {
        owner: SweepOwner,
        rows: Vec<ProcessStat>,
        marked: Vec<i32>,
        supervisors: Vec<i32>,
        /// What else there is to be seen.
        sights: Vec<(i32, MarkCheck)>,
    }

    impl World {
        fn of(owner: SweepOwner, rows: &[ProcessStat], marked: &[i32]) -> World {
            let shell = ProcessStat { start: 10, ..row(50, 1) };
            let me = ProcessStat { start: 990, ..row(ME, 50) };
            let rows = [&[ProcessStat { start: 1, ..row(1, 0) }, shell, me], rows].concat();
            World { owner, rows, marked: marked.to_vec(), supervisors: Vec::new(), sights: Vec::new() }
        }

        fn supervisor(rows: &[ProcessStat], marked: &[i32]) -> World {
            World::of(SweepOwner::Supervisor { inherited: Vec::new(), helpers: Vec::new() }, rows, marked)
        }

        fn kinds(self) -> Vec<(i32, ProcessClass)> {
            let task = SweptTask {
                id: TaskId::recorded("t"),
                ledger: LedgerFile::at(std::path::Path::new("/l.db")),
                agent: Identity { pid: 200, start: 1000 },
                agent_tty: AGENT_TTY,
                owner: self.owner,
                spares_detached: true,
                cgroup: None,
            };
            let table = ProcessSnapshot::of(self.rows);
            let scene = ScanView { task: &task, me: ME, table: &table };
            let see = &mut |s: &ProcessStat| match self.sights.iter().find(|(pid, _)| *pid == s.pid) {
                Some((_, sight)) => *sight,
                None if self.marked.contains(&s.pid) => MarkCheck::Marked,
                None => MarkCheck::Unmarked,
            };
            let found = sort(&scene, see, &|s| self.supervisors.contains(&s.pid));
            found.into_iter().map(|(s, k)| (s.pid, k)).collect()
        }
    }

    #[test]
    fn what_is_below_the_supervisor_is_the_tasks_marked_or_not() {
        let world = World::supervisor(&[row(201, ME), row(202, 201), row(300, 1)], &[]);
        assert_eq!(world.kinds(), [(201, ProcessClass::Ours), (202, ProcessClass::Ours)]);
    }

    #[test]
    fn what_was_there_before_the_agent_is_not_the_tasks() {
        let old = ProcessStat { start: 999, ..row(99, ME) };
        assert_eq!(World::supervisor(&[old], &[99]).kinds(), []);
    }

    #[test]
    fn inherited_children_and_what_is_below_them_are_strangers() {
        let inherited =
            SweepOwner::Supervisor { inherited: vec![row(98, ME).identity()], helpers: Vec::new() };
        let rows = [row(98, ME), row(201, 98), row(202, ME), row(203, ME), row(204, 203)];
        let world = World::of(inherited, &rows, &[203]);
        assert_eq!(world.kinds(), [(203, ProcessClass::Ours), (204, ProcessClass::Ours)]);
    }

    #[test]
    fn a_helper_is_not_the_tasks_and_takes_nothing_from_it() {
        let helpers = vec![201];
        let owner = SweepOwner::Supervisor { inherited: Vec::new(), helpers };
        let world = World::of(owner, &[row(201, ME), row(202, ME)], &[]);
        assert_eq!(world.kinds(), [(202, ProcessClass::Ours)]);
    }

    #[test]
    fn ancestors_zombies_and_kernel_threads_are_never_found() {
        let zombie = ProcessStat { state: 'Z', ..row(201, ME) };
        let kernel = ProcessStat { flags: 0x0020_0000, ..row(202, 2) };
        let mut world = World::supervisor(&[zombie, kernel], &[1, 50, ME, 201, 202]);
        for row in &mut world.rows {
            row.start = 2000;
        }
        assert_eq!(world.kinds(), []);
    }

    #[test]
    fn the_mark_finds_what_is_not_below_and_its_unmarked_children_are_left() {
        let world = World::of(SweepOwner::Stranger, &[row(201, 1), row(202, 201), row(203, ME)], &[201]);
        assert_eq!(
            world.kinds(),
            [(201, ProcessClass::Ours), (202, ProcessClass::Spared(SparedReason::Unmarked))]
        );
    }

    #[test]
    fn where_the_ledger_that_is_named_leads_nowhere_a_process_is_counted_and_left() {
        let doubtful = |owner, rows: &[ProcessStat]| {
            let mut world = World::of(owner, rows, &[]);
            world.sights = vec![(200, MarkCheck::Doubtful), (201, MarkCheck::Doubtful)];
            world.kinds()
        };
        let spared = ProcessClass::Spared(SparedReason::UnknownLedger);
        assert_eq!(
            doubtful(SweepOwner::Stranger, &[row(200, 1), row(201, 1)]),
            [(200, spared), (201, spared)]
        );
        let owner = SweepOwner::Supervisor { inherited: Vec::new(), helpers: Vec::new() };
        assert_eq!(
            doubtful(owner, &[row(201, ME), row(202, 1)]),
            [(201, ProcessClass::Ours)],
            "it is below us"
        );
    }

    #[test]
    fn a_process_that_changed_its_user_is_counted_and_left() {
        let unreadable = |owner, rows: &[ProcessStat], supervisors: &[i32]| {
            let mut world = World::of(owner, rows, &[]);
            world.sights = vec![(200, MarkCheck::UnreadableOfAnother), (201, MarkCheck::Unreadable)];
            world.supervisors = supervisors.to_vec();
            world.kinds()
        };
        let spared = ProcessClass::Spared(SparedReason::Unreadable);
        let rows = [row(200, 1), row(201, 200)];
        assert_eq!(unreadable(SweepOwner::Stranger, &rows, &[]), [(200, spared), (201, spared)]);
        assert_eq!(unreadable(SweepOwner::Stranger, &[row(201, 1)], &[]), [(201, ProcessClass::Unreadable)]);
        let below = [row(202, ME), row(201, 202)];
        let owner = || SweepOwner::Supervisor { inherited: Vec::new(), helpers: Vec::new() };
        assert_eq!(unreadable(owner(), &below, &[]), [(201, spared), (202, ProcessClass::Ours)]);
        assert_eq!(
            unreadable(owner(), &below, &[202]),
            [(202, ProcessClass::Supervisor)],
            "left to the nested one"
        );
    }

    #[test]
    fn an_exiting_process_is_waited_for_unless_it_cannot_be_the_tasks() {
        let exiting = |owner, rows: &[ProcessStat], marked: &[i32]| {
            let mut world = World::of(owner, rows, marked);
            world.sights = vec![(201, MarkCheck::Exiting), (202, MarkCheck::ExitingOfAnother)];
            world.kinds()
        };
        let supervisor = || SweepOwner::Supervisor { inherited: Vec::new(), helpers: Vec::new() };
        let exits = ProcessClass::Exiting;
        assert_eq!(exiting(SweepOwner::Stranger, &[row(201, 1), row(202, 1)], &[]), [(201, exits)]);
        assert_eq!(exiting(supervisor(), &[row(201, 1), row(202, 1)], &[]), [], "all of it is below us");
        assert_eq!(exiting(supervisor(), &[row(201, ME)], &[]), [(201, ProcessClass::Ours)]);
        let below = [row(203, 1), row(202, 203)];
        assert_eq!(exiting(SweepOwner::Stranger, &below, &[203]), [(202, exits), (203, ProcessClass::Ours)]);
        let before = ProcessStat { start: 999, ..row(201, 1) };
        assert_eq!(exiting(SweepOwner::Stranger, &[before], &[]), []);
    }

    #[test]
    fn a_nested_supervisor_is_told_and_what_is_below_it_is_left_to_it() {
        let mut world = World::supervisor(&[row(201, ME), row(202, 201), row(203, 202)], &[201, 203]);
        world.supervisors = vec![201];
        assert_eq!(world.kinds(), [(201, ProcessClass::Supervisor)]);
    }

    #[test]
    fn the_supervisor_around_a_dead_task_does_not_shield_its_left_overs() {
        let outer = ProcessStat { start: 5, ..row(40, 1) };
        let mut world = World::of(SweepOwner::Stranger, &[outer, row(201, 40)], &[201]);
        world.supervisors = vec![40];
        assert_eq!(world.kinds(), [(201, ProcessClass::Ours)]);
    }

    #[test]
    fn where_rows_prove_nothing_any_supervisor_above_keeps_what_is_below_it() {
        let outer = ProcessStat { start: 5, ..row(40, 1) };
        let mut world =
            World::of(SweepOwner::Doubter, &[outer, row(201, 40), row(202, 201), row(203, 1)], &[201, 203]);
        world.supervisors = vec![40];
        assert_eq!(
            world.kinds(),
            [(201, ProcessClass::Spared(SparedReason::Supervised)), (203, ProcessClass::Ours)]
        );
    }

    #[test]
    fn by_its_mark_alone_a_process_at_another_terminal_is_spared() {
        let rows = [at(9, row(201, 1)), at(AGENT_TTY, row(202, 1)), row(203, 1)];
        let world = World::of(SweepOwner::Stranger, &rows, &[201, 202, 203]);
        let spared = ProcessClass::Spared(SparedReason::Terminal);
        assert_eq!(world.kinds(), [(201, spared), (202, ProcessClass::Ours), (203, ProcessClass::Ours)]);
    }

    #[test]
    fn a_terminal_server_found_by_its_mark_is_spared_with_all_below_it() {
        let rows = [leader(row(201, 1)), at(9, leader(row(202, 201))), row(203, 202), leader(row(204, 203))];
        let world = World::of(SweepOwner::Stranger, &rows, &[201, 202, 203, 204]);
        assert!(world.kinds().iter().all(|(_, k)| *k == ProcessClass::Spared(SparedReason::Terminal)));
    }

    #[test]
    fn a_terminal_server_that_became_our_child_is_spared_with_all_below_it() {
        let rows = [leader(row(201, ME)), at(9, leader(row(202, 201))), row(203, 202), row(204, ME)];
        let world = World::supervisor(&rows, &[201, 202, 203, 204]);
        let spared = ProcessClass::Spared(SparedReason::Terminal);
        assert_eq!(world.kinds(), [(201, spared), (202, spared), (203, spared), (204, ProcessClass::Ours)]);
    }

    #[test]
    fn a_job_of_the_agent_with_a_terminal_of_its_own_is_still_the_agents() {
        let rows = [row(201, ME), at(9, leader(row(202, 201)))];
        let world = World::supervisor(&rows, &[201, 202]);
        assert_eq!(world.kinds(), [(201, ProcessClass::Ours), (202, ProcessClass::Ours)]);
    }

    #[test]
    fn the_agent_that_outlived_its_supervisor_is_not_spared_for_a_child_at_a_terminal() {
        let rows = [row(200, 1), row(201, 200), at(9, leader(row(202, 201)))];
        let world = World::of(SweepOwner::Stranger, &rows, &[200, 201, 202]);
        assert!(world.kinds().iter().all(|(_, k)| *k == ProcessClass::Ours));
    }
}
