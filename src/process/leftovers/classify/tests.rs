//! The class of each process in constructed scans.

use super::*;
use crate::process::procfs::identity::Comm;
use crate::process::procfs::mark::LedgerFile;
use crate::task::{ProcessIdentity, TaskId};

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
    /// The processes whose mark check has another result.
    checks: Vec<(i32, MarkCheck)>,
}

impl World {
    fn of(owner: SweepOwner, rows: &[ProcessStat], marked: &[i32]) -> World {
        let shell = ProcessStat { start: 10, ..row(50, 1) };
        let me = ProcessStat { start: 990, ..row(ME, 50) };
        let rows = [&[ProcessStat { start: 1, ..row(1, 0) }, shell, me], rows].concat();
        World { owner, rows, marked: marked.to_vec(), supervisors: Vec::new(), checks: Vec::new() }
    }

    fn supervisor(rows: &[ProcessStat], marked: &[i32]) -> World {
        World::of(SweepOwner::Supervisor { inherited: Vec::new(), helpers: Vec::new() }, rows, marked)
    }

    fn classes(self) -> Vec<(i32, ProcessClass)> {
        let task = SweptTask {
            id: TaskId::recorded("t"),
            ledger: LedgerFile::at(std::path::Path::new("/l.db")),
            agent: ProcessIdentity { pid: 200, start: 1000 },
            agent_tty: AGENT_TTY,
            owner: self.owner,
            spares_detached: true,
            cgroup: None,
        };
        let snapshot = ProcessSnapshot::of(self.rows);
        let view = ScanView { task: &task, me: ME, snapshot: &snapshot };
        let check = &mut |s: &ProcessStat| match self.checks.iter().find(|(pid, _)| *pid == s.pid) {
            Some((_, check)) => *check,
            None if self.marked.contains(&s.pid) => MarkCheck::Marked,
            None => MarkCheck::Unmarked,
        };
        let found = classify(&view, check, &|s: &ProcessStat| self.supervisors.contains(&s.pid));
        found.into_iter().map(|(s, k)| (s.pid, k)).collect()
    }
}

#[test]
fn a_process_below_the_supervisor_is_the_tasks_with_or_without_the_mark() {
    let world = World::supervisor(&[row(201, ME), row(202, 201), row(300, 1)], &[]);
    assert_eq!(world.classes(), [(201, ProcessClass::Ours), (202, ProcessClass::Ours)]);
}

#[test]
fn a_process_that_started_before_the_agent_is_not_the_tasks() {
    let old = ProcessStat { start: 999, ..row(99, ME) };
    assert_eq!(World::supervisor(&[old], &[99]).classes(), []);
}

#[test]
fn inherited_children_and_their_descendants_are_not_the_tasks() {
    let inherited = SweepOwner::Supervisor { inherited: vec![row(98, ME).identity()], helpers: Vec::new() };
    let rows = [row(98, ME), row(201, 98), row(202, ME), row(203, ME), row(204, 203)];
    let world = World::of(inherited, &rows, &[203]);
    assert_eq!(world.classes(), [(203, ProcessClass::Ours), (204, ProcessClass::Ours)]);
}

#[test]
fn a_helper_is_not_the_tasks_and_causes_no_doubt_about_others() {
    let helpers = vec![201];
    let owner = SweepOwner::Supervisor { inherited: Vec::new(), helpers };
    let world = World::of(owner, &[row(201, ME), row(202, ME)], &[]);
    assert_eq!(world.classes(), [(202, ProcessClass::Ours)]);
}

#[test]
fn ancestors_zombies_and_kernel_threads_are_never_found() {
    let zombie = ProcessStat { state: 'Z', ..row(201, ME) };
    let kernel = ProcessStat { flags: 0x0020_0000, ..row(202, 2) };
    let mut world = World::supervisor(&[zombie, kernel], &[1, 50, ME, 201, 202]);
    for row in &mut world.rows {
        row.start = 2000;
    }
    assert_eq!(world.classes(), []);
}

#[test]
fn the_mark_finds_a_process_elsewhere_and_its_unmarked_children_are_spared() {
    let world = World::of(SweepOwner::Recovery, &[row(201, 1), row(202, 201), row(203, ME)], &[201]);
    assert_eq!(
        world.classes(),
        [(201, ProcessClass::Ours), (202, ProcessClass::Spared(SparedReason::Unmarked))]
    );
}

#[test]
fn a_process_that_names_a_missing_ledger_is_counted_and_spared() {
    let doubtful = |owner, rows: &[ProcessStat]| {
        let mut world = World::of(owner, rows, &[]);
        world.checks = vec![(200, MarkCheck::Doubtful), (201, MarkCheck::Doubtful)];
        world.classes()
    };
    let spared = ProcessClass::Spared(SparedReason::UnknownLedger);
    assert_eq!(doubtful(SweepOwner::Recovery, &[row(200, 1), row(201, 1)]), [(200, spared), (201, spared)]);
    let owner = SweepOwner::Supervisor { inherited: Vec::new(), helpers: Vec::new() };
    assert_eq!(
        doubtful(owner, &[row(201, ME), row(202, 1)]),
        [(201, ProcessClass::Ours)],
        "a descendant of the supervisor"
    );
}

