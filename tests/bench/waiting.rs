//! What a supervisor costs while its agent prints nothing: memory and wake-ups. Also the program's size.

use std::fs;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::Bench;
use crate::agent::STREAM;
use crate::figure::{Figure, Measured};
use crate::harness::{World, context_switches, memory, pause};
use crate::measure::{assert_success, bookend, command, link_bench};

/// A name, bookend's options, and whether bookend captures the agent's output.
type Setup = (&'static str, &'static [&'static str], bool);
const SETUPS: [Setup; 4] = [
    ("uncaptured", &[], false),
    ("captured", &[], true),
    ("uncaptured, --timeout 1h", &["--timeout", "1h"], false),
    ("captured, --timeout 1h --idle-timeout 1h", &["--timeout", "1h", "--idle-timeout", "1h"], true),
];
/// The supervisors of each setup.
const EACH: usize = 3;
/// bookend writes the agent's counts once more, at most a second after the agent's last line.
const SETTLING: Duration = Duration::from_secs(3);

pub fn measure_size(_: &Bench) -> Vec<Figure> {
    let bytes = fs::metadata(bookend()).expect("the program").len();
    let measured = Measured::alone("MiB", &[mib(bytes)]);
    vec![Figure::new("the program's size", "", Some(4.0), measured)]
}

pub fn measure_memory(bench: &Bench) -> Vec<Figure> {
    let world = world(bench);
    let figures = SETUPS[..2].iter().map(|setup| {
        let waiting: Vec<Waiting> = (0..EACH).map(|_| Waiting::start(&world, setup)).collect();
        pause(SETTLING);
        let values: Vec<f64> = waiting.iter().map(|w| mib(w.anonymous())).collect();
        waiting.into_iter().for_each(Waiting::end);
        let what = format!("memory while the agent waits, {}", setup.0);
        Figure::new(&what, "", Some(0.5), Measured::alone("MiB", &values))
    });
    figures.collect()
}

pub fn measure_wake_ups(bench: &Bench) -> Vec<Figure> {
    let world = world(bench);
    let seconds = if bench.quick { 10 } else { 30 };
    let waiting: Vec<Vec<Waiting>> =
        SETUPS.iter().map(|setup| (0..EACH).map(|_| Waiting::start(&world, setup)).collect()).collect();
    pause(SETTLING);
    let count = || -> Vec<Vec<u64>> {
        waiting.iter().map(|same| same.iter().map(Waiting::switches).collect()).collect()
    };
    let before = count();
    pause(Duration::from_secs(seconds));
    let after = count();
    let figures = SETUPS.iter().zip(before.iter().zip(&after)).map(|(setup, (before, after))| {
        let a_minute = |(before, after): (&u64, &u64)| (after - before) as f64 * 60.0 / seconds as f64;
        let values: Vec<f64> = before.iter().zip(after).map(a_minute).collect();
        let what = format!("wake-ups while the agent waits, {}", setup.0);
        Figure::new(&what, "", Some(0.0), Measured::alone("/min", &values))
    });
    let figures = figures.collect();
    waiting.into_iter().flatten().for_each(Waiting::end);
    figures
}

fn world(bench: &Bench) -> World {
    let world = bench.world();
    link_bench(&world, "claude");
    world
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// A supervisor whose agent has printed its first line and waits for the end of its stdin.
struct Waiting {
    command: Command,
    child: Child,
}

impl Waiting {
    fn start(world: &World, (_, options, captured): &Setup) -> Waiting {
        let claude = world.name("bin/claude");
        let words = if *captured { &STREAM[1..] } else { &["-p", "do it"] };
        let argv = [&["bookend", "run"], *options, &["--", &claude], words].concat();
        let mut command = command(world, &argv);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("bookend");
        let mut byte = [0];
        child.stdout.as_mut().expect("its stdout").read_exact(&mut byte).expect("the agent's first line");
        Waiting { command, child }
    }

    /// The bytes of its own that no file backs: heap, stack, and pages of the program that it wrote to.
    fn anonymous(&self) -> u64 {
        memory(self.child.id() as i32).expect("its memory").0 << 10
    }

    fn switches(&self) -> u64 {
        context_switches(self.child.id() as i32)
    }

    fn end(mut self) {
        drop(self.child.stdin.take());
        let mut rest = Vec::new();
        self.child.stdout.take().expect("its stdout").read_to_end(&mut rest).expect("the rest");
        let status = self.child.wait().expect("its status");
        assert_success(&self.command, status);
    }
}
