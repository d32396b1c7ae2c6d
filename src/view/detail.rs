//! The page of `show`: everything that is known about one task.

use std::path::PathBuf;

use serde::Serialize;
use serde_json::Value;

use super::screen::Screen;
use super::tasks::{changed_nothing, style, unreachable, why};
use super::text::{ago, cells, duration, money, one_line, since, when};
use crate::shell::{command_line, operand, suggestion};
use crate::task::{
    Key, Provider, RecordedTime, Session, SessionId, SessionInvalidation, Signal, Status, StatusTransition,
    Task, TaskId, Time, Verdict,
};

/// What the ledger stores about a task besides its row.
#[derive(Debug, Default, Serialize)]
pub struct History {
    pub transitions: Vec<StatusTransition>,
    /// The session that the task's key resumes now.
    pub session: Option<Session>,
    /// The sessions that this task invalidated.
    pub invalidations: Vec<SessionInvalidation>,
    /// The task for which `--replace` cancelled this one.
    pub replaced_by: Option<TaskId>,
}

/// Where to find more.
#[derive(Debug, Default)]
pub struct Further {
    /// The verdict on a task whose status is running.
    pub verdict: Option<Verdict>,
    /// The transcript of the session.
    pub transcript: Option<PathBuf>,
    /// Why the cost and the tokens are not known, if they are not.
    pub no_cost: Option<String>,
    pub no_tokens: Option<String>,
    /// Commands of bookend that read and resume the conversation and that run the task again.
    pub read: Option<String>,
    pub resume: Option<String>,
    pub again: Option<String>,
    /// The session is invalidated, and not restored since.
    pub is_invalidated: bool,
    /// The ledger, if it is not the default one.
    pub ledger: Option<PathBuf>,
    /// Since when the host of a running task has not answered.
    pub unreachable_since: Option<RecordedTime>,
    /// How the task ended, as its host reported it after the fleet had ended it.
    pub late: Option<Value>,
    /// The task is one of another host: what is on this one has nothing to do with it.
    pub is_elsewhere: bool,
}

/// One line per fact; unknown facts have none. Long text is not cut.
pub fn detail(task: &Task, history: &History, further: &Further, now: Time, screen: Screen) -> String {
    let mut page = Page { lines: Vec::new() };
    identity(&mut page, task);
    page.plain("", Some(String::new()));
    end(&mut page, task, (history, further), now, screen);
    page.plain("", Some(String::new()));
    used(&mut page, task, further);
    page.plain("", Some(String::new()));
    processes(&mut page, task);
    page.plain("", Some(String::new()));
    conversation(&mut page, task, history);
    page.plain("", Some(String::new()));
    further_lines(&mut page, task, further);
    page.render()
}

struct Page {
    lines: Vec<(&'static str, String)>,
}

impl Page {
    /// Text that bookend produced itself.
    fn plain(&mut self, name: &'static str, value: Option<String>) {
        self.lines.extend(value.map(|v| (name, v)));
    }

    /// Text of unknown origin.
    fn data(&mut self, name: &'static str, value: Option<&str>) {
        self.plain(name, value.map(|v| one_line(v).into_owned()));
    }

    /// Text of unknown origin that may have several lines.
    fn text(&mut self, name: &'static str, value: Option<&str>) {
        let lines = value.map(|text| text.trim_end().lines().map(one_line).collect::<Vec<_>>().join("\n"));
        self.plain(name, lines);
    }

