//! The monitor of a ledger in a fleet publishes its tasks, and goes on after whatever interrupts it.

use std::fs;

use rustix::process::Signal;

use crate::harness::{Cmd, End, eventually, on_path, possible};
use crate::node::{Node, fleet};
use crate::postgres::Postgres;

fn run<'w>(node: &'w Node, id: &str, script: &str) -> Cmd<'w> {
    node.world.run_sh(script).options(["--id", id])
}

fn succeed(node: &Node, id: &str) {
    run(node, id, "true").run().ended(End::Code(0)).silent();
}

/// `id|status|end` of all published tasks.
fn tasks(postgres: &Postgres) -> String {
    postgres.psql("SELECT id, status, finished_at IS NOT NULL FROM bookend.task_history ORDER BY id")
}

fn until_tasks(node: &Node, postgres: &Postgres, wanted: &str) {
    eventually(node.world.deadline(), &format!("{wanted:?} in PostgreSQL"), || tasks(postgres) == wanted);
}

fn state(postgres: &Postgres) -> String {
    postgres.psql("SELECT state FROM bookend.node_state")
}

#[test]
fn tasks_are_published_with_their_ends_and_their_sums_are_equal() {
    let Some(postgres) = fleet("tasks_are_published_with_their_ends_and_their_sums_are_equal") else {
        return;
    };
    let mut node = Node::join(&postgres, "a");
    succeed(&node, "before");
    node.start_monitor(&[]);
    until_tasks(&node, &postgres, "before|success|t");
    succeed(&node, "t1");
    run(&node, "t2", "exit 3").run().ended(End::Code(3));
    node.world.write("UPDATE task_history SET cost_usd = 0.1 + rowid / 7.0, output_tokens = 1 << 40");
    until_tasks(&node, &postgres, "before|success|t\nt1|success|t\nt2|failure|t");
    node.published();
    let sums = "SELECT sum(cost_usd) AS cost, sum(output_tokens) AS tokens, sum(duration_ms) AS ms FROM ";
    let here = &node.world.sql(&format!("{sums} task_history"))[0];
    let there = postgres.psql(&format!("{sums} bookend.task_history"));
    let there: Vec<f64> = there.split('|').map(|sum| sum.parse().expect("a number")).collect();
    assert!((there[0] - here.real("cost").expect("a cost")).abs() < 1e-9, "{there:?}");
    assert_eq!(Some(there[1] as i64), here.number("tokens"));
    assert_eq!(Some(there[2] as i64), here.number("ms"));
    let moves = postgres.psql("SELECT task_id, n, to_status FROM bookend.task_transition ORDER BY 1, 2");
    assert_eq!(
        moves.lines().filter(|line| line.starts_with("t2|")).collect::<Vec<_>>(),
        ["t2|1|running", "t2|2|failure"]
    );
    let place = postgres.psql(
        "SELECT count(*) FROM bookend.task_history t JOIN bookend.node n ON n.id = t.node
        WHERE t.host = n.host AND t.boot_id = n.boot_id AND n.role = 'bookend_a'",
    );
    assert_eq!(place, "3");
}

#[test]
fn a_running_task_is_published_and_its_command_line_is_not() {
    let Some(postgres) = fleet("a_running_task_is_published_and_its_command_line_is_not") else { return };
    let node = Node::start(&postgres, "a");
    let mut up = node.world.fifo("up");
    let go = node.world.fifo("go");
    let script = format!("echo up >'{}'; : xyzzy; read x <'{}'", up.path(), go.path());
    let hook = ["--on-finish", "echo xyzzy >&2"];
    let running = run(&node, "t", &script).options(hook).start();
    up.line();
    until_tasks(&node, &postgres, "t|running|f");
    let mut go = go;
    go.write_line("on");
    running.wait().ended(End::Code(0));
    until_tasks(&node, &postgres, "t|success|t");
    node.published();
    let sql = "SELECT count(*) FROM bookend.task_history t WHERE t::text LIKE '%xyzzy%'";
    assert_eq!(postgres.psql(sql), "0");
    assert!(node.world.row().text("argv").contains("xyzzy"));
    let commands = "SELECT argv, user_argv, on_finish, run_options, delivery_error FROM bookend.task_history";
    assert_eq!(postgres.psql(commands), "||||");
    postgres.psql("UPDATE bookend.setting SET value = 'true' WHERE name = 'publish_argv'");
    // The settings are read at the registration.
    let mut node = node;
    node.kill_monitor();
    node.start_monitor(&[]);
    node.world.write("UPDATE task_history SET turns = 1");
    eventually(node.world.deadline(), "the command line", || postgres.psql(sql) == "1");
}

