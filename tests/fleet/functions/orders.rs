//! Tests of `order_cancel`, `order_done`, `cancel`, `finding` and `prune`.

use serde_json::json;
use uuid::Uuid;

use super::{Host, declare_lost, entry, make_unreachable};
use crate::postgres::Postgres;

/// The open orders of a host, as `renew` returns them, without their times.
fn orders(host: &Host) -> serde_json::Value {
    let instance = Uuid::new_v4();
    host.register_as(instance, "boot 1", "8:1", None);
    let mut orders = host.call("renew", &format!("'{instance}'"))["orders"].clone();
    for order in orders.as_array_mut().expect("orders") {
        assert!(order.as_object_mut().expect("an order").remove("at").is_some());
    }
    orders
}

#[test]
fn an_operator_orders_a_cancellation_once() {
    let Some(postgres) = Postgres::with_schema("an_operator_orders_a_cancellation_once") else { return };
    let host = Host::join(&postgres, "a");
    postgres.role("operator", &["bookend_operator"]);
    let operator = postgres.session("operator");
    host.publish(&[entry(1, "t1", None, "running"), entry(2, "t2", None, "success")]);
    let ordered = |reachable: bool| {
        json!({
            "state": "ordered", "order": 1, "task": "t1", "node": host.node, "host": "a",
            "reachable": reachable,
        })
    };
    assert_eq!(operator.json("SELECT bookend.cancel('t1')"), ordered(true));
    make_unreachable(&postgres, &host);
    assert_eq!(operator.json("SELECT bookend.cancel('t1')"), ordered(false));
    assert_eq!(
        operator.json("SELECT bookend.cancel('t2')"),
        json!({ "state": "ended", "status": "success" })
    );
    assert_eq!(operator.json("SELECT bookend.cancel('t3')"), json!({ "state": "unknown" }));
    assert_eq!(orders(&host), json!([{ "id": 1, "task": "t1", "by_role": "operator", "by_host": null }]));
    assert_eq!(host.call("order_done", "2, 'cancelled'"), json!({ "state": "closed" }));
    assert_eq!(host.call("order_done", "1, 'cancelled'"), json!({ "state": "done" }));
    assert_eq!(host.call("order_done", "1, 'again'"), json!({ "state": "closed" }));
    assert_eq!(orders(&host), json!([]));
    let done = "SELECT result, done_at IS NOT NULL FROM bookend.cancel_order";
    assert_eq!(postgres.psql(done), "cancelled|t");
}

#[test]
fn the_end_of_a_task_and_the_loss_of_a_host_close_orders() {
    let test = "the_end_of_a_task_and_the_loss_of_a_host_close_orders";
    let Some(postgres) = Postgres::with_schema(test) else { return };
    let (host, other) = (Host::join(&postgres, "a"), Host::join(&postgres, "b"));
    host.publish(&[entry(1, "t1", None, "running"), entry(2, "t2", None, "running")]);
    other.publish(&[entry(1, "t3", None, "running")]);
    postgres.psql("SELECT bookend.cancel('t1'), bookend.cancel('t2'), bookend.cancel('t3')");
    host.publish(&[entry(3, "t1", None, "cancelled")]);
    declare_lost(&postgres, host.node);
    let closed = "SELECT task_id, result, done_at IS NOT NULL FROM bookend.cancel_order ORDER BY 1";
    assert_eq!(postgres.psql(closed), "t1|cancelled|t\nt2|host_lost|t\nt3||f");
    assert_eq!((orders(&host), orders(&other)[0]["task"].clone()), (json!([]), json!("t3")));
}

