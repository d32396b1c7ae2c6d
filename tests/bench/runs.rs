//! A whole `bookend run -- true`, and the delay of its exit, beside programs that are used in the same place.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::Bench;
use crate::agent::{EXITING, nanoseconds};
use crate::figure::{Figure, Measured};
use crate::harness::{Deadline, World, eventually, on_path};
use crate::history;
use crate::measure::{
    Installed, ROUNDS, assert_success, command, in_turns, installed, link_bench, rounds_in_turns, time,
};

pub const RUN: [&str; 4] = ["bookend", "run", "--", "true"];
const TINI: [&str; 4] = ["tini", "-s", "--", "true"];
/// Without `-n` it would store the output, which bookend does not.
const TASK_SPOOLER: [&str; 3] = ["tsp", "-nf", "true"];
const NODE: [&str; 3] = ["node", "-e", "0"];
const GIT_STATUS: [&str; 3] = ["git", "status", "--porcelain"];
/// Programs that start a command in the background; a second command waits for it.
const NQ: &str = "nq -w $(nq true)";
const PUEUE: &str = "pueue wait --quiet $(pueue add --print-task-id true)";
const TARGET: Option<f64> = Some(2.0);

pub fn measure(bench: &Bench) -> Vec<Figure> {
    let (world, old) = (bench.world(), bench.world());
    let in_memory = bench.world_in_memory();
    history::fill(&old, 100_000);
    for world in [&world, &in_memory] {
        time(&mut command(world, &RUN));
    }
    let run = || installed(&world, &RUN);
    let tini = || installed(&world, &TINI);
    let beside_tini = |what, ours: &dyn Fn() -> Installed, target| {
        beside(bench, (what, &TINI.join(" ")), target, ours, &tini)
    };
    let beside_other = |argv: &'static [&'static str]| {
        beside(bench, ("a run", &argv.join(" ")), None, &run, &|| command(&world, argv).into())
    };
    let mut figures = vec![
        beside_tini("noise: tini beside itself", &tini, None),
        beside_tini("a run", &run, TARGET),
        beside_tini("a run after 100,000 others", &|| installed(&old, &RUN), TARGET),
        beside_tini("a run, its ledger in memory", &|| installed(&in_memory, &RUN), None),
        beside_other(&TASK_SPOOLER),
        queued(bench, &world, "nq", NQ, 100),
        pueue(bench, &world),
        beside_other(&NODE),
    ];
    figures.extend(in_worktree(bench, &world));
    figures
}

/// `named`: what is measured, and its peer's command line.
fn beside(
    bench: &Bench,
    named: (&str, &str),
    target: Option<f64>,
    ours: &dyn Fn() -> Installed,
    peer: &dyn Fn() -> Installed,
) -> Figure {
    let (what, beside) = named;
    let program = beside.split(' ').next().expect("the peer's program");
    if !on_path(program) {
        return Figure::not_measured(what, beside, target, program);
    }
    let pairs = rounds_in_turns(bench.pairs(200, 40), ours, peer, time);
    Figure::new(what, beside, target, Measured::beside("ms", &pairs, ROUNDS))
}

/// Beside a program that needs a shell to add a command and to wait for it.
fn queued(bench: &Bench, world: &World, program: &str, script: &str, usual: usize) -> Figure {
    if !on_path(program) {
        return Figure::not_measured("a run", script, None, program);
    }
    let (mut ours, mut theirs) = (command(world, &RUN), command(world, &["sh", "-ec", script]));
    theirs.envs(queue_environment(world));
    // pueue takes seconds: no run is left out, and few are enough.
    let pairs = in_turns(bench.pairs(usual, 5), || time(&mut ours), || time(&mut theirs));
    Figure::new("a run", script, None, Measured::beside("ms", &pairs, pairs.len().min(ROUNDS)))
}

/// The directory of nq's files, and that of pueue's socket.
fn queue_environment(world: &World) -> [(&'static str, PathBuf); 2] {
    let queue = world.path("queue");
    std::fs::create_dir_all(&queue).expect("a directory for the queue");
    ["NQDIR", "XDG_RUNTIME_DIR"].map(|name| (name, queue.clone()))
}

/// Its daemon runs meanwhile.
fn pueue(bench: &Bench, world: &World) -> Figure {
    let command = |name| {
        let mut command = command(world, &[name]);
        command.envs(queue_environment(world));
        command
    };
    let daemon = on_path("pueued").then(|| {
        let daemon = command("pueued").spawn().expect("pueued");
        let is_ready = || command("pueue").arg("status").status().expect("pueue").success();
        eventually(Deadline::new(), "pueued accepts commands", is_ready);
        daemon
    });
    let figure = queued(bench, world, "pueue", PUEUE, 5);
    if let Some(mut daemon) = daemon {
        daemon.kill().and_then(|()| daemon.wait()).expect("pueued's exit");
    }
    figure
}

/// In a git worktree, where bookend asks git what the run changed.
fn in_worktree(bench: &Bench, world: &World) -> Vec<Figure> {
    let worktree = worktree(world);
    let run = || installed(world, &RUN).in_directory(&worktree);
    let git = || Installed::from(command(world, &GIT_STATUS)).in_directory(&worktree);
    let what = "a run in a git worktree";
    vec![
        beside(bench, (what, &TINI.join(" ")), Some(6.0), &run, &|| installed(world, &TINI)),
        beside(bench, (what, &GIT_STATUS.join(" ")), None, &run, &git),
    ]
}

fn worktree(world: &World) -> PathBuf {
    let path = world.path("worktree");
    let git = |words: &[&str]| {
        let mut git = command(world, &[&["git", "-c", "user.name=n", "-c", "user.email=e"], words].concat());
        git.current_dir(&path);
        let status = git.status().expect("git");
        assert_success(&git, status);
    };
    std::fs::create_dir(&path).expect("a directory");
    git(&["init", "-q"]);
    git(&["commit", "-q", "--allow-empty", "-m", "first"]);
    path
}

/// How long after the agent bookend exits.
pub fn measure_exit(bench: &Bench) -> Vec<Figure> {
    let world = bench.world();
    link_bench(&world, EXITING);
    let agent = world.name(&format!("bin/{EXITING}"));
    let worktree = worktree(&world);
    let figure = |what, directory: &Path| {
        let peer = TINI[..3].join(" ");
        if !on_path(TINI[0]) {
            return Figure::not_measured(what, &peer, None, TINI[0]);
        }
        let under = |argv: &[&str]| installed(&world, &[argv, &[&agent]].concat()).in_directory(directory);
        let (ours, theirs) = (|| under(&RUN[..3]), || under(&TINI[..3]));
        let pairs = rounds_in_turns(bench.pairs(200, 40), ours, theirs, exit_delay);
        Figure::new(what, &peer, None, Measured::beside("ms", &pairs, ROUNDS))
    };
    vec![
        figure("exit after the agent", Path::new("/")),
        figure("exit after the agent, in a git worktree", &worktree),
    ]
}

/// The milliseconds from the time that the agent prints until the supervisor is reaped.
fn exit_delay(command: &mut Command) -> f64 {
    let mut child: Child = command.stdout(Stdio::piped()).spawn().expect("the supervisor");
    let status = child.wait().expect("its status");
    let exited = nanoseconds();
    assert_success(command, status);
    let mut printed = String::new();
    child.stdout.take().expect("its stdout").read_to_string(&mut printed).expect("the agent's time");
    (exited - printed.parse::<i64>().expect("nanoseconds")) as f64 / 1e6
}
