//! Recognises the agent that a command line starts, directly or through launchers, and where its own
//! arguments begin.

mod table;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use memchr::memmem;

use super::adapter::{Adapter, AgentNames};
use super::declared::DeclarationError;
use super::registry::{self, AgentTypeError};
use table::{LAUNCHERS, LaunchReach, Launcher, has};

/// The most launchers that are followed on one command line.
const DEPTH: usize = 8;
/// The most symbolic links that are followed from a program.
const LINKS: usize = 8;

/// The agent that a command line starts.
pub struct RecognisedAgent {
    pub adapter: &'static dyn Adapter,
    /// The index in the argv (program first) of the agent's first own argument.
    pub args_start: usize,
    pub place: SessionPlace,
}

/// Where the agent stores its conversations, and whether bookend tracks them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionPlace {
    /// On this machine, for this user.
    Here,
    /// This launcher starts the agent as another user or on another machine.
    Elsewhere(String),
    /// bookend does not track them and adds no arguments.
    Untracked(UntrackedReason),
}

/// Why a conversation is not tracked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UntrackedReason {
    /// This program has no adapter.
    NoAdapter(String),
    /// This launcher may start several programs, or its arguments do not show which.
    Hidden(String),
    /// This launcher has an option that bookend does not know, so it cannot distinguish options from values.
    Unclear(String),
    /// This launcher starts the agent as another user or on another machine.
    Elsewhere(String),
    /// This program is not known, and one of its arguments names an agent.
    Ambiguous(String),
}

impl fmt::Display for UntrackedReason {
    /// The text of the column `session_untracked`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UntrackedReason::NoAdapter(by)
            | UntrackedReason::Hidden(by)
            | UntrackedReason::Unclear(by)
            | UntrackedReason::Elsewhere(by) => f.write_str(by),
            UntrackedReason::Ambiguous(by) => write!(f, "ambiguous: {by}"),
        }
    }
}

/// Where following the launchers of a command line ended; `at` is an index of the argv.
enum Walk {
    Agent {
        adapter: &'static dyn Adapter,
        at: usize,
    },
    /// An unknown program.
    Program {
        at: usize,
    },
    /// A launcher whose arguments do not show what it starts.
    Hidden {
        at: usize,
    },
    /// A launcher with arguments that bookend does not know.
    Unclear {
        at: usize,
    },
}

/// Recognises the agent of a command line (program first).
///
/// # Errors
/// No agent has this `agent_type`, or the user's own declaration of the agent is refused.
pub fn recognise(argv: &[OsString], agent_type: Option<&str>) -> Result<RecognisedAgent, AgentTypeError> {
    let named = match agent_type {
        None => None,
        Some(name) => Some(registry::by_type(name)?.ok_or_else(|| AgentTypeError::Unknown {
            program: argv.first().map(PathBuf::from).unwrap_or_default(),
            named: name.to_owned(),
        })?),
    };
    let mut away = None;
    let walk = walk(argv, named, &mut away)?;
    let untracked = |why, args_start| RecognisedAgent {
        adapter: named.unwrap_or_else(registry::no_adapter),
        args_start,
        place: SessionPlace::Untracked(why),
    };
    Ok(match (walk, away) {
        // Without `--agent-type`, an agent of another user or machine is not tracked.
        (Walk::Agent { at, .. }, Some((by, _))) if named.is_none() => {
            untracked(UntrackedReason::Elsewhere(by), at)
        }
        (Walk::Agent { at, .. }, Some((by, true))) if !argv[at..].iter().all(|w| is_plain(w)) => {
            untracked(UntrackedReason::Elsewhere(by), argv.len())
        }
        (Walk::Agent { adapter, at }, away) => RecognisedAgent {
            adapter,
            args_start: at + 1,
            place: away.map_or(SessionPlace::Here, |(by, _)| SessionPlace::Elsewhere(by)),
        },
        (Walk::Hidden { at }, _) => untracked(UntrackedReason::Hidden(base(&argv[at])), argv.len()),
        (_, Some((by, _))) => untracked(UntrackedReason::Elsewhere(by), argv.len()),
        (Walk::Unclear { at }, None) => untracked(
            UntrackedReason::Unclear(base(&argv[at])),
            after_agent(argv, at + 1, named).unwrap_or(argv.len()),
        ),
        (Walk::Program { at }, None) => match (named, after_agent(argv, at + 1, named)) {
            (None, _) => untracked(UntrackedReason::NoAdapter(base_at(argv, at)), argv.len()),
            (Some(adapter), _) if adapter.agent_type() == registry::no_adapter().agent_type() => {
                untracked(UntrackedReason::NoAdapter(base_at(argv, at)), argv.len())
            }
            (Some(_), Some(args_start)) => {
                untracked(UntrackedReason::Ambiguous(base_at(argv, at)), args_start)
            }
            (Some(adapter), None) => {
                RecognisedAgent { adapter, args_start: (at + 1).min(argv.len()), place: SessionPlace::Here }
            }
        },
    })
}

