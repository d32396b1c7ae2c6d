//! Usage errors: the message of clap in the form of every other error of bookend.

use std::ffi::OsString;

use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::command_line::Cli;
use super::variables;
use crate::agent;
use crate::view;

/// The error, the usage and the hints. Arguments are escaped.
pub fn report(message: &clap::Error, args: &[OsString]) -> String {
    let set = variables::set();
    let text = clean(message, args.iter().chain(set.iter().map(|(_, value)| value)));
    let mut report = "bookend: ".to_owned();
    if message.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let name = command_of(args);
        return format!(
            "{report}error: {name}: no command given\nhint: run `{name} --help` to list the commands\n"
        );
    }
    let mut hints = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        match (line.trim_start().strip_prefix("tip: "), line.strip_prefix("Usage: ")) {
            (Some(tip), _) if hints.is_empty() => hints.push(tip.to_owned()),
            (Some(_), _) => {}
            (None, Some(usage)) => report += &format!("usage: {usage}\n"),
            (None, None) if line.starts_with("For more information") => {}
            (None, None) => report += &format!("{line}\n"),
        }
    }
    hints.extend(variables::blamed(message, args, &set));
    if let Some(run) = run_of_agent(message, args) {
        hints = vec![run];
    } else if hints.is_empty() {
        hints.push(format!("run `{} --help` to see what it takes", command_of(args)));
    }
    hints.iter().for_each(|hint| report += &format!("hint: {hint}\n"));
    report
}

/// The text of clap without colours. clap's own plain rendering also strips escape sequences inside
/// arguments, so the colours are removed here, after the arguments were escaped.
fn clean<'a>(message: &clap::Error, words: impl Iterator<Item = &'a OsString>) -> String {
    let mut text = message.render().ansi().to_string();
    for word in words {
        let word = word.to_string_lossy();
        // clap may show only the value of `--option=value`, and only one value of a list.
        let value = word.split_once('=').map(|(_, value)| value);
        let listed = word.split(',').chain(value.into_iter().flat_map(|v| v.split(',')));
        for part in [Some(&*word), value].into_iter().flatten().chain(listed) {
            let safe = view::one_line(part);
            if safe != part {
                text = text.replace(part, &safe);
            }
        }
    }
    let mut parts = text.split("\x1b[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |plain, part| plain + part.split_once('m').map_or(part, |(_, rest)| rest))
}

/// The suggested `run` command if an agent's name was given in place of a command.
fn run_of_agent(message: &clap::Error, args: &[OsString]) -> Option<String> {
    if message.kind() != ErrorKind::InvalidSubcommand {
        return None;
    }
    let Some(ContextValue::String(word)) = message.get(ContextKind::InvalidSubcommand) else { return None };
    let at = args.iter().skip(1).position(|arg| arg.to_str() == Some(word))? + 1;
    agent::is_agent(&args[at]).then(|| {
        let words = |words: &[OsString]| -> String {
            // `run` does not accept --system.
            let words = words.iter().filter(|word| *word != "--system");
            words.map(|w| format!(" {}", view::quoted(&w.to_string_lossy()))).collect()
        };
        let command = format!("bookend run{} --{}", words(&args[1..at]), words(&args[at..]));
        format!("run `{}`", view::one_line(&command))
    })
}

/// The command that `args` name, without its options: `bookend session list`.
fn command_of(args: &[OsString]) -> String {
    let mut whole = Cli::command();
    whole.build();
    let (mut command, mut name) = (&whole, "bookend".to_owned());
    for word in args.iter().skip(1) {
        // `bookend help` has no help of its own.
        if let Some(below) = command.find_subcommand(word).filter(|below| below.get_name() != "help") {
            name += &format!(" {}", below.get_name());
            command = below;
        }
        if !command.has_subcommands() {
            break;
        }
    }
    name
}
