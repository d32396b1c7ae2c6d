//! How many instructions bookend spends on what it does most, how often it waits for the disk, and how large
//! it is. Unlike a time, a count is the same under load, so that it can be kept in a file and held to.
//!
//! Cachegrind counts the supervisor alone: what it executes is not followed. Everything that a count depends
//! on is the same each time: the program's path, the environment, and the bytes of the ledger.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::agent::{ORDER, STREAM};
use crate::capture::{call_us_claude, read_line};
use crate::harness::{World, pause};
use crate::measure::{bookend, command, time};
use crate::start::RUN;

/// A count may be so much more than what is kept.
const TOLERANCE_PERCENT: f64 = 5.0;
/// Each is counted so many times; the least is taken, since nothing makes a run do less than its work.
const TIMES: usize = 3;
/// A line costs what twice as many lines cost more, divided by their number.
const LINES: u32 = 500;
/// By then the counts of the first lines are in the ledger.
const PROGRESS: Duration = Duration::from_millis(1500);
/// Names the valgrind to use; `VALGRIND_LIB` may say where its tools lie.
const VALGRIND: &str = "BOOKEND_VALGRIND";
/// The first that knows all system calls of bookend (pidfd_open).
const OLDEST_VALGRIND: (u32, u32) = (3, 24);

/// What is kept in the repository.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    /// Another compiler makes another program.
    rustc: String,
    counts: BTreeMap<String, u64>,
}

