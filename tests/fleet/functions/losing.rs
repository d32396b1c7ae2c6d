//! Tests of `declare_lost` and of what a host reports after it.

use serde_json::{Value, json};

use super::{Host, declare_lost, entry, make_unreachable, waits_for_a_lock, with};
use crate::postgres::Postgres;

const NONE: &str = "'{}'";

#[test]
fn a_lost_host_loses_its_tasks_and_keys() {
    let Some(postgres) = Postgres::with_schema("a_lost_host_loses_its_tasks_and_keys") else { return };
    let (a, b) = (Host::join(&postgres, "a"), Host::join(&postgres, "b"));
    a.take("k", "t1", false);
    let mut running = entry(1, "t1", Some("k"), "running");
    running["session"] = json!({ "key": "k", "session_id": "s1", "task_id": "t1" });
    a.publish(&[running, entry(2, "t2", None, "running"), entry(3, "t3", None, "success")]);
    b.publish(&[entry(1, "of b", None, "running")]);
    b.take("kb", "of b", false);
    b.take("k", "t4", true);
    let answer = declare_lost(&postgres, a.node);
    assert_eq!(answer, json!({ "state": "lost", "host": "a", "tasks": ["t1", "t2"], "released": ["k"] }));
    let rows = "SELECT id, status, reason, end_source, error, finished_at IS NULL, last_seen_at IS NULL
                FROM bookend.task_history ORDER BY id";
    let lost = "interrupted|host_lost|lease|postgres declared the host a lost|t|f";
    assert_eq!(
        postgres.psql(rows),
        format!("of b|running||||t|t\nt1|{lost}\nt2|{lost}\nt3|success||wait||f|t")
    );
    let moves = "SELECT task_id, n, to_status, reason, by_node IS NULL FROM bookend.task_transition
                 WHERE to_status = 'interrupted' ORDER BY 1";
    assert_eq!(postgres.psql(moves), "t1|2|interrupted|host_lost|t\nt2|2|interrupted|host_lost|t");
    let invalidations = "SELECT key, session_id, task_id, reason FROM bookend.session_invalidation";
    assert_eq!(postgres.psql(invalidations), "k|s1|t1|host_lost");
    assert_eq!(postgres.psql("SELECT key, task_id FROM bookend.waiter"), "k|t4");
    assert_eq!(b.take("k", "t4", true), "granted");
    assert_eq!(declare_lost(&postgres, a.node), json!({ "state": "already_lost" }));
}

#[test]
fn a_host_that_was_renewed_since_is_not_declared_lost() {
    let test = "a_host_that_was_renewed_since_is_not_declared_lost";
    let Some(postgres) = Postgres::with_schema(test) else { return };
    let host = Host::join(&postgres, "a");
    postgres.role("operator", &["bookend_operator"]);
    let operator = postgres.session("operator");
    let seen = postgres.psql("SELECT epoch || ', ' || seq FROM bookend.node_state");
    host.register("boot 1", "8:1", None);
    let declare =
        |seen: &str| operator.json(&format!("SELECT bookend.declare_lost('{}', {seen})", host.node));
    assert_eq!(declare(&seen), json!({ "state": "moved", "epoch": 1, "seq": 2 }));
    assert_eq!(declare("2, 2")["state"], "moved");
    assert_eq!(host.publish(&[entry(1, "t", None, "running")]), "ok");
    assert_eq!(declare("1, 2")["state"], "lost");
    assert_eq!(postgres.psql("SELECT lost_by FROM bookend.node_state"), "operator");
    host.register("boot 1", "8:1", None);
    host.publish(&[entry(2, "t", None, "running")]);
    host.call("leave", "");
    let unknown = operator.json("SELECT bookend.declare_lost('00000000-0000-0000-0000-000000000000', 1, 1)");
    assert_eq!(
        (declare("2, 3")["state"].clone(), unknown["state"].clone()),
        (json!("left"), json!("unknown"))
    );
}

