//! The findings of a fleet: what the database knows and the ledger of this host does not.

use std::collections::BTreeSet;
use std::path::Path;

use crate::commands::source::TaskSource;
use crate::error::Error;
use crate::fleet::DoubleClaim;
use crate::task::{FleetTask, RecordedTime, Status, Task, TaskId, Time};
use crate::view::{self, Code, Finding, Severity};

/// Each task has only its gravest finding.
///
/// # Errors
/// When the ledger cannot be read, or the database if it is alone.
pub(super) fn findings(source: &TaskSource) -> Result<Vec<Finding>, Error> {
    let Some(found) = source.audit()? else { return Ok(Vec::new()) };
    let mut audit = FleetAuditor { source, now: Time::now(), found: Vec::new(), reported: BTreeSet::new() };
    for claim in &found.double_claims {
        audit.double_claim(claim);
    }
    for row in &found.late {
        audit.late(row);
    }
    for row in found.unreachable.iter().chain(&found.unsettled) {
        // The ledger has what is known of the tasks of this host.
        if !source.has(&row.task.id)? {
            audit.elsewhere(row);
        }
    }
    Ok(audit.found)
}

struct FleetAuditor<'a> {
    source: &'a TaskSource,
    now: Time,
    found: Vec<Finding>,
    reported: BTreeSet<TaskId>,
}

impl FleetAuditor<'_> {
    fn report(&mut self, code: Code, task: &Task, detail: String, fix: String) {
        if !self.reported.insert(task.id.clone()) {
            return;
        }
        let last = task.finished_at.as_ref().or(task.last_seen_at.as_ref()).unwrap_or(&task.started_at);
        self.found.push(Finding {
            code,
            severity: Severity::Warn,
            task: Some(task.id.clone()),
            key: task.key.clone(),
            age_ms: self.age(last),
            detail,
            fix,
        });
    }

    fn age(&self, time: &RecordedTime) -> Option<i64> {
        view::since(time, self.now)
    }

    /// A command that reaches the fleet through the ledger or, without one, by the database.
    fn command(&self, what: &str) -> String {
        match self.source.at() {
            Some(at) => view::suggestion(at.option(), what),
            None => view::suggestion(Some(Path::new(&self.source.place())), what),
        }
    }

    fn show(&self, task: &Task) -> String {
        self.command(&format!("show {}", view::operand(task.id.as_str())))
    }

    fn double_claim(&mut self, claim: &DoubleClaim) {
        if !self.reported.insert(claim.task.clone()) {
            return;
        }
        let other = claim.other_host.as_deref().unwrap_or("another host");
        let other = match &claim.other_task {
            Some(task) => format!("task {task} on {other}"),
            None => format!("a task on {other}"),
        };
        let id = view::operand(claim.task.as_str());
        let fix = if claim.is_running { format!("cancel {id}") } else { format!("show {id}") };
        self.found.push(Finding {
            code: Code::DoubleClaim,
            severity: Severity::Error,
            task: Some(claim.task.clone()),
            key: claim.key.clone(),
            age_ms: self.age(&claim.at),
            detail: format!("it ran on {} while {other} held its key", claim.host),
            fix: self.command(&fix),
        });
    }

    fn late(&mut self, row: &FleetTask) {
        let late = row.fleet.as_ref().and_then(|fleet| fleet.late.as_ref());
        let status = late.and_then(|late| late.get("status")?.as_str()).unwrap_or("unknown");
        let host = host(&row.task);
        let reason = row.task.reason.as_deref().unwrap_or("fleet");
        let detail = format!("{host} reported its end ({status}) after the fleet had ended it ({reason})");
        let fix = self.show(&row.task);
        self.report(Code::LateEnding, &row.task, detail, fix);
    }

    /// A running task whose host does not answer, or an ended one that is not settled there.
    fn elsewhere(&mut self, row: &FleetTask) {
        let task = &row.task;
        let host = host(task);
        if let Some(since) = row.unreachable_since() {
            let detail = format!(
                "it is `running` on {host}, {}; if {host} is off, declare it lost",
                view::unreachable(since)
            );
            let fix = self.command(&format!("fleet declare-lost {}", view::operand(host)));
            return self.report(Code::Unreachable, task, detail, fix);
        }
        if task.delivery_status.as_deref() == Some("failed") {
            let attempts = task.delivery_attempts;
            let detail = format!("its --on-finish command failed on {host} (attempts: {attempts})");
            // A line break would end the comment.
            let deliver = view::suggestion(None, &format!("deliver {}", view::operand(task.id.as_str())));
            let fix = format!("{deliver}  # on {}", view::one_line(host));
            return self.report(Code::DeliveryFailed, task, detail, fix);
        }
        let detail = match (&task.finished_at, task.status) {
            (Some(_), Status::Running) => format!("it is `running` on {host}, and has an end time"),
            (None, status) => format!("it ended as {status} on {host}, and has no end time"),
            (Some(end), _) => {
                format!("it ended ({end}) before it started ({}) on {host}", task.started_at)
            }
        };
        let fix = self.show(task);
        self.report(Code::InconsistentTimestamps, task, detail, fix);
    }
}

fn host(task: &Task) -> &str {
    task.host.as_deref().unwrap_or("another host")
}
