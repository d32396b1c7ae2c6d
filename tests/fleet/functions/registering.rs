//! Tests of `register`, `renew`, `stopped` and `leave`.

use serde_json::json;
use uuid::Uuid;

use super::{Host, declare_lost, entry, make_unreachable, waits_for_a_lock};
use crate::postgres::Postgres;

/// Lets the time pass after which a silent lease is taken over.
fn let_the_watch_pass(postgres: &Postgres) {
    postgres.psql("UPDATE bookend.lease SET watch_at = now() - interval '1 h' WHERE watch_at IS NOT NULL");
}

#[test]
fn a_restarted_monitor_registers_at_once_and_supersedes_the_former() {
    let test = "a_restarted_monitor_registers_at_once_and_supersedes_the_former";
    let Some(postgres) = Postgres::with_schema(test) else { return };
    let host = Host::join(&postgres, "a");
    let (first, second) = (Uuid::new_v4(), Uuid::new_v4());
    assert_eq!(host.register_as(first, "boot 1", "8:1", None)["state"], "ok");
    assert_eq!(host.call("renew", &format!("'{first}'"))["state"], "ok");
    let answer = host.register_as(second, "boot 1", "8:1", None);
    assert_eq!(
        answer,
        json!({
            "state": "ok", "registration": 3, "epoch": 1, "was_lost": false, "max_rev": 0,
        })
    );
    assert_eq!(host.call("renew", &format!("'{first}'")), json!({ "state": "superseded" }));
    host.set_registration(2);
    assert_eq!(host.call("renew", &format!("'{second}'")), json!({ "state": "superseded" }));
    host.set_registration(3);
    let renewed = host.call("renew", &format!("'{second}'"));
    assert_eq!((&renewed["orders"], &renewed["free"]), (&json!([]), &json!([])));
}

#[test]
fn after_a_boot_a_silent_lease_is_taken_over() {
    let Some(postgres) = Postgres::with_schema("after_a_boot_a_silent_lease_is_taken_over") else { return };
    let host = Host::join(&postgres, "a");
    let told = host.register("boot 2", "8:1", None);
    assert_eq!(told["state"], "watch");
    let wait = told["wait_ms"].as_i64().expect("a time");
    assert!((14_000..=15_000).contains(&wait), "{told}");
    let seq = told["seq"].as_i64();
    // Whoever asks again too early is told the same.
    assert_eq!(host.register("boot 2", "8:1", seq)["state"], "watch");
    let_the_watch_pass(&postgres);
    // Without the seq it was told before, it starts to watch.
    let anew = host.register("boot 2", "8:1", None);
    assert_eq!((&anew["state"], &anew["wait_ms"]), (&json!("watch"), &json!(1)));
    let taken = host.register("boot 2", "8:1", seq);
    assert_eq!((&taken["state"], &taken["epoch"]), (&json!("ok"), &json!(1)));
    // An answer for a lease that was renewed since is given anew.
    let told = host.register("boot 3", "8:1", None)["seq"].as_i64();
    host.register("boot 2", "8:1", None);
    let_the_watch_pass(&postgres);
    let seq = host.register("boot 3", "8:1", None)["seq"].as_i64();
    assert!(seq > told, "{seq:?} after {told:?}");
    assert_eq!(host.register("boot 3", "8:1", seq)["state"], "watch");
}

#[test]
fn a_clock_that_is_set_back_makes_no_dead_host_reachable_and_no_watch_longer() {
    let test = "a_clock_that_is_set_back_makes_no_dead_host_reachable_and_no_watch_longer";
    let Some(postgres) = Postgres::with_schema(test) else { return };
    let host = Host::join(&postgres, "a");
    host.register("boot 1", "8:1", None);
    let told = host.register("boot 2", "8:1", None);
    assert_eq!(told["state"], "watch");
    // As if all this had been an hour later.
    let later = "now() + interval '1 h'";
    postgres.psql(&format!("UPDATE bookend.lease SET renewed_at = {later}, watch_at = {later}"));
    assert_eq!(postgres.psql("SELECT state, reachable FROM bookend.node_state"), "unreachable|f");
    let told = host.register("boot 2", "8:1", told["seq"].as_i64());
    assert_eq!(told["state"], "watch");
    assert!(told["wait_ms"].as_i64().expect("a time") <= 15_000, "{told}");
}

