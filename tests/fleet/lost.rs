//! A host that is gone, and one that only seems to be: copied, rebooted, declared lost.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use crate::arena::{Arena, Kind, Member, run_words};
use crate::harness::World;
use crate::hosts::{Cut, Ended, Host, Network, can_make_hosts};
use crate::oracle::{Work, rows_of};
use crate::postgres::Postgres;

/// Longer than any of these tests.
const LONG: u64 = 120_000;

/// Two hosts of a fleet, for one test.
fn with_arena(test: &str, perform: impl FnOnce(&Arena)) {
    if !can_make_hosts(test) {
        return;
    }
    let Some(world) = World::of_bookend(test) else { return };
    let network = Network::new();
    let Some(database) = Postgres::with_schema_in(test, Some(network.process())) else { return };
    perform(&Arena::new(&world, &network, database));
}

/// A run of `member` in the background with this id.
struct Started {
    child: Child,
    errors: PathBuf,
}

impl Started {
    fn of(member: &Member<'_>, id: &str, kind: Kind, key: &str, milliseconds: u64) -> Started {
        let mut words = run_words(kind, key, milliseconds);
        let options = words.iter().position(|word| word == "-q").expect("an option");
        words.splice(options..=options, ["--id".to_owned(), id.to_owned()]);
        let host = member.host();
        let errors = host.disk().join(format!("{id}.err"));
        let stderr = File::create(&errors).expect("a file for its messages");
        let child = host.command(words).stdout(Stdio::null()).stderr(stderr).spawn().expect("a run");
        Started { child, errors }
    }

    fn ended(self) -> Ended {
        let mut ended = Ended::of(self.child);
        ended.stderr = std::fs::read_to_string(self.errors).expect("its messages");
        ended
    }

    fn messages(&self) -> String {
        std::fs::read_to_string(&self.errors).expect("its messages")
    }
}

/// Waits until the agent of a task works.
fn until_working(arena: &Arena, id: &str) {
    arena.until(&format!("the agent of {id} to work"), |arena| Work::recorded(arena.world).contains_key(id));
}

/// `status/reason` of a task in the database; empty without a row.
fn ending(arena: &Arena, id: &str) -> String {
    let sql = format!(
        "SELECT status || '/' || coalesce(reason, '') AS e FROM bookend.task_history WHERE id = '{id}'"
    );
    rows_of(&arena.database, &sql).first().map_or(String::new(), |r| r["e"].as_str().unwrap_or("").to_owned())
}

fn until_unreachable(arena: &Arena, host: &str) {
    arena.until(&format!("{host} to be unreachable"), |arena| {
        let sql = format!("SELECT id FROM bookend.node_state WHERE host = '{host}' AND NOT reachable");
        rows_of(&arena.database, &sql).len() == 1
    });
}

#[track_caller]
fn assert_no_violations(arena: &Arena, lost: &[&str]) {
    let evidence = arena.rest();
    let found = evidence.violations(lost);
    let messages = arena.members.each_ref().map(Member::messages);
    assert!(found.is_empty(), "{}: {found:#?}\n{messages:#?}", evidence.totals());
}

#[test]
fn a_copied_host_is_refused_beside_the_living_original_until_it_joins_as_a_new_node() {
    with_arena("a_copied_host_is_refused_beside_the_living_original_until_it_joins_as_a_new_node", |arena| {
        let [a, _] = &arena.members;
        let run = Started::of(a, "original", Kind::Keyed, "k", 8_000);
        until_working(arena, "original");
        let copy = Member::without_monitor(Host::clone_of(&a.host(), "c"));
        copy.start_monitor();
        let hint = "fleet join --new-node";
        arena.until("the copy to be refused", |_| copy.messages().contains(hint));
        for key in ["k", "other"] {
            let ended = copy.host().run(run_words(Kind::Keyed, key, 10));
            assert_eq!(ended.code, Some(125), "{ended:?}");
            assert!(ended.stderr.contains("nothing was executed"), "{ended:?}");
        }
        copy.host().run(run_words(Kind::Keyless, "-", 10)).succeeded();
        assert_eq!(ending(arena, "original"), "running/");
        assert_eq!(run.ended().code, Some(0));
        let nodes = rows_of(&arena.database, "SELECT host, reachable FROM bookend.node_state");
        assert!(nodes.len() == 2 && nodes.iter().all(|n| n["reachable"] == true), "{nodes:?}");
        let published = rows_of(&arena.database, "SELECT id FROM bookend.task_history");
        assert_eq!(published.len(), 1, "{published:?}");

        arena.database.role("bookend_c", &["bookend_host"]);
        copy.write_password(&arena.database, "bookend_c");
        let url = arena.database.tls_url("bookend_c");
        copy.host().run(["bookend", "fleet", "join", "--new-node", &url]).succeeded();
        arena.until("the copy to be a node of its own", |arena| {
            copy.watch_monitor();
            rows_of(&arena.database, "SELECT id FROM bookend.node_state WHERE reachable").len() == 3
        });
        // Its ledger cannot judge the copied row, whose locks are those of another file.
        copy.host().run(run_words(Kind::Keyed, "other", 10)).succeeded();
        assert_eq!(ending(arena, "original"), "success/");
    });
}

