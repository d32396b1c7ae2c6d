//! Tests of the functions in `src/fleet/schema`, called as hosts and operators call them.

mod claims;
mod contention;
mod losing;
mod orders;
mod plans;
mod publishing;
mod registering;
mod rights;

use std::sync::atomic::{AtomicI64, Ordering};

use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Deadline, eventually};
use crate::postgres::Postgres;
use crate::sql_session::SqlSession;

/// A host that has registered, with a role of its own.
pub struct Host {
    session: SqlSession,
    node: Uuid,
    name: String,
    registration: AtomicI64,
}

impl Host {
    pub fn join(postgres: &Postgres, name: &str) -> Host {
        postgres.role(&format!("bookend_{name}"), &["bookend_host"]);
        Host::beside(postgres, name, name)
    }

    /// A further node of the role of `of`.
    fn beside(postgres: &Postgres, of: &str, name: &str) -> Host {
        let session = postgres.session(&format!("bookend_{of}"));
        let host =
            Host { session, node: Uuid::new_v4(), name: name.to_owned(), registration: AtomicI64::new(0) };
        assert_eq!(host.register("boot 1", "8:1", None)["state"], "ok");
        host
    }

    /// Registers after a boot, with the ledger in this file.
    fn register(&self, boot: &str, file: &str, seen_seq: Option<i64>) -> Value {
        self.register_as(Uuid::new_v4(), boot, file, seen_seq)
    }

    fn register_as(&self, instance: Uuid, boot: &str, file: &str, seen_seq: Option<i64>) -> Value {
        self.register_with(json!({ "boot_id": boot, "ledger_file": file }), instance, seen_seq)
    }

    /// Registers with these facts, and usual ones.
    fn register_with(&self, facts: Value, instance: Uuid, seen_seq: Option<i64>) -> Value {
        let usual = json!({
            "schema": 1, "version": "1.0.0", "host": self.name, "machine_id": "machine",
            "ledger_id": "ledger", "boot_id": "boot 1", "ledger_file": "8:1",
        });
        let mut all = usual.as_object().expect("facts").clone();
        all.extend(facts.as_object().expect("facts").clone());
        let facts = Value::Object(all);
        let seen = seen_seq.map_or("NULL".to_owned(), |seq| seq.to_string());
        let answer = self
            .session
            .json(&format!("SELECT bookend.register('{}', '{facts}', '{instance}', {seen})", self.node));
        if let Some(registration) = answer["registration"].as_i64() {
            self.set_registration(registration);
        }
        answer
    }

    fn registration(&self) -> i64 {
        self.registration.load(Ordering::Relaxed)
    }

    /// Calls are made with this registration from now on.
    fn set_registration(&self, registration: i64) {
        self.registration.store(registration, Ordering::Relaxed);
    }

    /// The statement that calls a function with the node, its registration, and these arguments as SQL.
    fn statement(&self, function: &str, arguments: &str) -> String {
        let comma = if arguments.is_empty() { "" } else { ", " };
        format!("SELECT bookend.{function}('{}', {}{comma}{arguments})", self.node, self.registration())
    }

    pub fn call(&self, function: &str, arguments: &str) -> Value {
        self.session.json(&self.statement(function, arguments))
    }

    /// The SQLSTATE with which a call fails.
    fn error(&self, function: &str, arguments: &str) -> String {
        self.session.error(&self.statement(function, arguments))
    }

    /// Asks for a key: `granted`, or the host that holds it.
    fn take(&self, key: &str, task: &str, wait: bool) -> String {
        let answer = self.call("take", &format!("'{key}', '{task}', 0, {wait}"));
        match answer["state"].as_str() {
            Some("granted") => "granted".to_owned(),
            _ => format!("held by {} of {}", text(&answer["task"]), text(&answer["host"])),
        }
    }

    /// Publishes and returns the results, joined by spaces.
    pub fn publish(&self, entries: &[Value]) -> String {
        self.publish_and_keep(entries, &[])
    }

    fn publish_and_keep(&self, entries: &[Value], keep: &[&str]) -> String {
        let answer = self.call("publish", &format!("{}, '{{{}}}'", quoted(entries), keep.join(",")));
        let rows = answer["rows"].as_array().expect("an array");
        rows.iter().map(|row| text(&row["result"])).collect::<Vec<_>>().join(" ")
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// JSON as a literal of SQL.
fn quoted(entries: &[Value]) -> String {
    format!("'{}'", Value::from(entries.to_vec()).to_string().replace('\'', "''"))
}

/// An element of `publish`: a task with its first move, and with its second one if it has ended.
pub fn entry(rev: i64, id: &str, key: Option<&str>, status: &str) -> Value {
    let at = "2026-03-01T10:00:00.250Z";
    let mut task = json!({ "id": id, "key": key, "status": status, "started_at": at, "boot_id": "boot 1" });
    let mut transitions = vec![json!({ "n": 1, "at": at, "to_status": "running" })];
    if status != "running" {
        task["finished_at"] = "2026-03-01T10:00:01.500Z".into();
        task["end_source"] = "wait".into();
        transitions.push(json!({ "n": 2, "at": at, "from_status": "running", "to_status": status }));
    }
    json!({ "rev": rev, "task": task, "transitions": transitions, "session": null, "invalidations": [] })
}

/// The same with these columns of the task.
pub fn with(mut entry: Value, columns: Value) -> Value {
    let task = entry["task"].as_object_mut().expect("a task");
    task.extend(columns.as_object().expect("columns").clone());
    entry
}

/// Makes the last renewal of a host an hour old.
fn make_unreachable(postgres: &Postgres, host: &Host) {
    let node = host.node;
    postgres
        .psql(&format!("UPDATE bookend.lease SET renewed_at = now() - interval '1 h' WHERE node = '{node}'"));
}

/// Declares a host lost, as the superuser.
fn declare_lost(postgres: &Postgres, node: Uuid) -> Value {
    let lost =
        format!("SELECT bookend.declare_lost(node, epoch, seq) FROM bookend.lease WHERE node = '{node}'");
    serde_json::from_str(&postgres.psql(&lost)).expect("JSON")
}

/// Waits until a session waits for a lock.
fn waits_for_a_lock(postgres: &Postgres) {
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    eventually(Deadline::new(), "a session that waits for a lock", || postgres.psql(waiting) == "1");
}
