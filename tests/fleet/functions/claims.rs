//! Tests of `take`, `repoint`, `release`, `give_up_waiting` and `claims`.

use serde_json::{Value, json};
use uuid::Uuid;

use super::{Host, declare_lost, entry, make_unreachable, waits_for_a_lock, with};
use crate::postgres::Postgres;

#[test]
fn a_key_has_one_holder() {
    let Some(postgres) = Postgres::with_schema("a_key_has_one_holder") else { return };
    let (a, b) = (Host::join(&postgres, "a"), Host::join(&postgres, "b"));
    assert_eq!(a.take("k", "t1", false), "granted");
    assert_eq!(b.take("k", "t2", false), "held by t1 of a");
    assert_eq!(b.call("release", "'k', 't1'")["state"], "not_held");
    assert_eq!(a.call("release", "'k', 'another task'")["state"], "not_held");
    assert_eq!(a.call("release", "'another key', 't1'")["state"], "not_held");
    assert_eq!(b.take("k", "t2", false), "held by t1 of a");
    assert_eq!(a.call("release", "'k', 't1'")["state"], "released");
    assert_eq!(b.take("k", "t2", false), "granted");
    assert_eq!(b.take("another key", "t3", false), "granted");
}

#[test]
fn a_key_that_no_index_takes_is_refused() {
    let Some(postgres) = Postgres::with_schema("a_key_that_no_index_takes_is_refused") else { return };
    let host = Host::join(&postgres, "a");
    assert_eq!(host.take(&"k".repeat(800), "t1", false), "granted");
    for key in ["k".repeat(801), "é".repeat(401)] {
        assert_eq!(host.error("take", &format!("'{key}', 't2', 0, true")), "22001");
    }
    assert_eq!(host.take("k", "t3", false), "granted");
}

#[test]
fn the_holder_is_described() {
    let Some(postgres) = Postgres::with_schema("the_holder_is_described") else { return };
    let (a, b) = (Host::join(&postgres, "a"), Host::join(&postgres, "b"));
    a.take("k", "t1", false);
    let since = postgres.psql("SELECT bookend.shown(since) FROM bookend.claim");
    let held = |reachable: bool, since_when: Value| {
        json!({
            "state": "held", "task": "t1", "node": a.node, "host": "a", "since": since,
            "reachable": reachable, "unreachable_since": since_when,
        })
    };
    assert_eq!(b.call("take", "'k', 't2', 0, false"), held(true, Value::Null));
    make_unreachable(&postgres, &a);
    let renewed = postgres.psql("SELECT bookend.shown(renewed_at) FROM bookend.node_state WHERE host = 'a'");
    assert_eq!(b.call("take", "'k', 't2', 0, true"), held(false, renewed.into()));
}

#[test]
fn the_claim_of_a_node_moves_only_when_its_ledger_says_so() {
    let test = "the_claim_of_a_node_moves_only_when_its_ledger_says_so";
    let Some(postgres) = Postgres::with_schema(test) else { return };
    let (a, b) = (Host::join(&postgres, "a"), Host::join(&postgres, "b"));
    let no = a.call("take", "'k', 't1', 3, false")["no"].as_i64().expect("a number");
    let claim = || postgres.psql("SELECT task_id, slot, since FROM bookend.claim");
    let first = claim();
    for wait in [false, true] {
        let again = a.call("take", &format!("'k', 't2', 0, {wait}"));
        assert_eq!((&again["state"], &again["task"]), (&json!("granted"), &json!("t1")));
        assert_eq!(again["no"].as_i64(), Some(no));
    }
    assert_eq!(a.call("repoint", "'k', 't1'"), json!({ "state": "ok" }));
    assert_eq!(claim(), first);
    assert_eq!(b.take("k", "t3", false), "held by t1 of a");
    assert_eq!(a.call("repoint", "'k', 't2'"), json!({ "state": "ok" }));
    assert!(
        postgres.psql("SELECT since FROM bookend.claim").as_str() > first.rsplit('|').next().expect("a time")
    );
    assert_eq!(b.call("repoint", "'k', 't3'"), json!({ "state": "not_held" }));
    assert_eq!(a.call("repoint", "'free', 't1'"), json!({ "state": "not_held" }));
    let of = |host: &Host| host.session.json(&format!("SELECT bookend.claims('{}')", host.node));
    let mut claim = of(&a);
    assert!(claim[0].as_object_mut().expect("a claim").remove("since").is_some());
    assert_eq!(claim, json!([{ "key": "k", "task": "t2", "slot": null, "no": no, "epoch": 1 }]));
    assert_eq!(of(&b), json!([]));
    a.call("release", "'k', 't2'");
    assert!(b.call("take", "'k', 't3', 0, false")["no"].as_i64() > Some(no));
}

