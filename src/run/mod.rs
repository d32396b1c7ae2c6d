//! The way of a run, top to bottom: DESIGN section 3.

mod claim;
pub mod options;
pub mod resolve;
mod start;
pub mod supervisor;

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use nix::fcntl::{FcntlArg, OFlag};
use tracing::{error, info, warn};

use crate::agent::{self, Adapter, Asked, AskedSession, Mode, Observed, Place, Untracked};
use crate::clock;
use crate::error::{Error, Kind, chain};
use crate::exit::Exit;
use crate::exit::exit_code;
use crate::failpoint;
use crate::git::{Baseline, Git};
use crate::hook;
use crate::ledger::{self, Claim, Found, Ledger, Location};
use crate::log;
use crate::process::capture::{Capture, OutputLoss, WhenReaderGone};
use crate::process::cgroup::oom;
use crate::process::cgroup::{DelegatedCgroup, NewCgroup};
use crate::process::forward::Forward;
use crate::process::leftovers::{self, LedgerFile, LeftoverSweep, SweepOwner};
use crate::process::procfs::identity;
use crate::process::spawn::caller::{self, Caller};
use crate::process::spawn::environment;
use crate::process::spawn::environment::OPTION_VARIABLES;
use crate::process::spawn::gate::{Gated, Launch};
use crate::process::watch::Watch;
use crate::recovery;
use crate::run::options::RunOptions;
use crate::sys;
use crate::task::{
    self, Cancel, Ending, Evidence, Failure, KeepSession, Key, NewTask, Provider, SessionId, Status, Task,
    TaskId,
};
use claim::{Hold, Way};
use resolve::{Choice, Known, LastUse, Refusal, Transcript, Withdrawal};
use start::{NoStart, end_without_agent, prepare, require_skill};
use supervisor::{Agent, Conversation, End, Limits, Listening, Row, Supervisor, TaskRef, Traces};

/// How many runs may be nested, counted by the parents of their tasks.
const MOST_LEVELS: u32 = 8;

/// Runs the agent between its two rows.
///
/// # Errors
/// When no row could be made: nothing was executed. Once there is a row, it gets its end whatever happens.
pub fn run(request: &RunOptions, ledger: Option<&Path>, caller: Caller) -> Result<Exit, Error> {
    // 1. Who runs, under which key, with what for its row.
    let who = resolve(request)?;
    let location = ledger::locate(ledger)?;
    let ledger = Ledger::open_for_run(&location)?;
    attend(request, who, &location, ledger, caller)
}

/// As [`run`], in a ledger that is open.
///
/// # Errors
/// As [`run`].
pub fn run_in(request: &RunOptions, at: &Location, ledger: Ledger, caller: Caller) -> Result<Exit, Error> {
    attend(request, resolve(request)?, at, ledger, caller)
}

