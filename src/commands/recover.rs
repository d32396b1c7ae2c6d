//! `bookend recover`: what died without a word is found, settled and told. Safe at any time, by any number at
//! once; its cost grows with what runs, not with history.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use tracing::level_filters::LevelFilter;
use tracing::{debug, warn};

use crate::commands::deliver::{self, Delivered};
use crate::commands::find;
use crate::error::Error;
use crate::exit::Exit;
use crate::exit::exit_code;
use crate::failpoint;
use crate::git::{Git, Survey, Uncommitted};
use crate::helper::Idle;
use crate::hook::{self, Hook, HookEnd};
use crate::ledger::{
    self, DeliveryStatus, FollowUp, FollowUpLock, Ledger, LiveEvidence, MergedRecord, TaskFilter, TaskLookup,
    UnsafeSession,
};
use crate::process::leftovers::{self, SweepStep};
use crate::process::spawn::caller::{self, Caller};
use crate::process::spawn::environment;
use crate::process::spawn::environment::OPTION_VARIABLES;
use crate::process::watch::Watch;
use crate::recovery::batch::{self, RecoveryBatch, RecoveryOutcome};
use crate::recovery::{self, AgentState, LostTask, SettleOutcome};
use crate::run::options::{self, Lacks};
use crate::sys;
use crate::task::{Key, Signal, Status, Task, TaskId, Time, Verdict};
use crate::view::{self, Hint, PREFIX, Screen};

/// How often a delivery that was cut off is tried again before it counts as failed: a hook may be what
/// brings the machine down.
const ATTEMPTS: i64 = 3;

/// What `bookend recover` was asked for.
#[derive(Debug)]
pub struct Request {
    /// Only these tasks, by id or the beginning of one; all where it is empty.
    pub ids: Vec<String>,
    pub ttl: Duration,
    pub grace: Duration,
    pub on_interrupted: Option<OsString>,
    /// Instead of what each task was given.
    pub hook_timeout: Option<Duration>,
    /// Runs no hook and reports nothing: that is left to another recovery.
    pub settle_only: bool,
    pub dry_run: bool,
    pub json: bool,
    pub level: LevelFilter,
}

/// What was done, or would be; as JSON the answer of `recover --json`.
#[derive(Debug, Default, Serialize)]
struct Report {
    ledger: PathBuf,
    dry_run: bool,
    /// Nothing is left that another recovery would have to look at again.
    settled: bool,
    /// How many tasks run, supervisor and all.
    alive: usize,
    spool: Vec<Spooled>,
    interrupted: Vec<InterruptedTask>,
    unverifiable: Vec<Open>,
    stuck: Vec<Open>,
    sessions: Vec<UnsafeSession>,
    deliveries: Vec<DeliveredHook>,
    hints: Vec<Hint>,
    problems: Vec<String>,
}

impl Report {
    fn conclude(&mut self) {
        self.settled = self.unverifiable.is_empty()
            && self.stuck.is_empty()
            && self.problems.is_empty()
            && self.spool.iter().all(|s| s.merged);
    }
}

/// A record that waited in the spool.
#[derive(Debug, Serialize)]
struct Spooled {
    task: Option<TaskId>,
    merged: bool,
    text: String,
}

/// A task that was found dead.
#[derive(Debug, Serialize)]
struct InterruptedTask {
    id: TaskId,
    key: Option<Key>,
    reason: &'static str,
}

/// A task whose row stays `running` although nobody is seen to supervise it.
#[derive(Debug, Serialize)]
struct Open {
    id: TaskId,
    key: Option<Key>,
    why: String,
}

/// An `--on-finish` command that was run, or would be.
#[derive(Debug, Serialize)]
struct DeliveredHook {
    id: TaskId,
    status: &'static str,
}

