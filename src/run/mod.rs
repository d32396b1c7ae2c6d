//! A run, from the command line to bookend's exit, in twelve steps.

mod budget;
mod claim;
mod command;
mod fleet;
pub mod options;
mod outcome;
mod prepare;
pub mod session;
mod start;
mod supervisor;

use std::ffi::CString;
use std::path::Path;
use std::time::Instant;

use crate::error::Error;
use crate::exit::Exit;
use crate::failpoint;
use crate::git::{Baseline, Git};
use crate::ledger::{self, Ledger, Location};
use crate::log;
use crate::process::leftovers::LeftoverSweep;
use crate::process::spawn::caller::Caller;
use crate::process::watch::Watch;
use crate::task::{Ending, NewTask, TaskId};
use claim::{Attempt, KeyClaim};
use command::{AgentCommand, RunContext};
use fleet::FleetKey;
use options::RunOptions;
use session::Choice;
use start::{Family, ForkedAgent, GatedTask, TaskIds};
use supervisor::Supervisor;

/// Runs the agent between the two writes of its row.
///
/// # Errors
/// When no row could be written: nothing was executed. Once there is a row, it is ended whatever happens.
pub fn run(options: &RunOptions, ledger: Option<&Path>, caller: Caller) -> Result<Exit, Error> {
    let command = AgentCommand::resolve(options)?;
    let location = ledger::locate(ledger)?;
    let (ledger, merged) = Ledger::open_for_run(&location)?;
    ledger::report_merged(&merged);
    supervise(options, &command, &location, ledger, caller)
}

/// As [`run`], in a ledger that is open.
///
/// # Errors
/// As [`run`].
pub fn run_in(options: &RunOptions, at: &Location, ledger: Ledger, caller: Caller) -> Result<Exit, Error> {
    supervise(options, &AgentCommand::resolve(options)?, at, ledger, caller)
}

/// The twelve steps. The first, resolving the command line, has been taken.
fn supervise(
    options: &RunOptions,
    command: &AgentCommand,
    location: &Location,
    mut ledger: Ledger,
    mut caller: Caller,
) -> Result<Exit, Error> {
    // 2. Read signals, all of which have been blocked since the first line of main; adopt orphans.
    let mut watch = watch_signals_and_orphans()?;

    // 3. Ask the fleet for the key if the ledger is in one. Then claim the key and choose the session, in one
    // transaction. A conflict is resolved outside of it.
    let live = ledger.hold_live()?;
    let context = RunContext { options, command, location, live: &live };
    let mut fleet_key = FleetKey::new(&context, &ledger);
    let mut key_claim = KeyClaim::new(&context);
    let (claim, choice) = loop {
        if let Some(signal) = fleet_key.take(&mut ledger, &mut watch)? {
            return Ok(Exit::Signal(signal));
        }
        let claim = ledger.claim()?;
        if !fleet_key.is_held(&claim)? {
            continue;
        }
        let (conflict, holder) = match key_claim.attempt(&claim, fleet_key.stale_session())? {
            Attempt::Claimed(choice) => break (claim, choice),
            Attempt::Held(conflict, holder) => (conflict, holder),
        };
        drop(claim);
        if let Some(signal) = key_claim.resolve(&mut ledger, &mut watch, &conflict, *holder)? {
            return Ok(Exit::Signal(signal));
        }
        failpoint::reached("run.cleared");
    };
    let ids =
        TaskIds::choose(&claim, fleet_key.task().or(options.id.as_ref()), options, key_claim.replaced())?;
    failpoint::reached("run.chosen");
    log::about(&ids.id, command.key.as_ref(), &location.file);

    // 4. Fork the agent. It waits at the gate: it has a pid, and executes nothing.
    let forked = ForkedAgent::fork(&ids, &context, &choice, &caller)?;

    // 5. Commit the running row. From here on the supervisor owns it: dropped, it ends the row.
    let row = forked.running_row(ids, &context, &choice)?;
    let gated = forked.commit(claim, &row, &context, &choice);
    let GatedTask { start, env, family } = gated.map_err(|failed| failed.record_end(&mut ledger, &row.id))?;
    // From here on the row holds the key for the fleet.
    drop(fleet_key);
    key_claim.report(&ledger);
    let mut run = Supervisor::new(watch, &mut ledger, start);
    start::announce(&row.id, command, &choice);
    start::release_descriptors(&mut caller);
    let exit = attend(&mut run, &context, (&row, &choice), (&env, family), &caller)?;
    run.release(live);
    // The kernel closes it as well, and need not give back its memory piece by piece.
    std::mem::forget(ledger);
    Ok(exit)
}

