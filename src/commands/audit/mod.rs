//! `bookend audit`: reports problems, each with the command that fixes it. It changes nothing.

mod fleet;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use crate::commands::source::TaskSource;
use crate::error::Error;
use crate::exit::Exit;
use crate::exit::exit_code;
use crate::ledger::{Ledger, LiveEvidence, TaskLookup};
use crate::process::leftovers::{LedgerFile, LeftoverSweep, SharedScan, SparedReason};
use crate::process::procfs::identity::ProcessStat;
use crate::recovery;
use crate::recovery::liveness;
use crate::recovery::trust::OwnershipEvidence;
use crate::sys::stdout::print;
use crate::task::{RecordedTime, Status, Task, TaskId, Time, Verdict};
use crate::view::{self, Code, Finding, Screen, Severity};

/// The options of `bookend audit`.
#[derive(Debug)]
pub struct AuditOptions {
    /// Show findings of this severity only.
    pub severity: Option<Severity>,
    /// Show findings of this code only.
    pub code: Option<Code>,
    pub limit: Option<usize>,
    /// Exit with 1 if there is a finding of this severity, shown or not.
    pub fail_on: Option<Severity>,
    pub stale_after: Duration,
    pub json: bool,
    /// Only the tasks of this ledger.
    pub here: bool,
}

/// # Errors
/// When the ledger cannot be read.
pub fn audit(options: &AuditOptions, ledger: Option<&Path>) -> Result<Exit, Error> {
    let source = TaskSource::open(ledger, options.here)?;
    let own = source.ledger().map(|ledger| findings(ledger, options.stale_after)).transpose()?;
    let mut findings = own.unwrap_or_default();
    findings.extend(fleet::findings(&source)?);
    findings.sort_by_key(|f| std::cmp::Reverse(f.severity));
    let shown: Vec<&Finding> = findings
        .iter()
        .filter(|f| options.severity.is_none_or(|s| f.severity == s))
        .filter(|f| options.code.is_none_or(|c| f.code == c))
        .take(options.limit.unwrap_or(usize::MAX))
        .collect();
    print(&match options.json {
        true => view::audit_json(&findings, &shown),
        false => view::audit(&findings, &shown, Screen::of(&std::io::stdout())),
    })?;
    let fails = options.fail_on.is_some_and(|least| findings.iter().any(|f| f.severity >= least));
    Ok(Exit::Code(if fails { exit_code::NOTHING } else { 0 }))
}

/// All findings, errors first. A task has only its root finding.
///
/// # Errors
/// When the ledger cannot be read.
pub fn findings(ledger: &Ledger, stale_after: Duration) -> Result<Vec<Finding>, Error> {
    let mut audit = Audit { ledger, now: Time::now(), found: Vec::new(), told: BTreeSet::new() };
    audit.spooled()?;
    audit.running(stale_after)?;
    audit.orphans()?;
    audit.sessions()?;
    audit.deliveries()?;
    audit.times()?;
    audit.cleanup()?;
    audit.found.sort_by_key(|f| std::cmp::Reverse(f.severity));
    Ok(audit.found)
}

struct Audit<'a> {
    ledger: &'a Ledger,
    now: Time,
    found: Vec<Finding>,
    /// The tasks that have a finding.
    told: BTreeSet<TaskId>,
}