#[test]
fn a_node_without_postgresql_runs_tasks_and_publishes_them_later() {
    let Some(postgres) = fleet("a_node_without_postgresql_runs_tasks_and_publishes_them_later") else {
        return;
    };
    let node = Node::start(&postgres, "a");
    succeed(&node, "t1");
    until_tasks(&node, &postgres, "t1|success|t");
    postgres.kill();
    node.monitor().service.until("not reachable since");
    succeed(&node, "t2");
    eventually(node.world.deadline(), "a warning", || !node.monitor().errors().is_empty());
    postgres.start_again();
    node.monitor().service.until("publishing to");
    until_tasks(&node, &postgres, "t1|success|t\nt2|success|t");
    postgres.stop();
    node.monitor().service.until("not reachable since");
    postgres.start_again();
    node.monitor().service.until("publishing to");
    let errors = node.monitor().errors();
    assert_eq!(errors.matches("the fleet's database cannot be used").count(), 2, "{errors}");
}

/// As a restore or a failover to an asynchronous standby leaves it: the last transactions have never been.
#[test]
fn a_database_that_lost_confirmed_changes_gets_all_tasks_again() {
    let test = "a_database_that_lost_confirmed_changes_gets_all_tasks_again";
    let Some(postgres) = fleet(test) else { return };
    let mut node = Node::start(&postgres, "a");
    succeed(&node, "t1");
    until_tasks(&node, &postgres, "t1|success|t");
    let lose = || {
        let lost = "DELETE FROM bookend.task_history WHERE id = 't1'";
        postgres.psql(&format!("{lost}; UPDATE bookend.lease SET max_rev = 0"));
    };
    // While the monitor runs, and while it does not.
    node.published();
    lose();
    postgres.kill();
    node.monitor().service.until("not reachable since");
    succeed(&node, "t2");
    postgres.start_again();
    until_tasks(&node, &postgres, "t1|success|t\nt2|success|t");
    node.published();
    node.monitor.take().expect("a monitor").stop();
    lose();
    node.start_monitor(&[]);
    until_tasks(&node, &postgres, "t1|success|t\nt2|success|t");
}

/// The progress of a task is committed without waiting for the disk. If a power failure undid what was
/// published, the ledger would draw the same numbers again, as one that was restored.
#[test]
fn what_is_published_is_durable() {
    let test = "what_is_published_is_durable";
    if !possible(test, on_path("strace"), "strace") {
        return;
    }
    let Some(postgres) = fleet(test) else { return };
    let node = Node::start(&postgres, "a");
    let (pid, trace) = (node.monitor().pid().to_string(), node.world.name("trace"));
    let calls = "trace=fdatasync,write,writev,sendto,sendmsg";
    let words = ["strace", "-f", "-qq", "-s", "200", "-e", calls, "-o", &trace, "-p", &pid];
    let strace = node.world.bare(words).start();
    let status = format!("/proc/{pid}/status");
    eventually(node.world.deadline(), "strace", || {
        fs::read_to_string(&status).is_ok_and(|status| !status.contains("TracerPid:\t0\n"))
    });
    for id in ["t1", "t2"] {
        succeed(&node, id);
        node.published();
    }
    strace.signal(Signal::TERM);
    strace.wait();
    let trace = fs::read_to_string(&trace).expect("the trace");
    let (mut is_synced, mut publications) = (false, 0);
    for line in trace.lines() {
        if line.contains("bookend.publish(") {
            assert!(is_synced, "{line}\nof\n{trace}");
            publications += 1;
        }
        is_synced = line.contains("fdatasync(") || is_synced && !line.contains("bookend.publish(");
    }
    assert!(publications >= 2, "{trace}");
}

