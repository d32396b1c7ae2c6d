//! The findings of the audit, for people and for programs.

use std::collections::BTreeMap;

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use super::json::pretty;
use super::screen::Screen;
use super::text::{duration, one_line};
use crate::task::{Key, TaskId};

/// The severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    Warn,
    Error,
}

impl Severity {
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Warn => "warn",
            Severity::Error => "error",
        }
    }
}

/// What is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    Lost,
    StaleRunning,
    Unverifiable,
    OrphanProcess,
    UnsafeSession,
    DeliveryFailed,
    InconsistentTimestamps,
    MissingCleanup,
    Spooled,
    Unreachable,
    LateEnding,
    DoubleClaim,
}

impl Code {
    pub const ALL: [Code; 12] = [
        Code::Lost,
        Code::StaleRunning,
        Code::Unverifiable,
        Code::OrphanProcess,
        Code::UnsafeSession,
        Code::DeliveryFailed,
        Code::InconsistentTimestamps,
        Code::MissingCleanup,
        Code::Spooled,
        Code::Unreachable,
        Code::LateEnding,
        Code::DoubleClaim,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Code::Lost => "lost",
            Code::StaleRunning => "stale_running",
            Code::Unverifiable => "unverifiable",
            Code::OrphanProcess => "orphan_process",
            Code::UnsafeSession => "unsafe_session",
            Code::DeliveryFailed => "delivery_failed",
            Code::InconsistentTimestamps => "inconsistent_timestamps",
            Code::MissingCleanup => "missing_cleanup",
            Code::Spooled => "spooled",
            Code::Unreachable => "unreachable",
            Code::LateEnding => "late_ending",
            Code::DoubleClaim => "double_claim",
        }
    }
}

/// One problem in the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub code: Code,
    pub severity: Severity,
    pub task: Option<TaskId>,
    pub key: Option<Key>,
    /// Since the task was last known to run, or the last use of the session. Milliseconds.
    pub age_ms: Option<i64>,
    pub detail: String,
    /// The command that fixes it.
    pub fix: String,
}

#[derive(Serialize)]
struct Summary {
    total: usize,
    errors: usize,
    warnings: usize,
    by_code: BTreeMap<&'static str, usize>,
}

impl Summary {
    fn of(findings: &[Finding]) -> Summary {
        let errors = findings.iter().filter(|f| f.severity == Severity::Error).count();
        let mut by_code = BTreeMap::new();
        for finding in findings {
            *by_code.entry(finding.code.as_str()).or_default() += 1;
        }
        Summary { total: findings.len(), errors, warnings: findings.len() - errors, by_code }
    }
}

/// `Task audit: N findings · E errors · W warnings (showing K)`.
pub fn audit_summary(findings: &[Finding], shown: usize) -> String {
    let s = Summary::of(findings);
    let [findings, errors, warnings] = [(s.total, "finding"), (s.errors, "error"), (s.warnings, "warning")]
        .map(|(n, what)| counted(n, what));
    format!("Task audit: {findings} · {errors} · {warnings} (showing {shown})")
}

/// `1 error`, `2 errors`.
fn counted(n: usize, what: &str) -> String {
    let plural = if n == 1 { "" } else { "s" };
    format!("{n} {what}{plural}")
}

/// Each finding with its fix, then the summary of all findings, shown or not.
pub fn audit(findings: &[Finding], shown: &[&Finding], screen: Screen) -> String {
    let mut text = String::new();
    for finding in shown {
        let colour = match finding.severity {
            Severity::Error => AnsiColor::Red.on_default().bold(),
            Severity::Warn => AnsiColor::Yellow.on_default(),
        };
        let head = format!("{:<5} {}", finding.severity.as_str(), finding.code.as_str());
        text.push_str(&screen.paint(colour, &head));
        let named = [
            ("task", finding.task.as_ref().map(TaskId::as_str)),
            ("key", finding.key.as_ref().map(Key::as_str)),
        ];
        for (name, value) in named {
            if let Some(value) = value {
                text.push_str(&format!("  {name} {}", one_line(value)));
            }
        }
        if let Some(age) = finding.age_ms {
            text.push_str(&format!("  {} ago", duration(age)));
        }
        text.push_str(&format!("\n      {}", one_line(&finding.detail)));
        let fix = screen.paint(Style::new().bold(), &one_line(&finding.fix));
        text.push_str(&format!("\n      fix: {fix}\n"));
    }
    if !shown.is_empty() {
        text.push('\n');
    }
    text + &audit_summary(findings, shown.len()) + "\n"
}

/// `{"summary", "shown", "findings"}`, and a newline.
pub fn audit_json(findings: &[Finding], shown: &[&Finding]) -> String {
    #[derive(Serialize)]
    struct Report<'a> {
        summary: Summary,
        shown: usize,
        findings: &'a [&'a Finding],
    }
    pretty(&Report { summary: Summary::of(findings), shown: shown.len(), findings: shown })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_counts_all_findings_and_how_many_are_shown() {
        let finding = |code, severity| Finding {
            code,
            severity,
            task: None,
            key: None,
            age_ms: None,
            detail: String::new(),
            fix: String::new(),
        };
        let all = [finding(Code::Lost, Severity::Error), finding(Code::Spooled, Severity::Warn)];
        assert_eq!(audit_summary(&all, 1), "Task audit: 2 findings · 1 error · 1 warning (showing 1)");
        assert_eq!(audit_summary(&[], 0), "Task audit: 0 findings · 0 errors · 0 warnings (showing 0)");
    }
}
