//! Two hosts of a fleet with monitors, and runs that go on while something fails.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::{Deadline, World, pause};
use crate::hosts::{Host, Network, send};
use crate::oracle::{Evidence, HostLedger, RECORD, rows_of};
use crate::postgres::Postgres;

/// The time between two renewals of a lease. A host that misses three is unreachable.
pub const RENEWAL: Duration = Duration::from_millis(300);
/// Long enough that a host is unreachable.
pub const UNREACHABLE: Duration = Duration::from_millis(1500);
/// How long a run waits for the monitor of its ledger.
const FLEET_TIMEOUT: &str = "2s";
/// After everything is back, how long until nothing runs and everything is published.
const REST: Duration = Duration::from_secs(40);
/// Keys for which both hosts compete.
const KEYS: u64 = 3;

/// The agent: its last word is `KEY,MS`.
const AGENT: &str = r#"#!/bin/sh
resumed=- session=s-$BOOKEND_TASK_ID
while [ $# -gt 1 ]; do
  case $1 in
    --resume) resumed=$2 session=$2; shift ;;
    --resume=*) resumed=${1#--resume=} session=$resumed ;;
    --session-id) session=$2; shift ;;
    --session-id=*) session=${1#--session-id=} ;;
  esac
  shift
done
mkdir -p "$HOME/.claude/projects/all"
echo '{}' >"$HOME/.claude/projects/all/$session.jsonl"
exec probe work "RECORD" "$BOOKEND_TASK_ID" "${1%,*}" "$(uname -n)" "$resumed" "$session" "${1#*,}"
"#;

/// A host in the fleet, with its monitor while that is meant to run.
pub struct Member<'w> {
    pub name: String,
    host: RwLock<Host<'w>>,
    monitor: Mutex<Option<Monitor>>,
    /// Whether a monitor that has ended is started again, as systemd does.
    pub is_watched: AtomicBool,
    /// What `BOOKEND_FAILPOINT` is for the next monitor.
    pub fail_point: Mutex<String>,
    /// How many monitors have ended at their point.
    pub ended_at_point: AtomicUsize,
}

