//! A server that is named: looking its name up neither delays a command nor receives its signals.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::harness::{End, Pty, World, is_root, possible};
use crate::node::Node;
use crate::postgres::Postgres;

const JOIN: &str = include_str!("../../src/ledger/fleet/join.sql");

/// In a network that drops what is sent to the name server, with a resolver that would wait for minutes.
const SILENT_NETWORK: &str = "
    ip link add silent0 type veth peer name silent1 && ip addr add 192.0.2.1/24 dev silent0 &&
    ip link set silent0 up && ip link set silent1 up &&
    ip neigh add 192.0.2.53 lladdr 02:00:00:00:00:01 dev silent0 &&
    printf 'nameserver 192.0.2.53\\noptions timeout:30 attempts:3\\n' >resolv.conf &&
    mount --bind resolv.conf /etc/resolv.conf && exec \"$@\"";

#[test]
fn a_name_server_that_does_not_answer_delays_a_command_by_seconds_only() {
    let test = "a_name_server_that_does_not_answer_delays_a_command_by_seconds_only";
    let (veth, quiet) = (["--net", "ip", "link", "add", "end0", "type", "veth"], std::process::Stdio::null());
    let tried = std::process::Command::new("unshare").args(veth).stderr(quiet).status();
    if !possible(test, is_root() && tried.is_ok_and(|tried| tried.success()), "root and veth") {
        return;
    }
    let world = World::new();
    world.run(["true"]).options(["--id", "own"]).run().ended(End::Code(0));
    let id = "00000000-0000-4000-8000-00000000000a";
    let setting = json!({"url": "postgres://a@db.example.org/x", "node": id, "ledger": id,
                         "joined_at": "2026-11-30T12:00:00Z"});
    world.write(&format!("{JOIN}; INSERT INTO bookend_setting (name, value) VALUES ('fleet', '{setting}')"));
    for (words, end) in [(&["list"][..], End::Code(0)), (&["fleet", "status"], End::Code(125))] {
        let began = Instant::now();
        let silent = ["unshare", "--mount", "--net", "sh", "-c", SILENT_NETWORK, "sh", "bookend"];
        let output = world.bare(silent.iter().chain(words).copied()).run().ended(end);
        assert!(output.stderr.contains("db.example.org:5432 did not answer within 3s"), "{output:?}");
        assert!(began.elapsed() < Duration::from_secs(20), "{words:?} took {:?}", began.elapsed());
    }
}

#[test]
fn a_watch_restores_the_terminal_although_the_name_of_the_server_was_just_looked_up() {
    let test = "a_watch_restores_the_terminal_although_the_name_of_the_server_was_just_looked_up";
    let Some(postgres) = Postgres::with_schema(test) else { return };
    let node = Node::join_at(&postgres, "a", &postgres.tls_url("bookend_a"));
    let watch = node.world.bare(["bookend", "list", "--watch"]).env("PGPASSFILE", node.password_file());
    let mut pty = Pty::of(&node.world, watch.env("TERM", "xterm"));
    pty.expect("\u{1b}[?1049h");
    pty.expect("no tasks");
    node.world.send(pty.pid(), [Signal::INT.as_raw()]);
    pty.expect("\u{1b}[?1049l");
    assert_eq!(pty.wait().end, End::Signal(2));
}