#[test]
fn a_server_that_answers_nothing_delays_no_settling() {
    let Some(postgres) = fleet("a_server_that_answers_nothing_delays_no_settling") else { return };
    let node = Node::start(&postgres, "a");
    postgres.suspend();
    let mut up = node.world.fifo("up");
    let lost = run(&node, "t", &format!("echo up >'{}'; exec sleep 1000", up.path())).start();
    up.line();
    lost.signal(Signal::KILL);
    eventually(node.world.deadline(), "the end of the task", || {
        node.world.row().text("status") == "interrupted"
    });
    assert_eq!(tasks_after_resume(&node, &postgres), "t|interrupted|f");
}

fn tasks_after_resume(node: &Node, postgres: &Postgres) -> String {
    postgres.resume();
    eventually(node.world.deadline(), "a task in PostgreSQL", || tasks(postgres).contains("interrupted"));
    tasks(postgres)
}

#[test]
fn a_monitor_that_is_stopped_while_tasks_end_publishes_them() {
    let Some(postgres) = fleet("a_monitor_that_is_stopped_while_tasks_end_publishes_them") else { return };
    let mut node = Node::start(&postgres, "a");
    let monitor = node.monitor.take().expect("a monitor");
    monitor.signal(Signal::STOP);
    succeed(&node, "t");
    monitor.signal(Signal::TERM);
    monitor.signal(Signal::CONT);
    monitor.wait().ended(End::Signal(15));
    assert_eq!(tasks(&postgres), "t|success|t");
    assert_eq!(state(&postgres), "stopped");
}

#[test]
fn stopping_the_monitor_publishes_what_is_left() {
    // With few renewals: a monitor that is connecting again when it is stopped publishes nothing more.
    let Some(postgres) = Postgres::with_schema("stopping_the_monitor_publishes_what_is_left") else { return };
    let mut node = Node::start(&postgres, "a");
    for n in 0..3 {
        succeed(&node, &format!("t{n}"));
    }
    node.monitor.take().expect("a monitor").stop();
    assert_eq!(tasks(&postgres), "t0|success|t\nt1|success|t\nt2|success|t");
    assert_eq!(state(&postgres), "stopped");
    node.start_monitor(&[]);
    node.monitor().service.until("publishing to");
    assert_eq!(state(&postgres), "reachable");
    let mut up = node.world.fifo("up");
    let script = format!("echo up >'{}'; exec sleep 1000", up.path());
    let running = run(&node, "r", &script).start();
    up.line();
    node.monitor.take().expect("a monitor").stop();
    assert_eq!(tasks(&postgres).lines().next(), Some("r|running|f"));
    postgres.psql("UPDATE bookend.lease SET renewed_at = now() - interval '1 h'");
    assert_eq!(state(&postgres), "unreachable");
    running.signal(Signal::TERM);
    running.wait();
}

