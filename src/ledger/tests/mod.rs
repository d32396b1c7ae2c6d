//! Tests of the ledger with real files, each in its own directory.

mod endings;
mod migrating;
mod opening;
mod rows;
mod spooling;

use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rusqlite::config::DbConfig;
use tempfile::TempDir;

use super::{ChosenBy, Ledger, LiveLock, Location};
use crate::exit::Exit;
use crate::task::{
    EndSource, Ending, Key, NewTask, ProcessIdentity, ProcessScope, Provider, SessionTotals, TaskEnd, TaskId,
    Time, UsageCounts,
};

pub const START: &str = "2026-11-21T12:00:00.000Z";
pub const END: &str = "2026-11-21T12:00:05.000Z";

pub fn time(text: &str) -> Time {
    text.parse().unwrap()
}

/// A directory for a ledger.
pub struct World {
    pub dir: TempDir,
}

impl World {
    pub fn new() -> World {
        World { dir: tempfile::tempdir().unwrap() }
    }

    pub fn file(&self) -> PathBuf {
        self.dir.path().join("bookend.db")
    }

    pub fn at(&self) -> Location {
        location(&self.file())
    }

    pub fn open(&self) -> Ledger {
        Ledger::open(&self.at()).unwrap().0
    }

    /// A connection as another program opens it.
    pub fn raw(&self) -> Connection {
        Connection::open(self.file()).unwrap()
    }
}

pub fn location(file: &Path) -> Location {
    Location { file: file.to_owned(), chosen_by: ChosenBy::Option }
}

pub fn new_task(id: &str, key: Option<&str>) -> NewTask {
    NewTask {
        id: TaskId::recorded(id),
        key: key.map(Key::recorded),
        repo: Some("charles/claude-hooks".to_owned()),
        issue_number: Some(1104),
        user: None,
        agent: "dev".to_owned(),
        agent_type: "claude",
        model: None,
        provider: Some(Provider::recorded("anthropic")),
        started_at: time(START),
        session_id: None,
        resumed_from: None,
        argv: vec!["claude".to_owned(), "-p".to_owned(), "say \"hi\"\n".to_owned()],
        user_argv: vec!["claude".to_owned()],
        run_options: "{\"grace\":10}".to_owned(),
        cwd: PathBuf::from("/tmp"),
        place: ProcessScope {
            host: "host".to_owned(),
            boot_id: "boot".to_owned(),
            pid_ns: u64::MAX - 1,
            cgroup: None,
        },
        supervisor: ProcessIdentity { pid: 100, start: 7 }.into(),
        agent_process: Some(ProcessIdentity { pid: 101, start: 8 }.into()),
        on_finish: None,
        retention_secs: 3600,
        parent_id: None,
        oom_kills_before: None,
        session_untracked: None,
        tokens_scope: None,
        replaces: None,
    }
}

pub fn ended(ending: Ending) -> TaskEnd {
    TaskEnd {
        ending,
        error: None,
        source: EndSource::Wait,
        finished_at: Some(time(END)),
        duration_ms: Some(5000),
        exit: Some(Exit::Code(0)),
        stop_signal: None,
        stop_sender: None,
        counts: UsageCounts::default(),
        session_totals: SessionTotals::default(),
        model: None,
        session_id: None,
        tool_in_flight: None,
        context_lost: false,
        transcript_seen: None,
        session_kept: None,
        limit_resets_at: None,
        oom_killed: None,
        cpu_ms: Some(12),
        max_rss_kib: Some(2048),
        leftovers: None,
        executed: true,
    }
}

/// Starts a task as `run` does; with a session, it is linked to the key.
pub fn start(ledger: &mut Ledger, task: &NewTask) -> LiveLock {
    let live = ledger.hold_live().unwrap();
    let claim = ledger.claim().unwrap();
    claim.insert(task, &live, "run").unwrap();
    if let (Some(key), Some(session)) = (&task.key, &task.session_id) {
        claim.link_session(key, task.provider.as_ref(), session, &task.id, task.started_at).unwrap();
    }
    claim.commit().unwrap();
    live
}

/// Asserts that the cost of each query depends on its result and not on the length of the history: it uses an
/// index, and a query for rare rows uses an index of only those.
pub fn each_uses_an_index(queries: &[&str]) {
    let conn = Connection::open_in_memory().unwrap();
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).unwrap();
    super::dialect::register(&conn, &Default::default()).unwrap();
    super::schema::make_tables(&conn).unwrap();
    for sql in queries {
        let mut explain = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let params = explain.parameter_count();
        let steps: Vec<String> = explain
            .query_map(rusqlite::params_from_iter(vec!["x"; params]), |row| row.get(3))
            .unwrap()
            .collect::<rusqlite::Result<_>>()
            .unwrap();
        let plan = steps.join("; ");
        let by_index = ["USING INDEX", "USING COVERING INDEX", "USING PRIMARY KEY"];
        assert!(by_index.iter().any(|by| plan.contains(by)), "{sql}: {plan}");
        // An index of all tasks by start time suits only a query for the newest ones.
        let of_all = plan.contains("SCAN task_history USING INDEX task_history_started");
        assert!(!of_all || sql.contains("LIMIT"), "{sql}: {plan}");
        // Few tasks run at a time, so sorting them is cheap.
        let few = ["task_history_one_running (status=?)", "task_history_overnight (last_seen_at>?)"];
        assert!(few.iter().any(|f| plan.contains(f)) || !plan.contains("TEMP B-TREE"), "{sql}: {plan}");
    }
}