/// Settles what died, and tells of it on stdout.
///
/// # Errors
/// When the ledger or /proc cannot be read, or the ledger cannot be written. What was done by then stands.
pub fn recover(request: &Request, ledger: Option<&Path>, caller: &Caller) -> Result<Exit, Error> {
    // A signal may end this at any point: the next recovery goes on from there. Only the ends of our hooks
    // are waited for, and a reader who goes away is no reason to stop.
    sys::set_mask(caller.mask.with(Signal::CHLD).with(Signal::PIPE));
    let at = ledger::locate(ledger)?;
    let closed = (!caller::was_open(1)).then(|| std::io::Error::from_raw_os_error(libc::EBADF));
    let mut telling = Telling { json: request.json, screen: Screen::of(&std::io::stdout()), failed: closed };
    let mut report = Report { ledger: at.file.clone(), dry_run: request.dry_run, ..Report::default() };
    let is_there = at.file.exists();
    if request.dry_run {
        if let Some(mut ledger) = Ledger::open_read_only(&at)? {
            let wanted = Wanted::resolve(&ledger, &request.ids)?;
            preview(&ledger, &wanted, request, &mut report)?;
            preview_hints(&mut ledger, &wanted, caller, &mut report)?;
        }
    } else if is_there {
        let (ledger, merged) = Ledger::open(&at)?;
        ledger.expect_many()?;
        let mut recovery = Recovery {
            watch: watch()?,
            survey: survey(caller),
            wanted: Wanted::resolve(&ledger, &request.ids)?,
            ledger,
            request,
            caller,
            telling: &mut telling,
            report: &mut report,
            printed: Vec::new(),
            reporting: None,
            stopped: None,
        };
        recovery.report_spool(&merged);
        recovery.settle()?;
        recovery.release_agents()?;
        if recovery.wanted.are_all() {
            recovery.sweep_spool();
            recovery.withdraw_sessions()?;
        }
        if !request.settle_only {
            recovery.deliver()?;
            if recovery.stopped.is_none() {
                recovery.hint()?;
            }
        }
        recovery.report.conclude();
        recovery.telling.end(recovery.report);
        recovery.record_reports()?;
        if let Some(signal) = recovery.stopped {
            return Ok(Exit::Signal(signal));
        }
    } else {
        for path in ledger::records_in_spool(&at)? {
            let path = view::one_line(&path.to_string_lossy()).into_owned();
            let text =
                format!("{path} waits for its ledger, which is missing: restore it, then recover again");
            telling.line(&text);
            report.spool.push(Spooled { task: None, merged: false, text });
        }
    }
    report.conclude();
    // A recovery that was done has said it before it recorded its reports.
    if request.dry_run || !is_there {
        telling.end(&report);
    }
    let pending = report.dry_run && !(report.interrupted.is_empty() && report.sessions.is_empty());
    Ok(Exit::Code(if report.settled && !pending { 0 } else { exit_code::UNSETTLED }))
}

/// Which tasks a recovery is about: their whole ids; all where there are none.
struct Wanted(Vec<TaskId>);

impl Wanted {
    fn resolve(ledger: &Ledger, ids: &[String]) -> Result<Wanted, Error> {
        ids.iter().map(|id| Ok(find::find_in(ledger, id)?.id)).collect::<Result<_, _>>().map(Wanted)
    }

    fn are_all(&self) -> bool {
        self.0.is_empty()
    }

    fn has(&self, id: &TaskId) -> bool {
        self.are_all() || self.0.iter().any(|wanted| wanted == id)
    }

    fn only(&self, tasks: Vec<Task>) -> Vec<Task> {
        tasks.into_iter().filter(|task| self.has(&task.id)).collect()
    }
}

fn watch() -> Result<Watch, Error> {
    Watch::new().map_err(|e| Error::failed("watching hooks").caused_by(e))
}

fn survey(caller: &Caller) -> Survey<'_> {
    Survey::new(Git::new(environment::inherited(&OPTION_VARIABLES, &[]), caller))
}

/// One recovery at work.
struct Recovery<'a> {
    ledger: Ledger,
    wanted: Wanted,
    watch: Watch,
    survey: Survey<'a>,
    request: &'a Request,
    caller: &'a Caller,
    telling: &'a mut Telling,
    report: &'a mut Report,
    /// The tasks whose reports were printed, not yet recorded as such.
    printed: Vec<TaskId>,
    /// Keeps other recoveries from reporting them too.
    reporting: Option<FollowUpLock>,
    /// The stop signal that came while a hook ran.
    stopped: Option<Signal>,
}

