//! A fleet beside a ledger without one: runs under a key, many clients on few keys, many waiting runs, how
//! soon rows are published, and `list` of a long history. Everything on one machine, with fsync.

use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::Bench;
use crate::figure::{Figure, Measured, Spread};
use crate::harness::{Deadline, Monitor, World, eventually, pause, stat_field};
use crate::measure::{
    ROUNDS, assert_success, bookend, command, installed, rounds_in_turns, runs_in_turns, time,
};
use crate::postgres::Postgres;
use crate::sql_session::SqlSession;

const NEEDS: &str = "postgresql, pgbouncer, openssl";
const KEYED: [&str; 6] = ["bookend", "run", "--key", "k", "--", "true"];
const CLIENTS: usize = 64;
const KEYS: usize = 5;
const RUNS_A_SECOND: u64 = 50;
/// The connections of two monitors: each has one for calls, and one on which it listens.
const CONNECTIONS: f64 = 4.0;

pub fn measure(bench: &Bench) -> Vec<Figure> {
    let Some(postgres) = Postgres::with_schema("the bench of the fleet") else {
        return vec![Figure::not_measured("a keyed run in a fleet", "without a fleet", Some(1.4), NEEDS)];
    };
    let (here, there) = (Member::join(bench, &postgres, "here"), Member::join(bench, &postgres, "there"));
    let mut figures = vec![keyed_run(bench, &here)];
    figures.push(backends(bench, &postgres, &here, &there));
    figures.push(publication(bench, &postgres, &here));
    figures.extend(contention(bench));
    figures.extend(lists(bench));
    figures
}

/// A ledger of the fleet, with its monitor.
struct Member {
    world: World,
    passwords: PathBuf,
    _monitor: Monitor,
}

impl Member {
    fn join(bench: &Bench, postgres: &Postgres, name: &str) -> Member {
        let world = bench.world();
        world.install(&bookend());
        let (role, passwords) = (format!("bookend_{name}"), postgres.password_file());
        postgres.role(&role, &["bookend_host"]);
        let url = postgres.database_url(&role);
        time(command(&world, &["bookend", "fleet", "join", &url]).env("PGPASSFILE", &passwords));
        let environment = [("PGPASSFILE", passwords.to_str().expect("UTF-8"))];
        let monitor = Monitor::start_with(&world, &[], &environment, &[]);
        monitor.service.until("publishing to");
        Member { world, passwords, _monitor: monitor }
    }

    /// A command of this ledger that speaks with the database itself.
    fn command(&self, argv: &[&str]) -> Command {
        let mut command = command(&self.world, argv);
        command.env("PGPASSFILE", &self.passwords);
        command
    }
}

fn keyed_run(bench: &Bench, here: &Member) -> Figure {
    let alone = bench.world();
    time(&mut command(&alone, &KEYED));
    time(&mut command(&here.world, &KEYED));
    let (ours, theirs) = (|| installed(&here.world, &KEYED), || installed(&alone, &KEYED));
    let pairs = rounds_in_turns(bench.pairs(200, 40), ours, theirs, time);
    Figure::new(
        "a keyed run in a fleet",
        "without a fleet",
        Some(1.4),
        Measured::beside("ms", &pairs, ROUNDS),
    )
}

/// Many runs of one host wait for a key that the other one holds.
fn backends(bench: &Bench, postgres: &Postgres, here: &Member, there: &Member) -> Figure {
    let waiting = if bench.quick { 100 } else { 500 };
    let holder = ["bookend", "run", "--key", "held", "--", "sleep", "100000"];
    let holder = Ending(here.command(&holder).spawn().expect("a run"));
    eventually(Deadline::new(), "the holder's claim", || claims(postgres, "held") == "1");
    let start = |_| {
        let words = ["bookend", "run", "-q", "--key", "held", "--wait", "--", "true"];
        Ending(there.command(&words).spawn().expect("a run"))
    };
    let runs: Vec<Ending> = (0..waiting).map(start).collect();
    let is_asleep = |run: &Ending| stat_field(run.0.id() as i32, 3).as_deref() == Some("S");
    let patience = Deadline::within(Duration::from_secs(120));
    eventually(patience, "all runs to wait", || {
        postgres.psql("SELECT count(*) FROM bookend.waiter WHERE key = 'held'") == "1"
            && runs.iter().all(is_asleep)
    });
    pause(Duration::from_secs(1));
    let count = "SELECT count(*) FROM pg_stat_activity WHERE usename LIKE 'bookend_%'";
    let backends = postgres.psql(count).parse().expect("a number");
    drop(runs);
    drop(holder);
    let what = format!("connections to PostgreSQL, {waiting} runs wait for a key");
    Figure::new(&what, "", Some(CONNECTIONS), Measured::alone("", &[backends]))
}

