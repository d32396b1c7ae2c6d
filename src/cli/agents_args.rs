//! The arguments of `bookend agents`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

use crate::commands::agents::{AgentsAction, CheckOptions};

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct AgentsArgs {
    #[command(subcommand)]
    command: Option<AgentsCommand>,
    #[command(flatten)]
    list: AgentsListArgs,
}

#[derive(Debug, Args)]
struct AgentsListArgs {
    /// Print one JSON object: {"agents": [...]}
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum AgentsCommand {
    /// List agents, their programs and declarations
    List(AgentsListArgs),
    /// Print the declaration of an agent
    Show {
        /// Name of the agent
        name: String,
    },
    /// Check a declaration, also with a recorded output
    ///
    /// It reads the declaration as a run would, and says what is wrong in which line. With --sample it prints
    /// the row that the output would make.
    Check {
        /// Name of an agent, or the file of a declaration
        #[arg(value_name = "NAME|FILE", value_hint = ValueHint::FilePath)]
        subject: PathBuf,
        /// Read this recorded output of the agent, and print its row
        ///
        /// The row is that of the first run of a session.
        #[arg(long, value_name = "OUT", value_hint = ValueHint::FilePath)]
        sample: Option<PathBuf>,
        /// The exit code with which the agent ended
        #[arg(long, value_name = "CODE", default_value_t = 0, requires = "sample")]
        exit: u8,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

impl AgentsArgs {
    pub fn request(self) -> AgentsAction {
        match self.command {
            None => AgentsAction::List { json: self.list.json },
            Some(AgentsCommand::List(list)) => AgentsAction::List { json: list.json },
            Some(AgentsCommand::Show { name }) => AgentsAction::Show { name },
            Some(AgentsCommand::Check { subject, sample, exit, json }) => {
                AgentsAction::Check(CheckOptions { subject, sample, exit, json })
            }
        }
    }
}
