//! bookend and the program that created the database use the same file.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rusqlite::Connection;

use super::{EPOCH, ForeignDatabase, INTEGER_ID, PLAIN, RICH, SHAPES, assert_sound, strings};
use crate::harness::{End, is_root, possible};

const KEY: &str = "forgejo:dev:charles/claude-hooks:1104";

/// Writes its arguments to a file and prints the events of `cursor-agent`.
const CURSOR: &str = r#"#!/bin/sh
echo "$*" >"$HOME/argv"
id=new-chat
while [ $# -gt 0 ]; do
    case $1 in --resume) id=$2 ;; --resume=*) id=${1#--resume=} ;; esac
    shift
done
echo '{"type":"system","subtype":"init","session_id":"'$id'","model":"auto"}'
echo '{"type":"result","subtype":"success","is_error":false,"result":"ok","session_id":"'$id'"}'
exit "${CURSOR_EXIT:-0}"
"#;

fn insert_plain(conn: &Connection, id: &str, issue: i64, status: &str, at: &str) {
    conn.execute(
        "INSERT INTO task_history
            (id, repo, issue_number, agent, status, started_at, finished_at, cost_usd, turns, artifacts)
         VALUES (?1, 'charles/claude-hooks', ?2, 'dev', ?3, ?4, ?4, 0.25, 1, '[]')",
        (id, issue, status, at),
    )
    .expect("an INSERT of the other program");
}

fn run_cursor(foreign: &ForeignDatabase, key: &str) -> String {
    foreign.world.program("cursor-agent", CURSOR);
    let argv = ["cursor-agent", "-p", "go", "--output-format", "stream-json"];
    foreign.run(&["--key", key, "-q"], &argv).ended(End::Code(0));
    fs::read_to_string(foreign.world.path("home/argv")).expect("the agent's argv").trim().to_owned()
}

#[test]
fn the_other_program_keeps_working_with_its_open_connection() {
    let foreign = ForeignDatabase::new(PLAIN);
    let conn = foreign.open();
    const DASHBOARD: &str = "
        SELECT agent || ' ' || count(*) || ' ' || sum(cost_usd) FROM task_history
        WHERE status IN ('success', 'failure') GROUP BY agent ORDER BY agent";
    let mut dashboard = conn.prepare(DASHBOARD).expect("the dashboard");
    let mut query = || -> Vec<String> {
        let rows = dashboard.query_map([], |row| row.get(0)).expect("the dashboard");
        rows.collect::<rusqlite::Result<_>>().expect("its rows")
    };
    assert_eq!(query(), ["dev 3 2.0", "qa 1 0.0"]);
    foreign.adopted();
    assert_eq!(query(), ["dev 3 2.0", "qa 1 0.0"]);
    insert_plain(&conn, "t6", 1106, "success", "2026-02-01T00:00:00.000000+00:00");
    assert_eq!(query(), ["dev 4 2.25", "qa 1 0.0"]);
    foreign.run(&["--agent", "dev"], &["true"]).ended(End::Code(0)).silent();
    assert_eq!(query(), ["dev 5 2.25", "qa 1 0.0"]);
    let refused = conn.execute(
        "INSERT INTO task_history (id, agent, status, started_at, finished_at)
         VALUES ('t7', 'dev', 'success', '2026-02-02', '2026-02-01')",
        [],
    );
    assert!(refused.is_err(), "its CHECK constraint still applies to its rows");
    insert_plain(&conn, "t7", 1106, "failure", "2026-02-01T00:00:00.000000+00:00");
    conn.execute("UPDATE task_history SET status = 'success' WHERE id = 't7'", [])
        .expect("it may change its own row");
    assert_sound(&conn);
}

#[test]
fn foreign_keys_still_cascade_and_triggers_still_fire() {
    let foreign = ForeignDatabase::new(RICH);
    let conn = foreign.open();
    conn.pragma_update(None, "foreign_keys", true).expect("foreign keys");
    foreign.adopted();
    let comments = || strings(&conn, "SELECT task_id || ' ' || text FROM comments ORDER BY id");
    assert_eq!(comments(), ["t1 one", "t2 two", "t2 three"], "the rebuild of the table does not cascade");
    conn.execute_batch(
        "INSERT INTO comments (task_id, text) VALUES ('t4', 'five');
         DELETE FROM task_history WHERE id = 't2';
         INSERT INTO on_top (agent) VALUES ('by the view')",
    )
    .expect("statements of the other program");
    assert_eq!(comments(), ["t1 one", "t4 five"]);
    assert_eq!(
        strings(&conn, "SELECT ifnull(task_id, '') || ' ' || what FROM audit WHERE n > 4 ORDER BY n"),
        ["t2 out", " by the view"]
    );
    assert_eq!(strings(&conn, "SELECT turns FROM task_history WHERE id = 't4'"), ["2"], "one of them before");
    assert_eq!(strings(&conn, "SELECT max(id) FROM comments"), ["5"], "no id is generated twice");
    foreign.run(&[], &["true"]).ended(End::Code(0)).silent();
    assert_eq!(strings(&conn, "SELECT count(*) FROM audit WHERE what = 'in' AND n > 4"), ["1"]);
    assert_eq!(strings(&conn, "SELECT sum(tasks) FROM dashboard"), ["4"]);
    assert_sound(&conn);
}

#[test]
fn a_run_writes_times_in_the_format_of_the_other_program() {
    for (sql, is_one) in [
        (PLAIN, "started_at GLOB '2???-??-??T??:??:??.??????+00:00' AND finished_at >= started_at"),
        (RICH, "started_at GLOB '2???-??-?? ??:??:??' AND finished_at >= started_at"),
        (EPOCH, "typeof(started_at) = 'integer' AND abs(unixepoch() - started_at) < 60"),
        (INTEGER_ID, "typeof(started_at) = 'integer' AND abs(unixepoch() - started_at / 1000) < 60"),
    ] {
        let foreign = ForeignDatabase::new(sql);
        foreign.adopted();
        foreign.run(&["--key", "k"], &["sh", "-c", "exit 3"]).ended(End::Code(3));
        let conn = foreign.open();
        let query = format!(
            "SELECT status || ' ' || ({is_one}) || ' ' || (typeof(finished_at) = typeof(started_at)) || ' ' ||
                    ifnull(cost_usd, 'NULL') || ifnull(turns, 'NULL') || ifnull(artifacts, 'NULL')
             FROM task_history WHERE key = 'k'"
        );
        assert_eq!(strings(&conn, &query), ["failure 1 1 NULLNULLNULL"]);
        assert_sound(&conn);
    }
}

#[test]
fn stats_groups_by_day_in_every_format_of_time() {
    for (shape, sql) in SHAPES {
        let foreign = ForeignDatabase::new(sql);
        foreign.adopted();
        let name = foreign.name();
        let stats =
            foreign.world.bare(["bookend", "--ledger", &name, "stats", "--by", "day", "--json"]).run();
        let stats: serde_json::Value = serde_json::from_str(&stats.stdout).expect("JSON");
        let groups = stats["groups"].as_array().expect("groups");
        assert!(!groups.is_empty(), "{shape}");
        for group in groups {
            let day: Option<jiff::civil::Date> = group["name"].as_str().and_then(|day| day.parse().ok());
            assert!(day.is_some_and(|day| day.year() == 2026), "{shape}: {group}");
        }
    }
}

#[test]
fn list_and_show_include_tasks_of_the_other_program() {
    for (sql, oldest, started) in [
        (PLAIN, "t1", "2026-01-01T00:00:00.000Z"),
        (RICH, "t1", "2026-01-01T00:00:00.000Z"),
        (EPOCH, "t1", "2026-01-01T00:00:00.000Z"),
        (INTEGER_ID, "1", "2026-01-01T00:00:00.123Z"),
    ] {
        let foreign = ForeignDatabase::new(sql);
        foreign.adopted();
        let name = foreign.name();
        let bookend = |words: &[&str]| -> serde_json::Value {
            let words = [&["bookend", "--ledger", &name], words].concat();
            let output = foreign.world.bare(words).run().ended(End::Code(0)).silent().stdout;
            serde_json::from_str(&output).unwrap_or_else(|e| panic!("{e}: {output}"))
        };
        foreign.run(&["--id", "of-bookend"], &["true"]).ended(End::Code(0)).silent();
        let listed = bookend(&["list", "--json"]);
        let tasks = listed["tasks"].as_array().expect("tasks");
        assert_eq!(tasks.len().to_string(), strings(&foreign.open(), "SELECT count(*) FROM task_history")[0]);
        assert_eq!(tasks[0]["id"], "of-bookend", "the newest comes first, whichever program wrote it");
        let last = tasks.last().expect("a task");
        let repo = "charles/claude-hooks";
        assert_eq!(
            (&last["id"], &last["repo"], &last["issue_number"]),
            (&oldest.into(), &repo.into(), &1104.into())
        );
        assert_eq!((&last["started_at"], &last["cost_usd"]), (&started.into(), &1.5.into()));
        let shown = bookend(&["show", oldest, "--json"]);
        let shown = if shown["task"].is_object() { &shown["task"] } else { &shown };
        assert_eq!(shown["started_at"], started);
    }
}

#[test]
fn an_unknown_status_of_the_other_program_is_not_a_success() {
    let foreign = ForeignDatabase::new(RICH);
    foreign.adopted();
    let output = foreign.world.bare(["bookend", "--ledger", &foreign.name(), "show", "t3", "--json"]).run();
    let output = output.ended(End::Code(0)).stdout;
    assert!(output.contains("\"failure\"") && output.contains("timed out"), "{output}");
}

#[test]
fn a_session_is_resumed_without_its_prefix_and_stored_with_it() {
    for sql in [PLAIN, EPOCH] {
        let foreign = ForeignDatabase::new(sql);
        foreign.adopted();
        let argv = run_cursor(&foreign, KEY);
        assert!(argv.contains("6ce4") && !argv.contains("cursor:"), "{argv}");
        let conn = foreign.open();
        let session = format!("SELECT session_id FROM claude_sdk_sessions WHERE key = '{KEY}'");
        assert_eq!(strings(&conn, &session), ["cursor:6ce4"]);
        assert_eq!(strings(&conn, "SELECT count(*) FROM session_invalidation"), ["0"]);
        let times = "SELECT count(DISTINCT typeof(last_used_at)) FROM claude_sdk_sessions";
        assert_eq!(strings(&conn, times), ["1"]);
        // Again, now that bookend ran its last task.
        assert!(run_cursor(&foreign, KEY).contains("6ce4"));
    }
}

#[test]
fn a_session_whose_last_task_was_interrupted_is_not_resumed() {
    for sql in [PLAIN, EPOCH] {
        let foreign = ForeignDatabase::new(sql);
        foreign.adopted();
        let argv = run_cursor(&foreign, "forgejo:dev:charles/claude-hooks:1105");
        assert!(!argv.contains("7df5"), "{argv}");
        assert_eq!(
            strings(
                &foreign.open(),
                "SELECT session_id FROM claude_sdk_sessions WHERE key LIKE '%:1105'
                 UNION ALL SELECT session_id || ' invalidated' FROM session_invalidation"
            ),
            ["cursor:new-chat", "7df5 invalidated"]
        );
    }
}

#[test]
fn a_failure_that_the_other_program_records_later_makes_the_session_unsafe() {
    let foreign = ForeignDatabase::new(PLAIN);
    let conn = foreign.open();
    foreign.adopted();
    insert_plain(&conn, "t6", 1104, "failure", "2026-02-01T00:00:00.000000+00:00");
    assert!(!run_cursor(&foreign, KEY).contains("6ce4"));
}

#[test]
fn a_session_that_the_other_program_records_later_is_linked_to_its_task() {
    let foreign = ForeignDatabase::new(PLAIN);
    let conn = foreign.open();
    foreign.adopted();
    conn.execute(
        "INSERT INTO claude_sdk_sessions (key, session_id, last_used_at)
         VALUES ('forgejo:qa:charles/claude-hooks:1106', 'cursor:9aa1', '2026-02-01T00:00:00.000000+00:00')",
        [],
    )
    .expect("an INSERT of the other program");
    assert!(run_cursor(&foreign, "forgejo:qa:charles/claude-hooks:1106").contains("9aa1"));
}

#[test]
fn integer_ids_are_still_generated() {
    let foreign = ForeignDatabase::new(INTEGER_ID);
    let conn = foreign.open();
    foreign.adopted();
    foreign.run(&[], &["true"]).ended(End::Code(0)).silent();
    conn.execute_batch("VACUUM").expect("a vacuum");
    conn.execute(
        "INSERT INTO task_history
            (repo, issue_number, agent, status, started_at, finished_at, cost_usd, turns, artifacts)
         VALUES ('charles/claude-hooks', 1104, 'dev', 'success', 1767400000123, 1767400000123, 0, 0, '[]')",
        [],
    )
    .expect("an INSERT of the other program");
    let generated = conn.last_insert_rowid();
    assert!(generated > 3, "the id of a deleted row is not generated again");
    let found = format!("SELECT typeof(id) || ' ' || status FROM task_history WHERE id = {generated}");
    assert_eq!(strings(&conn, &found), ["integer success"]);
    assert_eq!(
        strings(&conn, "SELECT task_id FROM audit ORDER BY rowid DESC LIMIT 1"),
        [generated.to_string()]
    );
    conn.execute("INSERT INTO comments VALUES (?1, 'x')", [generated]).expect("a comment");
    conn.execute("DELETE FROM task_history WHERE id = 1", []).expect("a deletion");
    let comments = strings(&conn, "SELECT task_id FROM comments ORDER BY task_id");
    assert_eq!(comments, ["2".to_owned(), generated.to_string()]);
    assert_sound(&conn);
}

#[test]
fn an_adopted_file_keeps_its_owner_and_mode_and_new_files_get_that_owner() {
    const OWNER: u32 = 65534;
    if !possible("an_adopted_file_keeps_its_owner_and_mode_and_new_files_get_that_owner", is_root(), "root") {
        return;
    }
    for mode in [0o640, 0o600] {
        let foreign = ForeignDatabase::new(PLAIN);
        let home = foreign.world.path("foreign");
        fs::create_dir(&home).expect("the directory");
        let file = home.join("dispatcher.db");
        fs::rename(&foreign.file, &file).expect("a move");
        fs::set_permissions(&file, Permissions::from_mode(mode)).expect("a mode");
        fs::set_permissions(foreign.world.path("."), Permissions::from_mode(0o755)).expect("a mode");
        for path in [&home, &file] {
            std::os::unix::fs::chown(path, Some(OWNER), Some(OWNER)).expect("an owner");
        }
        let foreign = ForeignDatabase { world: foreign.world, file };
        let adopted = foreign.adopt().ended(End::Code(0));
        assert!(adopted.stderr.contains("belongs to user nobody (uid 65534)"), "{adopted:?}");
        let meta = fs::metadata(&foreign.file).expect("the file");
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (OWNER, OWNER, mode));
        for entry in fs::read_dir(&home).expect("the directory").flatten() {
            let meta = entry.metadata().expect("its owner");
            assert_eq!((meta.uid(), meta.gid()), (OWNER, OWNER), "{}", entry.path().display());
        }
        // When its owner uses it with bookend, the mode is unchanged.
        let program = home.join("bookend");
        let (from, to) = (foreign.world.name("bin/bookend"), program.to_str().expect("UTF-8").to_owned());
        foreign.world.bare(["cp", "-L", &from, &to]).run().ended(End::Code(0));
        let status = Command::new(&program)
            .args(["--ledger", &foreign.name(), "run", "--", "true"])
            .current_dir("/")
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .uid(OWNER)
            .gid(OWNER)
            .status();
        assert!(status.expect("bookend as the owner").success());
        assert_eq!(fs::metadata(&foreign.file).expect("the file").mode() & 0o7777, mode);
        assert_eq!(strings(&foreign.open(), "SELECT count(*) FROM task_history"), ["6"]);
    }
}

#[test]
fn readers_without_write_permission_can_still_read() {
    let foreign = ForeignDatabase::new(PLAIN);
    fs::set_permissions(foreign.world.path("."), Permissions::from_mode(0o755)).expect("a mode");
    fs::set_permissions(&foreign.file, Permissions::from_mode(0o644)).expect("a mode");
    let output = foreign.adopted().stdout;
    assert!(output.contains("journal mode: unchanged"), "{output}");
    assert_eq!(strings(&foreign.open(), "PRAGMA journal_mode"), ["delete"]);
    foreign.run(&[], &["true"]).ended(End::Code(0)).silent();
}

#[test]
fn a_private_file_is_switched_to_wal() {
    let foreign = ForeignDatabase::new(PLAIN);
    fs::set_permissions(&foreign.file, Permissions::from_mode(0o600)).expect("a mode");
    let output = foreign.adopted().stdout;
    assert!(!output.contains("journal mode"), "{output}");
    assert_eq!(strings(&foreign.open(), "PRAGMA journal_mode"), ["wal"]);
}
