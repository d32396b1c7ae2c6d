//! A world of its own for each test: directory, environment, ledger, agents. Nothing is shared, nothing is
//! left behind, and nothing waits for time to pass: every wait is for an event, with one deadline.
//!
//! `BOOKEND_TEST_INSTEAD` puts something else in bookend's place (`bare`: nothing; `tini -s --`, …). What
//! the bare command fails is a wrong check; what others fail shows what a check is worth.
//! `BOOKEND_TEST_ALL=1`: what this machine cannot check is a failure instead of a skip.

mod cmd;
mod document;
mod fifo;
mod ledger;
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

use tempfile::TempDir;

pub use cmd::{Cmd, End, Output, Proc};
pub use document::{DocumentBlock, blocks, document, documents, prose};
pub use fifo::Fifo;
pub use ledger::Row;
pub use procfs::{
    children, group, hides, inhabitants, marked, memory, open_files, pending, stat_field, state, switches,
};
pub use pty::Pty;
pub use stand_in::STREAM;
pub use wait::{Deadline, eventually, pause, ready};

/// What stands before the agent's argv.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Under {
    Bookend,
    /// Another program, with its arguments; nothing at all for the bare command.
    Other(Vec<String>),
}

impl Under {
    fn from_environment() -> Under {
        match std::env::var("BOOKEND_TEST_INSTEAD").as_deref() {
            Err(_) | Ok("") => Under::Bookend,
            Ok("bare") => Under::Other(Vec::new()),
            Ok(words) => Under::Other(words.split_whitespace().map(str::to_owned).collect()),
        }
    }
}

/// One test's world. Whatever still lives when it is dropped is killed, found by the path of its directory in
/// the environment.
pub struct World {
    dir: TempDir,
    pub under: Under,
    deadline: Deadline,
}

impl World {
    pub fn new() -> World {
        let world = World::without_probe(&std::env::temp_dir());
        symlink(probe(), world.path("bin/probe")).expect("the probe in the world's PATH");
        world
    }

    /// A world below `parent`, for what needs no agent of ours.
    pub fn without_probe(parent: &Path) -> World {
        let mut builder = tempfile::Builder::new();
        let dir = builder.prefix("bookend-test.").tempdir_in(parent).expect("a temporary directory");
        for name in ["home", "state", "tmp", "bin"] {
            fs::create_dir(dir.path().join(name)).expect("a directory of the world");
        }
        let world = World { dir, under: Under::from_environment(), deadline: Deadline::new() };
        symlink(bookend(), world.path("bin/bookend")).expect("bookend in the world's PATH");
        world
    }

    /// A world in which bookend is what stands before the agent, or `None` (said on stderr) where something
    /// else does: for checks of what only bookend does.
    pub fn of_bookend(test: &str) -> Option<World> {
        let world = World::new();
        if world.under == Under::Bookend {
            return Some(world);
        }
        say(&format!("skipped {test}: it is about bookend itself"));
        None
    }

