//! A whole `bookend run -- true` beside what starts `true` and keeps no row, or keeps one.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempPath;

use crate::Bench;
use crate::figure::{Figure, Measured, Target};
use crate::harness::{World, on_path};
use crate::history;
use crate::measure::{ROUNDS, command, ended_well, installed, rounds_in_turns, time};

pub const RUN: [&str; 4] = ["bookend", "run", "--", "true"];
pub const TINI: [&str; 4] = ["tini", "-s", "--", "true"];
/// It keeps no output, as bookend keeps none.
pub const TASK_SPOOLER: [&str; 3] = ["tsp", "-nf", "true"];
/// The past of a ledger that has been used for years.
const PAST: u32 = 100_000;
/// The figure that says what the two rows themselves take.
pub const LEAST: &str = "two rows, and nothing else";
const TARGET: Option<Target> = Some(Target::AtMost(2.0));

pub fn measure(bench: &Bench) -> Vec<Figure> {
    let world = bench.world();
    let in_memory = bench.world_in_memory();
    let old = bench.world();
    history::fill(&old, PAST);
    for world in [&world, &in_memory] {
        time(&mut command(world, &RUN));
    }
    let worktree = worktree(&world);
    let in_worktree = || {
        let (program, mut run) = installed(&world, &RUN);
        run.current_dir(&worktree);
        (program, run)
    };
    let run = || installed(&world, &RUN);
    let tini = |what, ours: &dyn Fn() -> (TempPath, Command), target| {
        beside(bench, &world, what, ours, &TINI, target)
    };
    vec![
        tini("noise: tini beside itself", &|| installed(&world, &TINI), None),
        tini("a run, whole", &run, TARGET),
        tini("a run after 100,000 others", &|| installed(&old, &RUN), TARGET),
        tini("a run, its ledger in memory", &|| installed(&in_memory, &RUN), None),
        tini(LEAST, &|| installed(&world, &least(&world.ledger())), None),
        tini("the same, its ledger in memory", &|| installed(&in_memory, &least(&in_memory.ledger())), None),
        tini("a run in a git worktree", &in_worktree, Some(Target::AtMost(6.0))),
        beside(bench, &world, "a run, whole", &run, &["dumb-init", "true"], None),
        beside(bench, &world, "a run, whole", &run, &["timeout", "10", "true"], None),
        beside(bench, &world, "a run, whole", &run, &TASK_SPOOLER, None),
    ]
}

fn beside(
    bench: &Bench,
    world: &World,
    what: &str,
    ours: &dyn Fn() -> (TempPath, Command),
    peer: &[&str],
    target: Option<Target>,
) -> Figure {
    let name = peer.join(" ");
    if !on_path(peer[0]) {
        return Figure::not_measured(what, &name, target, peer[0]);
    }
    let pairs = rounds_in_turns(bench.pairs(300, 60), ours, || installed(world, peer));
    Figure::new(what, &name, target, Measured::beside("ms", &pairs, ROUNDS))
}

/// What keeps two durable rows of `true` in a ledger of bookend's, and does nothing else for it.
pub fn least(ledger: &Path) -> [&str; 3] {
    ["least", ledger.to_str().expect("UTF-8"), "true"]
}

/// Where agents work: bookend asks git what a run has changed.
fn worktree(world: &World) -> PathBuf {
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