fn attend(
    request: &RunOptions,
    who: Who,
    location: &Location,
    mut ledger: Ledger,
    mut caller: Caller,
) -> Result<Exit, Error> {
    // 2. Every signal has been blocked since the first line of main: none is lost from here on.
    let mut watch = Watch::new().map_err(|e| Error::failed("reading signals").caused_by(e))?;
    nix::sys::prctl::set_child_subreaper(true)
        .map_err(|e| Error::failed("becoming the reaper of the agent's orphans").caused_by(e))?;

    // 3. The claim, in one transaction: nobody else holds the key, or whoever did is settled.
    recovery::report_merged(&ledger);
    let live = ledger.hold_live()?;
    let mut way = Way::new(request.when_busy, request.grace);
    let (claim, choice) = loop {
        let claim = ledger.claim()?;
        let (hold, holder) = match (way.look(&claim, who.key.as_ref())?, &who.key) {
            (Some(holder), Some(key)) => (Hold::Key(key.clone()), holder),
            _ => match choose_session(&claim, request, &who)? {
                Session::Chosen(choice) => break (claim, choice),
                Session::InUse(hold, task) => (hold, *task),
            },
        };
        drop(claim);
        if let Some(signal) = way.clear(&mut ledger, &mut watch, &hold, holder)? {
            return Ok(Exit::Signal(signal));
        }
        failpoint::reached("run.cleared");
    };
    let parent_id = std::env::var(environment::MARK).ok().map(TaskId::recorded);
    refuse_recursion(&claim, parent_id.as_ref(), &request.argv[0])?;
    let id = request.id.clone().unwrap_or_else(TaskId::random);
    failpoint::reached("run.chosen");
    log::about(&id, who.key.as_ref());
    let (before, own) = request.argv.split_at(who.own);
    let args = who.adapter.argv(own, &choice.plan);
    let argv: Vec<&OsStr> = before.iter().chain(&args).map(OsString::as_os_str).collect();

    // 4. The gated child: it exists, has a pid, and executes nothing.
    let (listening, agents_stdout) = listen(&who, request.backlog)?;
    let env = agents_environment(&id, location, who.is_background());
    let mut launch = Launch::new(&argv, env.clone())
        .and_then(|l| l.cwd(request.cwd.as_deref().map(Path::as_os_str)))
        .map_err(|e| Error::usage("the agent's command line").caused_by(e))?;
    if let Some(stdout) = agents_stdout {
        launch = launch.stdio(1, stdout);
    }
    let had = leftovers::children().map_err(Error::from)?;
    let mut place = identity::place();
    // What works on in the background is not this task's to account for, or to end.
    let delegated = DelegatedCgroup::enter(place.cgroup.as_deref()).filter(|_| !who.is_background());
    let child = Gated::start(launch, &caller);
    let forward = Forward::start();

    // 5. The running row, with both identities, durable before anything is executed.
    let new_cgroup = child.as_ref().ok().and_then(|c| delegated?.give(&id, live.slot, c.pid));
    if let Some(new) = &new_cgroup {
        place.cgroup = Some(new.cgroup.path().to_owned());
    }
    let own = identity::stat(std::process::id() as i32).map_err(reading_proc)?.ok_or_else(no_proc)?;
    let agent_process = child.as_ref().ok().map(|c| identity::of(c.pid)).transpose().map_err(reading_proc)?;
    let gated = agent_process.flatten().zip(child.as_ref().ok().map(|c| c.pidfd.as_fd()));
    let (supervisor, agent_process) = identity::records(own.identity(), gated);
    let oom_kills_before = place.cgroup.as_deref().and_then(oom::kills);
    let started = Instant::now();
    let (user_argv, argv_cut) = options::kept_words(&request.argv);
    let row = NewTask {
        id: id.clone(),
        key: who.key.clone(),
        repo: request.repo.clone(),
        issue_number: request.issue,
        user: request.user.clone(),
        agent: who.persona.clone(),
        agent_type: who.adapter.agent_type(),
        model: who.asked.model.clone().or_else(|| request.model.clone()),
        provider: who.provider.clone(),
        started_at: clock::now(),
        session_id: choice.session.clone(),
        resumed_from: choice.resumed_from.clone(),
        argv: options::kept_words(&argv).0,
        user_argv,
        run_options: options::options_of(request, current_dir(), who.is_read_along(), argv_cut),
        cwd: who.cwd.clone(),
        place,
        supervisor,
        agent_process,
        on_finish: request
            .on_finish
            .as_ref()
            .map(|command| hook::on_finish(command, current_dir(), request.hook_timeout)),
        retention_secs: i64::try_from(request.retention.as_secs()).unwrap_or(i64::MAX),
        parent_id,
        oom_kills_before,
        session_untracked: who.untracked(),
        tokens_scope: who.adapter.tokens_scope().filter(|_| who.captured),
    };
    claim.insert(&row, &live, "run")?;
    link_session(&claim, &row, &choice)?;
    // Whether the agent reports the total of a session is not known before it reports.
    let resumed = choice.resumed_from.as_ref().filter(|_| who.captured);
    let cost_before = match resumed {
        Some(session) => claim.last_session_cost(who.provider.as_ref(), session)?,
        None => None,
    };
    let transcript = resumed_transcript(&who, &choice);
    let mut child = match child {
        Ok(child) => child,
        Err(e) => {
            let error = Error::failed("creating a process for the agent").caused_by(e);
            claim.end(&id, &supervisor::never_ran(Failure::Spawn, &chain(&error), started), "run")?;
            claim.commit()?;
            return Err(error.hint("run `ulimit -u -n` to see the limits; the task is recorded as failure"));
        }
    };
    // Without room for the record, a full disk would lose the end of the task: nothing is executed then.
    let spool = claim.spool_slot(&id)?;
    if let Err(e) = claim.commit() {
        child.dismiss();
        let ended = supervisor::never_ran(Failure::Spawn, &chain(&e), started);
        supervisor::withdraw(&mut ledger, &id, spool, &ended);
        return Err(e.into());
    }
    let tasks_cgroup = new_cgroup.map(NewCgroup::keep);
    way.report(&ledger);

    // From here on one guard owns the claim: dropped on whatever way, it ends the row.
    let mut run = Supervisor::new(
        watch,
        &mut ledger,
        (
            TaskRef { id, key: who.key.clone(), provider: who.provider.clone() },
            Row {
                started,
                spool: Some(spool),
                cost_before,
                cgroup: row.place.cgroup.clone(),
                oom_kills_before,
                ended: None,
                settled: false,
            },
        ),
        (Agent::new(child, who.asked.mode, tasks_cgroup.clone()), forward),
        listening,
        Limits {
            timeout: request.timeout.filter(|t| !t.is_zero()),
            idle_timeout: request.idle_timeout.filter(|t| !t.is_zero()),
            grace: request.grace,
            awaits_input: who.asked.conversing,
        },
        Conversation { session: choice.session.clone(), resumed: choice.resumed_id() },
    );
    announce(&run.task.id, &who, &choice);
    if let Err(e) = caller.let_go() {
        warn!("keeping the agent's descriptors open: {e}");
    }

    // 6. What must be there first: the prepare command, then the skill, which it may have brought.
    let ready = match prepare(&mut run, request, &env, &caller)? {
        Ok(()) => require_skill(request, &who),
        refused => refused,
    };
    failpoint::reached("run.prepared");
    // A stop that came until now ends the task without the agent ever having run.
    let ready = match run.stop_before_exec()? {
        Some(stop) => Err(NoStart::stopped(stop, request.on_term)),
        None => ready,
    };
    let whose = leftovers::SweptTask {
        id: run.task.id.clone(),
        ledger: LedgerFile::at(&location.file),
        agent: row.agent_process.unwrap_or(row.supervisor).identity,
        agent_tty: own.tty_nr,
        owner: SweepOwner::Supervisor { inherited: had, helpers: run.helpers() },
        spares_detached: request.leftovers.spares_detached(),
        cgroup: tasks_cgroup,
    };
    if let Err(no) = ready {
        run.dismiss()?;
        return end_without_agent(&mut run, no, whose, request, &caller);
    }

    // Where the worktree stands, for what the run will have made of it.
    let baseline = Baseline::of(&physical(request, &who.cwd));

    // 7. The gate opens; how the exec went comes over a pipe that exec closes.
    failpoint::reached("run.ready");
    run.open_gate();
    failpoint::reached("run.opened");

    // 8. One poll over signals, children, output and deadlines, until the agent has ended.
    let ended = run.attend()?;
    let ended_at = Instant::now();
    failpoint::reached("run.ended");
    if let Some(failed) = run.agent.start_error {
        let no = NoStart::not_executed(failed, &request.argv[0], request.cwd.as_deref());
        return end_without_agent(&mut run, no, whose, request, &caller);
    }

    // 9. What is still in the pipe, and who is still about.
    run.drain()?;
    run.await_room(ended_at + request.grace)?;
    failpoint::reached("run.drained");
    let observed = run.observed();
    let exit = ended.map(|(exit, _)| exit);
    let ending = task::judge(&Evidence {
        exit,
        outcome: run.outcome(),
        cause: run.cause(ended_at),
        lingered: run.lingered,
        output_lost: run.output_loss().is_some(),
        grace: request.grace,
        on_term: request.on_term,
    });
    let ending = if who.is_background() && ending == Ending::Success { Ending::Backgrounded } else { ending };
    let ends = request.leftovers.ends(ending == Ending::Success) && !who.is_background();
    let mut sweep = LeftoverSweep::new(whose, ends, request.grace);
    run.look_for_leftovers(&mut sweep);

    // 10. The terminal row, or the spool. The ending is committed before any grace is waited for.
    let error = match ended {
        Some(_) => observed.result.as_ref().and_then(|r| r.error.clone()),
        None => Some(out_of_reach(run.agent.child.pid)),
    };
    let error = with_loss(error, run.output_loss());
    let asked = baseline.map(|baseline| {
        let add = [(environment::FINISHED, OsStr::new(run.task.id.as_str()))];
        let mut git = Git::new(environment::inherited(&OPTION_VARIABLES, &add), &caller);
        // While the ending becomes durable. What is still to end could change git's settings.
        if !(ends && sweep.is_awaited()) {
            baseline.begin(&mut git);
        }
        (baseline, git)
    });
    let session = observed.session_id.as_ref().or(choice.session.as_ref());
    let kept = kept(&ending, &observed, &request.keep_session);
    let traces = match ending {
        Ending::Failure(Failure::Exit) if observed == Observed::default() => {
            Traces { unused: is_unused(&who, session, transcript), ..Traces::default() }
        }
        _ => traces(&who, &ending, kept, session, &row.started_at),
    };
    let leftovers = Some(run.summary(&sweep));
    run.settle(End { ending: ending.clone(), error, exit: ended, leftovers, traces });
    failpoint::reached("run.settled");
    run.end_leftovers(sweep, ends)?;
    if let Some((baseline, mut git)) = asked {
        let id = run.task.id.clone();
        baseline.record(&id, &mut git, &mut run)?;
    }

    // 11. The hook, with the row; the live lock is held until then.
    deliver(&mut run, request, &caller)?;
    failpoint::reached("run.delivered");
    run.flush()?;
    // After the row's end only a stdout that is a pipe or a socket can still fail.
    let output_lost = run.output_loss().filter(|_| ending == Ending::Success);
    if let Some(loss) = output_lost {
        error!("{loss}");
    }
    let stop_signal = run.stop_signal();
    drop(run);
    drop(live);
    // The kernel closes it as well, and need not give back its memory piece by piece.
    std::mem::forget(ledger);

    // 12. As the agent left.
    Ok(match (&ending, exit) {
        (Ending::Cancelled(Cancel::Timeout | Cancel::IdleTimeout), _) => Exit::Code(exit_code::TIMED_OUT),
        (Ending::Failure(Failure::Output), _) => Exit::Code(exit_code::OUTPUT),
        (Ending::Success, _) if output_lost.is_some() => Exit::Code(exit_code::OUTPUT),
        (Ending::Success | Ending::Backgrounded, _) => Exit::Code(0),
        (_, Some(Exit::Code(0))) if request.strict => Exit::Code(exit_code::NOT_SUCCESS),
        (_, Some(Exit::Code(code))) => Exit::Code(code),
        (_, Some(Exit::Signal(signal))) => Exit::Signal(signal),
        (_, None) => Exit::Signal(stop_signal),
    })
}

