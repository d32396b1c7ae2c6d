//! A key is held by one run in the whole fleet.

use rustix::process::Signal;

use crate::harness::{End, Fifo, Proc, eventually};
use crate::node::{Node, claims, fleet};
use crate::postgres::{Postgres, SUPERUSER};

/// A task that holds the key `k` until `go` receives a line.
pub struct Holder {
    process: Proc,
    go: Fifo,
}

impl Holder {
    pub fn start(node: &Node, id: &str) -> Holder {
        let (mut up, go) = (node.world.fifo(&format!("up {id}")), node.world.fifo(&format!("go {id}")));
        let script = format!("echo up >'{}'; read x <'{}'", up.path(), go.path());
        let process = node.keyed("k", &script).options(["--id", id]).start();
        up.line();
        Holder { process, go }
    }

    pub fn end(mut self) {
        self.go.write_line("on");
        self.process.wait().ended(End::Code(0)).silent();
    }
}

/// Waits until the monitor has taken the requests of so many runs that wait.
pub fn until_asked(node: &Node, runs: usize) {
    let socket = node.world.name("state/bookend/bookend.db.d/fleet.sock");
    eventually(node.world.deadline(), "runs that have connected", || {
        let sockets = std::fs::read_to_string("/proc/net/unix").expect("the sockets");
        sockets.lines().filter(|line| line.ends_with(&socket)).count() > runs
    });
    // It is served after them.
    node.keyed("another", "true").run().ended(End::Code(0)).silent();
}

pub fn until_claims(node: &Node, postgres: &Postgres, expected: &str) {
    let what = format!("the claims {expected:?}");
    eventually(node.world.deadline(), &what, || claims(postgres) == expected);
}

#[test]
fn a_key_that_passes_to_the_next_run_while_the_database_is_away_stays_held() {
    let test = "a_key_that_passes_to_the_next_run_while_the_database_is_away_stays_held";
    let Some(postgres) = fleet(test) else { return };
    let a = Node::start(&postgres, "a");
    let holder = Holder::start(&a, "t1");
    let (mut up, mut go) = (a.world.fifo("up t2"), a.world.fifo("go t2"));
    let script = format!("echo up >'{}'; read x <'{}'", up.path(), go.path());
    let next = a.keyed("k", &script).options(["--wait", "--id", "t2"]).start();
    until_asked(&a, 1);
    let claim = "SELECT no FROM bookend.claim WHERE key = 'k'";
    let before = postgres.psql(claim);
    postgres.stop();
    holder.end();
    up.line();
    postgres.start_again();
    let names = "SELECT task_id FROM bookend.claim WHERE key = 'k'";
    eventually(a.world.deadline(), "a claim that names the next task", || postgres.psql(names) == "t2");
    a.published();
    assert_eq!(postgres.psql(claim), before, "the key was free for a moment");
    go.write_line("on");
    next.wait().ended(End::Code(0));
}

#[test]
fn a_monitor_that_is_ready_and_a_join_beside_it_have_a_socket() {
    let Some(postgres) = fleet("a_monitor_that_is_ready_and_a_join_beside_it_have_a_socket") else { return };
    let mut node = Node::join(&postgres, "a");
    let socket = node.world.path("state/bookend/bookend.db.d/fleet.sock");
    let connects = || std::os::unix::net::UnixStream::connect(&socket).is_ok();
    node.start_monitor(&[]);
    assert!(connects(), "it is ready without a socket");
    node.keyed("k", "true").run().ended(End::Code(0)).silent();
    node.monitor().service.until("publishing to");
    node.published();
    node.bookend(&["fleet", "leave"]).ended(End::Code(0));
    eventually(node.world.deadline(), "the end of the hub", || !socket.exists());
    node.rejoin(&postgres, "bookend_a", &[]);
    assert!(connects(), "it joined without a socket");
    node.keyed("k", "true").run().ended(End::Code(0)).silent();
    node.monitor.take().expect("a monitor").stop();
    assert!(!socket.exists());
}

