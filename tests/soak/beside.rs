//! What goes on beside the runs: recoveries, as an operator would start them; readers; other programs that
//! use the ledger, not always politely; and whoever measures.

use std::collections::BTreeMap;
use std::fs;
use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};

use super::Soak;
use super::lasting::Life;
use super::runs::{IMPATIENCE, Run};
use crate::crash::fault::{bookend, recovery};
use crate::harness::pause;

/// The `--on-interrupted` command notes here for whom it ran.
pub const HANDED: &str = "handed";
const ON_INTERRUPTED: &str = "cat >/dev/null; echo \"$BOOKEND_FINISHED_TASK\" >>\"$HOME/../handed\"";

const LOOKS: [&[&str]; 9] = [
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

/// The ledger's log.
pub const LOG: &str = "state/bookend/bookend.db-wal";
/// How long another program keeps the ledger locked: longer than an impatient run waits.
pub const LOCKED: Duration = Duration::from_millis(3 * IMPATIENCE.as_millis() as u64);

/// The part of the time in which another program reads one and the same state of the ledger.
pub const LONG_READ: (f64, f64) = (0.4, 0.55);

/// What was seen.
pub struct Seen {
    pub runs: Vec<Run>,
    pub lives: Vec<Life>,
    /// The size of the log, and how much of the time had passed.
    pub log: Vec<(f64, u64)>,
    /// How many supervisors lived.
    pub alive: Vec<usize>,
    /// How many, and the longest.
    pub recoveries: (usize, Duration),
    pub looks: BTreeMap<String, (usize, Duration)>,
    pub checks: usize,
    pub locks: usize,
}

impl Seen {
    /// The most that the log was, in KiB, in a part of the time.
    pub fn log_between(&self, from: f64, to: f64) -> u64 {
        let inside = self.log.iter().filter(|(part, _)| (from..to).contains(part));
        inside.map(|(_, size)| size / 1024).max().unwrap_or_default()
    }
}

/// The log's sizes with the part of the time, and how many supervisors there were.
type Counts = (Vec<(f64, u64)>, Vec<usize>);

pub struct Beside<'scope> {
    lives: ScopedJoinHandle<'scope, Vec<Life>>,
    counts: ScopedJoinHandle<'scope, Counts>,
    recoveries: ScopedJoinHandle<'scope, (usize, Duration)>,
    readers: Vec<ScopedJoinHandle<'scope, BTreeMap<String, (usize, Duration)>>>,
    checks: ScopedJoinHandle<'scope, usize>,
    locks: ScopedJoinHandle<'scope, usize>,
    long_read: ScopedJoinHandle<'scope, ()>,
}

pub fn start<'scope, 'env>(
    soak: &'scope Soak,
    scope: &'scope Scope<'scope, 'env>,
    lives: Vec<Life>,
) -> Beside<'scope> {
    Beside {
        lives: scope.spawn(|| measure(soak, lives)),
        counts: scope.spawn(|| count(soak)),
        recoveries: scope.spawn(|| recover(soak)),
        readers: (0..2).map(|n| scope.spawn(move || look(soak, n))).collect(),
        checks: scope.spawn(|| check(soak)),
        locks: scope.spawn(|| lock(soak)),
        long_read: scope.spawn(|| read_long(soak)),
    }
}

impl<'scope> Beside<'scope> {
    /// Waits until all have ended.
    pub fn join(self, runs: Vec<Run>) -> Seen {
        self.long_read.join().expect("the one who reads long");
        let mut looks = BTreeMap::new();
        for reader in self.readers {
            for (words, (count, longest)) in reader.join().expect("a reader") {
                let so_far = looks.entry(words).or_insert((0, Duration::ZERO));
                *so_far = (so_far.0 + count, so_far.1.max(longest));
            }
        }
        let (log, alive) = self.counts.join().expect("the one who counts");
        Seen {
            runs,
            lives: self.lives.join().expect("the one who measures"),
            log,
            alive,
            recoveries: self.recoveries.join().expect("the one who recovers"),
            looks,
            checks: self.checks.join().expect("the one who checks"),
            locks: self.locks.join().expect("the one who locks"),
        }
    }
}

/// Measures those that live all the time, and waits for their ends.
fn measure(soak: &Soak, mut lives: Vec<Life>) -> Vec<Life> {
    let every = (soak.length / 100).clamp(Duration::from_millis(100), Duration::from_secs(2));
    // What they need to begin is no growth.
    if !soak.rests(soak.length / 10) {
        while !soak.rests(every) {
            for life in &mut lives {
                life.measure(soak);
            }
        }
    }
    for life in &mut lives {
        life.end(soak);
    }
    lives
}

