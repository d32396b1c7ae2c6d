//! Tests of `publish` and `reconcile`.

use serde_json::{Value, json};
use uuid::Uuid;

use super::{Host, declare_lost, entry, with};
use crate::postgres::Postgres;

/// What the database holds about the ends of tasks.
fn ends(postgres: &Postgres) -> String {
    postgres.psql("SELECT id, status, reason, late->>'status' FROM bookend.task_history ORDER BY id")
}

/// How often each task ended, by its transitions.
fn terminal_transitions(postgres: &Postgres) -> String {
    postgres.psql(
        "SELECT task_id, string_agg(to_status, ' ') FROM bookend.task_transition WHERE to_status <> 'running'
         GROUP BY 1 ORDER BY 1",
    )
}

#[test]
fn a_row_is_stored_as_in_the_ledger() {
    let Some(postgres) = Postgres::with_schema("a_row_is_stored_as_in_the_ledger") else { return };
    let host = Host::join(&postgres, "a");
    let columns = json!({
        "key": "it's a key", "issue_number": 7, "user": "ann", "cost_usd": 0.1, "oom_killed": 0,
        "transcript_seen": 1, "argv": ["claude", "-p", "é"], "live_ino": i64::MIN,
        "session_tokens": { "input": 5 },
    });
    let row = with(entry(1, "t", None, "success"), columns.clone());
    assert_eq!(host.publish(&[row]), "ok");
    let stored: Value =
        serde_json::from_str(&postgres.psql("SELECT to_jsonb(t) FROM bookend.task_history t")).expect("JSON");
    for (name, value) in columns.as_object().expect("columns") {
        let expected = match name.as_str() {
            "oom_killed" => &json!(false),
            "transcript_seen" => &json!(true),
            _ => value,
        };
        assert_eq!(&stored[name], expected, "{name}");
    }
    assert_eq!(stored["node"], json!(host.node));
    let times = "SELECT bookend.shown(started_at), bookend.shown(finished_at) FROM bookend.task_history";
    assert_eq!(postgres.psql(times), "2026-03-01T10:00:00.250Z|2026-03-01T10:00:01.500Z");
}

#[test]
fn every_column_of_the_ledger_is_published() {
    let Some(postgres) = Postgres::with_schema("every_column_of_the_ledger_is_published") else { return };
    let world = crate::harness::World::new();
    world.run_sh("true").run();
    let columns = "SELECT name FROM pragma_table_info('task_history') ORDER BY name";
    let of_ledger: Vec<String> = world.sql(columns).iter().map(|row| row.text("name")).collect();
    let of_fleet = postgres.psql(
        "SELECT column_name FROM information_schema.columns
         WHERE table_schema = 'bookend' AND table_name = 'task_history'
           AND column_name NOT IN ('node', 'epoch', 'rev', 'claim_no', 'published_at', 'late')
         ORDER BY column_name COLLATE \"C\"",
    );
    assert_eq!(of_fleet.lines().collect::<Vec<_>>(), of_ledger);
}

#[test]
fn publishing_again_changes_nothing() {
    let Some(postgres) = Postgres::with_schema("publishing_again_changes_nothing") else { return };
    let host = Host::join(&postgres, "a");
    let mut ended = entry(3, "t1", Some("k"), "success");
    ended["invalidations"] =
        json!([{ "id": 1, "session_id": "s", "reason": "timeout", "at": "2026-03-01T10:00:02Z" }]);
    let rows = [entry(1, "t1", Some("k"), "running"), entry(2, "t2", None, "running"), ended];
    assert_eq!(host.publish(&rows), "ok ok ok");
    let all = || {
        let tables = ["task_history", "task_transition", "session_invalidation", "session"];
        tables.map(|table| postgres.psql(&format!("SELECT t.* FROM bookend.{table} t ORDER BY 1, 2")))
    };
    let before = all();
    assert_eq!(host.publish(&rows), "older older older");
    assert_eq!(host.publish(&rows[..1]), "older");
    assert_eq!(all(), before);
    assert_eq!(terminal_transitions(&postgres), "t1|success");
}

#[test]
fn a_task_ends_once() {
    let Some(postgres) = Postgres::with_schema("a_task_ends_once") else { return };
    let host = Host::join(&postgres, "a");
    assert_eq!(host.publish(&[entry(1, "t", None, "running"), entry(2, "t", None, "failure")]), "ok ok");
    // The other columns still change.
    let delivered = with(entry(3, "t", None, "failure"), json!({ "delivery_status": "delivered" }));
    assert_eq!(host.publish(&[delivered]), "ok");
    assert_eq!(postgres.psql("SELECT delivery_status FROM bookend.task_history"), "delivered");
    for (rev, status) in [(4, "success"), (5, "running")] {
        assert_eq!(host.publish(&[entry(rev, "t", None, status)]), "late");
        assert_eq!(ends(&postgres), format!("t|failure||{status}"));
    }
    assert_eq!(terminal_transitions(&postgres), "t|failure");
}