/// Steps 6 to 12: from the committed row to the end of all work for the task.
fn attend(
    run: &mut Supervisor<'_>,
    context: &RunContext<'_>,
    (row, choice): (&NewTask, &Choice),
    (env, family): (&[CString], Family),
    caller: &Caller,
) -> Result<Exit, Error> {
    let RunContext { options, command, .. } = context;

    // 6. Run --prepare, then look for the required skill, which it may have installed.
    let ready = prepare::prepare(run, context, env, caller)?;
    failpoint::reached("run.prepared");
    let target = family.sweep_target(run, row, context);
    run.send_signals_to(command.adapter.signals(), &target);
    if let Err(no_start) = prepare::ready_unless_stopped(run, options, ready)? {
        run.dismiss()?;
        return prepare::end_without_agent(run, no_start, target, options, caller);
    }
    let transcript = outcome::resumed_transcript(command, choice);
    let baseline = Baseline::of(&command.physical_cwd(options));

    // 7. Open the gate. A pipe that exec closes reports whether exec succeeded.
    failpoint::reached("run.ready");
    run.open_gate();
    failpoint::reached("run.opened");

    // 8. Wait for the agent to exit: one poll over signals, children, output and deadlines.
    let agent = run.await_agent()?;
    let ended_at = Instant::now();
    failpoint::reached("run.ended");
    if let Some(failed) = run.start_error() {
        let no_start = prepare::not_executed(failed, options);
        return prepare::end_without_agent(run, no_start, target, options, caller);
    }

    // 9. Read the rest of the output, decide the ending, and find the leftover processes.
    let tree = run.end_tree(&target, options.leftovers)?;
    run.drain(ended_at + options.grace)?;
    failpoint::reached("run.drained");
    let ending = outcome::judge(run, context, agent, ended_at);
    let ends = options.leftovers.ends(ending == Ending::Success) && !command.is_background();
    let sweep = tree.unwrap_or_else(|| run.find_leftovers(LeftoverSweep::new(target, ends, options.grace)));

    // 10. End the row, then the leftover processes. git is asked meanwhile, unless one of them could still
    // change its settings.
    let git = baseline.map(|baseline| begin_git(baseline, &row.id, caller, !(ends && sweep.is_awaited())));
    let end = outcome::end(run, context, (row, choice), (&ending, agent), transcript, &sweep);
    run.settle(end);
    failpoint::reached("run.settled");
    run.end_leftovers(sweep, ends)?;
    if let Some((baseline, mut git)) = git {
        baseline.record(&row.id, &mut git, run)?;
    }

    // 11. Run --on-finish with the row. The live lock and the slot are held until then.
    outcome::deliver(run, options, caller)?;
    failpoint::reached("run.delivered");
    run.flush()?;

    // 12. Exit as the agent did.
    Ok(outcome::exit(run, context, &ending, agent))
}

/// From here on no signal is lost, and orphans of the agent become children of bookend: prctl(2).
fn watch_signals_and_orphans() -> Result<Watch, Error> {
    let watch = Watch::new().map_err(|e| Error::failed("reading signals").caused_by(e))?;
    nix::sys::prctl::set_child_subreaper(true)
        .map_err(|e| Error::failed("becoming the reaper of the agent's orphans").caused_by(e))?;
    Ok(watch)
}

/// git, which reads its settings meanwhile if it `may_begin`.
fn begin_git<'c>(
    baseline: Baseline,
    id: &TaskId,
    caller: &'c Caller,
    may_begin: bool,
) -> (Baseline, Git<'c>) {
    let mut git = Git::for_task(id, caller);
    if may_begin {
        baseline.begin(&mut git);
    }
    (baseline, git)
}