#[test]
fn the_fleet_ends_only_running_tasks_of_the_node_and_records_each_end() {
    let test = "the_fleet_ends_only_running_tasks_of_the_node_and_records_each_end";
    let Some(postgres) = Postgres::with_schema(test) else { return };
    let (a, b) = (Host::join(&postgres, "a"), Host::join(&postgres, "b"));
    let mut moved = entry(1, "moved", None, "running");
    let again = json!({ "n": 2, "at": "2026-03-01T10:00:00Z", "to_status": "running" });
    moved["transitions"].as_array_mut().expect("transitions").push(again);
    let mut unmoved = with(entry(2, "unmoved", None, "running"), json!({ "started_at": "2999-01-01" }));
    unmoved["transitions"] = json!([]);
    let seen = with(entry(3, "seen", None, "running"), json!({ "last_seen_at": "2999-01-02" }));
    a.publish(&[moved, unmoved, seen, entry(4, "kept", None, "running"), entry(5, "ended", None, "success")]);
    let mut of_b = entry(1, "of b", None, "running");
    of_b["session"] = json!({ "key": "kb", "session_id": "s", "task_id": "moved" });
    b.publish(&[of_b]);
    make_unreachable(&postgres, &a);
    let tasks = "'{moved,unmoved,seen,ended,of b}'";
    let settle = format!("SELECT bookend.settle('{}', {tasks}, 'host_lost', 'why')", a.node);
    assert_eq!(postgres.psql(&settle), "{moved,seen,unmoved}");
    let rows = format!(
        "SELECT t.id, status,
                CASE last_seen_at WHEN renewed_at THEN 'renewed' ELSE last_seen_at::date::text END
         FROM bookend.task_history t, bookend.lease l WHERE l.node = '{}' ORDER BY id",
        a.node
    );
    assert_eq!(
        postgres.psql(&rows),
        "ended|success|\nkept|running|\nmoved|interrupted|renewed\nof b|running|\n\
         seen|interrupted|2999-01-02\nunmoved|interrupted|2999-01-01"
    );
    let moves = "SELECT task_id, n, from_status, to_status, reason, by_command FROM bookend.task_transition
                 WHERE by_node IS NULL ORDER BY task_id";
    let end = "running|interrupted|host_lost|fleet";
    assert_eq!(postgres.psql(moves), format!("moved|3|{end}\nseen|2|{end}\nunmoved|1|{end}"));
    assert_eq!(postgres.psql("SELECT lost_at IS NULL FROM bookend.session"), "t", "another node's session");
}

