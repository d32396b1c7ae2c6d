//! What `fleet status` and `doctor` say about a monitor that cannot use the database, though they can.

use serde_json::Value;

use crate::harness::{End, Monitor, eventually};
use crate::node::{Node, fleet};

/// What `fleet status` prints, and the connection of the monitor in its JSON.
fn status(node: &Node) -> (String, Value) {
    let text = node.bookend(&["fleet", "status"]).ended(End::Code(0)).silent().stdout;
    let json = node.bookend(&["fleet", "status", "--json"]).ended(End::Code(0)).stdout;
    let json: Value = serde_json::from_str(&json).expect("JSON");
    (text, json["own"]["connection"].clone())
}

/// What `doctor` says about the fleet, each in a line.
fn doctor(node: &Node) -> Vec<String> {
    let points = node.bookend(&["doctor", "--json"]).stdout;
    let points: Value = serde_json::from_str(&points).expect("JSON");
    let of_fleet = |point: &&Value| point["name"] == "fleet";
    let line = |point: &Value| format!("{} {}", point["health"], point["text"]);
    points["points"].as_array().expect("points").iter().filter(of_fleet).map(line).collect()
}

/// Waits until the monitor says that it is away, and checks that all commands show why and the way out.
fn shows(node: &Node, why: &str, hint: &str) {
    eventually(node.world.deadline(), why, || status(node).1["state"] == "away");
    let (text, connection) = status(node);
    for (field, words) in [("why", why), ("hint", hint)] {
        let said = connection[field].as_str().unwrap_or_default();
        assert!(said.contains(words), "{words:?} is not in {connection}");
    }
    assert!(
        text.contains("monitor  has not been able to use the database since 2") && text.contains(why),
        "{text}"
    );
    let points = doctor(node);
    let point =
        points.iter().find(|point| point.contains("the monitor has not been able to use the database"));
    assert!(point.is_some_and(|p| p.contains(why) && p.contains("bad")), "{points:?}");
}

#[test]
fn a_monitor_that_gets_no_password_says_so() {
    let Some(postgres) = fleet("a_monitor_that_gets_no_password_says_so") else { return };
    let mut node = Node::join(&postgres, "a");
    assert_eq!(status(&node).1, Value::Null, "no monitor runs");
    node.monitor = Some(Monitor::start_with(&node.world, &[], &[("PGPASSFILE", "/nowhere")], &[]));
    shows(&node, "the server asks for a password, and /nowhere has none", "write a line like");
    node.monitor.take().expect("a monitor").stop();
    node.start_monitor(&[]);
    node.monitor().service.until("publishing to");
    let (text, connection) = status(&node);
    assert_eq!(connection["state"], "connected");
    assert!(!text.contains("monitor  ") && text.contains(" *  reachable"), "{text}");
    let points = doctor(&node);
    assert!(points.iter().any(|p| p.contains("the monitor is connected to it")), "{points:?}");
}

#[test]
fn the_monitor_of_a_copy_says_that_it_is_refused() {
    let Some(postgres) = fleet("the_monitor_of_a_copy_says_that_it_is_refused") else { return };
    let node = Node::start(&postgres, "a");
    let copy = node.copy();
    shows(&copy, "machine id and ledger are copies", "join --new-node postgres://");
    assert_eq!(status(&node).1["state"], "connected");
}

#[test]
fn a_monitor_that_the_fleet_does_not_admit_says_why() {
    let Some(postgres) = fleet("a_monitor_that_the_fleet_does_not_admit_says_why") else { return };
    let mut node = Node::join(&postgres, "a");
    postgres.psql("REVOKE EXECUTE ON FUNCTION bookend.register FROM bookend_host");
    node.start_monitor(&[]);
    shows(&node, "permission denied for function register", "GRANT bookend_host");
    node.monitor.take().expect("a monitor").stop();
    postgres.psql("GRANT EXECUTE ON FUNCTION bookend.register TO bookend_host");
    postgres.psql("INSERT INTO bookend.migration (version) VALUES (2)");
    node.start_monitor(&[]);
    shows(&node, "the schema in PostgreSQL has version 2", "upgrade bookend on all hosts");
}

#[test]
fn a_monitor_that_is_stopped_does_not_answer() {
    let Some(postgres) = fleet("a_monitor_that_is_stopped_does_not_answer") else { return };
    let node = Node::start(&postgres, "a");
    node.monitor().signal(rustix::process::Signal::STOP);
    let (text, connection) = status(&node);
    node.monitor().signal(rustix::process::Signal::CONT);
    assert_eq!(connection, serde_json::json!({ "state": "silent", "why": "no answer within 3s" }));
    assert!(text.contains("monitor  did not say whether it can use the database"), "{text}");
}
