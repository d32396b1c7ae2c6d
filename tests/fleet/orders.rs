//! A host cancels its tasks for another one, which waits for them and sees them change.

use std::fs;

use rustix::process::Signal;

use crate::harness::{Cmd, End, Fifo, Proc, eventually};
use crate::node::{Node, fleet};
use crate::pgbouncer::Pgbouncer;
use crate::postgres::Postgres;

/// A task that runs until it is cancelled, or `go` receives its exit code.
struct Running {
    process: Proc,
    go: Fifo,
}

impl Running {
    /// Returns when the task is in the database.
    fn start(node: &Node, postgres: &Postgres, id: &str) -> Running {
        Running::of(node, postgres, id, &[])
    }

    fn of(node: &Node, postgres: &Postgres, id: &str, options: &[&str]) -> Running {
        let (mut up, go) = (node.world.fifo(&format!("up {id}")), node.world.fifo(&format!("go {id}")));
        let script = format!("echo up >'{}'; read x <'{}'; exit $x", up.path(), go.path());
        let run = node.world.run_sh(&script).options(["--id", id]).options(options.iter().copied());
        let process = run.own_group().start();
        up.line();
        until_status(node, postgres, id, "running");
        Running { process, go }
    }

    fn end(mut self, code: i32) {
        self.go.write_line(&code.to_string());
        self.process.wait().ended(End::Code(code));
    }

    fn cancelled(self, node: &Node) {
        self.process.wait().ended(End::Signal(15));
        assert_eq!(node.world.row().text("status"), "cancelled");
    }
}

fn until_status(node: &Node, postgres: &Postgres, id: &str, status: &str) {
    let sql = format!("SELECT status FROM bookend.task_history WHERE id = '{id}'");
    eventually(node.world.deadline(), &format!("{id} {status}"), || postgres.psql(&sql) == status);
}

fn until_unreachable(node: &Node, postgres: &Postgres) {
    let sql = format!("SELECT state FROM bookend.node_state WHERE role = '{}'", node.role);
    eventually(node.world.deadline(), "an unreachable host", || postgres.psql(&sql) == "unreachable");
}

/// Two nodes, of which the second may cancel tasks of the first.
fn two(postgres: &Postgres) -> (Node, Node) {
    let nodes = (Node::start(postgres, "a"), Node::start(postgres, "b"));
    postgres.psql("GRANT bookend_operator TO bookend_b");
    nodes
}

/// Only the row of the running task says that this process is its supervisor, and it is another one.
fn in_another_pid_namespace(node: &Node) {
    let pid = std::process::id();
    node.world.write(&format!(
        "UPDATE task_history SET supervisor_pid = {pid}, supervisor_start = 1, supervisor_pidfd = NULL \
         WHERE status = 'running'"
    ));
}

/// What came of all orders.
fn results(postgres: &Postgres) -> String {
    postgres.psql("SELECT task_id, result FROM bookend.cancel_order WHERE done_at IS NOT NULL ORDER BY id")
}

fn command<'w>(node: &'w Node, words: &[&str]) -> Cmd<'w> {
    let words = [&["bookend"], words].concat();
    node.world.bare(words).env("PGPASSFILE", node.password_file())
}

#[test]
fn a_task_of_another_host_is_cancelled_by_its_monitor() {
    let Some(postgres) = fleet("a_task_of_another_host_is_cancelled_by_its_monitor") else { return };
    let (a, b) = two(&postgres);
    let running = Running::start(&a, &postgres, "t1");
    let cancelled = b.bookend(&["cancel", "t1"]).ended(End::Code(0)).silent();
    for part in ["task t1: ordered host ", " to cancel it\n", "task t1 on host ", ": cancelled"] {
        assert!(cancelled.stdout.contains(part), "{part:?} in {}", cancelled.stdout);
    }
    running.cancelled(&a);
    assert_eq!(results(&postgres), "t1|asked");
    let again = b.bookend(&["cancel", "t1"]).ended(End::Code(1));
    assert!(again.stderr.contains("task t1 is not running: it ended as cancelled"), "{}", again.stderr);
    // Under a key, and by an operator without a ledger.
    let running = Running::of(&a, &postgres, "t2", &["--key", "k"]);
    b.bookend(&["cancel", "--key", "k"]).ended(End::Code(0)).silent();
    running.process.wait().ended(End::Signal(15));
    let running = Running::start(&a, &postgres, "t3");
    postgres.role("ann", &["bookend_operator"]);
    b.bookend(&["cancel", "t3", "--ledger", &postgres.database_url("ann")]).ended(End::Code(0)).silent();
    running.process.wait().ended(End::Signal(15));
}