impl Recovery<'_> {
    fn report_spool(&mut self, merged: &[MergedRecord]) {
        for record in merged {
            let text = record.to_string();
            self.telling.line(&text);
            self.report.spool.push(Spooled { task: record.task.clone(), merged: record.is_applied(), text });
        }
    }

    /// Settles every lost task, and ends what tasks left running whose supervisors died, or failed, after the
    /// end was written and before their leftovers were ended.
    fn settle(&mut self) -> Result<(), Error> {
        let mut batch = RecoveryBatch::new(&self.ledger, self.request.grace);
        let now = Instant::now();
        for task in running(&self.ledger, &self.wanted)? {
            batch.add(task, now);
        }
        for id in batch.named_tasks()? {
            if let TaskLookup::One(task) = self.ledger.task(id.as_str())?
                && task.id == id
                && self.wanted.has(&id)
                && recovery::leaves_no_process(&task)
            {
                batch.add(*task, now);
            }
        }
        failpoint::reached("recover.judged");
        let doubtful = self.drive(&mut batch)?;
        if doubtful.is_empty() {
            return Ok(());
        }
        // A supervisor that exits has let go of its lock and still lives; if it could not write its end, that
        // is in the spool by now.
        let merged = self.ledger.merge_spool()?;
        self.report_spool(&merged);
        for task in running(&self.ledger, &self.wanted)?.into_iter().filter(|t| doubtful.contains(&t.id)) {
            batch.add(task, Instant::now());
        }
        let doubtful = self.drive(&mut batch)?;
        self.expire(doubtful, &batch)
    }

    /// Steps the batch until nothing more is to be done; gives the tasks that cannot be judged.
    fn drive(&mut self, batch: &mut RecoveryBatch) -> Result<Vec<TaskId>, Error> {
        let mut doubtful = Vec::new();
        loop {
            let (outcomes, step) = batch.step(&self.ledger, Instant::now())?;
            let mut lost = Vec::new();
            for outcome in outcomes {
                match outcome {
                    RecoveryOutcome::Alive(task) if task.status.is_terminal() => {}
                    RecoveryOutcome::Alive(_) => self.report.alive += 1,
                    RecoveryOutcome::Unverifiable(task) => doubtful.push(task.id),
                    RecoveryOutcome::Lost(task) | RecoveryOutcome::Stuck(task, _) if task.has_ended() => {
                        self.note_orphans(&task)?;
                    }
                    RecoveryOutcome::Lost(task) => lost.push(task),
                    RecoveryOutcome::Stuck(task, why) => self.leave_open(&task, why)?,
                }
            }
            self.mark(lost)?;
            match step {
                SweepStep::Done => return Ok(doubtful),
                SweepStep::Wait(until) => leftovers::wait(batch.fds(), until).map_err(Error::from)?,
            }
        }
    }

    /// Marks lost tasks; their keys are free then.
    fn mark(&mut self, lost: Vec<LostTask>) -> Result<(), Error> {
        if lost.is_empty() {
            return Ok(());
        }
        failpoint::reached("recover.ended");
        for (task, outcome) in batch::settle(&mut self.ledger, lost, "recover")? {
            match outcome {
                SettleOutcome::Interrupted { reason, .. } => {
                    self.report.interrupted.push(ended(task.task(), reason))
                }
                SettleOutcome::Seen(status) => {
                    let id = task.id();
                    let text = format!("recorded the end of task {id} ({status}) from the spool");
                    self.telling.line(&text);
                    self.report.spool.push(Spooled { task: Some(id.clone()), merged: true, text });
                }
                SettleOutcome::Unread(error) => self.leave_open(&task, Error::from(error).in_line())?,
                SettleOutcome::Untouched => {}
            }
        }
        Ok(())
    }

    /// Of the running tasks that cannot be judged, ends those that are too old to wait for, and reports the
    /// others.
    fn expire(&mut self, ids: Vec<TaskId>, batch: &RecoveryBatch) -> Result<(), Error> {
        let tasks = running(&self.ledger, &self.wanted)?.into_iter().filter(|t| ids.contains(&t.id));
        let (expired, kept): (Vec<Task>, Vec<Task>) =
            tasks.partition(|task| recovery::has_expired(task, self.request.ttl));
        for task in kept {
            let why = doubtful(&self.ledger, &task);
            self.telling.line(&format!("task {} {why}", task.id));
            self.report.unverifiable.push(Open { id: task.id, key: task.key, why });
        }
        self.mark(expired.into_iter().map(|task| LostTask::expired(task, batch.here())).collect())
    }

    /// Records what became of the processes of a task that had ended.
    fn note_orphans(&mut self, task: &LostTask) -> Result<(), Error> {
        let Some(leftovers) = task.leftovers().filter(|l| l.found > 0) else { return Ok(()) };
        let id = task.id();
        self.telling
            .line(&format!("task {id} had ended; of what it left running, {} ended", leftovers.ended));
        if let Ok(text) = serde_json::to_string(leftovers) {
            self.ledger.leftovers(id, &text)?;
        }
        if !task.survivors().is_empty() {
            let problem = format!("processes of task {id} could not be ended: {:?}", task.survivors());
            self.telling.line(&problem);
            self.report.problems.push(problem);
        }
        Ok(())
    }

    /// Of the tasks that were named: an agent that may still run and cannot be verified no longer keeps its
    /// key once it is older than `--ttl`.
    fn release_agents(&mut self) -> Result<(), Error> {
        for id in &self.wanted.0 {
            let TaskLookup::One(task) = self.ledger.task(id.as_str())? else { continue };
            if !task.status.is_terminal() {
                continue;
            }
            match recovery::agent_state(&task) {
                AgentState::Unverified if recovery::has_expired(&task, self.request.ttl) => {
                    if self.ledger.release_agent(id, Time::now())? {
                        self.telling.line(&format!("task {id}: its agent no longer keeps the key busy"));
                    }
                }
                AgentState::Runs | AgentState::OutOfReach => {
                    let pid = task.agent_pid.unwrap_or_default();
                    let problem = format!("the agent of task {id} still runs; end it: kill {pid}");
                    self.telling.line(&problem);
                    self.report.problems.push(problem);
                }
                AgentState::Unverified | AgentState::Ended => {}
            }
        }
        Ok(())
    }

    fn sweep_spool(&mut self) {
        if let Err(e) = self.ledger.sweep_spool() {
            let problem = Error::from(e).in_line();
            self.telling.line(&problem);
            self.report.problems.push(problem);
        }
    }

    fn leave_open(&mut self, lost: &LostTask, why: String) -> Result<(), Error> {
        self.ledger.note_error(lost.id(), &why)?;
        self.telling.line(&format!("task {} stays running: {why}", lost.id()));
        let key = lost.task().key.clone();
        self.report.stuck.push(Open { id: lost.id().clone(), key, why });
        Ok(())
    }

    fn withdraw_sessions(&mut self) -> Result<(), Error> {
        self.report.sessions = self.ledger.invalidate_unsafe_sessions(Time::now())?;
        for s in &self.report.sessions {
            let text =
                format!("session {} of the key {} is not to be resumed: {}", s.session_id, s.key, s.why);
            self.telling.line(&text);
        }
        Ok(())
    }

    /// Runs the `--on-finish` commands that were not seen to end, those of tasks just ended among them, and
    /// of tasks that end meanwhile.
    fn deliver(&mut self) -> Result<(), Error> {
        let mut tried = BTreeSet::new();
        loop {
            let mut due = self.wanted.only(self.ledger.undelivered()?);
            due.retain(|task| tried.insert(task.id.clone()));
            if due.is_empty() {
                return Ok(());
            }
            for task in due {
                self.deliver_one(&task)?;
                if self.stopped.is_some() {
                    return Ok(());
                }
            }
        }
    }

    fn deliver_one(&mut self, task: &Task) -> Result<(), Error> {
        let id = &task.id;
        let evidence = recovery::evidence(&self.ledger, task)?;
        let was_cut_off = task.delivery_status.as_deref() == Some(DeliveryStatus::Delivering.as_str());
        let (delivered, stopped) =
            if evidence != LiveEvidence::Held && was_cut_off && task.delivery_attempts >= ATTEMPTS {
                self.give_up(task)?
            } else {
                let Request { ttl, hook_timeout, .. } = *self.request;
                let (ledger, watch) = (&mut self.ledger, &mut self.watch);
                deliver::deliver_one(ledger, watch, task, ttl, hook_timeout, self.caller)?
            };
        self.stopped = stopped;
        match delivered {
            Delivered::ByAnother => {}
            Delivered::Unverifiable(why) => {
                self.telling.line(&format!("the --on-finish command of task {id}: {why}"));
                self.report.unverifiable.push(Open { id: id.clone(), key: task.key.clone(), why });
            }
            Delivered::Refused(why) => {
                self.ledger.delivery(id, DeliveryStatus::Failed, Time::now())?;
                self.problem(format!("the --on-finish command of task {id} is not run: {why}"));
            }
            Delivered::As(state) => {
                self.telling.line(&format!("the --on-finish command of task {id}: {}", state.as_str()));
                self.report.deliveries.push(DeliveredHook { id: id.clone(), status: state.as_str() });
            }
        }
        Ok(())
    }

    /// A hook that was cut off again and again is not run once more, unless another process is at it.
    fn give_up(&mut self, task: &Task) -> Result<(Delivered, Option<Signal>), Error> {
        let (_lock, taken) = self.ledger.lock_follow_ups(FollowUp::Delivery, &[&task.id])?;
        // Another process may have delivered it since the row was read.
        let is_unchanged = |now: &Task| {
            (&now.delivery_status, now.delivery_attempts) == (&task.delivery_status, task.delivery_attempts)
        };
        match self.ledger.task(task.id.as_str())? {
            TaskLookup::One(now) if taken == [true] && is_unchanged(&now) => {}
            _ => return Ok((Delivered::ByAnother, None)),
        }
        self.ledger.delivery(&task.id, DeliveryStatus::Failed, Time::now())?;
        Ok((Delivered::As(DeliveryStatus::Failed), None))
    }

    /// Reports each interrupted task that was not reported yet, also one that ended itself on a clean
    /// restart. What was printed only is recorded as reported by [`Recovery::record_reports`].
    fn hint(&mut self) -> Result<(), Error> {
        let mut due = self.unhinted()?;
        let ids: Vec<&TaskId> = due.iter().map(|task| &task.id).collect();
        let (lock, taken) = self.ledger.lock_follow_ups(FollowUp::Report, &ids)?;
        let ours: BTreeSet<TaskId> =
            due.iter().zip(taken).filter(|(_, taken)| *taken).map(|(t, _)| t.id.clone()).collect();
        // What another process has reported before it let go of its lock.
        due = self.unhinted()?;
        due.retain(|task| ours.contains(&task.id));
        for task in due {
            let mut idle = Idle::new(&mut self.ledger, &mut self.watch);
            let uncommitted = uncommitted(&task, &mut self.survey, &mut idle)?;
            self.stopped = idle.stopped;
            drop(idle);
            let hint = post_mortem(&self.ledger, task, uncommitted)?;
            self.telling.hint(&hint);
            failpoint::reached("recover.hinting");
            match &self.request.on_interrupted {
                // The stop came while git was asked: the next recovery hands it on.
                Some(_) if self.stopped.is_some() => {}
                Some(command) => self.hand_on(command, &hint.task)?,
                None => self.printed.push(hint.task.id.clone()),
            }
            self.report.hints.push(hint);
            if self.stopped.is_some() {
                break;
            }
        }
        self.reporting = Some(lock);
        Ok(())
    }

    /// A task whose supervisor still lives is reported by a later recovery.
    fn unhinted(&self) -> Result<Vec<Task>, Error> {
        let mut due = Vec::new();
        for task in self.wanted.only(self.ledger.unhinted()?) {
            if recovery::evidence(&self.ledger, &task)? != LiveEvidence::Held {
                due.push(task);
            }
        }
        Ok(due)
    }

    /// Hands one report to the `--on-interrupted` command: three times at most, whether that fails or does
    /// not come back.
    fn hand_on(&mut self, command: &OsStr, task: &Task) -> Result<(), Error> {
        let id = &task.id;
        let Some(attempt) = self.ledger.begin_hint(id)? else { return Ok(()) };
        failpoint::reached("recover.handing");
        let done = if attempt > ATTEMPTS {
            HookEnd::Failed(format!("was cut off {ATTEMPTS} times"))
        } else {
            let cwd = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
            let limit = hook::limit(self.request.hook_timeout);
            let hook = Hook { command, cwd: &cwd, attempt: None, limit };
            let mut idle = Idle::new(&mut self.ledger, &mut self.watch);
            let done = hook::run(&hook, task, self.caller, &mut idle)?;
            self.stopped = idle.stopped;
            done
        };
        failpoint::reached("recover.handed");
        let how = match done {
            HookEnd::Done => return Ok(self.ledger.hinted(std::slice::from_ref(id), Time::now())?),
            HookEnd::Interrupted(signal) => {
                self.ledger.take_back_hint(id)?;
                format!("was interrupted by {signal}")
            }
            HookEnd::Failed(how) => how,
        };
        let next = match attempt >= ATTEMPTS && self.stopped.is_none() {
            true => "it is not run again",
            false => "the next recovery tries again",
        };
        if attempt >= ATTEMPTS && self.stopped.is_none() {
            self.ledger.hinted(std::slice::from_ref(id), Time::now())?;
        }
        self.problem(format!("the --on-interrupted command {how} for task {id}; {next}"));
        Ok(())
    }

    /// Records what was printed as reported, in one commit. What could not be printed was not: a crash
    /// before this repeats a report and loses none.
    fn record_reports(&mut self) -> Result<(), Error> {
        failpoint::reached("recover.reported");
        match self.telling.failed.take() {
            None => self.ledger.hinted(&self.printed, Time::now())?,
            Some(e) if self.printed.is_empty() => {
                debug!("standard output does not take the report: {e}");
            }
            Some(e) => {
                let tasks = match self.printed.len() {
                    1 => "1 interrupted task".to_owned(),
                    n => format!("{n} interrupted tasks"),
                };
                let problem = format!(
                    "the report of {tasks} could not be printed: {e}; the next recovery prints it again"
                );
                warn!("{problem}");
                self.report.problems.push(problem);
            }
        }
        Ok(())
    }

    fn problem(&mut self, text: String) {
        self.telling.line(&text);
        self.report.problems.push(text);
    }
}

