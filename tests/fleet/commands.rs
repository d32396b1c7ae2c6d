//! `bookend fleet`: init, join, leave, status, prune and declare-lost, and what `doctor` says.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::OpenOptionsExt;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{End, Monitor, Output, World, document, eventually};
use crate::postgres::{Postgres, SUPERUSER};

/// A fleet with the roles of two hosts, made by `fleet init`. Their passwords are in `home/.pgpass`.
struct FleetOfTwo {
    postgres: Postgres,
    passwords: Vec<String>,
}

impl FleetOfTwo {
    fn new(test: &str, world: &World) -> Option<FleetOfTwo> {
        let postgres = Postgres::start(test)?;
        postgres.psql("ALTER DATABASE postgres SET log_statement = 'all'");
        let url = postgres.database_url(SUPERUSER);
        let made = see(world, &["fleet", "init", &url, "--host", "a", "--host", "b"]).ended(End::Code(0));
        assert!(made.stderr.contains("the fleet is created, version 1"), "{made:?}");
        let mut options = fs::OpenOptions::new();
        let file = options.create_new(true).write(true).mode(0o600).open(world.path("home/.pgpass"));
        std::io::Write::write_all(&mut file.expect("a password file"), made.stdout.as_bytes())
            .expect("its lines");
        let lines = made.stdout.lines().filter(|line| !line.starts_with('#'));
        let passwords: Vec<_> =
            lines.map(|line| line.rsplit(':').next().expect("a field").to_owned()).collect();
        assert!(passwords.len() == 2 && passwords.iter().all(|p| p.len() == 32), "{made:?}");
        postgres.psql("UPDATE bookend.setting SET value = '100' WHERE name = 'renew_ms'");
        Some(FleetOfTwo { postgres, passwords })
    }

    fn url(&self, host: &str) -> String {
        self.postgres.tls_url(&format!("bookend_{host}"))
    }

    fn operator(&self) -> String {
        self.postgres.database_url(SUPERUSER)
    }

    fn nodes(&self, world: &World) -> Vec<Value> {
        let status = see(world, &["fleet", "status", "--json", "--ledger", &self.operator()]);
        let status: Value = serde_json::from_str(&status.ended(End::Code(0)).stdout).expect("JSON");
        status["nodes"].as_array().expect("nodes").clone()
    }

    /// Waits until the only node has this state.
    fn until(&self, world: &World, state: &str) -> Value {
        let mut nodes = Vec::new();
        eventually(world.deadline(), &format!("a node that is {state}"), || {
            nodes = self.nodes(world);
            nodes.len() == 1 && nodes[0]["state"] == state
        });
        nodes.remove(0)
    }
}

fn see(world: &World, words: &[&str]) -> Output {
    world.bare(["bookend"].iter().chain(words).copied()).run()
}

fn hint(output: &Output, words: &[&str]) {
    for words in words {
        assert!(output.stderr.contains(words), "{words:?} is not in {output:?}");
    }
}

#[test]
fn a_second_init_changes_nothing_and_adds_what_is_new() {
    let world = World::new();
    let Some(fleet) = FleetOfTwo::new("a_second_init_changes_nothing_and_adds_what_is_new", &world) else {
        return;
    };
    let again = see(&world, &["fleet", "init", &fleet.operator(), "--host", "a", "--publish-argv", "true"]);
    let again = again.ended(End::Code(0));
    assert_eq!(again.stdout, "");
    hint(&again, &["the role bookend_a exists, and keeps its password"]);
    assert_eq!(fleet.postgres.psql("SELECT value FROM bookend.setting WHERE name = 'publish_argv'"), "true");
    see(&world, &["fleet", "status", "--ledger", &fleet.url("a")]).ended(End::Code(0)).silent();
    let third = see(&world, &["fleet", "init", &fleet.operator(), "--host", "c.example"]).ended(End::Code(0));
    assert!(third.stdout.contains(":bookend_c.example:"), "{third:?}");

    let denied = see(&world, &["fleet", "init", &fleet.url("a"), "--host", "d"]).ended(End::Code(125));
    hint(&denied, &["permission denied", "CREATEROLE"]);
    let wrong = see(&world, &["fleet", "init", &fleet.operator(), "--host", "a\"; --"]).ended(End::Code(2));
    hint(&wrong, &["cannot be part of the name of a role"]);
    let again = see(&world, &["fleet", "init", &fleet.operator()]).ended(End::Code(0));
    assert!(again.stderr.contains("the fleet exists, version 1"), "{again:?}");
    fleet.postgres.psql("INSERT INTO bookend.migration (version) VALUES (99)");
    let newer = see(&world, &["fleet", "init", &fleet.operator()]).ended(End::Code(125));
    hint(&newer, &["the fleet's schema has version 99, and this bookend knows version 1"]);
}

