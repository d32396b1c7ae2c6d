//! A host that is gone: nothing is settled by age, but on a person's word, or by the host when it is back.

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{End, Fifo, Proc, Pty, eventually};
use crate::node::{Node, claims, fleet};
use crate::postgres::Postgres;

/// A task that holds the key `k` until `go` receives a line.
struct Holder {
    process: Proc,
    go: Fifo,
}

impl Holder {
    /// Returns when the task is in the database.
    fn start(node: &Node, postgres: &Postgres, id: &str) -> Holder {
        let (mut up, go) = (node.world.fifo(&format!("up {id}")), node.world.fifo(&format!("go {id}")));
        let script = format!("echo up >'{}'; read x <'{}'", up.path(), go.path());
        let process = node.keyed("k", &script).options(["--id", id]).start();
        up.line();
        until_end_is(node, postgres, id, "running||");
        Holder { process, go }
    }

    fn end(mut self) {
        self.go.write_line("on");
        self.process.wait().ended(End::Code(0)).silent();
    }
}

/// How a task ended, in the database.
fn ending(postgres: &Postgres, id: &str) -> String {
    let columns = "SELECT status, reason, end_source FROM bookend.task_history";
    postgres.psql(&format!("{columns} WHERE id = '{id}'"))
}

fn until_end_is(node: &Node, postgres: &Postgres, id: &str, expected: &str) {
    eventually(node.world.deadline(), &format!("{id} {expected}"), || ending(postgres, id) == expected);
}

fn state(postgres: &Postgres, node: &Node) -> String {
    postgres.psql(&format!("SELECT state FROM bookend.node_state WHERE role = '{}'", node.role))
}

fn until_state(node: &Node, postgres: &Postgres, expected: &str) {
    eventually(node.world.deadline(), &format!("a node that is {expected}"), || {
        state(postgres, node) == expected
    });
}

/// Two nodes, of which the second may declare the first lost.
fn two(postgres: &Postgres) -> (Node, Node) {
    let nodes = (Node::start(postgres, "a"), Node::start(postgres, "b"));
    postgres.psql("GRANT bookend_operator TO bookend_b");
    nodes
}

/// What `audit` finds.
fn findings(node: &Node) -> Vec<(String, String)> {
    let audit: Value = serde_json::from_str(&node.bookend(&["audit", "--json"]).stdout).expect("JSON");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let findings = audit["findings"].as_array().expect("findings");
    findings.iter().map(|finding| (text(&finding["code"]), text(&finding["task"]))).collect()
}