#[test]
fn a_host_that_may_not_cancel_tasks_of_others_learns_who_can_allow_it() {
    let test = "a_host_that_may_not_cancel_tasks_of_others_learns_who_can_allow_it";
    let Some(postgres) = fleet(test) else { return };
    let (a, b) = (Node::start(&postgres, "a"), Node::start(&postgres, "b"));
    let running = Running::start(&a, &postgres, "t1");
    let refused = b.bookend(&["cancel", "t1"]).ended(End::Code(1));
    for part in
        ["permission denied", "the role that created the fleet", "GRANT bookend_operator TO \"bookend_b\""]
    {
        assert!(refused.stderr.contains(part), "{part:?} in {}", refused.stderr);
    }
    assert_eq!(postgres.psql("SELECT count(*) FROM bookend.cancel_order"), "0");
    let unknown = b.bookend(&["cancel", "none"]).ended(End::Code(1));
    assert!(unknown.stderr.contains("no task none in "), "{}", unknown.stderr);
    // The own host needs no database.
    postgres.stop();
    a.bookend(&["cancel", "t1"]).ended(End::Code(0)).silent();
    running.cancelled(&a);
    let away = b.bookend(&["cancel", "t1"]).ended(End::Code(1));
    assert!(away.stderr.contains("and the fleet cannot be asked: "), "{}", away.stderr);
}

#[test]
fn replace_cancels_each_task_that_holds_the_key_on_another_host() {
    let test = "replace_cancels_each_task_that_holds_the_key_on_another_host";
    let Some(postgres) = fleet(test) else { return };
    let (a, b) = (Node::start(&postgres, "a"), Node::start(&postgres, "b"));
    let holder = Running::of(&a, &postgres, "t1", &["--key", "k"]);
    let waiting = a.keyed("k", "read x").options(["--wait", "--id", "t2"]).piped_input().start();
    crate::keys::until_asked(&a, 1);
    let replaced = b.keyed("k", "true").options(["--replace", "--fleet-timeout", "60s"]).start();
    holder.process.wait().ended(End::Signal(15));
    waiting.wait().ended(End::Signal(15));
    let output = replaced.wait().ended(End::Code(0));
    for task in ["t1", "t2"] {
        let line = format!("cancelling task {task} on host ");
        assert_eq!(output.stderr.matches(&line).count(), 1, "{output:?}");
    }
    assert_eq!(results(&postgres), "t1|asked\nt2|asked");
}

#[test]
fn replace_says_why_the_holder_cannot_be_cancelled() {
    let Some(postgres) = fleet("replace_says_why_the_holder_cannot_be_cancelled") else { return };
    let (a, b) = (Node::start(&postgres, "a"), Node::start(&postgres, "b"));
    let running = Running::of(&a, &postgres, "t1", &["--key", "k"]);
    in_another_pid_namespace(&a);
    let replace = b.keyed("k", "true").options(["--replace", "--fleet-timeout", "60s"]);
    let refused = replace.run().ended(End::Code(75));
    for part in
        ["held by task t1 on host ", ", which cannot be cancelled: it runs where its pid means another"]
    {
        assert!(refused.stderr.contains(part), "{part:?} in {}", refused.stderr);
    }
    running.end(0);
}

