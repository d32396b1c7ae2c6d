//! Stands in for Claude Code: says recorded events, as fast as it can or one each time it is asked.
//! The program of this folder is it when it is called `claude`.

use std::io::Read;

const RECORDED: &str = include_str!("../samples/110-bg-task-8s-sj.stdout.jsonl");
/// So many times the recorded events are said before the same messages come again.
const DISTINCT: usize = 500;

/// What it is told to do, in the environment.
pub const ORDER: &str = "BENCH_AGENT";

/// A command line of claude whose output is read along as it comes.
pub const STREAM: [&str; 6] = ["claude", "-p", "--output-format", "stream-json", "--verbose", "do it"];

pub fn main() {
    let order = std::env::var(ORDER).unwrap_or_default();
    let (mode, bytes) = order.split_once(' ').unwrap_or((&order, "0"));
    let bytes = bytes.parse().unwrap_or(0);
    // What a reader that has gone means to it is the same as in any program: it ends.
    let _ = match mode {
        "lines" => say(bytes, 1),
        "bulk" => say(bytes, 64 << 10),
        "asked" => answer(),
        _ => be_silent(),
    };
}

fn is_kind(line: &str, kind: &str) -> bool {
    line.contains(&format!("\"type\":\"{kind}\""))
}

fn init() -> &'static str {
    RECORDED.lines().next().expect("the first event")
}

/// A text that the assistant says: the most common of all events.
pub fn assistant() -> &'static str {
    RECORDED.lines().rfind(|l| is_kind(l, "assistant")).expect("an event of the assistant")
}

/// The recorded events between the first and the result, each message with an id of its own.
pub fn events() -> impl Iterator<Item = String> {
    let body =
        || RECORDED.lines().filter(|l| !l.contains("\"subtype\":\"init\"") && !l.contains("\"num_turns\""));
    (0..DISTINCT)
        .flat_map(move |n| body().map(move |l| l.replace("msg_fake_", &format!("msg_{n:06}_")) + "\n"))
}

fn result() -> &'static str {
    RECORDED.lines().rfind(|l| l.contains("\"num_turns\"")).expect("a result")
}

/// Says `bytes` or a little more, in pieces of whole lines of at least `piece` bytes.
fn say(bytes: usize, piece: usize) -> std::io::Result<usize> {
    let mut pieces = vec![String::new()];
    for event in events() {
        if pieces[pieces.len() - 1].len() >= piece {
            pieces.push(String::new());
        }
        let last = pieces.len() - 1;
        pieces[last].push_str(&event);
    }
    let mut said = raw(&format!("{}\n", init()))?;
    for piece in pieces.iter().cycle() {
        if said >= bytes {
            break;
        }
        said += raw(piece)?;
    }
    raw(&format!("{}\n", result()))
}

/// One write(2), if the pipe takes it whole: no buffer of the standard library's between.
fn raw(text: &str) -> std::io::Result<usize> {
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        let written = nix::unistd::write(std::io::stdout(), rest)?;
        rest = &rest[written..];
    }
    Ok(text.len())
}

/// One event for each byte of stdin.
fn answer() -> std::io::Result<usize> {
    raw(&format!("{}\n", init()))?;
    let line = format!("{}\n", assistant());
    let mut asked = [0];
    let mut stdin = std::io::stdin().lock();
    while stdin.read(&mut asked)? == 1 {
        raw(&line)?;
    }
    raw(&format!("{}\n", result()))
}

/// Says that it is there, and nothing more until stdin ends.
fn be_silent() -> std::io::Result<usize> {
    raw(&format!("{}\n", init()))?;
    std::io::stdin().lock().read_to_end(&mut Vec::new())
}
