//! `--help`: the commands in groups, an example for each, and a short form (`-h`).

use std::ffi::OsString;

use clap::{Command, CommandFactory};

use super::command_line::Cli;
use super::examples;

/// The commands in groups. A test compares them with the command line.
pub(super) const GROUPS: [(&str, &[&str]); 5] = [
    ("Run", &["run", "wait", "cancel", "redispatch", "resume", "artifact"]),
    ("Inspect", &["list", "ps", "show", "logs", "audit", "stats", "timeline", "session"]),
    ("Maintain", &["recover", "monitor", "deliver", "prune", "backup"]),
    ("Fleet", &["fleet"]),
    ("Set up", &["doctor", "agents", "adopt", "completions", "man", "units"]),
];

/// The help that `args` request, if any.
pub(super) fn message(args: &[OsString]) -> Option<clap::Error> {
    let is_short = args.iter().take_while(|arg| *arg != "--").any(|arg| arg == "-h");
    command(is_short).try_get_matches_from(args).err()
}

/// The command line with its groups and examples. `is_short`: without the variables and the lists of values.
pub(super) fn command(is_short: bool) -> Command {
    let mut whole = Cli::command();
    whole.build();
    let template = template(&whole);
    with_examples(whole, "bookend", is_short).help_template(template)
}

fn with_examples(command: Command, name: &str, is_short: bool) -> Command {
    let header = command.get_styles().get_header();
    let lines: String = examples::of(name).iter().map(|line| format!("\n  {line}")).collect();
    let text = if lines.is_empty() { lines } else { format!("{header}Examples:{header:#}{lines}") };
    let command = command.after_help(text).mut_subcommands(|below| {
        let name = format!("{name} {}", below.get_name());
        with_examples(below, &name, is_short)
    });
    match is_short {
        true => command.mut_args(|arg| arg.hide_env(true).hide_possible_values(true)),
        false => command,
    }
}

/// The help of bookend itself. clap can list the commands only in one block.
fn template(whole: &Command) -> String {
    let styles = whole.get_styles();
    let (header, literal) = (styles.get_header(), styles.get_literal());
    let mut text = "{before-help}{about-with-newline}\n{usage-heading} {usage}\n\n".to_owned();
    for (group, names) in GROUPS {
        text += &format!("{header}{group}:{header:#}\n");
        for name in names {
            let about = whole.find_subcommand(name).and_then(Command::get_about);
            let about = about.map(ToString::to_string).unwrap_or_default();
            text += &format!("  {literal}{name:<12}{literal:#} {about}\n");
        }
        text.push('\n');
    }
    text + "{options}{after-help}"
}
