//! The commands and their common options, as clap reads them.

use std::path::PathBuf;

use clap::{Arg, ArgAction, Args, Parser, Subcommand, ValueEnum, ValueHint};

use super::agents_args::AgentsArgs;
use super::fleet_args::FleetCommand;
use super::manage::{
    AdoptArgs, BackupArgs, DeliverArgs, MonitorArgs, RecoverArgs, RedispatchArgs, SessionCommand,
};
use super::one_task::{LogsArgs, ResumeArgs, ShowArgs};
use super::query::{
    ArtifactArgs, AuditArgs, CancelArgs, CompletionsArgs, DoctorArgs, ListArgs, ManArgs, PruneArgs, PsArgs,
    StatsArgs, TimelineArgs, UnitsArgs, WaitArgs,
};
use super::run_args::RunArgs;

/// Record every coding-agent run in SQLite
///
/// bookend writes a row before the agent starts and completes it when the agent exits, however it exits.
#[derive(Debug, Parser)]
#[command(name = "bookend", version, propagate_version = true, max_term_width = 100)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) common: Common,

    /// Use the ledger of the system units
    ///
    /// /var/lib/bookend/bookend.db. root acts as the user bookend; other users get the command to run.
    #[arg(long, global = true, conflicts_with = "ledger", display_order = 900)]
    pub(super) system: bool,

    #[command(subcommand)]
    pub(super) command: Option<Command>,
}

/// The options of every command.
#[derive(Debug, Args)]
pub(super) struct Common {
    /// Ledger, an SQLite file
    ///
    /// By default $BOOKEND_LEDGER, else $STATE_DIRECTORY/bookend.db, else $XDG_STATE_HOME/bookend/bookend.db
    /// (~/.local/state). Commands that show tasks, wait, cancel and fleet also take the database of a fleet:
    /// a URL such as postgres://reader@db.example.org/bookend.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        value_hint = ValueHint::FilePath,
        display_order = 900
    )]
    pub(super) ledger: Option<PathBuf>,

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
    pub(super) log: LogArg,
}

/// `bookend run` alone: clap builds these options in half the time of all commands.
#[derive(Debug, Parser)]
pub(super) struct Run {
    #[command(flatten)]
    pub(super) common: Common,
    #[command(flatten)]
    pub(super) args: RunArgs,
}

