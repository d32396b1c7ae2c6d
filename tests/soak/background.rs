//! The threads that run beside the agents: recoveries, readers, other programs that lock the ledger, and the
//! measurements.

use std::collections::BTreeMap;
use std::fs;
use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};

use super::Soak;
use super::long_lived::{Sample, Supervisor};
use super::runs::{IMPATIENCE, Run};
use crate::crash::agents::ON_INTERRUPTED;
use crate::crash::fault::{bookend, recovery};
use crate::crash::{is_quiet, monitor_options};
use crate::harness::{Deadline, End, Monitor, memory, open_files, pause};

const READ_COMMANDS: [&[&str]; 9] = [
    &["list", "--json", "--limit", "200"],
    &["audit", "--json"],
    &["show", "lasting-00", "--json"],
    &["stats", "--by", "agent", "--json"],
    &["list"],
    &["audit"],
    &["timeline"],
    &["stats"],
    &["session", "list", "--json"],
];

/// The ledger's WAL file.
pub const WAL: &str = "state/bookend/bookend.db-wal";
/// The time for which another program locks the ledger: longer than an impatient run waits.
pub const LOCK_DURATION: Duration = Duration::from_millis(3 * IMPATIENCE.as_millis() as u64);

/// The part of the duration in which another program keeps one read transaction open.
pub const LONG_READ: (f64, f64) = (0.4, 0.55);

/// From this part of the duration on, a monitor runs too.
const MONITORED_FROM: f64 = 0.5;
/// The time after the last run in which the monitor must settle and report everything.
const SETTLE_LIMIT: Duration = Duration::from_secs(60);

/// What the threads observed.
pub struct Observations {
    pub runs: Vec<Run>,
    pub supervisors: Vec<Supervisor>,
    /// The size of the WAL, with the elapsed part of the duration.
    pub wal: Vec<(f64, u64)>,
    /// The number of running supervisors at each sample.
    pub alive: Vec<usize>,
    /// The number of recoveries and the longest duration.
    pub recoveries: (usize, Duration),
    pub reads: BTreeMap<String, (usize, Duration)>,
    pub checks: usize,
    pub locks: usize,
}

impl Observations {
    /// The largest size of the WAL, in KiB, in a part of the duration.
    pub fn largest_wal_between(&self, from: f64, to: f64) -> u64 {
        let inside = self.wal.iter().filter(|(part, _)| (from..to).contains(part));
        inside.map(|(_, size)| size / 1024).max().unwrap_or_default()
    }
}

/// The samples of the WAL's size and of the number of supervisors.
type Counts = (Vec<(f64, u64)>, Vec<usize>);

pub struct Background<'scope> {
    supervisors: ScopedJoinHandle<'scope, Vec<Supervisor>>,
    counts: ScopedJoinHandle<'scope, Counts>,
    recoveries: ScopedJoinHandle<'scope, (usize, Duration)>,
    monitor: ScopedJoinHandle<'scope, Supervisor>,
    readers: Vec<ScopedJoinHandle<'scope, BTreeMap<String, (usize, Duration)>>>,
    checks: ScopedJoinHandle<'scope, usize>,
    locks: ScopedJoinHandle<'scope, usize>,
    long_read: ScopedJoinHandle<'scope, ()>,
}

pub fn start<'scope, 'env>(
    soak: &'scope Soak,
    scope: &'scope Scope<'scope, 'env>,
    supervisors: Vec<Supervisor>,
) -> Background<'scope> {
    Background {
        supervisors: scope.spawn(|| measure(soak, supervisors)),
        counts: scope.spawn(|| count(soak)),
        recoveries: scope.spawn(|| recover(soak)),
        monitor: scope.spawn(|| monitor(soak)),
        readers: (0..2).map(|n| scope.spawn(move || read(soak, n))).collect(),
        checks: scope.spawn(|| check(soak)),
        locks: scope.spawn(|| lock(soak)),
        long_read: scope.spawn(|| read_long(soak)),
    }
}

