//! Counts the instructions of what bookend does most, its disk syncs, and its size. Counts do not depend on
//! the load of the machine, so a file keeps them and `.ci/run` compares.
//!
//! Cachegrind counts the supervisor alone, not what it executes. The program's path, the environment and the
//! bytes of the ledger, on which a count depends, are the same each time.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::agent::{MODE, STREAM};
use crate::capture::read_line;
use crate::harness::{World, pause};
use crate::measure::{bookend, command, link_bench, time};
use crate::runs::RUN;

/// By how much a count may exceed the kept one.
const TOLERANCE_PERCENT: f64 = 5.0;
/// The smallest of so many counts is taken: noise only adds instructions.
const TIMES: usize = 3;
/// Runs of this many lines and of twice as many are counted; their difference is the cost of the lines.
const LINES: u32 = 500;
/// After this time the counts of the first lines are in the ledger.
const PROGRESS: Duration = Duration::from_millis(1500);
/// Names the valgrind to use. `VALGRIND_LIB` may name the directory of its tools.
const VALGRIND: &str = "BOOKEND_VALGRIND";
/// The first version that implements all system calls of bookend (pidfd_open).
const OLDEST_VALGRIND: (u32, u32) = (3, 24);

/// The content of the file.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    /// The compiler: another one makes another program.
    rustc: String,
    counts: BTreeMap<String, u64>,
}

/// Compares with the kept counts, or keeps the new ones. `false`: a count is too large.
pub fn check(renew: bool) -> bool {
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
        "other things are counted now; run `.ci/run just instructions --renew`"
    );
    let mut within = true;
    for (what, count) in now.counts {
        let was = kept.counts[&what];
        let change = (count as f64 / was as f64 - 1.0) * 100.0;
        let advice = if change > TOLERANCE_PERCENT {
            within = false;
            "  TOO MANY: find the cause, or run `.ci/run just instructions --renew`"
        } else if change < -TOLERANCE_PERCENT {
            "  fewer: run `.ci/run just instructions --renew` to keep it"
        } else {
            ""
        };
        println!("{what:<34} {count:>9}, kept {was:>9}: {change:+.2} %{advice}");
    }
    within
}

fn rustc() -> String {
    let said = Command::new("rustc").arg("--version").output().expect("rustc");
    String::from_utf8_lossy(&said.stdout).trim().to_owned()
}

fn count_all() -> BTreeMap<String, u64> {
    let place = CountingPlace::new();
    let smallest = |count: &dyn Fn() -> u64| (0..TIMES).map(|_| count()).min().expect("a count");
    let difference =
        |more: u64, less: u64| more.checked_sub(less).expect("more work takes more instructions");
    // The command opens the ledger for writing, reads one row and changes nothing. Without a ledger it does
    // everything else.
    let invalidate = ["session", "invalidate", "nobody"];
    let nowhere = ["--ledger", "/nowhere/bookend.db", "session", "invalidate", "nobody"];
    let opening =
        difference(smallest(&|| place.count(&invalidate, 1)), smallest(&|| place.count(&nowhere, 1)));
    let line = difference(smallest(&|| place.count_lines(2 * LINES)), smallest(&|| place.count_lines(LINES)));
    BTreeMap::from([
        ("instructions of `run -- true`".to_owned(), smallest(&|| place.count(&RUN[1..], 0))),
        ("instructions of a captured line".to_owned(), line / u64::from(LINES)),
        ("instructions of opening the ledger".to_owned(), opening),
        ("syncs of `run -- true`".to_owned(), place.syncs(&RUN[1..])),
        ("bytes of the program".to_owned(), fs::metadata(&place.program).expect("the program").len()),
    ])
}

/// The directory, ledger and tools of all counts.
struct CountingPlace {
    world: World,
    program: PathBuf,
    valgrind: String,
    /// The library that replaces clone(2).
    clone: PathBuf,
}

impl CountingPlace {
    fn new() -> CountingPlace {
        // A path of the same length on every machine.
        let world = World::without_probe(Path::new("/tmp"));
        let program = world.path("measured");
        fs::copy(bookend(), &program).expect("a copy of bookend");
        link_bench(&world, "claude");
        // A ledger that has been used. Its log is neither empty nor so full that the next run copies it.
        time(&mut command(&world, &RUN));
        fs::rename(world.path("state"), world.path("original")).expect("moving the ledger");
        let clone = world.path("clone.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench/clone.c");
        time(command(&world, &["cc", "-shared", "-fPIC", "-O2", "-o"]).arg(&clone).arg(source));
        CountingPlace { world, program, valgrind: valgrind(), clone }
    }

    /// `code` is the expected exit code.
    fn count(&self, words: &[&str], code: i32) -> u64 {
        let mut child = self.start(words, "");
        let status = child.wait().expect("its status");
        assert_eq!(status.code(), Some(code), "{words:?}: {status}");
        self.counted(&child)
    }

    /// The agent is asked for each line, so that bookend reads each on its own.
    fn count_lines(&self, lines: u32) -> u64 {
        let claude = self.world.name("bin/claude");
        let mut child = self.start(&[&["run", "--", &claude], &STREAM[1..]].concat(), "answer");
        let (mut to, mut from) =
            (child.stdin.take().expect("its stdin"), child.stdout.take().expect("its stdout"));
        let mut buffer = vec![0; 64 << 10];
        read_line(&mut from, &mut buffer);
        let began = Instant::now();
        for _ in 0..lines {
            to.write_all(b"?").expect("a question");
            read_line(&mut from, &mut buffer);
        }
        // bookend writes the counts with the first line and again after a second: every run lasts longer.
        pause(PROGRESS.saturating_sub(began.elapsed()));
        drop(to);
        read_line(&mut from, &mut buffer);
        let status = child.wait().expect("its status");
        assert!(status.success(), "the run of {lines} lines: {status}");
        self.counted(&child)
    }

    /// How often the command waits until data is on the disk.
    fn syncs(&self, words: &[&str]) -> u64 {
        self.restore();
        let log = self.world.name("syncs");
        let strace = ["strace", "-qq", "-e", "trace=fsync,fdatasync,msync,sync_file_range", "-o", &log];
        time(command(&self.world, &strace).arg(&self.program).args(words));
        fs::read_to_string(&log).expect("strace's log").lines().count() as u64
    }

    /// Restores the bytes of the ledger.
    fn restore(&self) {
        let state = self.world.path("state");
        let _ = fs::remove_dir_all(&state);
        let copied = Command::new("cp").arg("-a").arg(self.world.path("original")).arg(&state).status();
        assert!(copied.expect("cp").success(), "a copy of the ledger");
    }

    fn start(&self, words: &[&str], mode: &str) -> Child {
        self.restore();
        let mut counted = command(&self.world, &[self.valgrind.as_str()]);
        counted
            .args(["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"])
            .arg(format!("--log-file={}", self.world.name("log.%p")))
            .arg(&self.program)
            .args(words)
            .env(MODE, mode)
            .env("LD_PRELOAD", &self.clone)
            .envs(std::env::var_os("VALGRIND_LIB").map(|lib| ("VALGRIND_LIB", lib)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        counted.spawn().expect("valgrind")
    }

    /// The log is named after the pid of bookend, which is valgrind's.
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
