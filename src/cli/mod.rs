//! The command line, turned into plain requests. Nothing below this module knows clap.

mod complete;
mod examples;
mod help;
mod man_page;
mod manage;
mod query;
mod run_args;
mod usage;
mod values;
pub mod variables;

pub use complete::Completion;
pub use usage::report as usage_report;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use tracing::level_filters::LevelFilter;

use crate::commands::adopt;
use crate::commands::artifact;
use crate::commands::audit;
use crate::commands::backup;
use crate::commands::cancel;
use crate::commands::deliver;
use crate::commands::doctor;
use crate::commands::list;
use crate::commands::man;
use crate::commands::prune;
use crate::commands::recover;
use crate::commands::redispatch;
use crate::commands::session;
use crate::commands::show;
use crate::commands::stats;
use crate::commands::timeline;
use crate::log;
use crate::run::options::{RunOptions, WhenBusy};
use manage::{AdoptArgs, BackupArgs, DeliverArgs, RecoverArgs, RedispatchArgs, SessionCommand};
use query::{
    ArtifactArgs, AuditArgs, CancelArgs, CompletionsArgs, DoctorArgs, ListArgs, ManArgs, PruneArgs, ShowArgs,
    StatsArgs, TimelineArgs,
};
use run_args::RunArgs;

/// Record every coding-agent run in SQLite
///
/// bookend writes a row before the agent starts and completes it when the agent exits, however it exits.
#[derive(Debug, Parser)]
#[command(name = "bookend", version, propagate_version = true, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    common: Common,

    #[command(subcommand)]
    command: Option<Command>,
}

/// What every command takes.
#[derive(Debug, Args)]
struct Common {
    /// Ledger, an SQLite file
    ///
    /// By default $BOOKEND_LEDGER, else $STATE_DIRECTORY/bookend.db, else $XDG_STATE_HOME/bookend/bookend.db
    /// (~/.local/state).
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        value_hint = ValueHint::FilePath,
        display_order = 900
    )]
    ledger: Option<PathBuf>,

    /// Send messages to stderr or to the journal
    ///
    /// auto: to the journal if stderr is the journal. BOOKEND_LOG filters them: a level, such as debug, or
    /// target=level pairs.
    #[arg(
        long,
        global = true,
        env = "BOOKEND_LOG_TO",
        value_name = "WHERE",
        default_value = "auto",
        display_order = 901,
        hide_short_help = true
    )]
    log: LogArg,
}

impl Common {
    fn with(self, request: Request) -> Invocation {
        let log = match self.log {
            LogArg::Auto => log::To::Auto,
            LogArg::Stderr => log::To::Stderr,
            LogArg::Journald => log::To::Journald,
        };
        Invocation { ledger: self.ledger, log, request }
    }
}

/// `bookend run` alone: building these options takes clap half as long as building those of all commands.
#[derive(Debug, Parser)]
struct Run {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    args: RunArgs,
}