#[test]
fn without_a_fleet_there_is_neither_a_thread_nor_a_socket_nor_a_table() {
    let Some(postgres) = fleet("without_a_fleet_there_is_neither_a_thread_nor_a_socket_nor_a_table") else {
        return;
    };
    let node = Node::start(&postgres, "a");
    succeed(&node, "t1");
    until_tasks(&node, &postgres, "t1|success|t");
    let threads =
        || fs::read_dir(format!("/proc/{}/task", node.monitor().pid())).expect("its threads").count();
    let sockets = || {
        let files = fs::read_dir(format!("/proc/{}/fd", node.monitor().pid())).expect("its files").flatten();
        files
            .filter(|f| fs::read_link(f.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:")))
            .count()
    };
    let objects = || node.world.sql("SELECT name FROM sqlite_schema WHERE name LIKE 'fleet%'").len();
    assert!(threads() == 2 && sockets() > 0 && objects() > 0);
    node.published();
    node.bookend(&["fleet", "leave"]).ended(End::Code(0));
    eventually(node.world.deadline(), "the end of the hub", || threads() == 1);
    assert_eq!((sockets(), objects()), (0, 0));
    assert!(!node.world.path("state/bookend/bookend.db.d/fleet.sock").exists());
    assert_eq!(state(&postgres), "left");
    succeed(&node, "t2");
    assert_eq!(tasks(&postgres), "t1|success|t");
}

#[test]
fn a_monitor_that_runs_follows_its_ledger_into_the_fleet() {
    let Some(postgres) = fleet("a_monitor_that_runs_follows_its_ledger_into_the_fleet") else { return };
    let node = Node::start(&postgres, "a");
    node.bookend(&["fleet", "leave"]).ended(End::Code(0));
    succeed(&node, "t1");
    node.rejoin(&postgres, "bookend_a", &[]);
    until_tasks(&node, &postgres, "t1|success|t");
    let nodes = "SELECT state, count(*) FROM bookend.node_state GROUP BY state ORDER BY state";
    assert_eq!(postgres.psql(nodes), "left|1\nreachable|1");
}

#[test]
fn a_copy_of_a_ledger_is_refused_while_the_other_lives() {
    let Some(postgres) = fleet("a_copy_of_a_ledger_is_refused_while_the_other_lives") else { return };
    let mut node = Node::start(&postgres, "a");
    succeed(&node, "t1");
    node.published();
    // The copy watches for six seconds, in which the other renews its lease every 300 ms.
    postgres.psql("UPDATE bookend.setting SET value = '2000' WHERE name = 'renew_ms'");
    let mut copy = node.copy();
    postgres.role("bookend_c", &["bookend_host"]);
    copy.monitor().service.until("machine id and ledger are copies: `bookend fleet join --new-node URL`");
    node.world.renew_deadline();
    copy.world.renew_deadline();
    succeed(&copy, "t2");
    succeed(&node, "t3");
    until_tasks(&node, &postgres, "t1|success|t\nt3|success|t");
    copy.rejoin(&postgres, "bookend_c", &["--new-node"]);
    copy.monitor().service.until("publishing to");
    until_tasks(&node, &postgres, "t1|success|t\nt2|success|t\nt3|success|t");
}

#[test]
fn a_ledger_that_was_moved_is_published_once_the_other_is_gone() {
    let Some(postgres) = fleet("a_ledger_that_was_moved_is_published_once_the_other_is_gone") else { return };
    let mut node = Node::start(&postgres, "a");
    succeed(&node, "t1");
    node.published();
    node.kill_monitor();
    let moved = node.copy();
    moved.monitor().service.until("publishing to");
    succeed(&moved, "t2");
    until_tasks(&node, &postgres, "t1|success|t\nt2|success|t");
    assert_eq!(postgres.psql("SELECT count(*), max(epoch) FROM bookend.lease"), "1|1");
}

#[test]
fn a_restored_ledger_is_refused_until_it_joins_as_a_new_node() {
    let Some(postgres) = fleet("a_restored_ledger_is_refused_until_it_joins_as_a_new_node") else { return };
    let mut node = Node::start(&postgres, "a");
    succeed(&node, "t1");
    node.published();
    node.monitor.take().expect("a monitor").stop();
    let backup = node.world.path("backup.db");
    node.bookend(&["backup", backup.to_str().expect("UTF-8")]).ended(End::Code(0));
    node.start_monitor(&[]);
    succeed(&node, "t2");
    until_tasks(&node, &postgres, "t1|success|t\nt2|success|t");
    node.published();
    node.monitor.take().expect("a monitor").stop();
    for suffix in ["-wal", "-shm"] {
        let _ = fs::remove_file(node.world.path(&format!("state/bookend/bookend.db{suffix}")));
    }
    fs::rename(&backup, node.world.ledger()).expect("the backup in place of the ledger");
    node.start_monitor(&[]);
    node.monitor().service.until("older than what it published");
    assert_eq!(tasks(&postgres), "t1|success|t\nt2|success|t");
    // The steps of the hint.
    let errors = node.monitor.take().expect("a monitor").stop().stderr;
    let hint = errors.split_once("hint: stop the monitor, run `").and_then(|(_, rest)| rest.split_once('`'));
    let (command, rest) = hint.unwrap_or_else(|| panic!("{errors}"));
    assert!(rest.starts_with(", and start the monitor again"), "{errors}");
    let joined = node.world.bare(["sh", "-c", command]).env("PGPASSFILE", node.password_file());
    joined.run().ended(End::Code(0));
    node.start_monitor(&[]);
    node.monitor().service.until("publishing to");
    succeed(&node, "t3");
    until_tasks(&node, &postgres, "t1|success|t\nt2|success|t\nt3|success|t");
}

#[test]
fn a_running_row_that_the_ledger_does_not_know_is_interrupted() {
    let Some(postgres) = fleet("a_running_row_that_the_ledger_does_not_know_is_interrupted") else { return };
    let mut node = Node::start(&postgres, "a");
    let mut up = node.world.fifo("up");
    let running = run(&node, "t", &format!("echo up >'{}'; exec sleep 1000", up.path())).start();
    up.line();
    until_tasks(&node, &postgres, "t|running|f");
    node.published();
    node.kill_monitor();
    node.world.write("DELETE FROM task_history");
    node.start_monitor(&[]);
    until_tasks(&node, &postgres, "t|interrupted|f");
    assert_eq!(
        postgres.psql("SELECT reason, end_source FROM bookend.task_history"),
        "unknown_to_ledger|lease"
    );
    running.signal(Signal::TERM);
    running.wait();
}

#[test]
fn a_node_that_was_declared_lost_ends_its_keyed_runs_and_publishes_their_ends_as_late() {
    let test = "a_node_that_was_declared_lost_ends_its_keyed_runs_and_publishes_their_ends_as_late";
    let Some(postgres) = fleet(test) else { return };
    let mut node = Node::join(&postgres, "a");
    node.bookend(&["fleet", "leave"]).ended(End::Code(0));
    let mut up = node.world.fifo("up");
    let script = format!("echo up >'{}'; exec sleep 1000", up.path());
    let keyed = node.keyed("k", &script).options(["--id", "keyed"]).start();
    up.line();
    let other = run(&node, "other", &script).start();
    up.line();
    node.rejoin(&postgres, "bookend_a", &[]);
    node.start_monitor(&[]);
    until_tasks(&node, &postgres, "keyed|running|f\nother|running|f");
    node.monitor().service.until("publishing to");
    // Each renewal changes the number.
    let lost =
        "SELECT bookend.declare_lost(id, epoch, seq)->>'state' FROM bookend.node_state WHERE state <> 'left'";
    eventually(node.world.deadline(), "a node that is lost", || postgres.psql(lost) == "lost");
    keyed.wait();
    let late = "SELECT status, reason, late->>'status' FROM bookend.task_history WHERE id = 'keyed'";
    let wanted = "interrupted|host_lost|cancelled";
    eventually(node.world.deadline(), wanted, || postgres.psql(late) == wanted);
    assert_eq!(
        node.world.sql("SELECT status FROM task_history WHERE id = 'other'")[0].text("status"),
        "running"
    );
    assert_eq!(postgres.psql("SELECT epoch FROM bookend.node_state WHERE state = 'reachable'"), "2");
    let errors = node.monitor().errors();
    assert!(
        errors.contains("this host was declared lost, and its keys were released: task keyed"),
        "{errors}"
    );
    other.signal(Signal::TERM);
    other.wait();
}

#[test]
#[ignore = "measures: run it alone on an idle machine"]
fn fifty_runs_a_second_are_published_within_a_second() {
    let Some(postgres) = fleet("fifty_runs_a_second_are_published_within_a_second") else { return };
    let node = Node::start(&postgres, "a");
    let began = std::time::Instant::now();
    let started: Vec<_> = (0..300)
        .map(|n| {
            let due = began + std::time::Duration::from_millis(20) * n;
            std::thread::sleep(due.saturating_duration_since(std::time::Instant::now()));
            node.world.run(["true"]).start()
        })
        .collect();
    let rate = 300.0 / began.elapsed().as_secs_f64();
    started.into_iter().for_each(|run| drop(run.wait().ended(End::Code(0))));
    node.published();
    let sql = "SELECT percentile_disc(ARRAY[0.5, 0.99, 1]) WITHIN GROUP (ORDER BY
        extract(epoch FROM published_at - finished_at) * 1000) FROM bookend.task_history";
    let delays = postgres.psql(sql);
    println!("{rate:.1} runs a second; from the end to PostgreSQL, ms (p50, p99, max): {delays}");
    let p99: f64 = delays.trim_matches(['{', '}']).split(',').nth(1).expect("p99").parse().expect("a number");
    assert!(p99 < 1000.0, "{delays}");
}

#[test]
fn a_row_that_postgresql_does_not_accept_holds_up_no_other() {
    let Some(postgres) = fleet("a_row_that_postgresql_does_not_accept_holds_up_no_other") else { return };
    let mut node = Node::join(&postgres, "a");
    succeed(&node, "t1");
    succeed(&node, "t2");
    node.world
        .write("UPDATE task_history SET started_at = 'noon', error = 'a' || char(0) || 'b' WHERE id = 't1'");
    node.start_monitor(&[]);
    until_tasks(&node, &postgres, "t1|success|t\nt2|success|t");
    let sql = "SELECT extract(epoch FROM started_at)::int, error FROM bookend.task_history WHERE id = 't1'";
    assert_eq!(postgres.psql(sql), "0|a\u{fffd}b");
}

#[test]
#[cfg(feature = "failpoints")]
fn a_monitor_that_is_killed_at_any_point_of_the_hub_publishes_everything_once() {
    let test = "a_monitor_that_is_killed_at_any_point_of_the_hub_publishes_everything_once";
    let Some(postgres) = fleet(test) else { return };
    let mut node = Node::join(&postgres, "a");
    let mut published = String::new();
    for (n, point) in
        ["hub.registered", "hub.sent", "hub.reconciling", "hub.draining"].into_iter().enumerate()
    {
        node.world.renew_deadline();
        succeed(&node, &format!("t{n}"));
        node.spawn_monitor(&[("BOOKEND_FAILPOINT", &format!("{point}:kill"))]);
        let killed = node.monitor.take().expect("a monitor");
        if point == "hub.draining" {
            killed.service.until("publishing to");
            killed.signal(Signal::TERM);
        }
        killed.wait().ended(End::Signal(9));
        if point == "hub.sent" {
            published = times(&postgres);
            assert_eq!(published.lines().count(), n + 1);
        }
        node.start_monitor(&[]);
        node.monitor().service.until("publishing to");
        node.published();
        if point == "hub.sent" {
            assert_eq!(times(&postgres), published, "what was sent before is not stored again");
        }
        node.monitor.take().expect("a monitor").stop();
    }
    let all = (0..4).map(|n| format!("t{n}|success|t")).collect::<Vec<_>>().join("\n");
    assert_eq!(tasks(&postgres), all);
}

#[cfg(feature = "failpoints")]
fn times(postgres: &Postgres) -> String {
    postgres.psql("SELECT id, rev, published_at FROM bookend.task_history ORDER BY id")
}

#[test]
#[cfg(feature = "failpoints")]
fn a_hub_that_panics_is_started_again() {
    let Some(postgres) = fleet("a_hub_that_panics_is_started_again") else { return };
    let mut node = Node::join(&postgres, "a");
    node.start_monitor(&[("BOOKEND_FAILPOINT", "hub.reconciling:panic")]);
    node.monitor().service.until("publishing to");
    assert!(node.monitor().errors().contains("the hub of the fleet failed; it is started again"));
    succeed(&node, "t");
    until_tasks(&node, &postgres, "t|success|t");
}
