//! Measures bookend beside its peers: each figure and its peer's in turns in the same run, so that the load
//! of the machine affects both. `just bench` starts it and prints the table.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it prints a table")]

mod agent;
mod capture;
mod figure;
#[cfg(feature = "fleet")]
mod fleet;
mod history;
mod instructions;
mod machine_info;
mod measure;
mod monitor;
mod queries;
mod recover;
mod runs;
mod systemd_run;
mod waiting;

#[path = "../harness/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the tests, which use more of it")]
mod harness;
#[path = "../systemd/machine.rs"]
#[allow(dead_code, reason = "shared with the tests under systemd, which use more of it")]
mod machine;
#[cfg(feature = "fleet")]
#[path = "../fleet/postgres.rs"]
#[allow(dead_code, reason = "shared with the tests of the fleet, which use more of it")]
mod postgres;
#[cfg(feature = "fleet")]
#[path = "../fleet/sql_session.rs"]
#[allow(dead_code, reason = "shared with the tests of the fleet, which use more of it")]
mod sql_session;

use std::cell::OnceCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, ValueEnum};
use figure::Figure;
use harness::World;

/// The document that holds the table.
const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/contrib/doc/performance.md");

#[derive(Parser)]
#[command(bin_name = "bench")]
enum Command {
    Measure(Measure),
    /// Count instructions and compare with tests/bench/instructions.json
    Instructions {
        /// Write the counts to the file
        #[arg(long)]
        renew: bool,
    },
    /// Print the times of two commands in turns
    #[command(hide = true)]
    Pairs {
        pairs: usize,
        ours: String,
        theirs: String,
    },
}

/// Measure bookend beside its peers
///
/// A ratio is the median of its rounds; the smallest and the largest are beside it. Each round is a number of
/// pairs that are measured in turns.
#[derive(Args)]
struct Measure {
    /// The figures to measure [default: all]
    sections: Vec<Section>,
    /// Measure so many pairs for each figure
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pairs: Option<u32>,
    /// Measure less of everything; the figures are less steady
    #[arg(long)]
    quick: bool,
    /// Write the figures as JSON to this file [default: bench.json in cargo's target directory]
    #[arg(long)]
    json: Option<PathBuf>,
    /// Write the table to contrib/doc/performance.md
    #[arg(long, conflicts_with_all = ["sections", "quick"])]
    doc: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Section {
    /// A whole run of `true`
    Run,
    /// The same beside `systemd-run`
    Systemd,
    /// The delay of bookend's exit
    Exit,
    /// The size of the program
    Size,
    /// Memory while the agent prints nothing
    Memory,
    /// Wake-ups while the agent prints nothing
    WakeUps,
    /// The agent's output
    Capture,
    /// `list`, `show`, `timeline` and `audit` of a million tasks
    Queries,
    /// `recover` of many lost tasks
    Recover,
    /// `monitor` beside many supervisors that are killed
    Monitor,
    /// Keys, rows and lists of a fleet
    #[cfg(feature = "fleet")]
    Fleet,
}

impl Section {
    fn measure(self, bench: &Bench) -> Vec<Figure> {
        match self {
            Section::Run => runs::measure(bench),
            Section::Systemd => systemd_run::measure(bench),
            Section::Exit => runs::measure_exit(bench),
            Section::Size => waiting::measure_size(bench),
            Section::Memory => waiting::measure_memory(bench),
            Section::WakeUps => waiting::measure_wake_ups(bench),
            Section::Capture => capture::measure(bench),
            Section::Queries => queries::measure(bench),
            Section::Recover => recover::measure(bench),
            Section::Monitor => monitor::measure(bench),
            #[cfg(feature = "fleet")]
            Section::Fleet => fleet::measure(bench),
        }
    }
}

/// How much to measure, and where.
pub struct Bench {
    pairs: Option<u32>,
    pub quick: bool,
    histories: OnceCell<(World, World)>,
}

impl Bench {
    fn new(options: &Measure) -> Bench {
        Bench { pairs: options.pairs, quick: options.quick, histories: OnceCell::new() }
    }

    pub fn pairs(&self, usual: usize, quick: usize) -> usize {
        self.pairs.map_or(if self.quick { quick } else { usual }, |n| n as usize)
    }

    /// Below cargo's target directory: on a disk, where a commit waits for the disk.
    pub fn world(&self) -> World {
        World::without_probe(scratch())
    }

    /// In memory, where a commit does not wait.
    pub fn world_in_memory(&self) -> World {
        World::without_probe(Path::new("/dev/shm"))
    }

    /// A ledger of a thousand tasks, and one of [`Bench::long_history`] tasks.
    pub fn histories(&self) -> &(World, World) {
        self.histories.get_or_init(|| {
            let (small, large) = (self.world(), self.world());
            history::fill(&small, 1_000);
            history::fill(&large, if self.quick { 100_000 } else { 1_000_000 });
            (small, large)
        })
    }

    pub fn long_history(&self) -> &'static str {
        if self.quick { "100,000" } else { "1,000,000" }
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
    let program = std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
    if program.file_name().and_then(|name| name.to_str()).is_some_and(agent::run) {
        return ExitCode::SUCCESS;
    }
    if std::env::args_os().len() == 1 {
        // `cargo test --all-targets` starts it too.
        println!("run `just bench` to measure");
        return ExitCode::SUCCESS;
    }
    match Command::parse() {
        Command::Measure(options) => measure_all(&options),
        Command::Pairs { pairs, ours, theirs } => systemd_run::pairs(pairs, &ours, &theirs),
        Command::Instructions { renew } if !instructions::check(renew) => return ExitCode::FAILURE,
        Command::Instructions { .. } => {}
    }
    ExitCode::SUCCESS
}

fn measure_all(options: &Measure) {
    let bench = Bench::new(options);
    let sections = if options.sections.is_empty() { Section::value_variants() } else { &options.sections };
    let machine = machine_info::describe(scratch());
    let before = machine_info::load();
    let mut figures: Vec<Figure> = Vec::new();
    for section in sections {
        eprintln!("{} …", section.to_possible_value().expect("a name").get_name());
        figures.extend(section.measure(&bench));
    }
    let after = machine_info::load();
    let machine = format!("{machine}, load {before} before and {after} after");
    let table = figure::table(&figures);
    println!("{machine}\n\n{table}");
    if options.doc {
        replace_table(&format!("Measured on {machine}.\n\n{table}"));
    }
    let file = options.json.clone().unwrap_or_else(|| target("bench.json"));
    let json = serde_json::json!({ "machine": machine, "quick": bench.quick, "figures": figures });
    fs::write(&file, format!("{json:#}\n")).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
}

/// Replaces the paragraph that names the machine, and the table after it.
fn replace_table(measured: &str) {
    let text = fs::read_to_string(DOCUMENT).unwrap_or_else(|e| panic!("{DOCUMENT}: {e}"));
    let (before, rest) = text.split_once("Measured on ").expect("the line that names the machine");
    let after = rest.splitn(3, "\n\n").nth(2).expect("the text after the table");
    fs::write(DOCUMENT, format!("{before}{measured}\n{after}")).unwrap_or_else(|e| panic!("{DOCUMENT}: {e}"));
}