/// The row's error, with what was lost of the agent's output.
fn with_loss(error: Option<String>, loss: Option<OutputLoss>) -> Option<String> {
    let Some(loss) = loss else { return error };
    error!("{loss}");
    Some(error.map_or_else(|| loss.to_string(), |error| format!("{loss}\n{error}")))
}

/// Said of an agent that was to end, and that the kernel does not let us end: it executed a set-user-ID
/// program, or a sandbox forbids every signal.
fn out_of_reach(pid: i32) -> String {
    let user = nix::unistd::geteuid();
    let error = match identity::may_be_signalled(pid) {
        Some(false) => format!(
            "the agent (pid {pid}) runs as another user, whose processes uid {user} may not signal: it was \
             not ended, and runs on"
        ),
        Some(true) | None => {
            format!("the agent (pid {pid}) was not ended, and runs on: a sandbox forbids sending it a signal")
        }
    };
    tracing::error!("{error}");
    error
}

/// Who runs: what the request and the user's argv say, before anything is touched.
pub struct Who {
    pub adapter: &'static dyn Adapter,
    /// Where in the argv the agent's own arguments begin.
    own: usize,
    place: Place,
    pub asked: Asked,
    pub key: Option<Key>,
    /// The persona.
    pub persona: String,
    pub provider: Option<Provider>,
    /// Where the agent is to run.
    pub cwd: PathBuf,
    /// Its stdout is read along.
    captured: bool,
    /// Said if the user may expect a session to be tracked that is not.
    warning: Option<String>,
}