    /// A world that belongs to a user without privileges, and the specs that make a command one of theirs:
    /// none where we are such a user ourselves.
    pub fn of_nobody(test: &str) -> Option<(World, Vec<String>)> {
        const NOBODY: u32 = 65534;
        let mut world = World::of_bookend(test)?;
        if !is_root() {
            return Some((world, Vec::new()));
        }
        // The program may lie where only its owner can go.
        let copy = world.path("bin/bookend");
        fs::remove_file(&copy).expect("the link to bookend");
        // To write 60 MB takes longer than a test may on a disk that is busy.
        if fs::hard_link(bookend(), &copy).is_err() {
            let copied = Command::new("cp").arg(bookend()).arg(&copy).status().expect("cp");
            assert!(copied.success(), "copying bookend");
        }
        fs::set_permissions(world.dir.path(), fs::Permissions::from_mode(0o755)).expect("its mode");
        for name in ["home", "state", "tmp"] {
            chown(world.path(name), Some(NOBODY), Some(NOBODY)).expect("its owner");
        }
        world.renew_deadline();
        Some((world, vec![format!("uid={NOBODY}")]))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The same as a string, for command lines.
    pub fn name(&self, name: &str) -> String {
        self.path(name).to_str().expect("UTF-8").to_owned()
    }

    /// What has taken long was the point: the time for the rest begins now.
    pub fn renew_deadline(&mut self) {
        self.deadline = Deadline::new();
    }

    pub fn deadline(&self) -> Deadline {
        self.deadline
    }

    /// The environment that every command of this world gets, and no other.
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
            // Unquoted in a shell line: what stands before the agent.
            ("W", self.prefix(&[]).join(" ").into()),
        ];
        // What `just sanitize` asks of the sanitizer holds here too.
        environment.extend(std::env::var_os("ASAN_OPTIONS").map(|options| ("ASAN_OPTIONS", options)));
        environment
    }

    /// What stands before the agent; `options` are bookend's alone.
    pub fn prefix(&self, options: &[String]) -> Vec<String> {
        match &self.under {
            Under::Bookend => ["bookend", "run"]
                .map(str::to_owned)
                .into_iter()
                .chain(options.iter().cloned())
                .chain(["--".to_owned()])
                .collect(),
            Under::Other(words) => words.clone(),
        }
    }

    /// `bookend run -- agent…`
    pub fn run<S: Into<OsString>>(&self, agent: impl IntoIterator<Item = S>) -> Cmd<'_> {
        Cmd::new(self, true, agent)
    }

    /// `sh -c script` as the agent.
    pub fn run_sh(&self, script: &str) -> Cmd<'_> {
        self.run(["sh", "-c", script])
    }

    /// A command with nothing before it.
    pub fn bare<S: Into<OsString>>(&self, argv: impl IntoIterator<Item = S>) -> Cmd<'_> {
        Cmd::new(self, false, argv)
    }

    /// An executable of the world's PATH, e.g. a stand-in named `claude`.
    pub fn program(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path("bin").join(name);
        let draft = self.path(name);
        // Another process writes it: a fork of another test could hold our descriptor, and then nobody could
        // execute the file (ETXTBSY). And whoever executes the former one goes on doing so.
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

    /// Every row of the ledger, oldest first.
    pub fn rows(&self) -> Vec<Row> {
        self.sql("SELECT * FROM task_history ORDER BY started_at, id")
    }

    /// The one row that is to be there.
    pub fn row(&self) -> Row {
        let mut rows = self.rows();
        assert_eq!(rows.len(), 1, "one row: {rows:#?}");
        rows.remove(0)
    }

    pub fn sql(&self, query: &str) -> Vec<Row> {
        ledger::query(&self.ledger(), query)
    }

    /// Changes the ledger behind bookend's back, as another program might.
    pub fn write(&self, sql: &str) {
        ledger::write(&self.ledger(), sql);
    }

    /// As [`World::sql`], from a ledger at another place of the world.
    pub fn sql_of(&self, ledger: &str, query: &str) -> Vec<Row> {
        ledger::query(&self.path(ledger), query)
    }

    /// Changes the ledger by hand.
    pub fn change(&self, sql: &str) -> rusqlite::Result<()> {
        ledger::change(&self.ledger(), sql)
    }

    pub fn ledger(&self) -> PathBuf {
        self.path("state/bookend/bookend.db")
    }

    /// Sends signals by a process of its own; see `probe send`.
    pub fn send<S: ToString>(&self, pid: i32, signals: impl IntoIterator<Item = S>) {
        let words = signals.into_iter().map(|s| s.to_string());
        let argv = ["probe".to_owned(), "send".to_owned(), pid.to_string()];
        let sent = self.bare(argv.into_iter().chain(words)).run();
        assert_eq!(sent.end, End::Code(0), "sending to {pid}: {sent:?}");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        procfs::kill_marked(self.dir.path());
    }
}

fn bookend() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_bookend"))
}

/// The probe is an example of the package: `cargo test` puts it beside the program.
fn probe() -> &'static Path {
    static PROBE: OnceLock<PathBuf> = OnceLock::new();
    PROBE.get_or_init(|| {
        let path = bookend().with_file_name("examples").join("probe");
        assert!(
            path.exists(),
            "{} is missing: `cargo test` builds it, or `cargo build --examples`",
            path.display()
        );
        path
    })
}

/// A line that is seen although the test passes (the test runner keeps what `println!` says).
pub fn say(line: &str) {
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Whether a check can be made here. If not: says so, or panics under `BOOKEND_TEST_ALL=1`.
pub fn possible(test: &str, condition: bool, needs: &str) -> bool {
    if condition {
        return true;
    }
    assert!(
        std::env::var_os("BOOKEND_TEST_ALL").is_none(),
        "{test} needs {needs}, and BOOKEND_TEST_ALL is set"
    );
    say(&format!("skipped {test}: needs {needs}"));
    false
}

pub fn on_path(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|p| std::env::split_paths(&p).any(|d| d.join(program).exists()))
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