fn running(ledger: &Ledger, wanted: &Wanted) -> Result<Vec<Task>, Error> {
    Ok(wanted.only(ledger.tasks(&TaskFilter { status: Some(Status::Running), ..TaskFilter::default() })?))
}

/// Says what a recovery would do, and does nothing.
fn preview(ledger: &Ledger, wanted: &Wanted, request: &Request, report: &mut Report) -> Result<(), Error> {
    for path in ledger.spooled()? {
        let text = format!("a record waits in the spool: {}", path.display());
        report.spool.push(Spooled { task: None, merged: false, text });
    }
    let here = RecoveryBatch::new(ledger, request.grace).here();
    for task in running(ledger, wanted)? {
        let lost = match recovery::judge(recovery::evidence(ledger, &task)?, &task) {
            Verdict::Alive => {
                report.alive += 1;
                continue;
            }
            Verdict::Gone | Verdict::Recycled => LostTask::found(task, here.clone()),
            Verdict::Unverifiable if recovery::has_expired(&task, request.ttl) => {
                LostTask::expired(task, here.clone())
            }
            Verdict::Unverifiable => {
                let why = doubtful(ledger, &task);
                report.unverifiable.push(Open { id: task.id, key: task.key, why });
                continue;
            }
        };
        report.interrupted.push(ended(lost.task(), lost.reason()));
    }
    if wanted.are_all() {
        report.sessions = ledger.unsafe_sessions()?;
    }
    for task in wanted.only(ledger.undelivered()?) {
        if ledger.evidence(&task)? != LiveEvidence::Held {
            report.deliveries.push(DeliveredHook { id: task.id, status: DeliveryStatus::Pending.as_str() });
        }
    }
    Ok(())
}

