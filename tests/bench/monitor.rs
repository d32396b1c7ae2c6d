//! `monitor` beside many live supervisors that are killed one by one: how soon each death is noticed and
//! settled, beside `recover` at each death and beside `recover` once a second. Also what a monitor costs
//! while all live.

use std::fs;
use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::process::{PidfdFlags, pidfd_open};

use crate::Bench;
use crate::figure::{Figure, Measured, Pair, Spread};
use crate::harness::{Deadline, Fleet, Monitor, World, context_switches, memory, pause, percentile, ready};
use crate::measure::{assert_success, bookend, command};

const RECOVER: &str = "bookend recover";
const POLL: &str = "while sleep 1; do bookend recover; done";
const DEATHS_A_SECOND: u32 = 8;
/// How long deaths may stay unsettled before the measurement fails.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a monitor may need until it rests.
const SETTLING: Duration = Duration::from_secs(3);

pub fn measure(bench: &Bench) -> Vec<Figure> {
    let world = bench.world();
    world.install(&bookend());
    let live = if bench.quick { 200 } else { 1_000 };
    let mut fleet = Fleet::new(&world);
    fleet.grow(live);
    let rounds = bench.pairs(5, 2);
    let rounds: Vec<Round> = (0..rounds).map(|_| Round::measure(&world, &mut fleet, live)).collect();
    let mut figures = one_by_one(&rounds, live);
    figures.push(steadily(bench, &world, &mut fleet, live));
    figures.extend(at_rest(bench, &world, &mut fleet, live));
    figures
}

/// Some deaths with each of the three. The times are in milliseconds.
struct Round {
    monitor: Deaths,
    recover: Deaths,
    poll: Deaths,
}

/// Deaths that were settled in the same way.
struct Deaths {
    noticed: Vec<f64>,
    durable: Vec<f64>,
    /// The processor time of each.
    cpu: f64,
}

impl Round {
    fn measure(world: &World, fleet: &mut Fleet<'_>, live: usize) -> Round {
        Round {
            monitor: Deaths::measure(fleet, live, 40, |fleet, deaths| {
                let monitor = Monitor::start(world, &[]);
                let before = cpu(monitor.pid());
                for _ in 0..deaths {
                    fleet.kill();
                    settle(fleet);
                }
                let used = cpu(monitor.pid()) - before;
                monitor.stop().silent();
                used
            }),
            recover: Deaths::measure(fleet, live, 5, |fleet, deaths| {
                (0..deaths).map(|_| recover_after_death(world, fleet)).sum()
            }),
            poll: Deaths::measure(fleet, live, 3, |fleet, deaths| {
                let mut shell = command(world, &["/bin/sh", "-c", POLL]).spawn().expect("a shell");
                // At other moments between two recoveries.
                for n in 0..deaths {
                    pause(Duration::from_millis(100 + 300 * n as u64));
                    fleet.kill();
                    settle(fleet);
                }
                shell.kill().and_then(|()| shell.wait()).expect("the end of the shell");
                0.0
            }),
        }
    }
}

impl Deaths {
    fn measure(
        fleet: &mut Fleet<'_>,
        live: usize,
        deaths: usize,
        kill: impl FnOnce(&mut Fleet<'_>, usize) -> f64,
    ) -> Deaths {
        fleet.grow(live);
        let first = fleet.deaths.len();
        let used = kill(fleet, deaths);
        let times = &fleet.deaths[first..];
        Deaths {
            noticed: times.iter().filter_map(|d| d.noticed.map(milliseconds)).collect(),
            durable: times.iter().filter_map(|d| d.durable.map(milliseconds)).collect(),
            cpu: used / deaths as f64,
        }
    }
}

/// Kills one supervisor and starts a recovery at once. Returns the processor time of the recovery.
fn recover_after_death(world: &World, fleet: &mut Fleet<'_>) -> f64 {
    let mut recover = command(world, &["bookend", "recover"]);
    fleet.kill();
    let mut process = recover.stdout(Stdio::null()).spawn().expect("a recovery");
    settle(fleet);
    let used = cpu_until_exit(&process);
    assert_success(&recover, process.wait().expect("its status"));
    used
}

/// The processor time of a child that exits. It can be read until the child is waited for.
fn cpu_until_exit(process: &Child) -> f64 {
    let handle = pidfd_open(rustix::process::Pid::from_child(process), PidfdFlags::empty());
    ready(&[&handle.expect("a pidfd of our child")], PATIENCE);
    cpu(process.id() as i32)
}

/// The processor time that a process with one thread has used, in milliseconds.
fn cpu(pid: i32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).expect("its processor time");
    let nanoseconds: f64 = text.split(' ').next().and_then(|n| n.parse().ok()).expect("a number");
    nanoseconds / 1e6
}

