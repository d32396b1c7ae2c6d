//! The end of the row: written once, to the ledger or to the spool, however the run ended.

use std::path::Path;
use std::time::Instant;

use tracing::{debug, error, info, warn};

use super::state::RowState;
use super::{Supervisor, TaskRef};
use crate::agent::{ObservedOutput, ReportCovers};
use crate::error::{Error, chain};
use crate::exit::Exit;
use crate::ledger::{FinishOutcome, HeldSlot, Ledger, LiveLock, SpoolSlot};
use crate::log;
use crate::process::cgroup::Cgroup;
use crate::process::cgroup::oom;
use crate::process::leftovers::LeftoverSummary;
use crate::sys::ResourceUsage;
use crate::task::{
    CancelReason, EndSource, Ending, FailureReason, InterruptReason, KeepSession, Key, SessionId,
    SessionTotals, Signal, SignalSender, StopRequest, TaskEnd, TaskId, Time, TokenUsage, UsageCounts,
};
use crate::view;

/// How a run ended.
pub(crate) struct RunEnd {
    pub(crate) ending: Ending,
    pub(crate) error: Option<String>,
    pub(crate) exit: Option<(Exit, ResourceUsage)>,
    pub(crate) leftovers: Option<LeftoverSummary>,
    pub(crate) traces: SessionTraces,
}

/// What the agent's own files say about its session.
#[derive(Debug, Default)]
pub(crate) struct SessionTraces {
    /// Whether the transcript is where bookend looks for it; `None`: bookend did not look.
    pub(crate) transcript_seen: Option<bool>,
    /// The agent rejected its arguments: its session is unchanged.
    pub(crate) unused: bool,
    /// The session is kept although the run failed.
    pub(crate) kept: Option<KeepSession>,
    /// The id of a session that continues in the background.
    pub(crate) backgrounded: Option<SessionId>,
}

impl Supervisor<'_> {
    /// Ends the row, in the ledger or, if that fails, in the spool.
    pub(crate) fn settle(&mut self, end: RunEnd) {
        let ended = Box::new(self.ended(end));
        self.row = match std::mem::replace(&mut self.row, RowState::Released) {
            RowState::Running(slot) | RowState::Ending(slot, _) => RowState::Ending(slot, ended),
            settled @ (RowState::Settled(_) | RowState::Released) => settled,
        };
        self.record();
    }

    /// All that the row says about the end.
    fn ended(&self, end: RunEnd) -> TaskEnd {
        let observed = self.observed();
        let (stop_signal, stop_sender) = self.stop.requested().map_or((None, None), |r| stopped_by(r.stop));
        let usage = end.exit.map(|(_, usage)| usage);
        // The cgroup also counts what the agent did not wait for, and all of its processes at once.
        let used = self.agent.cgroup.as_ref().map(Cgroup::used).unwrap_or_default();
        let cpu = used.cpu.or(usage.map(|u| u.cpu));
        let oom_killed = self.oom_killed(end.exit.map(|(exit, _)| exit));
        let by_oom = || "the kernel's OOM killer ended the agent".to_owned();
        let leftovers = end.leftovers.filter(|l| l.found > 0);
        TaskEnd {
            ending: end.ending,
            error: end.error.or_else(|| (oom_killed == Some(true)).then(by_oom)),
            source: EndSource::Wait,
            finished_at: Some(Time::now()),
            duration_ms: Some(elapsed_ms(self.facts.started)),
            exit: end.exit.map(|(exit, _)| exit),
            stop_signal,
            stop_sender,
            counts: self.counts(&observed),
            session_totals: self.session_totals(&observed),
            model: observed.model,
            session_id: observed.session_id.or(end.traces.backgrounded),
            tool_in_flight: observed.tool_in_flight,
            context_lost: self.context_lost,
            transcript_seen: end.traces.transcript_seen,
            session_kept: end.traces.kept,
            limit_resets_at: observed.api_failure.and_then(|f| f.resets_at).and_then(Time::from_unix_seconds),
            oom_killed,
            cpu_ms: cpu.and_then(|c| i64::try_from(c.as_millis()).ok()),
            max_rss_kib: used.peak_kib.or(usage.map(|u| u.max_rss_kib)),
            leftovers: leftovers.and_then(|l| serde_json::to_string(&l).ok()),
            executed: self.agent.state.executed() && !end.traces.unused,
        }
    }

    /// Records an ending that is decided. The state stays [`RowState::Ending`] until the ledger or the spool
    /// has it, so that a panic on the way leaves it to the destructor.
    fn record(&mut self) {
        let RowState::Ending(slot, ended) = &mut self.row else { return };
        let finished = match self.ledger.finish(&self.task.id, ended, "run") {
            Ok(FinishOutcome::NoRow) => Err(Error::failed("its row is missing from the ledger")),
            finished => finished.map_err(Error::from),
        };
        let is_recorded = match &finished {
            Ok(_) => true,
            Err(refused) => spool(slot, (&self.task.id, self.task.key.as_ref()), ended, refused, self.ledger),
        };
        let RowState::Ending(slot, ended) = std::mem::replace(&mut self.row, RowState::Released) else {
            return;
        };
        if is_recorded {
            // Before the messages: `bookend wait` waits for it.
            self.row = RowState::Settled(slot.free());
        }
        if let Ok(finished) = finished {
            report(&self.task, &ended, finished, self.ledger.option());
        }
    }

    /// Gives back the live lock, then the slot: nothing is left to do for the task.
    pub(crate) fn release(mut self, live: LiveLock) {
        let slot = match std::mem::replace(&mut self.row, RowState::Released) {
            RowState::Settled(slot) => Some(slot),
            unsettled => {
                self.row = unsettled;
                None
            }
        };
        drop(self);
        drop(live);
        release(slot);
    }

    /// Whether the kernel's OOM killer ended the agent, as far as that can be told.
    fn oom_killed(&self, exit: Option<Exit>) -> Option<bool> {
        let struck = oom::struck_since(self.facts.cgroup.as_deref(), self.facts.oom_kills_before)?;
        Some(struck && exit == Some(Exit::Signal(Signal::KILL)))
    }

    /// The counts of this run alone.
    pub(super) fn counts(&self, observed: &ObservedOutput) -> UsageCounts {
        observed.reported_totals().last_run(&self.facts.totals_before, observed.counts)
    }

    /// What the session has used so far, as reported or, before the agent reports it, as counted.
    pub(super) fn session_totals(&self, observed: &ObservedOutput) -> SessionTotals {
        let reported = observed.reported_totals();
        let counted = || {
            let before = self.facts.totals_before.tokens.unwrap_or_default();
            before.plus(TokenUsage::of(&observed.counts))
        };
        let is_counted = observed.tokens_cover == ReportCovers::RunOfSession;
        SessionTotals { tokens: reported.tokens.or_else(|| is_counted.then(counted)), ..reported }
    }
}