#[test]
fn the_node_that_waits_longest_is_next() {
    let Some(postgres) = Postgres::with_schema("the_node_that_waits_longest_is_next") else { return };
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|name| Host::join(&postgres, name));
    assert_eq!(a.take("k", "ta", false), "granted");
    // Who waits longer for another key does not matter.
    a.take("other", "to", false);
    d.take("other", "td", true);
    for (host, task) in [(&b, "tb"), (&c, "tc")] {
        assert_eq!(host.take("k", task, true), "held by ta of a");
    }
    // Whoever asks again keeps its place.
    assert_eq!(b.take("k", "tb2", true), "held by ta of a");
    // A further run of the node with the key waits behind them, unless it does not wait.
    assert_eq!(a.take("k", "ta2", true), "held by ta of a");
    for (task, waits) in [("ta3", false), ("ta", false), ("ta", true)] {
        assert_eq!(a.take("k", task, waits), "granted");
    }
    a.take("k", "ta2", true);
    a.call("release", "'k', 'ta'");
    assert_eq!(d.take("k", "td", false), "held by tb2 of b");
    assert_eq!(c.take("k", "tc", true), "held by tb2 of b");
    assert_eq!(b.take("k", "tb", true), "granted");
    b.call("release", "'k', 'tb'");
    make_unreachable(&postgres, &c);
    assert_eq!(a.take("k", "ta2", true), "granted");
    assert_eq!(postgres.psql("SELECT task_id FROM bookend.waiter WHERE key = 'k'"), "tc");
    a.call("release", "'k', 'ta2'");
    assert_eq!(d.take("k", "td", false), "granted");
}

#[test]
fn a_node_that_gives_up_is_not_waited_for() {
    let Some(postgres) = Postgres::with_schema("a_node_that_gives_up_is_not_waited_for") else { return };
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|name| Host::join(&postgres, name));
    a.take("k", "ta", false);
    a.take("other", "to", false);
    b.take("other", "tb", true);
    for (host, task) in [(&b, "tb"), (&c, "tc"), (&d, "td")] {
        host.take("k", task, true);
    }
    a.call("release", "'k', 'ta'");
    b.call("give_up_waiting", "'k'");
    assert_eq!(postgres.psql("SELECT key FROM bookend.waiter WHERE task_id = 'tb'"), "other");
    assert_eq!(a.take("k", "ta2", false), "held by tc of c");
    // A monitor that starts again has no requests.
    c.register("boot 1", "8:1", None);
    assert_eq!(a.take("k", "ta2", false), "held by td of d");
    declare_lost(&postgres, d.node);
    assert_eq!(a.take("k", "ta2", false), "granted");
    // One that stops, also if a call of it arrives late.
    c.take("k", "tc", true);
    assert_eq!(c.call("stopped", "")["state"], "stopped");
    assert_eq!(postgres.psql("SELECT key, task_id FROM bookend.waiter"), "other|tb");
    c.take("k", "tc", true);
    a.call("release", "'k', 'ta2'");
    assert_eq!(b.take("k", "tb", false), "granted");
}

