//! The outcome of a run: its ending, what the row says about it, and how bookend exits.

use std::time::{Instant, SystemTime};

use tracing::error;

use crate::agent::{self, ObservedOutput, SessionPlace};
use crate::error::Error;
use crate::exit::{Exit, exit_code};
use crate::hook;
use crate::process::capture::OutputLoss;
use crate::process::leftovers::LeftoverSweep;
use crate::process::procfs::identity;
use crate::process::spawn::caller::Caller;
use crate::run::command::{AgentCommand, RunContext};
use crate::run::options::RunOptions;
use crate::run::session::Choice;
use crate::run::supervisor::Supervisor;
use crate::run::supervisor::settle::{RunEnd, SessionTraces};
use crate::sys::ResourceUsage;
use crate::task::{
    self, CancelReason, Ending, ExitMeaning, FailureReason, KeepSession, NewTask, RunEvidence, SessionId,
    Time,
};

/// How the agent's process ended; `None`: bookend could not kill it.
pub(super) type ReapedAgent = Option<(Exit, ResourceUsage)>;

/// The ending of a run whose agent was executed.
pub(super) fn judge(
    run: &Supervisor<'_>,
    context: &RunContext<'_>,
    agent: ReapedAgent,
    ended_at: Instant,
) -> Ending {
    let exit = agent.map(|(exit, _)| exit);
    let ending = task::judge(&RunEvidence {
        exit,
        exit_meaning: exit.map_or(ExitMeaning::Unknown, |exit| meaning(context.command, exit)),
        outcome: run.outcome(),
        cause: run.cause(ended_at),
        lingered: run.has_lingered(),
        output_lost: run.output_loss().is_some(),
        grace: context.options.grace,
        on_term: context.options.on_term,
    });
    match ending {
        Ending::Success if context.command.is_background() => Ending::Backgrounded,
        ending => ending,
    }
}

/// What the agent's exit says about its success.
fn meaning(command: &AgentCommand, exit: Exit) -> ExitMeaning {
    let code = match exit {
        Exit::Code(code) => u8::try_from(code).ok(),
        Exit::Signal(_) => None,
    };
    code.map_or(ExitMeaning::Unknown, |code| command.adapter.exit_meaning(code))
}

/// What the row says about the end. `transcript`: as it was before the run, see [`TranscriptStamp`].
pub(super) fn end(
    run: &Supervisor<'_>,
    context: &RunContext<'_>,
    (row, choice): (&NewTask, &Choice),
    (ending, agent): (&Ending, ReapedAgent),
    transcript: TranscriptStamp,
    sweep: &LeftoverSweep,
) -> RunEnd {
    let observed = run.observed();
    let error = match agent {
        Some(_) => observed.result.as_ref().and_then(|r| r.error.clone()),
        None => Some(out_of_reach(run.agent_pid())),
    };
    let session = observed.session_id.as_ref().or(choice.session.as_ref());
    let traces = match ending {
        Ending::Failure(FailureReason::Exit | FailureReason::AgentError)
            if observed == ObservedOutput::default() =>
        {
            SessionTraces {
                unused: is_unused(context.command, session, transcript),
                ..SessionTraces::default()
            }
        }
        _ => {
            let kept = kept(ending, &observed, &context.options.keep_session);
            traces(context.command, ending, kept, session, row.started_at)
        }
    };
    RunEnd {
        ending: ending.clone(),
        error: with_loss(error, run.output_loss()),
        exit: agent,
        leftovers: Some(run.summary(sweep)),
        traces,
    }
}

/// How bookend exits: as the agent did, unless the ending says more.
pub(super) fn exit(
    run: &Supervisor<'_>,
    context: &RunContext<'_>,
    ending: &Ending,
    agent: ReapedAgent,
) -> Exit {
    // After the row's end only a stdout that is a pipe or a socket can still fail.
    let loss = run.output_loss().filter(|_| *ending == Ending::Success);
    if let Some(loss) = loss {
        error!("{loss}");
    }
    match (ending, agent.map(|(exit, _)| exit)) {
        (Ending::Cancelled(CancelReason::Timeout | CancelReason::IdleTimeout), _) => {
            Exit::Code(exit_code::TIMED_OUT)
        }
        (Ending::Failure(FailureReason::Output), _) => Exit::Code(exit_code::OUTPUT),
        (Ending::Success, _) if loss.is_some() => Exit::Code(exit_code::OUTPUT),
        (Ending::Success | Ending::Backgrounded, Some(exit))
            if meaning(context.command, exit) == ExitMeaning::Ok =>
        {
            exit
        }
        (Ending::Success | Ending::Backgrounded, _) => Exit::Code(0),
        (_, Some(Exit::Code(0))) if context.options.strict => Exit::Code(exit_code::NOT_SUCCESS),
        (_, Some(Exit::Code(code))) => Exit::Code(code),
        (_, Some(Exit::Signal(signal))) => Exit::Signal(signal),
        (_, None) => Exit::Signal(run.stop_signal()),
    }
}