#[test]
fn every_field_of_the_json_documents_of_the_fleet_is_listed() {
    let world = World::new();
    let test = "every_field_of_the_json_documents_of_the_fleet_is_listed";
    let Some(fleet) = FleetOfTwo::new(test, &world) else { return };
    see(&world, &["fleet", "join", &fleet.url("a")]).ended(End::Code(0));
    let monitor = Monitor::start(&world, &[]);
    fleet.until(&world, "reachable");
    let printed = |words: &[&str]| -> Value {
        let output = see(&world, &[&["fleet"], words, &["--json"]].concat()).ended(End::Code(0));
        serde_json::from_str(&output.stdout).expect("JSON")
    };
    let status = printed(&["status"]);
    monitor.stop();
    let (operator, host) = (fleet.operator(), status["nodes"][0]["id"].as_str().expect("an id").to_owned());
    let lost = printed(&["declare-lost", &host, "--yes", "--ledger", &operator]);
    let pruned = printed(&["prune", "--older-than", "1d", "--ledger", &operator]);
    let page = document("contrib/doc/reference.md");
    for (command, printed) in [("status", status), ("declare-lost", lost), ("prune", pruned)] {
        let section = page.split(&format!("### `bookend fleet {command} --json`\n")).nth(1).expect(command);
        let rows = section.split("\n#").next().expect("its text").lines();
        let listed: BTreeSet<&str> =
            rows.filter_map(|row| row.strip_prefix("| `")?.split('`').next()).collect();
        let mut fields = BTreeSet::new();
        for (name, value) in printed.as_object().expect("an object") {
            let (below, prefix) = match value {
                Value::Array(items) => (items.first(), format!("{name}[].")),
                value => (Some(value), format!("{name}.")),
            };
            let below = below.and_then(Value::as_object).into_iter().flat_map(|object| object.keys());
            fields.extend(below.map(|field| format!("{prefix}{field}")).chain([name.clone()]));
        }
        assert_eq!(listed, fields.iter().map(String::as_str).collect(), "{command}");
    }
}

#[test]
fn a_role_without_createrole_creates_the_fleet_with_the_roles_of_an_administrator() {
    let test = "a_role_without_createrole_creates_the_fleet_with_the_roles_of_an_administrator";
    let world = World::new();
    let Some(postgres) = Postgres::start(test) else { return };
    postgres.role("plain", &[]);
    let passwords = || fs::copy(postgres.password_file(), world.path("home/.pgpass")).expect("passwords");
    passwords();
    postgres.psql("GRANT CREATE ON DATABASE postgres TO plain");
    let plain = postgres.database_url("plain");
    let init = |host: &str| see(&world, &["fleet", "init", &plain, "--host", host]);
    hint(&init("a").ended(End::Code(125)), &["permission denied to create role", "bookend_operator"]);
    for role in ["bookend_host", "bookend_operator", "bookend_read"] {
        postgres.psql(&format!("CREATE ROLE {role}"));
    }
    postgres.role("bookend_a", &["bookend_host"]);
    passwords();
    hint(&init("a").ended(End::Code(0)), &["the fleet is created", "the role bookend_a exists"]);
    hint(&init("b").ended(End::Code(125)), &["permission denied to create role"]);
    let joined = see(&world, &["fleet", "join", &postgres.database_url("bookend_a")]);
    assert!(joined.ended(End::Code(0)).stdout.contains(", as the role bookend_a\n"));
}