fn preview_hints(
    ledger: &mut Ledger,
    wanted: &Wanted,
    caller: &Caller,
    report: &mut Report,
) -> Result<(), Error> {
    let (mut watch, mut survey) = (watch()?, survey(caller));
    for task in wanted.only(ledger.unhinted()?) {
        let mut idle = Idle::new(ledger, &mut watch);
        let uncommitted = uncommitted(&task, &mut survey, &mut idle)?;
        drop(idle);
        report.hints.push(post_mortem(ledger, task, uncommitted)?);
    }
    Ok(())
}

/// Why a task stays `running` that cannot be judged, and how the operator ends the doubt.
fn doubtful(ledger: &Ledger, task: &Task) -> String {
    let command = recovery::release_command(ledger, task);
    format!("cannot be judged from here: kept until it is older than --ttl; if it has ended: {command}")
}

fn uncommitted(task: &Task, survey: &mut Survey<'_>, idle: &mut Idle<'_>) -> Result<Uncommitted, Error> {
    // Git is not run where others may have chosen the directory.
    if idle.ledger.distrust().is_some() {
        return Ok(Uncommitted::NoWorktree);
    }
    match &task.cwd {
        Some(cwd) => survey.uncommitted(Path::new(cwd), idle),
        None => Ok(Uncommitted::NoWorktree),
    }
}

