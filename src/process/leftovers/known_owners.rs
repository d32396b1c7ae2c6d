//! Which processes cannot carry the mark of a task, as the rows of other tasks show: their environments need
//! not be read.
//!
//! Every process of a task is younger than its agent or is the agent, and its ancestors are too, up to one
//! that is older than the task's supervisor. So whatever is below a younger agent of another task either has
//! nothing to do with the task, or belongs to a run inside of it and carries that run's mark.

use std::collections::{HashMap, HashSet};

use crate::process::procfs::snapshot::ProcessSnapshot;
use crate::task::RecordedProcesses;

/// Whose the processes of a snapshot are, by row.
#[derive(Debug, Default)]
pub(super) struct KnownOwners {
    /// When the youngest recorded agent started that the process is or is below; 0: none.
    agents: Vec<u64>,
    /// The supervisors that were started outside of any task, whose environments name none.
    supervisors: HashSet<usize>,
}

impl KnownOwners {
    pub(super) fn of(snapshot: &ProcessSnapshot, recorded: &[RecordedProcesses]) -> KnownOwners {
        let here = || recorded.iter().filter(|r| r.is_here);
        let row = |pid: i32, start: u64| {
            snapshot.index(pid).filter(|row| start != 0 && snapshot.rows()[*row].start == start)
        };
        let plain = here().filter(|r| !r.is_nested).map(|r| r.supervisor);
        let supervisors = plain.filter_map(|s| row(s.pid, s.start)).collect();
        let agents: HashMap<usize, u64> =
            here().filter_map(|r| r.agent).filter_map(|a| Some((row(a.pid, a.start)?, a.start))).collect();
        KnownOwners { agents: youngest_above(snapshot, &agents), supervisors }
    }

    /// Whether the process cannot carry the mark of a task whose agent started at `start`; 0: unknown.
    pub(super) fn excludes(&self, row: usize, start: u64) -> bool {
        start != 0 && (self.supervisors.contains(&row) || self.agent(row) > start)
    }

    /// Whether the process may carry the mark of one of several tasks, by the ordered starts of their agents.
    pub(super) fn concerns_any(&self, row: usize, started: u64, starts: &[u64]) -> bool {
        if starts.first() == Some(&0) {
            return true;
        }
        let oldest = starts.partition_point(|start| *start < self.agent(row));
        !self.supervisors.contains(&row) && starts.get(oldest).is_some_and(|start| *start <= started)
    }

    fn agent(&self, row: usize) -> u64 {
        self.agents.get(row).copied().unwrap_or_default()
    }
}

/// For each row, the youngest start of `agents` among itself and its ancestors.
fn youngest_above(snapshot: &ProcessSnapshot, agents: &HashMap<usize, u64>) -> Vec<u64> {
    if agents.is_empty() {
        return Vec::new();
    }
    let mut youngest: Vec<Option<u64>> = vec![None; snapshot.rows().len()];
    for row in 0..youngest.len() {
        let line: Vec<usize> = std::iter::once(row)
            .chain(snapshot.above(row))
            .take_while(|above| youngest[*above].is_none())
            .collect();
        let top = line.last().and_then(|top| snapshot.above(*top).next());
        let mut known = top.and_then(|top| youngest[top]).unwrap_or_default();
        for below in line.into_iter().rev() {
            known = known.max(agents.get(&below).copied().unwrap_or_default());
            youngest[below] = Some(known);
        }
    }
    youngest.into_iter().map(Option::unwrap_or_default).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::procfs::identity::{self, ProcessStat};
    use crate::task::ProcessIdentity;

    fn row(pid: i32, ppid: i32, start: u64) -> ProcessStat {
        let line = format!("{pid} (a) S {ppid} 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 {start} 0");
        identity::parse_stat(line.as_bytes()).unwrap()
    }

    fn task(supervisor: (i32, u64), agent: (i32, u64), is_nested: bool) -> RecordedProcesses {
        let of = |(pid, start)| ProcessIdentity { pid, start };
        RecordedProcesses { supervisor: of(supervisor), agent: Some(of(agent)), is_nested, is_here: true }
    }

    /// An old task (10, 11) with a shell (12), a young one (20, 21) with a shell (22) and a process that its
    /// agent left to it (23), and a process that belongs to no task (30).
    fn snapshot() -> ProcessSnapshot {
        ProcessSnapshot::of(vec![
            row(1, 0, 1),
            row(10, 1, 100),
            row(11, 10, 101),
            row(12, 11, 900),
            row(20, 1, 500),
            row(21, 20, 501),
            row(22, 21, 900),
            row(23, 20, 900),
            row(30, 1, 900),
        ])
    }

    /// The pids that may carry the mark of a task whose agent started at `start`.
    fn concerned(recorded: &[RecordedProcesses], start: u64) -> Vec<i32> {
        let snapshot = snapshot();
        let known = KnownOwners::of(&snapshot, recorded);
        let rows = || snapshot.rows().iter().enumerate();
        for (row, stat) in rows() {
            let alone = !known.excludes(row, start) && start <= stat.start;
            assert_eq!(known.concerns_any(row, stat.start, &[start]), alone, "{stat:?}");
            assert_eq!(known.concerns_any(row, stat.start, &[start, u64::MAX]), alone, "{stat:?}");
        }
        let may_be = |(row, stat): &(usize, &ProcessStat)| known.concerns_any(*row, stat.start, &[start]);
        rows().filter(may_be).map(|(_, stat)| stat.pid).collect()
    }

    const TASKS: [((i32, u64), (i32, u64)); 2] = [((10, 100), (11, 101)), ((20, 500), (21, 501))];

    fn tasks(is_nested: bool) -> Vec<RecordedProcesses> {
        TASKS.map(|(supervisor, agent)| task(supervisor, agent, is_nested)).into()
    }

    #[test]
    fn what_is_below_an_agent_that_is_younger_than_the_task_is_not_the_tasks() {
        assert_eq!(concerned(&tasks(false), 300), [12, 23, 30], "the old task may be around the lost one");
        assert_eq!(concerned(&tasks(false), 50), [23, 30], "both are younger");
        assert_eq!(concerned(&tasks(false), 600), [12, 22, 23, 30], "both may be around the lost one");
        assert_eq!(concerned(&tasks(false), 501), [12, 21, 22, 23, 30], "of the same moment");
    }

    #[test]
    fn a_supervisor_that_was_started_inside_of_a_task_may_carry_its_mark() {
        assert_eq!(concerned(&tasks(true), 300), [12, 20, 23, 30]);
    }

    #[test]
    fn a_task_whose_agent_is_unknown_concerns_all() {
        assert_eq!(concerned(&tasks(false), 0).len(), snapshot().rows().len());
    }

    #[test]
    fn only_the_processes_that_the_rows_name_count() {
        let recycled: Vec<RecordedProcesses> =
            TASKS.iter().map(|((s, at), (a, since))| task((*s, at + 1), (*a, since + 1), false)).collect();
        assert_eq!(concerned(&recycled, 300), [12, 20, 21, 22, 23, 30], "other processes have their pids");
        let mut elsewhere = tasks(false);
        elsewhere.iter_mut().for_each(|t| t.is_here = false);
        assert_eq!(concerned(&elsewhere, 300), [12, 20, 21, 22, 23, 30], "pids of another place");
    }

    #[test]
    fn a_circle_of_parents_ends() {
        let snapshot = ProcessSnapshot::of(vec![row(2, 3, 5), row(3, 2, 5)]);
        let known = KnownOwners::of(&snapshot, &[task((9, 9), (2, 5), false)]);
        assert!(known.excludes(0, 4));
    }
}