#[test]
fn rows_of_another_node_are_not_accepted() {
    let Some(postgres) = Postgres::with_schema("rows_of_another_node_are_not_accepted") else { return };
    let (a, b) = (Host::join(&postgres, "a"), Host::join(&postgres, "b"));
    a.take("k", "t", false);
    a.publish(&[entry(1, "t", Some("k"), "running")]);
    assert_eq!(
        b.publish(&[entry(9, "t", Some("k"), "success"), entry(10, "own", None, "running")]),
        "foreign ok"
    );
    // A row that claims to be another node's is the publisher's.
    let forged =
        with(entry(11, "forged", None, "running"), json!({ "node": a.node, "epoch": 7, "late": {} }));
    assert_eq!(b.publish(&[forged]), "ok");
    let rows = "SELECT t.id, t.status, n.host, t.epoch, t.late IS NULL
                FROM bookend.task_history t JOIN bookend.node n ON n.id = t.node ORDER BY t.id";
    assert_eq!(postgres.psql(rows), "forged|running|b|1|t\nown|running|b|1|t\nt|running|a|1|t");
    assert_eq!(b.take("k", "t2", false), "held by t of a");
}

/// A text that cannot be compressed.
fn random(length: usize) -> String {
    let words = std::iter::repeat_with(|| Uuid::new_v4().simple().to_string());
    words.take(length / 32 + 1).collect::<String>()[..length].to_owned()
}

#[test]
fn one_unreadable_row_does_not_hold_the_others_up() {
    let Some(postgres) = Postgres::with_schema("one_unreadable_row_does_not_hold_the_others_up") else {
        return;
    };
    let host = Host::join(&postgres, "a");
    let mut no_id = entry(4, "none", None, "running");
    no_id["task"]["id"] = Value::Null;
    let mut bad_move = entry(5, "bad", None, "running");
    bad_move["transitions"][0]["at"] = Value::Null;
    let rows = [
        entry(1, "first", None, "running"),
        with(entry(2, "time", None, "running"), json!({ "started_at": "yesterday evening" })),
        with(entry(3, "number", None, "running"), json!({ "turns": "1e400" })),
        no_id,
        bad_move,
        entry(6, "long", Some(&random(6000)), "running"),
        with(entry(7, "repo", None, "running"), json!({ "repo": random(6000) })),
        entry(8, &random(6000), None, "running"),
        entry(9, "last", Some(&random(400)), "running"),
    ];
    let unreadable = "unreadable ".repeat(7);
    assert_eq!(host.publish(&rows), format!("ok {unreadable}ok"));
    assert_eq!(ends(&postgres), "first|running||\nlast|running||");
    let answer = host.call("publish", &format!("{}, '{{}}'", super::quoted(&rows[1..2])));
    assert!(super::text(&answer["rows"][0]["message"]).contains("yesterday evening"), "{answer}");
    let findings = "SELECT string_agg(left(subject, 8), ',' ORDER BY length(subject) > 8, subject)
         FROM bookend.finding WHERE kind = 'unreadable'";
    let long_id = &rows[7]["task"]["id"].as_str().expect("an id")[..8];
    assert_eq!(postgres.psql(findings), format!(",bad,long,number,repo,time,{long_id}"));
    // It is stored once it fits, although a higher rev was published meanwhile.
    assert_eq!(host.publish(&[entry(5, "time", None, "running")]), "ok");
    assert_eq!(postgres.psql(findings), format!(",bad,long,number,repo,{long_id}"));
}

#[test]
fn the_end_of_a_task_that_is_not_stored_frees_its_key_too() {
    let Some(postgres) = Postgres::with_schema("the_end_of_a_task_that_is_not_stored_frees_its_key_too")
    else {
        return;
    };
    let (a, b) = (Host::join(&postgres, "a"), Host::join(&postgres, "b"));
    a.publish(&[entry(1, "same", None, "success")]);
    let unreadable =
        |rev, status: &str| with(entry(rev, "odd", Some("odd"), status), json!({ "repo": random(6000) }));
    b.take("foreign", "same", false);
    b.take("odd", "odd", false);
    b.publish(&[entry(1, "same", Some("foreign"), "running"), unreadable(2, "running")]);
    assert_eq!(postgres.psql("SELECT string_agg(key, ',' ORDER BY key) FROM bookend.claim"), "foreign,odd");
    let ended = [entry(3, "same", Some("foreign"), "success"), unreadable(4, "success")];
    assert_eq!(b.publish(&ended), "foreign unreadable");
    assert_eq!(postgres.psql("SELECT count(*) FROM bookend.claim"), "0");
}