#[test]
fn a_copy_beside_the_living_original_is_refused() {
    let Some(postgres) = Postgres::with_schema("a_copy_beside_the_living_original_is_refused") else {
        return;
    };
    let host = Host::join(&postgres, "a");
    let instance = Uuid::new_v4();
    host.register_as(instance, "boot 1", "8:1", None);
    // A cloned machine, and a copied ledger on the same machine.
    for (boot, file) in [("boot 2", "8:1"), ("boot 1", "8:2")] {
        let seq = host.register(boot, file, None)["seq"].as_i64();
        assert_eq!(host.call("renew", &format!("'{instance}'"))["state"], "ok");
        let_the_watch_pass(&postgres);
        let refused = host.register(boot, file, seq);
        assert_eq!((&refused["state"], &refused["why"]), (&json!("refused"), &json!("copies")));
    }
    assert_eq!(host.call("renew", &format!("'{instance}'"))["state"], "ok");
}

#[test]
fn of_two_copies_one_registers() {
    let Some(postgres) = Postgres::with_schema("of_two_copies_one_registers") else { return };
    let host = Host::join(&postgres, "a");
    let first = host.register("boot 2", "8:1", None)["seq"].as_i64();
    let second = host.register("boot 3", "8:1", None)["seq"].as_i64();
    let_the_watch_pass(&postgres);
    assert_eq!(host.register("boot 2", "8:1", first)["state"], "ok");
    assert_eq!(host.register("boot 3", "8:1", second)["state"], "refused");
}

#[test]
fn a_node_of_another_role_is_refused() {
    let Some(postgres) = Postgres::with_schema("a_node_of_another_role_is_refused") else { return };
    let owner = Host::join(&postgres, "a");
    let mut other = Host::join(&postgres, "b");
    other.node = owner.node;
    let refused = other.register("boot 1", "8:1", None);
    assert_eq!((&refused["state"], &refused["why"]), (&json!("refused"), &json!("role")));
    assert_eq!(postgres.psql("SELECT role FROM bookend.node WHERE host = 'a'"), "bookend_a");
}

#[test]
fn another_version_of_the_schema_is_refused() {
    let Some(postgres) = Postgres::with_schema("another_version_of_the_schema_is_refused") else { return };
    let host = Host::join(&postgres, "a");
    let own = json!({ "schema": 1, "renew_ms": 5000, "publish_argv": false });
    assert_eq!(host.session.json("SELECT bookend.version()"), own);
    for facts in ["{\"schema\": 2}", "{}"] {
        let call = format!("SELECT bookend.register('{}', '{facts}', '{}', NULL)", host.node, host.node);
        assert_eq!(host.session.error(&call), "BK004", "{facts}");
    }
}

#[test]
fn a_stopped_node_is_not_unreachable_and_boots_without_waiting() {
    let test = "a_stopped_node_is_not_unreachable_and_boots_without_waiting";
    let Some(postgres) = Postgres::with_schema(test) else { return };
    let host = Host::join(&postgres, "a");
    let state =
        || postgres.psql("SELECT state, reachable, unreachable_since IS NULL FROM bookend.node_state");
    host.publish(&[entry(1, "t", None, "running")]);
    assert_eq!(host.call("stopped", ""), json!({ "state": "running", "running": 1, "claims": 0 }));
    assert_eq!(state(), "reachable|t|t");
    make_unreachable(&postgres, &host);
    assert_eq!(state(), "unreachable|f|f");
    host.publish(&[entry(2, "t", None, "success")]);
    host.take("k", "t", false);
    assert_eq!(host.call("stopped", ""), json!({ "state": "running", "running": 0, "claims": 1 }));
    host.call("release", "'k', 't'");
    let instance = Uuid::new_v4();
    host.register_as(instance, "boot 1", "8:1", None);
    assert_eq!(host.call("stopped", ""), json!({ "state": "stopped" }));
    assert_eq!(host.call("renew", &format!("'{instance}'"))["state"], "superseded", "a late renewal");
    assert_eq!(state(), "stopped|f|t");
    assert_eq!(host.register_as(instance, "boot 2", "8:1", None)["state"], "ok");
    assert_eq!(state(), "reachable|t|t");
    make_unreachable(&postgres, &host);
    assert_eq!(host.call("renew", &format!("'{instance}'"))["state"], "ok");
    assert_eq!(state(), "reachable|t|t");
}

