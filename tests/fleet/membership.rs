//! Ledgers that leave a fleet while something is under way, and join it again.

use serde_json::json;

use crate::harness::{End, World, eventually};
use crate::node::{Node, claims, fleet};
use crate::postgres::{Postgres, SUPERUSER};

const LOST: &str = "0199aaaa-0000-7000-8000-000000000001";

/// The states of all nodes of the role.
fn states(postgres: &Postgres, node: &Node) -> String {
    postgres.psql(&format!("SELECT state FROM bookend.node_state WHERE role = '{}'", node.role))
}

#[test]
fn a_ledger_that_leaves_while_its_monitor_registers_leaves_no_node() {
    let test = "a_ledger_that_leaves_while_its_monitor_registers_leaves_no_node";
    let Some(postgres) = fleet(test) else { return };
    let mut node = Node::join(&postgres, "a");
    let lock = postgres.session(SUPERUSER);
    lock.query("BEGIN; LOCK TABLE bookend.node IN SHARE MODE").expect("the lock");
    let waiting = || postgres.psql("SELECT count(*) FROM pg_locks WHERE NOT granted");
    node.start_monitor(&[]);
    eventually(node.world.deadline(), "a registration under way", || waiting() == "1");
    let leave = node.world.bare(["bookend", "fleet", "leave"]).env("PGPASSFILE", node.password_file());
    let leave = leave.start();
    eventually(node.world.deadline(), "a ledger that waits for it", || waiting() == "2");
    lock.query("COMMIT").expect("no lock");
    leave.wait().ended(End::Code(0)).silent();
    assert_eq!(states(&postgres, &node), "left");
    // Its role is free, and the monitor registers the next node.
    node.rejoin(&postgres, &node.role, &[]);
    eventually(node.world.deadline(), "the next node", || {
        postgres.psql("SELECT count(*) FROM bookend.node_state WHERE state = 'reachable'") == "1"
    });
}

#[test]
fn a_ledger_that_left_by_force_takes_its_node_back() {
    let Some(postgres) = fleet("a_ledger_that_left_by_force_takes_its_node_back") else { return };
    let node = Node::start(&postgres, "a");
    let (mut up, mut go) = (node.world.fifo("up"), node.world.fifo("go"));
    let script = format!("echo up >'{}'; read x <'{}'", up.path(), go.path());
    let held = node.keyed("k", &script).options(["--id", "t"]).start();
    up.line();
    node.published();
    let id = node.id(&postgres);
    let left = node.bookend(&["fleet", "leave", "--force"]).ended(End::Code(0));
    assert!(left.stderr.contains("1 task stays") && left.stderr.contains("joins again"), "{left:?}");
    go.write_line("on");
    held.wait().ended(End::Code(0)).silent();
    assert_eq!(claims(&postgres), "k|t");

    let url = postgres.database_url(&node.role);
    let joined = node.bookend(&["fleet", "join", &url]).ended(End::Code(0));
    assert!(joined.stderr.contains(&format!("it is the node {id} again")), "{joined:?}");
    eventually(node.world.deadline(), "the end of the task", || {
        let task = "SELECT status, end_source FROM bookend.task_history WHERE id = 't'";
        postgres.psql(task) == "success|wait" && claims(&postgres).is_empty()
    });
    assert_eq!((states(&postgres, &node).as_str(), node.id(&postgres)), ("reachable", id));
    node.keyed("k", "true").run().ended(End::Code(0)).silent();
}

#[test]
fn a_join_that_is_refused_creates_no_ledger() {
    let Some(postgres) = fleet("a_join_that_is_refused_creates_no_ledger") else { return };
    let (node, other) = (Node::start(&postgres, "a"), World::new());
    let url = postgres.database_url(&node.role);
    let join = other.bare(["bookend", "fleet", "join", &url]).env("PGPASSFILE", node.password_file());
    let refused = join.run().ended(End::Code(125));
    let named = format!("belongs to the node {} of the host", node.id(&postgres));
    assert!(refused.stderr.contains(&named), "{refused:?}");
    assert!(!other.ledger().exists());
}

#[test]
fn a_ledger_joins_another_fleet_only_when_it_has_left_the_one_before() {
    let test = "a_ledger_joins_another_fleet_only_when_it_has_left_the_one_before";
    let Some(postgres) = fleet(test) else { return };
    postgres.session(SUPERUSER).query("CREATE DATABASE another TEMPLATE postgres").expect("a database");
    let node = Node::start(&postgres, "a");
    let url = postgres.database_url(&node.role);
    let another = url.replace("/postgres", "/another");
    node.bookend(&["fleet", "join", &url]).ended(End::Code(0)).silent();
    for options in [&[][..], &["--new-node"]] {
        let refused =
            node.bookend(&[&["fleet", "join", &another][..], options].concat()).ended(End::Code(125));
        let named = format!("the ledger is in another fleet, at {url}\n");
        assert!(refused.stderr.contains(&named) && refused.stderr.contains("leave it first"), "{refused:?}");
    }
    assert_eq!(states(&postgres, &node), "reachable");
    node.published();
    node.bookend(&["fleet", "leave"]).ended(End::Code(0));
    node.bookend(&["fleet", "join", &another]).ended(End::Code(0)).silent();
    node.keyed("k", "true").run().ended(End::Code(0)).silent();
    assert_eq!(states(&postgres, &node), "left");

    // A fleet whose database is gone keeps nobody.
    let gone =
        json!({"url": "postgres://u@nowhere.invalid/x", "node": LOST, "ledger": LOST, "joined_at": ""});
    node.world.write(&format!("UPDATE bookend_setting SET value = '{gone}' WHERE name = 'fleet'"));
    let refused = node.bookend(&["fleet", "join", &url]).ended(End::Code(125));
    assert!(
        refused.stderr.contains("which cannot be asked") && refused.stderr.contains("--force"),
        "{refused:?}"
    );
    node.bookend(&["fleet", "leave", "--force"]).ended(End::Code(0));
    node.bookend(&["fleet", "join", &url]).ended(End::Code(0));
}

#[test]
fn a_host_that_joins_by_the_role_of_the_schema_is_warned() {
    let Some(postgres) = fleet("a_host_that_joins_by_the_role_of_the_schema_is_warned") else { return };
    let world = World::new();
    let join = world.bare(["bookend", "fleet", "join", &postgres.database_url(SUPERUSER)]);
    let joined = join.run().ended(End::Code(0));
    assert!(joined.stderr.contains("the role postgres may change the schema"), "{joined:?}");
    assert!(joined.stderr.contains("fleet init URL --host NAME"), "{joined:?}");
}
