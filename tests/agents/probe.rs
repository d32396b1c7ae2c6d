//! A stand-in for agents, callers and signal senders that observes its inherited state unchanged. It has a
//! C `main`, because Rust's runtime ignores SIGPIPE and opens /dev/null on closed standard descriptors
//! before `main`.
#![no_main]
#![allow(clippy::print_stderr, reason = "it is a separate program that reports errors to the tests")]

mod count;
mod enter;
mod family;
mod heavy;
mod newborn;
mod raw;
mod report;
mod talk;
mod with;
mod work;

use std::ffi::{OsString, c_char, c_int};
use std::io::{self, Write};

/// The result of a command of the probe: its exit code.
type Outcome = io::Result<i32>;

#[unsafe(no_mangle)]
pub extern "C" fn main(argc: c_int, argv: *const *const c_char) -> c_int {
    let args = raw::args(argc, argv);
    match run(&args) {
        Ok(code) => code,
        Err(e) => {
            let _ = writeln!(io::stderr(), "probe: {args:?}: {e}");
            99
        }
    }
}

fn run(args: &[OsString]) -> Outcome {
    let word = |i: usize| args.get(i).and_then(|a| a.to_str()).unwrap_or("");
    let number =
        |i: usize| word(i).parse::<i32>().map_err(|e| io::Error::other(format!("argument {i}: {e}")));
    match word(1) {
        "report" => report::report(args, word(2)),
        "with" => with::with(&args[2..]),
        "count" => count::count(word(2)),
        "stay" => count::stay(word(2)),
        "send" => count::send(&args[2..]),
        "exit" => number(2),
        "die" => raw::die(number(2)?),
        "stop-self" => count::stop_self(number(2)?, word(3)),
        "close" => family::close(word(2), word(3)),
        "newborn" => newborn::newborn(&args[2..]),
        "orphans" => family::orphans(number(2)?, word(3)),
        "talk" => talk::talk([word(2), word(3), word(4), word(5), word(6)]),
        "daemon" => family::daemon(&args[2..]),
        "large" => heavy::large(number(2)? as usize, word(3)),
        "threads" => heavy::threads(number(2)? as usize, word(3)),
        "headless" => heavy::headless(word(2)),
        "tracer" => heavy::tracer(number(2)?, word(3), word(4) == "hold"),
        "work" => work::work([2, 3, 4, 5, 6, 7, 8].map(word)),
        "enter" => enter::enter(word(2), &args[3..]),
        "as-pid" => family::as_pid(number(2)?, &args[3..]),
        other => Err(io::Error::other(format!("no command {other:?}"))),
    }
}