fn ended(task: &Task, reason: crate::task::InterruptReason) -> InterruptedTask {
    InterruptedTask { id: task.id.clone(), key: task.key.clone(), reason: reason.as_str() }
}

fn post_mortem(ledger: &Ledger, task: Task, uncommitted: Uncommitted) -> Result<Hint, Error> {
    let invalidated_session = ledger
        .invalidations_of_task(&task.id)?
        .into_iter()
        .rfind(|i| i.restored_at.is_none() && Some(&i.session_id) == task.session_id.as_ref())
        .map(|i| i.session_id);
    let lacks = options::lacks(&task);
    let is_shared = ledger.distrust().is_some();
    let command = |what: String| Some(view::suggestion(ledger.option(), &what));
    let id = view::operand(task.id.as_str());
    let (redispatch, redispatch_needs) = match lacks {
        _ if is_shared => (None, Some("others may write to the ledger")),
        None => (command(format!("redispatch {id}")), None),
        Some(Lacks::Stdin) => {
            (command(format!("redispatch --stdin {id} <PROMPT")), Some("what came on its stdin is gone"))
        }
        Some(Lacks::Command) => (None, Some("the row does not hold its command line")),
        Some(Lacks::Rest) => (None, Some("the row holds only the beginning of its command line")),
        Some(Lacks::Bytes) => (None, Some("its command line is not UTF-8")),
    };
    let (in_worktree, uncommitted) = match uncommitted {
        Uncommitted::NoWorktree => (false, None),
        Uncommitted::Unknown => (true, None),
        Uncommitted::Files(count) => (true, Some(count)),
    };
    Ok(Hint { task, invalidated_session, in_worktree, uncommitted, redispatch, redispatch_needs })
}