impl<'scope> Background<'scope> {
    /// Waits until all threads have ended.
    pub fn join(self, runs: Vec<Run>) -> Observations {
        self.long_read.join().expect("the long reader");
        let mut reads = BTreeMap::new();
        for reader in self.readers {
            for (words, (count, longest)) in reader.join().expect("a reader") {
                let so_far = reads.entry(words).or_insert((0, Duration::ZERO));
                *so_far = (so_far.0 + count, so_far.1.max(longest));
            }
        }
        let mut supervisors = self.supervisors.join().expect("the measuring thread");
        supervisors.push(self.monitor.join().expect("the monitor's thread"));
        let (wal, alive) = self.counts.join().expect("the counter");
        Observations {
            runs,
            supervisors,
            wal,
            alive,
            recoveries: self.recoveries.join().expect("the recovering thread"),
            reads,
            checks: self.checks.join().expect("the checking thread"),
            locks: self.locks.join().expect("the locking thread"),
        }
    }
}

/// Measures the long-lived supervisors and waits until they exit.
fn measure(soak: &Soak, mut supervisors: Vec<Supervisor>) -> Vec<Supervisor> {
    let every = (soak.length / 100).clamp(Duration::from_millis(100), Duration::from_secs(2));
    // Memory used during the start is not growth.
    if !soak.sleep_or_end(soak.length / 10) {
        while !soak.sleep_or_end(every) {
            for supervisor in &mut supervisors {
                supervisor.measure(soak);
            }
        }
    }
    for supervisor in &mut supervisors {
        supervisor.end(soak);
    }
    supervisors
}

/// Samples the size of the WAL and the number of running supervisors.
fn count(soak: &Soak) -> (Vec<(f64, u64)>, Vec<usize>) {
    let wal = soak.world.path(WAL);
    let (mut sizes, mut alive) = (Vec::new(), Vec::new());
    while !soak.sleep_or_end(Duration::from_millis(50)) {
        sizes.push((soak.part(), fs::metadata(&wal).map_or(0, |m| m.len())));
        alive.push(soak.alive.load(Ordering::Relaxed));
    }
    (sizes, alive)
}

fn recover(soak: &Soak) -> (usize, Duration) {
    let (mut count, mut longest) = (0, Duration::ZERO);
    while !soak.sleep_or_end((soak.length / 40).min(Duration::from_secs(3))) {
        let began = Instant::now();
        recover_once(soak, &[0, 1]);
        count += 1;
        longest = longest.max(began.elapsed());
    }
    (count, longest)
}