/// Every function by which a host changes something, but for `register` and `renew`.
fn writing_calls(row: &str) -> [(&'static str, String); 12] {
    [
        ("take", "'k', 't3', 0, false".to_owned()),
        ("repoint", "'k', 't1'".to_owned()),
        ("release", "'k', 't1'".to_owned()),
        ("give_up_waiting", "'k'".to_owned()),
        ("publish", format!("{row}, {NONE}")),
        ("publish", format!("'[]', {NONE}")),
        ("reconcile", format!("{NONE}, 9")),
        ("order_cancel", "'k'".to_owned()),
        ("order_done", "1, 'done'".to_owned()),
        ("stopped", String::new()),
        ("leave", String::new()),
        ("finding", "'kind', 'subject', NULL".to_owned()),
    ]
}

#[test]
fn no_call_of_an_earlier_registration_changes_anything() {
    let Some(postgres) = Postgres::with_schema("no_call_of_an_earlier_registration_changes_anything") else {
        return;
    };
    let (a, b) = (Host::join(&postgres, "a"), Host::join(&postgres, "b"));
    let row = super::quoted(&[entry(2, "t1", Some("k"), "success")]);
    b.take("k", "t0", false);
    a.take("k", "t1", true);
    b.call("release", "'k', 't0'");
    let dump = || {
        let tables = ["claim", "waiter", "task_history", "cancel_order", "finding"];
        tables.map(|table| postgres.psql(&format!("SELECT * FROM bookend.{table}"))).join("\n")
    };
    let before = dump();
    let earlier = a.registration();
    a.register("boot 1", "8:1", None);
    let waits_no_longer = dump();
    assert_ne!(before, waits_no_longer);
    let now = a.registration();
    a.set_registration(earlier);
    for (function, arguments) in writing_calls(&row) {
        assert_eq!(a.error(function, &arguments), "BK001", "{function}");
    }
    let without_one = format!("SELECT bookend.release('{}', NULL, 'k', 't1')", a.node);
    assert_eq!(a.session.error(&without_one), "BK001");
    assert_eq!(dump(), waits_no_longer);
    a.set_registration(now);
    assert_eq!(a.take("k", "t1", false), "granted");
}

#[test]
fn no_call_of_a_lost_epoch_changes_anything() {
    let Some(postgres) = Postgres::with_schema("no_call_of_a_lost_epoch_changes_anything") else { return };
    let (a, b) = (Host::join(&postgres, "a"), Host::join(&postgres, "b"));
    a.take("k", "t1", false);
    b.take("k", "t2", true);
    a.publish(&[entry(1, "t1", Some("k"), "running")]);
    declare_lost(&postgres, a.node);
    let row = super::quoted(&[entry(2, "t1", Some("k"), "success")]);
    let calls = writing_calls(&row);
    for again in [false, true] {
        for (function, arguments) in &calls {
            assert_eq!(a.error(function, arguments), "BK001", "{function}");
        }
        if !again {
            // The new epoch does not let calls of the old one pass.
            a.register("boot 1", "8:1", None);
            a.set_registration(1);
        }
    }
    assert_eq!(postgres.psql("SELECT status FROM bookend.task_history"), "interrupted");
    assert_eq!(b.take("k", "t2", true), "granted");
}

#[test]
fn the_end_of_a_task_whose_host_was_declared_lost_is_late() {
    let test = "the_end_of_a_task_whose_host_was_declared_lost_is_late";
    let Some(postgres) = Postgres::with_schema(test) else { return };
    let (a, b) = (Host::join(&postgres, "a"), Host::join(&postgres, "b"));
    a.take("k", "t1", false);
    let mut running = entry(1, "t1", Some("k"), "running");
    running["session"] = json!({ "key": "k", "session_id": "s1", "task_id": "t1" });
    a.publish(&[running]);
    declare_lost(&postgres, a.node);
    // Its session is lost for that host, and elsewhere for any other.
    let taken = b.call("take", "'k', 't2', 0, false");
    assert_eq!((&taken["elsewhere"], &taken["session_lost"]), (&json!("a"), &json!(false)));
    a.register("boot 1", "8:1", None);
    let late = || postgres.psql("SELECT status, reason, late->>'status', cost_usd FROM bookend.task_history");
    assert_eq!(a.publish(&[entry(2, "t1", Some("k"), "running")]), "late");
    assert_eq!(late(), "interrupted|host_lost|running|");
    let mut ended = with(entry(3, "t1", Some("k"), "success"), json!({ "cost_usd": 2.5 }));
    ended["session"] = json!({ "key": "k", "session_id": "s1", "task_id": "t1" });
    assert_eq!(a.publish(std::slice::from_ref(&ended)), "late");
    assert_eq!(a.publish(&[ended]), "older");
    assert_eq!(late(), "interrupted|host_lost|success|2.5");
    assert_eq!(
        postgres.psql("SELECT late->>'finished_at' FROM bookend.task_history"),
        "2026-03-01T10:00:01.500Z"
    );
    let ends = "SELECT count(*) FROM bookend.task_transition WHERE to_status <> 'running'";
    assert_eq!(postgres.psql(ends), "1");
    // Its end does not free the key, which is another task's by now.
    assert_eq!(postgres.psql("SELECT task_id FROM bookend.claim"), "t2");
    b.call("release", "'k', 't2'");
    let is_lost = || a.call("take", "'k', 't3', 0, false")["session_lost"].clone();
    assert_eq!(is_lost(), true);
    // An operator restores it, or the next task uses another one.
    let lose = || postgres.psql("UPDATE bookend.session SET lost_at = now()");
    let mut restored = entry(4, "t1", Some("k"), "success");
    restored["session"] = json!({ "key": "k", "session_id": "s1", "task_id": "t1", "trusted": 2 });
    a.publish(&[restored]);
    assert_eq!(is_lost(), false);
    lose();
    let mut next = entry(5, "t3", Some("k"), "running");
    next["session"] = json!({ "key": "k", "session_id": "s3", "task_id": "t3" });
    a.publish(&[next]);
    assert_eq!(is_lost(), false);
}

#[test]
fn a_task_that_the_boot_ended_is_not_late() {
    let Some(postgres) = Postgres::with_schema("a_task_that_the_boot_ended_is_not_late") else { return };
    let host = Host::join(&postgres, "a");
    host.publish(&[entry(1, "t", None, "running")]);
    declare_lost(&postgres, host.node);
    host.register("boot 2", "8:1", None);
    let settled = json!({ "end_source": "recovery", "reason": "rebooted", "delivery_status": "pending" });
    assert_eq!(host.publish(&[with(entry(2, "t", None, "interrupted"), settled)]), "ok");
    let row = "SELECT status, reason, late IS NULL, delivery_status FROM bookend.task_history";
    assert_eq!(postgres.psql(row), "interrupted|host_lost|t|pending");
}

#[test]
fn a_host_is_declared_lost_after_the_call_in_flight() {
    let Some(postgres) = Postgres::with_schema("a_host_is_declared_lost_after_the_call_in_flight") else {
        return;
    };
    let host = Host::join(&postgres, "a");
    host.publish(&[entry(1, "t", None, "running")]);
    host.session.query("BEGIN").expect("a transaction");
    assert_eq!(host.publish(&[entry(2, "t", None, "success"), entry(3, "t2", None, "running")]), "ok ok");
    let node = host.node;
    let answer: Value = std::thread::scope(|scope| {
        let declaring = scope.spawn(|| declare_lost(&postgres, node));
        waits_for_a_lock(&postgres);
        host.session.query("COMMIT").expect("a commit");
        declaring.join().expect("an answer")
    });
    assert_eq!(answer["tasks"], json!(["t2"]));
    let ends = "SELECT id, status, late IS NULL FROM bookend.task_history ORDER BY id";
    assert_eq!(postgres.psql(ends), "t|success|t\nt2|interrupted|t");
}

#[test]
fn a_call_during_the_declaration_fails() {
    let Some(postgres) = Postgres::with_schema("a_call_during_the_declaration_fails") else { return };
    let host = Host::join(&postgres, "a");
    host.publish(&[entry(1, "t", None, "running")]);
    let operator = postgres.session("postgres");
    operator.query("BEGIN").expect("a transaction");
    let declared = operator.json("SELECT bookend.declare_lost(node, epoch, seq) FROM bookend.lease");
    assert_eq!(declared["state"], "lost");
    let error = std::thread::scope(|scope| {
        let row = super::quoted(&[entry(2, "t", None, "success")]);
        let statement = host.statement("publish", &format!("{row}, {NONE}"));
        let publishing = scope.spawn(move || host.session.error(&statement));
        waits_for_a_lock(&postgres);
        operator.query("COMMIT").expect("a commit");
        publishing.join().expect("an error")
    });
    assert_eq!(error, "BK001");
    assert_eq!(postgres.psql("SELECT status, late IS NULL FROM bookend.task_history"), "interrupted|t");
}
