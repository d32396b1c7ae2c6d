//! The start of a task: the agent's gated process, and the running row that is committed before its exec.

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

use tracing::{info, warn};

use crate::error::{Error, chain};
use crate::hook;
use crate::ledger::{Claim, Ledger, LedgerError, Location, SpoolSlot};
use crate::log;
use crate::process::capture::{Capture, OnClosedOutput};
use crate::process::cgroup::oom;
use crate::process::cgroup::{Cgroup, DelegatedCgroup, NewCgroup};
use crate::process::forward::Forward;
use crate::process::leftovers::{self, LedgerFile, SweepOwner};
use crate::process::procfs::identity::{self, ProcessStat};
use crate::process::spawn::caller::Caller;
use crate::process::spawn::environment::{self, OPTION_VARIABLES};
use crate::process::spawn::gate::{Gated, Launch};
use crate::run::claim::link_session;
use crate::run::command::{AgentCommand, RunContext, current_dir};
use crate::run::options::{self, RunOptions};
use crate::run::session::Choice;
use crate::run::supervisor::settle::{end_unstarted, never_ran, release};
use crate::run::supervisor::{
    Agent, CapturedOutput, Conversation, Limits, RowFacts, Supervisor, SupervisorStart, TaskRef,
};
use crate::sys;
use crate::task::{
    FailureReason, NewTask, ProcessIdentity, ProcessScope, SessionId, SessionTotals, Status, TaskId, Time,
};

/// How many runs may be nested, counted by the parents of their tasks.
const MOST_LEVELS: u32 = 8;

/// The ids of a task, of the task that this bookend runs inside, and of the one that it replaces.
pub(super) struct TaskIds {
    pub(super) id: TaskId,
    pub(super) parent: Option<TaskId>,
    replaces: Option<TaskId>,
}

impl TaskIds {
    /// The `id` of a new task, or one that is drawn now.
    ///
    /// # Errors
    /// When too many runs are nested, as by a script named like the agent that calls bookend again.
    pub(super) fn choose(
        claim: &Claim<'_>,
        id: Option<&TaskId>,
        options: &RunOptions,
        replaces: Option<&TaskId>,
    ) -> Result<TaskIds, Error> {
        let parent = std::env::var(environment::MARK).ok().map(TaskId::recorded);
        if let Some(parent) = &parent
            && claim.levels(parent, MOST_LEVELS + 1)? > MOST_LEVELS
        {
            return Err(nested_too_deep(&options.argv[0]));
        }
        let id = id.cloned().unwrap_or_else(TaskId::random);
        Ok(TaskIds { id, parent, replaces: replaces.cloned() })
    }
}

fn nested_too_deep(program: &OsStr) -> Error {
    let program = program.display();
    Error::failed(format!(
        "{program}: more than {MOST_LEVELS} runs are nested, each started by the one before"
    ))
    .hint(format!(
        "if {program} is a script that calls bookend, give bookend the path of the real program; nothing was \
         executed"
    ))
}

/// The agent's process, waiting at the gate: it has a pid and has executed nothing.
pub(super) struct ForkedAgent {
    child: std::io::Result<Gated>,
    argv: Vec<OsString>,
    env: Vec<CString>,
    output: Option<CapturedOutput>,
    forward: Forward,
    cgroup: Option<NewCgroup>,
    place: ProcessScope,
    supervisor: ProcessStat,
    /// Children that bookend had before.
    inherited: Vec<ProcessIdentity>,
}

impl ForkedAgent {
    /// Forks the agent. No process for it is an error that [`ForkedAgent::commit`] writes to the row.
    ///
    /// # Errors
    /// When the command line holds a NUL byte, the output cannot be captured, or `/proc` cannot be read.
    pub(super) fn fork(
        ids: &TaskIds,
        context: &RunContext<'_>,
        choice: &Choice,
        caller: &Caller,
    ) -> Result<ForkedAgent, Error> {
        let RunContext { options, command, location, live } = context;
        let (before, own) = options.argv.split_at(command.own_args);
        let argv: Vec<OsString> =
            before.iter().cloned().chain(command.adapter.argv(own, &choice.plan)).collect();
        let words: Vec<&OsStr> = argv.iter().map(OsString::as_os_str).collect();
        let (output, agents_stdout) = capture(command, options.backlog)?;
        let env = agent_environment(&ids.id, location, command.is_background());
        let mut launch = Launch::new(&words, env.clone())
            .and_then(|l| l.cwd(options.cwd.as_deref().map(Path::as_os_str)))
            .map_err(|e| Error::usage("the agent's command line").caused_by(e))?;
        if let Some(stdout) = agents_stdout {
            launch = launch.stdio(1, stdout);
        }
        let inherited = leftovers::children().map_err(Error::from)?;
        let mut place = identity::place();
        // A background agent works on for others too: it is not charged to this task, and not ended with it.
        let delegated = DelegatedCgroup::enter(place.cgroup.as_deref()).filter(|_| !command.is_background());
        let child = Gated::start(launch, caller);
        let forward = Forward::start();
        let cgroup = child.as_ref().ok().and_then(|c| delegated?.give(&ids.id, live.slot, c.pid));
        if let Some(new) = &cgroup {
            place.cgroup = Some(new.cgroup.path().to_owned());
        }
        let supervisor =
            identity::stat(std::process::id() as i32).map_err(reading_proc)?.ok_or_else(no_proc)?;
        Ok(ForkedAgent { child, argv, env, output, forward, cgroup, place, supervisor, inherited })
    }