#[test]
fn replacing_orders_only_the_holder_of_a_key_that_is_waited_for() {
    let test = "replacing_orders_only_the_holder_of_a_key_that_is_waited_for";
    let Some(postgres) = Postgres::with_schema(test) else { return };
    let [a, b, c] = ["a", "b", "c"].map(|name| Host::join(&postgres, name));
    // A node that has left does not name who orders.
    assert_eq!(Host::beside(&postgres, "b", "a former name").call("leave", "")["state"], "left");
    a.take("k", "t1", false);
    a.take("other", "t0", false);
    b.take("other", "t2", true);
    c.take("k", "tc", true);
    assert_eq!(b.call("order_cancel", "'k'"), json!({ "state": "not_waiting" }));
    c.call("give_up_waiting", "'k'");
    b.take("k", "t2", true);
    let listener = postgres.session("postgres");
    listener.query("LISTEN bookend_node").expect("LISTEN");
    let ordered = b.call("order_cancel", "'k'");
    assert_eq!(
        (&ordered["state"], &ordered["task"], &ordered["host"]),
        (&json!("ordered"), &json!("t1"), &json!("a"))
    );
    assert_eq!(listener.notifications(), [format!("bookend_node {}", a.node)]);
    assert_eq!(orders(&a)[0]["by_host"], "b");
    assert_eq!(b.call("order_done", "1, 'cancelled'"), json!({ "state": "closed" }));
    a.call("release", "'k', 't1'");
    assert_eq!(b.call("order_cancel", "'k'"), json!({ "state": "free" }));
    assert_eq!(b.take("k", "t2", true), "granted");
    a.take("k", "t3", true);
    assert_eq!(b.take("k", "t4", true), "held by t2 of b");
    assert_eq!(b.call("order_cancel", "'k'"), json!({ "state": "own" }));
}

#[test]
fn a_finding_is_stored_once() {
    let Some(postgres) = Postgres::with_schema("a_finding_is_stored_once") else { return };
    let host = Host::join(&postgres, "a");
    for holder in ["b", "c"] {
        host.call("finding", &format!("'double_claim', 't', '{{\"holder\": \"{holder}\"}}'"));
    }
    let stored = "SELECT kind, subject, detail->>'holder' FROM bookend.finding";
    assert_eq!(postgres.psql(stored), "double_claim|t|c");
}

#[test]
fn pruning_removes_tasks_that_ended_long_ago() {
    let Some(postgres) = Postgres::with_schema("pruning_removes_tasks_that_ended_long_ago") else { return };
    let host = Host::join(&postgres, "a");
    let mut old = entry(1, "old", None, "success");
    old["invalidations"] = json!([{ "id": 1, "session_id": "s", "task_id": "old", "reason": "timeout",
                                    "at": "2026-03-01T10:00:00Z" }]);
    host.publish(&[
        old,
        entry(2, "unseen", None, "failure"),
        entry(3, "new", None, "success"),
        entry(4, "runs", None, "running"),
    ]);
    postgres.psql(
        "UPDATE bookend.task_history SET started_at = now() - interval '9 days', last_seen_at =
             CASE id WHEN 'new' THEN now() WHEN 'unseen' THEN NULL ELSE now() - interval '9 days' END",
    );
    postgres.role("operator", &["bookend_operator"]);
    let operator = postgres.session("operator");
    let prune =
        |arguments: &str| operator.json(&format!("SELECT bookend.prune({arguments})"))["tasks"].clone();
    let left = || postgres.psql("SELECT string_agg(id, ' ' ORDER BY id) FROM bookend.task_history");
    assert_eq!(prune("864000, false, 100"), 0);
    assert_eq!(prune("86400, true, 100"), 2);
    assert_eq!(left(), "new old runs unseen");
    assert_eq!(prune("86400, false, 1"), 1);
    assert_eq!(prune("86400, false, 100"), 1);
    assert_eq!(left(), "new runs");
    let rest = "SELECT (SELECT string_agg(DISTINCT task_id, ' ') FROM bookend.task_transition),
                       (SELECT count(*) FROM bookend.session_invalidation)";
    assert_eq!(postgres.psql(rest), "new runs|0");
}
