//! An agent that talks, for as long as it is let.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use crate::family;

/// Every so many rounds something is let go into the background, as agents do with tools.
const LET_GO: u64 = 16;

/// `talk FILE SESSION MS ROUNDS OVER`: writes the lines of FILE again and again, MS apart, with the number of
/// the round for each `@` in them and SESSION for each `$`; until ROUNDS are full or a file OVER exists. Its
/// last line is `talked LINES`.
pub fn talk(args: [&str; 5]) -> io::Result<i32> {
    let [file, session, pause, rounds, over] = args;
    let number = |text: &str| text.parse::<u64>().map_err(io::Error::other);
    let (pause, rounds) = (Duration::from_millis(number(pause)?), number(rounds)?);
    let text = fs::read_to_string(file)?.replace('$', session);
    let mut out = io::stdout().lock();
    let mut said = 0;
    for round in 0..rounds {
        if Path::new(over).exists() {
            break;
        }
        for line in text.lines() {
            writeln!(out, "{}", line.replace('@', &round.to_string()))?;
            said += 1;
            std::thread::sleep(pause);
        }
        if round % LET_GO == 0 {
            family::let_go(0)?;
        }
    }
    writeln!(out, "talked {said}")?;
    Ok(0)
}
