//! `recover --dry-run`: what a recovery would do.

use super::options::RecoverOptions;
use crate::commands::engine::{
    DeliveredHook, RecoveryReport, SelectedTasks, SpoolReport, UnsettledTask, interrupted, post_mortem,
    running, survey, uncommitted, unverifiable, watch,
};
use crate::error::Error;
use crate::helper::Idle;
use crate::ledger::{DeliveryStatus, Ledger, LiveEvidence};
use crate::process::spawn::caller::Caller;
use crate::recovery::batch::RecoveryBatch;
use crate::recovery::{self, LostTask};
use crate::task::Verdict;

/// Collects what a recovery would do, and changes nothing.
pub(super) fn preview(
    ledger: &mut Ledger,
    options: &RecoverOptions,
    caller: &Caller,
    report: &mut RecoveryReport,
) -> Result<(), Error> {
    let selected = SelectedTasks::resolve(ledger, &options.ids)?;
    preview_spool(ledger, report)?;
    preview_running(ledger, &selected, options, report)?;
    if selected.are_all() {
        report.sessions = ledger.unsafe_sessions()?;
    }
    for task in selected.only(ledger.undelivered()?) {
        if ledger.evidence(&task)? != LiveEvidence::Held {
            report.deliveries.push(DeliveredHook { id: task.id, status: DeliveryStatus::Pending.as_str() });
        }
    }
    preview_reports(ledger, &selected, caller, report)
}

fn preview_spool(ledger: &Ledger, report: &mut RecoveryReport) -> Result<(), Error> {
    for path in ledger.spooled()? {
        let text = format!("a record waits in the spool: {}", path.display());
        report.spool.push(SpoolReport { task: None, merged: false, text });
    }
    Ok(())
}

fn preview_running(
    ledger: &Ledger,
    selected: &SelectedTasks,
    options: &RecoverOptions,
    report: &mut RecoveryReport,
) -> Result<(), Error> {
    let here = RecoveryBatch::new(ledger, options.policy.grace).here();
    for task in running(ledger, selected)? {
        let lost = match recovery::judge(recovery::evidence(ledger, &task)?, &task) {
            Verdict::Alive => {
                report.alive += 1;
                continue;
            }
            Verdict::Gone | Verdict::Recycled => LostTask::unswept(task, here.clone()),
            Verdict::Unverifiable if recovery::has_expired(&task, options.policy.ttl) => {
                LostTask::expired(task, here.clone())
            }
            Verdict::Unverifiable => {
                let why = unverifiable(ledger, &task);
                report.unverifiable.push(UnsettledTask { id: task.id, key: task.key, why });
                continue;
            }
        };
        report.interrupted.push(interrupted(lost.task(), lost.reason()));
    }
    Ok(())
}

fn preview_reports(
    ledger: &mut Ledger,
    selected: &SelectedTasks,
    caller: &Caller,
    report: &mut RecoveryReport,
) -> Result<(), Error> {
    let (mut watch, mut survey) = (watch()?, survey(caller));
    for task in selected.only(ledger.unhinted()?) {
        let mut idle = Idle::new(ledger, &mut watch);
        let uncommitted = uncommitted(&task, &mut survey, &mut idle)?;
        drop(idle);
        report.hints.push(post_mortem(ledger, task, uncommitted)?);
    }
    Ok(())
}