/// Whatever ends a run, a panic too, its row is ended. The slot is closed and stays, so that a recovery does
/// what is left to do.
impl Drop for Supervisor<'_> {
    fn drop(&mut self) {
        if let Some(cgroup) = &self.agent.cgroup {
            cgroup.remove();
        }
        match self.row {
            RowState::Settled(_) | RowState::Released => {}
            RowState::Ending(..) => self.record(),
            RowState::Running(_) => self.settle(RunEnd {
                ending: match self.agent.state.executed() {
                    true => Ending::Interrupted(InterruptReason::SupervisorLost),
                    false => Ending::Failure(FailureReason::Spawn),
                },
                error: Some("bookend failed while it supervised the task".to_owned()),
                exit: self.agent.state.exited(),
                leftovers: None,
                traces: SessionTraces::default(),
            }),
        }
    }
}

/// Logs an end that the ledger has taken.
fn report(task: &TaskRef, ended: &TaskEnd, finished: FinishOutcome, ledger: Option<&Path>) {
    let id = &task.id;
    let (status, reason) = (ended.ending.status(), ended.ending.reason());
    let invalidated = match finished {
        FinishOutcome::NoRow => return,
        FinishOutcome::AlreadyTerminal(status) => {
            warn!(
                "another process ended task {id} as {status}; its own end, {}, is not recorded",
                ended.ending.status()
            );
            return;
        }
        FinishOutcome::Done { invalidated } => invalidated,
    };
    let because = reason.map(|r| format!(" ({r})")).unwrap_or_default();
    info!(
        MESSAGE_ID = log::id::of(status),
        STATUS = status.as_str(),
        REASON = reason,
        SESSION_ID = ended.session_id.as_ref().map(SessionId::as_str),
        DURATION_MS = ended.duration_ms,
        COST_USD = ended.counts.cost_usd,
        STOP_SENDER_PID = ended.stop_sender.map(|s| s.pid),
        "task {id} ended as {status}{because}"
    );
    if let Some(session) = invalidated {
        warn!(
            MESSAGE_ID = log::id::SESSION_INVALIDATED,
            STATUS = status.as_str(),
            SESSION_ID = session.as_str(),
            "{}; {}",
            how(&ended.ending),
            what_next(&session, task.key.as_ref(), ledger)
        );
    }
}