#[test]
fn an_init_that_fails_halfway_prints_the_passwords_of_the_roles_that_it_has_made() {
    let test = "an_init_that_fails_halfway_prints_the_passwords_of_the_roles_that_it_has_made";
    let Some(postgres) = Postgres::with_schema(test) else { return };
    let world = World::new();
    let other = postgres.session(SUPERUSER);
    other.query("BEGIN; CREATE ROLE bookend_b").expect("a role");
    let url = postgres.database_url(SUPERUSER);
    let init = world.bare(["bookend", "fleet", "init", &url, "--host", "a", "--host", "b"]).start();
    eventually(world.deadline(), "a role that the other session creates too", || {
        postgres.psql("SELECT count(*) FROM pg_locks WHERE NOT granted") == "1"
    });
    other.query("COMMIT").expect("the role");
    let failed = init.wait().ended(End::Code(125));
    hint(&failed, &["bookend_b", "already exists"]);
    assert!(failed.stdout.contains(":bookend_a:"), "{failed:?}");
}

#[test]
fn no_password_is_in_the_ledger_a_log_the_status_or_the_environment_of_an_agent() {
    let test = "no_password_is_in_the_ledger_a_log_the_status_or_the_environment_of_an_agent";
    let world = World::new();
    let Some(fleet) = FleetOfTwo::new(test, &world) else { return };
    let joined = see(&world, &["fleet", "join", &fleet.url("a")]).ended(End::Code(0));
    assert!(
        joined.stdout.contains("as the role bookend_a") && joined.stdout.contains("monitor"),
        "{joined:?}"
    );
    let monitor = Monitor::start(&world, &[]);
    fleet.until(&world, "reachable");
    let agent = world.run(["sh", "-c", "env; cat /proc/$PPID/environ"]).run().ended(End::Code(0));
    let shown = [
        agent.stdout,
        see(&world, &["fleet", "status"]).ended(End::Code(0)).silent().stdout,
        see(&world, &["fleet", "status", "--json"]).ended(End::Code(0)).silent().stdout,
        see(&world, &["doctor"]).stdout,
        String::from_utf8_lossy(&fs::read(world.ledger()).expect("the ledger")).into_owned(),
        monitor.output() + &monitor.errors(),
        fleet.postgres.log(),
    ];
    for password in &fleet.passwords {
        let found = shown.iter().position(|text| text.contains(password));
        assert_eq!(found, None, "a password in {:?}", shown[found.unwrap_or(0)]);
    }
    assert!(shown[0].contains("BOOKEND_TASK_ID"), "{}", shown[0]);
    let setting = &world.sql("SELECT value FROM bookend_setting WHERE name = 'fleet'")[0];
    assert!(format!("{setting:?}").contains("bookend_a@localhost"), "{setting:?}");
    monitor.stop();
}

