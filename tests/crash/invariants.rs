//! Checks the invariants of `src/ARCHITECTURE.md` from outside after a recovery. The crash matrix, the storm
//! and the soak share these checks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use super::agents::{DELIVERED, MARKS, SEEN, lines};
use crate::harness::{Deadline, End, Proc, Row, World, marked, pause, state};

/// Returns every violation. The caller has ended all processes of the world but the bystander.
pub fn find_violations(world: &World, bystander: &Proc) -> Vec<String> {
    let mut violations = Violations(Vec::new());
    if !world.ledger().exists() {
        violations.unless(lines(world, MARKS).is_empty(), || "an agent ran without a ledger".to_owned());
        return violations.0;
    }
    let rows = world.sql("SELECT rowid AS n, * FROM task_history ORDER BY rowid");
    row_first(world, &rows, &mut violations);
    nothing_stays_running(&rows, &mut violations);
    ends_once(world, &rows, &mut violations);
    resumes_only_after_success(world, &rows, &mut violations);
    spool_is_empty(world, &rows, &mut violations);
    ends_the_right_processes(world, bystander, &mut violations);
    is_private(&world.path("state/bookend"), &mut violations);
    is_readable(world, &rows, &mut violations);
    is_reported_and_delivered(world, &rows, &mut violations);
    violations.0
}

struct Violations(Vec<String>);

impl Violations {
    fn unless(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.0.push(what());
        }
    }
}

/// 1. No agent executes unless its row, with its pid, is committed.
fn row_first(world: &World, rows: &[Row], violations: &mut Violations) {
    let mut executed = BTreeSet::new();
    let by_id: BTreeMap<String, &Row> = rows.iter().map(|r| (r.text("id"), r)).collect();
    for line in lines(world, MARKS) {
        let mut words = line.split(' ').map(str::to_owned);
        let mut word = || words.next().unwrap_or_default();
        let (id, pid, resumed) = (word(), word(), word());
        violations.unless(executed.insert(id.clone()), || format!("1: {id} executed twice"));
        let Some(row) = by_id.get(&id) else {
            violations.0.push(format!("1: {id} executed and has no row"));
            continue;
        };
        violations.unless(row.text("agent_pid") == pid, || format!("1: {id} has another pid than its row"));
        let recorded = row.text("resumed_from");
        let recorded = if recorded.is_empty() { "-" } else { &recorded };
        violations
            .unless(resumed == recorded, || format!("1: {id} resumed {resumed}, its row says {recorded}"));
        let seen = fs::read_to_string(world.path(SEEN).join(&id)).unwrap_or_default();
        // An agent that was killed may not have read the whole answer.
        if let Some(seen) = seen.ends_with('\n').then_some(seen) {
            let seen: serde_json::Value = serde_json::from_str(&seen).unwrap_or_default();
            violations.unless(seen["task"]["agent_pid"].as_i64() == pid.parse().ok(), || {
                format!("1: the agent of {id} did not find its row: {seen}")
            });
        }
    }
    for row in rows.iter().filter(|r| r.text("status") == "success") {
        violations.unless(executed.contains(&row.text("id")), || {
            format!("1: {} succeeded and never executed", row.text("id"))
        });
    }
}

/// 2. After a recovery no row says `running`, and a failure has a cause.
fn nothing_stays_running(rows: &[Row], violations: &mut Violations) {
    for row in rows {
        let id = row.text("id");
        violations.unless(row.text("status") != "running", || format!("2: {id} is still running"));
        let has_cause = ["error", "exit_code", "term_signal"].iter().any(|c| !row.text(c).is_empty());
        violations.unless(row.text("status") != "failure" || has_cause, || {
            format!("2: {id} failed without a cause")
        });
    }
}

/// 3. A task has one terminal status and one `task_transition` row for each change.
fn ends_once(world: &World, rows: &[Row], violations: &mut Violations) {
    let mut changes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in world.sql("SELECT * FROM task_transition ORDER BY task_id, n") {
        let change = format!("{}>{}", line.text("from_status"), line.text("to_status"));
        changes.entry(line.text("task_id")).or_default().push(change);
    }
    for row in rows {
        let actual = changes.remove(&row.text("id")).unwrap_or_default();
        let expected = [">running".to_owned(), format!("running>{}", row.text("status"))];
        violations.unless(actual == expected, || format!("3: {} changed {actual:?}", row.text("id")));
    }
    violations.unless(changes.is_empty(), || format!("3: changes without a task: {changes:?}"));
}