#[test]
fn a_key_is_held_by_one_run_of_all_hosts() {
    let Some(postgres) = fleet("a_key_is_held_by_one_run_of_all_hosts") else { return };
    let (a, b) = (Node::start(&postgres, "a"), Node::start(&postgres, "b"));
    let holder = Holder::start(&a, "t1");
    let effect = b.world.name("effect");
    let refused = b.keyed("k", &format!("touch '{effect}'")).run().ended(End::Code(75));
    let since = a.world.row().text("started_at");
    for part in
        ["the key k is held by task t1 on host ", &since[..16], "--wait", "--replace", "nothing was executed"]
    {
        assert!(refused.stderr.contains(part), "{part:?} in {}", refused.stderr);
    }
    assert!(!b.world.path("effect").exists(), "the agent ran");
    assert!(!b.world.ledger().exists() || b.world.rows().is_empty(), "the refused run has no row");
    b.keyed("other", "true").run().ended(End::Code(0)).silent();
    // The own host's rules are as without a fleet.
    let refused = a.keyed("k", "true").run().ended(End::Code(75));
    assert!(refused.stderr.contains("held by task t1 (pid "), "{}", refused.stderr);
    assert_eq!(claims(&postgres).lines().next(), Some("k|t1"));
    holder.end();
    until_claims(&b, &postgres, "");
    b.keyed("k", "true").run().ended(End::Code(0)).silent();
}

#[test]
fn the_claim_names_the_task_that_runs() {
    let Some(postgres) = fleet("the_claim_names_the_task_that_runs") else { return };
    let (a, b) = (Node::start(&postgres, "a"), Node::start(&postgres, "b"));
    postgres.psql(
        "CREATE TABLE public.named (n serial, task_id text);
         CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN INSERT INTO public.named (task_id) VALUES (NEW.task_id); RETURN NULL; END $$;
         CREATE TRIGGER note AFTER INSERT OR UPDATE ON bookend.claim
         FOR EACH ROW WHEN (NEW.key = 'k') EXECUTE FUNCTION public.note();",
    );
    let named = || postgres.psql("SELECT string_agg(task_id, ' ' ORDER BY n) FROM public.named");
    let holder = Holder::start(&a, "t1");
    let waiting = a.keyed("k", "exit 0").options(["--wait", "--id", "t2"]).start();
    until_asked(&a, 1);
    a.keyed("k", "true").options(["--id", "t3"]).run().ended(End::Code(75));
    let refused = b.keyed("k", "true").run().ended(End::Code(75));
    assert!(refused.stderr.contains("held by task t1 on host "), "{}", refused.stderr);
    b.bookend(&["show", "t1"]).ended(End::Code(0)).silent();
    assert_eq!(named(), "t1");
    holder.end();
    waiting.wait().ended(End::Code(0)).silent();
    until_claims(&a, &postgres, "");
    assert!(["t1", "t1 t2"].contains(&named().as_str()), "{}", named());
}

#[test]
fn runs_in_a_row_on_one_host_never_refuse_each_other() {
    let Some(postgres) = fleet("runs_in_a_row_on_one_host_never_refuse_each_other") else { return };
    let mut a = Node::start(&postgres, "a");
    for _ in 0..100 {
        a.world.renew_deadline();
        a.keyed("k", "true").run().ended(End::Code(0)).silent();
    }
    assert_eq!(a.world.rows().len(), 100);
    until_claims(&a, &postgres, "");
}

#[test]
fn a_waiting_run_starts_on_another_host_when_the_holder_has_ended() {
    let test = "a_waiting_run_starts_on_another_host_when_the_holder_has_ended";
    let Some(postgres) = fleet(test) else { return };
    let (a, b) = (Node::start(&postgres, "a"), Node::start(&postgres, "b"));
    let holder = Holder::start(&a, "t1");
    let waiting = b.keyed("k", "true").options(["--wait", "--id", "t2"]).start();
    eventually(b.world.deadline(), "a waiter", || {
        postgres.psql("SELECT key, task_id FROM bookend.waiter") == "k|t2"
    });
    holder.end();
    let output = waiting.wait().ended(End::Code(0));
    assert!(output.stderr.contains("waiting for task t1 on host "), "{}", output.stderr);
    until_claims(&b, &postgres, "");
    assert_eq!(postgres.psql("SELECT count(*) FROM bookend.waiter"), "0");
}