#[test]
fn an_order_for_a_run_that_begins_is_carried_out_once_it_has_its_row() {
    let test = "an_order_for_a_run_that_begins_is_carried_out_once_it_has_its_row";
    let Some(postgres) = fleet(test) else { return };
    let (a, b) = (Node::start(&postgres, "a"), Node::start(&postgres, "b"));
    a.world.run(["true"]).run().ended(End::Code(0));
    let other = rusqlite::Connection::open(a.world.ledger()).expect("the ledger");
    other.execute_batch("BEGIN IMMEDIATE").expect("the write lock");
    let begins = a.keyed("k", "read x").options(["--id", "t1"]).piped_input().start();
    eventually(a.world.deadline(), "a claim", || crate::node::claims(&postgres) == "k|t1");
    let replaced = b.keyed("k", "true").options(["--replace", "--fleet-timeout", "60s"]).start();
    let orders = || postgres.psql("SELECT task_id, done_at FROM bookend.cancel_order");
    eventually(b.world.deadline(), "an order", || !orders().is_empty());
    let renewals = format!("SELECT seq FROM bookend.lease WHERE node = '{}'", a.id(&postgres));
    let seq = || postgres.psql(&renewals).parse::<u32>().expect("a number");
    let before = seq();
    eventually(a.world.deadline(), "further renewals", || seq() > before + 2);
    assert_eq!(orders(), "t1|", "the order stands");
    other.execute_batch("ROLLBACK").expect("no lock");
    begins.wait().ended(End::Signal(15));
    replaced.wait().ended(End::Code(0));
    assert_eq!(results(&postgres), "t1|asked");
}

#[test]
fn without_the_database_no_command_says_what_other_hosts_run() {
    let Some(postgres) = fleet("without_the_database_no_command_says_what_other_hosts_run") else { return };
    let (a, b) = two(&postgres);
    b.world.run(["true"]).options(["--id", "old", "--key", "k"]).run().ended(End::Code(0));
    until_status(&b, &postgres, "old", "success");
    let running = Running::of(&a, &postgres, "t1", &["--key", "k"]);
    postgres.stop();
    for command in ["wait", "cancel"] {
        let away = b.bookend(&[command, "--key", "k"]).ended(End::Code(125));
        for part in [" the key k in ", ", and the fleet cannot be asked: "] {
            assert!(away.stderr.contains(part), "{command}: {part:?} in {}", away.stderr);
        }
        assert_eq!(away.stdout, "", "{command}");
    }
    let unknown = b.bookend(&["show", "none"]).ended(End::Code(1));
    assert!(unknown.stderr.contains("error: no task none in the ledger "), "{}", unknown.stderr);
    running.end(0);
}

#[test]
fn an_order_for_an_unreachable_host_stands_until_it_is_back() {
    let Some(postgres) = fleet("an_order_for_an_unreachable_host_stands_until_it_is_back") else { return };
    let (mut a, b) = two(&postgres);
    let running = Running::start(&a, &postgres, "t1");
    a.kill_monitor();
    until_unreachable(&a, &postgres);
    let cancelled = b.bookend(&["cancel", "t1"]).ended(End::Code(1));
    for part in ["is not cancelled yet: its host is unreachable since ", "the order stands"] {
        assert!(cancelled.stderr.contains(part), "{part:?} in {}", cancelled.stderr);
    }
    assert_eq!(postgres.psql("SELECT task_id, done_at FROM bookend.cancel_order"), "t1|");
    a.start_monitor(&[]);
    running.cancelled(&a);
    eventually(b.world.deadline(), "the result", || results(&postgres) == "t1|asked");
}

#[test]
#[cfg(feature = "failpoints")]
fn an_order_survives_a_monitor_that_is_killed_before_it_answers() {
    let Some(postgres) = fleet("an_order_survives_a_monitor_that_is_killed_before_it_answers") else {
        return;
    };
    let (mut a, b) = two(&postgres);
    let running = Running::start(&a, &postgres, "t1");
    a.kill_monitor();
    a.start_monitor(&[("BOOKEND_FAILPOINT", "hub.ordered:kill")]);
    a.monitor().service.until("publishing to");
    let cancelled = b.bookend(&["cancel", "t1", "--wait", "0"]).ended(End::Code(1));
    assert!(cancelled.stdout.contains(": still running after "), "{}", cancelled.stdout);
    eventually(a.world.deadline(), "the end of the monitor", || a.monitor().has_exited());
    running.cancelled(&a);
    assert_eq!(results(&postgres), "");
    a.start_monitor(&[]);
    eventually(b.world.deadline(), "a result", || !results(&postgres).is_empty());
    let ended =
        "SELECT count(*) FROM bookend.task_transition WHERE task_id = 't1' AND from_status = 'running'";
    a.published();
    assert_eq!(postgres.psql(ended), "1");
}