impl Who {
    /// Whether the agent goes on in the background after it has exited.
    fn is_background(&self) -> bool {
        matches!(self.asked.session, AskedSession::Background(_))
    }

    /// Why the key keeps no session of this run; `None`: it does, or there is no key.
    fn untracked(&self) -> Option<String> {
        self.key.as_ref()?;
        match (&self.place, &self.asked.session) {
            (Place::Untracked(why), _) => Some(why.to_string()),
            (_, AskedSession::Background(_)) => Some("backgrounded".to_owned()),
            (_, AskedSession::NoConversation) => Some("no conversation".to_owned()),
            (_, AskedSession::NotKept) => Some("not kept by the agent".to_owned()),
            _ => None,
        }
    }

    /// Whether the output is read as it comes, so that silence is a sign.
    fn is_read_along(&self) -> bool {
        self.captured && self.asked.mode == Mode::StreamJson
    }
}

fn resolve(request: &RunOptions) -> Result<Who, Error> {
    let program = &request.argv[0];
    let recognised = agent::recognise(&request.argv, request.agent_type.as_deref()).map_err(Error::usage)?;
    let agent::Recognised { adapter, own, place } = recognised;
    let terminal = std::io::IsTerminal::is_terminal(&sys::stdio(1));
    let asked = adapter.asked(&request.argv[own..], terminal);
    let asked = match (&place, own < request.argv.len()) {
        (Place::Untracked(_), true) => Asked { session: AskedSession::NoConversation, ..asked },
        // Nothing is known of its words.
        (Place::Untracked(_), false) => {
            Asked { mode: Mode::Interactive, session: AskedSession::NoConversation, ..asked }
        }
        _ => asked,
    };
    let base = Path::new(program).file_name().unwrap_or(program).to_string_lossy().into_owned();
    let persona = request.agent.clone().unwrap_or(base);
    let key = request.key.clone().or_else(|| {
        // Never from less than both: a key must not bring together what does not belong together.
        let (repo, issue) = (request.repo.as_ref()?, request.issue?);
        Some(Key::recorded(format!("{}:{persona}:{repo}:{issue}", request.forge)))
    });
    // An agent whose stdout is closed is to find it closed.
    let heard = !terminal && caller::was_open(1);
    let captured = matches!(asked.mode, Mode::Json | Mode::StreamJson) && heard;
    if request.idle_timeout.is_some() && !(captured && asked.mode == Mode::StreamJson) {
        return Err(Error::usage(
            "--idle-timeout needs output that comes as the agent works: run it with \
             `--output-format stream-json` (for claude also --verbose) and stdout not on a terminal",
        )
        .hint("--timeout limits the whole run in every mode"));
    }
    let warning = match &place {
        Place::Untracked(why) => warning(request, key.as_ref(), why),
        _ => None,
    };
    let cwd = request.cwd.clone().unwrap_or_else(current_dir);
    let cwd = std::path::absolute(&cwd).unwrap_or(cwd);
    let provider = request.provider.clone().or_else(|| adapter.provider().map(Provider::recorded));
    Ok(Who { adapter, own, place, asked, key, persona, provider, cwd, captured, warning })
}