#[test]
fn the_keys_of_a_host_without_power_stay_busy_until_its_next_boot_settles_its_tasks() {
    let test = "the_keys_of_a_host_without_power_stay_busy_until_its_next_boot_settles_its_tasks";
    with_arena(test, |arena| {
        let [a, b] = &arena.members;
        let _keyed = Started::of(a, "keyed", Kind::Keyed, "k", LONG);
        let _keyless = Started::of(a, "keyless", Kind::Keyless, "-", LONG);
        until_working(arena, "keyed");
        until_working(arena, "keyless");
        arena.until("both to be published", |arena| {
            ending(arena, "keyed") == "running/" && ending(arena, "keyless") == "running/"
        });
        a.change(|host| host.kill());
        until_unreachable(arena, "a");
        let refused = b.host().run(run_words(Kind::Keyed, "k", 10));
        assert_eq!(refused.code, Some(75), "{refused:?}");
        for part in ["keyed", "host a", "unreachable since", "nothing was executed"] {
            assert!(refused.stderr.contains(part), "{part}: {refused:?}");
        }
        let waiting = Started::of(b, "waiting", Kind::Waiting, "k", 10);
        arena.until("the run to wait", |_| waiting.messages().contains("waiting for"));
        assert_eq!(
            (ending(arena, "keyed"), ending(arena, "keyless")),
            ("running/".into(), "running/".into())
        );
        a.change(|host| host.boot());
        arena.until("the first monitor of the boot", |_| ending(arena, "keyed") != "running/");
        assert_eq!(waiting.ended().code, Some(0));
        assert_no_violations(arena, &[]);
        for id in ["keyed", "keyless"] {
            assert!(ending(arena, id).starts_with("interrupted/"), "{id}: {}", ending(arena, id));
        }
    });
}

#[test]
fn a_host_that_was_declared_lost_while_it_lives_stops_its_keyed_runs_and_their_ends_are_late() {
    let test = "a_host_that_was_declared_lost_while_it_lives_stops_its_keyed_runs_and_their_ends_are_late";
    with_arena(test, |arena| {
        let [a, b] = &arena.members;
        arena.database.psql("GRANT bookend_operator TO bookend_b");
        let keyed = Started::of(a, "keyed", Kind::Keyed, "k", LONG);
        let keyless = Started::of(a, "keyless", Kind::Keyless, "-", 12_000);
        until_working(arena, "keyed");
        arena.until("both to be published", |arena| {
            ending(arena, "keyed") == "running/" && ending(arena, "keyless") == "running/"
        });
        a.host().cut(Cut::Packets);
        let early = b.host().run(["bookend", "fleet", "declare-lost", "a", "--yes"]);
        assert_ne!(early.code, Some(0), "a reachable host is not lost: {early:?}");
        until_unreachable(arena, "a");
        let unsure = b.host().run(["bookend", "fleet", "declare-lost", "a"]);
        assert!(unsure.code == Some(2) && unsure.stderr.contains("--yes"), "{unsure:?}");
        b.host().run(["bookend", "fleet", "declare-lost", "a", "--yes"]).succeeded();
        assert_eq!(ending(arena, "keyed"), "interrupted/host_lost");

        // What the person vouched for is wrong: both work under the key.
        b.host().run(run_words(Kind::Keyed, "k", 300)).succeeded();
        assert_eq!(a.host().run(run_words(Kind::Keyed, "other", 10)).code, Some(125));
        a.host().join_network(Cut::Packets);
        assert_ne!(keyed.ended().code, Some(0));
        assert_eq!(keyless.ended().code, Some(0));
        assert_no_violations(arena, &["a"]);
        assert!(arena.evidence().has_overlaps(), "nothing overlapped");
        assert_eq!(ending(arena, "keyed"), "interrupted/host_lost");
        let late =
            rows_of(&arena.database, "SELECT id, late FROM bookend.task_history WHERE late IS NOT NULL");
        assert_eq!(late.len(), 2, "{late:?}");
        let audit = b.host().run(["bookend", "audit", "--json"]);
        assert!(audit.stdout.matches("late_ending").count() >= 2, "{audit:?}");
        a.host().run(run_words(Kind::Keyed, "k", 10)).succeeded();
    });
}