#[test]
fn a_process_that_changed_its_user_is_counted_and_spared() {
    let unreadable = |owner, rows: &[ProcessStat], supervisors: &[i32]| {
        let mut world = World::of(owner, rows, &[]);
        world.checks = vec![(200, MarkCheck::UnreadableOfAnother), (201, MarkCheck::Unreadable)];
        world.supervisors = supervisors.to_vec();
        world.classes()
    };
    let spared = ProcessClass::Spared(SparedReason::Unreadable);
    let rows = [row(200, 1), row(201, 200)];
    assert_eq!(unreadable(SweepOwner::Recovery, &rows, &[]), [(200, spared), (201, spared)]);
    assert_eq!(unreadable(SweepOwner::Recovery, &[row(201, 1)], &[]), [(201, ProcessClass::Unreadable)]);
    let below = [row(202, ME), row(201, 202)];
    let owner = || SweepOwner::Supervisor { inherited: Vec::new(), helpers: Vec::new() };
    assert_eq!(unreadable(owner(), &below, &[]), [(201, spared), (202, ProcessClass::Ours)]);
    assert_eq!(
        unreadable(owner(), &below, &[202]),
        [(202, ProcessClass::Supervisor)],
        "the nested supervisor ends it"
    );
}

#[test]
fn waits_for_an_exiting_process_unless_it_cannot_be_the_tasks() {
    let exiting = |owner, rows: &[ProcessStat], marked: &[i32]| {
        let mut world = World::of(owner, rows, marked);
        world.checks = vec![(201, MarkCheck::Exiting), (202, MarkCheck::ExitingOfAnother)];
        world.classes()
    };
    let supervisor = || SweepOwner::Supervisor { inherited: Vec::new(), helpers: Vec::new() };
    let exits = ProcessClass::Exiting;
    assert_eq!(exiting(SweepOwner::Recovery, &[row(201, 1), row(202, 1)], &[]), [(201, exits)]);
    assert_eq!(
        exiting(supervisor(), &[row(201, 1), row(202, 1)], &[]),
        [],
        "a process of the task would be a descendant"
    );
    assert_eq!(exiting(supervisor(), &[row(201, ME)], &[]), [(201, ProcessClass::Ours)]);
    let below = [row(203, 1), row(202, 203)];
    assert_eq!(exiting(SweepOwner::Recovery, &below, &[203]), [(202, exits), (203, ProcessClass::Ours)]);
    let before = ProcessStat { start: 999, ..row(201, 1) };
    assert_eq!(exiting(SweepOwner::Recovery, &[before], &[]), []);
}

#[test]
fn a_nested_supervisor_ends_the_processes_below_it() {
    let mut world = World::supervisor(&[row(201, ME), row(202, 201), row(203, 202)], &[201, 203]);
    world.supervisors = vec![201];
    assert_eq!(world.classes(), [(201, ProcessClass::Supervisor)]);
}

#[test]
fn a_supervisor_above_a_lost_task_does_not_protect_its_leftovers() {
    let outer = ProcessStat { start: 5, ..row(40, 1) };
    let mut world = World::of(SweepOwner::Recovery, &[outer, row(201, 40)], &[201]);
    world.supervisors = vec![40];
    assert_eq!(world.classes(), [(201, ProcessClass::Ours)]);
}

#[test]
fn without_trusted_rows_a_process_below_any_supervisor_is_spared() {
    let outer = ProcessStat { start: 5, ..row(40, 1) };
    let mut world = World::of(
        SweepOwner::DistrustfulRecovery,
        &[outer, row(201, 40), row(202, 201), row(203, 1)],
        &[201, 203],
    );
    world.supervisors = vec![40];
    assert_eq!(
        world.classes(),
        [(201, ProcessClass::Spared(SparedReason::Supervised)), (203, ProcessClass::Ours)]
    );
}

#[test]
fn a_process_known_by_its_mark_alone_is_spared_at_another_terminal() {
    let rows = [at(9, row(201, 1)), at(AGENT_TTY, row(202, 1)), row(203, 1)];
    let world = World::of(SweepOwner::Recovery, &rows, &[201, 202, 203]);
    let spared = ProcessClass::Spared(SparedReason::Terminal);
    assert_eq!(world.classes(), [(201, spared), (202, ProcessClass::Ours), (203, ProcessClass::Ours)]);
}

#[test]
fn a_terminal_server_found_by_its_mark_is_spared_with_its_descendants() {
    let rows = [leader(row(201, 1)), at(9, leader(row(202, 201))), row(203, 202), leader(row(204, 203))];
    let world = World::of(SweepOwner::Recovery, &rows, &[201, 202, 203, 204]);
    assert!(world.classes().iter().all(|(_, k)| *k == ProcessClass::Spared(SparedReason::Terminal)));
}

#[test]
fn a_terminal_server_that_became_our_child_is_spared_with_its_descendants() {
    let rows = [leader(row(201, ME)), at(9, leader(row(202, 201))), row(203, 202), row(204, ME)];
    let world = World::supervisor(&rows, &[201, 202, 203, 204]);
    let spared = ProcessClass::Spared(SparedReason::Terminal);
    assert_eq!(world.classes(), [(201, spared), (202, spared), (203, spared), (204, ProcessClass::Ours)]);
}

#[test]
fn a_job_of_the_agent_with_its_own_terminal_is_the_tasks() {
    let rows = [row(201, ME), at(9, leader(row(202, 201)))];
    let world = World::supervisor(&rows, &[201, 202]);
    assert_eq!(world.classes(), [(201, ProcessClass::Ours), (202, ProcessClass::Ours)]);
}

#[test]
fn an_agent_that_outlived_its_supervisor_is_ended_despite_a_child_at_a_terminal() {
    let rows = [row(200, 1), row(201, 200), at(9, leader(row(202, 201)))];
    let world = World::of(SweepOwner::Recovery, &rows, &[200, 201, 202]);
    assert!(world.classes().iter().all(|(_, k)| *k == ProcessClass::Ours));
}
