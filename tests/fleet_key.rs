//! A run in a ledger of a fleet asks the monitor for its key. The test answers in place of the monitor.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Cmd, Deadline, End, Output, World, bookend, eventually};

const SOCKET: &str = "state/bookend/bookend.db.d/fleet.sock";
const NODE: &str = "0199aaaa-0000-7000-8000-000000000001";

/// The socket of a monitor.
pub struct Hub {
    pub listener: UnixListener,
    deadline: Deadline,
}

/// The connection of a run.
pub struct Asked {
    stream: BufReader<UnixStream>,
    pub request: Value,
    /// The setting by which the run knows the fleet.
    pub fleet: String,
}

impl Hub {
    pub fn listen(world: &World) -> Hub {
        let path = world.path(SOCKET);
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(path).expect("a socket");
        listener.set_nonblocking(true).expect("a socket");
        Hub { listener, deadline: world.deadline() }
    }

    /// The next run that asks.
    pub fn asked(&self) -> Asked {
        self.deadline.readable("a run that asks for a key", &[&self.listener]);
        let (stream, _) = self.listener.accept().expect("a connection");
        stream.set_nonblocking(false).expect("a socket");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line).expect("a request");
        let request: Value = serde_json::from_str(&line).expect("JSON");
        let fleet = request["take"]["fleet"].as_str().expect("a setting").to_owned();
        Asked { stream, request: request["take"]["request"].clone(), fleet }
    }

    pub fn is_unasked(&self) -> bool {
        self.listener.accept().is_err_and(|e| e.kind() == ErrorKind::WouldBlock)
    }
}

impl Asked {
    pub fn answer(mut self, answer: &Value) -> Asked {
        self.stream.get_mut().write_all(format!("{answer}\n").as_bytes()).expect("an answer");
        self
    }

    pub fn grant(self) -> Asked {
        self.answer(&json!({"granted": {}}))
    }

    /// Waits until the run closes the connection.
    fn closed(mut self) {
        let mut rest = String::new();
        match self.stream.read_to_string(&mut rest) {
            // It has not read all answers.
            Err(e) if e.kind() == ErrorKind::ConnectionReset => {}
            read => assert_eq!(read.map(|_| rest).expect("the end of the connection"), ""),
        }
    }
}

pub fn held() -> Value {
    json!({"held": {"task": "t-far", "host": "build-7", "since": "2026-01-02T03:04:05.000Z"}})
}

/// A world whose ledger is in a fleet.
pub fn member(test: &str) -> Option<World> {
    let world = World::of_bookend(test)?;
    world.run(["true"]).run().ended(End::Code(0)).silent();
    join(&world, "");
    Some(world)
}

/// Lets the ledger of the world join a fleet, or another one, and returns its setting.
pub fn join(world: &World, joined_at: &str) -> String {
    let setting = json!({"url": "postgres://db/fleet", "node": NODE, "ledger": NODE, "joined_at": joined_at})
        .to_string();
    world.write(&format!(
        "INSERT OR REPLACE INTO bookend_setting (name, value) VALUES ('fleet', '{setting}')"
    ));
    setting
}

pub fn leave(world: &World) {
    world.write("DELETE FROM bookend_setting WHERE name = 'fleet'");
}

pub fn keyed<'w>(world: &'w World, options: &[&str]) -> Cmd<'w> {
    let effect = world.name("effect");
    world.run(["touch", &effect]).options(["--key", "k"]).options(options.iter().copied()).own_group()
}

/// Asserts that a run was refused before it executed anything or wrote a row.
#[track_caller]
fn refused(world: &World, output: Output, code: i32, parts: &[&str]) {
    let output = output.ended(End::Code(code));
    for part in parts.iter().chain(&["nothing was executed"]) {
        assert!(output.stderr.contains(part), "{part:?} in {}", output.stderr);
    }
    assert!(!world.path("effect").exists(), "the agent ran");
    assert_eq!(world.rows().len(), 1, "only the row from before");
}

#[test]
fn a_run_claims_its_key_after_the_grant_and_lets_go_after_its_row_is_committed() {
    let test = "a_run_claims_its_key_after_the_grant_and_lets_go_after_its_row_is_committed";
    let Some(world) = member(test) else { return };
    let hub = Hub::listen(&world);
    let mut go = world.fifo("go");
    let run = world.run_sh(&format!("read x <'{}'", go.path()));
    let run = run.options(["--key", "k", "--id", "t"]).own_group().start();
    let asked = hub.asked();
    assert_eq!(
        (&asked.request["key"], &asked.request["task"], &asked.request["if_held"]),
        (&json!("k"), &json!("t"), &json!("refuse"))
    );
    assert!(asked.request["slot"].as_i64().is_some_and(|slot| slot > 0), "{}", asked.request);
    assert_eq!(world.rows().len(), 1, "no row before the grant");
    asked.grant().closed();
    let row = world.sql("SELECT * FROM task_history WHERE id = 't'").remove(0);
    assert_eq!(row.ending(), "running/");
    go.write_line("on");
    run.wait().ended(End::Code(0)).silent();
    assert!(hub.is_unasked(), "it asked twice");
}