#[test]
fn a_run_waits_on_although_the_server_has_cancelled_its_request() {
    let test = "a_run_waits_on_although_the_server_has_cancelled_its_request";
    let Some(postgres) = Postgres::with_schema(test) else { return };
    let a = Node::start(&postgres, "a");
    let other = postgres.session(SUPERUSER);
    other.query("BEGIN; LOCK TABLE bookend.claim IN SHARE MODE").expect("a lock");
    let waiting = a.keyed("k", "true").options(["--wait"]).start();
    eventually(a.world.deadline(), "a request that waits for the lock", || {
        let cancelled = "SELECT count(pg_cancel_backend(pid)) FROM pg_locks
                         WHERE NOT granted AND relation = 'bookend.claim'::regclass";
        postgres.psql(cancelled) == "1"
    });
    other.query("ROLLBACK").expect("no lock");
    let output = waiting.wait().ended(End::Code(0));
    assert!(output.stderr.contains("canceling statement due to user request"), "{}", output.stderr);
    until_claims(&a, &postgres, "");
}

#[test]
fn a_run_that_stops_waiting_leaves_no_waiter() {
    let Some(postgres) = fleet("a_run_that_stops_waiting_leaves_no_waiter") else { return };
    let (a, b) = (Node::start(&postgres, "a"), Node::start(&postgres, "b"));
    let holder = Holder::start(&a, "t1");
    let waiting = b.keyed("k", "true").options(["--wait"]).start();
    let waiters = || postgres.psql("SELECT count(*) FROM bookend.waiter");
    eventually(b.world.deadline(), "a waiter", || waiters() == "1");
    waiting.signal(Signal::TERM);
    waiting.wait().ended(End::Signal(15));
    eventually(b.world.deadline(), "no waiter", || waiters() == "0");
    holder.end();
}

#[test]
#[cfg(feature = "failpoints")]
fn a_run_that_is_killed_after_the_grant_leaves_no_claim() {
    let Some(postgres) = fleet("a_run_that_is_killed_after_the_grant_leaves_no_claim") else { return };
    let a = Node::start(&postgres, "a");
    for point in ["run.granted", "claim.inserted", "claim.committed"] {
        let run = a.keyed("k", "true").env("BOOKEND_FAILPOINT", format!("{point}:kill"));
        assert_eq!(run.run().end, End::Signal(9), "{point}");
        until_claims(&a, &postgres, "");
    }
}

#[test]
#[cfg(feature = "failpoints")]
fn a_monitor_that_is_killed_after_the_grant_leaves_no_claim_and_starts_nothing_twice() {
    let test = "a_monitor_that_is_killed_after_the_grant_leaves_no_claim_and_starts_nothing_twice";
    let Some(postgres) = fleet(test) else { return };
    let mut a = Node::join(&postgres, "a");
    a.start_monitor(&[("BOOKEND_FAILPOINT", "hub.taken:kill")]);
    a.monitor().service.until("publishing to");
    let run = a.keyed("k", "echo ran >>../ran").options(["--fleet-timeout", "60s"]).start();
    eventually(a.world.deadline(), "the end of the monitor", || a.monitor().has_exited());
    a.start_monitor(&[]);
    run.wait().ended(End::Code(0)).silent();
    assert_eq!(std::fs::read_to_string(a.world.path("ran")).expect("the agent ran"), "ran\n");
    until_claims(&a, &postgres, "");
}

#[test]
#[cfg(feature = "failpoints")]
fn a_monitor_that_is_killed_at_a_release_releases_the_key_when_it_starts_again() {
    let test = "a_monitor_that_is_killed_at_a_release_releases_the_key_when_it_starts_again";
    let Some(postgres) = fleet(test) else { return };
    let (mut a, b) = (Node::join(&postgres, "a"), Node::start(&postgres, "b"));
    a.start_monitor(&[("BOOKEND_FAILPOINT", "hub.releasing:kill")]);
    a.monitor().service.until("publishing to");
    let run = a.keyed("k", "true").options(["--id", "t"]).env("BOOKEND_FAILPOINT", "run.granted:kill").run();
    assert_eq!(run.end, End::Signal(9));
    eventually(a.world.deadline(), "the end of the monitor", || a.monitor().has_exited());
    assert_eq!(claims(&postgres), "k|t");
    b.keyed("k", "true").run().ended(End::Code(75));
    a.start_monitor(&[]);
    until_claims(&a, &postgres, "");
    b.keyed("k", "true").run().ended(End::Code(0)).silent();
}