/// Runs one recovery. `ends` lists the allowed exit codes: 1 if a task that is exiting cannot be judged yet.
pub fn recover_once(soak: &Soak, ends: &[i32]) {
    let mut command = recovery(&soak.world);
    command.args(["--on-interrupted", ON_INTERRUPTED]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = command.output().expect("a recovery");
    let is_expected = output.status.code().is_some_and(|c| ends.contains(&c)) && output.stderr.is_empty();
    soak.unless(is_expected, || format!("a recovery: {output:?}"));
}

/// Runs a monitor beside the recoveries until it has settled and reported what the last runs left.
fn monitor(soak: &Soak) -> Supervisor {
    while soak.part() < MONITORED_FROM && !soak.sleep_or_end(Duration::from_millis(20)) {}
    let monitor = Monitor::spawn(&soak.world, &[], &[], &monitor_options());
    let is_ready = monitor.is_ready(Deadline::within(SETTLE_LIMIT));
    soak.unless(is_ready, || format!("the monitor ended: {}", monitor.errors()));
    let files_at_first = open_files(monitor.pid()).len();
    let mut watched = Supervisor::watched("monitor", monitor.pid());
    // Measured at least once: on a busy machine the soak may be over before the monitor is ready.
    while let Some((anonymous_kib, rss_kib)) = memory(monitor.pid()) {
        let part = (soak.part() - MONITORED_FROM) / (1.0 - MONITORED_FROM);
        watched.samples.push(Sample { part, anonymous_kib, rss_kib, files: open_files(monitor.pid()).len() });
        if soak.sleep_or_end(soak.length / 200) {
            break;
        }
    }
    let until = Deadline::within(SETTLE_LIMIT);
    while !is_quiet(&soak.world) && !until.passed() {
        pause(Duration::from_millis(20));
    }
    soak.unless(!until.passed(), || "the monitor does not settle and report everything".to_owned());
    let files = open_files(monitor.pid()).len();
    soak.unless(files <= files_at_first, || {
        format!("the monitor had {files_at_first} files open, now {files}")
    });
    let output = monitor.end();
    let is_expected = output.end == End::Signal(15) && output.stderr.is_empty();
    soak.unless(is_expected, || format!("the monitor: {output:?}"));
    watched
}

fn read(soak: &Soak, first: usize) -> BTreeMap<String, (usize, Duration)> {
    let mut reads = BTreeMap::new();
    for words in READ_COMMANDS.iter().cycle().skip(first * READ_COMMANDS.len() / 2) {
        if soak.sleep_or_end(Duration::from_millis(200)) {
            break;
        }
        let began = Instant::now();
        let output = bookend(&soak.world).args(*words).output().expect("a reader");
        let entry = reads.entry(words.join(" ")).or_insert((0, Duration::ZERO));
        *entry = (entry.0 + 1, entry.1.max(began.elapsed()));
        let is_json = || serde_json::from_slice::<serde_json::Value>(&output.stdout).is_ok();
        let is_expected =
            output.status.success() && output.stderr.is_empty() && (!words.contains(&"--json") || is_json());
        soak.unless(is_expected, || format!("{words:?}: {output:?}"));
    }
    reads
}

/// Queries that return a row for each violation, at any moment.
const INTEGRITY_QUERIES: [&str; 3] = [
    "SELECT integrity_check AS wrong FROM pragma_integrity_check WHERE integrity_check <> 'ok'",
    "SELECT \"table\" AS wrong FROM pragma_foreign_key_check",
    "SELECT id || ' is ' || status AS wrong FROM task_history AS t
     WHERE (SELECT group_concat(coalesce(from_status, '') || '>' || to_status) FROM
            (SELECT * FROM task_transition WHERE task_id = t.id ORDER BY n))
         <> CASE status WHEN 'running' THEN '>running' ELSE '>running,running>' || status END",
];

fn check(soak: &Soak) -> usize {
    let mut count = 0;
    while !soak.sleep_or_end((soak.length / 40).min(Duration::from_secs(5))) {
        check_once(soak);
        count += 1;
    }
    count
}

pub fn check_once(soak: &Soak) {
    for query in INTEGRITY_QUERIES {
        for row in soak.world.sql(query) {
            soak.report_violation(format!("the ledger is inconsistent: {}", row.text("wrong")));
        }
    }
}

/// Another program holds the write lock for a while.
fn lock(soak: &Soak) -> usize {
    let mut count = 0;
    while !soak.sleep_or_end((soak.length / 20).min(Duration::from_secs(8))) {
        let connection = Connection::open(soak.world.ledger()).expect("the ledger");
        connection.busy_timeout(Duration::from_secs(30)).expect("a timeout");
        connection.execute_batch("BEGIN IMMEDIATE").expect("the write lock");
        pause(LOCK_DURATION);
        connection.execute_batch("ROLLBACK").expect("the end of a transaction");
        count += 1;
    }
    count
}

/// Another program keeps a read transaction open, so that the WAL cannot be reset.
fn read_long(soak: &Soak) {
    while soak.part() < LONG_READ.0 && !soak.sleep_or_end(Duration::from_millis(100)) {}
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    let connection = Connection::open_with_flags(soak.world.ledger(), flags).expect("the ledger");
    let count = |connection: &Connection| -> i64 {
        connection.query_row("SELECT count(*) FROM task_transition", [], |row| row.get(0)).expect("a count")
    };
    connection.execute_batch("BEGIN").expect("a transaction");
    let before = count(&connection);
    while soak.part() < LONG_READ.1 && !soak.sleep_or_end(Duration::from_millis(100)) {}
    let after = count(&connection);
    soak.unless(before == after, || format!("a reader saw {before} and then {after} changes"));
}