#[test]
fn a_lost_host_loses_its_keys_and_what_it_reports_later_is_late() {
    let Some(postgres) = fleet("a_lost_host_loses_its_keys_and_what_it_reports_later_is_late") else {
        return;
    };
    let (mut a, mut b) = two(&postgres);
    let holder = Holder::start(&a, &postgres, "t1");
    a.kill_monitor();
    until_state(&a, &postgres, "unreachable");
    // Nothing is settled by age: it is shown, and the key stays busy.
    let refused = b.keyed("k", "true").run().ended(End::Code(75));
    assert!(refused.stderr.contains("unreachable since "), "{}", refused.stderr);
    for words in [&["list"][..], &["show", "t1"], &["fleet", "status"]] {
        let shown = b.bookend(words).ended(End::Code(0)).stdout;
        assert!(shown.contains("unreachable"), "{words:?}: {shown}");
    }
    assert!(findings(&b).contains(&("unreachable".to_owned(), "t1".to_owned())), "{:?}", findings(&b));

    let id = a.id(&postgres);
    let lost = b.bookend(&["fleet", "declare-lost", &id, "--yes"]).ended(End::Code(0)).silent();
    assert!(
        lost.stdout.contains(" is declared lost: 1 task interrupted (t1), 1 key released (k)"),
        "{lost:?}"
    );
    assert_eq!(ending(&postgres, "t1"), "interrupted|host_lost|lease");
    assert_eq!(claims(&postgres), "");
    assert!(b.bookend(&["fleet", "status"]).stdout.contains("lost "), "it is shown as lost");
    for words in [&["list"][..], &["show", "t1"]] {
        let shown = b.bookend(words).ended(End::Code(0)).stdout;
        assert!(shown.contains("host_lost"), "{words:?}: {shown}");
    }
    b.world.renew_deadline();
    let next = Holder::start(&b, &postgres, "t2");

    // It was alive. Back again, it ends its run under the key; the end is late, and the other run goes on.
    a.world.renew_deadline();
    a.start_monitor(&[]);
    a.monitor().service.until("publishing to");
    holder.process.wait().ended(End::Signal(15));
    eventually(a.world.deadline(), "the late end", || {
        postgres.psql("SELECT late->>'status' FROM bookend.task_history WHERE id = 't1'") == "cancelled"
    });
    assert_eq!(ending(&postgres, "t1"), "interrupted|host_lost|lease");
    assert_eq!(claims(&postgres), "k|t2");
    assert_eq!(postgres.psql(&format!("SELECT epoch FROM bookend.lease WHERE node = '{id}'")), "2");
    // Of a task only the gravest is reported: both ran at once if the first took its time to end.
    let of_t1 = findings(&b).into_iter().find(|(_, task)| task == "t1");
    assert!(of_t1.is_some_and(|(code, _)| ["late_ending", "double_claim"].contains(&code.as_str())));
    let shown = b.bookend(&["show", "t1"]).stdout;
    assert!(shown.contains("cancelled"), "the late end: {shown}");
    let moves =
        "SELECT count(*) FROM bookend.task_transition WHERE task_id = 't1' AND to_status <> 'running'";
    assert_eq!(postgres.psql(moves), "1");
    next.end();
    assert_eq!(state(&postgres, &a), "reachable");
}

#[test]
fn a_reachable_host_is_not_declared_lost() {
    let Some(postgres) = fleet("a_reachable_host_is_not_declared_lost") else { return };
    let (a, b) = two(&postgres);
    let holder = Holder::start(&a, &postgres, "t1");
    let refused = b.bookend(&["fleet", "declare-lost", &a.id(&postgres), "--yes"]).ended(End::Code(75));
    assert!(refused.stderr.contains("is reachable: it renews its lease"), "{}", refused.stderr);
    assert_eq!(ending(&postgres, "t1"), "running||");
    holder.end();
}

#[test]
fn a_host_that_renews_its_lease_while_a_person_decides_is_not_lost() {
    let test = "a_host_that_renews_its_lease_while_a_person_decides_is_not_lost";
    let Some(postgres) = fleet(test) else { return };
    let (mut a, b) = two(&postgres);
    let holder = Holder::start(&a, &postgres, "t1");
    a.kill_monitor();
    until_state(&a, &postgres, "unreachable");
    let id = a.id(&postgres);
    let ask = || {
        let words = ["bookend", "fleet", "declare-lost", &id];
        let mut pty = Pty::of(&b.world, b.world.bare(words).env("PGPASSFILE", b.password_file()));
        let asked = pty.expect("[y/N]");
        for part in ["is unreachable since ", "running there: 1 task (t1)", "held there: 1 key (k)"] {
            assert!(asked.contains(part), "{part:?} in {asked}");
        }
        pty
    };
    let mut pty = ask();
    pty.line("n");
    pty.expect("was not declared lost, as you answered");
    pty.wait().ended(End::Code(1));
    let mut pty = ask();
    a.start_monitor(&[]);
    until_state(&a, &postgres, "reachable");
    pty.line("y");
    pty.expect("was not declared lost: it has renewed its lease meanwhile");
    pty.wait().ended(End::Code(75));
    assert_eq!((ending(&postgres, "t1").as_str(), claims(&postgres).as_str()), ("running||", "k|t1"));
    holder.end();
}

