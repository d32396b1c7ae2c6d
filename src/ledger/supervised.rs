//! Which processes the running rows name as supervisors and agents.

use rusqlite::{Connection, Row};

use super::error::Result;
use super::handle::Ledger;
use super::live::LiveEvidence;
use super::row::{select, task_of_row};
use crate::task::{ProcessIdentity, ProcessScope, RecordedProcesses, Task};

const SELECT_SUPERVISED_BY: &str =
    select!("WHERE status = 'running' AND supervisor_pid = ?1 AND supervisor_start = ?2");
/// Rows of other programs have no live slot.
const SELECT_PROCESSES: &str = "SELECT supervisor_pid, supervisor_start, agent_pid, agent_start, \
    parent_id IS NOT NULL, boot_id IS ?1 AND pid_ns IS ?2 \
    FROM task_history WHERE status = 'running' AND live_slot IS NOT NULL";

fn supervised_by(conn: &Connection, supervisor: ProcessIdentity) -> rusqlite::Result<Vec<Task>> {
    conn.prepare_cached(SELECT_SUPERVISED_BY)?
        .query_map((supervisor.pid, supervisor.start.cast_signed()), task_of_row)?
        .collect()
}

fn processes(conn: &Connection, here: &ProcessScope) -> rusqlite::Result<Vec<RecordedProcesses>> {
    let mut select = conn.prepare_cached(SELECT_PROCESSES)?;
    let mut rows = select.query((&here.boot_id, here.pid_ns.cast_signed()))?;
    let is_known = !here.boot_id.is_empty() && here.pid_ns != 0;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let named = processes_of(row)?;
        found.extend(named.map(|n| RecordedProcesses { is_here: n.is_here && is_known, ..n }));
    }
    Ok(found)
}

/// `None`: the row names no supervisor.
fn processes_of(row: &Row<'_>) -> rusqlite::Result<Option<RecordedProcesses>> {
    // A column has any type: others may write to the table.
    let number = |column| Ok::<_, rusqlite::Error>(row.get_ref(column)?.as_i64().ok());
    let identity = |pid: Option<i64>, start: Option<i64>| {
        Some(ProcessIdentity { pid: i32::try_from(pid?).ok()?, start: start?.cast_unsigned() })
    };
    let agent = identity(number(2)?, number(3)?);
    let (is_nested, is_here) = (row.get(4)?, row.get(5)?);
    let supervisor = identity(number(0)?, number(1)?);
    Ok(supervisor.map(|supervisor| RecordedProcesses { supervisor, agent, is_nested, is_here }))
}

impl Ledger {
    /// Whether this process supervises a running task of this ledger and holds its live lock.
    pub fn supervised_by(&self, supervisor: ProcessIdentity) -> Result<bool> {
        self.check_files("looking for the task of a supervisor")?;
        let tasks = supervised_by(self.conn(), supervisor)
            .map_err(self.failed("looking for the task of a supervisor"))?;
        for task in &tasks {
            if self.evidence(task)? == LiveEvidence::Held {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The processes that the running rows name, in one statement.
    pub fn running_processes(&self, here: &ProcessScope) -> Result<Vec<RecordedProcesses>> {
        self.check_files("looking for supervisors")?;
        processes(self.conn(), here).map_err(self.failed("looking for supervisors"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::tests::{World, new_task, start};
    use crate::task::{NewTask, TaskId};

    #[test]
    fn the_processes_of_running_rows_are_found_with_an_index() {
        crate::ledger::tests::each_uses_an_index(&[SELECT_SUPERVISED_BY, SELECT_PROCESSES]);
    }

    #[test]
    fn a_row_names_its_processes_and_whether_they_are_of_this_place_and_nested() {
        let world = World::new();
        let mut ledger = world.open();
        let named = |pid| ProcessIdentity { pid, start: 7 };
        let outer = NewTask { supervisor: named(10).into(), ..new_task("outer", None) };
        let nested = NewTask {
            supervisor: named(20).into(),
            agent_process: Some(named(21).into()),
            parent_id: Some(TaskId::recorded("outer")),
            ..new_task("nested", None)
        };
        let _locks = [start(&mut ledger, &outer), start(&mut ledger, &nested)];
        let at = |pid_ns| ProcessScope { pid_ns, ..outer.place.clone() };
        let mut found = ledger.running_processes(&at(outer.place.pid_ns)).unwrap();
        found.sort_by_key(|p| p.supervisor.pid);
        let of = |at: usize| (found[at].supervisor, found[at].agent, found[at].is_nested, found[at].is_here);
        assert_eq!(of(0), (named(10), outer.agent_process.map(|a| a.identity), false, true));
        assert_eq!(of(1), (named(20), Some(named(21)), true, true));
        let elsewhere = ledger.running_processes(&at(outer.place.pid_ns + 1)).unwrap();
        assert!(elsewhere.len() == 2 && elsewhere.iter().all(|p| !p.is_here), "{elsewhere:?}");
        world.raw().execute_batch("UPDATE task_history SET live_slot = NULL").unwrap();
        assert_eq!(ledger.running_processes(&at(0)).unwrap().len(), 0, "rows of another program");
    }
}
