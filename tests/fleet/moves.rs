//! A ledger joins the fleet or leaves it while runs wait for keys.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{End, eventually};
use crate::keys::{Holder, until_claims};
use crate::node::{Node, claims, fleet};

#[test]
fn a_run_that_waits_since_before_the_join_waits_for_other_hosts_too() {
    let test = "a_run_that_waits_since_before_the_join_waits_for_other_hosts_too";
    let Some(postgres) = fleet(test) else { return };
    let (a, b) = (Node::start(&postgres, "a"), Node::start(&postgres, "b"));
    b.bookend(&["fleet", "leave"]).ended(End::Code(0));
    let local = Holder::start(&b, "t1");
    let waiting = b.keyed("k", "touch ../effect").options(["--wait", "--id", "t2"]).start();
    b.rejoin(&postgres, "bookend_b", &[]);
    until_claims(&b, &postgres, "k|t1");
    let (mut up, mut go) = (a.world.fifo("up"), a.world.fifo("go"));
    let script = format!("echo up >'{}'; read x <'{}'", up.path(), go.path());
    let next = a.keyed("k", &script).options(["--wait", "--id", "t3"]).start();
    let waiter = || postgres.psql("SELECT task_id FROM bookend.waiter");
    eventually(a.world.deadline(), "a waiter", || waiter() == "t3");
    local.end();
    assert_eq!(up.line(), "up");
    eventually(b.world.deadline(), "the run that waits for the other host", || waiter() == "t2");
    assert!(!b.world.path("effect").exists(), "two tasks run under one key");
    go.write_line("on");
    next.wait().ended(End::Code(0));
    waiting.wait().ended(End::Code(0));
    assert!(b.world.path("effect").exists());
    until_claims(&a, &postgres, "");
}

#[test]
fn a_run_that_waits_for_another_host_starts_when_its_ledger_leaves() {
    let test = "a_run_that_waits_for_another_host_starts_when_its_ledger_leaves";
    let Some(postgres) = fleet(test) else { return };
    let (a, b) = (Node::start(&postgres, "a"), Node::start(&postgres, "b"));
    let holder = Holder::start(&a, "t1");
    let waiting = b.keyed("k", "true").options(["--wait"]).start();
    let waiters = || postgres.psql("SELECT count(*) FROM bookend.waiter");
    eventually(b.world.deadline(), "a waiter", || waiters() == "1");
    b.bookend(&["fleet", "leave"]).ended(End::Code(0));
    waiting.wait().ended(End::Code(0));
    assert_eq!((waiters().as_str(), claims(&postgres).as_str()), ("0", "k|t1"));
    holder.end();
}

#[test]
fn a_run_that_knows_another_fleet_is_not_answered() {
    let Some(postgres) = fleet("a_run_that_knows_another_fleet_is_not_answered") else { return };
    let a = Node::start(&postgres, "a");
    let answer = |fleet: &str| {
        let socket = a.world.path("state/bookend/bookend.db.d/fleet.sock");
        let mut stream = UnixStream::connect(socket).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
        let request = json!({"key": "k", "task": "t", "slot": 1, "if_held": "refuse"});
        let message = json!({"take": {"fleet": fleet, "request": request}});
        stream.write_all(format!("{message}\n").as_bytes()).expect("a request");
        let mut bytes = [0; 1000];
        let length = stream.read(&mut bytes).expect("an answer, or the end");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    };
    let setting =
        a.world.sql("SELECT value FROM bookend_setting WHERE name = 'fleet'").remove(0).text("value");
    let mut another: Value = serde_json::from_str(&setting).expect("JSON");
    another["joined_at"] = json!("2026-01-01T00:00:00Z");
    assert_eq!((answer(&another.to_string()), answer("no JSON")), (String::new(), String::new()));
    assert_eq!(claims(&postgres), "");
    assert!(answer(&setting).contains("granted"), "the request is good otherwise");
}
