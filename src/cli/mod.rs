//! The command line, turned into plain requests. No logic; nobody below sees clap.

mod generate;
mod manage;
mod query;
mod usage;
pub mod variables;

pub use usage::report as usage_report;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::FalseyValueParser;
use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand, ValueEnum};
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
use crate::process::leftovers::LeftoversPolicy;
use crate::run::options::{RunOptions, WhenBusy};
use crate::task::{KeepSession, Key, OnTerm, Status, TaskId};
use manage::{AdoptArgs, BackupArgs, DeliverArgs, RecoverArgs, RedispatchArgs, SessionCommand};
use query::{
    ArtifactArgs, AuditArgs, CancelArgs, CompletionsArgs, DoctorArgs, ListArgs, ManArgs, PruneArgs, ShowArgs,
    StatsArgs, TimelineArgs,
};

/// Puts one durable row at each end of a coding agent's run.
#[derive(Debug, Parser)]
#[command(
    name = "bookend",
    version,
    propagate_version = true,
    max_term_width = 100,
    after_help = "Every command waits for other writers of the ledger, 30s at most; \
        BOOKEND_BUSY_TIMEOUT sets another time (500ms, 2m).\n\
        The end of a run that finds no place by then is kept in the spool.\n\
        BOOKEND_ALLOW_SHARED_DIR=1 permits others to write to the directories above the ledger's own."
)]
struct Cli {
    #[command(flatten)]
    common: Common,

    #[command(subcommand)]
    command: Option<Command>,
}

/// What every command takes.
#[derive(Debug, Args)]
struct Common {
    /// The ledger, a SQLite file [env: BOOKEND_LEDGER] [default: $STATE_DIRECTORY/bookend.db, else
    /// $XDG_STATE_HOME/bookend/bookend.db]
    #[arg(long, global = true, value_name = "FILE", display_order = 900)]
    ledger: Option<PathBuf>,