#[test]
fn a_run_without_a_key_and_one_without_a_fleet_never_ask() {
    let Some(world) = member("a_run_without_a_key_and_one_without_a_fleet_never_ask") else { return };
    let hub = Hub::listen(&world);
    world.run(["true"]).run().ended(End::Code(0)).silent();
    leave(&world);
    world.run(["true"]).options(["--key", "k"]).run().ended(End::Code(0)).silent();
    assert!(hub.is_unasked());
}

#[test]
fn without_a_monitor_a_keyed_run_exits_with_125_or_waits_for_one() {
    let Some(world) = member("without_a_monitor_a_keyed_run_exits_with_125_or_waits_for_one") else { return };
    let parts = ["no monitor of the ledger", "bookend.db runs", "bookend monitor", "--wait"];
    refused(&world, keyed(&world, &[]).run(), 125, &parts);
    // The socket of a monitor that was killed.
    drop(Hub::listen(&world));
    refused(&world, keyed(&world, &[]).run(), 125, &parts);
    refused(&world, keyed(&world, &["--replace"]).run(), 125, &parts);

    let mut said = world.fifo("said");
    let line =
        format!("exec bookend run --key k --wait -- touch '{}' 2>'{}'", world.name("effect"), said.path());
    let waiting = world.bare(["sh", "-c", &line]).start();
    let waits = said.line();
    assert!(waits.contains("waiting for a monitor of the ledger"), "{waits}");
    let hub = Hub::listen(&world);
    let asked = hub.asked();
    assert_eq!(asked.request["if_held"], "wait");
    let _asked = asked.grant();
    waiting.wait().ended(End::Code(0));
    assert!(world.path("effect").exists());
}

#[test]
fn a_key_that_another_host_holds_is_refused_with_host_task_and_time() {
    let Some(world) = member("a_key_that_another_host_holds_is_refused_with_host_task_and_time") else {
        return;
    };
    let hub = Hub::listen(&world);
    let run = keyed(&world, &[]).start();
    let _asked = hub.asked().answer(&held());
    let parts =
        ["the key k is held by task t-far on host build-7", "since 2026-01-02T03:04:05.000Z", "--wait"];
    refused(&world, run.wait(), 75, &parts);

    let run = keyed(&world, &[]).start();
    let mut unreachable = held();
    unreachable["held"]["unreachable_since"] = json!("2026-01-03T00:00:00.000Z");
    let _asked = hub.asked().answer(&unreachable);
    let parts = ["unreachable since 2026-01-03T00:00:00.000Z", "declare-lost build-7"];
    refused(&world, run.wait(), 75, &parts);
}

#[test]
fn a_waiting_run_says_once_what_it_waits_for_and_starts_when_it_is_granted() {
    let test = "a_waiting_run_says_once_what_it_waits_for_and_starts_when_it_is_granted";
    let Some(world) = member(test) else { return };
    let hub = Hub::listen(&world);
    let run = keyed(&world, &["--wait"]).start();
    let asked = hub.asked();
    let away = json!({"away": {"why": "PostgreSQL is not reachable"}});
    let _asked = asked.answer(&held()).answer(&held()).answer(&away).grant();
    let output = run.wait().ended(End::Code(0));
    let expected =
        "waiting for task t-far on host build-7 (since 2026-01-02T03:04:05.000Z), which holds the key k";
    assert_eq!(output.stderr.matches(expected).count(), 1, "{}", output.stderr);
    assert!(output.stderr.contains("PostgreSQL is not reachable"), "{}", output.stderr);
    assert!(world.path("effect").exists());
}

#[test]
fn a_run_that_waits_for_the_fleet_can_be_stopped() {
    let Some(world) = member("a_run_that_waits_for_the_fleet_can_be_stopped") else { return };
    let hub = Hub::listen(&world);
    for signal in [Signal::INT, Signal::TERM] {
        let run = keyed(&world, &["--wait"]).start();
        let asked = hub.asked();
        let asked = asked.answer(&held());
        run.signal(signal);
        run.wait().ended(End::Signal(signal.as_raw()));
        asked.closed();
    }
    assert!(!world.path("effect").exists(), "the agent ran");
    assert_eq!(world.rows().len(), 1);
}

