//! `bookend agents`: lists the agents that bookend knows, prints their declarations and checks one.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use crate::agent::{
    self, Adapter, DeclarationError, DeclarationSource, KnownAgent, ObservedOutput, OutputMode,
};
use crate::error::{Error, Kind};
use crate::exit::Exit;
use crate::sys::files;
use crate::sys::stdout::print;
use crate::task::{self, OnTerm, RunEvidence};
use crate::view::{self, AgentLine, Screen};

/// What `bookend agents` was asked for.
#[derive(Debug)]
pub enum AgentsAction {
    List { json: bool },
    Show { name: String },
    Check(CheckOptions),
}

/// The options of `bookend agents check`.
#[derive(Debug)]
pub struct CheckOptions {
    /// The name of an agent, or the file of a declaration.
    pub subject: PathBuf,
    /// A recorded output of the agent.
    pub sample: Option<PathBuf>,
    /// The exit code with which the agent ended after that output.
    pub exit: u8,
    pub json: bool,
}

/// The longest declaration that is read, in bytes.
const LONGEST: u64 = 1 << 20;

/// # Errors
/// When there is no such agent, its declaration is refused, or a file cannot be read.
pub fn agents(action: &AgentsAction) -> Result<Exit, Error> {
    match action {
        AgentsAction::List { json } => list(*json),
        AgentsAction::Show { name } => show(name),
        AgentsAction::Check(options) => check(options),
    }
}

fn list(json: bool) -> Result<Exit, Error> {
    let lines: Vec<AgentLine> = agent::known_agents().into_iter().map(line_of).collect();
    print(&match json {
        true => view::agents_json(&lines),
        false => view::agents(&lines, Screen::of(&std::io::stdout())),
    })?;
    Ok(Exit::Code(0))
}

fn line_of(agent: KnownAgent) -> AgentLine {
    let KnownAgent { name, source, adapter, .. } = agent;
    let source = source_text(&source);
    let words = |list: &str| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    match adapter {
        Ok(adapter) => AgentLine {
            name,
            provider: adapter.provider().map(str::to_owned),
            programs: words(&adapter.names().programs),
            packages: words(&adapter.names().packages),
            checked: adapter.checked().map(str::to_owned),
            source,
            refused: None,
        },
        Err(refused) => {
            AgentLine { name, source, refused: Some(refused.to_string()), ..AgentLine::default() }
        }
    }
}

fn source_text(source: &DeclarationSource) -> String {
    match source {
        DeclarationSource::BuiltIn => "built in".to_owned(),
        DeclarationSource::File { path, replaces: false } => path.display().to_string(),
        DeclarationSource::File { path, replaces: true } => {
            format!("{}, replaces the built-in", path.display())
        }
    }
}

fn show(name: &str) -> Result<Exit, Error> {
    let known = agent::known_agent(name).ok_or_else(|| unknown(name))?;
    known.adapter.map_err(refused)?;
    let Some(text) = known.text else {
        return Err(Error::usage(format!("{name} has no declaration: it is described by code"))
            .hint("run `bookend agents` to see its programs; a declaration of your own can replace it"));
    };
    print(&format!("# {name}: {}\n{text}", source_text(&known.source)))?;
    Ok(Exit::Code(0))
}

fn unknown(name: &str) -> Error {
    Error::new(Kind::Nothing, format!("there is no agent {name}")).hint(format!(
        "run `bookend agents` to list them; give the file of a declaration with its path: ./{name}.toml"
    ))
}

/// The error of a declaration that is refused, with what the user can do.
pub(super) fn refused(refused: DeclarationError) -> Error {
    let advice = refused.advice();
    Error::usage(refused).hint(advice)
}