/// The size of the log, and how many supervisors live.
fn count(soak: &Soak) -> (Vec<(f64, u64)>, Vec<usize>) {
    let log = soak.world.path(LOG);
    let (mut sizes, mut alive) = (Vec::new(), Vec::new());
    while !soak.rests(Duration::from_millis(50)) {
        sizes.push((soak.part(), fs::metadata(&log).map_or(0, |m| m.len())));
        alive.push(soak.alive.load(Ordering::Relaxed));
    }
    (sizes, alive)
}

fn recover(soak: &Soak) -> (usize, Duration) {
    let (mut count, mut longest) = (0, Duration::ZERO);
    while !soak.rests((soak.length / 40).min(Duration::from_secs(3))) {
        let began = Instant::now();
        recover_once(soak, &[0, 1]);
        count += 1;
        longest = longest.max(began.elapsed());
    }
    (count, longest)
}

/// One recovery, and how it may leave: with 1 while a task that was leaving at that moment was in doubt.
pub fn recover_once(soak: &Soak, ends: &[i32]) {
    let mut command = recovery(&soak.world);
    command.args(["--on-interrupted", ON_INTERRUPTED]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = command.output().expect("a recovery");
    let is_well = output.status.code().is_some_and(|c| ends.contains(&c)) && output.stderr.is_empty();
    soak.unless(is_well, || format!("a recovery: {output:?}"));
}

fn look(soak: &Soak, first: usize) -> BTreeMap<String, (usize, Duration)> {
    let mut looks = BTreeMap::new();
    for words in LOOKS.iter().cycle().skip(first * LOOKS.len() / 2) {
        if soak.rests(Duration::from_millis(200)) {
            break;
        }
        let began = Instant::now();
        let output = bookend(&soak.world).args(*words).output().expect("a reader");
        let entry = looks.entry(words.join(" ")).or_insert((0, Duration::ZERO));
        *entry = (entry.0 + 1, entry.1.max(began.elapsed()));
        let is_json = || serde_json::from_slice::<serde_json::Value>(&output.stdout).is_ok();
        let is_well =
            output.status.success() && output.stderr.is_empty() && (!words.contains(&"--json") || is_json());
        soak.unless(is_well, || format!("{words:?}: {output:?}"));
    }
    looks
}

/// What must hold of the ledger at each moment.
const SOUND: [&str; 3] = [
    "SELECT integrity_check AS wrong FROM pragma_integrity_check WHERE integrity_check <> 'ok'",
    "SELECT \"table\" AS wrong FROM pragma_foreign_key_check",
    "SELECT id || ' is ' || status AS wrong FROM task_history AS t
     WHERE (SELECT group_concat(coalesce(from_status, '') || '>' || to_status) FROM
            (SELECT * FROM task_transition WHERE task_id = t.id ORDER BY n))
         <> CASE status WHEN 'running' THEN '>running' ELSE '>running,running>' || status END",
];

fn check(soak: &Soak) -> usize {
    let mut count = 0;
    while !soak.rests((soak.length / 40).min(Duration::from_secs(5))) {
        check_once(soak);
        count += 1;
    }
    count
}

pub fn check_once(soak: &Soak) {
    for query in SOUND {
        for row in soak.world.sql(query) {
            soak.wrong(format!("the ledger is not sound: {}", row.text("wrong")));
        }
    }
}

/// Another program writes, and takes its time.
fn lock(soak: &Soak) -> usize {
    let mut count = 0;
    while !soak.rests((soak.length / 20).min(Duration::from_secs(8))) {
        let connection = Connection::open(soak.world.ledger()).expect("the ledger");
        connection.busy_timeout(Duration::from_secs(30)).expect("a time-out");
        connection.execute_batch("BEGIN IMMEDIATE").expect("the one place of a writer");
        pause(LOCKED);
        connection.execute_batch("ROLLBACK").expect("the end of a transaction");
        count += 1;
    }
    count
}

/// Another program reads one and the same state for long: meanwhile the log cannot be emptied.
fn read_long(soak: &Soak) {
    while soak.part() < LONG_READ.0 && !soak.rests(Duration::from_millis(100)) {}
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    let connection = Connection::open_with_flags(soak.world.ledger(), flags).expect("the ledger");
    let count = |connection: &Connection| -> i64 {
        connection.query_row("SELECT count(*) FROM task_transition", [], |row| row.get(0)).expect("a count")
    };
    connection.execute_batch("BEGIN").expect("a transaction");
    let before = count(&connection);
    while soak.part() < LONG_READ.1 && !soak.rests(Duration::from_millis(100)) {}
    let after = count(&connection);
    soak.unless(before == after, || format!("a reader saw {before} and then {after} changes"));
}