fn claims(postgres: &Postgres, key: &str) -> String {
    postgres.psql(&format!("SELECT count(*) FROM bookend.claim WHERE key = '{key}'"))
}

/// A process that is killed when this is dropped.
struct Ending(Child);

impl Drop for Ending {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// From the end of a run to its row in the database, by the clock that both have.
fn publication(bench: &Bench, postgres: &Postgres, here: &Member) -> Figure {
    let seconds = if bench.quick { 5 } else { 20 };
    let began = Instant::now();
    let mut runs: Vec<Child> = Vec::new();
    for n in 0..seconds * RUNS_A_SECOND {
        let due = Duration::from_millis(n * 1_000 / RUNS_A_SECOND);
        pause(due.saturating_sub(began.elapsed()));
        let id = format!("published-{n}");
        runs.push(here.command(&["bookend", "run", "--id", &id, "--", "true"]).spawn().expect("a run"));
    }
    for run in &mut runs {
        assert!(run.wait().expect("its status").success(), "a run failed");
    }
    let took = began.elapsed().as_secs_f64();
    let ended = "FROM bookend.task_history WHERE id LIKE 'published-%' AND status = 'success'";
    eventually(Deadline::new(), "all rows to be published", || {
        postgres.psql(&format!("SELECT count(*) {ended}")) == runs.len().to_string()
    });
    let part = |part: f64| -> f64 {
        let delay = "1000 * extract(epoch FROM published_at - finished_at)";
        let sql = format!("SELECT percentile_cont({part}) WITHIN GROUP (ORDER BY {delay}) {ended}");
        postgres.psql(&sql).parse().expect("milliseconds")
    };
    let spread = Spread { min: part(0.0), median: part(0.99), max: part(1.0) };
    let measured = Measured { unit: "ms", ours: spread.median, theirs: None, spread };
    let rate = runs.len() as f64 / took;
    Figure::new(&format!("a row published, {rate:.0} runs a second, p99"), "", Some(1_000.0), measured)
}

/// Many nodes take and release few keys.
fn contention(bench: &Bench) -> [Figure; 2] {
    let time = Duration::from_secs(if bench.quick { 2 } else { 10 });
    let postgres = Postgres::with_schema("the bench of the fleet").expect("a server");
    postgres.role("bookend_all", &["bookend_host"]);
    let clients: Vec<Client> = (0..CLIENTS).map(|n| Client::register(&postgres, n)).collect();
    let is_held: [AtomicBool; KEYS] = Default::default();
    let [attempts, overlaps] = [const { AtomicUsize::new(0) }; 2];
    let began = Instant::now();
    std::thread::scope(|scope| {
        for (n, client) in clients.into_iter().enumerate() {
            let (is_held, attempts, overlaps) = (&is_held, &attempts, &overlaps);
            scope.spawn(move || {
                let rounds = (n..).take_while(|_| began.elapsed() < time);
                for key in rounds.map(|round| round % KEYS) {
                    attempts.fetch_add(1, Ordering::Relaxed);
                    if client.take(key) {
                        let before = is_held[key].swap(true, Ordering::SeqCst);
                        std::thread::yield_now();
                        let after = is_held[key].swap(false, Ordering::SeqCst);
                        overlaps.fetch_add(usize::from(before || !after), Ordering::Relaxed);
                        client.release(key);
                    }
                }
            });
        }
    });
    let took = began.elapsed().as_secs_f64() * 1e3;
    let each = took / attempts.into_inner() as f64;
    let what = |what| format!("{what}, {CLIENTS} clients on {KEYS} keys");
    let overlaps = overlaps.into_inner() as f64;
    [
        Figure::new(&what("an attempt to take a key"), "", Some(1.0), Measured::alone("ms", &[each])),
        Figure::new(&what("keys held twice"), "", Some(0.0), Measured::alone("", &[overlaps])),
    ]
}

/// A node that calls the functions itself.
struct Client {
    session: SqlSession,
    node: Uuid,
    task: String,
}

impl Client {
    fn register(postgres: &Postgres, number: usize) -> Client {
        let session = postgres.session("bookend_all");
        let (node, instance) = (Uuid::new_v4(), Uuid::new_v4());
        let facts = serde_json::json!({
            "schema": 1, "version": "1.0.0", "host": format!("h{number}"), "machine_id": "machine",
            "ledger_id": "ledger", "boot_id": "boot", "ledger_file": "8:1",
        });
        let answer =
            session.json(&format!("SELECT bookend.register('{node}', '{facts}', '{instance}', NULL)"));
        assert_eq!(answer["state"], "ok", "{answer}");
        Client { session, node, task: format!("t{number}") }
    }