/// Follows the launchers of a command line. Sets `away` to the first launcher that changes the user or the
/// machine, and whether a shell there parses the words again.
fn walk(
    argv: &[OsString],
    named: Option<&'static dyn Adapter>,
    away: &mut Option<(String, bool)>,
) -> Result<Walk, DeclarationError> {
    let mut at = 0;
    for _ in 0..DEPTH {
        let Some(word) = argv.get(at) else { break };
        if let Some(adapter) = known(word, named)? {
            return Ok(Walk::Agent { adapter, at });
        }
        let args = &argv[at + 1..];
        let name = Path::new(word).file_name().unwrap_or(word);
        let rows: Vec<&Launcher> =
            LAUNCHERS.iter().filter(|l| has(l.names, &name.to_string_lossy())).collect();
        let Some(launcher) = rows.iter().find(|l| l.calls(name, args)).or(rows.first()) else {
            let own = if named.is_none() { declared(name, word)? } else { None };
            return Ok(match own.map_or_else(|| linked(argv, at, named), |own| Ok(Some(own)))? {
                Some(adapter) => Walk::Agent { adapter, at },
                None => Walk::Program { at },
            });
        };
        match launcher.reach {
            LaunchReach::Here => {}
            LaunchReach::Hidden => return Ok(Walk::Hidden { at }),
            reach => {
                let (_, by_shell) = away.get_or_insert_with(|| (base(word), false));
                *by_shell |= reach == LaunchReach::ElsewhereByShell;
            }
        }
        match launcher.program(args) {
            Some(place) => at += 1 + place,
            None => return Ok(Walk::Unclear { at }),
        }
    }
    Ok(Walk::Unclear { at: 0 })
}

/// The agent in the program, or the user's own in its place, that a word names. `named`: the agent of
/// `--agent-type`, besides which there is no other.
fn known(
    word: &OsStr,
    named: Option<&'static dyn Adapter>,
) -> Result<Option<&'static dyn Adapter>, DeclarationError> {
    match named {
        Some(named) => Ok(Some(named).filter(|named| named.names().is_name(word, true))),
        None => registry::built_in_name(word).map_or(Ok(None), |name| registry::named_by(name, word)),
    }
}

/// The agent of a declaration of the user's own that is named like the program `name`, which is `word`
/// without its folder. Of an npm package, the name is without its version.
fn declared(name: &OsStr, word: &OsStr) -> Result<Option<&'static dyn Adapter>, DeclarationError> {
    let Some(name) = name.to_str() else { return Ok(None) };
    let name = name.split_once('@').map_or(name, |(name, _)| name);
    registry::named_by(name, word)
}

/// The agent to which the program at `at` leads by symbolic links.
fn linked(
    argv: &[OsString],
    at: usize,
    named: Option<&'static dyn Adapter>,
) -> Result<Option<&'static dyn Adapter>, DeclarationError> {
    let word = Path::new(&argv[at]);
    // A launcher may look up a relative name in another directory or PATH.
    if at > 0 && !word.is_absolute() {
        return Ok(None);
    }
    let is_path = word.components().count() > 1 || word.is_absolute();
    let mut next = if is_path { Some(word.to_path_buf()) } else { in_path(word) };
    for _ in 0..LINKS {
        let Some(link) = next else { break };
        let Ok(target) = std::fs::read_link(&link) else { break };
        let file = link.parent().unwrap_or(Path::new("")).join(target);
        if let Some(adapter) = known(file.as_os_str(), named)? {
            return Ok(Some(adapter));
        }
        next = Some(file);
    }
    Ok(None)
}

/// The symbolic link that PATH finds under this name; `None`: it finds a regular program or nothing.
fn in_path(name: &Path) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    for dir in std::env::split_paths(&path) {
        let file = dir.join(name);
        match std::fs::read_link(&file) {
            Ok(_) => return Some(file),
            Err(e) if e.kind() == ErrorKind::InvalidInput => return None,
            Err(_) => {}
        }
    }
    None
}

