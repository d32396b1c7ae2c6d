//! A whole `bookend run -- true` beside what starts `true` and keeps no row, or keeps one.

use std::process::Command;

use crate::Bench;
use crate::figure::{Figure, Measured, Target};
use crate::harness::{World, on_path};
use crate::history;
use crate::measure::{command, ended_well, runs_in_turns};

pub const RUN: [&str; 4] = ["bookend", "run", "--", "true"];
pub const TINI: [&str; 4] = ["tini", "-s", "--", "true"];
/// It keeps no output, as bookend keeps none.
pub const TASK_SPOOLER: [&str; 3] = ["tsp", "-nf", "true"];
/// The past of a ledger that has been used for years.
const PAST: u32 = 100_000;
const TARGET: Option<Target> = Some(Target::AtMost(2.0));

pub fn measure(bench: &Bench) -> Vec<Figure> {
    let world = bench.world();
    let in_memory = bench.world_in_memory();
    let old = bench.world();
    history::fill(&old, PAST);
    let run = || command(&world, &RUN);
    let mut in_worktree = run();
    in_worktree.current_dir(worktree(&world));
    vec![
        beside(bench, &world, "noise: tini beside itself", command(&world, &TINI), &TINI, None),
        beside(bench, &world, "a run, whole", run(), &TINI, TARGET),
        beside(bench, &world, "a run after 100,000 others", command(&old, &RUN), &TINI, TARGET),
        beside(bench, &in_memory, "a run, its ledger in memory", command(&in_memory, &RUN), &TINI, None),
        beside(bench, &world, "a run in a git worktree", in_worktree, &TINI, None),
        beside(bench, &world, "a run, whole", run(), &["dumb-init", "true"], None),
        beside(bench, &world, "a run, whole", run(), &["timeout", "10", "true"], None),
        beside(bench, &world, "a run, whole", run(), &TASK_SPOOLER, None),
    ]
}

fn beside(
    bench: &Bench,
    world: &World,
    what: &str,
    mut ours: Command,
    peer: &[&str],
    target: Option<Target>,
) -> Figure {
    let name = peer.join(" ");
    if !on_path(peer[0]) {
        return Figure::not_measured(what, &name, target, peer[0]);
    }
    let pairs = runs_in_turns(bench.pairs(300, 60), &mut ours, &mut command(world, peer));
    Figure::new(what, &name, target, Measured::beside("ms", &pairs, 10))
}

/// Where agents work: bookend asks git what a run has changed.
fn worktree(world: &World) -> std::path::PathBuf {
    let path = world.path("worktree");
    let git = |words: &[&str]| {
        let mut git = command(world, &[&["git", "-c", "user.name=n", "-c", "user.email=e"], words].concat());
        git.current_dir(&path);
        let status = git.status().expect("git");
        ended_well(&git, status);
    };
    std::fs::create_dir(&path).expect("a directory");
    git(&["init", "-q"]);
    git(&["commit", "-q", "--allow-empty", "-m", "first"]);
    path
}
