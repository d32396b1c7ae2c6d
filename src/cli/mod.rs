//! Parses the command line into requests. No other module depends on clap.

mod agents_args;
mod command_line;
mod complete;
mod examples;
mod fleet_args;
mod help;
mod man_page;
mod manage;
mod one_task;
mod query;
mod run_again;
mod run_args;
mod selection;
mod shell;
mod usage;
mod values;
pub mod variables;

pub use complete::Completion;
pub use usage::report as usage_report;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use crate::commands::adopt;
use crate::commands::agents;
use crate::commands::artifact;
use crate::commands::audit;
use crate::commands::backup;
use crate::commands::cancel;
use crate::commands::deliver;
use crate::commands::doctor;
use crate::commands::fleet;
use crate::commands::list;
use crate::commands::logs;
use crate::commands::man;
use crate::commands::monitor;
use crate::commands::prune;
use crate::commands::recover;
use crate::commands::redispatch;
use crate::commands::resume;
use crate::commands::session;
use crate::commands::show;
use crate::commands::stats;
use crate::commands::timeline;
use crate::commands::units;
use crate::commands::wait;
use crate::log;
use crate::run::options::RunOptions;
use crate::task::SYSTEM_LEDGER;
use command_line::{Cli, Command, Common, LogArg, Run};

const NOT_A_UNIT: &str = "--system cannot be used with run: the system units run their own agents\n\n  \
    tip: write the agent's command line to /etc/bookend/NAME.env and start the unit bookend@NAME";

impl Common {
    fn with(self, request: CommandRequest) -> Invocation {
        let log = match self.log {
            LogArg::Auto => log::To::Auto,
            LogArg::Stderr => log::To::Stderr,
            LogArg::Journald => log::To::Journald,
        };
        Invocation { ledger: self.ledger, log, request }
    }
}

/// A parsed command line.
pub struct Invocation {
    pub ledger: Option<PathBuf>,
    pub log: log::To,
    pub request: CommandRequest,
}

pub enum CommandRequest {
    Run(Box<RunOptions>),
    List(list::ListOptions),
    Show(show::ShowOptions),
    Logs(logs::LogsOptions),
    Audit(audit::AuditOptions),
    Artifact(artifact::ArtifactOptions),
    Cancel(cancel::CancelOptions),
    Wait(wait::WaitOptions),
    Prune(prune::PruneOptions),
    Stats(stats::StatsOptions),
    Timeline(timeline::TimelineOptions),
    Agents(agents::AgentsAction),
    Doctor(doctor::DoctorOptions),
    /// Bare `bookend`.
    Overview {
        stale_after: Duration,
    },
    /// A completion script.
    Say(String),
    /// Candidates for a shell.
    Complete(Completion),
    Man(man::ManOptions),
    Units(units::UnitsOptions),
    Recover(recover::RecoverOptions),
    Monitor(monitor::MonitorOptions),
    Deliver(deliver::DeliverOptions),
    Redispatch(redispatch::RedispatchOptions),
    Resume(resume::ResumeOptions),
    Session(session::SessionAction),
    Fleet(fleet::FleetAction),
    Adopt(adopt::AdoptOptions),
    Backup(backup::BackupOptions),
}

/// Reads the command line.
///
/// # Errors
/// The message of clap with its exit code. Help and version are errors too.
pub fn parse(args: Vec<OsString>) -> Result<Invocation, clap::Error> {
    // If this parser fails, the full one runs: its help and errors name every command.
    if args.get(1).is_some_and(|command| command == "run")
        && let Ok(run) = Run::try_parse_from(&args[1..])
    {
        let request = CommandRequest::Run(Box::new(run.args.options()));
        return Ok(run.common.with(request));
    }
    if let Some(completion) = Completion::asked(&args) {
        let request = CommandRequest::Complete(completion);
        return Ok(Invocation { ledger: None, log: log::To::Auto, request });
    }
    let Cli { mut common, system, command } = Cli::try_parse_from(&args).map_err(|e| match e.kind() {
        ErrorKind::DisplayHelp => help::message(&args).unwrap_or(e),
        _ => e,
    })?;
    if system {
        if matches!(command, Some(Command::Run(_))) {
            return Err(Cli::command().error(ErrorKind::ArgumentConflict, NOT_A_UNIT));
        }
        common.ledger = Some(SYSTEM_LEDGER.into());
    }
    let Some(command) = command else {
        let request = CommandRequest::Overview { stale_after: query::STALE };
        return Ok(Invocation { ledger: common.ledger, log: log::To::Auto, request });
    };
    let request = match command {
        Command::Run(args) => CommandRequest::Run(Box::new(args.options())),
        Command::List(a) => CommandRequest::List(a.request()),
        Command::Ps(a) => CommandRequest::List(a.list.request()),
        Command::Show(a) => CommandRequest::Show(a.request()),
        Command::Logs(a) => CommandRequest::Logs(a.request()),
        Command::Audit(a) => CommandRequest::Audit(a.request()),
        Command::Artifact(a) => CommandRequest::Artifact(a.request()),
        Command::Cancel(a) => CommandRequest::Cancel(a.request()),
        Command::Wait(a) => CommandRequest::Wait(a.request()),
        Command::Prune(a) => CommandRequest::Prune(a.request()),
        Command::Timeline(a) => CommandRequest::Timeline(a.request()),
        Command::Stats(a) => CommandRequest::Stats(a.request()),
        Command::Agents(a) => CommandRequest::Agents(a.request()),
        Command::Doctor(a) => CommandRequest::Doctor(a.request()),
        Command::Completions(a) => CommandRequest::Say(shell::script(a.shell).to_owned()),
        Command::Man(a) => {
            CommandRequest::Man(man::ManOptions { pages: man_page::pages(), command: a.command, dir: a.dir })
        }
        Command::Units(a) => CommandRequest::Units(a.request()),
        Command::Recover(a) => CommandRequest::Recover(a.request()),
        Command::Monitor(a) => CommandRequest::Monitor(a.request()),
        Command::Deliver(a) => CommandRequest::Deliver(a.request()),
        Command::Redispatch(a) => CommandRequest::Redispatch(a.request()),
        Command::Resume(a) => CommandRequest::Resume(a.request()),
        Command::Session(command) => CommandRequest::Session(command.request()),
        Command::Fleet(command) => CommandRequest::Fleet(command.request()),
        Command::Adopt(a) => CommandRequest::Adopt(adopt::AdoptOptions { file: a.file }),
        Command::Backup(a) => CommandRequest::Backup(backup::BackupOptions { file: a.file }),
    };
    Ok(common.with(request))
}

#[cfg(test)]
mod tests;
