//! Killed at any point, the file is what it was, or adopted whole; and adopting again ends well.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use rustix::process::Signal;

use super::{Contents, PLAIN, Theirs, assert_sound, strings};
use crate::harness::{End, say};

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
    SELECT DISTINCT 'forgejo:' || agent || ':' || repo || ':' || issue_number, hex(repo || issue_number), started_at
    FROM task_history WHERE id LIKE 'n%' GROUP BY agent, repo, issue_number";
const IS_ADOPTED: &str = "SELECT count(*) FROM sqlite_schema WHERE name = 'bookend_setting'";
/// All that was there but the one value that changes.
const THEIRS: [&str; 2] = [
    "SELECT rowid, id, repo, issue_number, agent, status, started_at, cost_usd, turns, artifacts,
            CASE status WHEN 'interrupted' THEN NULL ELSE finished_at END
     FROM task_history ORDER BY id",
    "SELECT key, session_id, last_used_at FROM claude_sdk_sessions ORDER BY key",
];

fn contents(conn: &Connection) -> Contents {
    let queries = THEIRS.map(|q| (q.to_owned(), q.to_owned()));
    Contents::read(conn, &queries)
}

fn open(file: &Path) -> Connection {
    Connection::open(file).expect("their database")
}

#[test]
fn a_hundred_thousand_rows_survive_however_often_it_is_killed() {
    let theirs = Theirs::new(PLAIN);
    theirs.open().execute_batch(MANY).expect("many rows");
    let before = contents(&theirs.open());
    let (mut killed, mut rolled_back) = (0, 0);
    let mut patience = Duration::from_millis(3);
    let started = Instant::now();
    loop {
        let running = theirs.world.bare(["bookend", "adopt", &theirs.name()]).start();
        // The one time that is waited for: the moment of the kill is the point.
        std::thread::sleep(patience);
        running.signal(Signal::KILL);
        let end = running.wait().end;
        let conn = open(&theirs.file);
        let is_adopted = strings(&conn, IS_ADOPTED) == ["1"];
        killed += usize::from(end == End::Signal(9));
        rolled_back += usize::from(!is_adopted);
        assert_eq!(contents(&conn), before, "killed after {patience:?}");
        assert_eq!(strings(&conn, "PRAGMA quick_check"), ["ok"]);
        if is_adopted {
            break;
        }
        patience = patience * 3 / 2;
    }
    theirs.adopted();
    let conn = theirs.open();
    assert_sound(&conn);
    assert_eq!(contents(&conn), before);
    assert_eq!(
        strings(&conn, "SELECT count(*) FROM claude_sdk_sessions WHERE task_id IS NULL AND key LIKE '%repo%'"),
        ["0"]
    );
    assert!(rolled_back > 2, "some were killed before the commit");
    say(&format!(
        "adoption of 100,000 rows: killed {killed} times, {rolled_back} of them rolled back, in {:?}",
        started.elapsed()
    ));
}

#[test]
fn two_at_once_adopt_once() {
    let theirs = Theirs::new(PLAIN);
    let name = theirs.name();
    let running = [0; 4].map(|_| theirs.world.bare(["bookend", "adopt", &name]).start());
    let said: Vec<String> =
        running.into_iter().map(|r| r.wait().ended(End::Code(0)).silent().stdout).collect();
    assert_eq!(said.iter().filter(|s| s.starts_with("adopted")).count(), 1, "{said:?}");
    assert_eq!(said.iter().filter(|s| s.contains("nothing to do")).count(), 3, "{said:?}");
    assert_sound(&theirs.open());
}

#[test]
fn a_writer_that_is_at_work_is_waited_for() {
    let theirs = Theirs::new(PLAIN);
    let conn = theirs.open();
    conn.execute_batch("BEGIN IMMEDIATE; DELETE FROM task_history WHERE id = 't5'").expect("a transaction");
    let running = theirs.world.bare(["bookend", "adopt", &theirs.name()]).start();
    crate::harness::eventually(theirs.world.deadline(), "the directory beside it", || {
        theirs.world.path("dispatcher.db.d").exists()
    });
    conn.execute_batch("COMMIT").expect("its end");
    running.wait().ended(End::Code(0)).silent();
    assert_eq!(strings(&theirs.open(), "SELECT count(*) FROM task_history"), ["4"]);
}

#[cfg(feature = "failpoints")]
#[test]
fn killed_or_failing_at_each_step_it_is_as_it_was_and_can_be_adopted_again() {
    use super::{EPOCH, INTEGER_ID, RICH, rows};
    for sql in [PLAIN, RICH, EPOCH, INTEGER_ID] {
        for how in ["kill", "io"] {
            for point in ["begun", "backed_up", "rebuilt", "linked", "before_commit", "committed"] {
                let theirs = Theirs::new(sql);
                let queries = Contents::queries(&theirs.open());
                let schema = "SELECT type, name, tbl_name, sql FROM sqlite_schema";
                let before = (Contents::read(&theirs.open(), &queries), rows(&theirs.open(), schema));
                let output = theirs
                    .world
                    .bare(["bookend", "adopt", &theirs.name()])
                    .env("BOOKEND_FAILPOINT", format!("adopt.{point}:{how}"))
                    .run();
                assert_eq!(output.end, if how == "kill" { End::Signal(9) } else { End::Code(125) }, "{point}");
                if point == "committed" {
                    assert_eq!(strings(&theirs.open(), IS_ADOPTED), ["1"]);
                } else {
                    let after = (Contents::read(&theirs.open(), &queries), rows(&theirs.open(), schema));
                    assert_eq!(after, before, "{how} at {point}");
                }
                theirs.adopted();
                assert_sound(&theirs.open());
            }
        }
    }
}