/// What to say of a command line whose session is not tracked although it names an agent.
fn warning(request: &RunOptions, key: Option<&Key>, why: &Untracked) -> Option<String> {
    let is_asked_for = matches!(why, Untracked::Ambiguous(_)) || key.is_some();
    let agent = is_asked_for.then(|| agent::mentioned(&request.argv, why)).flatten()?;
    let of = key.map_or("its session".to_owned(), |key| format!("the session of key {key}"));
    let typed = request.agent_type.is_some();
    let because = match why {
        Untracked::Elsewhere(by) if !typed => format!(
            "{by} runs {agent} as another user or on another machine; add --agent-type {agent}, or run \
             bookend there"
        ),
        Untracked::Elsewhere(by) => {
            format!("the arguments of {by} do not show where those of {agent} begin; run bookend there")
        }
        Untracked::Hidden(by) => {
            format!("{by} may start {agent} among others; give bookend the command line of {agent} itself")
        }
        Untracked::Unclear(by) => format!(
            "bookend does not know all options of {by}; give bookend the command line of {agent} itself"
        ),
        Untracked::Ambiguous(by) | Untracked::NoAdapter(by) => format!(
            "bookend does not know how {by} starts {agent}; give bookend the command line of {agent} itself"
        ),
    };
    Some(format!("{of} is not tracked: {because}"))
}

