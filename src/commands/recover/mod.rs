//! `bookend recover`: settles lost tasks and reports them. It is safe at any time, and several may run at
//! once; its cost grows with the number of running tasks, not with the history.

mod follow_ups;
mod options;
mod post_mortem;
mod preview;
mod report;
mod work;

use std::path::Path;

pub use options::RecoverOptions;

use crate::error::Error;
use crate::exit::{Exit, exit_code};
use crate::ledger::{self, Ledger, Location, MergedRecord};
use crate::process::spawn::caller::Caller;
use crate::sys;
use crate::task::Signal;
use crate::view;
use options::SelectedTasks;
use report::{RecoveryReport, Reporter, SpoolReport};
use work::Recovery;

/// Settles lost tasks, and reports them on stdout.
///
/// # Errors
/// When the ledger or /proc cannot be read, or the ledger cannot be written. What was done by then stands.
pub fn recover(options: &RecoverOptions, ledger: Option<&Path>, caller: &Caller) -> Result<Exit, Error> {
    // A signal may end this at any point: the next recovery continues from there. It waits for its hooks
    // only, and a closed stdout does not stop it.
    sys::set_mask(caller.mask.with(Signal::CHLD).with(Signal::PIPE));
    let at = ledger::locate(ledger)?;
    let mut reporter = Reporter::new(options.json);
    let mut report =
        RecoveryReport { ledger: at.file.clone(), dry_run: options.dry_run, ..RecoveryReport::default() };
    if options.dry_run {
        if let Some(mut ledger) = Ledger::open_read_only(&at)? {
            preview::preview(&mut ledger, options, caller, &mut report)?;
        }
    } else if at.file.exists() {
        let (ledger, merged) = Ledger::open(&at)?;
        return settle(options, (ledger, &merged), caller, &mut reporter, &mut report);
    } else {
        report_spool_without_ledger(&at, &mut reporter, &mut report)?;
    }
    report.conclude();
    reporter.end(&report);
    Ok(exit(&report))
}

/// The recovery of a ledger that exists. Its report is printed before it is recorded as printed.
fn settle(
    options: &RecoverOptions,
    (ledger, merged): (Ledger, &[MergedRecord]),
    caller: &Caller,
    reporter: &mut Reporter,
    report: &mut RecoveryReport,
) -> Result<Exit, Error> {
    ledger.expect_many()?;
    let mut recovery = Recovery {
        watch: work::watch()?,
        survey: post_mortem::survey(caller),
        selected: SelectedTasks::resolve(&ledger, &options.ids)?,
        ledger,
        options,
        caller,
        reporter,
        report,
        printed: Vec::new(),
        report_lock: None,
        stopped: None,
    };
    recovery.report_spool(merged);
    recovery.settle()?;
    recovery.release_agents()?;
    if recovery.selected.are_all() {
        recovery.clean_spool();
        recovery.invalidate_sessions()?;
    }
    if !options.settle_only {
        recovery.deliver()?;
        if recovery.stopped.is_none() {
            recovery.report_interrupted()?;
        }
    }
    recovery.report.conclude();
    recovery.reporter.end(recovery.report);
    recovery.record_reports()?;
    let stopped = recovery.stopped;
    report.conclude();
    Ok(stopped.map_or_else(|| exit(report), Exit::Signal))
}

fn exit(report: &RecoveryReport) -> Exit {
    let is_pending = report.dry_run && !(report.interrupted.is_empty() && report.sessions.is_empty());
    Exit::Code(if report.settled && !is_pending { 0 } else { exit_code::UNSETTLED })
}

fn report_spool_without_ledger(
    at: &Location,
    reporter: &mut Reporter,
    report: &mut RecoveryReport,
) -> Result<(), Error> {
    for path in ledger::records_in_spool(at)? {
        let path = view::one_line(&path.to_string_lossy()).into_owned();
        let text = format!("{path} waits for its ledger, which is missing: restore it, then recover again");
        reporter.line(&text);
        report.spool.push(SpoolReport { task: None, merged: false, text });
    }
    Ok(())
}
