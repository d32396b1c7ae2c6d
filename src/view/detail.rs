//! The page of `show`: all that is known of one task.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::screen::Screen;
use super::tasks::{style, why};
use super::text::{ago, cells, duration, money, one_line, signal, since};
use crate::task::{Invalidation, Session, Status, Task, Transition};

/// What is kept of a task beside its row.
#[derive(Debug, Default, Serialize)]
pub struct History {
    pub transitions: Vec<Transition>,
    /// The conversation that the task's key continues now.
    pub session: Option<Session>,
    /// The conversations that this task took out of use.
    pub invalidations: Vec<Invalidation>,
}

/// One line a fact; what is not known has none. Long text is not cut.
pub fn detail(task: &Task, history: &History, now: Timestamp, screen: Screen) -> String {
    let mut page = Page { lines: Vec::new() };
    who(&mut page, task);
    page.plain("", Some(String::new()));
    end(&mut page, task, now, screen);
    page.plain("", Some(String::new()));
    used(&mut page, task);
    page.plain("", Some(String::new()));
    processes(&mut page, task);
    page.plain("", Some(String::new()));
    told(&mut page, task, history);
    page.render()
}

struct Page {
    lines: Vec<(&'static str, String)>,
}

impl Page {
    /// Text that bookend made itself.
    fn plain(&mut self, name: &'static str, value: Option<String>) {
        self.lines.extend(value.map(|v| (name, v)));
    }

    /// Text of unknown origin.
    fn data(&mut self, name: &'static str, value: Option<&str>) {
        self.plain(name, value.map(|v| one_line(v).into_owned()));
    }

    /// Names in one column, values in the other; no empty line beside another, nor at the end.
    fn render(self) -> String {
        let wide = self.lines.iter().map(|(name, _)| cells(name)).max().unwrap_or(0);
        let mut text = String::new();
        for (name, value) in self.lines {
            if !name.is_empty() || !value.is_empty() {
                text.push_str(format!("{name:wide$}  {value}").trim_end());
                text.push('\n');
            } else if !text.ends_with("\n\n") {
                text.push('\n');
            }
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
        text
    }
}

fn who(page: &mut Page, task: &Task) {
    page.data("task", Some(&task.id));
    page.data("key", task.key.as_deref());
    page.data("repo", task.repo.as_deref());
    page.plain("issue", task.issue_number.map(|n| format!("#{n}")));
    page.data("user", task.user.as_deref());
    let agent = task.agent.as_deref().map(|agent| match task.agent_type.as_deref() {
        Some(kind) if kind != agent => format!("{agent} ({kind})"),
        _ => agent.to_owned(),
    });
    page.data("agent", agent.as_deref());
    page.data("model", task.model.as_deref());
    page.data("provider", task.provider.as_deref());
    page.data("command", task.argv.as_deref().map(command_line).as_deref());
    let typed = task.user_argv.as_deref().filter(|_| task.user_argv != task.argv);
    page.data("as typed", typed.map(command_line).as_deref());
    page.data("in", task.cwd.as_deref());
    page.data("inside task", task.parent_id.as_deref());
}

fn end(page: &mut Page, task: &Task, now: Timestamp, screen: Screen) {
    let word = screen.paint(style(task.status), task.status.as_str());
    let why = why(task);
    page.plain("status", Some(if why.is_empty() { word } else { format!("{word} ({why})") }));
    page.data("error", task.error.as_deref());
    let dated = |time: &String| format!("{} ({})", one_line(time), ago(time, now));
    page.plain("started", Some(dated(&task.started_at)));
    page.plain("finished", task.finished_at.as_ref().map(dated));
    let ran = match task.status {
        Status::Running => since(&task.started_at, now),
        _ => task.duration_ms,
    };
    page.plain("ran for", ran.map(duration));
    let unseen = task.last_seen_at.as_ref().filter(|_| task.finished_at.is_none());
    page.plain("last seen", unseen.map(dated));
    page.plain("exit code", task.exit_code.map(|n| n.to_string()));
    page.plain("killed by", task.term_signal.map(signal));
    page.plain("stopped by", stopped_by(task));
    page.data("end known by", task.end_source.as_deref());
    page.plain("out of memory", task.oom_killed.filter(|killed| *killed).map(|_| "yes".to_owned()));
    page.data("left-overs", task.leftovers.as_ref().map(Value::to_string).as_deref());
}

pub fn stopped_by(task: &Task) -> Option<String> {
    let name = signal(task.stop_signal?);
    Some(match (task.stop_sender_pid, task.stop_sender_uid) {
        (Some(0), _) => format!("{name} from the kernel"),
        (Some(pid), Some(uid)) => format!("{name} from pid {pid} (uid {uid})"),
        _ => name,
    })
}

fn used(page: &mut Page, task: &Task) {
    page.plain("cost", task.cost_usd.map(money));
    page.plain("turns", task.turns.map(|n| n.to_string()));
    page.plain("tokens", tokens(task));
    page.plain("processor", task.cpu_ms.map(duration));
    page.plain("memory", task.max_rss_kib.map(|kib| format!("{} MiB at most", (kib + 1023) / 1024)));
    page.data("in flight", task.tool_in_flight.as_deref());
    page.data("artifacts", task.artifacts.as_ref().map(Value::to_string).as_deref());
}

/// `12 in, 34 out`, as far as they are known.
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

fn processes(page: &mut Page, task: &Task) {
    page.plain("agent pid", task.agent_pid.map(|n| n.to_string()));
    page.plain("supervisor", task.supervisor_pid.map(|n| n.to_string()));
    page.data("host", task.host.as_deref());
    page.data("cgroup", task.cgroup.as_deref());
}

fn told(page: &mut Page, task: &Task, history: &History) {
    page.data("session", task.session_id.as_deref());
    page.data("resumed from", task.resumed_from.as_deref());
    let lost = task.context_lost.filter(|lost| *lost);
    page.plain("context", lost.map(|_| "lost: the agent did not go on with that session".to_owned()));
    let next = history.session.as_ref().filter(|_| task.key.is_some());
    page.data("key resumes", next.map(|s| s.session_id.as_str()));
    for gone in &history.invalidations {
        page.data("taken out", Some(&format!("{}: {}", gone.session_id, gone.reason)));
    }
    let delivery =
        task.delivery_status.as_ref().map(|s| format!("{s} (attempts: {})", task.delivery_attempts));
    page.data("delivery", delivery.as_deref());
    page.data("kept until", task.cleanup_after.as_deref());
    for (nth, step) in history.transitions.iter().enumerate() {
        page.data(if nth == 0 { "history" } else { "" }, Some(&transition(step)));
    }
}

fn transition(step: &Transition) -> String {
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

/// Words as a shell would take them back.
fn command_line(words: &[String]) -> String {
    words.iter().map(|w| quoted(w)).collect::<Vec<_>>().join(" ")
}

pub fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_can_be_given_to_a_shell_again() {
        let words = ["claude", "-p", "it's ü", ""].map(str::to_owned);
        assert_eq!(command_line(&words), r"claude -p 'it'\''s ü' ''");
    }

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