#[test]
fn only_the_first_that_waits_of_the_node_with_the_key_gets_it_again() {
    let test = "only_the_first_that_waits_of_the_node_with_the_key_gets_it_again";
    let Some(postgres) = Postgres::with_schema(test) else { return };
    let [a, b] = ["a", "b"].map(|name| Host::join(&postgres, name));
    a.take("k", "t1", false);
    assert_eq!(a.take("k", "t2", true), "granted", "nobody waits");
    b.take("k", "tb", true);
    assert_eq!(a.take("k", "t2", true), "held by t1 of a");
    a.call("repoint", "'k', 't2'");
    assert_eq!(a.take("k", "t2", true), "granted", "it has the key");
    assert_eq!(a.take("k", "t3", true), "held by t2 of a");
    b.call("give_up_waiting", "'k'");
    assert_eq!(a.take("k", "t3", true), "granted", "it is the first by now");
}

#[test]
fn a_key_of_another_node_is_refused_without_waiting_for_a_lock() {
    let Some(postgres) = Postgres::with_schema("a_key_of_another_node_is_refused_without_waiting_for_a_lock")
    else {
        return;
    };
    let [a, b] = ["a", "b"].map(|name| Host::join(&postgres, name));
    a.take("k", "t1", false);
    let other = postgres.session("postgres");
    other.query("BEGIN; SELECT 1 FROM bookend.lease, bookend.claim FOR UPDATE").expect("all locks");
    b.session.query("SET lock_timeout = '1s'").expect("a setting");
    assert_eq!(b.take("k", "t2", false), "held by t1 of a");
}

#[test]
fn a_node_that_begins_to_wait_while_the_key_is_released_is_told() {
    let test = "a_node_that_begins_to_wait_while_the_key_is_released_is_told";
    let Some(postgres) = Postgres::with_schema(test) else { return };
    let [a, b] = ["a", "b"].map(|name| Host::join(&postgres, name));
    let listener = postgres.session("postgres");
    listener.query("LISTEN bookend_node").expect("LISTEN");
    a.take("k", "t1", false);
    b.session.query("BEGIN").expect("a transaction");
    assert_eq!(b.take("k", "t2", true), "held by t1 of a");
    std::thread::scope(|scope| {
        let releasing = scope.spawn(|| a.call("release", "'k', 't1'"));
        waits_for_a_lock(&postgres);
        b.session.query("COMMIT").expect("a commit");
        assert_eq!(releasing.join().expect("an answer")["state"], "released");
    });
    assert_eq!(listener.notifications(), [format!("bookend_node {}", b.node)]);
}

#[test]
fn renewing_tells_a_node_which_keys_it_can_take() {
    let Some(postgres) = Postgres::with_schema("renewing_tells_a_node_which_keys_it_can_take") else {
        return;
    };
    let [a, b, c] = ["a", "b", "c"].map(|name| Host::join(&postgres, name));
    let instances = [&b, &c].map(|host| {
        let instance = Uuid::new_v4();
        host.register_as(instance, "boot 1", "8:1", None);
        instance
    });
    let free = || {
        [&b, &c].map(|host| {
            let instance = if std::ptr::eq(host, &b) { instances[0] } else { instances[1] };
            host.call("renew", &format!("'{instance}'"))["free"].clone()
        })
    };
    a.take("k", "ta", false);
    b.take("k", "tb", true);
    c.take("k", "tc", true);
    assert_eq!(free(), [json!([]), json!([])]);
    a.call("release", "'k', 'ta'");
    assert_eq!(free(), [json!(["k"]), json!([])]);
}

#[test]
fn the_end_of_a_task_frees_its_key() {
    let Some(postgres) = Postgres::with_schema("the_end_of_a_task_frees_its_key") else { return };
    let (a, b) = (Host::join(&postgres, "a"), Host::join(&postgres, "b"));
    a.take("k", "t1", false);
    a.publish(&[entry(1, "t1", Some("k"), "running")]);
    assert_eq!(b.take("k", "t2", false), "held by t1 of a");
    // A request of this node for the key is pending.
    a.publish_and_keep(&[entry(2, "t1", Some("k"), "success")], &["other", "k"]);
    assert_eq!(b.take("k", "t2", false), "held by t1 of a");
    a.call("repoint", "'k', 't3'");
    // The claim is for another task by now.
    a.publish(&[with(entry(3, "t1", Some("k"), "success"), json!({ "delivery_status": "delivered" }))]);
    assert_eq!(b.take("k", "t2", false), "held by t3 of a");
    a.publish(&[entry(4, "t3", Some("k"), "failure")]);
    assert_eq!(b.take("k", "t2", false), "granted");
    let numbers = postgres.psql("SELECT id, claim_no IS NOT NULL FROM bookend.task_history ORDER BY id");
    assert_eq!(numbers, "t1|t\nt3|t");
}