/// Compares with what is kept, or keeps what is counted now. Says whether all is well.
pub fn instructions(renew: bool) -> bool {
    let now = Kept { rustc: rustc(), counts: count_all() };
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench/instructions.json");
    if renew {
        let text = serde_json::to_string_pretty(&now).expect("JSON") + "\n";
        fs::write(&file, text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    }
    let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let kept: Kept = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    if kept.rustc != now.rustc {
        println!("counted with {}, kept from {}", now.rustc, kept.rustc);
    }
    assert_eq!(
        kept.counts.keys().collect::<Vec<_>>(),
        now.counts.keys().collect::<Vec<_>>(),
        "what is counted has changed: `.ci/run just instructions --renew`"
    );
    let mut well = true;
    for (what, count) in now.counts {
        let was = kept.counts[&what];
        let change = (count as f64 / was as f64 - 1.0) * 100.0;
        let verdict = if change > TOLERANCE_PERCENT {
            well = false;
            "  TOO MANY: find out why, or `.ci/run just instructions --renew`"
        } else if change < -TOLERANCE_PERCENT {
            "  fewer: keep it so by `.ci/run just instructions --renew`"
        } else {
            ""
        };
        println!("{what:<34} {count:>9}, kept {was:>9}: {change:+.2} %{verdict}");
    }
    well
}

fn rustc() -> String {
    let said = Command::new("rustc").arg("--version").output().expect("rustc");
    String::from_utf8_lossy(&said.stdout).trim().to_owned()
}

fn count_all() -> BTreeMap<String, u64> {
    let ground = Ground::new();
    let least = |count: &dyn Fn() -> u64| (0..TIMES).map(|_| count()).min().expect("a count");
    let less = |more: u64, less: u64| more.checked_sub(less).expect("more work takes more instructions");
    // It opens the ledger for writing, asks it one thing, and has nothing to do; where there is no ledger it
    // does all else.
    let withdraw = ["session", "invalidate", "nobody"];
    let nowhere = ["--ledger", "/nowhere/bookend.db", "session", "invalidate", "nobody"];
    let opening = less(least(&|| ground.count(&withdraw, 1)), least(&|| ground.count(&nowhere, 1)));
    let line = less(least(&|| ground.count_lines(2 * LINES)), least(&|| ground.count_lines(LINES)));
    BTreeMap::from([
        ("instructions of `run -- true`".to_owned(), least(&|| ground.count(&RUN[1..], 0))),
        ("instructions of a captured line".to_owned(), line / u64::from(LINES)),
        ("instructions of opening the ledger".to_owned(), opening),
        ("syncs of `run -- true`".to_owned(), ground.syncs(&RUN[1..])),
        ("bytes of the program".to_owned(), fs::metadata(&ground.program).expect("the program").len()),
    ])
}

/// Where it is counted.
struct Ground {
    world: World,
    program: PathBuf,
    valgrind: String,
    /// What bookend has of clone(2), since valgrind has too little of it.
    clone: PathBuf,
}

impl Ground {
    fn new() -> Ground {
        // A path of the same length on every machine.
        let world = World::without_probe(Path::new("/tmp"));
        let program = world.path("measured");
        fs::copy(bookend(), &program).expect("a copy of bookend");
        call_us_claude(&world);
        // A ledger that has been used, its log neither empty nor so full that the next run empties it.
        time(&mut command(&world, &RUN));
        fs::rename(world.path("state"), world.path("as-it-was")).expect("the ledger put by");
        let clone = world.path("clone.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench/clone.c");
        time(command(&world, &["cc", "-shared", "-fPIC", "-O2", "-o"]).arg(&clone).arg(source));
        Ground { world, program, valgrind: valgrind(), clone }
    }

    /// `code`: how it ends when it has done its work.
    fn count(&self, words: &[&str], code: i32) -> u64 {
        let mut child = self.start(words, "");
        let status = child.wait().expect("its status");
        assert_eq!(status.code(), Some(code), "{words:?}: {status}");
        self.counted(&child)
    }

    /// A run whose agent is asked for each line, so that each is one turn of bookend's loop.
    fn count_lines(&self, lines: u32) -> u64 {
        let claude = self.world.name("bin/claude");
        let mut child = self.start(&[&["run", "--", &claude], &STREAM[1..]].concat(), "asked");
        let (mut to, mut from) =
            (child.stdin.take().expect("its stdin"), child.stdout.take().expect("its stdout"));
        let mut buffer = vec![0; 64 << 10];
        read_line(&mut from, &mut buffer);
        let began = Instant::now();
        for _ in 0..lines {
            to.write_all(b"?").expect("a question");
            read_line(&mut from, &mut buffer);
        }
        // Each line says the same, so that its counts are written twice, the second time after a second:
        // every run is to last so long.
        pause(PROGRESS.saturating_sub(began.elapsed()));
        drop(to);
        read_line(&mut from, &mut buffer);
        let status = child.wait().expect("its status");
        assert!(status.success(), "the run of {lines} lines: {status}");
        self.counted(&child)
    }

    /// How often it has the disk make something durable.
    fn syncs(&self, words: &[&str]) -> u64 {
        self.restore();
        let log = self.world.name("syncs");
        let strace = ["strace", "-qq", "-e", "trace=fsync,fdatasync,msync,sync_file_range", "-o", &log];
        time(command(&self.world, &strace).arg(&self.program).args(words));
        fs::read_to_string(&log).expect("strace's log").lines().count() as u64
    }

    /// Makes the ledger the same as each time.
    fn restore(&self) {
        let state = self.world.path("state");
        let _ = fs::remove_dir_all(&state);
        let copied = Command::new("cp").arg("-a").arg(self.world.path("as-it-was")).arg(&state).status();
        assert!(copied.expect("cp").success(), "a copy of the ledger");
    }

    fn start(&self, words: &[&str], order: &str) -> Child {
        self.restore();
        let mut counted = command(&self.world, &[self.valgrind.as_str()]);
        counted
            .args(["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"])
            .arg(format!("--log-file={}", self.world.name("log.%p")))
            .arg(&self.program)
            .args(words)
            .env(ORDER, order)
            .env("LD_PRELOAD", &self.clone)
            .envs(std::env::var_os("VALGRIND_LIB").map(|lib| ("VALGRIND_LIB", lib)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        counted.spawn().expect("valgrind")
    }

    /// The log has valgrind's pid in its name, which is bookend's.
    fn counted(&self, child: &Child) -> u64 {
        let log = self.world.path(&format!("log.{}", child.id()));
        let said = fs::read_to_string(&log).expect("valgrind's log");
        let count =
            said.lines().find_map(|l| l.split_once("I refs:").map(|(_, n)| n.trim().replace(',', "")));
        count.and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("valgrind did not count:\n{said}"))
    }
}

fn valgrind() -> String {
    let name = std::env::var(VALGRIND).unwrap_or_else(|_| "valgrind".to_owned());
    let (major, minor) = OLDEST_VALGRIND;
    let needs = format!(
        "counting needs valgrind {major}.{minor} or newer; {VALGRIND} may name it, and \
         `.ci/run just instructions` installs one"
    );
    let said = Command::new(&name).arg("--version").output().unwrap_or_else(|e| panic!("{needs}: {e}"));
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let version = said.trim().strip_prefix("valgrind-").unwrap_or_default();
    let mut numbers = version.split('.').map(|n| n.parse().unwrap_or(0));
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    assert!(found >= OLDEST_VALGRIND, "{needs}; this is {said}");
    name
}