impl AgentNames {
    /// The part of a word that can be the name of a program.
    pub(super) fn base_of(word: &OsStr) -> Option<&str> {
        Path::new(word).file_name().and_then(OsStr::to_str)
    }

    /// Whether a word of a command line names this agent. `typed`: `--agent-type` is given.
    pub(super) fn is_name(&self, word: &OsStr, typed: bool) -> bool {
        AgentNames::base_of(word).is_some_and(|base| self.is_name_of(word, base, typed))
    }

    /// The same for a word whose base name is known.
    pub(super) fn is_name_of(&self, word: &OsStr, base: &str, typed: bool) -> bool {
        let path = Path::new(word);
        let of_package = |package: &str| {
            let version = word.to_str().and_then(|w| w.strip_prefix(package));
            let is_program = || has(&self.programs, base) || has(&self.common, base);
            version.is_some_and(|v| v.is_empty() || v.starts_with('@'))
                || (is_program() && holds(path, package))
        };
        has(&self.programs, base)
            || (typed && has(&self.common, base))
            || self.packages.split_ascii_whitespace().any(of_package)
            || (self.by_version && is_version(base) && in_versions(path))
    }
}

/// Whether `path` is a file below the folder of `package`.
fn holds(path: &Path, package: &str) -> bool {
    path.ancestors().skip(1).any(|dir| dir.ends_with(package))
}

fn in_versions(path: &Path) -> bool {
    path.parent().and_then(Path::file_name) == Some(OsStr::new("versions"))
}

fn is_version(name: &str) -> bool {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    name.split('.').count() == 3 && name.split('.').all(is_number)
}

/// The agent in the program that a word names. A directory, a text with white space and a URL name none.
fn names_agent(word: &OsStr) -> Option<&'static str> {
    let name = registry::built_in_name(word)?;
    is_program(word).then_some(name)
}

/// Whether a word that names an agent is its program.
fn is_program(word: &OsStr) -> bool {
    let bytes = word.as_bytes();
    let is_folder = bytes.contains(&b'/') && Path::new(word).is_dir();
    let is_text = bytes.iter().any(u8::is_ascii_whitespace) || memmem::find(bytes, b"://").is_some();
    !is_folder && (!is_text || Path::new(word).is_file())
}

/// The index after the first word from `at` on that names an agent.
fn after_agent(argv: &[OsString], at: usize, named: Option<&'static dyn Adapter>) -> Option<usize> {
    let words = argv.get(at..)?;
    let is_named = |word: &OsStr| named.is_some_and(|n| n.names().is_name(word, false) && is_program(word));
    let is_agent = |word: &OsString| names_agent(word).is_some() || is_named(word);
    words.iter().position(is_agent).map(|place| at + place + 1)
}

/// The agent that an untracked command line may start: one of its arguments, or a word of a shell script in
/// its arguments, names it.
pub fn mentioned(argv: &[OsString], why: &UntrackedReason) -> Option<&'static str> {
    let args = argv.get(1..)?;
    let whole = args.iter().find_map(|word| names_agent(word));
    let in_text = || {
        let takes_text = |option: &OsString| {
            let option = option.as_bytes();
            option.starts_with(b"-")
                && (option.ends_with(b"c") || option == b"-S" || option.ends_with(b"string"))
        };
        let texts = args.windows(2).filter(|pair| takes_text(&pair[0])).map(|pair| &pair[1]);
        texts
            .flat_map(|text| text.as_bytes().split(|b| !is_plain_byte(*b)))
            .find_map(|word| names_agent(OsStr::from_bytes(word)))
    };
    match why {
        UntrackedReason::Hidden(_) | UntrackedReason::Unclear(_) => whole.or_else(in_text),
        _ => whole,
    }
}

/// Whether a shell takes this word literally.
fn is_plain(word: &OsStr) -> bool {
    !word.is_empty() && word.as_bytes().iter().all(|b| is_plain_byte(*b))
}

fn is_plain_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_./:=@,+%".contains(&byte)
}

fn base(word: &OsStr) -> String {
    Path::new(word).file_name().unwrap_or(word).to_string_lossy().into_owned()
}

fn base_at(argv: &[OsString], at: usize) -> String {
    argv.get(at).map(|word| base(word)).unwrap_or_default()
}

#[cfg(test)]
mod tests;
