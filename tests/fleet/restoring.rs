//! A database that was restored from a backup gets again what the hosts had published since.

use crate::harness::{End, Fifo, Proc, eventually};
use crate::node::{Node, claims};
use crate::postgres::Postgres;

const AGAIN: &str = "all tasks are published again";

fn fleet(test: &str) -> Option<Postgres> {
    let postgres = Postgres::with_schema(test)?;
    postgres.psql("UPDATE bookend.setting SET value = '300' WHERE name = 'renew_ms'");
    Some(postgres)
}

fn succeed(node: &Node, id: &str) {
    node.world.run_sh("true").options(["--id", id]).run().ended(End::Code(0)).silent();
    node.published();
}

/// A task under the key `k` that ends when `go` receives a line.
fn hold(node: &Node, id: &str) -> (Proc, Fifo) {
    hold_with(node, &["--key", "k", "--id", id])
}

fn hold_with(node: &Node, options: &[&str]) -> (Proc, Fifo) {
    let (mut up, go) = (node.world.fifo("up"), node.world.fifo("go"));
    let script = format!("echo up >'{}'; read x <'{}'", up.path(), go.path());
    let process = node.world.run_sh(&script).options(options.iter().copied()).own_group().start();
    up.line();
    (process, go)
}

fn tasks(postgres: &Postgres) -> String {
    postgres.psql("SELECT id, status FROM bookend.task_history ORDER BY id")
}

fn until(node: &Node, what: &str, is_so: impl Fn() -> bool) {
    eventually(node.world.deadline(), what, is_so);
}

/// Puts the server back to its backup, which `back_up` has made.
fn restore(postgres: &Postgres) {
    postgres.stop();
    postgres.restore();
    postgres.start_again();
}

fn back_up(postgres: &Postgres) {
    postgres.stop();
    postgres.back_up();
    postgres.start_again();
}

#[test]
fn a_restored_database_gets_all_rows_again_and_the_sums_are_equal() {
    let Some(postgres) = fleet("a_restored_database_gets_all_rows_again_and_the_sums_are_equal") else {
        return;
    };
    let node = Node::start(&postgres, "a");
    succeed(&node, "t0");
    back_up(&postgres);
    node.monitor().service.until("publishing to");
    succeed(&node, "t1");
    node.keyed("k", "exit 3").options(["--id", "t2"]).run().ended(End::Code(3));
    node.world.write("UPDATE task_history SET cost_usd = rowid / 4.0, output_tokens = 1 << rowid");
    node.published();
    let sql = "SELECT sum(cost_usd), sum(output_tokens), count(*) FROM bookend.task_history";
    let moves = "SELECT count(*) FROM bookend.task_transition";
    let before = (postgres.psql(sql), postgres.psql(moves), tasks(&postgres));
    restore(&postgres);
    until(&node, "the rows of before", || {
        (postgres.psql(sql), postgres.psql(moves), tasks(&postgres)) == before
    });
    until(&node, "the same ledger there", || node.monitor().errors().contains(AGAIN));
    // A change is published as ever, and only what the database lacks is sent again.
    node.monitor().service.until("publishing to");
    succeed(&node, "t3");
    until(&node, "the next task", || tasks(&postgres).ends_with("t3|success"));
    postgres.stop();
    postgres.start_again();
    node.monitor().service.until("publishing to");
    succeed(&node, "t4");
    assert_eq!(node.monitor().errors().matches(AGAIN).count(), 1, "{}", node.monitor().errors());
}

#[test]
fn rows_that_get_lost_while_the_connection_lives_are_published_again() {
    let Some(postgres) = fleet("rows_that_get_lost_while_the_connection_lives_are_published_again") else {
        return;
    };
    let node = Node::start(&postgres, "a");
    succeed(&node, "t0");
    succeed(&node, "t1");
    // Behind a pooler, the connection of a monitor outlives a restored server.
    postgres.psql(
        "BEGIN; TRUNCATE bookend.task_history, bookend.task_transition;
        UPDATE bookend.lease SET max_rev = 0; COMMIT",
    );
    until(&node, "all tasks", || tasks(&postgres) == "t0|success\nt1|success");
}

