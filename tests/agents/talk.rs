//! An agent that prints lines until it is stopped.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use crate::family;

/// After this many rounds it starts a background process, as agents do with tools.
const LET_GO: u64 = 16;

/// `talk FILE SESSION MS ROUNDS OVER`: prints the lines of FILE repeatedly, MS milliseconds apart, with the
/// round for each `@` and SESSION for each `$`, for ROUNDS rounds or until the file OVER exists. The last
/// line is `talked LINES`.
pub fn talk(args: [&str; 5]) -> io::Result<i32> {
    let [file, session, pause, rounds, over] = args;
    let number = |text: &str| text.parse::<u64>().map_err(io::Error::other);
    let (pause, rounds) = (Duration::from_millis(number(pause)?), number(rounds)?);
    let text = fs::read_to_string(file)?.replace('$', session);
    let mut out = io::stdout().lock();
    let mut lines = 0;
    for round in 0..rounds {
        if Path::new(over).exists() {
            break;
        }
        for line in text.lines() {
            writeln!(out, "{}", line.replace('@', &round.to_string()))?;
            lines += 1;
            std::thread::sleep(pause);
        }
        if round % LET_GO == 0 {
            family::let_go(0)?;
        }
    }
    writeln!(out, "talked {lines}")?;
    Ok(0)
}