    /// The running row, with the identities of both processes.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub(super) fn running_row(
        &self,
        ids: TaskIds,
        context: &RunContext<'_>,
        choice: &Choice,
    ) -> Result<NewTask, Error> {
        let RunContext { options, command, .. } = context;
        let child = self.child.as_ref().ok();
        let agent = child.map(|c| identity::of(c.pid)).transpose().map_err(reading_proc)?;
        let gated = agent.flatten().zip(child.map(|c| c.pidfd.as_fd()));
        let (supervisor, agent_process) = identity::records(self.supervisor.identity(), gated);
        let (user_argv, argv_cut) = options::kept_words(&options.argv);
        let on_finish = options.on_finish.as_ref();
        Ok(NewTask {
            id: ids.id,
            key: command.key.clone(),
            repo: options.repo.clone(),
            issue_number: options.issue,
            user: options.user.clone(),
            agent: command.persona.clone(),
            agent_type: command.adapter.agent_type(),
            model: command.asked.model.clone().or_else(|| options.model.clone()),
            provider: command.provider.clone(),
            started_at: Time::now(),
            session_id: choice.session.clone(),
            resumed_from: choice.resumed_from.clone(),
            argv: options::kept_words(&self.argv).0,
            user_argv,
            run_options: options::options_of(options, current_dir(), command.streams(), argv_cut),
            cwd: command.cwd.clone(),
            place: self.place.clone(),
            supervisor,
            agent_process,
            on_finish: on_finish.map(|c| hook::on_finish(c, current_dir(), options.hook_timeout)),
            retention_secs: i64::try_from(options.retention.as_secs()).unwrap_or(i64::MAX),
            parent_id: ids.parent,
            oom_kills_before: self.place.cgroup.as_deref().and_then(oom::kills),
            session_untracked: command.untracked(),
            tokens_scope: command.adapter.tokens_scope().filter(|_| command.captured),
            replaces: ids.replaces,
        })
    }

    /// Commits the running row and the link to its session. Without a process for the agent the row is ended
    /// in the same transaction.
    ///
    /// # Errors
    /// When the ledger does not take the row: nothing was executed.
    pub(super) fn commit(
        self,
        claim: Claim<'_>,
        row: &NewTask,
        context: &RunContext<'_>,
        choice: &Choice,
    ) -> Result<GatedTask, StartFailed> {
        let started = Instant::now();
        claim.insert(row, context.live, "run")?;
        link_session(&claim, row, choice)?;
        let child = match self.child {
            Ok(child) => child,
            Err(e) => {
                let error = Error::failed("creating a process for the agent").caused_by(e);
                // Its removal tells a monitor that the task has ended.
                let slot = claim.spool_slot(&row.id).ok();
                claim.end(&row.id, &never_ran(FailureReason::Spawn, &chain(&error), started), "run")?;
                claim.commit()?;
                release(slot.map(SpoolSlot::free));
                return Err(error
                    .hint("run `ulimit -u -n` to see the limits; the task is recorded as failure")
                    .into());
            }
        };
        let totals_before = totals_before(&claim, context.command, choice)?;
        // Without room for the record, a full disk would lose the end of the task.
        let spool = claim.spool_slot(&row.id)?;
        if let Err(refused) = claim.commit() {
            return Err(StartFailed::FailedCommit(Box::new(FailedCommit { child, started, spool, refused })));
        }
        let cgroup = self.cgroup.map(NewCgroup::keep);
        let facts = RowFacts {
            started,
            totals_before,
            cgroup: row.place.cgroup.clone(),
            oom_kills_before: row.oom_kills_before,
        };
        let start = SupervisorStart {
            task: TaskRef { id: row.id.clone(), key: row.key.clone(), provider: row.provider.clone() },
            row: facts,
            spool,
            agent: Agent::new(child, context.command.asked.mode, cgroup.clone()),
            forward: self.forward,
            output: self.output,
            limits: limits(context),
            conversation: Conversation { session: choice.session.clone(), resumed: choice.resumed_id() },
        };
        let family = Family { inherited: self.inherited, tty: self.supervisor.tty_nr, cgroup };
        Ok(GatedTask { start, env: self.env, family })
    }
}

/// A task whose running row is committed, and whose agent still waits at the gate.
pub(super) struct GatedTask {
    pub(super) start: SupervisorStart,
    /// The agent's environment, which `--prepare` gets too.
    pub(super) env: Vec<CString>,
    pub(super) family: Family,
}

/// What tells the task's processes from others.
pub(super) struct Family {
    /// Children that bookend had before.
    inherited: Vec<ProcessIdentity>,
    tty: i32,
    cgroup: Option<Cgroup>,
}

