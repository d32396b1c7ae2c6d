//! Starts the programs that are compared, and times them in turns.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Instant;

use tempfile::TempPath;

use crate::figure::Pair;
use crate::harness::World;
use crate::{scratch, target};

/// The rounds of a figure. Each round uses a new copy of the programs.
pub const ROUNDS: usize = 10;

/// A command that can be started repeatedly. Its program is an absolute path, so that std uses vfork(2).
pub fn command(world: &World, argv: &[&str]) -> Command {
    let mut command = plain(argv);
    // `/` is not a git worktree; in a worktree bookend runs git.
    command.env_clear().envs(world.environment()).current_dir("/");
    command
}

/// Like [`command`], in the current environment and directory.
pub fn plain(argv: &[&str]) -> Command {
    let null = || Stdio::from(File::options().read(true).write(true).open("/dev/null").expect("/dev/null"));
    let mut command = Command::new(absolute(argv[0]));
    command.args(&argv[1..]).stdin(null()).stdout(null()).stderr(null());
    command
}

/// A command together with the copy of the program that it starts.
pub struct Installed {
    command: Command,
    _program: Option<TempPath>,
}

impl From<Command> for Installed {
    fn from(command: Command) -> Installed {
        Installed { command, _program: None }
    }
}

/// Like [`command`], with a new copy of the program. The start of a program takes some per cent more or less
/// depending on where its pages are in memory.
pub fn installed(world: &World, argv: &[&str]) -> Installed {
    let copy = install(argv[0]);
    let command = command(world, &[&[copy.to_str().expect("UTF-8")], &argv[1..]].concat());
    Installed { command, _program: Some(copy) }
}

impl Installed {
    pub fn in_directory(mut self, directory: &Path) -> Installed {
        self.command.current_dir(directory);
        self
    }
}

pub fn install(program: &str) -> TempPath {
    let copy = tempfile::Builder::new().prefix("installed.").tempfile_in(scratch()).expect("a file");
    let copy = copy.into_temp_path();
    fs::copy(absolute(program), &copy).unwrap_or_else(|e| panic!("installing {program}: {e}"));
    copy
}

fn absolute(name: &str) -> PathBuf {
    match name {
        "bookend" => return bookend(),
        path if path.contains('/') => return path.into(),
        _ => {}
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|d| d.join(name)).find(|p| p.is_file());
    found.unwrap_or_else(|| panic!("{name} is not in PATH"))
}

/// The release, not the build that the tests use.
pub fn bookend() -> PathBuf {
    let path = target("release/bookend");
    assert!(path.exists(), "{} is missing: `just bench` builds it", path.display());
    path
}

/// Puts this program into the world's PATH under the name of an agent.
pub fn link_bench(world: &World, name: &str) {
    let bench = std::env::current_exe().expect("the path of the bench");
    symlink(bench, world.path("bin").join(name)).expect("a link in the world's PATH");
}

/// The milliseconds from the start of a process until it is reaped.
pub fn time(command: &mut Command) -> f64 {
    let began = Instant::now();
    let status = command.spawn().and_then(|mut child| child.wait());
    let took = began.elapsed();
    assert_success(command, status.unwrap_or_else(|e| panic!("{command:?}: {e}")));
    took.as_secs_f64() * 1e3
}

pub fn assert_success(command: &Command, status: ExitStatus) {
    assert!(status.success(), "{command:?}: {status}");
}

/// Measures ours and theirs in turns, each first in every second pair.
pub fn in_turns(pairs: usize, mut ours: impl FnMut() -> f64, mut theirs: impl FnMut() -> f64) -> Vec<Pair> {
    let mut pair = |number| {
        if number % 2 == 0 {
            let ours = ours();
            Pair { ours, theirs: theirs() }
        } else {
            let theirs = theirs();
            Pair { ours: ours(), theirs }
        }
    };
    (0..pairs).map(&mut pair).collect()
}

/// Like [`in_turns`], in [`ROUNDS`] rounds with commands made anew for each. The first runs do not count.
pub fn rounds_in_turns(
    pairs: usize,
    ours: impl Fn() -> Installed,
    theirs: impl Fn() -> Installed,
    measure: impl Fn(&mut Command) -> f64,
) -> Vec<Pair> {
    let round = |_| {
        let (mut ours, mut theirs) = (ours(), theirs());
        measure(&mut ours.command);
        measure(&mut theirs.command);
        in_turns(pairs.div_ceil(ROUNDS), || measure(&mut ours.command), || measure(&mut theirs.command))
    };
    (0..ROUNDS).flat_map(round).collect()
}

/// Whole runs of two commands in turns. The first runs do not count.
pub fn runs_in_turns(pairs: usize, ours: &mut Command, theirs: &mut Command) -> Vec<Pair> {
    for _ in 0..5 {
        time(ours);
        time(theirs);
    }
    in_turns(pairs, || time(ours), || time(theirs))
}
