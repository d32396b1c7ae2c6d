//! Adoption is atomic: after a kill at any point the file is unchanged or fully adopted, and a second
//! adoption succeeds.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use rustix::process::Signal;

use super::{ForeignDatabase, PLAIN, assert_sound, strings};
use crate::harness::{End, print_line};

const MANY: &str = "
    WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)
    INSERT INTO task_history
    SELECT 'n' || i, 'charles/repo' || (i % 50), i % 500, 'dev',
           CASE i % 10 WHEN 0 THEN 'failure' WHEN 1 THEN 'interrupted' ELSE 'success' END,
           strftime('%Y-%m-%dT%H:%M:%S.000000+00:00', 1700000000 + i * 60, 'unixepoch'),
           strftime('%Y-%m-%dT%H:%M:%S.000000+00:00', 1700000030 + i * 60, 'unixepoch'),
           i / 100.0, i % 7, '[\"' || i || '\"]'
    FROM n;
    INSERT INTO claude_sdk_sessions
    SELECT 'forgejo:' || agent || ':' || repo || ':' || issue_number, hex(repo || issue_number), started_at
    FROM task_history WHERE id LIKE 'n%' GROUP BY agent, repo, issue_number";
const IS_ADOPTED: &str = "SELECT count(*) FROM sqlite_schema WHERE name = 'bookend_setting'";
/// All columns, except for the one value that adoption changes.
const TASKS: &str = "rowid, id, repo, issue_number, agent, status, started_at, cost_usd, turns, artifacts,
    CASE status WHEN 'interrupted' THEN NULL ELSE finished_at END";
const SESSIONS: &str = "rowid, key, session_id, last_used_at";

/// Whether each row equals that of a copy made before the adoption.
fn is_as_before(conn: &Connection, copy: &str) -> bool {
    conn.execute("ATTACH ?1 AS before", [copy]).expect("the copy");
    [("task_history", TASKS), ("claude_sdk_sessions", SESSIONS)].iter().all(|(table, columns)| {
        let of = |schema: &str| format!("SELECT {columns} FROM {schema}.{table}");
        let (now, then) = (of("main"), of("before"));
        let query = format!(
            "SELECT (SELECT count(*) FROM ({now})) = (SELECT count(*) FROM ({then}))
                AND NOT EXISTS ({now} EXCEPT {then})"
        );
        strings(conn, &query) == ["1"]
    })
}

fn open(file: &Path) -> Connection {
    Connection::open(file).expect("the database")
}

#[test]
fn a_hundred_thousand_rows_survive_a_killed_adoption() {
    let foreign = ForeignDatabase::new(PLAIN);
    foreign.open().execute_batch(MANY).expect("many rows");
    let copy = foreign.world.name("copy.db");
    std::fs::copy(&foreign.file, &copy).expect("a copy");
    let (mut killed, mut rolled_back) = (0, 0);
    let mut delay = Duration::from_millis(40);
    let started = Instant::now();
    loop {
        let running = foreign.world.bare(["bookend", "adopt", &foreign.name()]).start();
        // A delay and not an event, so that the kill hits different steps.
        std::thread::sleep(delay);
        running.signal(Signal::KILL);
        let end = running.wait().end;
        let conn = open(&foreign.file);
        let is_adopted = strings(&conn, IS_ADOPTED) == ["1"];
        killed += usize::from(end == End::Signal(9));
        rolled_back += usize::from(!is_adopted);
        assert!(is_as_before(&conn, &copy), "killed after {delay:?}");
        assert_eq!(strings(&conn, "PRAGMA quick_check"), ["ok"]);
        if is_adopted {
            break;
        }
        delay = delay * 9 / 4;
    }
    foreign.adopted();
    let conn = foreign.open();
    assert_sound(&conn);
    assert!(is_as_before(&conn, &copy));
    assert_eq!(
        strings(
            &conn,
            "SELECT count(*) FROM claude_sdk_sessions WHERE task_id IS NULL AND key LIKE '%repo%'"
        ),
        ["0"]
    );
    assert!(rolled_back > 1, "some were killed before the commit");
    print_line(&format!(
        "adoption of 100,000 rows: killed {killed} times, {rolled_back} of them rolled back, in {:?}",
        started.elapsed()
    ));
}

#[test]
fn concurrent_adoptions_adopt_once() {
    let foreign = ForeignDatabase::new(PLAIN);
    let name = foreign.name();
    let running = [0; 4].map(|_| foreign.world.bare(["bookend", "adopt", &name]).start());
    let output: Vec<String> =
        running.into_iter().map(|r| r.wait().ended(End::Code(0)).silent().stdout).collect();
    assert_eq!(output.iter().filter(|s| s.starts_with("adopted")).count(), 1, "{output:?}");
    assert_eq!(output.iter().filter(|s| s.contains("nothing to do")).count(), 3, "{output:?}");
    assert_sound(&foreign.open());
}

#[test]
fn adopt_waits_for_an_active_writer() {
    let foreign = ForeignDatabase::new(PLAIN);
    let conn = foreign.open();
    conn.execute_batch("BEGIN IMMEDIATE; DELETE FROM task_history WHERE id = 't5'").expect("a transaction");
    let running = foreign.world.bare(["bookend", "adopt", &foreign.name()]).start();
    crate::harness::eventually(foreign.world.deadline(), "the directory beside it", || {
        foreign.world.path("dispatcher.db.d").exists()
    });
    conn.execute_batch("COMMIT").expect("its end");
    running.wait().ended(End::Code(0)).silent();
    assert_eq!(strings(&foreign.open(), "SELECT count(*) FROM task_history"), ["4"]);
}

#[cfg(feature = "failpoints")]
#[test]
fn an_adoption_that_fails_at_any_step_leaves_the_file_unchanged() {
    use super::{Contents, EPOCH, INTEGER_ID, RICH, rows};
    for sql in [PLAIN, RICH, EPOCH, INTEGER_ID] {
        for how in ["kill", "io"] {
            for point in crate::crash::points::ADOPTION {
                let foreign = ForeignDatabase::new(sql);
                let queries = Contents::queries(&foreign.open());
                let schema = "SELECT type, name, tbl_name, sql FROM sqlite_schema";
                let before = (Contents::read(&foreign.open(), &queries), rows(&foreign.open(), schema));
                let output = foreign
                    .world
                    .bare(["bookend", "adopt", &foreign.name()])
                    .env("BOOKEND_FAILPOINT", format!("{point}:{how}"))
                    .run();
                assert_eq!(
                    output.end,
                    if how == "kill" { End::Signal(9) } else { End::Code(125) },
                    "{point}"
                );
                if *point == "adopt.committed" {
                    assert_eq!(strings(&foreign.open(), IS_ADOPTED), ["1"]);
                } else {
                    let after = (Contents::read(&foreign.open(), &queries), rows(&foreign.open(), schema));
                    assert_eq!(after, before, "{how} at {point}");
                }
                foreign.adopted();
                assert_sound(&foreign.open());
            }
        }
    }
}