#[test]
fn an_order_touches_only_a_running_task_of_the_ledger() {
    let Some(postgres) = fleet("an_order_touches_only_a_running_task_of_the_ledger") else { return };
    let a = Node::start(&postgres, "a");
    let running = Running::start(&a, &postgres, "t1");
    a.world.run_sh("true").options(["--id", "t2"]).run().ended(End::Code(0));
    a.published();
    // Also the beginning of an id is none.
    for task in ["none", "t", "t2"] {
        postgres.psql(&format!(
            "INSERT INTO bookend.cancel_order (task_id, node, by_role)
                 SELECT '{task}', id, 'x' FROM bookend.node;
             SELECT pg_notify('bookend_node', id::text) FROM bookend.node"
        ));
    }
    let expected = "none|no such task here\nt|no such task here\nt2|has ended";
    eventually(a.world.deadline(), "the results", || results(&postgres) == expected);
    in_another_pid_namespace(&a);
    postgres.psql(
        "INSERT INTO bookend.cancel_order (task_id, node, by_role) SELECT 't1', id, 'x' FROM bookend.node",
    );
    eventually(a.world.deadline(), "a refusal", || {
        results(&postgres).ends_with("t1|refused: it runs where its pid means another process (a container?)")
    });
    running.end(0);
}

#[test]
fn wait_waits_for_a_task_of_another_host() {
    let Some(postgres) = fleet("wait_waits_for_a_task_of_another_host") else { return };
    let (mut a, b) = (Node::start(&postgres, "a"), Node::start(&postgres, "b"));
    let running = Running::of(&a, &postgres, "t1", &["--key", "k"]);
    let late = b.bookend(&["wait", "t1", "--timeout", "0"]).ended(End::Code(124)).silent();
    assert!(
        late.stdout.contains("task t1 on host ") && late.stdout.contains("still running"),
        "{}",
        late.stdout
    );
    let waits = [&["wait", "t1"][..], &["wait", "--key", "k"], &["wait", "t"]];
    let waits = waits.map(|words| command(&b, words).start());
    a.kill_monitor();
    until_unreachable(&a, &postgres);
    // It says so once, and goes on.
    let mut reported = command(&b, &["wait", "t1"]).start();
    eventually(b.world.deadline(), "a report", || reported.stderr_so_far().contains("unreachable since "));
    a.start_monitor(&[]);
    a.monitor().service.until("publishing to");
    running.end(0);
    for wait in waits.into_iter().chain([reported]) {
        let ended = wait.wait().ended(End::Code(0));
        assert!(ended.stdout.contains("task t1 on host ") && ended.stdout.contains(": success"), "{ended:?}");
        assert!(ended.stderr.matches("unreachable since ").count() <= 1, "{ended:?}");
    }
    let running = Running::start(&a, &postgres, "t2");
    let wait = command(&b, &["wait", "t2"]).start();
    running.end(3);
    let ended = wait.wait().ended(End::Code(1)).silent();
    assert!(ended.stdout.contains(": failure"), "{ended:?}");
}

#[test]
fn wait_goes_on_after_an_outage_of_the_database() {
    let Some(postgres) = fleet("wait_goes_on_after_an_outage_of_the_database") else { return };
    let (a, b) = (Node::start(&postgres, "a"), Node::start(&postgres, "b"));
    let running = Running::start(&a, &postgres, "t1");
    let mut wait = command(&b, &["wait", "t1"]).start();
    let connections = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT bookend.watch()'";
    eventually(b.world.deadline(), "a command that follows", || postgres.psql(connections) == "1");
    postgres.stop();
    eventually(b.world.deadline(), "a report", || wait.stderr_so_far().contains("the fleet cannot be asked"));
    running.end(0);
    postgres.start_again();
    let ended = wait.wait().ended(End::Code(0));
    assert_eq!(ended.stderr.matches("the fleet cannot be asked").count(), 1, "{ended:?}");
}

