//! Why the cost or the tokens of a task are not known.

use std::ffi::OsString;

use crate::agent::{self, Adapter, OutputMode, SessionPlace};
use crate::task::{Status, Task};
use crate::view;

/// Why figures are unknown; `None`: they are known.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct UnknownFigures {
    pub cost: Option<String>,
    pub tokens: Option<String>,
}

pub fn figures(adapter: Option<&dyn Adapter>, task: &Task) -> UnknownFigures {
    let has_tokens = task.input_tokens.is_some() || task.output_tokens.is_some();
    let Some(adapter) = adapter.filter(|a| a.tracks_sessions()) else {
        // One line is enough for a program that is not an agent.
        let program = task.agent.as_deref().unwrap_or("this program");
        let why = || format!("bookend reads no figures from {program}");
        return UnknownFigures { cost: task.cost_usd.is_none().then(why), tokens: None };
    };
    let reports = adapter.reports();
    let kind = adapter.agent_type();
    let why = |what: &str, reported: bool| match reported {
        false => format!("{kind} does not report {what}"),
        true => unread(adapter, task),
    };
    UnknownFigures {
        cost: task.cost_usd.is_none().then(|| why("it", reports.cost)),
        tokens: (!has_tokens).then(|| why("them", reports.tokens)),
    }
}

/// Why bookend has not read the figures of an agent that reports them.
fn unread(adapter: &dyn Adapter, task: &Task) -> String {
    let not_started = matches!(task.reason.as_deref(), Some("prepare" | "spawn"));
    if not_started || task.status == Status::AbortedNoSkill {
        return "the agent was not started".to_owned();
    }
    let use_json = adapter.json_option().map(|option| format!("; use {option}")).unwrap_or_default();
    let words: Vec<OsString> = task.argv.iter().flatten().map(OsString::from).collect();
    let Ok(recognised) = agent::recognise(&words, task.agent_type.as_deref()) else {
        return "bookend does not know this agent any more".to_owned();
    };
    if let SessionPlace::Untracked(why) = &recognised.place {
        return format!("the agent's own arguments are not known ({})", view::one_line(&why.to_string()));
    }
    let own = &words[recognised.args_start.min(words.len())..];
    let is_streamed = || task.run_options.as_ref().and_then(|o| o.get("read_along")) == Some(&true.into());
    match (adapter.parse(own, true).mode, adapter.parse(own, false).mode) {
        (OutputMode::Interactive, OutputMode::Interactive) => {
            "an interactive session reports none".to_owned()
        }
        (OutputMode::Interactive, _) => format!("an interactive session has none, nor has text{use_json}"),
        (OutputMode::Text, _) => format!("text output has none{use_json}"),
        (OutputMode::StreamJson, _) if !is_streamed() => {
            "bookend does not read output that goes to a terminal".to_owned()
        }
        (OutputMode::Json | OutputMode::StreamJson, _) => match task.status {
            Status::Running => "the agent has not reported it yet".to_owned(),
            Status::Success => "the agent did not report it".to_owned(),
            _ => "the run ended before the agent reported it".to_owned(),
        },
    }
}
