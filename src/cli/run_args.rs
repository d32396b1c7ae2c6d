//! The options of `bookend run`, as clap reads them.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::FalseyValueParser;
use clap::{ArgAction, Args, ValueEnum, ValueHint};

use super::values::{budget, duration, issue, level, size, when_busy};
use super::variables;
use crate::process::leftovers::LeftoversPolicy;
use crate::run::options::{CostBudget, RunOptions};
use crate::task::{KeepSession, OnTerm, TaskId};

// Each option's first line is its short help; `--help` and the man page also show what follows.
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// Task id [default: a new UUIDv7]
    ///
    /// At most 200 bytes of letters, digits and - _ . : /
    #[arg(long, help_heading = "Identity")]
    id: Option<TaskId>,
    /// Run one task per key, and resume its session
    ///
    /// Two tasks with the same key never run at once. By default the key is made from --repo and --issue,
    /// as FORGE:AGENT:REPO:ISSUE; without them there is none.
    #[arg(long, env = "BOOKEND_KEY", help_heading = "Identity")]
    key: Option<String>,
    /// Repository of the task, e.g. charles/claude-hooks
    #[arg(long, env = "BOOKEND_REPO", help_heading = "Identity")]
    repo: Option<String>,
    /// Issue number of the task
    #[arg(
        long,
        env = "BOOKEND_ISSUE",
        value_name = "NUMBER",
        value_parser = issue,
        help_heading = "Identity",
    )]
    issue: Option<i64>,
    /// User on whose behalf the task runs
    #[arg(long, env = "BOOKEND_USER", help_heading = "Identity")]
    user: Option<String>,
    /// Persona, e.g. dev [default: the program's name]
    #[arg(long, env = "BOOKEND_AGENT", help_heading = "Identity")]
    agent: Option<String>,
    /// Agent, e.g. codex; command: none
    ///
    /// By default the names on the command line decide. Agents are claude, codex, copilot, cursor, gemini,
    /// opencode, qwen, and those of your own declarations.
    #[arg(
        long,
        env = "BOOKEND_AGENT_TYPE",
        value_name = "TYPE",
        help_heading = "Identity",
        hide_short_help = true
    )]
    agent_type: Option<String>,
    /// Model to record if the agent does not name it
    #[arg(long, env = "BOOKEND_MODEL", help_heading = "Identity", hide_short_help = true)]
    model: Option<String>,
    /// Provider of the model [default: the adapter's]
    #[arg(long, env = "BOOKEND_PROVIDER", help_heading = "Identity", hide_short_help = true)]
    provider: Option<String>,
    /// Forge, the first part of a key made from --repo
    #[arg(
        long,
        env = "BOOKEND_FORGE",
        default_value = "forgejo",
        help_heading = "Identity",
        hide_short_help = true
    )]
    forge: String,
    /// Run the agent in this directory
    ///
    /// --prepare may create it.
    #[arg(
        long,
        env = "BOOKEND_CWD",
        value_name = "DIR",
        value_hint = ValueHint::DirPath,
        help_heading = "Identity",
    )]
    cwd: Option<PathBuf>,

    /// Start a fresh conversation
    ///
    /// The session of the key is not resumed, whatever state it is in.
    #[arg(long, env = "BOOKEND_FRESH", value_parser = FalseyValueParser::new(), help_heading = "Session")]
    fresh: bool,
    /// Resume a session even if that is unsafe
    #[arg(
        long,
        env = "BOOKEND_ALLOW_UNSAFE_RESUME",
        value_parser = FalseyValueParser::new(),
        help_heading = "Session",
    )]
    allow_unsafe_resume: bool,
    /// Keep the session after these failures
    ///
    /// limit: the account's usage limit was reached. api-error: the API refused a request.
    #[arg(
        long,
        env = "BOOKEND_KEEP_SESSION",
        value_name = "FAILURES",
        value_delimiter = ',',
        help_heading = "Session"
    )]
    keep_session: Vec<KeepSessionArg>,

    /// Stop the agent after this long (0: never)
    ///
    /// A value such as 30s, 10m or 1h30m; a bare number is seconds. The time starts when the agent is
    /// executed.
    #[arg(
        long,
        env = "BOOKEND_TIMEOUT",
        value_name = "DURATION",
        value_parser = duration,
        help_heading = "Limits and stopping",
    )]
    timeout: Option<Duration>,
    /// Stop the agent after this long without output
    ///
    /// It works where bookend reads the output as events, such as `stream-json`.
    #[arg(
        long,
        env = "BOOKEND_IDLE_TIMEOUT",
        value_name = "DURATION",
        value_parser = duration,
        help_heading = "Limits and stopping",
    )]
    idle_timeout: Option<Duration>,
    /// Time between the stop signal, SIGTERM and SIGKILL
    #[arg(
        long,
        env = "BOOKEND_GRACE",
        value_name = "DURATION",
        value_parser = duration,
        default_value = "10s",
        help_heading = "Limits and stopping",
    )]
    grace: Duration,
    /// Wait for the task that holds the key
    ///
    /// Without it, and without --replace, bookend exits with 75 if a live task holds the key. In a fleet it
    /// also waits for tasks of other hosts, for the monitor, and for PostgreSQL.
    #[arg(
        long,
        env = "BOOKEND_WAIT",
        value_parser = FalseyValueParser::new(),
        help_heading = "Limits and stopping",
    )]
    wait: bool,
    /// Cancel the task that holds the key, then run
    #[arg(
        long,
        env = "BOOKEND_REPLACE",
        value_parser = FalseyValueParser::new(),
        conflicts_with = "wait",
        help_heading = "Limits and stopping",
    )]
    replace: bool,
    /// Wait this long for the fleet to grant the key
    ///
    /// In a ledger that has joined a fleet: for an answer of its monitor and, with --replace, for the end of
    /// a task on another host.
    #[arg(
        long,
        env = "BOOKEND_FLEET_TIMEOUT",
        value_name = "DURATION",
        value_parser = duration,
        default_value = "20s",
        help_heading = "Limits and stopping",
        hide_short_help = true,
    )]
    fleet_timeout: Duration,
    /// Refuse the run if its key has cost this much
    ///
    /// US dollars and a period, such as 20/24h: bookend adds up the runs under the key that started in the
    /// last 24 hours, and exits with 77 if they have cost 20 dollars or more. Runs whose cost is unknown are
    /// not counted, and named.
    #[arg(
        long,
        env = "BOOKEND_BUDGET",
        value_name = "USD/DURATION",
        value_parser = budget,
        help_heading = "Limits and stopping",
    )]
    budget: Option<CostBudget>,
    /// Status after SIGTERM or SIGHUP
    #[arg(
        long,
        env = "BOOKEND_ON_TERM",
        value_name = "STATUS",
        default_value = "interrupted",
        help_heading = "Limits and stopping"
    )]
    on_term: OnTermArg,
    /// Leftover processes: auto, end or leave
    ///
    /// auto: end them unless the task succeeded. Only `end` also ends a process that has BOOKEND_DETACHED=1
    /// in its own environment.
    #[arg(
        long,
        env = "BOOKEND_LEFTOVERS",
        value_name = "POLICY",
        default_value = "auto",
        help_heading = "Limits and stopping"
    )]
    leftovers: LeftoversArg,

    /// Run a shell command before the agent
    ///
    /// For example one that creates the worktree. If it fails, the agent is not started and the task ends as
    /// failure.
    #[arg(
        long,
        env = "BOOKEND_PREPARE",
        value_name = "CMD",
        value_hint = ValueHint::CommandString,
        help_heading = "Hooks",
    )]
    prepare: Option<OsString>,
    /// Start the agent only if it has this skill
    #[arg(long, env = "BOOKEND_REQUIRE_SKILL", value_name = "NAME", help_heading = "Hooks")]
    require_skill: Option<String>,
    /// Run a shell command when the task has ended
    ///
    /// It gets the row as JSON on its stdin, and the main facts in variables such as BOOKEND_FINISHED_STATUS.
    #[arg(
        long,
        env = "BOOKEND_ON_FINISH",
        value_name = "CMD",
        value_hint = ValueHint::CommandString,
        help_heading = "Hooks",
    )]
    on_finish: Option<OsString>,
    /// Stop --on-finish after this long [default: 60s]
    ///
    /// 0: never.
    #[arg(
        long,
        env = "BOOKEND_HOOK_TIMEOUT",
        value_name = "DURATION",
        value_parser = duration,
        help_heading = "Hooks",
        hide_short_help = true,
    )]
    hook_timeout: Option<Duration>,

    /// Exit with 1 instead of 0 unless the task succeeds
    #[arg(long, env = "BOOKEND_STRICT", value_parser = FalseyValueParser::new(), help_heading = "Output")]
    strict: bool,
    /// Buffer this much output for a slow reader
    ///
    /// Bytes, or a value such as 64MiB or 2GiB. When the buffer is full, the agent has to wait.
    #[arg(
        long,
        env = "BOOKEND_BACKLOG",
        value_name = "SIZE",
        value_parser = size,
        default_value = "1GiB",
        help_heading = "Output",
        hide_short_help = true,
    )]
    backlog: u64,
    /// Keep the row this long after the task's end
    #[arg(
        long,
        env = "BOOKEND_RETENTION",
        value_name = "DURATION",
        value_parser = duration,
        default_value = "365d",
        help_heading = "Output",
        hide_short_help = true,
    )]
    retention: Duration,
    /// Print errors only
    #[arg(
        short,
        long,
        env = "BOOKEND_QUIET",
        value_parser = FalseyValueParser::new(),
        conflicts_with = "verbose",
        help_heading = "Output",
    )]
    quiet: bool,
    /// Print what bookend does; twice: in detail
    #[arg(
        short,
        long,
        env = "BOOKEND_VERBOSE",
        action = ArgAction::Count,
        value_parser = variables::verbosity,
        help_heading = "Output",
    )]
    verbose: u8,
    /// Command line of the agent
    #[arg(trailing_var_arg = true, required = true, value_name = "AGENT [ARGS]")]
    argv: Vec<OsString>,
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