/// What the agent's own files tell once it has ended.
fn traces(
    who: &Who,
    ending: &Ending,
    kept: Option<KeepSession>,
    session: Option<&SessionId>,
    since: &str,
) -> Traces {
    match ending {
        Ending::Success | Ending::Failure(_)
            if (*ending == Ending::Success || kept.is_some())
                && !matches!(who.place, Place::Untracked(_)) =>
        {
            Traces {
                kept,
                transcript_seen: session.and_then(|id| agent::has_conversation(who.adapter, &who.cwd, id)),
                ..Traces::default()
            }
        }
        Ending::Backgrounded => {
            Traces { backgrounded: who.adapter.backgrounded(&who.cwd, since), ..Traces::default() }
        }
        _ => Traces::default(),
    }
}

/// The agent's record of the conversation that it is told to go on with, as it lies before the run.
fn resumed_transcript(who: &Who, choice: &Choice) -> Option<(u64, SystemTime)> {
    let resumed = choice.session.as_ref().filter(|_| choice.session == choice.resumed_from)?;
    agent::transcript_stamp(who.adapter, &who.cwd, resumed)
}

/// Whether a run that failed without an event used no conversation: the agent refused its arguments. Its
/// record of the conversation, `before` the run and now, shows it; without one only an output that comes
/// event by event does, since Claude Code answers an unknown id with an event there.
fn is_unused(who: &Who, session: Option<&SessionId>, before: Option<(u64, SystemTime)>) -> bool {
    let Some(session) = session.filter(|_| who.adapter.tracks_sessions()) else { return false };
    let now = agent::transcript_stamp(who.adapter, &who.cwd, session);
    let is_sound = || agent::has_sound_transcript(who.adapter, &who.cwd, session);
    now == before && if before.is_some() { is_sound() } else { who.is_read_along() }
}