impl Audit<'_> {
    fn tell(&mut self, code: Code, severity: Severity, task: &Task, detail: String, fix: String) {
        if !self.told.insert(task.id.clone()) {
            return;
        }
        let last = task.finished_at.as_ref().or(task.last_seen_at.as_ref()).unwrap_or(&task.started_at);
        self.found.push(Finding {
            code,
            severity,
            task: Some(task.id.clone()),
            key: task.key.clone(),
            age_ms: self.age(last),
            detail,
            fix,
        });
    }

    fn command(&self, what: &str) -> String {
        view::suggestion(self.ledger.option(), what)
    }

    fn age(&self, time: &RecordedTime) -> Option<i64> {
        view::since(time, self.now)
    }

    fn spooled(&mut self) -> Result<(), Error> {
        for (path, id) in self.ledger.spooled_tasks()? {
            let detail = format!("its terminal record waits in {}", path.display());
            let task = match &id {
                Some(id) => self.ledger.task(id.as_str())?,
                None => TaskLookup::None,
            };
            if let TaskLookup::One(task) = task {
                self.tell(Code::Spooled, Severity::Warn, &task, detail, self.command("recover"));
                continue;
            }
            let detail = match id {
                Some(_) => format!("{detail}; the ledger has no such task"),
                None => format!("a terminal record that cannot be read waits in {}", path.display()),
            };
            let (code, severity) = (Code::Spooled, Severity::Warn);
            self.found.push(Finding {
                code,
                severity,
                task: id,
                key: None,
                age_ms: None,
                detail,
                fix: self.command("recover"),
            });
        }
        Ok(())
    }

    fn running(&mut self, stale_after: Duration) -> Result<(), Error> {
        for mut task in self.ledger.running()? {
            let Some(verdict) = liveness::verdict(self.ledger, &mut task)? else { continue };
            let pid = task.supervisor_pid.map_or_else(|| "?".to_owned(), |p| p.to_string());
            let host = task.host.as_deref().unwrap_or("?");
            match verdict {
                Verdict::Gone | Verdict::Recycled => {
                    let detail = format!("it is `running`, and its supervisor (pid {pid}) has exited");
                    self.tell(Code::Lost, Severity::Error, &task, detail, self.command("recover"));
                }
                Verdict::Unverifiable => {
                    let detail =
                        format!("it is `running`, and cannot be judged from here (pid {pid} on {host})");
                    let fix = self.command(&format!("recover --ttl 0 {}", view::operand(task.id.as_str())));
                    self.tell(Code::Unverifiable, Severity::Warn, &task, detail, fix);
                }
                Verdict::Alive => {
                    let seen = task.last_seen_at.as_ref().and_then(|t| self.age(t)).unwrap_or_default();
                    if is_read_along(&task) && seen as u128 > stale_after.as_millis() {
                        let detail = format!("it has printed nothing for {}", view::duration(seen));
                        let fix = self.command(&format!("cancel {}", view::operand(task.id.as_str())));
                        self.tell(Code::StaleRunning, Severity::Warn, &task, detail, fix);
                    }
                }
            }
        }
        Ok(())
    }

    fn orphans(&mut self) -> Result<(), Error> {
        let ledger = LedgerFile::at(self.ledger.path());
        let marked = SharedScan::default().named_tasks(&ledger).map_err(Error::from)?;
        for id in marked {
            let TaskLookup::One(task) = self.ledger.task(id.as_str())? else { continue };
            // A supervisor that holds its lock is still ending them.
            let settled = task.status != Status::Running
                && task.id == id
                && self.ledger.evidence(&task)? != LiveEvidence::Held;
            if !settled {
                continue;
            }
            let (pids, are_endable) = self.left_behind(&task)?;
            if pids.is_empty() {
                continue;
            }
            let pids: Vec<String> = pids.iter().map(i32::to_string).collect();
            let severity = match task.status {
                Status::Success => Severity::Warn,
                _ => Severity::Error,
            };
            let detail = match pids.len() {
                1 => format!("one of its processes still runs: pid {}", pids[0]),
                n => format!("{n} of its processes still run: pids {}", pids.join(", ")),
            };
            let fix = match are_endable && recovery::ends_leftovers(&task) {
                true => self.command("recover"),
                false => format!("kill {}", pids.join(" ")),
            };
            self.tell(Code::OrphanProcess, severity, &task, detail, fix);
        }
        Ok(())
    }

    /// The leftover processes of a task, without those at a terminal, and whether recovery may end any of
    /// them.
    fn left_behind(&self, task: &Task) -> Result<(Vec<i32>, bool), Error> {
        let evidence = OwnershipEvidence::of(self.ledger);
        let mut task = task.clone();
        evidence.redact(&mut task);
        let agent = task.agent_process().map(|agent| agent.identity);
        let whose = evidence.leftovers_of(LedgerFile::at(self.ledger.path()), &task, agent);
        let mut sweep = LeftoverSweep::new(whose, false, Duration::ZERO);
        sweep.scan(&|stat: &ProcessStat| evidence.is_supervisor(self.ledger, stat)).map_err(Error::from)?;
        let summary = sweep.summary();
        let why = |pid: &i32| summary.spared.iter().find(|s| s.pid == *pid).map(|s| s.why);
        let is_shown = |pid: &i32| {
            !matches!(
                why(pid),
                Some(
                    SparedReason::Terminal
                        | SparedReason::Supervisor
                        | SparedReason::Supervised
                        | SparedReason::Detached
                )
            )
        };
        let shown: Vec<i32> = summary.pids.iter().copied().filter(is_shown).collect();
        let are_endable = shown.iter().any(|pid| why(pid).is_none());
        Ok((shown, are_endable))
    }

    fn sessions(&mut self) -> Result<(), Error> {
        for unsafe_now in self.ledger.unsafe_sessions()? {
            let session = self.ledger.session_of_key(&unsafe_now.key)?;
            let task = session.as_ref().and_then(|s| s.task_id.clone());
            // The finding of a lost task covers its session.
            if task.as_ref().is_some_and(|id| !self.told.insert(id.clone())) {
                continue;
            }
            let last_used = session.and_then(|s| s.last_used_at);
            self.found.push(Finding {
                code: Code::UnsafeSession,
                severity: Severity::Error,
                task,
                age_ms: last_used.and_then(|t| self.age(&t)),
                detail: format!("session {} would be resumed, and {}", unsafe_now.session_id, unsafe_now.why),
                fix: self.command("recover"),
                key: Some(unsafe_now.key),
            });
        }
        Ok(())
    }

    fn deliveries(&mut self) -> Result<(), Error> {
        for task in self.ledger.delivery_failed()? {
            let detail = format!("its --on-finish command failed (attempts: {})", task.delivery_attempts);
            let fix = self.command(&format!("deliver {}", view::operand(task.id.as_str())));
            self.tell(Code::DeliveryFailed, Severity::Warn, &task, detail, fix);
        }
        for task in self.ledger.undelivered()? {
            if self.ledger.evidence(&task)? == LiveEvidence::Held {
                continue;
            }
            // It may have ended since it was read.
            if let TaskLookup::One(now) = self.ledger.task(task.id.as_str())?
                && now.delivery_status == task.delivery_status
            {
                let detail = "its --on-finish command was interrupted".to_owned();
                self.tell(Code::DeliveryFailed, Severity::Warn, &task, detail, self.command("recover"));
            }
        }
        Ok(())
    }

    fn times(&mut self) -> Result<(), Error> {
        for task in self.ledger.ill_timed()? {
            let detail = match (&task.finished_at, task.status) {
                (Some(_), Status::Running) => "it is `running`, and has an end time".to_owned(),
                (None, status) => format!("it ended as {status}, and has no end time"),
                (Some(end), _) => format!("it ended ({end}) before it started ({})", task.started_at),
            };
            let fix = self.command(&format!("show {}", view::operand(task.id.as_str())));
            self.tell(Code::InconsistentTimestamps, Severity::Warn, &task, detail, fix);
        }
        Ok(())
    }

    fn cleanup(&mut self) -> Result<(), Error> {
        for task in self.ledger.uncleaned()? {
            let detail = "it has ended, and has no expiry time".to_owned();
            self.tell(Code::MissingCleanup, Severity::Warn, &task, detail, self.command("prune"));
        }
        Ok(())
    }
}

/// Whether the agent's output arrives while it works: only then does silence mean something.
fn is_read_along(task: &Task) -> bool {
    let options = task.run_options.as_ref();
    options.and_then(|o| o.get("read_along")?.as_bool()).unwrap_or_default()
}
