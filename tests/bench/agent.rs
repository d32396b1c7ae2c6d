//! The agents that the bench starts: a stand-in for Claude Code, and a program that reports when it exits.
//!
//! The bench starts itself through a link; the name of the link decides which agent it is.

use std::io::Read;

use nix::time::{ClockId, clock_gettime};

const RECORDED: &str = include_str!("../samples/110-bg-task-8s-sj.stdout.jsonl");
/// How often the recorded events repeat, with other message ids, before the same ids come again.
const DISTINCT: usize = 500;

/// The environment variable that selects what the stand-in for Claude Code prints.
pub const MODE: &str = "BENCH_AGENT";

/// A command line of claude whose output bookend reads while it comes.
pub const STREAM: [&str; 6] = ["claude", "-p", "--output-format", "stream-json", "--verbose", "do it"];

/// The name under which the bench is the program that reports its exit.
pub const EXITING: &str = "exiting";

/// Runs the agent that is called `name`. `false`: there is none.
pub fn run(name: &str) -> bool {
    match name {
        "claude" => claude(),
        EXITING => print!("{}", nanoseconds()),
        _ => return false,
    }
    true
}

/// The monotonic clock, which all processes share.
pub fn nanoseconds() -> i64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("the monotonic clock");
    now.tv_sec() * 1_000_000_000 + now.tv_nsec()
}

fn claude() {
    let mode = std::env::var(MODE).unwrap_or_default();
    let (mode, bytes) = mode.split_once(' ').unwrap_or((&mode, "0"));
    let bytes = bytes.parse().unwrap_or(0);
    // A failed write means that the reader has exited; the agent then exits as well.
    let _ = match mode {
        "lines" => print_events(bytes, 1),
        "bulk" => print_events(bytes, 64 << 10),
        "answer" => answer(),
        _ => wait_for_stdin(),
    };
}

fn is_kind(line: &str, kind: &str) -> bool {
    line.contains(&format!("\"type\":\"{kind}\""))
}

fn init() -> &'static str {
    RECORDED.lines().next().expect("the first event")
}

/// A text of the assistant, the most common event.
fn assistant() -> &'static str {
    RECORDED.lines().rfind(|l| is_kind(l, "assistant")).expect("an event of the assistant")
}

/// The recorded events between the first and the result, each message with an id of its own.
fn events() -> impl Iterator<Item = String> {
    let body =
        || RECORDED.lines().filter(|l| !l.contains("\"subtype\":\"init\"") && !l.contains("\"num_turns\""));
    (0..DISTINCT)
        .flat_map(move |n| body().map(move |l| l.replace("msg_fake_", &format!("msg_{n:06}_")) + "\n"))
}

fn result() -> &'static str {
    RECORDED.lines().rfind(|l| l.contains("\"num_turns\"")).expect("a result")
}

/// Prints at least `bytes`, in writes of whole lines of at least `size` bytes.
fn print_events(bytes: usize, size: usize) -> std::io::Result<usize> {
    let mut chunks = vec![String::new()];
    for event in events() {
        if chunks[chunks.len() - 1].len() >= size {
            chunks.push(String::new());
        }
        let last = chunks.len() - 1;
        chunks[last].push_str(&event);
    }
    let mut printed = write(&format!("{}\n", init()))?;
    for chunk in chunks.iter().cycle() {
        if printed >= bytes {
            break;
        }
        printed += write(chunk)?;
    }
    write(&format!("{}\n", result()))
}

/// One write(2) if the pipe has room, without the buffer of the standard library.
fn write(text: &str) -> std::io::Result<usize> {
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        let written = nix::unistd::write(std::io::stdout(), rest)?;
        rest = &rest[written..];
    }
    Ok(text.len())
}

/// Prints one event for each byte of stdin.
fn answer() -> std::io::Result<usize> {
    write(&format!("{}\n", init()))?;
    let line = format!("{}\n", assistant());
    let mut byte = [0];
    let mut stdin = std::io::stdin().lock();
    while stdin.read(&mut byte)? == 1 {
        write(&line)?;
    }
    write(&format!("{}\n", result()))
}

/// Prints the first event, and nothing more until stdin ends.
fn wait_for_stdin() -> std::io::Result<usize> {
    write(&format!("{}\n", init()))?;
    std::io::stdin().lock().read_to_end(&mut Vec::new())
}
