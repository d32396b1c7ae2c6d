//! The agent's output through bookend, which reads it, beside the same output through `cat`.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use crate::Bench;
use crate::agent::{MODE, STREAM};
use crate::figure::{Figure, Measured, Spread};
use crate::harness::World;
use crate::measure::{assert_success, command, in_turns, link_bench};

/// The program between the agent and the reader.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Through {
    Bookend,
    Cat,
}

pub fn measure(bench: &Bench) -> Vec<Figure> {
    let world = bench.world();
    link_bench(&world, "claude");
    let mib = if bench.quick { 32 } else { 256 };
    let mut figures: Vec<Figure> = [("one write a line", "lines"), ("64 KiB a write", "bulk")]
        .map(|(writes, mode)| {
            let mode = format!("{mode} {}", mib << 20);
            let what = format!("captured output, {writes}");
            beside_cat(bench, &what, "ms/MB", Some(1.25), |t| milliseconds(&world, t, &mode))
        })
        .into();
    let answers = if bench.quick { 500 } else { 3000 };
    let latency = |through| latency(&world, through, answers);
    figures.push(beside_cat(bench, "one captured line, asked for and answered", "µs", None, latency));
    figures
}

fn beside_cat(
    bench: &Bench,
    what: &str,
    unit: &'static str,
    target: Option<f64>,
    measure: impl Fn(Through) -> f64,
) -> Figure {
    let pairs = in_turns(bench.pairs(10, 3), || measure(Through::Bookend), || measure(Through::Cat));
    Figure::new(what, "cat", target, Measured::beside(unit, &pairs, pairs.len()))
}

struct Pipeline {
    processes: Vec<(Command, Child)>,
    stdin: Option<ChildStdin>,
    stdout: ChildStdout,
}

impl Pipeline {
    fn start(world: &World, through: Through, mode: &str) -> Pipeline {
        let claude = world.name("bin/claude");
        let agent = [&[&claude[..]], &STREAM[1..]].concat();
        let mut first = match through {
            Through::Bookend => command(world, &[&["bookend", "run", "--"], &agent[..]].concat()),
            Through::Cat => command(world, &agent),
        };
        first.env(MODE, mode).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = first.spawn().expect("the agent");
        let (stdin, mut stdout) = (child.stdin.take(), child.stdout.take().expect("its stdout"));
        let mut processes = vec![(first, child)];
        if through == Through::Cat {
            let mut cat = command(world, &["cat"]);
            let mut child = cat.stdin(stdout).stdout(Stdio::piped()).spawn().expect("cat");
            stdout = child.stdout.take().expect("its stdout");
            // The command would keep the agent's pipe open.
            cat.stdin(Stdio::null());
            processes.push((cat, child));
        }
        Pipeline { processes, stdin, stdout }
    }

    fn end(mut self) {
        drop(self.stdin.take());
        self.stdout.read_to_end(&mut Vec::new()).expect("the rest of the output");
        for (command, child) in &mut self.processes {
            assert_success(command, child.wait().expect("its status"));
        }
    }
}

/// The milliseconds that a million bytes take, from the first byte to the last.
fn milliseconds(world: &World, through: Through, mode: &str) -> f64 {
    let mut pipeline = Pipeline::start(world, through, mode);
    let mut buffer = vec![0; 64 << 10];
    let mut read = || pipeline.stdout.read(&mut buffer).expect("the agent's output");
    let mut bytes = read();
    let began = Instant::now();
    let mut last = began;
    loop {
        match read() {
            0 => break,
            n => bytes += n,
        }
        last = Instant::now();
    }
    pipeline.end();
    (last - began).as_secs_f64() * 1e3 / (bytes as f64 / 1e6)
}

/// The microseconds between asking the agent for a line and reading it, median of `answers`.
fn latency(world: &World, through: Through, answers: usize) -> f64 {
    let mut pipeline = Pipeline::start(world, through, "answer");
    let mut buffer = vec![0; 64 << 10];
    read_line(&mut pipeline.stdout, &mut buffer);
    let mut took = Vec::with_capacity(answers);
    for _ in 0..answers {
        let began = Instant::now();
        pipeline.stdin.as_mut().expect("its stdin").write_all(b"?").expect("a question");
        read_line(&mut pipeline.stdout, &mut buffer);
        took.push(began.elapsed().as_secs_f64() * 1e6);
    }
    pipeline.end();
    Spread::of(&took).median
}

pub fn read_line(stdout: &mut ChildStdout, buffer: &mut [u8]) {
    loop {
        let n = stdout.read(buffer).expect("the agent's output");
        assert!(n > 0, "the agent has exited");
        if buffer[n - 1] == b'\n' {
            return;
        }
    }
}
