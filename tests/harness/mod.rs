//! The test harness: every test runs in its own [`World`] with its own directory, environment, ledger and
//! agents. Tests share nothing, leave nothing behind and wait for events, never for time, under one deadline
//! per test.
//!
//! `BOOKEND_TEST_INSTEAD` replaces bookend by another wrapper (`bare`: none; `tini -s --`, …). A test that
//! fails for the bare command is wrong; one that fails for another wrapper shows what that wrapper lacks.
//! With `BOOKEND_TEST_ALL=1`, a test that this machine cannot run fails instead of being skipped.

mod cmd;
mod document;
mod fifo;
mod fleet;
mod ledger;
mod monitor;
mod procfs;
mod pty;
mod stand_in;
mod wait;

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use tempfile::TempDir;

pub use cmd::{Cmd, End, Output, Proc};
pub use document::{DocumentBlock, blocks, document, documents, prose};
pub use fifo::Fifo;
pub use fleet::{Fleet, percentile};
pub use ledger::Row;
pub use monitor::{Monitor, Notifications};
pub use procfs::{
    all_processes, children, context_switches, forked, group, marked, memory, open_files, pending,
    proc_is_hidden, stat_field, state, voluntary_switches,
};
pub use pty::Pty;
pub use stand_in::STREAM;
use wait::LIMIT;
pub use wait::{Deadline, eventually, pause, ready};

/// What precedes the agent's argv.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wrapper {
    Bookend,
    /// Another program with its arguments; empty for the bare command.
    Other(Vec<String>),
}

impl Wrapper {
    fn from_environment() -> Wrapper {
        match std::env::var("BOOKEND_TEST_INSTEAD").as_deref() {
            Err(_) | Ok("") => Wrapper::Bookend,
            Ok("bare") => Wrapper::Other(Vec::new()),
            Ok(words) => Wrapper::Other(words.split_whitespace().map(str::to_owned).collect()),
        }
    }
}

/// The environment of one test. Dropping it kills every process whose environment contains the path of its
/// directory.
pub struct World {
    dir: TempDir,
    pub wrapper: Wrapper,
    /// The time from a renewal of the deadline to the deadline.
    pub limit: Duration,
    deadline: Deadline,
}

impl World {
    pub fn new() -> World {
        let world = World::without_probe(&std::env::temp_dir());
        symlink(probe(), world.path("bin/probe")).expect("the probe in the world's PATH");
        world
    }

    /// A world below `parent` without the probe, for tests that need no stand-in agent.
    pub fn without_probe(parent: &Path) -> World {
        let mut builder = tempfile::Builder::new();
        let dir = builder.prefix("bookend-test.").tempdir_in(parent).expect("a temporary directory");
        for name in ["home", "state", "tmp", "bin"] {
            fs::create_dir(dir.path().join(name)).expect("a directory of the world");
        }
        let deadline = Deadline::new();
        let world = World { dir, wrapper: Wrapper::from_environment(), limit: LIMIT, deadline };
        symlink(program_under_test(), world.path("bin/bookend")).expect("bookend in the world's PATH");
        world
    }

    /// A world for tests of what only bookend does. `None`, reported on stderr, if `BOOKEND_TEST_INSTEAD`
    /// replaces bookend.
    pub fn of_bookend(test: &str) -> Option<World> {
        let world = World::new();
        if world.wrapper == Wrapper::Bookend {
            return Some(world);
        }
        print_line(&format!("skipped {test}: it tests bookend itself"));
        None
    }

    /// A world owned by an unprivileged user, and the specs that run a command as that user. There are no
    /// specs if the test itself runs unprivileged.
    pub fn unprivileged(test: &str) -> Option<(World, Vec<String>)> {
        const NOBODY: u32 = 65534;
        let mut world = World::of_bookend(test)?;
        if !is_root() {
            return Some((world, Vec::new()));
        }
        // The program may be in a directory that only its owner can enter.
        let copy = world.path("bin/bookend");
        fs::remove_file(&copy).expect("the link to bookend");
        // Writing 60 MB to a busy disk can exceed the deadline of a test.
        if fs::hard_link(program_under_test(), &copy).is_err() {
            let copied = Command::new("cp").arg(program_under_test()).arg(&copy).status().expect("cp");
            assert!(copied.success(), "copying bookend");
        }
        fs::set_permissions(world.dir.path(), fs::Permissions::from_mode(0o755)).expect("its mode");
        for name in ["home", "state", "tmp"] {
            chown(world.path(name), Some(NOBODY), Some(NOBODY)).expect("its owner");
        }
        world.renew_deadline();
        Some((world, vec![format!("uid={NOBODY}")]))
    }

