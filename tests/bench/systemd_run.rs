//! A whole run beside `systemd-run --wait`, on a booted systemd of its own.

use std::path::Path;

use crate::Bench;
use crate::figure::{Figure, Measured, Pair};
use crate::machine::Machine;
use crate::measure::{install, plain, runs_in_turns};

const RUN: &str = "bookend run -- true";
const SYSTEMD_RUN: &str = "systemd-run --wait --quiet true";
/// The directory of the ledger in the machine; it is on the disk of the host.
const STATE: &str = "/srv/bench";

pub fn measure(bench: &Bench) -> Vec<Figure> {
    let (what, target) = ("a run", Some(0.3));
    let world = bench.world();
    let bind = |from: &Path, to: &str| format!("{}:{to}", from.display());
    let installed = install("bookend");
    let program = bind(&installed, "/usr/bin/bookend:ro");
    let us = bind(&std::env::current_exe().expect("the path of the bench"), "/usr/bin/bench:ro");
    let state = bind(&world.path("state"), STATE);
    let options = ["--bind", &program, "--bind", &us, "--bind", &state];
    let Some(machine) = Machine::start("measuring beside systemd-run", &options) else {
        let needs = "root, cgroup v2, systemd and dbus";
        return vec![Figure::not_measured(what, SYSTEMD_RUN, target, needs)];
    };
    let pairs = bench.pairs(200, 40);
    let script = format!("XDG_STATE_HOME={STATE} exec bench pairs {pairs} '{RUN}' '{SYSTEMD_RUN}'");
    let pairs: Vec<(f64, f64)> = serde_json::from_str(&machine.sh(&script)).expect("pairs of times");
    let pairs: Vec<Pair> = pairs.into_iter().map(|(ours, theirs)| Pair { ours, theirs }).collect();
    vec![Figure::new(what, SYSTEMD_RUN, target, Measured::beside("ms", &pairs, 10))]
}

/// Runs in the machine: prints the times of two commands in turns.
pub fn pairs(pairs: usize, ours: &str, theirs: &str) {
    let command = |words: &str| plain(&words.split(' ').collect::<Vec<_>>());
    let pairs = runs_in_turns(pairs, &mut command(ours), &mut command(theirs));
    let pairs: Vec<(f64, f64)> = pairs.into_iter().map(|p| (p.ours, p.theirs)).collect();
    println!("{}", serde_json::json!(pairs));
}