#[test]
fn a_lost_epoch_writes_nothing() {
    let Some(postgres) = fleet("a_lost_epoch_writes_nothing") else { return };
    let (a, b) = two(&postgres);
    let holder = Holder::start(&a, &postgres, "t1");
    // Its monitor sleeps, as on a machine that is suspended, and has its connection all the time.
    a.monitor().signal(Signal::STOP);
    until_state(&a, &postgres, "unreachable");
    let id = a.id(&postgres);
    b.bookend(&["fleet", "declare-lost", &id, "--yes"]).ended(End::Code(0)).silent();
    let next = Holder::start(&b, &postgres, "t2");
    a.world.run_sh("true").options(["--id", "t3"]).run().ended(End::Code(0)).silent();
    a.monitor().signal(Signal::CONT);
    holder.process.wait().ended(End::Signal(15));
    until_end_is(&a, &postgres, "t3", "success||wait");
    a.published();
    let written =
        "SELECT id, epoch FROM bookend.task_history WHERE epoch > 1 OR late IS NOT NULL ORDER BY id";
    assert_eq!(postgres.psql(written), "t1|2\nt3|2");
    assert_eq!(
        (ending(&postgres, "t1").as_str(), claims(&postgres).as_str()),
        ("interrupted|host_lost|lease", "k|t2")
    );
    next.end();
}

#[test]
fn a_grant_of_a_lost_epoch_is_not_used() {
    let Some(postgres) = fleet("a_grant_of_a_lost_epoch_is_not_used") else { return };
    let (a, b) = two(&postgres);
    let id = a.id(&postgres);
    // The run has its grant, and cannot write its row.
    let other = rusqlite::Connection::open(a.world.ledger()).expect("the ledger");
    other.execute_batch("BEGIN IMMEDIATE").expect("the write lock");
    let run = a.keyed("k", "echo ran").options(["--id", "t1"]).start();
    eventually(a.world.deadline(), "the grant", || claims(&postgres) == "k|t1");
    postgres.psql(&format!(
        "SELECT bookend.declare_lost(node, epoch, seq) FROM bookend.lease WHERE node = '{id}'"
    ));
    let next = Holder::start(&b, &postgres, "t2");
    let epoch = format!("SELECT epoch FROM bookend.lease WHERE node = '{id}'");
    eventually(a.world.deadline(), "a new epoch", || postgres.psql(&epoch) == "2");
    other.execute_batch("ROLLBACK").expect("the end of the lock");
    let output = run.wait().ended(End::Code(75));
    assert_eq!(output.stdout, "");
    assert_eq!(claims(&postgres), "k|t2");
    next.end();
}

#[test]
fn the_session_of_a_lost_host_is_not_resumed() {
    let Some(postgres) = fleet("the_session_of_a_lost_host_is_not_resumed") else { return };
    let (mut a, b) = two(&postgres);
    let holder = Holder::start(&a, &postgres, "t1");
    postgres.psql(
        "INSERT INTO bookend.session (key, session_id, task_id, node)
         SELECT 'k', 's', 't1', node FROM bookend.task_history WHERE id = 't1'",
    );
    a.kill_monitor();
    until_state(&a, &postgres, "unreachable");
    b.bookend(&["fleet", "declare-lost", &a.id(&postgres), "--yes"]).ended(End::Code(0)).silent();
    assert_eq!(postgres.psql("SELECT lost_at IS NOT NULL FROM bookend.session"), "t");
    let invalidated = "SELECT key, session_id, reason FROM bookend.session_invalidation";
    assert_eq!(postgres.psql(invalidated), "k|s|host_lost");
    drop(holder);
}