fn check(options: &CheckOptions) -> Result<Exit, Error> {
    let (adapter, source) = subject(&options.subject)?;
    let Some(sample) = &options.sample else {
        let names = adapter.names().programs.replace(' ', ", ");
        let text = format!("{source}: {} is valid; its programs: {names}\n", adapter.agent_type());
        print(&match options.json {
            true => view::pretty(&serde_json::json!({ "agent": adapter.agent_type(), "valid": true })),
            false => text,
        })?;
        return Ok(Exit::Code(0));
    };
    let observed = read_sample(adapter, sample)
        .map_err(|e| Error::usage(format!("reading {}", sample.display())).caused_by(e))?;
    let row = row_of(adapter, &observed, options.exit);
    print(&match options.json {
        true => view::pretty(&row),
        false => view::fields(&row.0, Screen::of(&std::io::stdout())),
    })?;
    Ok(Exit::Code(0))
}

/// The agent of a name or of a file, and where it is from.
fn subject(subject: &Path) -> Result<(&'static dyn Adapter, String), Error> {
    let name = subject.to_string_lossy();
    let is_path = subject.components().count() > 1 || subject.extension().is_some_and(|e| e == "toml");
    if !is_path {
        let known = agent::known_agent(&name).ok_or_else(|| unknown(&name))?;
        let source = source_text(&known.source);
        return known.adapter.map(|adapter| (adapter, source)).map_err(refused);
    }
    let reading = |e| Error::usage(format!("reading {name}")).caused_by(e);
    let (bytes, _) = files::read_regular(subject, 0, LONGEST).map_err(reading)?;
    let text = String::from_utf8(bytes).map_err(|e| reading(std::io::Error::other(e)))?;
    let stem = subject.file_stem().unwrap_or_default().to_string_lossy();
    let adapter = agent::declared_in(subject, &text, &stem).map_err(refused)?;
    Ok((adapter, name.into_owned()))
}

/// What the agent's reader finds in a recorded output: events, one object or an array.
fn read_sample(adapter: &dyn Adapter, sample: &Path) -> std::io::Result<ObservedOutput> {
    // This mode reads events wherever they begin, so that one reader serves all recorded outputs.
    let mut reader = adapter.reader(OutputMode::Json);
    let mut file = File::open(sample)?;
    let mut chunk = vec![0; 64 << 10];
    loop {
        match file.read(&mut chunk)? {
            0 => break,
            n => reader.feed(&chunk[..n]),
        }
    }
    reader.finish();
    Ok(reader.observed().clone())
}

/// The columns that an output and an exit code decide, in the order of the ledger's.
#[derive(Debug)]
struct SampleRow(Vec<(&'static str, Value)>);

impl Serialize for SampleRow {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

/// The row of a first run of the session with this output.
fn row_of(adapter: &dyn Adapter, observed: &ObservedOutput, exit: u8) -> SampleRow {
    let ending = task::judge(&RunEvidence {
        exit: Some(Exit::Code(exit.into())),
        exit_meaning: adapter.exit_meaning(exit),
        outcome: agent::outcome_of(OutputMode::Json, observed),
        cause: None,
        lingered: false,
        output_lost: false,
        grace: Duration::ZERO,
        on_term: OnTerm::Interrupted,
    });
    let (counts, totals) = (observed.counts, observed.reported_totals());
    let error = observed.result.as_ref().and_then(|result| result.error.as_ref());
    SampleRow(vec![
        ("agent_type", json!(adapter.agent_type())),
        ("provider", json!(adapter.provider())),
        ("status", json!(ending.status())),
        ("reason", json!(ending.reason())),
        ("exit_code", json!(exit)),
        ("session_id", json!(observed.session_id)),
        ("model", json!(observed.model)),
        ("turns", json!(counts.turns)),
        ("input_tokens", json!(counts.input_tokens)),
        ("output_tokens", json!(counts.output_tokens)),
        ("cache_read_tokens", json!(counts.cache_read_tokens)),
        ("cache_creation_tokens", json!(counts.cache_creation_tokens)),
        ("session_tokens", json!(totals.tokens)),
        ("cost_usd", json!(counts.cost_usd)),
        ("session_cost_usd", json!(totals.cost_usd)),
        ("tool_in_flight", json!(observed.tool_in_flight)),
        ("error", json!(error)),
    ])
}