#[test]
fn ids_are_those_of_this_host_first_and_prefixes_those_of_all() {
    let Some(postgres) = fleet("ids_are_those_of_this_host_first_and_prefixes_those_of_all") else { return };
    let (a, b) = two(&postgres);
    let others = Running::start(&a, &postgres, "task-1");
    let own = Running::start(&b, &postgres, "task-2");
    for command in ["wait", "cancel"] {
        let ambiguous = b.bookend(&[command, "task-"]);
        for part in ["several task ids begin with \"task-\"", "task-1", "task-2"] {
            assert!(ambiguous.stderr.contains(part), "{part:?} in {ambiguous:?}");
        }
    }
    b.bookend(&["cancel", "task-1"]).ended(End::Code(0));
    others.cancelled(&a);
    postgres.stop();
    b.bookend(&["cancel", "task-2"]).ended(End::Code(0)).silent();
    own.cancelled(&b);
}

#[test]
fn a_watched_list_shows_what_starts_and_ends_on_other_hosts() {
    let Some(postgres) = fleet("a_watched_list_shows_what_starts_and_ends_on_other_hosts") else { return };
    let (a, b) = (Node::start(&postgres, "a"), Node::start(&postgres, "b"));
    watched_list_follows(&postgres, &a, &b);
    let alone = b.bookend(&["list", "--here"]).ended(End::Code(0));
    assert!(alone.stdout.starts_with("no tasks in "), "{}", alone.stdout);
}

fn watched_list_follows(postgres: &Postgres, a: &Node, b: &Node) {
    let printed = b.world.path("printed");
    let script = format!("exec bookend list --watch >'{}'", printed.display());
    let watch = b.world.bare(["sh", "-c", &script]).env("PGPASSFILE", b.password_file()).start();
    let shows = |words: &str| {
        eventually(b.world.deadline(), &format!("{words:?} in the list"), || {
            let text = fs::read_to_string(&printed).unwrap_or_default();
            let last = text.trim_end().rsplit("\n\n").next().unwrap_or_default().to_owned();
            words.split(' ').all(|word| last.contains(word))
        });
    };
    let running = Running::start(a, postgres, "w1");
    shows("HOST w1 running");
    running.end(0);
    shows("HOST w1 success");
    let tables = || fs::read_to_string(&printed).unwrap_or_default().matches("HOST").count();
    let last_look = || {
        postgres.psql(
            "SELECT max(query_start) FROM pg_stat_activity
             WHERE usename = 'bookend_b' AND query LIKE '%bookend.task_history%'",
        )
    };
    let before = tables();
    for _ in 0..2 {
        let look = last_look();
        eventually(b.world.deadline(), "a further look", || last_look() != look);
    }
    assert_eq!(tables(), before, "nothing was new");
    watch.signal(Signal::INT);
    watch.wait().ended(End::Signal(2));
}

#[test]
fn orders_waits_and_watched_lists_work_behind_pgbouncer() {
    let Some(postgres) = fleet("orders_waits_and_watched_lists_work_behind_pgbouncer") else { return };
    let pgbouncer = Pgbouncer::in_front_of(&postgres);
    let [a, b] = ["a", "b"].map(|name| {
        let url = pgbouncer.database_url(&format!("bookend_{name}"));
        let mut node = Node::join_at(&postgres, name, &url);
        node.start_monitor(&[]);
        node.monitor().service.until("publishing to");
        node
    });
    postgres.psql("GRANT bookend_operator TO bookend_b");
    let running = Running::start(&a, &postgres, "t1");
    let wait = command(&b, &["wait", "t1"]).start();
    b.bookend(&["cancel", "t1"]).ended(End::Code(0)).silent();
    running.cancelled(&a);
    let ended = wait.wait().ended(End::Code(1)).silent();
    assert!(ended.stdout.contains(": cancelled"), "{ended:?}");
    watched_list_follows(&postgres, &a, &b);
}