/// How the work is reported on stdout: each thing as it is done, or all in one object at the end.
struct Telling {
    json: bool,
    screen: Screen,
    /// Why stdout does not take what is written.
    failed: Option<std::io::Error>,
}

impl Telling {
    fn line(&mut self, text: &str) {
        self.say(&format!("{PREFIX} {}\n", view::one_line(text)));
    }

    fn hint(&mut self, hint: &Hint) {
        if std::io::stdout().is_terminal() {
            self.say(&hint.block(self.screen));
        } else {
            self.say(&format!("{PREFIX} {}\n", hint.line()));
        }
    }

    fn end(&mut self, report: &Report) {
        if self.json {
            self.write(&view::pretty(report));
            return;
        }
        if report.dry_run {
            self.tell_preview(report);
        }
        self.say(&summary(report));
    }

    fn tell_preview(&mut self, report: &Report) {
        for s in &report.spool {
            self.line(&s.text);
        }
        for e in &report.interrupted {
            self.line(&format!("task {} would be interrupted ({})", e.id, e.reason));
        }
        for o in &report.unverifiable {
            self.line(&format!("task {} {}", o.id, o.why));
        }
        for s in &report.sessions {
            self.line(&format!(
                "session {} of the key {} would be withdrawn: {}",
                s.session_id, s.key, s.why
            ));
        }
        for d in &report.deliveries {
            self.line(&format!("the --on-finish command of task {} would be run", d.id));
        }
        for hint in &report.hints {
            self.hint(hint);
        }
    }

    fn say(&mut self, text: &str) {
        if !self.json {
            self.write(text);
        }
    }

    /// A reader that has gone does not stop a recovery.
    fn write(&mut self, text: &str) {
        let mut stdout = std::io::stdout().lock();
        if let Err(e) = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            self.failed.get_or_insert(e);
        }
    }
}

/// `[recovery] 2 interrupted, 1 running, … in /…/bookend.db`
fn summary(report: &Report) -> String {
    let would = if report.dry_run { "nothing was done; " } else { "" };
    let failed = report.deliveries.iter().filter(|d| d.status == DeliveryStatus::Failed.as_str()).count();
    let delivered = report.deliveries.len() - failed;
    let counts = [
        (report.interrupted.len(), "interrupted"),
        (report.alive, "running"),
        (report.unverifiable.len(), "unverifiable"),
        (report.stuck.len(), "stuck"),
        (report.spool.len(), "from the spool"),
        (report.sessions.len(), "of unsafe sessions"),
        (delivered, "delivered"),
        (report.hints.len(), "reported"),
        (report.problems.len() + failed, "failed"),
    ];
    let told: Vec<String> =
        counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    let told = if told.is_empty() { "nothing to settle".to_owned() } else { told.join(", ") };
    format!("{PREFIX} {would}{told} in {}\n", view::one_line(&report.ledger.to_string_lossy()))
}