#[test]
fn two_hosts_that_hold_one_key_after_a_restore_are_a_finding_and_nothing_is_ended() {
    let test = "two_hosts_that_hold_one_key_after_a_restore_are_a_finding_and_nothing_is_ended";
    let Some(postgres) = fleet(test) else { return };
    let (mut a, b) = (Node::start(&postgres, "a"), Node::start(&postgres, "b"));
    succeed(&a, "t0");
    back_up(&postgres);
    a.monitor().service.until("publishing to");
    b.monitor().service.until("publishing to");
    let (first, mut first_go) = hold(&a, "t1");
    until(&a, "the claim of the first host", || claims(&postgres) == "k|t1");
    until(&a, "its task", || tasks(&postgres) == "t0|success\nt1|running");
    a.published();
    a.kill_monitor();
    restore(&postgres);
    b.monitor().service.until("publishing to");
    assert_eq!((claims(&postgres), tasks(&postgres)), (String::new(), "t0|success".to_owned()));
    let (second, mut second_go) = hold(&b, "t2");
    a.start_monitor(&[]);
    let found = "SELECT kind, subject, detail->>'other_task' FROM bookend.finding";
    until(&a, "the finding", || postgres.psql(found) == "double_claim|t1|t2");
    let audit = b.bookend(&["audit"]).stdout;
    assert!(audit.contains("double_claim") && audit.contains("t1"), "{audit}");
    until(&a, "both tasks", || tasks(&postgres) == "t0|success\nt1|running\nt2|running");
    assert_eq!(claims(&postgres), "k|t2");
    for (process, go) in [(first, &mut first_go), (second, &mut second_go)] {
        go.write_line("on");
        process.wait().ended(End::Code(0));
    }
    until(&a, "both ends", || tasks(&postgres) == "t0|success\nt1|success\nt2|success");
    until(&a, "a free key", || claims(&postgres).is_empty());
    a.keyed("k", "true").options(["--id", "t3"]).run().ended(End::Code(0));
}

/// One change of its task waits to be published, although the database knows a later change of the host.
#[test]
fn a_host_whose_tasks_were_pruned_while_it_was_lost_is_not_taken_for_restored() {
    let test = "a_host_whose_tasks_were_pruned_while_it_was_lost_is_not_taken_for_restored";
    let Some(postgres) = fleet(test) else { return };
    let mut node = Node::start(&postgres, "a");
    let (process, mut go) = hold_with(&node, &["--id", "t1"]);
    until(&node, "the running task", || tasks(&postgres) == "t1|running");
    node.published();
    node.world.write("UPDATE task_history SET turns = 1");
    node.world.run_sh("true").options(["--id", "t2"]).run().ended(End::Code(0));
    let waiting = "SELECT group_concat(task_id) AS ids FROM fleet_dirty";
    until(&node, "one change that waits", || node.world.sql(waiting)[0].text("ids") == "t1");
    node.kill_monitor();
    assert_eq!(tasks(&postgres), "t1|running\nt2|success");
    let lost = "SELECT bookend.declare_lost(id, epoch, seq)->>'state' FROM bookend.node_state";
    assert_eq!(postgres.psql(lost), "lost");
    assert_eq!(postgres.psql("SELECT bookend.prune(0, false, 10)->>'tasks'"), "2");
    node.start_monitor(&[]);
    node.monitor().service.until("publishing to");
    until(&node, "the task that runs", || tasks(&postgres) == "t1|running");
    go.write_line("on");
    process.wait().ended(End::Code(0));
    until(&node, "its end", || tasks(&postgres) == "t1|success");
}

#[test]
fn a_ledger_that_is_restored_under_its_monitor_is_refused() {
    let Some(postgres) = fleet("a_ledger_that_is_restored_under_its_monitor_is_refused") else { return };
    let node = Node::start(&postgres, "a");
    succeed(&node, "t0");
    let backup = node.world.path("backup.db");
    node.bookend(&["backup", backup.to_str().expect("UTF-8")]).ended(End::Code(0));
    for id in ["t1", "t2", "t3"] {
        succeed(&node, id);
    }
    let mut ledger = rusqlite::Connection::open(node.world.ledger()).expect("the ledger");
    ledger.restore(rusqlite::MAIN_DB, &backup, None::<fn(_)>).expect("the backup in the ledger");
    drop(ledger);
    // It draws numbers that PostgreSQL has of the tasks that were lost.
    node.world.run_sh("true").options(["--id", "t4"]).run().ended(End::Code(0)).silent();
    node.monitor().service.until("older than what it published");
    assert_eq!(tasks(&postgres), "t0|success\nt1|success\nt2|success\nt3|success");
}
