//! The completion script of each shell.

use clap::ValueEnum;

/// The shells that bookend has a script for.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum ForShell {
    Bash,
    Zsh,
    Fish,
}

/// The completion script for a shell.
pub(super) fn script(shell: ForShell) -> &'static str {
    match shell {
        ForShell::Bash => include_str!("shells/bookend.bash"),
        ForShell::Zsh => include_str!("shells/_bookend"),
        ForShell::Fish => include_str!("shells/bookend.fish"),
    }
}