#[test]
fn a_ledger_joins_shows_the_hosts_and_leaves() {
    let world = World::new();
    let Some(fleet) = FleetOfTwo::new("a_ledger_joins_shows_the_hosts_and_leaves", &world) else { return };
    let none = see(&world, &["fleet", "status"]).ended(End::Code(1));
    hint(&none, &["is in no fleet", "join URL"]);
    see(&world, &["fleet", "leave"]).ended(End::Code(1));
    world.run(["true"]).run().ended(End::Code(0));
    see(&world, &["fleet", "join", &fleet.url("a")]).ended(End::Code(0));
    let busy = see(&world, &["fleet", "leave"]).ended(End::Code(75));
    hint(&busy, &["1 task is not published yet", "bookend monitor", "leave --force"]);
    let doctor = see(&world, &["doctor"]).ended(End::Code(1)).stdout;
    assert!(doctor.contains("no monitor runs: runs with a key fail; 1 task is to be published"), "{doctor}");

    let monitor = Monitor::start(&world, &[]);
    fleet.until(&world, "reachable");
    eventually(world.deadline(), "the publication", || {
        see(&world, &["fleet", "status"]).stdout.contains("its monitor runs, all tasks are published")
    });
    let status = see(&world, &["fleet", "status"]).ended(End::Code(0)).silent().stdout;
    assert!(status.contains("HOST") && status.contains("reachable") && !status.contains("NODE"), "{status}");
    eventually(world.deadline(), "what doctor says", || {
        see(&world, &["doctor"]).stdout.contains("answers the role bookend_a; 1 of 1 host reachable")
    });

    // The same again keeps the node.
    let node = fleet.nodes(&world)[0]["id"].clone();
    see(&world, &["fleet", "join", &fleet.url("a")]).ended(End::Code(0));
    fleet.until(&world, "reachable");
    assert_eq!(fleet.nodes(&world)[0]["id"], node);
    eventually(world.deadline(), "the second publication", || {
        see(&world, &["fleet", "status"]).stdout.contains("all tasks are published")
    });
    let left = see(&world, &["fleet", "leave"]).ended(End::Code(0));
    assert!(left.stdout.contains("has left the fleet at postgres://bookend_a@localhost"), "{left:?}");
    fleet.until(&world, "left");
    assert_eq!(fleet.postgres.psql("SELECT count(*) FROM bookend.task_history"), "1");
    see(&world, &["fleet", "status"]).ended(End::Code(1));
    monitor.stop();
}

#[test]
fn a_role_belongs_to_one_node() {
    let (world, other) = (World::new(), World::new());
    let Some(fleet) = FleetOfTwo::new("a_role_belongs_to_one_node", &world) else { return };
    fs::hard_link(world.path("home/.pgpass"), other.path("home/.pgpass")).expect("a password file");
    see(&world, &["fleet", "join", &fleet.url("a")]).ended(End::Code(0));
    let monitor = Monitor::start(&world, &[]);
    fleet.until(&world, "reachable");
    let refused = see(&other, &["fleet", "join", &fleet.url("a")]).ended(End::Code(125));
    hint(&refused, &["the role bookend_a belongs to the node", "--host NAME"]);
    // A copy of the ledger: its original runs.
    let copy = see(&world, &["fleet", "join", &fleet.url("a"), "--new-node"]).ended(End::Code(125));
    hint(&copy, &["renews its lease"]);
    monitor.kill();
    fleet.until(&world, "unreachable");
    see(&world, &["fleet", "join", &fleet.url("a"), "--new-node"]).ended(End::Code(0));
    let monitor = Monitor::start(&world, &[]);
    eventually(world.deadline(), "the new node", || fleet.nodes(&world).len() == 2);
    let doctor = see(&world, &["doctor"]).ended(End::Code(1)).stdout;
    assert!(
        doctor.contains("FAIL") && doctor.contains("the role bookend_a is also that of the node"),
        "{doctor}"
    );
    let status = see(&world, &["fleet", "status"]).ended(End::Code(0)).stdout;
    assert!(status.contains("NODE"), "two nodes of one host are told apart: {status}");
    monitor.stop();
}