    /// Tests this build of bookend instead of the one that was built with the tests.
    pub fn install(&self, program: &Path) {
        let link = self.path("bin/bookend");
        fs::remove_file(&link).and_then(|()| symlink(program, link)).expect("a link to the program");
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// As [`World::path`], as a string for command lines.
    pub fn name(&self, name: &str) -> String {
        self.path(name).to_str().expect("UTF-8").to_owned()
    }

    /// Restarts the deadline after a part of the test that may take long.
    pub fn renew_deadline(&mut self) {
        self.deadline = Deadline::within(self.limit);
    }

    pub fn deadline(&self) -> Deadline {
        self.deadline
    }

    /// The complete environment of every command of this world.
    pub fn environment(&self) -> Vec<(&'static str, OsString)> {
        let mut path = self.path("bin").into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into()));
        let mut environment = vec![
            ("PATH", path),
            ("HOME", self.path("home").into()),
            ("XDG_STATE_HOME", self.path("state").into()),
            ("TMPDIR", self.path("tmp").into()),
            ("LC_ALL", "C".into()),
            // For shell lines, unquoted: what precedes the agent.
            ("W", self.prefix(&[]).join(" ").into()),
        ];
        // The options that `just sanitize` sets for the sanitizer.
        environment.extend(std::env::var_os("ASAN_OPTIONS").map(|options| ("ASAN_OPTIONS", options)));
        environment
    }

    /// The words before the agent's argv; `options` are those of `bookend run`.
    pub fn prefix(&self, options: &[String]) -> Vec<String> {
        match &self.wrapper {
            Wrapper::Bookend => ["bookend", "run"]
                .map(str::to_owned)
                .into_iter()
                .chain(options.iter().cloned())
                .chain(["--".to_owned()])
                .collect(),
            Wrapper::Other(words) => words.clone(),
        }
    }

    /// Builds `bookend run -- agent…`.
    pub fn run<S: Into<OsString>>(&self, agent: impl IntoIterator<Item = S>) -> Cmd<'_> {
        Cmd::new(self, true, agent)
    }

    /// Builds a run with `sh -c script` as the agent.
    pub fn run_sh(&self, script: &str) -> Cmd<'_> {
        self.run(["sh", "-c", script])
    }

    /// Builds a command without bookend.
    pub fn bare<S: Into<OsString>>(&self, argv: impl IntoIterator<Item = S>) -> Cmd<'_> {
        Cmd::new(self, false, argv)
    }

    /// Writes an executable into the world's PATH, such as a stand-in named `claude`.
    pub fn program(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path("bin").join(name);
        let draft = self.path(name);
        // A child writes the file: a fork in another test could inherit our descriptor, and executing the
        // file would fail with ETXTBSY. `mv` leaves processes that execute the previous file undisturbed.
        let mut writer = Command::new("/bin/sh")
            .args(["-c", r#"cat >"$0" && chmod 755 "$0" && mv "$0" "$1""#])
            .args([&draft, &path])
            .stdin(Stdio::piped())
            .spawn()
            .expect("a shell");
        writer.stdin.take().expect("its stdin").write_all(text.as_bytes()).expect("a program's text");
        assert!(writer.wait().expect("its status").success(), "writing {}", path.display());
        path
    }

    pub fn fifo(&self, name: &str) -> Fifo {
        Fifo::make(&self.path(name), self.deadline)
    }

    /// All rows of the ledger, oldest first.
    pub fn rows(&self) -> Vec<Row> {
        self.sql("SELECT * FROM task_history ORDER BY started_at, id")
    }

    /// The only row of the ledger.
    pub fn row(&self) -> Row {
        let mut rows = self.rows();
        assert_eq!(rows.len(), 1, "expected one row: {rows:#?}");
        rows.remove(0)
    }

    pub fn sql(&self, query: &str) -> Vec<Row> {
        ledger::query(&self.ledger(), query)
    }

    /// Changes the ledger as another program might.
    pub fn write(&self, sql: &str) {
        ledger::write(&self.ledger(), sql);
    }

    /// As [`World::sql`], for a ledger at another path below the world's directory.
    pub fn sql_of(&self, ledger: &str, query: &str) -> Vec<Row> {
        ledger::query(&self.path(ledger), query)
    }

    /// Changes the ledger and returns SQLite's error, if any.
    pub fn change(&self, sql: &str) -> rusqlite::Result<()> {
        ledger::change(&self.ledger(), sql)
    }

    pub fn ledger(&self) -> PathBuf {
        self.path("state/bookend/bookend.db")
    }

    /// Sends signals from a separate process; see `probe send`.
    pub fn send<S: ToString>(&self, pid: i32, signals: impl IntoIterator<Item = S>) {
        let words = signals.into_iter().map(|s| s.to_string());
        let argv = ["probe".to_owned(), "send".to_owned(), pid.to_string()];
        let sent = self.bare(argv.into_iter().chain(words)).run();
        assert_eq!(sent.end, End::Code(0), "failed to signal {pid}: {sent:?}");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        procfs::kill_marked(self.dir.path());
    }
}

fn program_under_test() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_bookend"))
}

/// The probe is an example of the package, which `cargo test` builds next to the program.
fn probe() -> &'static Path {
    static PROBE: OnceLock<PathBuf> = OnceLock::new();
    PROBE.get_or_init(|| {
        let path = program_under_test().with_file_name("examples").join("probe");
        assert!(
            path.exists(),
            "{} is missing: `cargo test` builds it, or `cargo build --examples`",
            path.display()
        );
        path
    })
}

/// Runs a command of bookend that runs no agent.
pub fn bookend(world: &World, words: &[&str]) -> Output {
    world.bare(["bookend"].iter().chain(words).copied()).run()
}

/// What a command that succeeds prints.
pub fn stdout_of(world: &World, words: &[&str]) -> String {
    bookend(world, words).ended(End::Code(0)).silent().stdout
}

/// The JSON that a command prints.
pub fn parsed(world: &World, words: &[&str]) -> serde_json::Value {
    let text = stdout_of(world, words);
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// Prints a line that is visible even if the test passes. The test runner captures `println!`.
pub fn print_line(line: &str) {
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Whether this machine meets a test's condition. If not, prints the skip, or panics under
/// `BOOKEND_TEST_ALL=1`.
pub fn possible(test: &str, condition: bool, needs: &str) -> bool {
    if condition {
        return true;
    }
    assert!(
        std::env::var_os("BOOKEND_TEST_ALL").is_none(),
        "{test} needs {needs}, and BOOKEND_TEST_ALL is set"
    );
    print_line(&format!("skipped {test}: needs {needs}"));
    false
}

pub fn on_path(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|p| std::env::split_paths(&p).any(|d| d.join(program).exists()))
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