/// Runs `--on-finish` with the row on its stdin.
///
/// # Errors
/// As [`crate::helper::Attendant::wait`].
pub(super) fn deliver(run: &mut Supervisor<'_>, options: &RunOptions, caller: &Caller) -> Result<(), Error> {
    let Some(command) = &options.on_finish else { return Ok(()) };
    // A row that went to the spool is delivered by the recovery that follows its merge.
    let Some(task) = run.row() else { return Ok(()) };
    if task.status.is_terminal() {
        hook::deliver(&task, Some(command), options.hook_timeout, caller, run)?;
    }
    Ok(())
}

/// The row's error, with what was lost of the agent's output.
fn with_loss(error: Option<String>, loss: Option<OutputLoss>) -> Option<String> {
    let Some(loss) = loss else { return error };
    error!("{loss}");
    Some(error.map_or_else(|| loss.to_string(), |error| format!("{loss}\n{error}")))
}

/// The error of an agent that the kernel did not let bookend kill: it executed a set-user-ID program, or a
/// sandbox forbids every signal.
fn out_of_reach(pid: i32) -> String {
    let user = nix::unistd::geteuid();
    let error = match identity::may_be_signalled(pid) {
        Some(false) => format!(
            "the agent (pid {pid}) runs as another user, whose processes uid {user} may not signal: it was \
             not ended, and is still running"
        ),
        Some(true) | None => format!(
            "the agent (pid {pid}) was not ended, and is still running: a sandbox forbids sending it a signal"
        ),
    };
    error!("{error}");
    error
}

/// Size and modification time of the transcript of a resumed session.
pub(super) type TranscriptStamp = Option<(u64, SystemTime)>;

/// The transcript of the session that the agent is told to resume, as it is before the run.
pub(super) fn resumed_transcript(command: &AgentCommand, choice: &Choice) -> TranscriptStamp {
    let resumed = choice.session.as_ref().filter(|_| choice.session == choice.resumed_from)?;
    agent::transcript_stamp(command.adapter, &command.cwd, resumed)
}

/// What the agent's own files say once it has exited.
fn traces(
    command: &AgentCommand,
    ending: &Ending,
    kept: Option<KeepSession>,
    session: Option<&SessionId>,
    since: Time,
) -> SessionTraces {
    let is_kept = *ending == Ending::Success || kept.is_some();
    match ending {
        Ending::Success | Ending::Failure(_)
            if is_kept && !matches!(command.place, SessionPlace::Untracked(_)) =>
        {
            let find = |id: &SessionId| agent::has_conversation(command.adapter, &command.cwd, id);
            SessionTraces { kept, transcript_seen: session.and_then(find), ..SessionTraces::default() }
        }
        Ending::Backgrounded => SessionTraces {
            backgrounded: command.adapter.backgrounded(&command.cwd, since),
            ..SessionTraces::default()
        },
        _ => SessionTraces::default(),
    }
}

/// Whether a run that failed without an event left its session unchanged, because the agent rejected its
/// arguments. The transcript, before the run and now, shows that. Without a transcript only a stream of
/// events does: Claude Code answers an unknown session id with an event there.
fn is_unused(command: &AgentCommand, session: Option<&SessionId>, before: TranscriptStamp) -> bool {
    let Some(session) = session.filter(|_| command.adapter.tracks_sessions()) else { return false };
    let now = agent::transcript_stamp(command.adapter, &command.cwd, session);
    let is_sound = || agent::has_sound_transcript(command.adapter, &command.cwd, session);
    now == before && if before.is_some() { is_sound() } else { command.streams() }
}

/// The value of `--keep-session` that keeps the session of a failed run.
fn kept(ending: &Ending, observed: &ObservedOutput, asked: &[KeepSession]) -> Option<KeepSession> {
    let is_at_rest = observed.tool_in_flight.is_none() && !observed.background && !observed.open_turn;
    let is_its_result = *ending == Ending::Failure(FailureReason::AgentError) && is_at_rest;
    observed.api_failure.filter(|_| is_its_result)?.kept_by(asked)
}