    /// Names in one column, values in the other, without two empty lines in a row or one at the end.
    fn render(self) -> String {
        let wide = self.lines.iter().map(|(name, _)| cells(name)).max().unwrap_or(0);
        let mut text = String::new();
        for (name, value) in self.lines {
            if !name.is_empty() || !value.is_empty() {
                let mut name = name;
                for line in value.split('\n') {
                    text.push_str(format!("{name:wide$}  {line}").trim_end());
                    text.push('\n');
                    name = "";
                }
            } else if !text.ends_with("\n\n") {
                text.push('\n');
            }
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
        text
    }
}

fn identity(page: &mut Page, task: &Task) {
    page.data("task", Some(task.id.as_str()));
    page.data("key", task.key.as_ref().map(Key::as_str));
    page.data("repo", task.repo.as_deref());
    page.plain("issue", task.issue_number.map(|n| format!("#{n}")));
    page.data("user", task.user.as_deref());
    let agent = task.agent.as_deref().map(|agent| match task.agent_type.as_deref() {
        Some(kind) if kind != agent => format!("{agent} ({kind})"),
        _ => agent.to_owned(),
    });
    page.data("agent", agent.as_deref());
    page.data("model", task.model.as_deref());
    page.data("provider", task.provider.as_ref().map(Provider::as_str));
    let given = task.user_argv.as_deref().filter(|_| task.user_argv != task.argv);
    page.text("command", given.or(task.argv.as_deref()).map(command_line).as_deref());
    let executed = given.and(task.argv.as_deref());
    page.text("executed", executed.map(command_line).as_deref());
    page.data("cwd", task.cwd.as_deref());
    page.data("inside task", task.parent_id.as_ref().map(TaskId::as_str));
    page.data("replaces", task.replaces.as_ref().map(TaskId::as_str));
}

fn end(page: &mut Page, task: &Task, (history, further): (&History, &Further), now: Time, screen: Screen) {
    let word = screen.paint(style(task.status), task.status.as_str());
    let why = why(task);
    page.plain("status", Some(if why.is_empty() { word } else { format!("{word} ({why})") }));
    page.plain(
        "alive",
        further.verdict.map(|v| match v {
            Verdict::Alive => "yes".to_owned(),
            Verdict::Gone | Verdict::Recycled => {
                format!(
                    "no: its supervisor has exited; {} settles it",
                    suggestion(further.ledger.as_deref(), "recover")
                )
            }
            Verdict::Unverifiable => "cannot be judged from here".to_owned(),
        }),
    );
    page.plain(
        "alive",
        further.unreachable_since.as_ref().map(|since| alive_elsewhere(task, since, further)),
    );
    page.data("ended later", further.late.as_ref().map(late).as_deref());
    page.text("error", task.error.as_deref());
    let dated = |time: &RecordedTime| format!("{} ({})", when(time), ago(time, now));
    page.plain("started", Some(dated(&task.started_at)));
    page.plain("finished", task.finished_at.as_ref().map(dated));
    let ran = match task.status {
        Status::Running => since(&task.started_at, now),
        _ => task.duration_ms,
    };
    page.plain("ran for", ran.map(duration));
    let unseen = task.last_seen_at.as_ref().filter(|_| task.finished_at.is_none());
    page.plain("last seen", unseen.map(dated));
    page.plain("exit code", task.exit_code.map(exit_code));
    page.plain("killed by", task.term_signal.map(|s| s.to_string()));
    page.plain("stopped by", stopped_by(task));
    page.data("replaced by", history.replaced_by.as_ref().map(TaskId::as_str));
    page.plain("recorded by", task.end_source.as_deref().map(known_by));
    page.plain("out of memory", task.oom_killed.filter(|killed| *killed).map(|_| "yes".to_owned()));
    page.data("leftovers", task.leftovers.as_ref().map(leftovers).as_deref());
}

/// What is known of a running task whose host does not answer.
fn alive_elsewhere(task: &Task, since: &RecordedTime, further: &Further) -> String {
    let host = task.host.as_deref().unwrap_or_default();
    let lost = suggestion(further.ledger.as_deref(), &format!("fleet declare-lost {}", operand(host)));
    let since = unreachable(since);
    format!("not known: its host is {since}; if the host is off, {} settles its tasks", one_line(&lost))
}

/// `success at 2026-11-30T12:00:00.000Z, after the fleet had ended it`.
fn late(end: &Value) -> String {
    let text = |name: &str| end.get(name).and_then(Value::as_str);
    let at = text("finished_at").map_or_else(String::new, |at| format!(" at {at}"));
    format!("{}{at}, after the fleet had ended it", text("status").unwrap_or("not known how"))
}

/// An exit code, with the signal that programs report as 128 + its number.
fn exit_code(code: i32) -> String {
    let reported = Some(Signal::from_number(code - 128)).filter(|_| (129..160).contains(&code));
    reported.map_or_else(|| code.to_string(), |signal| format!("{code} (128 + {signal})"))
}

/// How the end is known.
fn known_by(source: &str) -> String {
    match source {
        "wait" => "the supervisor".to_owned(),
        "spool" => "the supervisor, through the spool".to_owned(),
        "recovery" => "recovery, which inferred it".to_owned(),
        other => one_line(other).into_owned(),
    }
}

/// `3 found, 2 ended, 1 left (tmux, pid 4711: terminal)`.
fn leftovers(summary: &Value) -> String {
    let number = |name: &str| summary.get(name).and_then(Value::as_i64);
    let (Some(found), Some(ended)) = (number("found"), number("ended")) else { return summary.to_string() };
    let spared = summary.get("spared").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let text = |v: &Value, name: &str| v.get(name).and_then(Value::as_str).unwrap_or("?").to_owned();
    let mut left: Vec<String> = spared
        .iter()
        .map(|s| {
            let pid = s.get("pid").and_then(Value::as_i64).unwrap_or_default();
            format!("{}, pid {pid}: {}", text(s, "name"), text(s, "why"))
        })
        .collect();
    let survivors = summary.get("survivors").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let is_told = |pid: &&Value| spared.iter().any(|s| s.get("pid") == Some(*pid));
    left.extend(survivors.iter().filter(|pid| !is_told(pid)).map(|pid| format!("pid {pid}")));
    let named = if left.is_empty() { String::new() } else { format!(" ({})", left.join("; ")) };
    format!("{found} found, {ended} ended, {} left{named}", number("left").unwrap_or(found - ended))
}

pub fn stopped_by(task: &Task) -> Option<String> {
    let name = task.stop_signal?.to_string();
    Some(match (task.stop_sender_pid, task.stop_sender_uid) {
        (Some(0), _) => format!("{name} from the kernel"),
        (Some(pid), Some(uid)) => format!("{name} from pid {pid} (uid {uid})"),
        _ => name,
    })
}

fn used(page: &mut Page, task: &Task, further: &Further) {
    let unknown = |why: &Option<String>| why.as_ref().map(|why| format!("unknown: {why}"));
    page.data("cost", task.cost_usd.map(money).or_else(|| unknown(&further.no_cost)).as_deref());
    page.plain("turns", task.turns.map(|n| n.to_string()));
    let scope = if task.tokens_scope.as_deref() == Some("main") { " (without subagents)" } else { "" };
    let tokens = tokens(task).map(|tokens| tokens + scope).or_else(|| unknown(&further.no_tokens));
    page.data("tokens", tokens.as_deref());
    page.plain("CPU time", task.cpu_ms.map(duration));
    page.plain(
        "memory",
        task.max_rss_kib.map(|kib| format!("{} MiB at most", kib.saturating_add(1023) / 1024)),
    );
    page.data("in flight", task.tool_in_flight.as_deref());
    let artifacts = task.artifacts.as_ref().map(artifacts).unwrap_or_default();
    for (nth, artifact) in artifacts.iter().enumerate() {
        page.data(if nth == 0 { "artifacts" } else { "" }, Some(artifact));
    }
    page.plain("changes", changed_nothing(task).then(|| "none: it succeeded and changed nothing".to_owned()));
}

/// `12 in, 34 out`, as far as the counts are known.
pub fn tokens(task: &Task) -> Option<String> {
    let counts = [
        ("in", task.input_tokens),
        ("out", task.output_tokens),
        ("cache read", task.cache_read_tokens),
        ("cache written", task.cache_creation_tokens),
    ];
    let known: Vec<String> =
        counts.iter().filter_map(|(name, n)| Some(format!("{} {name}", (*n)?))).collect();
    (!known.is_empty()).then(|| known.join(", "))
}

/// One line per artifact.
fn artifacts(all: &Value) -> Vec<String> {
    let Some(all) = all.as_array() else { return vec![all.to_string()] };
    all.iter().flat_map(artifact).collect()
}

fn artifact(artifact: &Value) -> Vec<String> {
    let text = |name: &str| artifact.get(name).and_then(Value::as_str);
    match (text("kind"), text("path").or(text("url"))) {
        (Some("git"), _) => git(artifact),
        (Some(_), Some(place)) => vec![place.to_owned()],
        _ => vec![artifact.to_string()],
    }
}

/// The counts on one line, then one line for each file named.
fn git(artifact: &Value) -> Vec<String> {
    let count = |name: &str| artifact.get(name).and_then(Value::as_u64);
    let said = |name: &str| count(name).map_or_else(|| "unknown".to_owned(), |n| n.to_string());
    let branch = artifact.get("branch").and_then(Value::as_str);
    let branch = branch.map_or_else(|| "no branch".to_owned(), |b| format!("branch {b}"));
    let mut line = format!(
        "git: {branch}, commits: {}, files changed: {}, uncommitted: {} at the end",
        said("commits"),
        said("changed"),
        said("uncommitted")
    );
    if let Some(unknown @ 1..) = count("unknown") {
        line.push_str(&format!(", with a filter: {unknown}"));
    }
    let lists = [
        ("changed_files", "changed"),
        ("uncommitted_files", "uncommitted"),
        ("unknown_files", "with a filter, so perhaps uncommitted"),
    ];
    let files = lists.iter().flat_map(|(name, said)| {
        let files = artifact.get(name).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        files.iter().filter_map(Value::as_str).map(move |f| format!("  {said}: {f}"))
    });
    std::iter::once(line).chain(files).collect()
}

fn processes(page: &mut Page, task: &Task) {
    page.plain("agent pid", task.agent_pid.map(|n| n.to_string()));
    page.plain("supervisor", task.supervisor_pid.map(|n| n.to_string()));
    page.data("host", task.host.as_deref());
    page.data("cgroup", task.cgroup.as_deref());
}

fn session(task: &Task) -> Option<String> {
    let untracked = task.session_untracked.as_ref().map(|why| format!("not tracked ({why})"));
    match (&task.session_id, untracked) {
        (Some(id), Some(untracked)) => Some(format!("{id}, {untracked}")),
        (id, untracked) => id.as_ref().map(SessionId::to_string).or(untracked),
    }
}

fn conversation(page: &mut Page, task: &Task, history: &History) {
    page.data("session", session(task).as_deref());
    page.data("resumed from", task.resumed_from.as_ref().map(SessionId::as_str));
    let lost = task.context_lost.filter(|lost| *lost);
    page.plain("context", lost.map(|_| "lost: the agent did not resume that session".to_owned()));
    page.plain("limit resets", task.limit_resets_at.as_ref().map(when));
    let kept =
        task.session_kept.as_ref().map(|after| format!("the session, although the run failed ({after})"));
    page.data("kept", kept.as_deref());
    let next = history.session.as_ref().filter(|_| task.key.is_some());
    page.data("key resumes", next.map(|s| s.session_id.as_str()));
    for gone in &history.invalidations {
        page.data("invalidated", Some(&format!("{}: {}", gone.session_id, gone.reason)));
    }
    let hook = task.on_finish.as_ref().and_then(|hook| hook.get("command")).and_then(Value::as_str);
    page.text("on finish", hook);
    page.text("delivery", delivery(task).as_deref());
    page.plain("expires", task.cleanup_after.as_ref().map(when));
    for (nth, step) in history.transitions.iter().enumerate() {
        page.data(if nth == 0 { "history" } else { "" }, Some(&transition(step)));
    }
}

/// How the `--on-finish` command went.
fn delivery(task: &Task) -> Option<String> {
    let status = task.delivery_status.as_deref()?;
    let how = match (&task.delivery_error, status) {
        (Some(error), "failed") => format!("the command {error}"),
        (Some(error), status) => format!("{status}: the command {error}"),
        (None, "delivered") => "delivered, exit code 0".to_owned(),
        (None, status) => status.to_owned(),
    };
    Some(format!("{how} (attempts: {})", task.delivery_attempts))
}

/// Where to find more, each as a path or a command.
fn further_lines(page: &mut Page, task: &Task, further: &Further) {
    let transcript = further.transcript.as_ref().map(|t| t.to_string_lossy().into_owned());
    page.data("transcript", transcript.as_deref());
    page.data("read with", further.read.as_deref());
    let resume = further.resume.as_ref().map(|command| {
        let unsafe_now = if further.is_invalidated { "  # invalidated: check its state first" } else { "" };
        format!("{command}{unsafe_now}")
    });
    page.data("resume with", resume.as_deref());
    page.data("run again", further.again.as_deref());
    let restore = task.key.as_ref().filter(|_| further.is_invalidated);
    page.data(
        "restore",
        restore
            .map(|k| {
                suggestion(further.ledger.as_deref(), &format!("session restore {}", operand(k.as_str())))
            })
            .as_deref(),
    );
    let logged_here = task.boot_id.as_ref().zip(task.supervisor_pid).filter(|_| !further.is_elsewhere);
    let journal = logged_here.map(|(boot, supervisor)| {
        let agent = task.agent_pid.map_or_else(String::new, |p| format!(" + _PID={p}"));
        format!("journalctl _BOOT_ID={} _PID={supervisor}{agent}", boot.replace('-', ""))
    });
    page.data("journal", journal.as_deref());
}

fn transition(step: &StatusTransition) -> String {
    let mut line = format!("{}  {}", step.at, step.to_status);
    if let Some(reason) = &step.reason {
        line.push_str(&format!(" ({reason})"));
    }
    match (&step.by_command, step.by_pid) {
        (Some(command), Some(pid)) => line.push_str(&format!(" by {command}, pid {pid}")),
        (Some(command), None) => line.push_str(&format!(" by {command}")),
        (None, Some(pid)) => line.push_str(&format!(" by pid {pid}")),
        (None, None) => {}
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_groups_leave_no_gap() {
        let mut page = Page { lines: Vec::new() };
        page.plain("a", Some("1".to_owned()));
        page.plain("", Some(String::new()));
        page.plain("", Some(String::new()));
        page.data("name", Some("x\ty"));
        page.plain("", Some(String::new()));
        assert_eq!(page.render(), "a     1\n\nname  x\\ty\n");
    }
}