#[test]
fn a_host_is_declared_lost_by_an_operator_who_says_yes() {
    let world = World::new();
    let Some(fleet) = FleetOfTwo::new("a_host_is_declared_lost_by_an_operator_who_says_yes", &world) else {
        return;
    };
    see(&world, &["fleet", "join", &fleet.url("a")]).ended(End::Code(0));
    let monitor = Monitor::start(&world, &[]);
    let host = fleet.until(&world, "reachable")["host"].as_str().expect("a host").to_owned();
    let operator = fleet.operator();
    let lost = |more: &[&str]| see(&world, &[&["fleet", "declare-lost", &host][..], more].concat());
    let alive = lost(&["--yes", "--ledger", &operator]).ended(End::Code(75));
    hint(&alive, &["is reachable: it renews its lease"]);
    monitor.signal(Signal::KILL);
    monitor.wait();
    fleet.until(&world, "unreachable");
    fleet.postgres.psql(
        "INSERT INTO bookend.claim (key, task_id, node, epoch) SELECT 'k', 't', id, 1 FROM bookend.node;
         INSERT INTO bookend.task_history (id, key, status, started_at, node, epoch, rev, published_at)
         SELECT 't', 'k', 'running', now(), id, 1, 1, now() FROM bookend.node",
    );
    let asked = lost(&["--ledger", &operator]).ended(End::Code(2));
    hint(
        &asked,
        &[
            "needs --yes: 1 task (t) counts as running there, with 1 key (k)",
            "make sure that the machine is off",
        ],
    );
    hint(&lost(&["--yes"]).ended(End::Code(125)), &["permission denied", "GRANT bookend_operator TO"]);
    let done = lost(&["--yes", "--ledger", &operator]).ended(End::Code(0)).silent();
    assert_eq!(done.stdout, format!("{host} is declared lost: 1 task interrupted (t), 1 key released (k)\n"));
    let state = "SELECT status, reason, (SELECT count(*) FROM bookend.claim) FROM bookend.task_history";
    assert_eq!(fleet.postgres.psql(state), "interrupted|host_lost|0");
    hint(&lost(&["--yes", "--ledger", &operator]).ended(End::Code(1)), &["is no longer in the fleet: lost"]);
    let unknown = see(&world, &["fleet", "declare-lost", "none", "--yes", "--ledger", &operator]);
    hint(&unknown.ended(End::Code(1)), &["no host none in the fleet"]);
}

#[test]
fn prune_deletes_old_tasks_of_all_hosts_and_keeps_running_ones() {
    let world = World::new();
    let test = "prune_deletes_old_tasks_of_all_hosts_and_keeps_running_ones";
    let Some(fleet) = FleetOfTwo::new(test, &world) else { return };
    fleet.postgres.psql(
        "INSERT INTO bookend.node (id, host, role) VALUES (gen_random_uuid(), 'a', 'bookend_a');
         INSERT INTO bookend.task_history
             (id, status, started_at, last_seen_at, node, epoch, rev, published_at)
         SELECT 't' || n, CASE WHEN n = 1 THEN 'running' ELSE 'success' END, now() - n * interval '1 day',
                now() - n * interval '1 day', id, 1, n, now()
         FROM bookend.node, generate_series(1, 6000) n",
    );
    let operator = fleet.operator();
    let prune = |more: &[&str]| {
        see(&world, &[&["fleet", "prune", "--ledger", &operator, "--older-than"][..], more].concat())
    };
    let count = || fleet.postgres.psql("SELECT count(*) FROM bookend.task_history");
    let dry = prune(&["12h", "--dry-run"]).ended(End::Code(0)).silent().stdout;
    assert!(dry.starts_with("5999 tasks would be removed from postgres://"), "{dry}");
    assert_eq!(count(), "6000");
    let done = prune(&["12h", "--json"]).ended(End::Code(0)).silent().stdout;
    let done: Value = serde_json::from_str(&done).expect("JSON");
    assert_eq!((&done["removed"], &done["dry_run"]), (&5999.into(), &false.into()));
    assert_eq!(count(), "1");
    let denied = see(&world, &["fleet", "prune", "--older-than", "1d", "--ledger", &fleet.url("a")]);
    hint(&denied.ended(End::Code(125)), &["permission denied", "GRANT bookend_operator TO \"bookend_a\""]);
}