fn settle(fleet: &mut Fleet<'_>) {
    let pending = fleet.settled(Deadline::within(PATIENCE));
    assert!(pending.is_empty(), "not settled: {pending:?}");
}

fn one_by_one(rounds: &[Round], live: usize) -> Vec<Figure> {
    let all = |of: fn(&Deaths) -> &[f64]| -> Vec<f64> {
        rounds.iter().flat_map(|r| of(&r.monitor)).copied().collect()
    };
    let (noticed, durable) = (all(|d| &d.noticed), all(|d| &d.durable));
    let alone = |what: &str, values: &[f64], part, limit| {
        let what = format!("`monitor`, {live} supervisors, {what}");
        Figure::new(&what, "", Some(limit), at_percentile(values, part))
    };
    let beside = |what: &str, peer, theirs: fn(&Round) -> f64, ours: fn(&Round) -> f64| {
        let pairs: Vec<Pair> = rounds.iter().map(|r| Pair { ours: ours(r), theirs: theirs(r) }).collect();
        let what = format!("`monitor`, {live} supervisors, {what}");
        Figure::new(&what, peer, None, Measured::beside("ms", &pairs, pairs.len()))
    };
    vec![
        alone("agent signalled, p50", &noticed, 0.5, 50.0),
        alone("agent signalled, p99", &noticed, 0.99, 50.0),
        alone("row durable, p50", &durable, 0.5, 100.0),
        alone("row durable, p99", &durable, 0.99, 250.0),
        beside("agent signalled", RECOVER, |r| p50(&r.recover.noticed), |r| p50(&r.monitor.noticed)),
        beside("row durable", RECOVER, |r| p50(&r.recover.durable), |r| p50(&r.monitor.durable)),
        beside("row durable", POLL, |r| p50(&r.poll.durable), |r| p50(&r.monitor.durable)),
        beside("processor time of a death", RECOVER, |r| r.recover.cpu, |r| r.monitor.cpu),
    ]
}

/// Many deaths a second: a backlog would delay the last ones.
fn steadily(bench: &Bench, world: &World, fleet: &mut Fleet<'_>, live: usize) -> Figure {
    let seconds = if bench.quick { 9 } else { 30 };
    fleet.grow(live);
    let monitor = Monitor::start(world, &[]);
    let first = fleet.deaths.len();
    fleet.kill_steadily(seconds * DEATHS_A_SECOND as usize, DEATHS_A_SECOND);
    settle(fleet);
    monitor.stop().silent();
    let times: Vec<f64> = fleet.deaths[first..].iter().filter_map(|d| d.durable.map(milliseconds)).collect();
    let third = times.len() / 3;
    let pair = Pair { ours: p50(&times[times.len() - third..]), theirs: p50(&times[..third]) };
    let part = seconds / 3;
    let what = format!("`monitor`, {DEATHS_A_SECOND} deaths a second, row durable in the last {part} s");
    Figure::new(&what, &format!("in the first {part} s"), Some(2.0), Measured::beside("ms", &[pair], 1))
}

/// Wake-ups and memory while all supervisors live, after many deaths at once.
fn at_rest(bench: &Bench, world: &World, fleet: &mut Fleet<'_>, live: usize) -> [Figure; 2] {
    const AT_ONCE: usize = 100;
    let seconds = if bench.quick { 10 } else { 30 };
    let monitor = Monitor::start(world, &[]);
    fleet.grow(live);
    (0..AT_ONCE).for_each(|_| fleet.kill());
    settle(fleet);
    pause(SETTLING);
    let before = context_switches(monitor.pid());
    pause(Duration::from_secs(seconds));
    let switches = (context_switches(monitor.pid()) - before) as f64 * 60.0 / seconds as f64;
    let (anonymous, _) = memory(monitor.pid()).expect("the memory of the monitor");
    monitor.stop().silent();
    let figure = |what: &str, limit, unit, value| {
        let what = format!("{what} after {AT_ONCE} deaths at once, {live} supervisors");
        Figure::new(&what, "", Some(limit), Measured::alone(unit, &[value]))
    };
    [
        figure("wake-ups of `monitor`", 0.0, "/min", switches),
        figure("memory of `monitor`", 2.0, "MiB", anonymous as f64 / 1024.0),
    ]
}

/// A percentile of all deaths; the range is that of the single deaths.
fn at_percentile(values: &[f64], part: f64) -> Measured {
    let [least, value, most] = [0.0, part, 1.0].map(|part| percentile(values, part));
    let spread = Spread { min: least, median: value, max: most };
    Measured { unit: "ms", ours: value, theirs: None, spread }
}

fn p50(values: &[f64]) -> f64 {
    percentile(values, 0.5)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
