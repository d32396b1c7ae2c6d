//! Tests of `take`, `repoint`, `release`, `give_up_waiting` and `claims`.

use serde_json::{Value, json};
use uuid::Uuid;

use super::{Host, declare_lost, entry, make_unreachable, with};
use crate::postgres::Postgres;

#[test]
fn a_key_has_one_holder() {
    let Some(postgres) = Postgres::with_schema("a_key_has_one_holder") else { return };
    let (a, b) = (Host::join(&postgres, "a"), Host::join(&postgres, "b"));
    assert_eq!(a.take("k", "t1", false), "granted");
    assert_eq!(b.take("k", "t2", false), "held by t1 of a");
    assert_eq!(b.call("release", "'k', 't1'")["state"], "not_held");
    assert_eq!(a.call("release", "'k', 'another task'")["state"], "not_held");
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
    assert_eq!(host.error("take", &format!("'{}', 't2', 0, true", "k".repeat(801))), "22001");
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
    for (host, task) in [(&b, "tb"), (&c, "tc")] {
        assert_eq!(host.take("k", task, true), "held by ta of a");
    }
    // Whoever asks again keeps its place.
    assert_eq!(b.take("k", "tb", true), "held by ta of a");
    // A further run of the node with the key waits behind them.
    assert_eq!(a.take("k", "ta2", true), "held by ta of a");
    a.call("release", "'k', 'ta'");
    assert_eq!(d.take("k", "td", false), "held by tb of b");
    assert_eq!(c.take("k", "tc", true), "held by tb of b");
    assert_eq!(b.take("k", "tb", true), "granted");
    b.call("release", "'k', 'tb'");
    make_unreachable(&postgres, &c);
    assert_eq!(a.take("k", "ta2", true), "granted");
    assert_eq!(postgres.psql("SELECT task_id FROM bookend.waiter"), "tc");
    a.call("release", "'k', 'ta2'");
    assert_eq!(d.take("k", "td", false), "granted");
}

#[test]
fn a_node_that_gives_up_is_not_waited_for() {
    let Some(postgres) = Postgres::with_schema("a_node_that_gives_up_is_not_waited_for") else { return };
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|name| Host::join(&postgres, name));
    a.take("k", "ta", false);
    for (host, task) in [(&b, "tb"), (&c, "tc"), (&d, "td")] {
        host.take("k", task, true);
    }
    a.call("release", "'k', 'ta'");
    b.call("give_up_waiting", "'k'");
    assert_eq!(a.take("k", "ta2", false), "held by tc of c");
    // A monitor that starts again has no requests.
    c.register("boot 1", "8:1", None);
    assert_eq!(a.take("k", "ta2", false), "held by td of d");
    declare_lost(&postgres, d.node);
    assert_eq!(a.take("k", "ta2", false), "granted");
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
