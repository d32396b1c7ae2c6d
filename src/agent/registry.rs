//! The list of agents: those in the program, and the user's own declarations, which come first.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::adapter::{Adapter, AgentNames};
use super::claude::ClaudeAdapter;
use super::command::CommandAdapter;
use super::declared::{self, DeclarationError, DeclaredAdapter};

/// The `agent_type` of programs that are not known agents.
const NO_AGENT: &str = "command";

/// `--agent-type` names an agent that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AgentTypeError {
    #[error("{}: unknown agent type `{named}`", program.display())]
    Unknown { program: PathBuf, named: String },
    #[error(transparent)]
    Refused(#[from] DeclarationError),
}

impl AgentTypeError {
    /// What the user can do.
    pub fn advice(&self) -> String {
        match self {
            AgentTypeError::Unknown { .. } => {
                format!("use {}; without --agent-type, the program's name decides", listed(&agent_types()))
            }
            AgentTypeError::Refused(refused) => refused.advice(),
        }
    }
}

/// Names in a sentence: `a, b or c`.
fn listed(names: &[String]) -> String {
    match names {
        [others @ .., last] if !others.is_empty() => format!("{} or {last}", others.join(", ")),
        _ => names.concat(),
    }
}

/// An agent in the program. Its names are here, so that its declaration is parsed only if it is run.
struct BuiltInAgent {
    name: &'static str,
    names: AgentNames,
    form: AgentForm,
}