/// Which value of `--keep-session` keeps the session of a run that failed.
fn kept(ending: &Ending, observed: &Observed, asked: &[KeepSession]) -> Option<KeepSession> {
    let is_at_rest = observed.tool_in_flight.is_none() && !observed.background && !observed.open_turn;
    let is_its_result = *ending == Ending::Failure(Failure::AgentError) && is_at_rest;
    observed.api_failure.filter(|_| is_its_result)?.kept_by(asked)
}

/// Refuses a run that has too many runs above it: a script named like the agent that calls bookend again
/// would start itself without end.
fn refuse_recursion(claim: &Claim<'_>, parent: Option<&TaskId>, program: &OsStr) -> Result<(), Error> {
    let Some(parent) = parent else { return Ok(()) };
    if claim.levels(parent, MOST_LEVELS + 1)? <= MOST_LEVELS {
        return Ok(());
    }
    let program = program.display();
    Err(Error::failed(format!(
        "{program}: more than {MOST_LEVELS} runs are nested, each started by the one before"
    ))
    .hint(format!(
        "if {program} is a script that calls bookend, give bookend the path of the real program; nothing was \
         executed"
    )))
}

fn current_dir() -> PathBuf {
    std::env::current_dir().unwrap_or_default()
}

/// The agent's directory without links: git looks for a worktree along that path. The kernel names the
/// current directory so.
fn physical<'p>(request: &RunOptions, cwd: &'p Path) -> std::borrow::Cow<'p, Path> {
    let given = request.cwd.is_some().then(|| cwd.canonicalize().ok()).flatten();
    given.map_or(cwd.into(), Into::into)
}

/// What the look at a key's session came to.
enum Session {
    Chosen(Choice),
    /// A running task uses it.
    InUse(Hold, Box<Task>),
}

/// Which conversation goes on, by what the ledger knows of it now.
fn choose_session(claim: &Claim<'_>, request: &RunOptions, who: &Who) -> Result<Session, Error> {
    let provider = who.provider.as_ref();
    let used = |session: SessionId, linked: Option<&TaskId>| -> Result<LastUse, Error> {
        let last = claim.last_use(provider, &session, linked)?;
        let transcript_seen = last.task.as_ref().and_then(|t| t.transcript_seen);
        let kept = last.task.as_ref().is_some_and(|t| t.session_kept.is_some());
        let veto = last.veto.map(|v| v.why());
        let task = last.task.map(|t| (t.id, t.status));
        Ok(LastUse { session, kept, restored: last.restored, veto, task, transcript_seen })
    };
    let linked = match (&who.key, who.adapter.tracks_sessions()) {
        (Some(key), true) => {
            claim.session(key)?.map(|s| used(s.session_id, s.task_id.as_ref())).transpose()?
        }
        _ => None,
    };
    let asked = match &who.asked.session {
        AskedSession::Background(asked) => asked,
        asked => asked,
    };
    let users = match asked {
        AskedSession::Resume(id) | AskedSession::Fork(Some(id), _) => Some(id.clone()),
        AskedSession::Continue | AskedSession::Fork(None, _) => who.adapter.most_recent(&who.cwd),
        _ => None,
    };
    let users = users.map(|id| used(id, None)).transpose()?;
    let transcript = linked.as_ref().map_or(Transcript::Usable, |l| {
        let is_there = agent::has_conversation(who.adapter, &who.cwd, &l.session);
        Transcript::judge(is_there, l.transcript_seen, matches!(who.place, Place::Elsewhere(_)))
    });
    let chosen = resolve::choose(&Known {
        asked: &who.asked.session,
        fresh: request.fresh,
        new_id: who.adapter.can_assign().then(SessionId::random),
        linked: linked.as_ref(),
        transcript,
        users: users.as_ref(),
        allow_unsafe: request.allow_unsafe_resume,
        attended: who.asked.mode == Mode::Interactive && std::io::IsTerminal::is_terminal(&sys::stdio(0)),
    });
    let choice = match chosen {
        Ok(choice) => choice,
        Err(Refusal::InUse { session, task }) => {
            let task = claim.task(&task)?.ok_or_else(|| Error::failed(format!("task {task} vanished")))?;
            return Ok(Session::InUse(Hold::Session(session), Box::new(task)));
        }
        Err(Refusal::Unsafe { session, why }) => {
            return Err(Error::new(
                Kind::UnsafeResume,
                format!("resuming session {session} is not safe: {why}"),
            )
            .hint("start a fresh one, or use --allow-unsafe-resume; nothing was executed"));
        }
    };
    Ok(Session::Chosen(choice))
}