// `defer`: clap builds only the options of the command that is called.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(super) enum Command {
    /// Run an agent and record it in the ledger
    ///
    /// bookend commits the `running` row before it executes the agent, and completes the row when the agent
    /// exits. bookend then exits with the agent's exit code, or dies by the same signal.
    ///
    /// An agent whose stdin is an open, idle pipe may wait for input: Claude Code waits 3 s and warns. Use
    /// `</dev/null` to avoid that.
    #[command(
        override_usage = "bookend run [OPTIONS] [--] AGENT [ARGS]...",
        // Refused, and so not offered. An option of this id is not replaced by the one of every command.
        arg = Arg::new("system").long("system").action(ArgAction::SetTrue).hide(true)
    )]
    Run(Box<RunArgs>),
    /// List tasks, running ones first
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// List running tasks: list --status running
    Ps(PsArgs),
    /// Show everything about one task
    Show(ShowArgs),
    /// Print what was said in a task's conversation
    ///
    /// bookend stores no output. It reads the transcript of Claude Code, and prints the prompts, the answers,
    /// the tools that were called and the first lines of what they returned. By default it prints what was
    /// said while the task ran, since a session may have several tasks. For other agents it prints the path
    /// of the transcript, if it knows the path.
    Logs(LogsArgs),
    /// Report problems, each with the command that fixes it
    ///
    /// It changes nothing. The codes: lost (running, and its supervisor has exited), stale_running (running,
    /// and without output for --stale-after), unverifiable (running, and cannot be checked from here),
    /// orphan_process (ended, and processes of it still run), unsafe_session (the key would resume a session
    /// whose last task did not succeed), delivery_failed (--on-finish failed or was interrupted),
    /// inconsistent_timestamps (times that contradict each other), missing_cleanup (no expiry date), spooled
    /// (the end waits in the spool); in a fleet also unreachable (running on a host that does not answer),
    /// late_ending (its host reported the end after the fleet had ended it), double_claim (two hosts run a
    /// task with this key).
    Audit(AuditArgs),
    /// Record what a task made
    Artifact(ArtifactArgs),
    /// Wait until tasks have ended
    ///
    /// It prints how each task ended, and exits with 0 if all of them succeeded. Without an id and without
    /// --key it waits for the tasks that run now. A task also counts as ended, and as failed, if its
    /// supervisor was killed: its row stays `running` until `bookend recover` settles it. Hooks may still run
    /// when a task has ended.
    ///
    /// In a fleet, an id or a key may be that of a task on another host. If that host does not answer,
    /// bookend waits until it is back or is declared lost.
    Wait(WaitArgs),
    /// Cancel running tasks and wait until they have ended
    ///
    /// `bookend stop` is the same command.
    ///
    /// In a fleet, an id or a key may be that of a task on another host, whose monitor cancels it. That needs
    /// the role bookend_operator. If that host does not answer, the order stands until it is back.
    #[command(visible_alias = "stop")]
    Cancel(CancelArgs),
    /// Delete tasks past their retention period
    ///
    /// The period is the one that `run --retention` set for each task, 365d by default; --retention replaces
    /// it for all tasks. Running tasks are kept, and so are the last task of a session that a key would
    /// resume, and tasks whose --on-finish command or recovery report is due. Other commands use the ledger
    /// meanwhile.
    Prune(PruneArgs),
    /// Count runs, how they ended, and what they cost
    Stats(StatsArgs),
    /// Show when tasks ran
    ///
    /// One lane per key, or per agent for runs without a key, the newest on top. A bar ends with a symbol of
    /// its outcome; the last line explains the symbols.
    Timeline(TimelineArgs),
    /// List the agents that bookend knows, and check a declaration
    ///
    /// Without a command it lists them. A declaration says how an agent is run and how its output is read.
    /// One of your own is the file $XDG_CONFIG_HOME/bookend/agents/NAME.toml (~/.config) or
    /// /etc/xdg/bookend/agents/NAME.toml, named like the agent's program. It replaces the built-in one of
    /// that name.
    Agents(AgentsArgs),
    /// Check how bookend is set up here
    ///
    /// Each line begins with ok, warn or FAIL; `-` marks what is absent and not needed.
    Doctor(DoctorArgs),
    /// Print the completion script for a shell
    Completions(CompletionsArgs),
    /// Print a man page
    Man(ManArgs),
    /// Print the systemd units
    ///
    /// For a bookend that was installed without the package, for example with `cargo install`: the units
    /// execute the program that prints them. contrib/doc/systemd.md says what else the system units need.
    Units(UnitsArgs),
    #[allow(rustdoc::broken_intra_doc_links, reason = "clap prints the text, in which [recovery] is no link")]
    /// Mark lost tasks as interrupted and clean up after them
    ///
    /// Run it at boot. It may run at any time, and several times at once. A running task whose supervisor has
    /// exited becomes `interrupted`, its leftover processes are ended, and its session is invalidated.
    /// Pending --on-finish commands are run. Each task that was interrupted since the last recovery is
    /// reported on stdout, each line with the prefix [recovery].
    Recover(RecoverArgs),
    /// Settle lost tasks as soon as their supervisors die
    ///
    /// It runs until it receives SIGTERM, SIGHUP, SIGINT or SIGQUIT, which stop no task. At its start, and
    /// whenever a supervisor dies, it does what `recover` does: it ends the processes of the task, marks it
    /// as interrupted, invalidates its session, runs its hook and reports it. The next recovery settles
    /// what it missed. One monitor runs for each ledger; a second one exits with 75.
    ///
    /// In a ledger that has joined a fleet, it also connects to PostgreSQL: it claims the keys of runs, which
    /// do not start without it, publishes the tasks, and carries out cancel orders of other hosts.
    Monitor(MonitorArgs),
    /// Run --on-finish commands that failed or were interrupted
    ///
    /// Without an id and without --failed, it runs those that were interrupted or not run yet, as `recover`
    /// does. Each gets the row as JSON on its stdin, and the number of the attempt in
    /// BOOKEND_DELIVERY_ATTEMPT.
    Deliver(DeliverArgs),
    /// Run an ended task again
    ///
    /// The new task has the same command line, key, options and directory. As in any run, it resumes the
    /// session of the key only if the last task of that session succeeded.
    Redispatch(RedispatchArgs),
    /// Open a task's conversation to take over from the agent
    ///
    /// It starts the agent interactively, in the directory of the task, as a new task with the same key. The
    /// launchers, the model, the permissions and the further directories are those of the task; the prompt,
    /// the limits and the hooks are left out. A conversation whose last task did not succeed is unsafe to
    /// resume, as in any run.
    Resume(ResumeArgs),
    /// Show and change the sessions of keys
    #[command(subcommand)]
    Session(SessionCommand),
    /// Let many hosts share one PostgreSQL database
    ///
    /// The tasks of all hosts are listed together, and a key is held by one run in the whole fleet. Each host
    /// keeps its ledger, and its monitor connects to PostgreSQL: a run without a key never waits for it.
    /// `status`, `prune` and `declare-lost` use the fleet of the ledger, or the database that
    /// --ledger postgres://USER@HOST/DATABASE names.
    #[command(subcommand)]
    Fleet(FleetCommand),
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
pub(super) enum LogArg {
    Auto,
    Stderr,
    Journald,
}