impl<'w> Member<'w> {
    /// Joins the fleet and starts the monitor.
    pub fn join(host: Host<'w>, database: &Postgres) -> Member<'w> {
        let role = role_of(&host.name);
        let member = Member::without_monitor(host);
        member.write_password(database, &role);
        member.host().run(["bookend", "fleet", "join", &database.tls_url(&role)]).succeeded();
        member.start_monitor();
        member
    }

    /// Gives the host the password of a role, and no other.
    pub fn write_password(&self, database: &Postgres, role: &str) {
        let file = self.host().disk().join("home/.pgpass");
        let line = format!("*:*:*:{role}:{}\n", database.password(role));
        fs::write(&file, line).expect("a password file");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("its mode");
    }

    pub fn without_monitor(host: Host<'w>) -> Member<'w> {
        Member {
            name: host.name.clone(),
            host: RwLock::new(host),
            monitor: Mutex::new(None),
            is_watched: AtomicBool::new(true),
            fail_point: Mutex::default(),
            ended_at_point: AtomicUsize::new(0),
        }
    }

    pub fn host(&self) -> RwLockReadGuard<'_, Host<'w>> {
        self.host.read().expect("the host")
    }

    /// Changes the host itself: its power, its link.
    pub fn change(&self, change: impl FnOnce(&mut Host<'w>)) {
        change(&mut self.host.write().expect("the host"));
    }

    pub fn start_monitor(&self) {
        let host = self.host();
        if !host.is_running() {
            return;
        }
        let mut monitor = self.monitor.lock().expect("the monitor");
        let errors = File::options().append(true).create(true).open(host.disk().join("monitor.err"));
        let errors = errors.expect("a file for its messages");
        let fail_point = std::mem::take(&mut *self.fail_point.lock().expect("a fail point"));
        let has_point = !fail_point.is_empty();
        let child = host
            .command(["bookend", "monitor", "--grace", "200ms"])
            .env("BOOKEND_FAILPOINT", fail_point)
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn();
        *monitor = Some(Monitor { child: child.expect("a monitor"), has_point });
    }

    /// Starts the monitor again if it has ended and is watched.
    pub fn watch_monitor(&self) {
        let mut monitor = self.monitor.lock().expect("the monitor");
        let status = monitor.as_mut().and_then(|monitor| monitor.child.try_wait().expect("a child"));
        if let Some(ended) = monitor.take_if(|_| status.is_some()) {
            let by_kill = status.and_then(|status| status.signal()) == Some(Signal::KILL.as_raw());
            self.ended_at_point.fetch_add(usize::from(ended.has_point && by_kill), Ordering::Relaxed);
        }
        let has_ended = monitor.is_none();
        drop(monitor);
        if has_ended && self.is_watched.load(Ordering::Relaxed) {
            self.start_monitor();
        }
    }

    /// Sends a signal to the monitor. Whether there was one.
    pub fn signal_monitor(&self, signal: Signal) -> bool {
        let host = self.host();
        let monitors = if host.is_running() { host.bookends("monitor") } else { Vec::new() };
        monitors.iter().for_each(|pid| send(*pid, signal));
        !monitors.is_empty()
    }

    /// What the monitors of this host have said.
    pub fn messages(&self) -> String {
        fs::read_to_string(self.host().disk().join("monitor.err")).unwrap_or_default()
    }
}

/// A monitor, which is killed when this is dropped.
struct Monitor {
    child: Child,
    has_point: bool,
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The role by which a host logs in.
pub fn role_of(host: &str) -> String {
    format!("bookend_{host}")
}

/// The members of a fleet, its database and the network between them.
pub struct Arena<'w> {
    pub world: &'w World,
    pub database: Postgres,
    pub members: [Member<'w>; 2],
}

impl<'w> Arena<'w> {
    pub fn new(world: &'w World, network: &'w Network, database: Postgres) -> Arena<'w> {
        world.program("claude", &AGENT.replace("RECORD", &world.name(RECORD)));
        database.psql(&format!(
            "UPDATE bookend.setting SET value = '{}' WHERE name = 'renew_ms'",
            RENEWAL.as_millis()
        ));
        ["a", "b"].iter().for_each(|name| database.role(&role_of(name), &["bookend_host"]));
        let members = ["a", "b"].map(|name| Member::join(Host::new(world, network, name), &database));
        let arena = Arena { world, database, members };
        arena.until("both hosts to be registered", |arena| {
            let nodes = "SELECT id FROM bookend.node_state WHERE reachable";
            rows_of(&arena.database, nodes).len() == 2
        });
        arena
    }

    #[track_caller]
    pub fn until(&self, what: &str, mut is_so: impl FnMut(&Arena) -> bool) {
        let deadline = Deadline::new();
        while !is_so(self) {
            let messages = || self.members.each_ref().map(Member::messages);
            assert!(!deadline.passed(), "timed out waiting for {what}: {:#?}", messages());
            self.members.iter().for_each(Member::watch_monitor);
            pause(Duration::from_millis(10));
        }
    }

    pub fn evidence(&self) -> Evidence {
        let ledgers = self.members.iter().map(|m| HostLedger::read(self.world, &m.name)).collect();
        Evidence::read(self.world, ledgers, &self.database)
    }

    /// Waits until nothing runs and everything is published.
    pub fn rest(&self) -> Evidence {
        let until = Instant::now() + REST;
        loop {
            self.members.iter().for_each(Member::watch_monitor);
            let evidence = self.evidence();
            if evidence.unrest().is_empty() || Instant::now() > until {
                return evidence;
            }
            pause(Duration::from_millis(50));
        }
    }
}

/// What the runs of one host do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Keyless,
    Keyed,
    Waiting,
    Replacing,
}

impl Kind {
    fn options(self) -> &'static [&'static str] {
        match self {
            Kind::Keyless | Kind::Keyed => &[],
            Kind::Waiting => &["--wait"],
            Kind::Replacing => &["--replace"],
        }
    }
}

/// One run.
#[derive(Debug)]
struct Run {
    host: String,
    kind: Kind,
    code: Option<i32>,
    took: Duration,
    stderr: String,
}

/// Runs of both hosts, until they are told to end.
#[derive(Default)]
pub struct Load {
    is_over: AtomicBool,
    is_back: AtomicBool,
    runs: Mutex<Vec<Run>>,
    number: AtomicUsize,
}

impl Load {
    /// Goes on while `during` does, and ends after `heal`. Returns what was wrong with the runs.
    /// `harmed` is the host whose runs may be killed, `is_slow` whether keyless runs may be stopped.
    pub fn around(arena: &Arena, seed: u64, during: impl FnOnce(), heal: impl FnOnce()) -> Load {
        let load = Load::default();
        std::thread::scope(|scope| {
            for (m, member) in arena.members.iter().enumerate() {
                for worker in 0..4 {
                    let (load, seed) = (&load, seed ^ (m as u64) << 32 ^ worker << 40);
                    scope.spawn(move || load.work(arena, member, seed, worker));
                }
            }
            let watching = scope.spawn(|| {
                while !load.is_back.load(Ordering::Relaxed) {
                    arena.members.iter().for_each(Member::watch_monitor);
                    pause(Duration::from_millis(20));
                }
            });
            // A panic must not leave the workers without an end.
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(during));
            load.is_over.store(true, Ordering::Relaxed);
            let healed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(heal));
            load.is_back.store(true, Ordering::Relaxed);
            let _ = watching.join();
            if let Err(panic) = done.and(healed) {
                std::panic::resume_unwind(panic);
            }
        });
        load
    }

    fn work(&self, arena: &Arena, member: &Member<'_>, seed: u64, worker: u64) {
        let mut dice = Dice(seed);
        while !self.is_over.load(Ordering::Relaxed) {
            // One of them never waits, whatever the others do.
            let kind = match (worker, dice.roll(8)) {
                (0, _) => Kind::Keyless,
                (1, _) | (_, 0..3) => Kind::Keyed,
                (_, 3..7) => Kind::Waiting,
                _ => Kind::Replacing,
            };
            let key = format!("k{}", dice.roll(KEYS));
            let milliseconds = 20 + dice.roll(300);
            let began = Instant::now();
            let errors = arena.world.path(&format!("run.{}", self.number.fetch_add(1, Ordering::Relaxed)));
            let Some(child) = start(member, kind, &key, milliseconds, &errors) else {
                pause(Duration::from_millis(20));
                continue;
            };
            let code = self.end_of(child);
            let stderr = fs::read_to_string(&errors).unwrap_or_default();
            let run = Run { host: member.name.clone(), kind, code, took: began.elapsed(), stderr };
            let has_run = run.code == Some(0);
            self.runs.lock().expect("the runs").push(run);
            if !has_run {
                pause(Duration::from_millis(20 + dice.roll(50)));
            }
        }
    }

    /// How a run ended. One that does not end after everything is back is killed, and has the code -1.
    fn end_of(&self, mut child: Child) -> Option<i32> {
        let mut until = None;
        loop {
            if let Some(status) = child.try_wait().expect("a child") {
                return status.code();
            }
            if until.is_none() && self.is_back.load(Ordering::Relaxed) {
                until = Some(Instant::now() + REST);
            }
            if until.is_some_and(|until| Instant::now() > until) {
                let _ = child.kill();
                let _ = child.wait();
                return Some(-1);
            }
            pause(Duration::from_millis(5));
        }
    }

    /// What was wrong with the runs, of which those of `harmed` could be killed.
    pub fn violations(&self, harmed: &[&str], longest: Duration) -> Vec<String> {
        let runs = self.runs.lock().expect("the runs");
        let mut found = Vec::new();
        for run in runs.iter() {
            let is_harmed = harmed.contains(&run.host.as_str());
            let is_right = match (run.kind, run.code) {
                (_, Some(0)) => true,
                (_, None | Some(143 | 137)) if is_harmed => true,
                // Its host lost its power before the command was there.
                (_, Some(99)) if is_harmed && run.stderr.starts_with("probe: ") => true,
                (Kind::Keyless, _) => false,
                // Another run has replaced it.
                (_, None | Some(143)) => true,
                (Kind::Keyed | Kind::Replacing, Some(75)) => true,
                (_, Some(125)) => run.stderr.contains("nothing was executed"),
                _ => false,
            };
            if !is_right {
                found.push(format!("a run ended wrongly: {run:?}"));
            }
            if run.kind == Kind::Keyless && !is_harmed && run.took > longest {
                found.push(format!("a run without a key took {:?}", run.took));
            }
        }
        found
    }

    /// How many runs ended how.
    pub fn summary(&self) -> String {
        let mut counts: BTreeMap<(&str, Kind, Option<i32>), usize> = BTreeMap::new();
        let runs = self.runs.lock().expect("the runs");
        for run in runs.iter() {
            *counts.entry((&run.host, run.kind, run.code)).or_default() += 1;
        }
        let parts = counts.iter().map(|((host, kind, code), n)| {
            let code = code.map_or("signal".to_owned(), |code| code.to_string());
            format!("{host} {kind:?} {code}: {n}")
        });
        parts.collect::<Vec<_>>().join(", ")
    }
}

/// A run of the stand-in agent. `None`: its host does not run.
fn start(
    member: &Member<'_>,
    kind: Kind,
    key: &str,
    milliseconds: u64,
    errors: &std::path::Path,
) -> Option<Child> {
    let host = member.host();
    if !host.is_running() {
        return None;
    }
    let errors = File::create(errors).expect("a file for its messages");
    let mut command: Command = host.command(run_words(kind, key, milliseconds));
    Some(command.stdout(Stdio::null()).stderr(errors).spawn().expect("a run"))
}

/// The command line of a run whose agent works so long.
pub fn run_words(kind: Kind, key: &str, milliseconds: u64) -> Vec<String> {
    let mut words = vec!["bookend", "run", "-q", "--grace", "200ms"];
    let key = if kind == Kind::Keyless { "-" } else { key };
    if kind != Kind::Keyless {
        words.extend(["--key", key, "--fleet-timeout", FLEET_TIMEOUT]);
    }
    words.extend(kind.options());
    words.extend(["--", "claude", "-p", "--output-format", "stream-json", "--verbose"]);
    words.into_iter().map(str::to_owned).chain([format!("{key},{milliseconds}")]).collect()
}

/// SplitMix64 (Steele, Lea, Flood 2014).
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}