    fn take(&self, key: usize) -> bool {
        let Client { node, task, .. } = self;
        let sql = format!("SELECT bookend.take('{node}', 1, 'k{key}', '{task}', 0, false)");
        self.session.json(&sql)["state"] == "granted"
    }

    fn release(&self, key: usize) {
        let Client { node, task, .. } = self;
        self.session.json(&format!("SELECT bookend.release('{node}', 1, 'k{key}', '{task}')"));
    }
}

/// Commands that read the whole fleet, beside the same command in a fleet with a thousand tasks.
fn lists(bench: &Bench) -> Vec<Figure> {
    const QUERIES: [&[&str]; 2] = [&["list"], &["list", "--status", "failure"]];
    let start = || Postgres::with_schema("the bench of the fleet").expect("a server");
    let (small, large) = (start(), start());
    fill(&small, 1_000);
    fill(&large, if bench.quick { 100_000 } else { 1_000_000 });
    let world = bench.world();
    let query = |words: &&[&str]| {
        let of = |postgres: &Postgres| {
            let url = postgres.database_url(crate::postgres::SUPERUSER);
            let mut command = command(&world, &[&["bookend", "--ledger", &url], *words].concat());
            command.env("PGPASSFILE", postgres.password_file());
            command
        };
        let output = of(&large).stdout(std::process::Stdio::piped()).output().expect("bookend");
        assert_success(&of(&large), output.status);
        assert!(String::from_utf8_lossy(&output.stdout).contains("here"), "{output:?}");
        let pairs = runs_in_turns(bench.pairs(30, 10), &mut of(&large), &mut of(&small));
        let what = format!("`{}` of a fleet, {} tasks", words.join(" "), bench.long_history());
        Figure::new(&what, "1,000 tasks", Some(3.0), Measured::beside("ms", &pairs, 5))
    };
    QUERIES.iter().map(query).collect()
}

/// Adds `rows` ended tasks of one node, as `history::fill` does to a ledger.
fn fill(postgres: &Postgres, rows: u32) {
    let node = Uuid::new_v4();
    postgres.psql(&format!(
        "INSERT INTO bookend.node (id, host, role) VALUES ('{node}', 'here', 'postgres');
         INSERT INTO bookend.lease (node) VALUES ('{node}');
         INSERT INTO bookend.task_history (id, key, repo, issue_number, agent, agent_type, provider, status,
             reason, started_at, finished_at, duration_ms, cost_usd, turns, input_tokens, output_tokens,
             session_id, cwd, live_slot, boot_id, host, end_source, last_seen_at, cleanup_after, node, epoch,
             rev, published_at)
         SELECT '01900000-' || lpad(i::text, 8, '0'), format('forgejo:dev:repo-%s:%s', i % 50, i % 5000),
             format('repo-%s', i % 50), i % 5000, CASE i % 3 WHEN 0 THEN 'dev' ELSE 'review' END, 'claude',
             'anthropic', CASE i % 10 WHEN 0 THEN 'failure' ELSE 'success' END,
             CASE i % 10 WHEN 0 THEN 'exit' END, to_timestamp(1700000000 + i * 30),
             to_timestamp(1700000020 + i * 30), 20000, 0.25, 7, 1000, 200, format('session-%s', i),
             '/srv/work', i, 'boot', 'here', 'wait', to_timestamp(1700000020 + i * 30),
             '2100-01-01T00:00:00.000Z', '{node}', 1, i, now()
         FROM generate_series(1, {rows}) i"
    ));
    postgres.psql("ANALYZE");
}
