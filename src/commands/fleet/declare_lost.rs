//! `bookend fleet declare-lost`: a person vouches that a host is off, so that its keys become free.

use std::io::{self, IsTerminal};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::database::{self, block_on, connect, find};
use super::options::DeclareLostOptions;
use crate::error::{Error, Kind};
use crate::fleet::{FleetConnection, FleetNode, NodeState};
use crate::sys::stdout::print;
use crate::task::RecordedTime;
use crate::view;

/// The answer of `declare_lost`.
#[derive(Debug, Deserialize, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
enum LostAnswer {
    Lost {
        host: String,
        tasks: Vec<String>,
        released: Vec<String>,
    },
    /// It was renewed since it was looked at.
    Moved,
    AlreadyLost,
    Left,
    Unknown,
}

/// What a host has in the fleet, and loses if it is declared lost.
#[derive(Debug, Deserialize)]
struct HostHoldings {
    /// The tasks that count as running there.
    tasks: Vec<String>,
    keys: Vec<String>,
}

const DECLARE_LOST: &str = "SELECT bookend.declare_lost($1, $2, $3)";
const HOLDINGS: &str = "
    SELECT jsonb_build_object(
        'tasks', (SELECT coalesce(jsonb_agg(id ORDER BY started_at, id), '[]')
                  FROM bookend.task_history WHERE node = $1 AND status = 'running'),
        'keys', (SELECT coalesce(jsonb_agg(key ORDER BY key), '[]') FROM bookend.claim WHERE node = $1))";

pub(super) fn declare_lost(options: &DeclareLostOptions, ledger: Option<&Path>) -> Result<String, Error> {
    let url = database::url(ledger)?;
    let answer = block_on(async {
        let connection = connect(&url).await?;
        let nodes = connection.nodes().await?;
        let node = find(&nodes, &options.host)?;
        confirm(node, options, &connection).await?;
        // A host that has renewed its lease while a person decided is not lost.
        let arguments = [node.id.into(), node.epoch.into(), node.seq.into()];
        let called = connection.call(DECLARE_LOST, &arguments).await;
        called.map_err(|e| e.of_operator(connection.user()))
    })?;
    let refused = |kind, why: &str| {
        let message = format!("{} was not declared lost: {why}", options.host);
        Err(Error::new(kind, message).hint("look at it again with `fleet status`"))
    };
    let (host, tasks, released) = match &answer {
        LostAnswer::Lost { host, tasks, released } => (host, tasks, released),
        LostAnswer::Moved => return refused(Kind::Busy, "it has renewed its lease meanwhile"),
        LostAnswer::AlreadyLost => return refused(Kind::Nothing, "it has been declared lost meanwhile"),
        LostAnswer::Left => return refused(Kind::Nothing, "it has left the fleet meanwhile"),
        LostAnswer::Unknown => return refused(Kind::Nothing, "it is no longer in the fleet"),
    };
    if options.json {
        return Ok(view::pretty(&answer));
    }
    let host = view::one_line(host);
    let (tasks, keys) = (named(&short(tasks), "task", " interrupted"), named(released, "key", " released"));
    Ok(format!("{host} is declared lost: {tasks}, {keys}\n"))
}

/// Fails unless the host is unreachable and a person says that it is off.
async fn confirm(
    node: &FleetNode,
    options: &DeclareLostOptions,
    connection: &FleetConnection,
) -> Result<(), Error> {
    let host = view::one_line(&node.host);
    if node.state == NodeState::Reachable {
        return Err(Error::new(Kind::Busy, format!("{host} is reachable: it renews its lease"))
            .hint("stop its monitor first, or switch the machine off"));
    }
    if options.yes {
        return Ok(());
    }
    let HostHoldings { tasks, keys } = connection.call(HOLDINGS, &[node.id.into()]).await?;
    let is_one = tasks.len() == 1;
    let (tasks, keys) = (named(&short(&tasks), "task", ""), named(&keys, "key", ""));
    let danger = "an agent that still runs there would work beside the next one";
    if !io::stdin().is_terminal() {
        let count = if is_one { "counts" } else { "count" };
        return Err(Error::usage(format!(
            "declaring {host} lost needs --yes: {tasks} {count} as running there, with {keys}"
        ))
        .hint(format!("make sure that the machine is off: {danger}")));
    }
    let since = node.since.map(|since| format!(" since {}", view::when(&RecordedTime::from(since))));
    print(&format!(
        "{host} is {}{}\n  running there: {tasks}\n  held there: {keys}\nMake sure that the machine is off: \
         {danger}.\nIs it off? [y/N] ",
        node.state.as_str(),
        since.unwrap_or_default(),
    ))?;
    let mut answer = String::new();
    let read = io::stdin().read_line(&mut answer);
    read.map_err(|e| Error::failed("reading the answer").caused_by(e))?;
    match answer.trim().to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Error::new(Kind::Nothing, format!("{host} was not declared lost, as you answered"))),
    }
}

/// Ids as `list` shows them.
fn short(ids: &[String]) -> Vec<&str> {
    view::short_ids(&ids.iter().map(String::as_str).collect::<Vec<_>>())
}

/// A number of things and their names: `2 tasks (a, b)`.
fn named(names: &[impl AsRef<str>], what: &str, done: &str) -> String {
    let plural = if names.len() == 1 { "" } else { "s" };
    let shown: Vec<_> = names.iter().map(|name| view::one_line(name.as_ref())).collect();
    let shown = if shown.is_empty() { String::new() } else { format!(" ({})", shown.join(", ")) };
    format!("{} {what}{plural}{done}{shown}", names.len())
}