#[test]
fn the_facts_of_the_last_registration_are_stored() {
    let Some(postgres) = Postgres::with_schema("the_facts_of_the_last_registration_are_stored") else {
        return;
    };
    let host = Host::join(&postgres, "a");
    postgres.psql("UPDATE bookend.node SET host = '', machine_id = '', ledger_id = '', version = ''");
    assert_eq!(host.call("stopped", "")["state"], "stopped");
    assert_eq!(host.register("boot 2", "8:2", None)["state"], "ok");
    let facts = "SELECT host, machine_id, boot_id, ledger_id, ledger_file, version FROM bookend.node";
    assert_eq!(postgres.psql(facts), "a|machine|boot 2|ledger|8:2|1.0.0");
}

#[test]
fn a_monitor_registers_after_the_call_in_flight_and_sees_the_registration_before_it() {
    let test = "a_monitor_registers_after_the_call_in_flight_and_sees_the_registration_before_it";
    let Some(postgres) = Postgres::with_schema(test) else { return };
    let host = Host::join(&postgres, "a");
    let mut other = Host::beside(&postgres, "a", "b");
    other.node = host.node;
    // Each waits for the transaction before it.
    host.session.query("BEGIN").expect("a transaction");
    host.call("give_up_waiting", "'k'");
    std::thread::scope(|scope| {
        let registering = scope.spawn(|| {
            other.session.query("BEGIN").expect("a transaction");
            other.register("boot 1", "8:1", None)["state"].clone()
        });
        waits_for_a_lock(&postgres);
        host.session.query("COMMIT").expect("a commit");
        assert_eq!(registering.join().expect("an answer"), "ok");
        assert_eq!(other.call("stopped", "")["state"], "stopped");
        assert_eq!(other.register("boot 2", "8:1", None)["state"], "ok");
        let registering = scope.spawn(|| host.register("boot 1", "8:1", None)["state"].clone());
        waits_for_a_lock(&postgres);
        other.session.query("COMMIT").expect("a commit");
        assert_eq!(registering.join().expect("an answer"), "watch", "the boot is another one by now");
    });
}

#[test]
fn a_lost_node_begins_a_new_epoch() {
    let Some(postgres) = Postgres::with_schema("a_lost_node_begins_a_new_epoch") else { return };
    let host = Host::join(&postgres, "a");
    let instance = Uuid::new_v4();
    host.register_as(instance, "boot 1", "8:1", None);
    assert_eq!(declare_lost(&postgres, host.node)["state"], "lost");
    assert_eq!(host.call("renew", &format!("'{instance}'")), json!({ "state": "lost" }));
    let again = host.register("boot 1", "8:1", None);
    assert_eq!((&again["epoch"], &again["was_lost"]), (&json!(2), &json!(true)));
    let lease = "SELECT epoch, lost_at IS NULL AND lost_by IS NULL FROM bookend.lease";
    assert_eq!(postgres.psql(lease), "2|t");
    host.set_registration(1);
    assert_eq!(host.call("renew", &format!("'{instance}'")), json!({ "state": "superseded" }));
    assert_eq!(host.error("finding", "'kind', 'subject', NULL"), "BK001");
}

#[test]
fn a_node_leaves_when_nothing_runs_and_holds_no_key() {
    let Some(postgres) = Postgres::with_schema("a_node_leaves_when_nothing_runs_and_holds_no_key") else {
        return;
    };
    let host = Host::join(&postgres, "a");
    assert_eq!(host.take("k", "t", false), "granted");
    // A run that was granted its key may be starting.
    assert_eq!(host.call("leave", ""), json!({ "state": "running", "tasks": ["t"] }));
    host.publish(&[entry(1, "t", Some("k"), "running")]);
    assert_eq!(host.call("leave", ""), json!({ "state": "running", "tasks": ["t"] }));
    let other = Host::join(&postgres, "b");
    other.take("of another", "t2", false);
    host.take("of another", "t3", true);
    let instance = Uuid::new_v4();
    host.register_as(instance, "boot 1", "8:1", None);
    host.take("of another", "t3", true);
    host.publish(&[entry(2, "t", Some("k"), "success")]);
    assert_eq!(host.call("leave", ""), json!({ "state": "left" }));
    assert_eq!(host.call("renew", &format!("'{instance}'"))["state"], "superseded", "a late renewal");
    let left = "SELECT state, claims, waiting, (SELECT count(*) FROM bookend.task_history)
                FROM bookend.node_state WHERE host = 'a'";
    assert_eq!(postgres.psql(left), "left|0|0|1");
    // No call that is under way takes a key, and no monitor brings the node back.
    assert_eq!(host.error("take", "'k', 't2', 0, false"), "BK001");
    assert_eq!(host.register("boot 1", "8:1", None)["why"], "left");
    assert_eq!(postgres.psql(left), "left|0|0|1");
}