#[test]
fn replace_gives_the_holder_its_time_to_end() {
    let Some(world) = member("replace_gives_the_holder_its_time_to_end") else { return };
    let hub = Hub::listen(&world);
    let run = keyed(&world, &["--replace", "--fleet-timeout", "300ms"]).start();
    let asked = hub.asked();
    assert_eq!(asked.request["if_held"], "replace");
    let _asked = asked.answer(&held());
    let parts = ["cancelling task t-far on host build-7", "is held by", "300ms after the order to cancel it"];
    refused(&world, run.wait(), 75, &parts);

    let run = keyed(&world, &["--replace"]).start();
    let asked = hub.asked();
    let _asked = asked.answer(&held()).grant();
    run.wait().ended(End::Code(0));
    assert!(world.path("effect").exists());
}

#[test]
fn a_fleet_that_is_away_or_does_not_answer_means_125() {
    let Some(world) = member("a_fleet_that_is_away_or_does_not_answer_means_125") else { return };
    let hub = Hub::listen(&world);
    let run = keyed(&world, &[]).start();
    let _asked = hub.asked().answer(&json!({"away": {"why": "PostgreSQL at db is not reachable"}}));
    let parts = ["the key k cannot be claimed in the fleet: PostgreSQL at db is not reachable", "--wait"];
    refused(&world, run.wait(), 125, &parts);

    let run = keyed(&world, &["--fleet-timeout", "200ms"]).start();
    let _silent = hub.asked();
    refused(&world, run.wait(), 125, &["did not answer within 200ms"]);

    let run = keyed(&world, &[]).start();
    let _asked = hub
        .asked()
        .answer(&json!({"refused": {"why": "this node was declared lost", "hint": "ask an operator"}}));
    refused(&world, run.wait(), 125, &["this node was declared lost", "ask an operator"]);
}

#[test]
fn a_monitor_that_ends_before_its_answer_or_before_the_claim_is_asked_again() {
    let test = "a_monitor_that_ends_before_its_answer_or_before_the_claim_is_asked_again";
    let Some(world) = member(test) else { return };
    let hub = Hub::listen(&world);
    let (mut up, mut go) = (world.fifo("up"), world.fifo("go"));
    let script = format!("echo up >'{}'; read x <'{}'", up.path(), go.path());
    let holder = world.run_sh(&script).options(["--key", "k"]).own_group().start();
    drop(hub.asked());
    let _asked = hub.asked().grant();
    assert_eq!(up.line(), "up");

    // This one has its grant, and waits for the holder.
    let waiting = keyed(&world, &["--wait", "--id", "next"]).start();
    let asked = hub.asked().grant();
    drop((asked, hub));
    let hub = Hub::listen(&world);
    let asked = hub.asked();
    assert_eq!(asked.request["task"], "next");
    go.write_line("on");
    holder.wait().ended(End::Code(0)).silent();
    assert!(!world.path("effect").exists(), "it ran without a grant");
    let _asked = asked.grant();
    waiting.wait().ended(End::Code(0));
    assert!(world.path("effect").exists());
}

#[test]
fn a_monitor_that_does_not_come_back_means_125() {
    let Some(world) = member("a_monitor_that_does_not_come_back_means_125") else { return };
    let hub = Hub::listen(&world);
    let run = keyed(&world, &["--fleet-timeout", "500ms"]).start();
    drop((hub.asked(), hub));
    refused(&world, run.wait(), 125, &["no monitor of the ledger", "bookend monitor"]);
}

#[test]
fn a_waiting_run_whose_monitor_ends_says_so_and_asks_the_next_one() {
    let test = "a_waiting_run_whose_monitor_ends_says_so_and_asks_the_next_one";
    let Some(world) = member(test) else { return };
    let hub = Hub::listen(&world);
    let mut run = keyed(&world, &["--wait", "--fleet-timeout", "200ms"]).start();
    let asked = hub.asked().answer(&held());
    eventually(world.deadline(), "what it waits for", || {
        run.stderr_so_far().contains("waiting for task t-far")
    });
    drop((asked, hub));
    eventually(world.deadline(), "a run that says what it waits for now", || {
        run.stderr_so_far().contains("waiting for a monitor of the ledger")
    });
    let hub = Hub::listen(&world);
    let _asked = hub.asked().answer(&held()).grant();
    let output = run.wait().ended(End::Code(0));
    assert_eq!(output.stderr.matches("waiting for a monitor").count(), 1, "{}", output.stderr);
}

#[test]
fn a_monitor_that_does_not_serve_a_run_is_asked_less_and_less_often() {
    let test = "a_monitor_that_does_not_serve_a_run_is_asked_less_and_less_often";
    let Some(world) = member(test) else { return };
    let hub = Hub::listen(&world);
    let run = keyed(&world, &["--wait"]).start();
    let mut begun = None;
    for _ in 0..6 {
        drop(hub.asked());
        begun.get_or_insert_with(Instant::now);
    }
    // 0.1 + 0.2 + 0.4 + 0.8 + 1.6 seconds.
    let passed = begun.expect("a time").elapsed();
    assert!(passed > Duration::from_secs(2), "six attempts in {passed:?}");
    run.signal(Signal::TERM);
    run.wait().ended(End::Signal(15));
}

