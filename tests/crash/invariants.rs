//! The invariants of `src/ARCHITECTURE.md`, checked from outside after a recovery: one function for the crash
//! matrix and the storm alike.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use super::agents::{DELIVERED, MARKS, SEEN, lines};
use crate::harness::{Deadline, End, Proc, Row, World, marked, pause, state};

/// All that was found wrong; empty if everything holds. Nothing of the world may run any more.
pub fn violations(world: &World, bystander: &Proc) -> Vec<String> {
    let mut wrong = Wrong(Vec::new());
    if !world.ledger().exists() {
        wrong.unless(lines(world, MARKS).is_empty(), || "an agent ran without a ledger".to_owned());
        return wrong.0;
    }
    let rows = world.sql("SELECT rowid AS n, * FROM task_history ORDER BY rowid");
    row_first(world, &rows, &mut wrong);
    no_ghost(&rows, &mut wrong);
    one_ending(world, &rows, &mut wrong);
    no_poisoned_resume(world, &rows, &mut wrong);
    nothing_lost(world, &rows, &mut wrong);
    right_process(world, bystander, &mut wrong);
    private(&world.path("state/bookend"), &mut wrong);
    readable(world, &rows, &mut wrong);
    told(world, &rows, &mut wrong);
    wrong.0
}

struct Wrong(Vec<String>);

impl Wrong {
    fn unless(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.0.push(what());
        }
    }
}

/// 1. No agent executes unless its row, with its pid, is committed.
fn row_first(world: &World, rows: &[Row], wrong: &mut Wrong) {
    let mut marked = BTreeSet::new();
    let by_id: BTreeMap<String, &Row> = rows.iter().map(|r| (r.text("id"), r)).collect();
    for line in lines(world, MARKS) {
        let mut words = line.split(' ').map(str::to_owned);
        let mut word = || words.next().unwrap_or_default();
        let (id, pid, resumed) = (word(), word(), word());
        wrong.unless(marked.insert(id.clone()), || format!("1: {id} executed twice"));
        let Some(row) = by_id.get(&id) else {
            wrong.0.push(format!("1: {id} executed and has no row"));
            continue;
        };
        wrong.unless(row.text("agent_pid") == pid, || format!("1: {id} has another pid than its row"));
        let known = row.text("resumed_from");
        let known = if known.is_empty() { "-" } else { &known };
        wrong.unless(resumed == known, || format!("1: {id} resumed {resumed}, its row says {known}"));
        let seen = fs::read_to_string(world.path(SEEN).join(&id)).unwrap_or_default();
        // One that was killed may have been killed before it was told.
        if let Some(seen) = seen.ends_with('\n').then_some(seen) {
            let seen: serde_json::Value = serde_json::from_str(&seen).unwrap_or_default();
            wrong.unless(seen["task"]["agent_pid"].as_i64() == pid.parse().ok(), || {
                format!("1: the agent of {id} did not find its row: {seen}")
            });
        }
    }
    for row in rows.iter().filter(|r| r.text("status") == "success") {
        wrong.unless(marked.contains(&row.text("id")), || {
            format!("1: {} succeeded and never executed", row.text("id"))
        });
    }
}

/// 2. After a recovery nothing says `running`, and a failure says what failed.
fn no_ghost(rows: &[Row], wrong: &mut Wrong) {
    for row in rows {
        let id = row.text("id");
        wrong.unless(row.text("status") != "running", || format!("2: {id} is a ghost"));
        let says = ["error", "exit_code", "term_signal"].iter().any(|c| !row.text(c).is_empty());
        wrong.unless(row.text("status") != "failure" || says, || format!("2: {id} failed without a message"));
    }
}

/// 3. One terminal status, one line for each change.
fn one_ending(world: &World, rows: &[Row], wrong: &mut Wrong) {
    let mut changes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in world.sql("SELECT * FROM task_transition ORDER BY task_id, n") {
        let change = format!("{}>{}", line.text("from_status"), line.text("to_status"));
        changes.entry(line.text("task_id")).or_default().push(change);
    }
    for row in rows {
        let had = changes.remove(&row.text("id")).unwrap_or_default();
        let due = [">running".to_owned(), format!("running>{}", row.text("status"))];
        wrong.unless(had == due, || format!("3: {} went {had:?}", row.text("id")));
    }
    wrong.unless(changes.is_empty(), || format!("3: changes of no task: {changes:?}"));
}

