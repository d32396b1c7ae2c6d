//! Starting programs with as little of our own as can be, and taking their time in turns.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Instant;

use tempfile::TempPath;

use crate::figure::Pair;
use crate::harness::World;
use crate::{scratch, target};

/// Into so many rounds the runs of a figure are cut, each with programs of its own.
pub const ROUNDS: usize = 10;

/// A command that can be started again and again: its program is an absolute path, so that std spawns it
/// (vfork) instead of forking us.
pub fn command(world: &World, argv: &[&str]) -> Command {
    let mut command = plain(argv);
    // No git worktree: bookend asks git what a run made of one.
    command.env_clear().envs(world.environment()).current_dir("/");
    command
}

/// As [`command`], in the environment and the directory that there are.
pub fn plain(argv: &[&str]) -> Command {
    let nothing =
        || Stdio::from(File::options().read(true).write(true).open("/dev/null").expect("/dev/null"));
    let mut command = Command::new(absolute(argv[0]));
    command.args(&argv[1..]).stdin(nothing()).stdout(nothing()).stderr(nothing());
    command
}

/// As [`command`], of a copy of the program, made as who installs it makes one. How fast a program starts
/// depends on where its pages happen to lie in memory, by several per cent.
pub fn installed(world: &World, argv: &[&str]) -> (TempPath, Command) {
    let copy = install(argv[0]);
    let command = command(world, &[&[copy.to_str().expect("UTF-8")], &argv[1..]].concat());
    (copy, command)
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
        "least" => return least(),
        path if path.contains('/') => return path.into(),
        _ => {}
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|d| d.join(name)).find(|p| p.is_file());
    found.unwrap_or_else(|| panic!("{name} is not in PATH"))
}

/// What is released, not what the tests drive.
pub fn bookend() -> PathBuf {
    built("release/bookend")
}

/// What does the least that keeps two rows: `least.rs`.
fn least() -> PathBuf {
    built("release/examples/least")
}

fn built(name: &str) -> PathBuf {
    let path = target(name);
    assert!(path.exists(), "{} is missing: `just bench` builds it", path.display());
    path
}

/// The milliseconds from before its start until it was reaped.
pub fn time(command: &mut Command) -> f64 {
    let began = Instant::now();
    let status = command.spawn().and_then(|mut child| child.wait());
    let took = began.elapsed();
    ended_well(command, status.unwrap_or_else(|e| panic!("{command:?}: {e}")));
    took.as_secs_f64() * 1e3
}

pub fn ended_well(command: &Command, status: ExitStatus) {
    assert!(status.success(), "{command:?}: {status}");
}

/// Ours and theirs in turns, changing who is first.
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

/// As [`runs_in_turns`], in rounds, with both programs [`installed`] anew for each.
pub fn rounds_in_turns(
    pairs: usize,
    ours: impl Fn() -> (TempPath, Command),
    theirs: impl Fn() -> (TempPath, Command),
) -> Vec<Pair> {
    let round = |_| {
        let ((_our_program, mut ours), (_their_program, mut theirs)) = (ours(), theirs());
        runs_in_turns(pairs.div_ceil(ROUNDS), &mut ours, &mut theirs)
    };
    (0..ROUNDS).flat_map(round).collect()
}

/// Whole runs of two commands in turns; a few first that do not count.
pub fn runs_in_turns(pairs: usize, ours: &mut Command, theirs: &mut Command) -> Vec<Pair> {
    for _ in 0..5 {
        time(ours);
        time(theirs);
    }
    in_turns(pairs, || time(ours), || time(theirs))
}