#[test]
fn a_session_that_was_last_used_on_another_host_is_not_resumed() {
    let Some(world) = member("a_session_that_was_last_used_on_another_host_is_not_resumed") else { return };
    world.claude("exit 0");
    let hub = Hub::listen(&world);
    let claude = |options: &[&str], granted: Value| {
        let run = world.run(["claude", "-p", "hi"]).options(["--key", "k"]).options(options.iter().copied());
        let run = run.start();
        let _asked = hub.asked().answer(&json!({"granted": granted}));
        run.wait().ended(End::Code(0))
    };
    claude(&[], json!({})).silent();
    let here = world.sql("SELECT * FROM claude_sdk_sessions").remove(0).text("session_id");
    let output = claude(&[], json!({"stale_session": {"elsewhere": {"host": "build-7"}}}));
    assert_eq!(output.stderr.lines().count(), 1, "one warning: {}", output.stderr);
    assert!(output.stderr.contains("last used on host build-7; starting fresh"), "{}", output.stderr);
    let invalidated = world.sql("SELECT * FROM session_invalidation WHERE reason = 'elsewhere'").remove(0);
    assert_eq!(invalidated.text("session_id"), here);
    let fresh = world.sql("SELECT * FROM claude_sdk_sessions").remove(0).text("session_id");
    assert_ne!(fresh, here);
    claude(&[], json!({})).silent();
    assert!(world.argvs()[2].contains(&format!("--resume {fresh}")), "{:?}", world.argvs());
    claude(&["--fresh"], json!({"stale_session": {"elsewhere": {"host": "build-7"}}})).silent();
}

#[test]
fn redispatch_resume_and_a_nested_run_ask_too() {
    let Some(world) = member("redispatch_resume_and_a_nested_run_ask_too") else { return };
    world.claude("exit 0");
    let hub = Hub::listen(&world);
    let run = world.run(["claude", "-p", "hi"]).options(["--key", "k", "--id", "t"]).start();
    let _asked = hub.asked().grant();
    run.wait().ended(End::Code(0)).silent();
    for again in [&["bookend", "redispatch", "t"][..], &["bookend", "resume", "t"]] {
        let again = world.bare(again.iter().copied()).start();
        let asked = hub.asked();
        assert_eq!(asked.request["key"], "k");
        assert_ne!(asked.request["task"], "t");
        let _asked = asked.grant();
        again.wait().ended(End::Code(0));
    }
    let nested = world.run_sh("bookend run --key inner -- true").start();
    let asked = hub.asked();
    assert_eq!(asked.request["key"], "inner");
    let _asked = asked.grant();
    nested.wait().ended(End::Code(0)).silent();
}

#[test]
fn a_spent_budget_refuses_before_the_fleet_is_asked() {
    let Some(world) = member("a_spent_budget_refuses_before_the_fleet_is_asked") else { return };
    let hub = Hub::listen(&world);
    let run = keyed(&world, &["--id", "t"]).start();
    let _asked = hub.asked().grant();
    run.wait().ended(End::Code(0)).silent();
    world.write("UPDATE task_history SET cost_usd = 30 WHERE id = 't'");
    keyed(&world, &["--replace", "--budget", "20/24h"]).run().ended(End::Code(77));
    assert!(hub.is_unasked());
}

#[test]
fn the_time_that_a_run_gives_the_fleet_is_repeated_and_the_default_is_not_stored() {
    let test = "the_time_that_a_run_gives_the_fleet_is_repeated_and_the_default_is_not_stored";
    let Some(world) = member(test) else { return };
    let hub = Hub::listen(&world);
    for (id, options) in [("a", &[][..]), ("b", &["--fleet-timeout", "250ms"])] {
        let run = keyed(&world, &["--id", id]).options(options.iter().copied()).start();
        let _asked = hub.asked().grant();
        run.wait().ended(End::Code(0)).silent();
    }
    let stored = |id: &str| {
        let rows = world.sql(&format!("SELECT run_options FROM task_history WHERE id = '{id}'"));
        rows[0].json("run_options")["fleet_timeout_ms"].clone()
    };
    assert_eq!((stored("a"), stored("b")), (Value::Null, json!(250)));
    let again = world.bare(["bookend", "redispatch", "b"]).start();
    let _silent = hub.asked();
    let output = again.wait().ended(End::Code(125));
    assert!(output.stderr.contains("within 250ms"), "{}", output.stderr);
    assert_eq!(bookend(&world, &["show", "b"]).end, End::Code(0));
}
