//! Completions and man pages, made from the command line itself.

use clap::{Command, ValueEnum};
use clap_complete::Shell;

/// The shells that are completed for.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum ForShell {
    Bash,
    Zsh,
    Fish,
}

/// The completion script for a shell.
pub fn completions(mut command: Command, shell: ForShell) -> String {
    let shell = match shell {
        ForShell::Bash => Shell::Bash,
        ForShell::Zsh => Shell::Zsh,
        ForShell::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "bookend", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// A man page a command, by file name; bookend's own is the first.
pub fn man(command: Command) -> Vec<(String, String)> {
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    collect(&command, &mut pages);
    pages
}

fn collect(command: &Command, pages: &mut Vec<(String, String)>) {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let mut page = Vec::new();
    let rendered = clap_mangen::Man::new(command.clone()).render(&mut page);
    debug_assert!(rendered.is_ok(), "writing to memory does not fail");
    pages.push((format!("{name}.1"), String::from_utf8_lossy(&page).into_owned()));
    for below in command.get_subcommands().filter(|c| !c.is_hide_set()) {
        collect(below, pages);
    }
}