/// In words, how a run ended.
fn how(ending: &Ending) -> String {
    match ending {
        Ending::Success => "the run succeeded".to_owned(),
        Ending::Cancelled(CancelReason::Timeout) => "the run timed out".to_owned(),
        Ending::Cancelled(CancelReason::IdleTimeout) => "the run timed out without output".to_owned(),
        Ending::Cancelled(CancelReason::Operator) => "the run was cancelled".to_owned(),
        Ending::Interrupted(_) => "the run was interrupted".to_owned(),
        Ending::Backgrounded => "the agent continues in the background".to_owned(),
        Ending::Failure(_) | Ending::AbortedNoSkill(_) => match ending.reason() {
            Some(reason) => format!("the run failed ({reason})"),
            None => "the run failed".to_owned(),
        },
    }
}

/// What follows from the invalidation of a session.
fn what_next(session: &SessionId, key: Option<&Key>, ledger: Option<&Path>) -> String {
    let Some(key) = key else { return format!("bookend refuses to resume its session {session}") };
    let restore = format!("session restore {}", view::operand(key.as_str()));
    format!(
        "the next run under key {key} starts a fresh conversation (undo: `{}`)",
        view::suggestion(ledger, &restore)
    )
}

/// The sender and the number of the signal that stopped a run, for its row.
fn stopped_by(stop: StopRequest) -> (Option<Signal>, Option<SignalSender>) {
    match stop {
        StopRequest::Signal { signal, sender } => (Some(signal), Some(sender)),
        StopRequest::Cancel { sender } => (Some(Signal::TERM), Some(sender)),
        StopRequest::Timeout | StopRequest::IdleTimeout => (None, None),
    }
}

fn elapsed_ms(since: Instant) -> i64 {
    i64::try_from(since.elapsed().as_millis()).unwrap_or(i64::MAX)
}

/// Writes an end that the ledger refused to the spool. Where that fails too, the record is written to stderr
/// and the journal: it is lost otherwise. Returns whether the spool has it.
fn spool(
    slot: &mut SpoolSlot,
    (id, key): (&TaskId, Option<&Key>),
    ended: &TaskEnd,
    refused: &Error,
    ledger: &Ledger,
) -> bool {
    let status = ended.ending.status();
    let written = slot.write(ended, "run");
    let is_written = written.is_ok();
    match written {
        Ok(file) => warn!(
            MESSAGE_ID = log::id::SPOOLED,
            STATUS = status.as_str(),
            SPOOL_FILE = %file.display(),
            hint = refused.advice(),
            "the ledger did not take the end of task {id}: {}; it waits in {} and the next command \
             that opens the ledger merges it",
            chain(refused),
            file.display()
        ),
        Err(e) => {
            let (line, file) = slot.line(ended, "run");
            let recover = view::suggestion(ledger.option(), "recover");
            error!(
                "the end of task {id} ({status}) is not recorded: {}; {}; the next line is its \
                 record: save it as {} and run `{recover}`",
                refused.in_line(),
                Error::from(e).in_line(),
                file.display()
            );
            log::record(id, key, ledger.path(), &line);
        }
    }
    is_written
}

/// Ends a task whose claim failed to commit: a row whose sync failed may still be durable. If the ledger
/// cannot be written, the end goes to the spool.
pub(crate) fn end_unstarted(ledger: &mut Ledger, id: &TaskId, mut slot: SpoolSlot, ended: &TaskEnd) {
    let recorded = ledger.finish(id, ended, "run").map(drop).or_else(|refused| {
        debug!("{}", chain(&refused));
        slot.write(ended, "run").map(drop)
    });
    match recorded {
        Ok(()) => release(Some(slot.free())),
        Err(e) => debug!("{}", chain(&e)),
    }
}

/// Gives back a slot.
pub(crate) fn release(slot: Option<HeldSlot>) {
    if let Some(Err(e)) = slot.map(HeldSlot::release) {
        debug!("{}", chain(&e));
    }
}

/// The end of a task whose agent never had a process.
pub(crate) fn never_ran(reason: FailureReason, error: &str, started: Instant) -> TaskEnd {
    TaskEnd {
        ending: Ending::Failure(reason),
        error: Some(error.to_owned()),
        source: EndSource::Wait,
        finished_at: Some(Time::now()),
        duration_ms: Some(elapsed_ms(started)),
        ..TaskEnd::unknown(Ending::Failure(reason))
    }
}