impl Family {
    /// The processes that a sweep after the run looks for.
    pub(super) fn sweep_target(
        self,
        run: &Supervisor<'_>,
        row: &NewTask,
        context: &RunContext<'_>,
    ) -> leftovers::SweptTask {
        leftovers::SweptTask {
            id: row.id.clone(),
            ledger: LedgerFile::at(&context.location.file),
            agent: row.agent_process.unwrap_or(row.supervisor).identity,
            agent_tty: self.tty,
            owner: SweepOwner::Supervisor { inherited: self.inherited, helpers: run.helpers() },
            spares_detached: context.options.leftovers.spares_detached(),
            cgroup: self.cgroup,
        }
    }
}

/// Why there is no task to supervise.
pub(super) enum StartFailed {
    Refused(Error),
    /// The commit of the running row was reported as failed.
    FailedCommit(Box<FailedCommit>),
}

/// A running row that may be durable although its commit failed.
pub(super) struct FailedCommit {
    child: Gated,
    started: Instant,
    spool: SpoolSlot,
    refused: LedgerError,
}

impl<E: Into<Error>> From<E> for StartFailed {
    fn from(e: E) -> StartFailed {
        StartFailed::Refused(e.into())
    }
}

impl StartFailed {
    /// Stops the child, records the end of the task and returns the error that stops the run.
    pub(super) fn record_end(self, ledger: &mut Ledger, id: &TaskId) -> Error {
        match self {
            StartFailed::Refused(e) => e,
            StartFailed::FailedCommit(failed) => {
                let FailedCommit { mut child, started, spool, refused } = *failed;
                child.dismiss();
                let ended = never_ran(FailureReason::Spawn, &chain(&refused), started);
                end_unstarted(ledger, id, spool, &ended);
                refused.into()
            }
        }
    }
}

/// What the session had used before this run, which a fork inherits. Whether the agent reports the totals
/// of a session is not known before it reports.
fn totals_before(claim: &Claim<'_>, command: &AgentCommand, choice: &Choice) -> Result<SessionTotals, Error> {
    match choice.resumed_from.as_ref().filter(|_| command.captured) {
        Some(session) => Ok(claim.last_session_totals(command.provider.as_ref(), session)?),
        None => Ok(SessionTotals::default()),
    }
}

fn limits(context: &RunContext<'_>) -> Limits {
    let options = context.options;
    Limits {
        timeout: options.timeout.filter(|t| !t.is_zero()),
        idle_timeout: options.idle_timeout.filter(|t| !t.is_zero()),
        grace: options.grace,
        awaits_input: context.command.asked.conversing,
    }
}

/// Closes bookend's copies of the descriptors that the agent inherits.
pub(super) fn release_descriptors(caller: &mut Caller) {
    if let Err(e) = caller.let_go() {
        warn!("keeping the agent's descriptors open: {e}");
    }
}

/// Logs the start. Called after the commit, so that a stderr nobody reads does not hold the ledger's lock.
pub(super) fn announce(id: &TaskId, command: &AgentCommand, choice: &Choice) {
    for warning in command.warnings.iter().chain(&choice.warning) {
        warn!("{warning}");
    }
    let resumed_from = choice.resumed_from.as_ref().map(SessionId::as_str);
    let session = choice.session.as_ref().map(SessionId::as_str);
    info!(
        MESSAGE_ID = log::id::STARTED,
        STATUS = Status::Running.as_str(),
        SESSION_ID = session,
        RESUMED_FROM = resumed_from,
        "task {id} running: resume={} session={}",
        resumed_from.unwrap_or("<none>"),
        session.unwrap_or("<not yet known>")
    );
}

/// The capture of the agent's stdout, and the end of the pipe that the agent gets. Nothing is captured in a
/// mode that bookend does not read.
fn capture(command: &AgentCommand, backlog: u64) -> Result<(Option<CapturedOutput>, Option<OwnedFd>), Error> {
    if !command.captured {
        return Ok((None, None));
    }
    // Claude Code does not notice a closed stdout and works on; other agents get an EPIPE of their own.
    let when_gone = match command.adapter.notices_closed_stdout() {
        true => OnClosedOutput::HangUp,
        false => OnClosedOutput::Drain,
    };
    let (capture, agents) = Capture::new(sys::stdio(1), when_gone, backlog)
        .map_err(|e| Error::failed("capturing the agent's stdout").caused_by(e))?;
    let reader = command.adapter.reader(command.asked.mode);
    Ok((Some(CapturedOutput { capture, reader }), Some(agents)))
}

/// The agent's environment. Without the task's mark if the agent leaves a daemon behind that serves others.
fn agent_environment(id: &TaskId, ledger: &Location, is_background: bool) -> Vec<CString> {
    let add = [(environment::LEDGER, ledger.file.as_os_str()), (environment::MARK, OsStr::new(id.as_str()))];
    environment::inherited(&OPTION_VARIABLES, if is_background { &add[..1] } else { &add })
}

fn reading_proc(e: std::io::Error) -> Error {
    Error::failed("reading /proc").caused_by(e).hint("bookend needs /proc to tell processes apart")
}

fn no_proc() -> Error {
    reading_proc(std::io::ErrorKind::NotFound.into())
}