// `defer`: clap builds the options of the command that is called, and of no other.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
enum Command {
    /// Run an agent and record it in the ledger
    ///
    /// bookend commits the `running` row before it executes the agent, and completes the row when the agent
    /// exits. bookend then exits with the agent's exit code, or dies by the same signal.
    ///
    /// An agent whose stdin is an open, idle pipe may wait for input: Claude Code waits 3 s and warns. Use
    /// `</dev/null` to avoid that.
    Run(Box<RunArgs>),
    /// List tasks, running ones first
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Show everything about one task
    Show(ShowArgs),
    /// Report problems, each with the command that fixes it
    ///
    /// It changes nothing. The codes: lost (running, and the supervisor is gone), stale_running (alive, and
    /// silent for long), unverifiable (cannot be judged from here), orphan_process (ended, and processes of
    /// it still run), unsafe_session (the key would resume a session whose last task did not succeed),
    /// delivery_failed (--on-finish failed or was cut off), inconsistent_timestamps (times that contradict
    /// each other), missing_cleanup (no expiry date), spooled (the end waits in the spool).
    Audit(AuditArgs),
    /// Record what a task made
    Artifact(ArtifactArgs),
    /// Cancel running tasks and wait until they have ended
    Cancel(CancelArgs),
    /// Delete tasks past their retention period
    ///
    /// Running tasks are kept, and so are the last task of a session that a key would resume, and tasks whose
    /// --on-finish command or recovery report is due. Other commands use the ledger meanwhile.
    Prune(PruneArgs),
    /// Count runs, how they ended, and what they cost
    Stats(StatsArgs),
    /// Show when tasks ran
    Timeline(TimelineArgs),
    /// Check how bookend is set up here
    ///
    /// Each line begins with ok, warn or FAIL; `-` marks a program that is absent and not needed.
    Doctor(DoctorArgs),
    /// Print the completion script for a shell
    Completions(CompletionsArgs),
    /// Print a man page
    Man(ManArgs),
    #[allow(rustdoc::broken_intra_doc_links, reason = "clap prints the text, in which [recovery] is no link")]
    /// Mark lost tasks as interrupted and clean up after them
    ///
    /// Call it at boot; it is safe at any time, and several may run at once. A running row whose supervisor
    /// is gone becomes `interrupted`, its leftover processes are ended, and its session is invalidated.
    /// Pending --on-finish commands are run. Each task that was interrupted since the last recovery is
    /// reported on stdout, each line with the prefix [recovery].
    Recover(RecoverArgs),
    /// Run --on-finish commands that failed or were cut off
    ///
    /// Without an id: those that were not run yet or were cut off, as `recover` does. Each gets the row as
    /// JSON on its stdin, and the number of the attempt in BOOKEND_DELIVERY_ATTEMPT.
    Deliver(DeliverArgs),
    /// Run an ended task again
    ///
    /// With its command line, key and options, in the directory where it was started. Its session follows the
    /// rules of any run: after an interruption a fresh one starts.
    Redispatch(RedispatchArgs),
    /// Show and change the sessions of keys
    #[command(subcommand)]
    Session(SessionCommand),
    /// Make the database of another program the ledger
    ///
    /// The tables task_history and claude_sdk_sessions are rebuilt so that they can hold bookend's rows;
    /// every row and column stays, and the program that owns the database keeps working. A backup is left
    /// beside the file. It is one transaction: if it is interrupted, the file is unchanged. A second call
    /// does nothing.
    Adopt(AdoptArgs),
    /// Copy the ledger into a new file
    ///
    /// Other commands use the ledger meanwhile. A plain copy of the file would miss what was committed last,
    /// which is in the -wal file beside it.
    Backup(BackupArgs),
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogArg {
    Auto,
    Stderr,
    Journald,
}

/// What the user asked for.
pub struct Invocation {
    pub ledger: Option<PathBuf>,
    pub log: log::To,
    pub request: Request,
}

pub enum Request {
    Run(Box<RunOptions>),
    List(list::Request),
    Show(show::Request),
    Audit(audit::Request),
    Artifact(artifact::Request),
    Cancel(cancel::Request),
    Prune(prune::Request),
    Stats(stats::Request),
    Timeline(timeline::Request),
    Doctor(doctor::Request),
    /// Bare `bookend`.
    Overview {
        stale_after: Duration,
    },
    /// A completion script.
    Say(String),
    /// Candidates for a shell.
    Complete(Completion),
    Man(man::Request),
    Recover(recover::RecoverOptions),
    Deliver(deliver::Request),
    Redispatch(redispatch::Request),
    Session(session::Request),
    Adopt(adopt::Request),
    Backup(backup::Request),
}

/// Reads the command line.
///
/// # Errors
/// clap's own message with its exit code; help and version come this way too.
pub fn parse(args: Vec<OsString>) -> Result<Invocation, clap::Error> {
    // A run that does not parse, or asks for help, is left to the whole, which has the words for it.
    if args.get(1).is_some_and(|command| command == "run")
        && let Ok(run) = Run::try_parse_from(&args[1..])
    {
        let request = Request::Run(Box::new(run.args.options()));
        return Ok(run.common.with(request));
    }
    if let Some(completion) = Completion::asked(&args) {
        let request = Request::Complete(completion);
        return Ok(Invocation { ledger: None, log: log::To::Auto, request });
    }
    let Cli { common, command } = Cli::try_parse_from(&args).map_err(|e| match e.kind() {
        ErrorKind::DisplayHelp => help::message(&args).unwrap_or(e),
        _ => e,
    })?;
    let Some(command) = command else {
        let request = Request::Overview { stale_after: query::STALE };
        return Ok(Invocation { ledger: common.ledger, log: log::To::Auto, request });
    };
    let request = match command {
        Command::Run(args) => Request::Run(Box::new(args.options())),
        Command::List(a) => Request::List(a.request()),
        Command::Show(a) => Request::Show(a.request()),
        Command::Audit(a) => Request::Audit(a.request()),
        Command::Artifact(a) => Request::Artifact(a.request()),
        Command::Cancel(a) => Request::Cancel(a.request()),
        Command::Prune(a) => Request::Prune(a.request()),
        Command::Timeline(a) => Request::Timeline(a.request()),
        Command::Stats(a) => Request::Stats(a.request()),
        Command::Doctor(a) => Request::Doctor(a.request()),
        Command::Completions(a) => Request::Say(complete::script(a.shell).to_owned()),
        Command::Man(a) => {
            Request::Man(man::Request { pages: man_page::pages(), command: a.command, dir: a.dir })
        }
        Command::Recover(a) => Request::Recover(a.request()),
        Command::Deliver(a) => Request::Deliver(a.request()),
        Command::Redispatch(a) => Request::Redispatch(a.request()),
        Command::Session(command) => Request::Session(command.request()),
        Command::Adopt(a) => Request::Adopt(adopt::Request { file: a.file }),
        Command::Backup(a) => Request::Backup(backup::Request { file: a.file }),
    };
    Ok(common.with(request))
}

fn when_busy(wait: bool, replace: bool) -> WhenBusy {
    match (wait, replace) {
        (true, _) => WhenBusy::Wait,
        (_, true) => WhenBusy::Replace,
        _ => WhenBusy::Refuse,
    }
}

fn level(quiet: bool, verbose: u8) -> LevelFilter {
    match (quiet, verbose) {
        (true, _) => LevelFilter::ERROR,
        (_, 0) => LevelFilter::WARN,
        (_, 1) => LevelFilter::INFO,
        _ => LevelFilter::DEBUG,
    }
}

#[cfg(test)]
mod tests;
