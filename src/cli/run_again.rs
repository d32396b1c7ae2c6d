//! The arguments of the commands that run something of a recorded task again.

use clap::{ArgAction, Args};
use tracing::level_filters::LevelFilter;

use super::values::{level, when_busy};
use crate::run::options::WhenBusy;

// No doc comment: it would become the help of the command.
#[derive(Debug, Args)]
pub struct RunAgainArgs {
    /// Wait for the task that holds the key
    #[arg(long)]
    wait: bool,
    /// Cancel the task that holds the key, then run
    #[arg(long, conflicts_with = "wait")]
    replace: bool,
    /// Print errors only
    #[arg(short, long, conflicts_with = "verbose")]
    quiet: bool,
    /// Print what bookend does; twice: in detail
    #[arg(short, long, action = ArgAction::Count)]
    verbose: u8,
}

impl RunAgainArgs {
    pub fn when_busy(&self) -> WhenBusy {
        when_busy(self.wait, self.replace)
    }

    pub fn level(&self) -> LevelFilter {
        level(self.quiet, self.verbose)
    }
}