/// 4. A session is kept, and was resumed, only if the last task that used it succeeded.
fn no_poisoned_resume(world: &World, rows: &[Row], wrong: &mut Wrong) {
    for session in world.sql("SELECT * FROM claude_sdk_sessions") {
        let (key, task) = (session.text("key"), session.text("task_id"));
        let last = rows.iter().find(|r| r.text("id") == task);
        let is_well = last.is_some_and(|r| {
            r.text("status") == "success" && r.text("session_id") == session.text("session_id")
        });
        wrong
            .unless(is_well, || format!("4: the session of {key} was used by {task}, which did not succeed"));
    }
    for row in rows.iter().filter(|r| !r.text("resumed_from").is_empty()) {
        let session = row.text("resumed_from");
        let before =
            rows.iter().rfind(|r| r.number("n") < row.number("n") && r.text("session_id") == session);
        let is_well = before.is_some_and(|r| r.text("status") == "success");
        wrong.unless(is_well, || {
            let (id, before) = (row.text("id"), before.map(Row::ending));
            format!("4: {id} resumed {session}, which ended before as {before:?}")
        });
    }
}

/// 5. No ending waits any more, and no room is kept for one; what was put aside says why.
fn nothing_lost(world: &World, rows: &[Row], wrong: &mut Wrong) {
    for entry in fs::read_dir(world.path("state/bookend/bookend.db.d/spool")).into_iter().flatten().flatten()
    {
        let name = entry.file_name().to_string_lossy().into_owned();
        wrong.unless(name.ends_with(".kept.json"), || format!("5: left in the spool: {name}"));
        let of = rows.iter().find(|r| name.starts_with(&r.text("id")));
        wrong.unless(of.is_none(), || {
            format!("5: the end of a task was put aside: {name}, its row {:?}", of.map(Row::ending))
        });
    }
}

/// 6. Nothing of an ended task runs, and nobody else was ended.
fn right_process(world: &World, bystander: &Proc, wrong: &mut Wrong) {
    let alive = || {
        let mut pids = marked(world);
        pids.retain(|p| *p != bystander.pid());
        pids
    };
    // What bookend left behind by a panic dies of its parent's death, which takes a moment.
    let deadline = Deadline::new();
    while !alive().is_empty() && !deadline.has_run_for(Duration::from_secs(5)) {
        pause(Duration::from_millis(5));
    }
    for pid in alive() {
        let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        wrong.0.push(format!("6: still runs: {pid} {}", command.replace('\0', " ")));
    }
    let lives = state(bystander.pid()).is_some_and(|s| s != 'Z');
    wrong.unless(lives, || "6: the bystander was ended".to_owned());
}

/// 8. Directories 0700, files 0600.
fn private(path: &Path, wrong: &mut Wrong) {
    let meta = fs::symlink_metadata(path).expect("what lies in the state directory");
    let (mode, due) = (meta.permissions().mode() & 0o7777, if meta.is_dir() { 0o700 } else { 0o600 });
    wrong.unless(mode == due, || format!("8: {} is {mode:o}", path.display()));
    if meta.is_dir() {
        for entry in fs::read_dir(path).expect("a directory").flatten() {
            private(&entry.path(), wrong);
        }
    }
}

/// The file is whole, and what is in it can be shown.
fn readable(world: &World, rows: &[Row], wrong: &mut Wrong) {
    let sound = world.sql("PRAGMA integrity_check");
    wrong.unless(sound.len() == 1 && sound[0].text("integrity_check") == "ok", || format!("{sound:?}"));
    let limit = (rows.len() + 1).to_string();
    let list = world.bare(["bookend", "list", "--json", "--limit", &limit]).run();
    let listed: serde_json::Value = serde_json::from_str(&list.stdout).unwrap_or_default();
    let count = listed["tasks"].as_array().map(Vec::len);
    wrong.unless(list.end == End::Code(0) && count == Some(rows.len()), || format!("list: {list:?}"));
    for row in rows.iter().rev().take(3) {
        let show = world.bare(["bookend", "show", &row.text("id")]).run();
        wrong.unless(show.end == End::Code(0) && show.stderr.is_empty(), || format!("show: {show:?}"));
    }
}

/// Each interrupted task was reported, and each end was delivered.
fn told(world: &World, rows: &[Row], wrong: &mut Wrong) {
    let delivered: BTreeSet<String> = lines(world, DELIVERED).into_iter().collect();
    for row in rows {
        let id = row.text("id");
        let hinted = row.text("status") != "interrupted" || !row.text("hinted_at").is_empty();
        wrong.unless(hinted, || format!("{id} was interrupted and nobody was told"));
        if row.text("on_finish").is_empty() {
            continue;
        }
        let state = row.text("delivery_status");
        let settled = ["delivered", "failed"].contains(&state.as_str());
        wrong.unless(settled, || format!("the end of {id} was not delivered: {state}"));
        let claimed = state != "delivered" || delivered.contains(&id);
        wrong.unless(claimed, || format!("the end of {id} is said to be delivered, but was not"));
    }
}