#[test]
fn a_session_is_resumed_where_it_was_used_last() {
    let Some(postgres) = Postgres::with_schema("a_session_is_resumed_where_it_was_used_last") else { return };
    let (a, b) = (Host::join(&postgres, "a"), Host::join(&postgres, "b"));
    let seen = |host: &Host, task: &str| {
        let answer = host.call("take", &format!("'k', '{task}', 0, false"));
        (answer["elsewhere"].clone(), answer["session_lost"].clone())
    };
    let run = |host: &Host, rev: i64, task: &str| {
        for (rev, status) in [(rev, "running"), (rev + 1, "success")] {
            let mut entry = entry(rev, task, Some("k"), status);
            entry["session"] = json!({ "key": "k", "session_id": format!("of {task}"), "task_id": task });
            assert_eq!(host.publish(&[entry]), "ok");
        }
    };
    assert_eq!(seen(&a, "t1"), (Value::Null, json!(false)));
    run(&a, 1, "t1");
    assert_eq!(seen(&a, "t2"), (Value::Null, json!(false)));
    run(&a, 3, "t2");
    assert_eq!(seen(&b, "t3"), (json!("a"), json!(false)));
    run(&b, 1, "t3");
    assert_eq!(seen(&b, "t4"), (Value::Null, json!(false)));
    b.call("release", "'k', 't4'");
    // What the former host still publishes about its session does not bring it back.
    let mut restored = with(entry(5, "t2", Some("k"), "success"), json!({}));
    restored["session"] = json!({ "key": "k", "session_id": "of t2", "task_id": "t2", "trusted": 2 });
    assert_eq!(a.publish(&[restored]), "ok");
    assert_eq!(seen(&a, "t5"), (json!("b"), json!(false)));
}

#[test]
fn a_session_belongs_to_the_last_claim_on_its_key() {
    let Some(postgres) = Postgres::with_schema("a_session_belongs_to_the_last_claim_on_its_key") else {
        return;
    };
    let (a, b) = (Host::join(&postgres, "a"), Host::join(&postgres, "b"));
    let used = |host: &Host, rev: i64, task: &str, session: Value| {
        let mut entry = entry(rev, task, Some("k"), "success");
        entry["session"] = session;
        assert_eq!(host.publish(&[entry]), "ok");
        postgres.psql("SELECT session_id, claim_no IS NOT NULL FROM bookend.session")
    };
    let of = |task: &str| json!({ "key": "k", "session_id": task, "task_id": task });
    // Of no key or without an id, there is none.
    for column in ["key", "session_id"] {
        let mut incomplete = of("t0");
        incomplete[column] = Value::Null;
        assert_eq!(used(&a, if column == "key" { 1 } else { 2 }, "t0", incomplete), "");
    }
    // Before the fleet knew of claims, the last report counts.
    assert_eq!(used(&a, 3, "t1", of("t1")), "t1|f");
    assert_eq!(used(&b, 1, "t2", of("t2")), "t2|f");
    a.take("k", "t3", false);
    assert_eq!(used(&a, 4, "t3", of("t3")), "t3|t");
    assert_eq!(used(&b, 2, "t4", of("t4")), "t3|t", "another node needs a later claim");
    assert_eq!(used(&a, 5, "t5", of("t5")), "t5|t", "and this one none");
    assert_eq!(used(&b, 3, "t6", of("t6")), "t5|t", "the number of the claim is kept");
    b.take("k", "t7", false);
    assert_eq!(used(&b, 4, "t7", of("t7")), "t7|t");
}