/// 4. A session is linked to a key, and was resumed, only if the last task that used it succeeded.
fn resumes_only_after_success(world: &World, rows: &[Row], violations: &mut Violations) {
    for session in world.sql("SELECT * FROM claude_sdk_sessions") {
        let (key, task) = (session.text("key"), session.text("task_id"));
        let last = rows.iter().find(|r| r.text("id") == task);
        let succeeded = last.is_some_and(|r| {
            r.text("status") == "success" && r.text("session_id") == session.text("session_id")
        });
        violations.unless(succeeded, || {
            format!("4: the session of {key} was used by {task}, which did not succeed")
        });
    }
    for row in rows.iter().filter(|r| !r.text("resumed_from").is_empty()) {
        let session = row.text("resumed_from");
        let before =
            rows.iter().rfind(|r| r.number("n") < row.number("n") && r.text("session_id") == session);
        let succeeded = before.is_some_and(|r| r.text("status") == "success");
        violations.unless(succeeded, || {
            let (id, before) = (row.text("id"), before.map(Row::ending));
            format!("4: {id} resumed {session}, which ended before as {before:?}")
        });
    }
}

/// 5. The spool holds neither an ending nor a reserved slot, and no ending was put aside.
fn spool_is_empty(world: &World, rows: &[Row], violations: &mut Violations) {
    for entry in fs::read_dir(world.path("state/bookend/bookend.db.d/spool")).into_iter().flatten().flatten()
    {
        let name = entry.file_name().to_string_lossy().into_owned();
        violations.unless(name.ends_with(".kept.json"), || format!("5: still in the spool: {name}"));
        let row = rows.iter().find(|r| name.starts_with(&r.text("id")));
        violations.unless(row.is_none(), || {
            format!("5: the ending of a task was put aside: {name}, its row {:?}", row.map(Row::ending))
        });
    }
}

/// 6. No process of an ended task runs, and no other process was ended.
fn ends_the_right_processes(world: &World, bystander: &Proc, violations: &mut Violations) {
    let alive = || {
        let mut pids = marked(world);
        pids.retain(|p| *p != bystander.pid());
        pids
    };
    // After a panic of bookend, the parent-death signal ends its children, which takes a moment.
    let deadline = Deadline::new();
    while !alive().is_empty() && !deadline.has_run_for(Duration::from_secs(5)) {
        pause(Duration::from_millis(5));
    }
    for pid in alive() {
        let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        violations.0.push(format!("6: still runs: {pid} {}", command.replace('\0', " ")));
    }
    let lives = state(bystander.pid()).is_some_and(|s| s != 'Z');
    violations.unless(lives, || "6: the bystander was ended".to_owned());
}

/// 8. Directories 0700, files 0600.
fn is_private(path: &Path, violations: &mut Violations) {
    let meta = fs::symlink_metadata(path).expect("an entry of the state directory");
    let (mode, expected) = (meta.permissions().mode() & 0o7777, if meta.is_dir() { 0o700 } else { 0o600 });
    violations.unless(mode == expected, || format!("8: {} is {mode:o}", path.display()));
    if meta.is_dir() {
        for entry in fs::read_dir(path).expect("a directory").flatten() {
            is_private(&entry.path(), violations);
        }
    }
}

/// The database is intact, and `list` and `show` work.
fn is_readable(world: &World, rows: &[Row], violations: &mut Violations) {
    let sound = world.sql("PRAGMA integrity_check");
    violations.unless(sound.len() == 1 && sound[0].text("integrity_check") == "ok", || format!("{sound:?}"));
    let limit = (rows.len() + 1).to_string();
    let list = world.bare(["bookend", "list", "--json", "--limit", &limit]).run();
    let listed: serde_json::Value = serde_json::from_str(&list.stdout).unwrap_or_default();
    let count = listed["tasks"].as_array().map(Vec::len);
    violations.unless(list.end == End::Code(0) && count == Some(rows.len()), || format!("list: {list:?}"));
    for row in rows.iter().rev().take(3) {
        let show = world.bare(["bookend", "show", &row.text("id")]).run();
        violations.unless(show.end == End::Code(0) && show.stderr.is_empty(), || format!("show: {show:?}"));
    }
}

/// Each interrupted task was reported, and each ending was delivered.
fn is_reported_and_delivered(world: &World, rows: &[Row], violations: &mut Violations) {
    let delivered: BTreeSet<String> = lines(world, DELIVERED).into_iter().collect();
    for row in rows {
        let id = row.text("id");
        let is_reported = row.text("status") != "interrupted" || !row.text("hinted_at").is_empty();
        violations.unless(is_reported, || format!("{id} was interrupted and not reported"));
        if row.text("on_finish").is_empty() {
            continue;
        }
        let state = row.text("delivery_status");
        let is_final = ["delivered", "failed"].contains(&state.as_str());
        violations.unless(is_final, || format!("the ending of {id} was not delivered: {state}"));
        let is_true = state != "delivered" || delivered.contains(&id);
        violations.unless(is_true, || format!("the ending of {id} is recorded as delivered, but was not"));
    }
}