#[test]
fn a_key_whose_host_is_unreachable_stays_busy_and_the_message_says_so() {
    let test = "a_key_whose_host_is_unreachable_stays_busy_and_the_message_says_so";
    let Some(postgres) = fleet(test) else { return };
    let (mut a, b) = (Node::start(&postgres, "a"), Node::start(&postgres, "b"));
    let holder = Holder::start(&a, "t1");
    a.kill_monitor();
    eventually(b.world.deadline(), "a host that is unreachable", || {
        let refused = b.keyed("k", "true").run().ended(End::Code(75));
        let says = |part| refused.stderr.contains(part);
        says(", unreachable since 20")
            && says("the key is free when its host is back")
            && says("declare-lost")
    });
    holder.end();
    b.keyed("k", "true").run().ended(End::Code(75));
    a.start_monitor(&[]);
    until_claims(&a, &postgres, "");
}

#[test]
fn a_monitor_that_starts_again_keeps_the_keys_of_tasks_and_releases_others() {
    let test = "a_monitor_that_starts_again_keeps_the_keys_of_tasks_and_releases_others";
    let Some(postgres) = fleet(test) else { return };
    let (mut a, b) = (Node::start(&postgres, "a"), Node::start(&postgres, "b"));
    let holder = Holder::start(&a, "t1");
    a.kill_monitor();
    // What a monitor leaves that dies at the wrong moment.
    let node = postgres.psql("SELECT node FROM bookend.claim");
    postgres.psql("UPDATE bookend.claim SET task_id = 'refused'");
    postgres.psql(&format!(
        "INSERT INTO bookend.claim (key, task_id, node, epoch) VALUES ('x', 'died', '{node}', 1)"
    ));
    b.keyed("k", "true").run().ended(End::Code(75));
    a.start_monitor(&[]);
    until_claims(&a, &postgres, "k|t1");
    b.keyed("k", "true").run().ended(End::Code(75));
    b.keyed("x", "true").run().ended(End::Code(0)).silent();
    holder.end();
    until_claims(&a, &postgres, "");
}

#[test]
fn without_the_database_a_keyed_run_is_refused_and_another_starts() {
    let test = "without_the_database_a_keyed_run_is_refused_and_another_starts";
    let Some(postgres) = fleet(test) else { return };
    let a = Node::start(&postgres, "a");
    let holder = Holder::start(&a, "t1");
    postgres.stop();
    a.monitor().service.until("not reachable");
    let refused = a.keyed("k2", "true").run().ended(End::Code(125));
    assert!(refused.stderr.contains("not reachable"), "{}", refused.stderr);
    a.world.run(["true"]).run().ended(End::Code(0)).silent();
    let waiting = a.keyed("k2", "true").options(["--wait"]).start();
    holder.end();
    postgres.start_again();
    waiting.wait().ended(End::Code(0));
    until_claims(&a, &postgres, "");
}

#[test]
fn without_a_monitor_a_keyed_run_executes_nothing() {
    let Some(postgres) = fleet("without_a_monitor_a_keyed_run_executes_nothing") else { return };
    let a = Node::join(&postgres, "a");
    let refused = a.keyed("k", "touch ../effect").run().ended(End::Code(125));
    assert!(refused.stderr.contains("no monitor of the ledger"), "{}", refused.stderr);
    assert!(!a.world.path("effect").exists(), "the agent ran");
    a.world.run(["true"]).run().ended(End::Code(0)).silent();
}