fn link_session(claim: &Claim<'_>, row: &NewTask, choice: &Choice) -> Result<(), Error> {
    let Some(key) = &row.key else { return Ok(()) };
    match choice.invalidate {
        Some(Withdrawal { reason, was_safe: true }) => {
            claim.set_session_aside(key, reason, &row.id, &row.started_at)?;
        }
        Some(Withdrawal { reason, was_safe: false }) => {
            claim.invalidate_session(key, reason, Some(&row.id), &row.started_at)?;
        }
        None => {}
    }
    if let Some(session) = &choice.session {
        claim.link_session(key, row.provider.as_ref(), session, &row.id, &row.started_at)?;
    }
    Ok(())
}

/// Said once the row is committed: a stderr that nobody reads must not hold the ledger's lock.
fn announce(id: &TaskId, who: &Who, choice: &Choice) {
    if let Some(warning) = &who.warning {
        warn!("{warning}");
    }
    if let Some(warning) = &choice.warning {
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

/// The capture of the agent's stdout, where its mode is read along, and the end that the agent gets.
fn listen(who: &Who, backlog: u64) -> Result<(Option<Listening>, Option<OwnedFd>), Error> {
    if !who.captured {
        return Ok((None, None));
    }
    // Claude Code does not notice that its reader has gone, and works on; others get their own EPIPE.
    let when_gone = match who.adapter.notices_closed_stdout() {
        true => WhenReaderGone::HangUp,
        false => WhenReaderGone::Drain,
    };
    let (capture, agents) = Capture::new(sys::stdio(1), when_gone, backlog)
        .map_err(|e| Error::failed("capturing the agent's stdout").caused_by(e))?;
    Ok((Some(Listening { capture, reader: who.adapter.reader(who.asked.mode) }), Some(agents)))
}

/// Without the task's mark if the agent leaves a daemon behind that serves others too.
fn agents_environment(id: &TaskId, ledger: &Location, is_background: bool) -> Vec<CString> {
    let add = [(environment::LEDGER, ledger.file.as_os_str()), (environment::MARK, OsStr::new(id.as_str()))];
    environment::inherited(&OPTION_VARIABLES, if is_background { &add[..1] } else { &add })
}

/// Runs `--on-finish` with the row on its stdin.
fn deliver(run: &mut Supervisor<'_>, request: &RunOptions, caller: &Caller) -> Result<(), Error> {
    let Some(command) = &request.on_finish else { return Ok(()) };
    // A row that went to the spool is delivered by the recovery that comes after its merge.
    let Ok(Found::One(task)) = run.ledger.task(run.task.id.as_str()) else { return Ok(()) };
    if task.status.is_terminal() {
        hook::deliver(&task, Some(command), request.hook_timeout, caller, run)?;
    }
    Ok(())
}

/// A pipe whose reading end does not block.
pub fn output_pipe() -> std::io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    nix::fcntl::fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((ours, theirs))
}

fn reading_proc(e: std::io::Error) -> Error {
    Error::failed("reading /proc").caused_by(e).hint("bookend needs /proc to tell processes apart")
}

fn no_proc() -> Error {
    reading_proc(std::io::ErrorKind::NotFound.into())
}