    /// Where bookend's own messages go; auto: to the journal if stderr is the journal. BOOKEND_LOG filters
    /// them: a level, such as debug, or target=level pairs
    #[arg(
        long,
        global = true,
        env = "BOOKEND_LOG_TO",
        value_name = "WHERE",
        default_value = "auto",
        display_order = 901
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

/// `bookend run` alone. To tell clap of a run's options takes it half as long as to tell it of all commands.
#[derive(Debug, Parser)]
struct Run {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    args: RunArgs,
}

/// What a command takes is told to clap only if it is the one that was called: a run is not to pay for all.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
enum Command {
    /// Run an agent, with one row at each end of it
    ///
    /// The `running` row is committed before the agent executes; the terminal one when it ends. bookend then
    /// leaves as the agent left: by the same exit code or the same signal.
    ///
    /// Exit codes of bookend itself: 2 usage, 74 output not written, 75 the key is busy, 78 unsafe resume
    /// refused, 124 timed out, 125 bookend failed before the agent ran, 126 and 127 as the shell's.
    ///
    /// An agent that is given an open, idle pipe as its stdin may wait for it: Claude Code waits 3 s and
    /// warns. `</dev/null` costs nothing.
    Run(Box<RunArgs>),
    /// Show tasks, what runs first, then the newest
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Show all that is known of one task, and where to look further
    Show(ShowArgs),
    /// Say what is not as it should be, and what mends it; changes nothing
    ///
    /// lost: running, and its supervisor is gone. stale_running: alive, and silent for long. unverifiable:
    /// cannot be judged from here. orphan_process: ended, and processes of it still run. unsafe_session: a
    /// key would continue a conversation that did not end well. delivery_failed: --on-finish failed or was
    /// cut off. inconsistent_timestamps: its times cannot be. missing_cleanup: nothing says when it may be
    /// removed. spooled: its end waits to be written into the ledger.
    Audit(AuditArgs),
    /// Say what a task made
    Artifact(ArtifactArgs),
    /// End running tasks as cancelled, and wait for their ends
    Cancel(CancelArgs),
    /// Remove tasks whose time to be kept is over
    ///
    /// Kept are running ones, the last task of a session that a key continues, and those whose --on-finish or
    /// hint is due. Others go on using the ledger meanwhile.
    Prune(PruneArgs),
    /// Add up runs: how many, how they ended, what they cost
    Stats(StatsArgs),
    /// Show what ran when
    Timeline(TimelineArgs),
    /// Say how bookend is set up here, and what is wrong with it
    Doctor(DoctorArgs),
    /// Print the completion script for a shell
    Completions(CompletionsArgs),
    /// Print a man page
    Man(ManArgs),
    #[allow(rustdoc::broken_intra_doc_links, reason = "clap prints the text, in which [recovery] is no link")]
    /// Settle what died: find it, end what it left, mark it, and tell
    ///
    /// For a oneshot at boot; safe at any time, by any number at once. Running rows whose supervisor is
    /// gone become `interrupted`, what they left running is ended, and their sessions are never resumed.
    /// --on-finish commands that nobody saw end are run. Every task that was interrupted since the last
    /// time is reported on stdout, each line with the prefix [recovery].
    ///
    /// Exit codes: 0 all is settled; 1 something could not be (or, with --dry-run, waits to be).
    Recover(RecoverArgs),
    /// Run --on-finish commands that were cut off or failed
    ///
    /// Without an id: those that were not run yet or did not come to their end, as `recover` does. Each gets
    /// the row as JSON on its stdin and the number of the attempt in BOOKEND_DELIVERY_ATTEMPT.
    ///
    /// Exit codes: 0 all are delivered; 1 one is not.
    Deliver(DeliverArgs),
    /// Run an ended task once more: its command line, key and options, where it was started
    ///
    /// Its session follows the same rules as in any run, so after an interruption it starts a fresh one.
    Redispatch(RedispatchArgs),
    /// The conversations that keys go on with
    #[command(subcommand)]
    Session(SessionCommand),
    /// Make the database of another program the ledger
    ///
    /// Its tables task_history and claude_sdk_sessions are rebuilt so that bookend's rows fit in; every row
    /// and column stays, and the program that owns it goes on working. A backup is left beside it. All of
    /// it is one transaction: interrupted, the file is what it was. Called again it does nothing.
    Adopt(AdoptArgs),
    /// Copy the ledger into a new file
    ///
    /// Other commands go on meanwhile. A copy of the file alone misses what was committed last, which is in
    /// the log beside it.
    Backup(BackupArgs),
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  bookend run -- claude -p 'fix it' --output-format stream-json --verbose\n  \
    bookend run --repo charles/claude-hooks --issue 1104 --agent dev -- claude -p 'go on'\n  \
    bookend run --timeout 1h --key nightly -- cursor-agent -p 'update the docs'"
)]
struct RunArgs {
    /// The task's id, up to 200 bytes [default: a new UUIDv7]
    #[arg(long)]
    id: Option<TaskId>,
    /// What must not run twice at once and whose conversation continues [default: from --repo and --issue]
    #[arg(long, env = "BOOKEND_KEY")]
    key: Option<String>,
    /// The repository the task is about, e.g. charles/claude-hooks
    #[arg(long, env = "BOOKEND_REPO")]
    repo: Option<String>,
    /// The number of the issue the task is about
    #[arg(long, env = "BOOKEND_ISSUE", value_name = "NUMBER", value_parser = issue)]
    issue: Option<i64>,
    /// On whose behalf the task runs
    #[arg(long, env = "BOOKEND_USER")]
    user: Option<String>,
    /// The persona, e.g. dev [default: the program's base name]
    #[arg(long, env = "BOOKEND_AGENT")]
    agent: Option<String>,
    /// The adapter: claude, cursor, command [default: by the names on the command line]
    #[arg(long, env = "BOOKEND_AGENT_TYPE", value_name = "TYPE")]
    agent_type: Option<String>,
    /// The model, for the row, where neither argv nor output name it
    #[arg(long, env = "BOOKEND_MODEL")]
    model: Option<String>,
    /// Who serves the model [default: by the adapter]
    #[arg(long, env = "BOOKEND_PROVIDER")]
    provider: Option<String>,
    /// Where the agent runs; it may be made by --prepare
    #[arg(long, env = "BOOKEND_CWD", value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// A shell command to run first, e.g. one that makes the worktree; if it fails the task ends as failure
    #[arg(long, env = "BOOKEND_PREPARE", value_name = "CMD")]
    prepare: Option<OsString>,
    /// The forge, first part of a key that is made from --repo and --issue
    #[arg(long, env = "BOOKEND_FORGE", default_value = "forgejo")]
    forge: String,
    /// Do not execute the agent unless it has this skill
    #[arg(long, env = "BOOKEND_REQUIRE_SKILL", value_name = "NAME")]
    require_skill: Option<String>,
    /// End the agent this long after it was executed (30s, 10m, 2h; a bare number is seconds; 0: never)
    #[arg(long, env = "BOOKEND_TIMEOUT", value_name = "DURATION", value_parser = duration)]
    timeout: Option<Duration>,
    /// End the agent after this long without output; only where its output is captured as it comes
    #[arg(long, env = "BOOKEND_IDLE_TIMEOUT", value_name = "DURATION", value_parser = duration)]
    idle_timeout: Option<Duration>,
    /// How long each rung of the stopping ladder is given: the signal that came, SIGTERM, SIGKILL
    #[arg(
        long,
        env = "BOOKEND_GRACE",
        value_name = "DURATION",
        value_parser = duration,
        default_value = "10s",
    )]
    grace: Duration,
    /// Wait for the task that holds the key, instead of leaving with 75
    #[arg(long, env = "BOOKEND_WAIT", value_parser = FalseyValueParser::new())]
    wait: bool,
    /// Cancel the task that holds the key, then run
    #[arg(long, env = "BOOKEND_REPLACE", value_parser = FalseyValueParser::new(), conflicts_with = "wait")]
    replace: bool,
    /// What SIGTERM and SIGHUP mean to the task
    #[arg(long, env = "BOOKEND_ON_TERM", value_name = "STATUS", default_value = "interrupted")]
    on_term: OnTermArg,
    /// Start a fresh conversation, whatever the key's session is
    #[arg(long, env = "BOOKEND_FRESH", value_parser = FalseyValueParser::new())]
    fresh: bool,
    /// Resume a session although the ledger knows it to be unsafe
    #[arg(long, env = "BOOKEND_ALLOW_UNSAFE_RESUME", value_parser = FalseyValueParser::new())]
    allow_unsafe_resume: bool,
    /// Keep the key's session after these failures: a usage limit, an API error
    #[arg(long, env = "BOOKEND_KEEP_SESSION", value_name = "FAILURES", value_delimiter = ',')]
    keep_session: Vec<KeepSessionArg>,
    /// What to do with processes that the agent leaves behind; auto: end them unless it succeeded
    ///
    /// A process with BOOKEND_DETACHED=1 in its own environment is left, except with `end`.
    #[arg(long, env = "BOOKEND_LEFTOVERS", value_name = "POLICY", default_value = "auto")]
    leftovers: LeftoversArg,
    /// Exit with 1 instead of 0 unless the task ends as success
    #[arg(long, env = "BOOKEND_STRICT", value_parser = FalseyValueParser::new())]
    strict: bool,
    /// How much output may wait for a slow reader before the agent has to wait (bytes, or 64MiB, 2GiB)
    #[arg(
        long,
        env = "BOOKEND_BACKLOG",
        value_name = "SIZE",
        value_parser = size,
        default_value = "1GiB",
    )]
    backlog: u64,
    /// A shell command to run at the end, with the row as JSON on its stdin
    #[arg(long, env = "BOOKEND_ON_FINISH", value_name = "CMD")]
    on_finish: Option<OsString>,
    /// End the --on-finish command after this long (0: never) [default: 60s]
    #[arg(long, env = "BOOKEND_HOOK_TIMEOUT", value_name = "DURATION", value_parser = duration)]
    hook_timeout: Option<Duration>,
    /// How long after its end the row is kept
    #[arg(
        long,
        env = "BOOKEND_RETENTION",
        value_name = "DURATION",
        value_parser = duration,
        default_value = "365d",
    )]
    retention: Duration,
    /// Say nothing but errors
    #[arg(
        short,
        long,
        env = "BOOKEND_QUIET",
        value_parser = FalseyValueParser::new(),
        conflicts_with = "verbose",
    )]
    quiet: bool,
    /// Say what bookend does; twice: in detail
    #[arg(
        short,
        long,
        env = "BOOKEND_VERBOSE",
        action = ArgAction::Count,
        value_parser = variables::verbosity,
    )]
    verbose: u8,
    /// The agent's command line
    #[arg(trailing_var_arg = true, required = true, value_name = "AGENT [ARGS]...")]
    argv: Vec<OsString>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogArg {
    Auto,
    Stderr,
    Journald,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum OnTermArg {
    Interrupted,
    Cancelled,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum KeepSessionArg {
    Limit,
    ApiError,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LeftoversArg {
    Auto,
    End,
    Leave,
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
    /// Text that the command line made of itself.
    Say(String),
    Man(man::Request),
    Recover(recover::Request),
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
    // What is not well formed, or asks for help, is left to the whole, which has the words for it.
    if args.get(1).is_some_and(|command| command == "run")
        && let Ok(run) = Run::try_parse_from(&args[1..])
    {
        let request = Request::Run(Box::new(run_request(run.args)));
        return Ok(run.common.with(request));
    }
    let Cli { common, command } = Cli::try_parse_from(args)?;
    let Some(command) = command else {
        let request = Request::Overview { stale_after: query::STALE };
        return Ok(Invocation { ledger: common.ledger, log: log::To::Auto, request });
    };
    let request = match command {
        Command::Run(args) => Request::Run(Box::new(run_request(*args))),
        Command::List(a) => Request::List(a.request()),
        Command::Show(a) => Request::Show(a.request()),
        Command::Audit(a) => Request::Audit(a.request()),
        Command::Artifact(a) => Request::Artifact(a.request()),
        Command::Cancel(a) => Request::Cancel(a.request()),
        Command::Prune(a) => Request::Prune(a.request()),
        Command::Timeline(a) => Request::Timeline(a.request()),
        Command::Stats(a) => Request::Stats(a.request()),
        Command::Doctor(a) => Request::Doctor(a.request()),
        Command::Completions(a) => Request::Say(generate::completions(Cli::command(), a.shell)),
        Command::Man(a) => Request::Man(man::Request {
            pages: generate::man(Cli::command()),
            command: a.command,
            dir: a.dir,
        }),
        Command::Recover(a) => Request::Recover(a.request()),
        Command::Deliver(a) => Request::Deliver(a.request()),
        Command::Redispatch(a) => Request::Redispatch(a.request()),
        Command::Session(command) => Request::Session(command.request()),
        Command::Adopt(a) => Request::Adopt(adopt::Request { file: a.file }),
        Command::Backup(a) => Request::Backup(backup::Request { file: a.file }),
    };
    Ok(common.with(request))
}

fn run_request(a: RunArgs) -> RunOptions {
    RunOptions {
        id: a.id,
        key: a.key.and_then(|name| name.parse().ok()),
        repo: given(a.repo),
        issue: a.issue,
        user: given(a.user),
        agent: given(a.agent),
        agent_type: given(a.agent_type),
        model: given(a.model),
        provider: a.provider.and_then(|name| name.parse().ok()),
        cwd: a.cwd.filter(|c| !c.as_os_str().is_empty()),
        prepare: a.prepare.filter(|c| !c.is_empty()),
        forge: a.forge,
        require_skill: given(a.require_skill),
        timeout: a.timeout,
        idle_timeout: a.idle_timeout,
        grace: a.grace,
        when_busy: when_busy(a.wait, a.replace),
        on_term: match a.on_term {
            OnTermArg::Interrupted => OnTerm::Interrupted,
            OnTermArg::Cancelled => OnTerm::Cancelled,
        },
        fresh: a.fresh,
        allow_unsafe_resume: a.allow_unsafe_resume,
        keep_session: a
            .keep_session
            .into_iter()
            .map(|after| match after {
                KeepSessionArg::Limit => KeepSession::Limit,
                KeepSessionArg::ApiError => KeepSession::ApiError,
            })
            .collect(),
        leftovers: match a.leftovers {
            LeftoversArg::Auto => LeftoversPolicy::Auto,
            LeftoversArg::End => LeftoversPolicy::End,
            LeftoversArg::Leave => LeftoversPolicy::Leave,
        },
        strict: a.strict,
        backlog: a.backlog,
        on_finish: a.on_finish.filter(|c| !c.is_empty()),
        hook_timeout: a.hook_timeout,
        retention: a.retention,
        level: level(a.quiet, a.verbose),
        argv: a.argv,
    }
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

/// A key that may stand in a ledger: another program may have written any.
fn any_key(text: &str) -> Result<Key, std::convert::Infallible> {
    Ok(Key::recorded(text))
}

/// An option variable that is set to nothing counts as not set.
fn given(value: Option<String>) -> Option<String> {
    value.filter(|v| !v.is_empty())
}

/// Longer than anybody waits, and short enough that any time plus it is still a time.
const LONGEST: Duration = Duration::from_secs(1000 * 366 * 24 * 60 * 60);

fn duration(text: &str) -> Result<Duration, String> {
    let given = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => humantime::parse_duration(text)
            .map_err(|_| "invalid duration; use a value such as 30s, 10m or 1h30m".to_owned())?,
    };
    Ok(given.min(LONGEST))
}

/// Bytes, or a number with KiB, MiB or GiB (`K`, `M` and `G` mean the same).
fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match text[digits.len()..].trim_start() {
        "" => Some(0),
        "K" | "KiB" => Some(10),
        "M" | "MiB" => Some(20),
        "G" | "GiB" => Some(30),
        _ => None,
    };
    let bytes = digits.parse::<u64>().ok().zip(shift).and_then(|(n, shift)| n.checked_mul(1 << shift));
    bytes.ok_or_else(|| "invalid size; use a value such as 500000, 64MiB or 2GiB".to_owned())
}

fn limit(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "a limit is a number above 0".to_owned())
}

fn issue(text: &str) -> Result<i64, String> {
    let number = text.strip_prefix('#').unwrap_or(text);
    number.parse().map_err(|_| "an issue is a number, like 1104".to_owned())
}

fn status(word: &str) -> Result<Status, String> {
    Status::parse(word)
        .ok_or_else(|| format!("a status is one of: {}", Status::ALL.map(Status::as_str).join(", ")))
}

#[cfg(test)]
mod tests;