#[test]
fn a_machine_that_rebooted_settles_its_own_tasks() {
    let Some(postgres) = fleet("a_machine_that_rebooted_settles_its_own_tasks") else { return };
    let (mut a, b) = two(&postgres);
    let holder = Holder::start(&a, &postgres, "t1");
    a.kill_monitor();
    let id = a.id(&postgres);
    // A task that the ledger has lost, and the boot before this one.
    postgres.psql(&format!(
        "INSERT INTO bookend.task_history
             (id, key, status, started_at, boot_id, node, epoch, rev, published_at)
         VALUES ('t0', 'k0', 'running', now(), 'before', '{id}', 1, 0, now());
         INSERT INTO bookend.claim (key, task_id, node, epoch) VALUES ('k0', 't0', '{id}', 1);
         UPDATE bookend.node SET boot_id = 'before' WHERE id = '{id}'"
    ));
    until_state(&a, &postgres, "unreachable");
    b.keyed("k0", "true").run().ended(End::Code(75));
    a.start_monitor(&[]);
    a.monitor().service.until("whether another machine renews the lease of this node");
    until_end_is(&a, &postgres, "t0", "interrupted|rebooted|lease");
    eventually(a.world.deadline(), "the free key", || claims(&postgres) == "k|t1");
    b.keyed("k0", "true").run().ended(End::Code(0)).silent();
    // What the ledger knows is settled by its real end.
    holder.end();
    until_end_is(&a, &postgres, "t1", "success||wait");
}

#[test]
fn a_node_that_was_stopped_with_nothing_running_is_never_unreachable() {
    let test = "a_node_that_was_stopped_with_nothing_running_is_never_unreachable";
    let Some(postgres) = fleet(test) else { return };
    let (mut a, mut c, b) =
        (Node::start(&postgres, "a"), Node::start(&postgres, "c"), Node::start(&postgres, "b"));
    let holder = Holder::start(&c, &postgres, "t1");
    // Both stop at once, and one has a task that runs.
    a.monitor.take().expect("a monitor").stop();
    c.monitor.take().expect("a monitor").stop();
    until_state(&c, &postgres, "unreachable");
    assert_eq!(state(&postgres, &a), "stopped");
    let unreachable: Vec<_> = findings(&b).into_iter().filter(|(code, _)| code == "unreachable").collect();
    assert_eq!(unreachable, [("unreachable".to_owned(), "t1".to_owned())]);
    let status = b.bookend(&["fleet", "status"]).ended(End::Code(0)).stdout;
    assert!(status.contains("stopped") && status.contains("unreachable"), "{status}");
    holder.end();
}

#[test]
fn a_ledger_that_is_leaving_is_not_registered_again() {
    let Some(postgres) = fleet("a_ledger_that_is_leaving_is_not_registered_again") else { return };
    let node = Node::start(&postgres, "a");
    let lock = rusqlite::Connection::open(node.world.ledger()).expect("the ledger");
    lock.execute_batch("BEGIN IMMEDIATE").expect("its lock");
    let leave = node.world.bare(["bookend", "fleet", "leave"]).env("PGPASSFILE", node.password_file());
    let leave = leave.start();
    node.monitor().service.until("this node has left the fleet");
    lock.execute_batch("ROLLBACK").expect("no lock");
    leave.wait().ended(End::Code(0));
    let socket = node.world.path("state/bookend/bookend.db.d/fleet.sock");
    eventually(node.world.deadline(), "the end of the hub", || !socket.exists());
    assert_eq!(state(&postgres, &node), "left");
}

/// As two machines that were resumed from one snapshot: the same boot, and the same file.
#[test]
fn of_two_copies_with_the_same_boot_and_file_one_is_refused() {
    let Some(postgres) = fleet("of_two_copies_with_the_same_boot_and_file_one_is_refused") else { return };
    let node = Node::start(&postgres, "a");
    let (id, copy, instance) = (node.id(&postgres), postgres.session(&node.role), uuid::Uuid::new_v4());
    let facts = postgres.psql("SELECT to_jsonb(node) || '{\"schema\": 1}' FROM bookend.node");
    let registered = copy.json(&format!("SELECT bookend.register('{id}', '{facts}', '{instance}', NULL)"));
    let registration = &registered["registration"];
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let renewing = scope.spawn(|| {
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                let renewed =
                    copy.json(&format!("SELECT bookend.renew('{id}', {registration}, '{instance}')"));
                assert_eq!(renewed["state"], "ok");
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
        });
        let refused = || node.monitor().service.until("machine id and ledger are copies");
        let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(refused));
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        renewing.join().expect("a copy that keeps the lease");
        refused.expect("a refusal");
    });
}