#[test]
fn a_stopped_monitor_leaves_no_claim_of_a_run_that_gave_up() {
    let Some(postgres) = fleet("a_stopped_monitor_leaves_no_claim_of_a_run_that_gave_up") else { return };
    let a = Node::start(&postgres, "a");
    a.monitor().signal(Signal::STOP);
    let refused = a.keyed("k", "touch ../effect").options(["--fleet-timeout", "300ms"]).run();
    let refused = refused.ended(End::Code(125));
    assert!(refused.stderr.contains("did not answer within 300ms"), "{}", refused.stderr);
    a.monitor().signal(Signal::CONT);
    a.keyed("k", "true").run().ended(End::Code(0)).silent();
    until_claims(&a, &postgres, "");
    assert!(!a.world.path("effect").exists(), "the agent ran");
}

#[test]
fn a_session_is_not_resumed_on_another_host() {
    let Some(postgres) = fleet("a_session_is_not_resumed_on_another_host") else { return };
    let (a, b) = (Node::start(&postgres, "a"), Node::start(&postgres, "b"));
    let claude = |node: &Node| {
        let run = node.world.run(["claude", "-p", "hi"]).options(["--key", "k"]).run();
        node.published();
        run.ended(End::Code(0))
    };
    let session = |node: &Node| node.world.sql("SELECT * FROM claude_sdk_sessions")[0].text("session_id");
    a.world.claude("exit 0");
    b.world.claude("exit 0");
    claude(&a).silent();
    let first = session(&a);
    let elsewhere = claude(&b);
    assert!(elsewhere.stderr.contains("last used on host"), "{}", elsewhere.stderr);
    assert_eq!(elsewhere.stderr.lines().count(), 1, "{}", elsewhere.stderr);
    claude(&b).silent();
    assert!(b.world.argvs()[1].contains("--resume"), "{:?}", b.world.argvs());
    let back = claude(&a);
    assert!(back.stderr.contains("starting fresh"), "{}", back.stderr);
    assert_ne!(session(&a), first);
    let invalidated = a.world.sql("SELECT * FROM session_invalidation");
    assert_eq!(
        (invalidated[0].text("session_id"), invalidated[0].text("reason")),
        (first, "elsewhere".to_owned())
    );
}

#[test]
fn a_process_of_another_user_cannot_ask() {
    let Some(postgres) = fleet("a_process_of_another_user_cannot_ask") else { return };
    if !crate::harness::possible("a_process_of_another_user_cannot_ask", crate::harness::is_root(), "root") {
        return;
    }
    let a = Node::start(&postgres, "a");
    let socket = a.world.name("state/bookend/bookend.db.d/fleet.sock");
    let script = "import socket, sys
s = socket.socket(socket.AF_UNIX)
try:
    s.connect(sys.argv[1])
except PermissionError:
    print('denied')
else:
    try:
        s.sendall(b'{\"take\":{}}\\n')
    except BrokenPipeError:
        pass
    print(s.recv(1000).decode())";
    let ask = || {
        let probe = a.world.bare(["python3", "-c", script, &socket]).with(["uid=65534"]).run();
        probe.ended(End::Code(0)).stdout
    };
    assert_eq!(ask(), "denied\n");
    // Also if the directories are open to others.
    for path in
        ["", "state", "state/bookend", "state/bookend/bookend.db.d", "state/bookend/bookend.db.d/fleet.sock"]
    {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(a.world.path(path), mode).expect("its mode");
    }
    assert!(ask().contains("belongs to another user"));
    assert_eq!(claims(&postgres), "");
}