#[test]
fn a_restored_ledger_is_refused() {
    let Some(postgres) = Postgres::with_schema("a_restored_ledger_is_refused") else { return };
    let host = Host::join(&postgres, "a");
    let rows: Vec<Value> = (1..=5).map(|n| entry(n, &format!("t{n}"), None, "running")).collect();
    host.publish(&rows);
    assert_eq!(host.register("boot 1", "8:1", None)["max_rev"], 5);
    // The ledger is as it was after rev 3, and a new task draws rev 4 again.
    let anew = entry(4, "another", None, "running");
    assert_eq!(host.error("publish", &format!("{}, '{{}}'", super::quoted(&[anew]))), "BK003");
    assert_eq!(host.error("reconcile", "'{t1,t2,t3}', 4"), "BK003");
    assert_eq!(postgres.psql("SELECT count(*) FROM bookend.task_history WHERE status = 'running'"), "5");
    assert_eq!(host.call("reconcile", "'{t1,t2,t3,t4,t5}', 5")["unknown"], json!([]));
}

#[test]
fn a_ledger_whose_rows_were_pruned_is_not_a_restored_one() {
    let test = "a_ledger_whose_rows_were_pruned_is_not_a_restored_one";
    let Some(postgres) = Postgres::with_schema(test) else { return };
    let (a, b) = (Host::join(&postgres, "a"), Host::join(&postgres, "b"));
    let rows: Vec<Value> = (1..=4).map(|n| entry(n, &format!("t{n}"), None, "success")).collect();
    a.publish(&rows);
    assert_eq!(b.publish(&rows[1..2]), "foreign");
    assert_eq!(postgres.psql("SELECT bookend.prune(0, false, 10)->>'tasks'"), "4");
    // The monitor was killed before it noted in the ledger what was published.
    assert_eq!(b.publish(&rows[1..2]), "ok");
    assert_eq!(a.publish(&rows), "ok foreign ok ok");
    a.publish(&[entry(7, "t7", None, "success")]);
    let drawn_again = super::quoted(&[entry(6, "another", None, "success")]);
    assert_eq!(a.error("publish", &format!("{drawn_again}, '{{}}'")), "BK003");
    assert_eq!(a.error("reconcile", "'{}', 6"), "BK003");
}

#[test]
fn reconciling_ends_what_does_not_run_and_frees_its_keys() {
    let test = "reconciling_ends_what_does_not_run_and_frees_its_keys";
    let Some(postgres) = Postgres::with_schema(test) else { return };
    let (a, b) = (Host::join(&postgres, "a"), Host::join(&postgres, "b"));
    for (rev, key) in [(1, "runs"), (2, "unknown"), (3, "rebooted"), (4, "starts")] {
        a.take(key, key, false);
        if key != "starts" {
            a.publish(&[entry(rev, key, Some(key), "running")]);
        }
    }
    a.publish(&[with(entry(5, "rebooted", Some("rebooted"), "running"), json!({ "boot_id": "boot 0" }))]);
    a.publish(&[with(entry(6, "of any boot", None, "running"), json!({ "boot_id": null }))]);
    b.publish(&[entry(1, "of b", None, "running")]);
    let answer = a.call("reconcile", "'{runs,starts}', 9");
    let expected = json!({
        "rebooted": ["rebooted"], "unknown": ["of any boot", "unknown"], "released": ["rebooted", "unknown"],
    });
    assert_eq!(answer, expected);
    let ended = "rebooted|interrupted|rebooted|\nruns|running||\nunknown|interrupted|unknown_to_ledger|";
    assert_eq!(
        ends(&postgres),
        format!("of any boot|interrupted|unknown_to_ledger|\nof b|running||\n{ended}")
    );
    assert_eq!(
        terminal_transitions(&postgres),
        "of any boot|interrupted\nrebooted|interrupted\nunknown|interrupted"
    );
    assert_eq!(b.take("starts", "t", false), "held by starts of a");
    assert_eq!(b.take("unknown", "t", false), "granted");
    // The host knows better after all.
    assert_eq!(a.publish(&[entry(10, "unknown", Some("unknown"), "success")]), "late");
}