impl RunArgs {
    pub(super) fn options(self) -> RunOptions {
        RunOptions {
            id: self.id,
            key: self.key.and_then(|name| name.parse().ok()),
            repo: given(self.repo),
            issue: self.issue,
            user: given(self.user),
            agent: given(self.agent),
            agent_type: given(self.agent_type),
            model: given(self.model),
            provider: self.provider.and_then(|name| name.parse().ok()),
            cwd: self.cwd.filter(|c| !c.as_os_str().is_empty()),
            prepare: self.prepare.filter(|c| !c.is_empty()),
            forge: self.forge,
            require_skill: given(self.require_skill),
            timeout: self.timeout,
            idle_timeout: self.idle_timeout,
            grace: self.grace,
            when_busy: when_busy(self.wait, self.replace),
            fleet_timeout: self.fleet_timeout,
            budget: self.budget,
            on_term: match self.on_term {
                OnTermArg::Interrupted => OnTerm::Interrupted,
                OnTermArg::Cancelled => OnTerm::Cancelled,
            },
            fresh: self.fresh,
            allow_unsafe_resume: self.allow_unsafe_resume,
            keep_session: self
                .keep_session
                .into_iter()
                .map(|after| match after {
                    KeepSessionArg::Limit => KeepSession::Limit,
                    KeepSessionArg::ApiError => KeepSession::ApiError,
                })
                .collect(),
            leftovers: match self.leftovers {
                LeftoversArg::Auto => LeftoversPolicy::Auto,
                LeftoversArg::End => LeftoversPolicy::End,
                LeftoversArg::Leave => LeftoversPolicy::Leave,
            },
            strict: self.strict,
            backlog: self.backlog,
            on_finish: self.on_finish.filter(|c| !c.is_empty()),
            hook_timeout: self.hook_timeout,
            retention: self.retention,
            level: level(self.quiet, self.verbose),
            argv: self.argv,
        }
    }
}

/// An empty option variable counts as unset.
fn given(value: Option<String>) -> Option<String> {
    value.filter(|v| !v.is_empty())
}
