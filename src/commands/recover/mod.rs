//! `bookend recover`: settles lost tasks and reports them. It is safe at any time, and several may run at
//! once; its cost grows with the number of running tasks, not with the history.

mod options;
mod preview;

use std::path::Path;

pub use options::RecoverOptions;

use crate::commands::engine::{
    self, RecoveryEngine, RecoveryReport, ReportFormat, Reporter, SelectedTasks, SpoolReport,
};
use crate::error::Error;
use crate::exit::{Exit, exit_code};
use crate::ledger::{self, Ledger, Location, MergedRecord};
use crate::process::spawn::caller::Caller;
use crate::sys;
use crate::task::Signal;
use crate::view;

/// Settles lost tasks, and reports them on stdout.
///
/// # Errors
/// When the ledger or /proc cannot be read, or the ledger cannot be written. What was done by then stands.
pub fn recover(options: &RecoverOptions, ledger: Option<&Path>, caller: &Caller) -> Result<Exit, Error> {
    // A signal may end this at any point: the next recovery continues from there. It waits for its hooks
    // only, and a closed stdout does not stop it.
    sys::set_mask(caller.mask.with(Signal::CHLD).with(Signal::PIPE));
    let at = ledger::locate(ledger)?;
    let mut reporter = Reporter::new(if options.json { ReportFormat::Json } else { ReportFormat::Text });
    let mut report =
        RecoveryReport { ledger: at.file.clone(), dry_run: options.dry_run, ..RecoveryReport::default() };
    if options.dry_run {
        if let Some(mut ledger) = Ledger::open_read_only(&at)? {
            preview::preview(&mut ledger, options, caller, &mut report)?;
        }
    } else if at.file.exists() {
        let (ledger, merged) = Ledger::open(&at)?;
        return settle(options, (ledger, &merged), caller, reporter, report);
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
    reporter: Reporter,
    report: RecoveryReport,
) -> Result<Exit, Error> {
    let selected = SelectedTasks::resolve(&ledger, &options.ids)?;
    let policy = (&options.policy, "recover");
    let mut watch = engine::watch()?;
    let mut engine = RecoveryEngine::new(ledger, &mut watch, policy, caller, (reporter, report));
    engine.report_spool(merged);
    engine.add_all(&selected)?;
    engine.settle(&selected)?;
    engine.drop_scan();
    engine.release_agents(&selected)?;
    if selected.are_all() {
        engine.clean_slots_of(&selected);
        engine.invalidate_sessions()?;
    }
    if !options.settle_only {
        engine.deliver(&selected)?;
        if engine.stopped.is_none() {
            engine.report_interrupted(&selected)?;
        }
    }
    engine.report.conclude();
    engine.reporter.end(&engine.report);
    engine.record_reports()?;
    engine.report.conclude();
    Ok(engine.stopped.map_or_else(|| exit(&engine.report), Exit::Signal))
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