#[test]
fn each_state_of_a_node_is_shown_with_what_it_has() {
    let Some(postgres) = Postgres::with_schema("each_state_of_a_node_is_shown_with_what_it_has") else {
        return;
    };
    let [reachable, lost, left, stopped] = ["a", "b", "c", "d"].map(|name| Host::join(&postgres, name));
    reachable.take("k", "t", false);
    reachable.publish(&[entry(1, "t", Some("k"), "running"), entry(2, "t2", None, "success")]);
    left.call("leave", "");
    declare_lost(&postgres, lost.node);
    stopped.call("stopped", "");
    let waits = Host::join(&postgres, "e");
    waits.take("k", "t3", true);
    let shown = || {
        postgres.psql(
            "SELECT host, state, reachable, unreachable_since = renewed_at, running, claims, waiting
             FROM bookend.node_state ORDER BY host",
        )
    };
    let others = "b|lost|f||0|0|0\nc|left|f||0|0|0\nd|stopped|f||0|0|0";
    assert_eq!(shown(), format!("a|reachable|t||1|1|0\n{others}\ne|reachable|t||0|0|1"));
    // After three renewals, here of an hour each.
    postgres.psql(
        "UPDATE bookend.setting SET value = '3600000' WHERE name = 'renew_ms';
         UPDATE bookend.lease SET renewed_at = now() - interval '170 min'",
    );
    assert_eq!(shown(), format!("a|reachable|t||1|1|0\n{others}\ne|reachable|t||0|0|1"));
    postgres.psql("UPDATE bookend.lease SET renewed_at = now() - interval '180 min'");
    assert_eq!(shown(), format!("a|unreachable|f|t|1|1|0\n{others}\ne|unreachable|f|t|0|0|1"));
}

#[test]
fn a_node_that_leaves_before_it_has_registered_is_refused_then() {
    let test = "a_node_that_leaves_before_it_has_registered_is_refused_then";
    let Some(postgres) = Postgres::with_schema(test) else { return };
    let mut host = Host::join(&postgres, "a");
    let leave = |host: &Host| host.session.json(&format!("SELECT bookend.leave('{}', NULL)", host.node));
    // A node that is registered leaves, whatever its registration.
    host.register("boot 1", "8:1", None);
    assert_eq!((leave(&host), leave(&host)), (json!({ "state": "left" }), json!({ "state": "left" })));
    let registered = host.node;
    host.node = Uuid::new_v4();
    assert_eq!((leave(&host), leave(&host)), (json!({ "state": "left" }), json!({ "state": "left" })));
    let states = "SELECT string_agg(state, ' ') FROM bookend.node_state";
    assert_eq!(postgres.psql(states), "left");
    assert_eq!(host.register("boot 1", "8:1", None)["why"], "left");
    assert_eq!(postgres.psql(states), "left left");
    // Nobody else's node.
    let other = Host::join(&postgres, "b");
    let sql = format!("SELECT bookend.leave('{registered}', NULL)");
    assert_eq!(other.session.error(&sql), "BK002");
}

#[test]
fn a_superseded_monitor_watches_before_it_takes_the_lease_back() {
    let test = "a_superseded_monitor_watches_before_it_takes_the_lease_back";
    let Some(postgres) = Postgres::with_schema(test) else { return };
    let host = Host::join(&postgres, "a");
    let again = |seen| host.register_with(json!({ "superseded": true }), Uuid::new_v4(), seen);
    let watching = again(None);
    assert_eq!(watching["state"], "watch");
    let_the_watch_pass(&postgres);
    assert_eq!(again(watching["seq"].as_i64())["state"], "ok");
    let watching = again(None);
    let registered = host.register("boot 1", "8:1", None);
    assert_eq!(registered["state"], "ok", "one that was not superseded, as after a crash");
    let_the_watch_pass(&postgres);
    assert_eq!(again(watching["seq"].as_i64())["why"], "copies");
}
