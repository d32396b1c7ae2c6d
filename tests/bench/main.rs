//! How fast bookend is: each figure beside its peer's, both taken in turns in the same run, since the
//! machine is another one each time. `just bench` starts it and prints the table.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a table is what it is for")]

mod agent;
mod capture;
mod figure;
mod history;
mod instructions;
mod looks;
mod machine_facts;
mod measure;
mod rate;
mod recover;
mod start;
mod under_systemd;
mod waiting;

#[path = "../harness/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the tests, which use more of it")]
mod harness;
#[path = "../systemd/machine.rs"]
#[allow(dead_code, reason = "shared with the tests under systemd, which use more of it")]
mod machine;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, ValueEnum};
use figure::Figure;
use harness::World;

#[derive(Parser)]
#[command(bin_name = "bench")]
enum Command {
    Measure(Measure),
    /// Counts instructions, and compares with what is kept in tests/bench/instructions.json
    Instructions {
        /// Keep what is counted now
        #[arg(long)]
        renew: bool,
    },
    /// Prints the times of two commands in turns
    #[command(hide = true)]
    Pairs {
        pairs: usize,
        ours: String,
        theirs: String,
    },
}

/// Measures bookend beside its peers. A ratio is the middle of its rounds, beside it the least and the most
/// of them; each round is a number of pairs taken in turns.
#[derive(Args)]
struct Measure {
    /// What to measure [default: all]
    lines: Vec<Line>,
    /// How many pairs to take of each, instead of what gives a steady figure
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pairs: Option<u32>,
    /// Less of everything: a first look
    #[arg(long)]
    quick: bool,
    /// Where to write the figures as JSON [default: bench.json in cargo's target directory]
    #[arg(long)]
    json: Option<PathBuf>,
    /// Put the table into contrib/doc/performance.md
    #[arg(long, conflicts_with_all = ["lines", "quick"])]
    readme: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Line {
    /// A whole run of `true`
    Start,
    /// The same on a booted systemd
    Systemd,
    /// Many runs at a time in one ledger
    Rate,
    /// The program's size
    Size,
    /// Memory while the agent is silent
    Memory,
    /// Wake-ups while the agent is silent
    WakeUps,
    /// The agent's output, read along
    Capture,
    /// `recover` in a ledger with a long past
    Recover,
    /// `list`, `show` and the like in a ledger with a long past
    Looks,
}

/// How much to measure, and where.
pub struct Bench {
    pairs: Option<u32>,
    pub quick: bool,
}

impl Bench {
    pub fn pairs(&self, usual: usize, quick: usize) -> usize {
        self.pairs.map_or(if self.quick { quick } else { usual }, |n| n as usize)
    }

    /// Below cargo's target directory: on a disk, where a durable commit has its price.
    pub fn world(&self) -> World {
        World::without_probe(scratch())
    }

    /// Where it has none: what is left is bookend's own work.
    pub fn world_in_memory(&self) -> World {
        World::without_probe(Path::new("/dev/shm"))
    }
}

pub fn scratch() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

/// A path in cargo's target directory.
pub fn target(name: &str) -> PathBuf {
    scratch().with_file_name(name)
}

fn main() -> ExitCode {
    if std::env::args_os().next().is_some_and(|program| Path::new(&program).ends_with("claude")) {
        agent::main();
        return ExitCode::SUCCESS;
    }
    if std::env::args_os().len() == 1 {
        // `cargo test --all-targets` starts us too.
        println!("nothing is measured but by `just bench`");
        return ExitCode::SUCCESS;
    }
    match Command::parse() {
        Command::Measure(options) => measure_all(&options),
        Command::Pairs { pairs, ours, theirs } => under_systemd::pairs(pairs, &ours, &theirs),
        Command::Instructions { renew } if !instructions::instructions(renew) => return ExitCode::FAILURE,
        Command::Instructions { .. } => {}
    }
    ExitCode::SUCCESS
}

fn measure_all(options: &Measure) {
    let bench = Bench { pairs: options.pairs, quick: options.quick };
    let lines = if options.lines.is_empty() { Line::value_variants() } else { &options.lines };
    let facts = machine_facts::all(scratch());
    let before = machine_facts::load();
    let mut figures: Vec<Figure> = Vec::new();
    for line in lines {
        eprintln!("{} …", line.to_possible_value().expect("it has a name").get_name());
        figures.extend(match line {
            Line::Start => start::measure(&bench),
            Line::Systemd => under_systemd::measure(&bench),
            Line::Rate => rate::measure(&bench),
            Line::Size => waiting::measure_size(&bench),
            Line::Memory => waiting::measure_memory(&bench),
            Line::WakeUps => waiting::measure_wake_ups(&bench),
            Line::Capture => capture::measure(&bench),
            Line::Recover => recover::measure(&bench),
            Line::Looks => looks::measure(&bench),
        });
    }
    let after = machine_facts::load();
    let facts = format!("{facts}, load {before} before and {after} after");
    let table = figure::table(&figures);
    println!("{facts}\n\n{table}");
    if options.readme {
        renew_readme(&format!("Measured on {facts}.\n\n{table}"));
    }
    let file = options.json.clone().unwrap_or_else(|| target("bench.json"));
    let json = serde_json::json!({ "machine": facts, "quick": bench.quick, "figures": figures });
    fs::write(&file, format!("{json:#}\n")).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
}

/// The paragraph that names the machine, and the table after it.
fn renew_readme(measured: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/doc/performance.md");
    let text = fs::read_to_string(&file).expect("performance.md");
    let (before, rest) = text.split_once("Measured on ").expect("the line of the machine");
    let after = rest.splitn(3, "\n\n").nth(2).expect("what follows the table");
    fs::write(&file, format!("{before}{measured}\n{after}")).expect("performance.md");
}
