//! Completion candidates for the scripts of the shells.
//!
//! The scripts call `bookend __complete INDEX WORD…`. From the agent's program on, the shell completes
//! programs, their arguments and files.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::{Arg, Command, CommandFactory};
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate, complete};

use super::command_line::Cli;
use crate::commands::candidates::{self, Candidate};
use crate::task::SYSTEM_LEDGER;

/// A command line to complete.
pub struct Completion {
    words: Vec<OsString>,
    /// The index of the word to complete.
    index: usize,
}

impl Completion {
    /// Parses `bookend __complete INDEX WORD…`. `None`: it is another command line.
    pub(super) fn asked(args: &[OsString]) -> Option<Completion> {
        let [_, command, index, words @ ..] = args else { return None };
        if command != "__complete" {
            return None;
        }
        let mut words = words.to_vec();
        let index = index.to_str()?.parse::<usize>().ok()?.min(words.len());
        words.resize(words.len().max(index + 1), OsString::new());
        Some(Completion { words, index })
    }

    /// The candidates, one per line: the word, a tab and its description.
    pub fn candidates(&self) -> String {
        let (words, index) = (&self.words, self.index);
        let whole = built();
        if let Some(agent) = agent_at(&whole, &words[..index]) {
            return format!("\t{agent}\n");
        }
        let ledger = ledger(words);
        let mut command = with_ledger_values(whole, ledger.as_ref());
        let found = complete(&mut command, words.clone(), index, std::env::current_dir().ok().as_deref());
        found.unwrap_or_default().iter().map(line).collect()
    }
}

fn built() -> Command {
    let mut whole = Cli::command();
    whole.build();
    whole
}

fn line(candidate: &CompletionCandidate) -> String {
    let word = candidate.get_value().to_string_lossy();
    let help = candidate.get_help().map(ToString::to_string).unwrap_or_default();
    let help = help.lines().next().unwrap_or_default();
    // Another program may have written any key or id. A line that has no word is the index of the agent.
    match word.is_empty() || word.contains(char::is_control) || candidate.is_hide_set() {
        true => String::new(),
        false => format!("{word}\t{help}\n"),
    }
}

/// The index of the agent's program: it is before the word to complete, or is that word. `None`: the word
/// belongs to bookend.
fn agent_at(whole: &Command, before: &[OsString]) -> Option<usize> {
    let run = whole.find_subcommand("run")?;
    let mut command = whole;
    let mut at = 1;
    while let Some(word) = before.get(at).map(|word| word.to_string_lossy()) {
        at += 1;
        match word.strip_prefix("--") {
            Some("") => return (command.get_name() == "run").then_some(at),
            Some(option) => {
                let takes_value = |arg: &Arg| {
                    arg.get_long() == Some(option) && arg.get_num_args().is_some_and(|n| n.takes_values())
                };
                at += usize::from(command.get_arguments().any(takes_value));
            }
            None if word.starts_with('-') => {}
            None if command.get_name() == "run" => return Some(at - 1),
            None if word == "run" => command = run,
            None => return None,
        }
    }
    None
}

/// The ledger that the command line names.
fn ledger(words: &[OsString]) -> Option<PathBuf> {
    let own = || words.iter().take_while(|word| *word != "--");
    if own().any(|word| word == "--system") {
        return Some(SYSTEM_LEDGER.into());
    }
    let glued = own().find_map(|word| word.to_str()?.strip_prefix("--ledger=").map(PathBuf::from));
    glued.or_else(|| own().skip_while(|word| *word != "--ledger").nth(1).map(PathBuf::from))
}

/// The command line, with keys and ids from the ledger for the arguments that take them.
fn with_ledger_values(command: Command, ledger: Option<&PathBuf>) -> Command {
    command
        .mut_args(|arg| {
            let from = ledger.cloned();
            match (arg.get_id().as_str(), arg.is_positional()) {
                ("key", _) => arg.add(completer(move || candidates::keys(from.as_deref()))),
                ("id" | "ids", true) | ("task", false) => {
                    arg.add(completer(move || candidates::ids(from.as_deref())))
                }
                _ => arg,
            }
        })
        .mut_subcommands(|below| with_ledger_values(below, ledger))
}

fn completer(values: impl Fn() -> Vec<Candidate> + Send + Sync + 'static) -> ArgValueCompleter {
    ArgValueCompleter::new(move |given: &OsStr| {
        let given = given.to_string_lossy();
        let fitting = values().into_iter().filter(|value| value.word.starts_with(&*given));
        fitting.map(|value| CompletionCandidate::new(value.word).help(Some(value.help.into()))).collect()
    })
}
