//! The agent's output through bookend, which reads it along, beside the same through `cat`.

use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use crate::Bench;
use crate::agent::{ORDER, STREAM};
use crate::figure::{Figure, Measured, Spread, Target};
use crate::harness::World;
use crate::measure::{command, ended_well, in_turns};

/// What stands between the agent and its reader.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Between {
    Bookend,
    Cat,
}

pub fn measure(bench: &Bench) -> Vec<Figure> {
    let world = bench.world();
    call_us_claude(&world);
    let mib = if bench.quick { 32 } else { 256 };
    let flows = [("a write a line", "lines"), ("64 KiB a write", "bulk")].map(|(what, mode)| {
        let order = format!("{mode} {}", mib << 20);
        let through = |between| throughput(&world, between, &order);
        let pairs = in_turns(bench.pairs(10, 3), || through(Between::Bookend), || through(Between::Cat));
        let measured = Measured::beside("MiB/s", &pairs, pairs.len());
        Figure::new(&format!("captured output, {what}"), "cat", Some(Target::AtLeast(0.8)), measured)
    });
    let answers = if bench.quick { 500 } else { 3000 };
    let through = |between| latency(&world, between, answers);
    let pairs = in_turns(bench.pairs(10, 3), || through(Between::Bookend), || through(Between::Cat));
    let latency = Measured::beside("µs", &pairs, pairs.len());
    let mut figures = flows.to_vec();
    figures.push(Figure::new("a line asked for and seen", "cat", None, latency));
    figures
}

/// The world's `claude` is this program.
pub fn call_us_claude(world: &World) {
    let us = std::env::current_exe().expect("our own path");
    symlink(us, world.path("bin/claude")).expect("claude in the world's PATH");
}

struct Pipeline {
    processes: Vec<(Command, Child)>,
    to: Option<ChildStdin>,
    from: ChildStdout,
}

impl Pipeline {
    fn start(world: &World, between: Between, order: &str) -> Pipeline {
        let claude = world.name("bin/claude");
        let agent = [&[&claude[..]], &STREAM[1..]].concat();
        let mut first = match between {
            Between::Bookend => command(world, &[&["bookend", "run", "--"], &agent[..]].concat()),
            Between::Cat => command(world, &agent),
        };
        first.env(ORDER, order).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = first.spawn().expect("the agent");
        let (to, mut from) = (child.stdin.take(), child.stdout.take().expect("its stdout"));
        let mut processes = vec![(first, child)];
        if between == Between::Cat {
            let mut cat = command(world, &["cat"]);
            let mut child = cat.stdin(from).stdout(Stdio::piped()).spawn().expect("cat");
            from = child.stdout.take().expect("its stdout");
            // It would keep the agent's pipe open.
            cat.stdin(Stdio::null());
            processes.push((cat, child));
        }
        Pipeline { processes, to, from }
    }

    fn end(mut self) {
        drop(self.to.take());
        self.from.read_to_end(&mut Vec::new()).expect("the rest of the output");
        for (command, child) in &mut self.processes {
            let status = child.wait().expect("its status");
            ended_well(command, status);
        }
    }
}

/// From the first to the last byte.
fn throughput(world: &World, between: Between, order: &str) -> f64 {
    let mut pipeline = Pipeline::start(world, between, order);
    let mut buffer = vec![0; 64 << 10];
    let mut read = || pipeline.from.read(&mut buffer).expect("the agent's output");
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
    bytes as f64 / f64::from(1 << 20) / (last - began).as_secs_f64()
}

/// The microseconds from asking the agent for a line until that is here, both ways the agent's included.
fn latency(world: &World, between: Between, answers: usize) -> f64 {
    let mut pipeline = Pipeline::start(world, between, "asked");
    let mut buffer = vec![0; 64 << 10];
    read_line(&mut pipeline.from, &mut buffer);
    let mut took = Vec::with_capacity(answers);
    for _ in 0..answers {
        let began = Instant::now();
        pipeline.to.as_mut().expect("its stdin").write_all(b"?").expect("a question");
        read_line(&mut pipeline.from, &mut buffer);
        took.push(began.elapsed().as_secs_f64() * 1e6);
    }
    pipeline.end();
    Spread::of(&took).median
}

pub fn read_line(from: &mut ChildStdout, buffer: &mut [u8]) {
    loop {
        let n = from.read(buffer).expect("the agent's output");
        assert!(n > 0, "the agent has ended");
        if buffer[n - 1] == b'\n' {
            return;
        }
    }
}