#[test]
fn reconciling_keeps_the_key_of_a_running_task_whose_claim_was_moved() {
    let test = "reconciling_keeps_the_key_of_a_running_task_whose_claim_was_moved";
    let Some(postgres) = Postgres::with_schema(test) else { return };
    let (a, b) = (Host::join(&postgres, "a"), Host::join(&postgres, "b"));
    // As after a restore: a task of this node runs under a key that is another node's now.
    a.publish(&[entry(1, "double", Some("of b"), "running")]);
    b.take("of b", "tb", false);
    b.publish(&[entry(1, "double too", Some("k"), "running")]);
    a.take("k", "runs", false);
    a.publish(&[entry(2, "before", Some("k"), "success"), entry(3, "runs", Some("k"), "running")]);
    // The second run is refused by the ledger of its host, and then the monitor is killed.
    assert_eq!(a.take("k", "refused", false), "granted");
    a.call("repoint", "'k', 'refused'");
    assert_eq!(a.call("reconcile", "'{double,runs,refused}', 3")["released"], json!([]));
    assert_eq!(postgres.psql("SELECT task_id FROM bookend.claim WHERE key = 'k'"), "refused", "it may start");
    assert_eq!(a.call("reconcile", "'{double,runs}', 3")["released"], json!([]));
    assert_eq!(b.take("k", "t", false), "held by runs of a");
    assert_eq!(postgres.psql("SELECT task_id FROM bookend.claim WHERE key = 'of b'"), "tb");
    a.publish(&[entry(4, "runs", Some("k"), "success")]);
    assert_eq!(b.take("k", "t", false), "granted");
}

#[test]
fn only_those_that_follow_the_list_cause_notifications() {
    let test = "only_those_that_follow_the_list_cause_notifications";
    let Some(postgres) = Postgres::with_schema(test) else { return };
    let host = Host::join(&postgres, "a");
    let listener = postgres.session("postgres");
    listener.query("LISTEN bookend_rows; LISTEN bookend_node").expect("LISTEN");
    host.publish(&[entry(1, "t", None, "running")]);
    assert_eq!(listener.notifications(), [""; 0]);
    listener.query("SELECT bookend.watch()").expect("a watcher");
    host.publish(&[entry(2, "t", None, "success")]);
    assert_eq!(listener.notifications(), ["bookend_rows "]);
    host.call("reconcile", "'{}', 2");
    assert_eq!(listener.notifications(), ["bookend_rows "]);
    postgres.psql("UPDATE bookend.watcher SET seen_at = now() - interval '91 s'");
    host.publish(&[entry(3, "t2", None, "running")]);
    assert_eq!(listener.notifications(), [""; 0]);
    for ago in ["80 s", "91 s"] {
        postgres.psql(&format!("UPDATE bookend.watcher SET seen_at = now() - interval '{ago}'"));
        listener.query("SELECT bookend.watch()").expect("a watcher");
        let seen = "SELECT seen_at > now() - interval '40 s' FROM bookend.watcher";
        assert_eq!(postgres.psql(seen), "t", "{ago}");
    }
    declare_lost(&postgres, host.node);
    assert_eq!(listener.notifications(), ["bookend_rows "]);
}

#[test]
fn a_released_key_is_offered_to_the_node_that_waits_longest() {
    let test = "a_released_key_is_offered_to_the_node_that_waits_longest";
    let Some(postgres) = Postgres::with_schema(test) else { return };
    let [a, b, c] = ["a", "b", "c"].map(|name| Host::join(&postgres, name));
    let listener = postgres.session("postgres");
    listener.query("LISTEN bookend_node").expect("LISTEN");
    a.take("k", "t1", false);
    a.publish(&[entry(1, "t1", Some("k"), "success")]);
    assert_eq!(listener.notifications(), [""; 0], "nobody waits");
    let to = |host: &Host| [format!("bookend_node {}", host.node)];
    a.take("k", "t2", false);
    b.take("k", "tb", true);
    c.take("k", "tc", true);
    c.call("give_up_waiting", "'k'");
    assert_eq!(listener.notifications(), [""; 0], "it is held");
    c.take("k", "tc", true);
    a.publish(&[entry(2, "t2", Some("k"), "success")]);
    assert_eq!(listener.notifications(), to(&b));
    b.call("give_up_waiting", "'k'");
    assert_eq!(listener.notifications(), to(&c));
    c.take("k", "tc", true);
    b.take("k", "tb", true);
    c.call("release", "'k', 'tc'");
    assert_eq!(listener.notifications(), to(&b));
    b.take("k", "tb", true);
    c.take("k", "tc", true);
    declare_lost(&postgres, b.node);
    assert_eq!(listener.notifications(), to(&c));
    c.take("k", "tc", true);
    b.register("boot 1", "8:1", None);
    b.take("k", "tb", true);
    c.call("reconcile", "'{}', 9");
    assert_eq!(listener.notifications(), to(&b));
}