enum AgentForm {
    Code(&'static dyn Adapter),
    Declared { toml: &'static str, adapter: OnceLock<DeclaredAdapter> },
}

const fn declared(
    name: &'static str,
    common: &'static str,
    (programs, packages): (&'static str, &'static str),
    toml: &'static str,
) -> BuiltInAgent {
    let names = AgentNames {
        programs: Cow::Borrowed(programs),
        common: Cow::Borrowed(common),
        packages: Cow::Borrowed(packages),
        by_version: false,
    };
    BuiltInAgent { name, names, form: AgentForm::Declared { toml, adapter: OnceLock::new() } }
}

static BUILT_IN: [BuiltInAgent; 7] = [
    BuiltInAgent { name: "claude", names: ClaudeAdapter::NAMES, form: AgentForm::Code(&ClaudeAdapter) },
    declared("codex", "codex.js", ("codex", "@openai/codex"), include_str!("declarations/codex.toml")),
    declared(
        "copilot",
        "npm-loader.js",
        ("copilot", "@github/copilot"),
        include_str!("declarations/copilot.toml"),
    ),
    declared("cursor", "agent", ("cursor-agent", ""), include_str!("declarations/cursor.toml")),
    declared(
        "gemini",
        "gemini.js",
        ("gemini", "@google/gemini-cli"),
        include_str!("declarations/gemini.toml"),
    ),
    declared("opencode", "", ("opencode", "opencode-ai"), include_str!("declarations/opencode.toml")),
    declared(
        "qwen",
        "cli-entry.js cli.js",
        ("qwen", "@qwen-code/qwen-code"),
        include_str!("declarations/qwen.toml"),
    ),
];

impl BuiltInAgent {
    fn adapter(&'static self) -> &'static dyn Adapter {
        match &self.form {
            AgentForm::Code(adapter) => *adapter,
            AgentForm::Declared { toml, adapter } => adapter.get_or_init(|| {
                let file = format!("{}.toml", self.name);
                let declaration = declared::parse(toml, &file, self.name);
                DeclaredAdapter::new(declaration.expect("a declaration in the program"))
            }),
        }
    }
}

/// Where what is known about an agent comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeclarationSource {
    BuiltIn,
    /// The user's own file. `replaces`: it stands for an agent in the program.
    File {
        path: PathBuf,
        replaces: bool,
    },
}

/// An agent that a declaration describes, with the text of the declaration.
#[derive(Debug)]
struct LoadedDeclaration {
    adapter: &'static DeclaredAdapter,
    source: DeclarationSource,
    text: Cow<'static, str>,
}

/// An agent that bookend knows, or the user's own declaration that is refused.
pub struct KnownAgent {
    pub name: String,
    pub source: DeclarationSource,
    /// The text of its declaration; `None`: it is described by code, or refused.
    pub text: Option<Cow<'static, str>>,
    pub adapter: Result<&'static dyn Adapter, DeclarationError>,
}

impl KnownAgent {
    fn of(name: String) -> Option<KnownAgent> {
        let built_in = BUILT_IN.iter().find(|agent| agent.name == name);
        let (source, text, adapter): (_, _, Result<&dyn Adapter, _>) = match (declaration(&name), built_in) {
            (Ok(Some(loaded)), _) => (loaded.source, Some(loaded.text), Ok(loaded.adapter)),
            (Ok(None), built_in) => (DeclarationSource::BuiltIn, None, Ok(built_in?.adapter())),
            (Err(refused), built_in) => {
                let path = declared::files().into_iter().find(|(known, _)| *known == name)?.1;
                let source = DeclarationSource::File { path, replaces: built_in.is_some() };
                (source, None, Err(refused))
            }
        };
        Some(KnownAgent { name, source, text, adapter })
    }
}

/// The agent `name`; `None`: there is none.
pub fn known_agent(name: &str) -> Option<KnownAgent> {
    KnownAgent::of(name.to_owned())
}

/// All agents, by their names.
pub fn known_agents() -> Vec<KnownAgent> {
    agent_types().into_iter().filter_map(KnownAgent::of).collect()
}

/// Loads the declaration of the agent `name`: the user's own, else the one in the program. `None`: there is
/// none.
///
/// # Errors
/// When the user's own is refused.
fn declaration(name: &str) -> Result<Option<LoadedDeclaration>, DeclarationError> {
    let built_in = BUILT_IN.iter().find(|agent| agent.name == name);
    if let Some((path, text)) = declared::declaration_file(name)? {
        let adapter = declared_in(&path, &text, name)?;
        let source = DeclarationSource::File { path, replaces: built_in.is_some() };
        return Ok(Some(LoadedDeclaration { adapter, source, text: text.into() }));
    }
    Ok(built_in.and_then(|agent| match &agent.form {
        AgentForm::Code(_) => None,
        AgentForm::Declared { toml, adapter } => {
            agent.adapter();
            let (adapter, text) = (adapter.get()?, Cow::Borrowed(*toml));
            Some(LoadedDeclaration { adapter, source: DeclarationSource::BuiltIn, text })
        }
    }))
}

/// The adapter that the text of a declaration makes. It lives as long as bookend does.
///
/// # Errors
/// When the declaration is refused.
pub fn declared_in(
    path: &Path,
    text: &str,
    name: &str,
) -> Result<&'static DeclaredAdapter, DeclarationError> {
    let declaration = declared::parse(text, &path.display().to_string(), name)?;
    Ok(Box::leak(Box::new(DeclaredAdapter::new(declaration))))
}

/// The names of all agents, and at last that of programs that are none.
pub fn agent_types() -> Vec<String> {
    let mut names: Vec<String> = BUILT_IN.iter().map(|agent| agent.name.to_owned()).collect();
    names.extend(declared::files().into_iter().map(|(name, _)| name));
    names.sort();
    names.dedup();
    names.push(NO_AGENT.to_owned());
    names
}

/// The adapter with this `agent_type`; `None`: there is none.
///
/// # Errors
/// When the user's own declaration is refused.
pub fn by_type(agent_type: &str) -> Result<Option<&'static dyn Adapter>, DeclarationError> {
    if agent_type == NO_AGENT {
        return Ok(Some(no_adapter()));
    }
    match declaration(agent_type)? {
        Some(LoadedDeclaration { adapter, .. }) => Ok(Some(adapter)),
        None => Ok(BUILT_IN.iter().find(|agent| agent.name == agent_type).map(BuiltInAgent::adapter)),
    }
}

/// The agent in the program that a word of a command line names. The user's own declaration may replace it.
pub(super) fn built_in_name(word: &OsStr) -> Option<&'static str> {
    let base = AgentNames::base_of(word)?;
    BUILT_IN.iter().find(|agent| agent.names.is_name_of(word, base, false)).map(|agent| agent.name)
}

/// The agent `name`, if it is declared so that `word` names it.
///
/// # Errors
/// When the user's own declaration is refused.
pub(super) fn named_by(name: &str, word: &OsStr) -> Result<Option<&'static dyn Adapter>, DeclarationError> {
    Ok(by_type(name)?.filter(|adapter| adapter.names().is_name(word, false)))
}

/// The adapter for programs that are not known agents.
pub(super) fn no_adapter() -> &'static dyn Adapter {
    &CommandAdapter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_in_the_table_are_those_of_the_declarations() {
        for agent in &BUILT_IN {
            let adapter = agent.adapter();
            assert_eq!(adapter.agent_type(), agent.name);
            assert_eq!(*adapter.names(), agent.names, "{}", agent.name);
        }
    }

    #[test]
    fn names_are_listed_in_a_sentence() {
        let names = |names: &[&str]| listed(&names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>());
        assert_eq!(names(&["a", "b", "c"]), "a, b or c");
        assert_eq!(names(&["a"]), "a");
    }
}