/// Listens on the socket that its first argument names, and executes the rest as systemd does.
const ACTIVATE: &str = "import os, socket, sys
s = socket.socket(socket.AF_UNIX)
s.bind(sys.argv[1])
s.listen(16)
os.dup2(s.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1', LISTEN_FDNAMES='x')
print('listening', flush=True)
sys.stdin.readline()
os.execv(sys.argv[2], sys.argv[2:])";

#[test]
fn a_run_waits_at_a_socket_of_systemd_until_the_monitor_has_started() {
    let test = "a_run_waits_at_a_socket_of_systemd_until_the_monitor_has_started";
    let Some(postgres) = fleet(test) else { return };
    let a = Node::join(&postgres, "a");
    let socket = a.world.name("state/bookend/bookend.db.d/fleet.sock");
    let bookend = a.world.name("bin/bookend");
    let monitor = a.world.bare(["python3", "-c", ACTIVATE, &socket, &bookend, "monitor"]);
    let mut monitor = monitor.env("PGPASSFILE", postgres.password_file()).piped_input().start();
    assert_eq!(monitor.line(), "listening");
    let run = a.keyed("k", "true").options(["--fleet-timeout", "60s"]).start();
    eventually(a.world.deadline(), "a run that has connected", || {
        let connected = std::fs::read_to_string("/proc/net/unix").expect("the sockets");
        connected.lines().filter(|line| line.ends_with(&socket)).count() > 1
    });
    drop(monitor.stdin.take());
    run.wait().ended(End::Code(0)).silent();
    a.keyed("k", "true").run().ended(End::Code(0)).silent();
    monitor.signal(Signal::TERM);
    monitor.wait().ended(End::Signal(15));
    assert!(std::path::Path::new(&socket).exists(), "the socket is systemd's");
}

/// What an agent does: it notes when it comes and when it goes, by the same clock on both hosts.
const NOTE: &str = "import sys, time
came = time.monotonic_ns()
time.sleep(0.02)
open(sys.argv[1], 'a').write('%s %d %d\\n' % (sys.argv[2], came, time.monotonic_ns()))";

#[test]
fn runs_of_two_hosts_under_few_keys_never_overlap() {
    let Some(postgres) = fleet("runs_of_two_hosts_under_few_keys_never_overlap") else { return };
    let mut nodes = [Node::start(&postgres, "a"), Node::start(&postgres, "b")];
    let log = nodes[0].world.name("log");
    let mut started = 0;
    for round in 0..6 {
        nodes.iter_mut().for_each(|node| node.world.renew_deadline());
        let mut runs = Vec::new();
        for n in 0..8 {
            let node = &nodes[n % 2];
            let key = format!("k{}", (n / 2 + round) % 3);
            let run = node.world.run(["python3", "-c", NOTE, &log, &key]).options(["--key", &key]);
            let run = if n % 4 < 2 { run.options(["--wait"]) } else { run };
            runs.push(run.start());
        }
        for run in runs {
            let output = run.wait();
            assert!(matches!(output.end, End::Code(0 | 75)), "{output:?}");
            started += usize::from(output.end == End::Code(0));
        }
    }
    let text = std::fs::read_to_string(&log).expect("the notes");
    let mut notes: Vec<(&str, u64, u64)> = text.lines().map(note).collect();
    assert_eq!(notes.len(), started);
    assert!(started >= 24, "every run with --wait has started: {started}");
    notes.sort_unstable();
    for pair in notes.windows(2) {
        assert!(pair[0].0 != pair[1].0 || pair[0].2 <= pair[1].1, "two runs overlap: {pair:?}");
    }
    until_claims(&nodes[0], &postgres, "");
}

fn note(line: &str) -> (&str, u64, u64) {
    let words: Vec<&str> = line.split(' ').collect();
    (words[0], words[1].parse().expect("a time"), words[2].parse().expect("a time"))
}

#[test]
fn many_waiting_runs_need_no_further_connection() {
    let Some(postgres) = fleet("many_waiting_runs_need_no_further_connection") else { return };
    let (a, b) = (Node::start(&postgres, "a"), Node::start(&postgres, "b"));
    let holder = Holder::start(&a, "t1");
    let backends = || {
        postgres.psql("SELECT count(*) FROM pg_stat_activity WHERE usename LIKE 'bookend%'").parse::<u32>()
    };
    let before = backends().expect("a number");
    let waiting: Vec<Proc> =
        (0..30).map(|_| b.keyed("k", "echo ran >>../ran").options(["--wait"]).start()).collect();
    until_asked(&b, 30);
    assert_eq!(postgres.psql("SELECT count(*) FROM bookend.waiter"), "1");
    assert_eq!(backends().expect("a number"), before);
    holder.end();
    for run in waiting {
        let output = run.wait().ended(End::Code(0));
        let told: Vec<&str> = output.stderr.lines().collect();
        assert!(told.len() <= 1, "{told:?}");
        assert!(told.iter().all(|line| line.contains("waiting for task t1 on host ")), "{told:?}");
    }
    assert_eq!(std::fs::read_to_string(b.world.path("ran")).expect("the agents ran").lines().count(), 30);
    until_claims(&b, &postgres, "");
}
