//! Starting programs with as little of our own as can be, and taking their time in turns.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Instant;

use crate::figure::Pair;
use crate::harness::World;
use crate::target;

/// A command that can be started again and again: its program is an absolute path, so that std spawns it
/// (vfork) instead of forking us.
pub fn command(world: &World, argv: &[&str]) -> Command {
    let bookend = bookend();
    let program = if argv[0] == "bookend" { bookend.to_str().expect("UTF-8") } else { argv[0] };
    let mut command = plain(&[&[program], &argv[1..]].concat());
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

fn absolute(name: &str) -> PathBuf {
    if name.contains('/') {
        return name.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|d| d.join(name)).find(|p| p.is_file());
    found.unwrap_or_else(|| panic!("{name} is not in PATH"))
}

/// What is released, not what the tests drive.
pub fn bookend() -> PathBuf {
    let path = target("release/bookend");
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

/// Whole runs of two commands in turns; a few first that do not count.
pub fn runs_in_turns(pairs: usize, ours: &mut Command, theirs: &mut Command) -> Vec<Pair> {
    for _ in 0..5 {
        time(ours);
        time(theirs);
    }
    in_turns(pairs, || time(ours), || time(theirs))
}
